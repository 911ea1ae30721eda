"""The callback for Hugging Face's `Trainer`, and their models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import isometry
from isometry.errors import UserError
from isometry.training.huggingface import SignalsCallback

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Plain(nn.Module):
    """Layers and nothing else: the norm of all gradients is that over the rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x, labels):
        return {"loss": F.cross_entropy(self.layers(x), labels)}


def examples(count=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    return [{"x": row, "labels": k % 3} for k, row in enumerate(x)]


def fit(model, data, folder, *callbacks, resume=None, **settings):
    arguments = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
        learning_rate=0.1,
        optim="sgd",
        per_device_train_batch_size=4,
        lr_scheduler_type="constant",
        **{"max_steps": 4, "save_strategy": "no", **settings},
    )
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class Clipped(TrainerCallback):
    """The norms of the gradients that the optimizer gets."""

    def __init__(self):
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **given):
        weights = [p for p in model.parameters() if p.dim() == 2]
        self.found.append([p.grad.norm().item() for p in weights])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_before_clipping_are_the_trainers_own(tmp_path, accumulate):
    signals = SignalsCallback(every_n_steps=1)
    clipped = Clipped()
    settings = {"max_grad_norm": 0.05, "gradient_accumulation_steps": accumulate}
    trainer = fit(Plain(), examples(), tmp_path, signals, clipped, **settings)
    frame = signals.signals.frame()
    assert frame["step"].unique().tolist() == [0, 1, 2, 3, 4]
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    for step, whole in enumerate(logged):
        rows = frame[frame.step == step]
        squares = rows["weight_grad_norm"].pow(2) + rows["bias_grad_norm"].pow(2)
        assert math.sqrt(squares.sum()) == pytest.approx(whole, rel=1e-5)
        np.testing.assert_allclose(rows["weight_grad_norm_clipped"], clipped.found[step], rtol=1e-5)
    assert list(tmp_path.glob("signals.parquet/*.parquet"))


def test_a_training_that_goes_on_keeps_the_earlier_rows(tmp_path):
    first = SignalsCallback(every_n_steps=1)
    fit(Plain(), examples(), tmp_path, first, save_strategy="steps", save_steps=2)
    again = SignalsCallback(every_n_steps=1)
    resume = str(tmp_path / "checkpoint-2")
    fit(Plain(), examples(), tmp_path, again, resume=resume)
    frame = again.signals.frame()
    assert frame["step"].tolist() == [step for step in range(5) for _ in range(2)]
    assert frame["displacement"].isna().tolist() == [False] * 4 + [True] * 6


def test_training_is_the_same_with_and_without(tmp_path):
    states = []
    for callbacks in ((), (SignalsCallback(tmp_path / "rows", every_n_steps=2),)):
        model = Plain()
        fit(model, examples(), tmp_path / "out", *callbacks)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_gpt2_of_theirs_by_its_own_layers(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    tokens = torch.randint(32, (16, 8), generator=torch.Generator().manual_seed(2))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    signals = SignalsCallback(every_n_steps=1)
    fit(GPT2LMHeadModel(config), data, tmp_path, signals, max_steps=2)
    frame = signals.signals.frame()
    names = list(frame.loc[frame.step == 0, "name"])
    each = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    blocks = [f"transformer.h.{k}.{name}" for k in range(2) for name in each]
    assert set(blocks) < set(names)
    inside = frame[(frame.step == 0) & frame["name"].isin(blocks)]
    assert (inside["backprop_norm"] > 0).all()
    assert (inside["weight_grad_norm"] > 0).all()
    assert inside["preactivation_var"].notna().all()


def test_checkpointed_blocks_measure_as_if_they_were_not(tmp_path):
    frames = []
    for reentrant in (None, False, True):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2, use_cache=False
        )
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
        model = GPT2LMHeadModel(config).double()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        tokens = torch.randint(32, (4, 8), generator=torch.Generator().manual_seed(2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with isometry.watch(model, every_n_steps=1) as signals:
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
        frames.append(signals.frame())
    columns = [name for name in frames[0].columns if name not in ("name", "kind")]
    for frame in frames[1:]:
        np.testing.assert_allclose(frame[columns], frames[0][columns], rtol=1e-9)


def test_clipping_on_several_processes_is_refused_by_name(tmp_path):
    class Two:
        world_size = 2
        max_grad_norm = 1.0

    with pytest.raises(UserError, match=r"max_grad_norm=1.0 on 2 processes"):
        SignalsCallback(tmp_path).on_train_begin(Two(), None, None)
