"""What bad input gets: exit code 2, one message that names the key, the value and what is allowed,
no half-made run.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from commands import composed
from isometry import cli
from isometry.config.checks import SECTIONS, validate
from isometry.config.compose import compose, conf_dir
from isometry.config.keys import FREE, KEYS
from isometry.config.messages import leaves, options
from isometry.errors import UserError

# arguments, and the words that the message must hold
MISTAKES = [
    (["train", "optimizer=adam", "optimizer.betas=[0.9]"], ["optimizer.betas=[0.9]"]),
    (["train", "activation=elu", "activation.alpha=x"], ["activation.alpha=x"]),
    (["train", "activation=torch_nn", "activation.module=5"], ["=5: must be text"]),
    (["train", "scheduler=step", "scheduler.gamma=1e308"], ["scheduler.gamma=1e+308"]),
    (["train", "threads=99999999999"], ["threads=99999999999"]),
    (["train", "data.seed=null"], ["data.seed=None"]),
    (["train", "trainer.devices=[]"], ["trainer.devices=[]"]),
    (["train", "trainer.accelerator=cpu", "trainer.precision=16-mixed"], ["16-mixed", "bf16"]),
    (["train", "tags=[1]"], ["tags=[1]"]),
    (["train", f"tags=[{'a' * 80}]"], ["tags=", "64"]),
    (["train", f"data.raw_dir={'a' * 900}"], ["data.raw_dir=a", "255"]),
    (["train", f"paths.runs={'a' * 300}"], ["paths.runs=a", "255"]),
    (["eval", "a" * 300], ["run=a", "255"]),
    (
        ["train", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=3"],
        ["data.batch_size=3", "multiple of the 2 processes"],
    ),
    (["train", "trainer.limit_test_batches=0.5"], ["limit_test_batches=0.5", "is none"]),
    (["train", "~model"], ["nothing can be left out"]),
    (["train", "+foo=3"], ["no such key"]),
    (["train", "--resolve"], ["--cfg"]),
    (["train", "modle=vit"], ["modle=vit", "did you mean model?"]),
    (["train", "lr=0.1"], ["lr=0.1", "did you mean optimizer.lr?"]),
    (["train", "activaton=tanh"], ["activaton=tanh", "did you mean activation?"]),
    (["train", "model=mpl"], ["model=mpl", "did you mean mlp?", "convnet"]),
    (["train", "activation=rleu"], ["activation=rleu", "did you mean relu?"]),
    (["train", "data=imagenet"], ["data=imagenet", "mnist_5k"]),
    (["train", "-m", "study=nothing"], ["study=nothing", "vanishing_exploding"]),
    (["train", "experiment=nothing"], ["experiment=nothing", "mnist_mlp"]),
    (["train", "model.dept=30"], ["model.dept=30", "did you mean model.depth?"]),
    (
        ["train", "model=convnet", "model.chanels=3"],
        ["model.chanels=3", "did you mean model.channels?"],
    ),
    (["train", "optimiser.lr=0.1"], ["optimiser.lr=0.1", "did you mean optimizer.lr?"]),
    (["train", "model.depth=0"], ["model.depth=0", "from 1 to 100000"]),
    (["train", "model.depth=deep"], ["model.depth=deep", "whole number"]),
    (["train", "model=convnet", "model.depth=1"], ["model.depth=1", "at least 2"]),
    (["train", "model=convnet", "model.kernel_size=2"], ["model.kernel_size=2", "odd"]),
    (["train", "trainer.max_epochs=-1"], ["trainer.max_epochs=-1", "at least 1"]),
    (["train", "trainer.max_epochs=null"], ["trainer.max_epochs=null", "trainer.max_steps"]),
    (["train", "optimizer.lr=nan"], ["optimizer.lr=nan", "finite"]),
    (["train", "optimizer.lr=-0.1"], ["optimizer.lr=-0.1", "above 0"]),
    (
        ["train", "optimizer=adam", "optimizer.betas=[0.9,2.0]"],
        ["betas=[0.9, 2.0]", "from 0 to below 1"],
    ),
    (["train", "+optimizer.speed=3"], ["speed=3", "unexpected keyword argument"]),
    (["train", "initializer=delta_orthogonal"], ["initializer=delta_orthogonal", "model=convnet"]),
    (["train", "initializer=identity"], ["initializer=identity", "model.width=784"]),
    (["train", "initializer=critical", "model.depth=1"], ["initializer=critical", "model.depth=1"]),
    (
        ["train", "initializer.distribution=cauchy"],
        ["initializer.distribution=cauchy", "gaussian, uniform"],
    ),
    (["train", "activation=torch_nn", "activation.module=Softmax"], ["Softmax", "not elementwise"]),
    (["train", "data.batch_size=5000"], ["data.batch_size=5000", "4000"]),
    (["train", "data.val_size=4500"], ["data.val_size=4500", "4499"]),
    (
        ["train", "data=mnist", "data.raw_dir=/nowhere"],
        ["data.raw_dir=/nowhere", "train-images-idx3-ubyte"],
    ),
    (["train", "seed=abc"], ["seed=abc", "whole number"]),
    (["train", "loss=hinge"], ["loss=hinge", "cross_entropy, mse"]),
    (["train", "trainer.precision=7"], ["trainer.precision=7", "bf16-mixed"]),
    (
        ["train", "trainer.accelerator=cpu", "trainer.devices=512", "data.batch_size=512"],
        ["trainer.devices=512", "at most"],
    ),
    (["train", "trainer.accelerator=abacus"], ["trainer.accelerator=abacus", "cpu"]),
    (["train", "trainer.gradient_clip_val=-1"], ["trainer.gradient_clip_val=-1", "above 0"]),
    (["train", "callbacks.signals.log_columns=[speed]"], ["speed", "backprop_norm"]),
    (
        ["train", "callbacks.signals.every_n_steps=0"],
        ["callbacks.signals.every_n_steps=0", "or null"],
    ),
    (["train", "logger.names=[mlflow]"], ["mlflow", "csv, wandb, tensorboard"]),
    (["train", "study_name=a/b"], ["study_name=a/b", "letters"]),
    (["train", "study_name=2024"], ["study_name=2024", "40 letters", "quotes"]),
    (["train", "logger=null"], ["logger=null", "csv, many, none"]),
    (["train", "model=3"], ["model=3", "highway, irnn, lstm, mlp"]),
    (
        ["train", "normalization=batch", "data.batch_size=1"],
        ["data.batch_size=1", "2 examples"],
    ),
    (
        ["diagnose", "normalization=batch", "data.batch_size=1"],
        ["data.batch_size=1", "2 examples"],
    ),
    (["train", "rerun=maybe"], ["rerun=maybe", "all, failed"]),
    (["train", "model._target_=os.system"], ["_target_=os.system", "register_target"]),
    (["train", "paths.runs=/dev/null/runs"], ["paths.runs=/dev/null/runs", "cannot write"]),
    (["train", "resume=/nowhere"], ["resume=/nowhere", "not a run directory"]),
    (["eval", "/nowhere"], ["run=/nowhere", "not a run directory"]),
    (["train", "model.depth=${nothing}"], ["nothing"]),
    (["train", "model.depth"], ["model.depth"]),
    (["training"], ["no such verb", "train"]),
]


@pytest.fixture
def isometry(tmp_path, data_cache, monkeypatch, capfd):
    """Runs a command line in this process; returns exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOMETRY_DATA", str(data_cache))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["isometry", *arguments])
        try:
            code = cli.run(["isometry", *arguments])
        except SystemExit as stop:
            code = stop.code
        return code, capfd.readouterr().err

    return call


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value))
def test_mistake(isometry, tmp_path, arguments, words):
    code, message = isometry(
        *arguments,
        *(
            ["logger.offline=true"]
            if arguments[0] == "train" and "resume" not in arguments[1]
            else []
        ),
    )
    assert code == 2, message
    assert "Traceback" not in message
    assert message.startswith("isometry: ")
    for word in words:
        assert word in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", KEYS)
