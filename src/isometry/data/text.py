"""Short texts with an answer, made on the fly: what a character-level decoder learns from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry.data.in_memory import SPLIT_SEED, InMemoryData
from isometry.data.sources import Images
from isometry.errors import bad_value

CHARACTERS = "0123456789+="
IGNORED = -100
"""The label of a position that is not asked for, as `cross_entropy` has it."""

Digits = NDArray[np.int64]


def _copy(digits: Digits) -> tuple[Digits, Digits]:
    """1234= and 1234."""
    return _with_end(digits), digits


def _reverse(digits: Digits) -> tuple[Digits, Digits]:
    """1234= and 4321."""
    return _with_end(digits), digits[:, ::-1]


def _addition(digits: Digits) -> tuple[Digits, Digits]:
    """12+34= and 046; both numbers have half of the digits, and leading zeros."""
    size = digits.shape[1] // 2
    place = 10 ** np.arange(size - 1, -1, -1)
    left, right = digits[:, :size], digits[:, size : 2 * size]
    total = left @ place + right @ place
    answer = total[:, None] // 10 ** np.arange(size, -1, -1) % 10
    plus = np.full((len(digits), 1), CHARACTERS.index("+"))
    return _with_end(np.concatenate([left, plus, right], 1)), answer


def _with_end(digits: Digits) -> Digits:
    end = np.full((len(digits), 1), CHARACTERS.index("="))
    return np.concatenate([digits, end], 1)


TASKS: dict[str, Callable[[Digits], tuple[Digits, Digits]]] = {
    "copy": _copy,
    "reverse": _reverse,
    "addition": _addition,
}
"""Digits [N, n] to question and answer, [N, characters] each."""


class Tokens:
    """What `Normalization` is for images: uint8 to the whole numbers that an embedding takes."""

    def to(self, device: torch.device) -> Tokens:
        return self

    def __call__(self, texts: Tensor) -> Tensor:
        return texts.long()


class TextData(InMemoryData):
    """Texts [N, positions] and the characters that follow, [N, positions]; only those of the answer
    are asked for. No text of the test split is trained on.

    Args:
        task: a key of `TASKS`.
        digits: random digits of a text; an even number for `addition`.
        examples: texts for training and validation.
        test_size: texts of the test split.
        batch_size, val_size, eval_batch_size, seed, train_size: as of `InMemoryData`.

    Raises:
        UserError: for a number of digits that the task does not take, or that has too few texts.
    """

    def __init__(
        self,
        task: str,
        digits: int,
        examples: int,
        test_size: int,
        batch_size: int,
        val_size: int,
        eval_batch_size: int,
        seed: int,
        train_size: int | None,
    ):
        if task not in TASKS:
            raise bad_value("data.task", task, f"allowed are {', '.join(TASKS)}")
        if task == "addition" and digits % 2:
            raise bad_value("data.digits", digits, "must be even: half for each number")
        if 10**digits < 2 * (examples + test_size):
            raise bad_value("data.digits", digits, "has too few texts for data.examples")
        self.task = task
        self.sizes = (digits, examples, test_size)
        super().__init__(task, batch_size, val_size, eval_batch_size, seed, train_size)

    @cached_property
    def images(self) -> Images:  # type: ignore[override]
        """The texts, which are in no file: drawn with a fixed seed."""
        digits, examples, test_size = self.sizes
        rng = np.random.default_rng(SPLIT_SEED)
        drawn = np.unique(rng.integers(0, 10, (2 * (examples + test_size), digits)), axis=0)
        chosen = rng.permutation(drawn)[: examples + test_size]
        question, answer = TASKS[self.task](chosen)
        text = torch.from_numpy(np.concatenate([question, answer], 1))
        labels = text[:, 1:].clone()
        labels[:, : question.shape[1] - 1] = IGNORED
        texts = text[:, :-1].to(torch.uint8)
        return Images(texts[:examples], labels[:examples], texts[examples:], labels[examples:])

    @property
    def num_classes(self) -> int:
        return len(CHARACTERS)

    @property
    def vocabulary(self) -> int:
        """Characters that a text may hold."""
        return len(CHARACTERS)

    @cached_property
    def normalization(self) -> Tokens:  # type: ignore[override]
        return Tokens()

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        order = torch.arange(len(self.images.train_labels))  # they are in random order
        return order[self.val_size :][: self.train_size], order[: self.val_size]
