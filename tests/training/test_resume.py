"""A run that was cut short and resumed equals the undisturbed one to the last bit."""

from __future__ import annotations

import os
import shutil
import signal
import time
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from omegaconf import OmegaConf

import isometry.training.run as train_module
from forked import Forked
from isometry.config.compose import compose
from isometry.errors import UserError
from isometry.runs import files
from isometry.runs.directory import RunDirectory
from isometry.training.build import build_data
from isometry.training.processes import on_signals
from isometry.training.resume import warn_of_foreign_order
from isometry.training.run import train
from isometry.verbs.evaluate import evaluate

# 10 steps an epoch, 3 epochs; a checkpoint every 4 steps; everything that has a state
SMALL = [
    "model.depth=4",
    "model.width=20",
    "data.train_size=650",
    "data.augmentation=crop_flip",
    "optimizer=adam",
    "scheduler=warmup_cosine",
    "normalization=batch",
    "trainer.max_steps=-1",
    "trainer.max_epochs=3",
    "callbacks.checkpoints.every_n_steps=4",
    "callbacks.signals.every_n_steps=3",
    "callbacks.signals.flush_every=5",
]


def StopAt(hook, step):
    """A callback that ends the training abruptly at a point of a step, as a kill would: nothing is
    saved.
    """

    def stop(self, trainer, *args, **kwargs):
        if trainer.global_step >= step:
            raise KeyboardInterrupt

    return type("StopAt", (Callback,), {hook: stop})()


class FirstStep(Callback):
    """Notes the step at which training started."""

    def on_train_batch_start(self, trainer, *args):
        self.step = min(getattr(self, "step", 10**9), trainer.global_step)


def with_callback(monkeypatch, callback):
    original = train_module.build_trainer

    def build(config, run, loggers, callbacks):
        return original(config, run, loggers, [*callbacks, callback])

    monkeypatch.setattr(train_module, "build_trainer", build)


def state_of(config, summary=None):
    """Weights, optimizer, signals and metrics of the only run below the config's folder."""
    (path,) = Path(config.paths.runs).glob("*/*/status.json")
    run = RunDirectory(path.parent)
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    metrics = pd.read_csv(run.metrics).drop(columns="images_per_second", errors="ignore")
    return (
        run,
        checkpoint,
        pd.read_parquet(run.signals).sort_values(["step", "layer"], ignore_index=True),
        metrics,
    )


def assert_same(first, second):
    *_, signals_a, metrics_a = first
    *_, signals_b, metrics_b = second
    for name in ("last", "best"):
        ours, theirs = (run.checkpoints / f"{name}.ckpt" for run in (first[0], second[0]))
        assert ours.exists() == theirs.exists()
        if ours.exists():
            a, b = (torch.load(path, weights_only=True) for path in (ours, theirs))
            assert a["global_step"] == b["global_step"], name
            for key, value in a["state_dict"].items():
                assert torch.equal(value, b["state_dict"][key]), (name, key)
    a, b = first[1], second[1]
    for (key, x), y in zip(
        a["optimizer_states"][0]["state"][0].items(),
        b["optimizer_states"][0]["state"][0].values(),
        strict=True,
    ):
        assert torch.equal(torch.as_tensor(x), torch.as_tensor(y)), key
    pd.testing.assert_frame_equal(signals_a, signals_b, check_exact=True)
    pd.testing.assert_frame_equal(metrics_a, metrics_b, check_exact=True)


@pytest.fixture
def cut(make_config):
    """The config of the run that will be cut short."""
    return make_config(*SMALL)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_cache):
    """Of the run that nothing happens to: what it left, and its summary."""
    small = ["pictures=false", "logger=csv", "trainer=cpu", *SMALL]
    config = compose(
        "train",
        [f"paths.runs={tmp_path_factory.mktemp('whole')}", f"paths.data={data_cache}", *small],
    )
    summary = train(config)
    return state_of(config), summary


POINTS = [
    ("on_train_batch_start", 5),
    ("on_before_optimizer_step", 7),
    ("on_train_batch_end", 6),
    ("on_train_batch_end", 10),
    ("on_validation_start", 10),
    ("on_train_batch_start", 10),
    ("on_train_batch_start", 13),
    ("on_after_backward", 20),
    ("on_train_batch_end", 29),
    ("on_validation_start", 30),
    ("on_test_start", 30),
]