def test_every_key_refuses_what_it_cannot_be(key):
    kind = KEYS[key]
    assert kind.words
    for value in (object(), {"a": 1}, [["x"]], "" if key != "tags" else 3):
        assert not kind.accepts(value), value
    if kind.accepts(1):
        assert kind.accepts(True) is False
        assert not kind.accepts(math.nan)
        assert not kind.accepts(math.inf)
        assert not kind.accepts(10**400)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", ["x", 3, [1], None])
def test_a_section_that_is_none_is_refused(section, value):
    config = OmegaConf.to_container(compose("train"), resolve=True)
    *parents, last = section.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(UserError, match=f"{section}="):
        validate(config)


VERBS_WITH_OPTIONS = (
    *("train", "diagnose", "plot", "theory", "figure", "report", "eval", "compare", "wandb"),
)


@pytest.mark.parametrize("verb", VERBS_WITH_OPTIONS)
def test_every_key_of_every_option_is_declared(verb):
    """What a message, `--help` and the drawn values know of it."""
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    choices = [[f"{group}={option}"] for group in groups for option in options(group)]
    undeclared = set()
    for line in [[], *(choices if verb == "train" else [])]:  # whose groups are those of all verbs
        try:
            more = ["run=x"] if verb == "eval" else []
            config = composed(*line) if verb == "train" else compose(verb, more)
        except (HydraException, OmegaConfBaseException):  # a group that is no training's
            continue
        own = {key for key in leaves(config) if not key.startswith(("figure.", "hydra."))}
        undeclared |= {key for key in own - KEYS.keys() if key.rpartition(".")[2] not in FREE}
        for key in own & KEYS.keys():
            value = OmegaConf.to_container(config, resolve=True)
            for part in key.split("."):
                value = value[part]
            assert KEYS[key].accepts(value), (key, value)
    assert not undeclared


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu(isometry, tmp_path):
    code, message = isometry("train", "trainer=gpu")
    assert code == 2
    assert "trainer.accelerator=gpu" in message
    assert "no CUDA GPU" in message
    assert not list(tmp_path.iterdir())


