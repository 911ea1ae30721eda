"""Sums of an epoch: against plain arithmetic, and on a pretended GPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from isometry.training import epoch_sums
from isometry.training.epoch_sums import EpochSums

SIZES = [7] * 40 + [3]


def batches():
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        yield (
            torch.randn(size, 4, generator=generator),
            torch.randint(0, 4, (size,), generator=generator),
        )


@pytest.mark.parametrize("start", [None, [10.0, 2.0, 5.0]])
def test_sums_are_those_of_all_examples(start):
    total = EpochSums(None if start is None else torch.tensor(start, dtype=torch.float64))
    loss, correct, count = start or (0.0, 0, 0)
    for logits, labels in batches():
        total.add(logits, labels, F.cross_entropy(logits, labels))
        loss += F.cross_entropy(logits.double(), labels, reduction="sum").item()
        correct = correct + int((logits.argmax(1) == labels).sum())
        count = count + len(labels)
    # 1e-6: the mean loss of a batch is a float32
    assert total.totals().tolist() == pytest.approx([loss, correct, count], rel=1e-6)


def test_a_share_without_examples_counts_for_nothing():
    """Of a short last batch a process may have none; its mean loss is nan."""
    total = EpochSums()
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5) % 4
    total.add(logits, labels, F.cross_entropy(logits, labels))
    before = total.totals().tolist()
    total.add(logits[:0], labels[:0], torch.tensor(torch.nan))
    assert total.totals().tolist() == before


def test_nothing_is_known_before_the_first_batch():
    assert EpochSums().totals() is None


def test_sums_of_a_checkpoint_are_on_the_cpu_and_go_on_where_the_training_is():
    """Lightning reads a checkpoint before it moves the network: a resume in the middle of an epoch
    failed on every GPU.
    """
    with FakeTensorMode():
        total = EpochSums(torch.zeros(3, dtype=torch.float64))
        for _ in range(epoch_sums.BATCHES + 1):
            total.add(
                torch.empty(7, 4, device="cuda"),
                torch.empty(7, device="cuda").long(),
                torch.empty((), device="cuda"),
            )
        assert total.totals().device.type == "cuda"


def test_positions_without_a_label_are_not_asked_for():
    """Loss and accuracy of texts are means over the characters that have a label."""
    torch.manual_seed(0)
    sums = EpochSums()
    losses, rights, asked = [], [], 0
    for size in (4, 3):
        logits = torch.randn(size, 5, 6)
        labels = torch.randint(5, (size, 6))
        labels[:, : size - 1] = -100
        sums.add(logits, labels, torch.nn.functional.cross_entropy(logits, labels))
        kept = labels >= 0
        logs = logits.log_softmax(1).transpose(1, 2)[kept]
        losses.append(-logs.gather(1, labels[kept][:, None]).sum())
        rights.append((logs.argmax(1) == labels[kept]).sum())
        asked += int(kept.sum())
    loss, correct, count = sums.totals().tolist()
    assert count == asked
    assert correct == sum(rights)
    assert loss == pytest.approx(float(sum(losses)), rel=1e-6)
