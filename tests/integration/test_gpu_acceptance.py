"""The command for machines with GPUs, as far as it goes without one: its configs are valid, its
checks can fail.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from isometry.config.checks import validate
from isometry.config.compose import resolved

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_acceptance.py"


@pytest.fixture
def acceptance():
    spec = importlib.util.spec_from_file_location("gpu_acceptance", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRAINING = [
    "double_precision",
    "single_precision",
    "float16",
    "float16_fused",
    "bfloat16",
    "clipped",
    "checkpointed",
]
TRAINING += ["compiled", "one_process", "data_parallel"]


def frame(acceptance, **columns):
    columns = dict.fromkeys(acceptance.COLUMNS, 1.0) | columns
    return pd.DataFrame(
        {"step": [0, 0], "layer": [1, 2], **{name: [value, 1.0] for name, value in columns.items()}}
    )


@pytest.mark.parametrize("name", TRAINING)
def test_each_check_trains_two_valid_configs_and_fails_when_they_differ(
    name, acceptance, make_config, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check = getattr(acceptance, name)
    trained = []

    def run(folder, *overrides, second=1.0):
        config = make_config(*acceptance.COMMON, *overrides)
        validate(resolved(config))
        trained.append(config)
        return frame(acceptance, weight_grad_norm=1.0 if len(trained) == 1 else second)

    monkeypatch.setattr(acceptance, "run", run)
    result, words = acceptance.judge(check)
    assert (result, words[:15]) == ("PASS", "differs by 0.0e")
    assert trained[0] != trained[1]
    trained.clear()
    monkeypatch.setattr(acceptance, "run", lambda *words: run(*words, second=2.0))
    assert acceptance.judge(check)[0] == "FAIL"


OTHERS = {"skipped", "vanishing", "no_synchronization", "resumed", "swept", "diverged", "evaluated"}


def test_every_check_is_tried_here_or_needs_a_device(acceptance):
    names = {check.__name__ for check in acceptance.CHECKS}
    assert names == {*TRAINING, *OTHERS}
    # one line of the table
    assert all(re.fullmatch(r"\S.*\S", acceptance.title_of(c)) for c in acceptance.CHECKS)


def test_a_skipped_step_passes_and_one_that_is_not_fails(acceptance, monkeypatch):
    monkeypatch.setattr(acceptance, "DEVICE", "cpu")
    assert acceptance.judge(acceptance.skipped)[0] == "PASS"
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", no_scale(torch.amp.GradScaler.__init__))
    assert acceptance.judge(acceptance.skipped) == (
        "FAIL",
        "AssertionError: no gradient overflowed",
    )


def no_scale(original):
    return lambda self, device, scale: original(self, device, 1.0)


def test_vanished_gradients_must_be_small_and_not_zero(acceptance, monkeypatch):
    for first, wanted in ((1e-25, "PASS"), (0.0, "FAIL"), (1e-3, "FAIL")):
        monkeypatch.setattr(
            acceptance, "run", lambda *words, first=first: frame(acceptance, backprop_norm=first)
        )
        assert acceptance.judge(acceptance.vanishing)[0] == wanted


def test_what_a_check_asks_for_comes_after_what_all_share(acceptance, tmp_path):
    """Of two overrides of one key the last one counts; flags come before them all."""
    command = acceptance.command_of(tmp_path, "-m", "model.depth=40", "seed=0,1")
    assert command[1:3] == ["train", "-m"]
    assert command.index("model.depth=10") < command.index("model.depth=40")


def on_the_cpu(acceptance, monkeypatch):
    """What `train` would run on a GPU."""
    original = acceptance.train

    def train(folder, *words, **settings):
        return original(
            folder,
            *("trainer=cpu" if word == "trainer=gpu" else word for word in words),
            **settings,
        )

    monkeypatch.setattr(acceptance, "train", train)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resumed", "diverged"])
def test_a_check_of_the_command_line_passes_on_the_cpu(name, acceptance, monkeypatch):
    on_the_cpu(acceptance, monkeypatch)
    monkeypatch.setattr(acceptance, "LONG", 300)
    assert acceptance.judge(getattr(acceptance, name))[0] == "PASS"


@pytest.mark.parametrize("name", ["resumed", "swept"])
def test_other_numbers_than_those_of_the_undisturbed_run_fail(name, acceptance, monkeypatch):
    values = iter(range(1, 9))
    found = {"resumed": [["a"], ["b"], ["b"]], "swept": [["a", "b"], ["a"], ["b"]]}[name]
    runs = iter([[Path(path) for path in paths] for paths in found])
    monkeypatch.setattr(acceptance, "train", lambda *words, **settings: next(runs))
    monkeypatch.setattr(
        acceptance, "signals_of", lambda run: frame(acceptance, weight_grad_norm=next(values))
    )
    assert acceptance.judge(getattr(acceptance, name))[0] == "FAIL"


def test_another_address_of_an_explosion_fails(acceptance, monkeypatch):
    def train(folder, *words):
        folder.mkdir()
        account = {"kind": "forward", "step": 2, "batch": 2, "layer": 2 + (folder.name == "cpu")}
        (folder / "divergence.json").write_text(json.dumps(account))
        return [folder]

    monkeypatch.setattr(acceptance, "train", train)
    result, words = acceptance.judge(acceptance.diverged)
    assert result == "FAIL"
    assert "on the GPU" in words


def test_one_gpu_skips_the_check_for_two(acceptance, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert acceptance.judge(acceptance.data_parallel) == ("SKIP", "needs 2 GPUs")


def test_without_a_gpu_it_says_so(acceptance, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_acceptance.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert acceptance.main() == 2
    assert capsys.readouterr().err == "no GPU that torch can use is visible: nothing was checked\n"


@pytest.mark.slow
def test_a_run_that_fails_is_a_failed_check_with_its_message(acceptance, monkeypatch):
    monkeypatch.setattr(acceptance, "COMMON", ["model.depth=-1"])
    result, words = acceptance.judge(acceptance.double_precision)
    assert result == "FAIL"
    assert "model.depth=-1" in words