@pytest.mark.parametrize(("hook", "step"), POINTS)
def test_cut_anywhere_and_resumed_equals_undisturbed(cut, undisturbed, monkeypatch, hook, step):
    whole, expected = undisturbed
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt(hook, step))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(cut)
    assert state_of(cut)[0].status()["state"] == "interrupted"
    noted = FirstStep()
    np.random.rand(3)  # the resumed process is another one
    torch.rand(3)
    with monkeypatch.context() as patch:
        with_callback(patch, noted)
        resumed = train(cut)
    if step < 30:
        assert 0 < step - noted.step <= 4 or noted.step == step
    assert_same(whole, state_of(cut))
    same = [key for key in expected if key not in ("wall_seconds", "images_per_second")]
    assert {key: resumed[key] for key in same} == {key: expected[key] for key in same}


def test_float64_weights_are_not_rounded_by_a_resume(make_config, tmp_path, monkeypatch):
    """Lightning reads the checkpoint into a module of float32, and makes it one of float64 behind
    that.
    """
    words = [*SMALL, "trainer.precision=64-true"]
    whole, cut = (make_config(*words, f"paths.runs={tmp_path}/{name}") for name in ("whole", "cut"))
    train(whole)
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt("on_train_batch_end", 13))
        with pytest.raises(SystemExit):
            train(cut)
    train(cut)
    assert_same(state_of(whole), state_of(cut))


WRITES = [
    ("config.yaml", 1),
    ("status.json", 1),
    ("*.parquet", 2),
    ("metrics.csv", 2),
    ("last.ckpt", 2),
    ("summary.json", 1),
]
WRITES += [("initial_weights.pt", 1)]


