"""`isometry.Signals` in a LightningModule that knows nothing of isometry."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as lightning
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import isometry
from isometry.errors import UserError
from isometry.training.signal_log import SignalLog
from isometry.training.signal_options import signal_options

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`srun` command"),
]


class Theirs(lightning.LightningModule):
    """Layers of its own, φ as a function, dropout; clipped, logged, Nesterov."""

    def __init__(self, poison_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)
        self.poison_at = poison_at

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.head(self.drop(F.gelu(self.second(x))))

    def training_step(self, batch, batch_idx):
        x, y = batch
        if batch_idx == self.poison_at:
            x = x * math.inf
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)


class Wrapped(Theirs):
    """The network one level down, as most people have it."""

    def __init__(self):
        super().__init__()
        del self.first, self.second, self.drop, self.head
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.network(x))


def fit(module, folder, callbacks, checkpoint=None, **settings):
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(
        torch.randn(20, 6, generator=generator), torch.randint(0, 3, (20,), generator=generator)
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    settings = {"max_epochs": 2, "logger": False, **settings}
    trainer = lightning.Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )
    trainer.fit(module, DataLoader(data, batch_size=4), ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize("module", [Theirs, Wrapped])
def test_every_row_is_the_gradient_that_autograd_has(module, tmp_path):
    seen = []

    class Reads(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            weights = [p for p in pl_module.parameters() if p.dim() == 2]
            seen.append([p.grad.norm().item() for p in weights])

    signals = isometry.Signals(every_n_steps=1)
    fit(module(), tmp_path, [Reads(), signals], gradient_clip_val=0.01)
    frame = signals.frame()
    steps = frame.pivot(index="step", columns="layer", values="weight_grad_norm")
    assert steps.shape == (11, 3)  # the last row is that of the final weights
    torch.testing.assert_close(
        torch.tensor(steps.to_numpy()[:10], dtype=torch.float64),
        torch.tensor(seen, dtype=torch.float64),
        rtol=1e-6,  # of the float32 reference
        atol=0,
    )
    first = frame[(frame.step == 0)].set_index("kind")
    assert (first["preactivation_var"] > 0).all()
    assert (first["backprop_norm"] > 0).all()
    assert first["saturation"].notna().tolist() == [True, True, False]  # tanh, gelu, none
    clipped = frame[frame.step == 3]["weight_grad_norm_clipped"]
    assert clipped.pow(2).sum() ** 0.5 < 0.0100001


def test_the_training_is_the_same_without_it(tmp_path):
    weights = []
    for callbacks in ([], [isometry.Signals(every_n_steps=2)]):
        module = Theirs()
        fit(module, tmp_path, callbacks, accumulate_grad_batches=2)
        weights.append(module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "configure_gradient_clipping" not in vars(module)


def test_rows_lie_in_the_loggers_folder_and_a_folder_of_rows_is_not_written_over(tmp_path):
    logger = CSVLogger(tmp_path, name="theirs")
    fit(Theirs(), tmp_path, [isometry.Signals()], logger=logger)
    assert list((tmp_path / "theirs" / "version_0" / "signals.parquet").glob("*.parquet"))
    signals = isometry.Signals(tmp_path / "theirs" / "version_0")
    with pytest.raises(UserError, match=r"signals\.parquet holds the rows of another training"):
        fit(Theirs(), tmp_path, [signals])


def test_a_training_that_goes_on_measures_its_later_rows_again(tmp_path, monkeypatch):
    """Every process finds the rows; only the first of them drops any."""
    first = isometry.Signals(tmp_path / "rows", every_n_steps=1)
    trainer = fit(Theirs(), tmp_path, [first], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = isometry.Signals(tmp_path / "rows", every_n_steps=1)
    fit(Theirs(), tmp_path, [again], checkpoint=tmp_path / "half.ckpt")
    frame = again.frame()
    assert frame["step"].tolist() == [step for step in range(11) for _ in range(3)]
    assert frame["displacement"].notna().all()  # from the weights of step 0
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    other = SignalLog(signal_options({}))
    other.begin(tmp_path / "rows", 5)
    assert len(other.frame()) == len(frame)


def test_a_step_that_went_wrong_is_replayed_without_logging_twice(tmp_path):
    signals = isometry.Signals(every_n_steps=1000, flush_every=4)
    fit(Theirs(poison_at=2), tmp_path, [signals])
    assert signals.divergence.step == 2
    assert signals.divergence.forward_layer == 1
    assert "log" not in vars(signals._trainer.lightning_module)


def manual(module):
    module.automatic_optimization = False


def scripted(module):
    module.head = torch.jit.script(nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (manual, "automatic_optimization is False"),
        (scripted, "head is a ScriptModule"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit.script
def test_what_cannot_be_measured_is_refused_by_name(change, message, tmp_path):
    module = Theirs()
    change(module)
    with pytest.raises(UserError, match=message):
        fit(module, tmp_path, [isometry.Signals()])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"every": 3}, "every=3: allowed are every_n_steps, flush_every"),
        ({"every_n_steps": 0}, "every_n_steps=0 must be"),
        ({"log_columns": ["loss"]}, "log_columns"),
    ],
)
def test_an_option_that_is_none(chosen, message):
    with pytest.raises(UserError, match=message):
        isometry.Signals(**chosen)


TWO_PROCESSES = """
import os, sys, warnings
import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
import isometry
from test_anywhere import Theirs

warnings.simplefilter("ignore")


class Same(Theirs):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Identity()
        self.calls = 0

    def training_step(self, batch, batch_idx):
        self.calls += 1
        return super().training_step(batch, batch_idx)


processes, path = int(sys.argv[1]), sys.argv[2]
generator = torch.Generator().manual_seed(1)
x = torch.randn(16, 6, generator=generator).double()
data = TensorDataset(x, torch.randint(0, 3, (16,), generator=generator))
rank = int(os.environ.get("LOCAL_RANK", 0))
several = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
trainer = lightning.Trainer(
    max_epochs=1, callbacks=[signals := isometry.Signals(every_n_steps=1)], accelerator="cpu",
    precision="64-true", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
    **(several if processes == 2 else {"devices": 1, "accumulate_grad_batches": 2}),
)
sampler = DistributedSampler(data, 2, rank, shuffle=False) if processes == 2 else None
module = Same()
trainer.fit(module, DataLoader(data, batch_size=4, sampler=sampler))
assert module.calls == 4 // processes, module.calls  # the layers are found without another step
if trainer.is_global_zero:
    signals.frame().to_pickle(path)
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(tmp_path):
    """Lightning sends the training step through the module's own forward pass there."""
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    frames = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.pickle"
        subprocess.run(
            [sys.executable, "script.py", str(processes), str(path)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=120,
        )
        frames.append(pd.read_pickle(path))
    one, two = frames
    assert one["name"].unique().tolist() == ["first", "second", "head"]
    pd.testing.assert_frame_equal(one, two, rtol=1e-9, atol=1e-15)
