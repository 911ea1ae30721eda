"""The parts of `scripts/benchmark.py` that train: it is run seldom, and what it calls changes."""

from __future__ import annotations

import sys

import pytest

from commands import ROOT, composed
from isometry.console import quiet

sys.path.append(str(ROOT / "scripts"))

import benchmark

WORDS = ["model.depth=3", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]


@pytest.mark.parametrize("train", ["train_ours", "train_bare", "train_by_hand"])
def test_each_way_to_train_an_epoch(train):
    quiet()
    data = benchmark.synthetic_data(count=600)
    data.setup()
    config = composed(*WORDS, "trainer.limit_val_batches=0")
    assert 0 < getattr(benchmark, train)(config, data) < 60


def test_the_peak_of_a_process_is_its_own(tmp_path):
    """And not that of the process which starts it, which is what the system counts."""
    held = bytearray(300 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    _, peak = benchmark.process([sys.executable, "-S", "-c", "pass"], str(tmp_path))
    assert 1 < peak < 100
    _, peak = benchmark.process([sys.executable, "-S", "-c", "b'x' * 2**27"], str(tmp_path))
    assert peak > 128