def test_a_corrupt_cache_file(isometry, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "mnist_5k.safetensors").write_bytes(b"torn")
    monkeypatch.setenv("ISOMETRY_DATA", str(cache))
    code, message = isometry("train")
    assert code == 2
    assert "mnist_5k.safetensors is corrupt" in message
    assert not (tmp_path / "runs").exists()


def test_a_truncated_download(isometry, tmp_path, monkeypatch):
    raw = tmp_path / "cache" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 28, 0, 0, 0, 28, 1, 2, 3])
    )
    monkeypatch.setenv("ISOMETRY_DATA", str(tmp_path / "cache"))
    code, message = isometry("train", "data=mnist", f"data.raw_dir={raw}")
    assert code == 2
    assert "truncated" in message
    assert "train-images-idx3-ubyte" in message


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def a_run(folder: Path, isometry) -> Path:
    code, message = isometry(
        "train", "model.depth=2", "trainer.max_steps=1", "logger=csv", f"paths.runs={folder}/runs"
    )
    assert code == 0, message
    (path,) = folder.glob("runs/single/*/status.json")
    return path.parent


def test_a_strangers_run_directory_runs_no_code(isometry, tmp_path):
    run = a_run(tmp_path, isometry)
    config = run / "config.yaml"
    honest = config.read_text()
    for key in ("isometry.networks.mlp.MLP", "torch.optim.SGD", "lightning.pytorch.Trainer"):
        config.write_text(honest.replace(key, "os.system"))
        for command in (["eval", str(run)], ["train", f"resume={run}"]):
            code, message = isometry(*command)
            assert code == 2
            assert "_target_=os.system" in message


def test_a_checkpoint_that_is_not_one(isometry, tmp_path):
    run = a_run(tmp_path, isometry)
    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "other.ckpt")
    torch.save({"x": [1, 2]}, tmp_path / "list.ckpt")
    cases = {
        "evil.ckpt": "is not a checkpoint",
        "list.ckpt": "not a checkpoint of a training",
        "none.ckpt": "no such file",
    }
    for name, words in {**cases, "other.ckpt": "does not fit the network"}.items():
        code, message = isometry("eval", str(run), f"checkpoint={tmp_path / name}")
        assert code == 2
        assert words in message
        assert "checkpoint=" in message
    assert not (tmp_path / "pwned").exists()


def test_the_traceback_is_there_for_those_who_ask(typed, tmp_path):
    done = typed("train", "model.depth=0", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("isometry train mod", "model="),
        ("isometry train model=", "model=convnet"),
        ("isometry train model.de", "model.depth="),
        ("isometry plot activation=si", "activation=sigmoid"),
    ],
)
def test_shell_completion_knows_the_verbs(tmp_path, line, expected):
    command = [str(Path(sys.executable).parent / "isometry"), "-sc", "query=bash"]
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert expected in done.stdout.split(), done.stdout + done.stderr
