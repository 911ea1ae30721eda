"""Texts made on the fly: questions, answers, splits."""

import pytest
import torch

from commands import composed
from isometry.data.text import CHARACTERS, IGNORED
from isometry.errors import UserError
from isometry.training.build import build_data


def words_of(data, split="train"):
    texts = getattr(data.images, f"{split}_images")
    labels = getattr(data.images, f"{split}_labels")
    for text, label in zip(texts.tolist(), labels.tolist(), strict=True):
        asked = [index for index, value in enumerate(label) if value != IGNORED]
        question = "".join(CHARACTERS[c] for c in text[: asked[0] + 1])
        answer = "".join(CHARACTERS[label[index]] for index in asked)
        # what is asked for is what comes next
        assert text[asked[0] + 1 :] == label[asked[0] : -1]
        yield question, answer


RIGHT = {
    "copy": lambda question: question[:-1],
    "reverse": lambda question: question[-2::-1],
    "addition": lambda question: f"{sum(map(int, question[:-1].split('+'))):04d}",
}


@pytest.mark.parametrize("task", RIGHT)
def test_answers_are_right(task):
    data = build_data(composed(f"data={task}", "data.examples=600", "data.test_size=50"))
    found = list(words_of(data))
    assert len(found) == 600
    for question, answer in found:
        assert answer == RIGHT[task](question)


def test_no_text_of_the_test_is_trained_on():
    data = build_data(composed("data=addition"))
    train, test = (set(words_of(data, split)) for split in ("train", "test"))
    assert len(train) == 6000
    assert not train & test


def test_batches_are_whole_numbers_and_splits_are_disjoint():
    data = build_data(composed("data=copy", "data.train_size=1000"))
    data.setup()
    texts, labels = next(iter(data.train_dataloader()))
    assert texts.dtype == labels.dtype == torch.int64
    assert texts.shape == labels.shape == (64, *data.input_shape)
    train, val = data.rows
    assert len(train) == 1000
    assert not set(train.tolist()) & set(val.tolist())


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("data.digits=5", "must be even"),
        ("data.digits=2", "too few texts"),
        ("data.val_size=6000", "between 1 and 5999"),
        ("data.batch_size=9999", "larger than the training set"),
    ],
)
def test_sizes_that_are_not_there(override, word):
    with pytest.raises(UserError, match=word):
        build_data(composed("data=addition", override))