def killed_in_a_write(config, name, count, stage):
    """Train in a child that kills itself in its count-th write of such a file: with half of it
    written, or just behind it.
    """
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        return
    original = files._write_whole
    seen = 0

    def write(path, fill):
        nonlocal seen
        seen += fnmatch(path.name, name)
        if seen == count and fnmatch(path.name, name):
            if stage == "half":
                temporary = path.with_name(f"{files.UNFINISHED}{path.name}.half{path.suffix}")
                fill(temporary)
                os.truncate(temporary, temporary.stat().st_size // 2)
            else:
                original(path, fill)
            os.kill(os.getpid(), signal.SIGKILL)
        original(path, fill)

    files._write_whole = write
    try:
        train(config)
    finally:
        os._exit(3)


@pytest.mark.parametrize("stage", ["half", "behind"])
@pytest.mark.parametrize(("name", "count"), WRITES)
def test_killed_in_each_kind_of_write(cut, undisturbed, name, count, stage):
    """Whatever is there reads whole, and the same command ends at the same numbers."""
    killed_in_a_write(cut, name, count, stage)
    for path in Path(cut.paths.runs).glob("*/*"):
        run = RunDirectory(path)
        run.status(), run.summary()
        if run.last_checkpoint.exists():
            torch.load(run.last_checkpoint, weights_only=True)
        if run.signals.exists():
            pd.read_parquet(run.signals)
        if run.metrics.exists():
            pd.read_csv(run.metrics)
    train(cut)
    assert_same(undisturbed[0], state_of(cut))
    assert not list(Path(cut.paths.runs).rglob(f"{files.UNFINISHED}*"))


@pytest.mark.parametrize("stage", ["half", "behind"])
@pytest.mark.parametrize("name", ["profile.png", "heatmap.png"])
def test_killed_while_a_picture_is_saved(make_config, name, stage):
    config = make_config("pictures=true")
    killed_in_a_write(config, name, 1, stage)
    assert train(config)["state"] == "finished"
    (run,) = Path(config.paths.runs).glob("*/*")
    assert not list(run.rglob(f"{files.UNFINISHED}*"))
    assert all((run / f"{picture}.png").exists() for picture in ("profile", "heatmap"))


@pytest.mark.parametrize("step", [13, 20, 25])
def test_checkpoints_after_epochs_resume_too(cut, undisturbed, monkeypatch, step):
    cut = OmegaConf.merge(cut, {"callbacks": {"checkpoints": {"every_n_steps": None}}})
    noted = FirstStep()
    for callback in (StopAt("on_train_batch_start", step), noted):
        with monkeypatch.context() as patch:
            with_callback(patch, callback)
            try:
                train(cut)
            except SystemExit:
                assert callback is not noted
    assert noted.step == step // 10 * 10
    assert_same(undisturbed[0], state_of(cut))


@pytest.mark.parametrize("batches", [1, 2])
def test_ctrl_c_is_heard_in_epochs_of_one_step_or_two(make_config, tmp_path, monkeypatch, batches):
    words = [*SMALL, f"trainer.limit_train_batches={batches}", "trainer.max_epochs=6"]
    whole, cut = (make_config(*words, f"paths.runs={tmp_path}/{name}") for name in ("whole", "cut"))
    train(whole)

    class Press(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        with_callback(patch, Press())
        with pytest.raises(SystemExit):
            train(cut)
    assert state_of(cut)[1]["global_step"] == 4
    train(cut)
    assert_same(state_of(whole), state_of(cut))


def test_resume_by_directory(cut, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt("on_train_batch_end", 17))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(cut)
    run = state_of(cut)[0]
    train(
        OmegaConf.merge(
            cut, {"resume": str(run.path), "paths": {"runs": f"{cut.paths.runs}/elsewhere"}}
        )
    )
    assert_same(undisturbed[0], state_of(cut))
    assert run.status()["attempt"] == 1


def launch(cut):
    overrides = [
        *SMALL,
        "logger=csv",
        "trainer=cpu",
        "data.train_size=4000",
        "trainer.max_epochs=40",
        f"paths.runs={cut.paths.runs}",
    ]
    words = [f"paths.data={cut.paths.data}", "callbacks.checkpoints.every_n_steps=4"]
    return Forked("train", *overrides, *words, cwd=Path(cut.paths.runs).parent)


def wait_for_checkpoint(process, runs):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if list(Path(runs).glob("*/*/checkpoints/last.ckpt")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint: {process.finish()}")


@pytest.mark.parametrize(
    ("number", "state", "code"),
    [
        (signal.SIGINT, "interrupted", 130),
        (signal.SIGHUP, "interrupted", 130),  # a dropped ssh
        (signal.SIGKILL, "running", -9),
    ],
)
def test_ctrl_c_and_kill_leave_a_checkpoint_that_resumes(cut, typed, tmp_path, number, state, code):
    process = launch(cut)
    wait_for_checkpoint(process, cut.paths.runs)
    process.send_signal(number)
    done = process.finish(timeout=60)
    errors = done.stderr
    assert done.returncode == code, errors
    run, checkpoint, *_ = state_of(cut)
    assert run.status()["state"] == state
    assert checkpoint["global_step"] > 0
    assert "Traceback" not in errors
    if state == "interrupted":
        assert f"resume={run.path}" in errors
    done = typed("train", f"resume={run.path}", "model.depth=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "model.depth=3" in done.stderr


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_eval_repeats_the_runs_own_test_accuracy(make_config, precision):
    config = make_config(
        "model.depth=3",
        "trainer.max_steps=-1",
        "trainer.max_epochs=1",
        f"trainer.precision={precision}",
    )
    summary = train(config)
    path = Path(config.paths.runs) / summary["study"] / summary["run_id"]
    choices = compose("eval", [f"run={path}", f"paths.data={config.paths.data}"])
    found = evaluate(choices)
    assert found["test_accuracy"] == summary["test_accuracy"]
    assert found["test_loss"] == pd.read_csv(path / "metrics.csv")["test_loss"].dropna().item()
    choices.split = "val"
    assert evaluate(choices)["val_accuracy"] == summary["val_accuracy"]
    frozen = OmegaConf.load(path / "config.yaml")
    frozen.trainer.devices = 64  # more than there are here: one evaluates
    OmegaConf.save(frozen, path / "config.yaml")
    assert evaluate(choices)["val_accuracy"] == summary["val_accuracy"]
    choices.checkpoint = str(path / "config.yaml")
    with pytest.raises(UserError, match="is not a checkpoint"):
        evaluate(choices)


# which of the limits ends a training, and what an epoch is, makes no difference to a resume
LIMITS = {
    "both limits": ["trainer.max_steps=100000"],
    "validation every other epoch": [
        "trainer.max_steps=100000",
        "trainer.check_val_every_n_epoch=2",
        "trainer.max_epochs=4",
    ],
    "a share of an epoch": ["trainer.limit_train_batches=0.7"],
    "steps": ["trainer.max_steps=23", "trainer.max_epochs=100"],
    "steps, validation every other epoch": [
        "trainer.max_steps=47",
        "trainer.max_epochs=100",
        "trainer.check_val_every_n_epoch=2",
    ],
    "loaders made anew": [
        "+trainer.reload_dataloaders_every_n_epochs=2",
        "trainer.max_steps=35",
        "trainer.max_epochs=100",
    ],
    "accumulation": ["trainer.accumulate_grad_batches=3", "trainer.max_epochs=6"],
}


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_resume_is_the_same_whatever_ends_the_training(
    make_config, tmp_path, monkeypatch, limit, hook
):
    words = [*SMALL, *LIMITS[limit]]
    whole = make_config(*words, f"paths.runs={tmp_path}/whole")
    expected = train(whole)
    for step in (step for step in (6, 10, 13, 30) if step < expected["steps"]):
        cut = make_config(*words, f"paths.runs={tmp_path}/cut{step}")
        with monkeypatch.context() as patch:
            with_callback(patch, StopAt(hook, step))
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                train(cut)
        resumed = train(cut)
        assert resumed["steps"] == expected["steps"], step
        assert_same(state_of(whole), state_of(cut))


class Batches(Callback):
    """Ends the training abruptly after so many batches: within an accumulation window, too."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batches", [(1, 1), (2, 5), (13, 1, 1), (13, 2), (4, 14, 2)])
def test_a_checkpoint_is_never_written_inside_of_an_accumulation_window(
    make_config, tmp_path, monkeypatch, batches
):
    """Its half of the gradients would be lost. (A resume begins at a step whose checkpoint is there
    already.)
    """
    words = [*SMALL, "trainer.accumulate_grad_batches=3", "trainer.max_epochs=4"]
    whole = make_config(*words, f"paths.runs={tmp_path}/whole")
    train(whole)
    cut = make_config(*words, f"paths.runs={tmp_path}/cut")
    for left in batches:
        with monkeypatch.context() as patch:
            with_callback(patch, Batches(left))
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                train(cut)
    train(cut)
    assert_same(state_of(whole), state_of(cut))


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_end", "on_test_start"])
def test_early_stopping_is_remembered(make_config, tmp_path, monkeypatch, hook):
    """Cut short between the stop and the end of the run: no epoch is added."""
    words = [
        *SMALL,
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=10",
        "trainer.max_epochs=5",
    ]
    whole = make_config(*words, f"paths.runs={tmp_path}/whole")
    expected = train(whole)
    assert expected["steps"] == 20  # the second epoch is no better by 10
    cut = make_config(*words, f"paths.runs={tmp_path}/cut")
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt(hook, 10 if hook == "on_train_epoch_start" else 20))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(cut)
    assert train(cut)["steps"] == 20
    assert_same(state_of(whole), state_of(cut))


def test_a_finished_run_goes_on_to_more_epochs(make_config, typed, tmp_path, data_cache):
    """As a run that was as long from the beginning; another attempt, and the same folder."""
    words = [*SMALL, "scheduler=constant"]
    whole = make_config(*words, f"paths.runs={tmp_path}/whole", "trainer.max_epochs=5")
    train(whole)
    short = make_config(*words, f"paths.runs={tmp_path}/short", "trainer.max_epochs=2")
    train(short)
    run = state_of(short)[0]
    words = [f"resume={run.path}", "trainer.max_epochs=5", f"paths.data={data_cache}"]
    done = typed("train", *words, "logger=csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "goes on, as more is asked for" in done.stderr
    assert run.status()["attempt"] == 2
    assert OmegaConf.load(run.config).trainer.max_epochs == 5
    found = list(state_of(short))
    # the last step of the first attempt is recorded beside every third one
    found[2] = found[2][found[2].step != 19].reset_index(drop=True)
    found[3] = found[3][found[3].step != 19].reset_index(drop=True)  # its gradient rate
    # and its test stands in the row of its last step
    ended = found[3].step == 20
    expected = state_of(whole)
    assert found[3].loc[ended, "test_accuracy"].notna().all()
    found[3].loc[ended, ["test_accuracy", "test_loss", "epoch"]] = expected[3].loc[ended]
    assert_same(expected, found)
    done = typed("train", *words, "logger=csv", cwd=tmp_path)
    assert "finished already; rerun=all" in done.stderr
    fewer = {
        "trainer.max_epochs=3": "trainer.max_epochs=3: the run's own is 5, and it can only",
        "trainer.max_steps=7": "finished already, with more than is asked for; rerun=all",
    }
    for limit, said in fewer.items():
        done = typed("train", f"resume={run.path}", limit, f"paths.data={data_cache}", cwd=tmp_path)
        assert said in done.stderr
    # the command of the two epochs: what is there is no longer theirs, and it is said
    words = [*SMALL, "scheduler=constant", "trainer.max_epochs=2", "pictures=false", "logger=csv"]
    places = [f"paths.runs={tmp_path}/short", f"paths.data={data_cache}", "trainer=cpu"]
    done = typed("train", *words, *places, cwd=tmp_path)
    assert "with more than is asked for" in done.stderr
    done = typed("train", f"resume={run.path}", "optimizer.lr=1", cwd=tmp_path)
    assert done.returncode == 2
    assert "leave out optimizer.lr=1" in done.stderr


def test_a_copied_run_keeps_its_best_checkpoint(cut, tmp_path, monkeypatch):
    """Lightning compares the folder's path, and forgets the score."""
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt("on_train_batch_start", 25))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(cut)
    run = state_of(cut)[0]
    copy = RunDirectory(tmp_path / "a copy" / "run")
    shutil.copytree(run.path, copy.path)
    best = copy.checkpoints / "best.ckpt"
    before = best.read_bytes()
    last = torch.load(copy.last_checkpoint, weights_only=True)
    score = last["callbacks"]["CallbackGroup"]["BestCheckpoint"]["best_model_score"]
    unreachable = torch.full_like(score, 2.0)
    last["callbacks"]["CallbackGroup"]["BestCheckpoint"].update(
        best_model_score=unreachable,
        kth_value=unreachable,
        best_k_models={str(run.checkpoints / "best.ckpt"): unreachable},
    )
    torch.save(last, copy.last_checkpoint)
    cut.resume = str(copy.path)
    train(cut)
    assert best.read_bytes() == before


def test_a_failed_run_goes_on_from_its_checkpoint(cut, undisturbed, monkeypatch):
    """Nothing that was trained is thrown away but by `rerun=`."""

    class Fail(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 13:
                raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        with_callback(patch, Fail())
        with pytest.raises(RuntimeError, match="out of memory"):
            train(cut)
    assert state_of(cut)[0].status()["state"] == "failed"
    noted = FirstStep()
    with monkeypatch.context() as patch:
        with_callback(patch, noted)
        train(cut)
    assert noted.step == 12
    assert_same(undisturbed[0], state_of(cut))


def test_nohup_is_respected():
    """Whoever started the process has it ignore SIGHUP: it goes on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in on_signals((signal.SIGHUP,), print)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "lines",
    [
        {"tags": ["${oc.env:SECRET}"]},
        {"logger": {"project": "a${oc.env:SECRET}"}},
        {"data": {"raw_dir": ["x", {"y": "${seed}"}]}},
    ],
)
@pytest.mark.parametrize("verb", ["resume", "eval"])
def test_a_strangers_run_reads_nothing_of_this_machine(tmp_path, monkeypatch, lines, verb):
    monkeypatch.setenv("SECRET", "hunter2")
    whole = compose("train", ["trainer=cpu", "logger=csv"])
    config = OmegaConf.create(OmegaConf.to_container(whole, resolve=True))
    config = OmegaConf.merge(config, OmegaConf.create(lines))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=False))
    task, word = {"resume": (train, "resume"), "eval": (evaluate, "run")}[verb]
    composed = compose("train" if verb == "resume" else "eval", [f"{word}={tmp_path}"])
    with pytest.raises(UserError, match="has no interpolations") as raised:
        task(composed)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end", "on_test_start"])
def test_cut_behind_the_last_of_max_steps(make_config, tmp_path, monkeypatch, hook):
    """The last step is one after which a checkpoint is due, in the middle of an epoch."""
    words = [*SMALL, "trainer.max_steps=24", "trainer.max_epochs=100"]
    whole, cut = (make_config(*words, f"paths.runs={tmp_path}/{name}") for name in ("whole", "cut"))
    train(whole)
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt(hook, 24))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(cut)
    train(cut)
    assert_same(state_of(whole), state_of(cut))


def test_a_failed_run_goes_on_by_its_folder_too(cut, undisturbed, monkeypatch):
    def fail(self, trainer, *_):
        if trainer.global_step == 17:
            raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        with_callback(patch, type("Fail", (Callback,), {"on_train_batch_start": fail})())
        with pytest.raises(RuntimeError):
            train(cut)
    run = state_of(cut)[0]
    assert run.status()["state"] == "failed"
    noted = FirstStep()
    with monkeypatch.context() as patch:
        with_callback(patch, noted)
        train(OmegaConf.merge(cut, {"resume": str(run.path)}))
    assert noted.step == 16
    assert_same(undisturbed[0], state_of(cut))


def test_a_run_that_ended_within_an_epoch_is_not_taken_further(make_config, typed, data_cache):
    """For Lightning its last epoch is over, and the resume would train one too few."""
    config = make_config(*SMALL, "trainer.max_steps=24", "trainer.max_epochs=3")
    train(config)
    run = state_of(config)[0]
    before = run.status(), run.config.read_text()
    words = [f"resume={run.path}", "trainer.max_epochs=5", "trainer.max_steps=100"]
    done = typed("train", *words, f"paths.data={data_cache}", cwd=run.path)
    assert done.returncode == 2, done.stderr
    assert "trainer.max_steps ended it within an epoch" in done.stderr
    assert (run.status(), run.config.read_text()) == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_test_batch_start"])
def test_signals_outside_of_the_training_loop(cut, monkeypatch, capsys, hook, number):
    """The run is marked, its lock given back, and the same command goes on."""

    class Press(Callback):
        pressed = False

    def press(self, *_, **__):
        if not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), number)

    setattr(Press, hook, press)
    cut = OmegaConf.merge(cut, {"trainer": {"num_sanity_val_steps": 1}})
    with monkeypatch.context() as patch:
        with_callback(patch, Press())
        with pytest.raises(SystemExit):
            train(cut)
    (path,) = Path(cut.paths.runs).glob("*/*/status.json")
    run = RunDirectory(path.parent)
    assert run.status()["state"] == "interrupted"
    said = "goes on, and so does" if run.last_checkpoint.exists() else "begins again"
    assert f"interrupted; the same command {said}" in capsys.readouterr().err
    assert not (run.path / "lock.json").exists()
    assert signal.getsignal(number) is signal.SIG_DFL
    assert train(cut)["state"] == "finished"


def test_without_a_checkpoint_nothing_is_taken_on(cut, typed, data_cache, monkeypatch):
    """What was measured is not removed but by `rerun=`."""
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt("on_train_batch_end", 17))
        with pytest.raises(SystemExit):
            train(cut)
    run = state_of(cut)[0]
    run.last_checkpoint.unlink()
    rows = pd.read_parquet(run.signals)
    done = typed("train", f"resume={run.path}", f"paths.data={data_cache}", cwd=run.path)
    assert done.returncode == 2, done.stderr
    assert "has no checkpoint to go on from" in done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(run.signals), rows)


def test_somebody_elses_loader_that_begins_anew_is_said(cut, monkeypatch):
    with monkeypatch.context() as patch:
        with_callback(patch, StopAt("on_train_batch_end", 17))
        with pytest.raises(SystemExit):
            train(cut)
    checkpoint = state_of(cut)[0].last_checkpoint
    with pytest.warns(UserWarning, match="LightningDataModule: the epoch goes on, but its loader"):
        warn_of_foreign_order(LightningDataModule(), checkpoint)
    warn_of_foreign_order(build_data(cut), checkpoint)  # ours knows its place: no warning
