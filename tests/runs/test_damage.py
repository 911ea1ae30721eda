"""Run directories as disks and strangers leave them: a message that names the file, or a right
result; nothing is written elsewhere, and nothing trained on top.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from commands import run_of
from fuzz import variants
from isometry.config.compose import compose
from isometry.config.messages import is_users
from isometry.console import plain_console
from isometry.errors import UserError
from isometry.runs.directory import STATES, RunDirectory
from isometry.runs.metrics import MetricsFile
from isometry.runs.signal_store import (
    LARGE_PART,
    SCHEMA,
    SignalStore,
    read_over_time,
    read_signals,
)
from isometry.runs.table import read_record
from isometry.signals.flush import Flush, TimeRows
from isometry.training import run as train_module
from isometry.training.resume import frozen_config, load_checkpoint
from isometry.training.run import train
from isometry.training.signal_log import to_time_table
from isometry.verbs.evaluate import evaluate
from isometry.verbs.report import report_study

SMALL = ["model.depth=3", "trainer.max_steps=4", "callbacks.checkpoints.every_n_steps=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_cache) -> RunDirectory:
    """A run that everything has been written of; copied, never touched."""
    small = ["pictures=false", "logger=csv", "trainer=cpu", *SMALL]
    folder = tmp_path_factory.mktemp("finished")
    config = compose("train", [f"paths.runs={folder}", f"paths.data={data_cache}", *small])
    return run_of(train(config), config)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, data_cache) -> RunDirectory:
    """Likewise, of one that was cut short after 3 of 4 steps, with a checkpoint after 2."""

    class Stop(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    build = train_module.build_trainer
    small = ["pictures=false", "logger=csv", "trainer=cpu", *SMALL]
    folder = tmp_path_factory.mktemp("stopped")
    config = compose("train", [f"paths.runs={folder}", f"paths.data={data_cache}", *small])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train_module,
            "build_trainer",
            lambda c, run, loggers, callbacks: build(c, run, loggers, [*callbacks, Stop()]),
        )
        with pytest.raises(SystemExit):
            train(config)
    (status,) = folder.glob("*/*/status.json")
    return RunDirectory(status.parent)


def copied(run: RunDirectory, folder: Path) -> RunDirectory:
    target = folder / "runs" / "study" / run.run_id
    shutil.copytree(run.path, target)
    return RunDirectory(target)


@pytest.fixture
def copy(finished, tmp_path) -> RunDirectory:
    return copied(finished, tmp_path)


@pytest.fixture
def cut_short(stopped, tmp_path) -> RunDirectory:
    return copied(stopped, tmp_path)


def edit_json(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def resume(run: RunDirectory, data_cache: Path) -> dict[str, object]:
    return train(compose("train", [f"resume={run.path}", f"paths.data={data_cache}"]))


def evaluated(run: RunDirectory, data_cache: Path) -> dict[str, float]:
    return evaluate(compose("eval", [f"run={run.path}", f"paths.data={data_cache}"]))


def reported(run: RunDirectory, capsys) -> str:
    report_study(run.path.parent, plain_console(width=200))
    return capsys.readouterr().out


# ---- records -------------------------------------------------------------------------------------

STATUSES = ["", "{", "[]", "null", "3", '"x"', "\xff", '{"state": "sleeping"}', "{}", "[" * 9000]
STATUSES += [
    json.dumps({"state": "finished", **entry})
    for entry in ({"attempt": "two"}, {"attempt": -1}, {"start": 3}, {"reason": []}, {"host": {}})
]


@pytest.mark.parametrize("text", STATUSES)
def test_a_damaged_status_is_a_message(cut_short, data_cache, capsys, text):
    path = cut_short.path / "status.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"status\.json: "):
        resume(cut_short, data_cache)
    assert path.read_text(encoding="latin-1") == text
    assert "left out: " in reported(cut_short, capsys)


@pytest.mark.parametrize("name", ["status", "summary", "config", "metrics", "lock"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(cut_short, data_cache, tmp_path, name, kind):
    """Through a link another run would be written, and a pipe is waited for until somebody
    writes.
    """
    ending = {"config": "yaml", "metrics": "csv"}.get(name, "json")
    path = cut_short.path / f"{name}.{ending}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(path.read_bytes() if path.exists() else b"{}")
    before = elsewhere.read_bytes()
    path.unlink(missing_ok=True)
    {"link": lambda: path.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(path)}.get(
        kind, path.mkdir
    )()
    with pytest.raises(UserError, match=name if name != "config" or kind == "link" else "config"):
        resume(cut_short, data_cache)
    assert elsewhere.read_bytes() == before
    assert path.is_symlink() == (kind == "link")


FOLDERS = ["signals.parquet", "signals_over_time.parquet", "checkpoints", "wandb"]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("verb", ["resume", "eval"])
def test_a_linked_folder_is_refused(cut_short, data_cache, tmp_path, name, verb):
    """It would be another run's signals that a resume drops."""
    path = cut_short.path / name
    elsewhere = tmp_path / "elsewhere"
    shutil.move(path, elsewhere) if path.exists() else elsewhere.mkdir()
    before = sorted(p.name for p in elsewhere.iterdir())
    path.symlink_to(elsewhere)
    with pytest.raises(UserError, match=name):
        (resume if verb == "resume" else evaluated)(cut_short, data_cache)
    assert sorted(p.name for p in elsewhere.iterdir()) == before


@pytest.mark.parametrize("name", ["fit-profile.txt", "tensorboard"])
def test_what_others_would_write_through_a_link_is_refused(cut_short, data_cache, tmp_path, name):
    target = tmp_path / "elsewhere"
    (cut_short.path / name).symlink_to(target)
    with pytest.raises(UserError, match=name):
        resume(cut_short, data_cache)
    assert not target.exists()


def test_a_linked_checkpoint_is_refused(cut_short, data_cache, tmp_path):
    target = tmp_path / "other.ckpt"
    shutil.move(cut_short.last_checkpoint, target)
    cut_short.last_checkpoint.symlink_to(target)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        resume(cut_short, data_cache)


# ---- config --------------------------------------------------------------------------------------


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("verb", ["resume", "eval", "report"])
def test_a_kilobyte_that_stands_for_gigabytes_is_refused(copy, data_cache, capsys, verb):
    copy.config.write_text(bomb(12))
    if verb == "report":
        assert "holds an alias" in reported(copy, capsys)
        return
    with pytest.raises(UserError, match="holds an alias"):
        (resume if verb == "resume" else evaluated)(copy, data_cache)


@pytest.mark.parametrize("text", ["tags: ['a *b', '*c', '2 * x']", 'tags: ["&x *x"]'])
def test_a_star_in_a_text_is_no_alias(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.config.write_text(text)
    assert run.config_text() == text


def test_a_run_logs_where_its_user_says(cut_short, data_cache, tmp_path, typed):
    """A stranger's directory may name a server of theirs."""
    config = OmegaConf.load(cut_short.config)
    config.logger = {
        "names": ["csv", "wandb"],
        "offline": False,
        "entity": "stranger",
        "project": "theirs",
        "patience": 1,
    }
    config.paths.data = config.data.cache_dir = "/nowhere/of/theirs"
    cut_short.config.write_text(OmegaConf.to_yaml(config))
    resume(cut_short, data_cache)
    kept = OmegaConf.load(cut_short.config)
    assert kept.logger.offline is True
    assert kept.logger.entity is None
    assert kept.logger.project == "isometry"
    assert kept.data.cache_dir == str(data_cache)
    assert len(list(cut_short.path.glob("wandb/offline-run-*"))) == 1
    edit_json(cut_short.path / "status.json", state="interrupted")
    mine = ["logger=csv", "logger.project=mine", f"paths.data={data_cache}"]
    done = typed("train", f"resume={cut_short.path}", *mine, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = OmegaConf.load(cut_short.config)
    assert (list(kept.logger.names), kept.logger.project) == (["csv"], "mine")


def test_eval_uses_the_users_cache(copy, data_cache, tmp_path):
    config = OmegaConf.load(copy.config)
    config.data.cache_dir = str(tmp_path / "theirs")
    copy.config.write_text(OmegaConf.to_yaml(config))
    assert evaluated(copy, data_cache)["test_accuracy"] == copy.summary()["test_accuracy"]
    assert not (tmp_path / "theirs").exists()


# ---- checkpoints ---------------------------------------------------------------------------------


def without(key):
    return lambda content: content.pop(key)


def _reshape(content):
    key = next(iter(content["state_dict"]))
    content["state_dict"][key] = content["state_dict"][key][:3]


def _member(name, value):
    def change(content):
        content["callbacks"]["CallbackGroup"][name] = value

    return change


def _set(key, value):
    return lambda content: content.update({key: value})


CHANGES = {
    "no step": without("global_step"),
    "a step that is none": _set("global_step", "many"),
    "no loops": without("loops"),
    "no optimizer": without("optimizer_states"),
    "no schedulers": _set("lr_schedulers", 3),
    "another shape": _reshape,
    "no weights": _set("state_dict", {}),
    "weights that are none": _set("state_dict", {"network.0": "x"}),
    "random state": _member("ResumeState", {"torch": torch.zeros(3, dtype=torch.uint8)}),
    "random state that is none": _member("ResumeState", 5),
    "python's random state": lambda c: c["callbacks"]["CallbackGroup"]["ResumeState"].update(
        python=[3, [1, 2], None]
    ),
    "a best that is none": _member("BestCheckpoint", {}),
    "signals": _member("Signals", {"alarm": [1]}),
    "data": _set("ImageData", {"training": {"position": "x"}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_fit_is_a_message(cut_short, data_cache, change):
    content = torch.load(cut_short.last_checkpoint, weights_only=True)
    CHANGES[change](content)
    torch.save(content, cut_short.last_checkpoint)
    before = cut_short.last_checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"last\.ckpt"):
        resume(cut_short, data_cache)
    assert cut_short.last_checkpoint.read_bytes() == before


@pytest.mark.parametrize("change", ["another shape", "no weights", "weights that are none"])
def test_nor_is_it_tested(copy, data_cache, change):
    content = torch.load(copy.last_checkpoint, weights_only=True)
    CHANGES[change](content)
    torch.save(content, copy.last_checkpoint)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        evaluated(copy, data_cache)


# ---- signals and metrics -------------------------------------------------------------------------


def rows_of(steps, layers=3):
    rows = [(step, layer) for step in steps for layer in range(1, layers + 1)]
    known = {"name": "x", "kind": "hidden"}
    columns = {
        field.name: [known.get(field.name, 1.0)] * len(rows)
        for field in SCHEMA
        if field.name not in ("step", "layer")
    }
    step, layer = zip(*rows, strict=True)
    return pd.DataFrame({"step": step, "layer": layer, **columns})


def as_table(frame):
    import pyarrow as pa

    return pa.Table.from_pandas(frame, SCHEMA, preserve_index=False)


def test_parts_do_not_grow_without_bound_and_are_whole_at_every_moment(tmp_path):
    """`flush_every=1` wrote a part a step."""
    folder = tmp_path / "signals.parquet"
    store = SignalStore(folder)
    for step in range(900):
        store.append(as_table(rows_of([step], layers=10)))
        if step % 50 == 0:
            plain = pd.read_parquet(folder)
            assert sorted(set(plain["step"])) == list(range(step + 1))
            assert len(plain) == 10 * (step + 1)
    assert len(store.parts()) == math.ceil(9000 / LARGE_PART)
    again = SignalStore(folder)
    again.drop_from(700)
    again.append(as_table(rows_of([700], layers=10)))
    assert sorted(set(read_signals(folder)["step"])) == list(range(701))


def test_nor_do_those_of_the_time_steps(tmp_path):
    store = SignalStore(tmp_path / "signals.parquet")
    for step in range(40):
        gates = [TimeRows(step, 1, "rnn", "h", np.ones((5, 3)))]
        empty = np.empty((0, 0, 0))
        flush = Flush(np.array([]), empty, empty, None, step, np.array([]), gates)
        store.over_time.append(to_time_table(flush))
    assert len(store.over_time.parts()) == 1
    assert len(read_over_time(store.folder)) == 40 * 3
    store.drop_from(10)
    store.over_time.append(to_time_table(flush))
    assert sorted(set(read_over_time(store.folder)["step"])) == [*range(10), 39]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "step,a\nx,1\n", "step,a\n1,2,3\n", "\x00\x01"])
def test_damaged_metrics_are_a_message(cut_short, data_cache, text):
    cut_short.metrics.write_text(text)
    if not text:  # nothing was logged
        assert MetricsFile(cut_short.metrics).rows == {}
        return
    with pytest.raises(UserError, match=r"metrics\.csv"):
        resume(cut_short, data_cache)


def test_a_report_of_many_names_the_damaged_one(copy, capsys):
    """And draws the others; a study's name is no markup."""
    study = copy.path.parents[1] / "a[" / "red]b :smile:"
    for name in ("one", "two", "three"):
        shutil.copytree(copy.path, study / name)
    (study / "two" / "signals.parquet" / "part-0000000000.parquet").write_bytes(b"PAR1torn")
    (study / "three" / "summary.json").write_text('{"test_accuracy": [1]}')
    text = reported(RunDirectory(study / "one"), capsys)
    assert "study red]b :smile:" in text
    assert "a[/red]b :smile:/two/signals.parquet/part-0000000000.parquet: cannot be read" in text
    assert "three/summary.json: test_accuracy is no number" in text
    assert (study / "gradient_against_depth.png").exists()


def test_reports_of_runs_with_unlike_columns(copy, capsys):
    """A run without config.yaml is skipped for ever by nobody, and breaks no report."""
    shutil.copytree(copy.path, copy.path.with_name("bare"))
    copy.config.unlink()
    assert "config.yaml: is missing" in reported(copy, capsys)


# ---- fuzzed --------------------------------------------------------------------------------------

MANY = 500


def outcomes(path, read, count=MANY):
    """How many of the damaged copies of a file are read, and how many refused with a message that
    names it. Nothing else may happen.
    """
    content = path.read_bytes()
    refused = 0
    for seed, damaged in enumerate(variants(content, count)):
        path.write_bytes(damaged)
        message = refusal(read)
        assert not message or path.name in message or str(path.parent) in message, (seed, message)
        refused += bool(message)
    path.write_bytes(content)
    return refused


def refusal(read):
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["status", "summary", "prediction"])
def test_fuzzed_records(copy, name):
    read = {"status": copy.status, "summary": copy.summary, "prediction": copy.prediction}[name]

    def right():
        content = read()
        assert name != "status" or content["state"] in STATES

    assert outcomes(copy.path / f"{name}.json", right) > MANY / 4


@pytest.mark.slow
def test_fuzzed_metrics(copy):
    def right():
        for row in MetricsFile(copy.metrics).rows.values():
            list(map(float, row.values()))

    assert outcomes(copy.metrics, right) > MANY / 10


@pytest.mark.slow
def test_fuzzed_signals(copy):
    (part,) = SignalStore(copy.signals).parts()
    whole = read_signals(copy.signals)

    def right():
        pd.testing.assert_frame_equal(read_signals(copy.signals), whole)

    assert outcomes(part, right) > MANY / 2


@pytest.mark.slow
def test_fuzzed_configs(copy):
    assert outcomes(copy.config, lambda: frozen_config(copy.path)) > MANY / 4
    assert outcomes(copy.config, lambda: read_record(copy)) == 0


@pytest.mark.slow
def test_fuzzed_checkpoints(copy):
    whole = load_checkpoint(copy.last_checkpoint)["state_dict"]

    def right():
        found = load_checkpoint(copy.last_checkpoint)["state_dict"]
        assert all(torch.equal(found[key], whole[key]) for key in whole)

    assert outcomes(copy.last_checkpoint, right) > MANY / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.yaml", "status.json", "metrics.csv", "summary.json"])
def test_fuzzed_runs_are_resumed_or_refused(finished, stopped, tmp_path, data_cache, capsys, name):
    """The whole way, of fewer."""
    source = finished if name == "summary.json" else stopped
    for seed, damaged in enumerate(variants((source.path / name).read_bytes(), 30, seed=2)):
        run = copied(source, tmp_path / f"{seed}")
        (run.path / name).write_bytes(damaged)
        for attempt in (resume, evaluated):
            try:
                attempt(run, data_cache)
            except Exception as error:
                if not is_users(error):
                    raise
        reported(run, capsys)


DAMAGES = [
    ("summary.json", '{"test_accuracy": 1' + "0" * 400 + "}"),
    ("config.yaml", 'data: {raw_dir: "a\\0b"}\n'),
    ("config.yaml", "verdict: {vanishing_below: 1}\n"),
    ("config.yaml", "verdict: {vanishing_below: a, exploding_above: b}\n"),
    ("config.yaml", "seed: 0x" + "f" * 5000 + "\n"),
]


@pytest.mark.parametrize(("name", "text"), DAMAGES)
def test_one_bad_run_never_breaks_a_report(copy, capsys, name, text):
    bad = copy.path.with_name("bad")
    shutil.copytree(copy.path, bad)
    if name == "config.yaml":
        key = text.partition(":")[0]
        whole = OmegaConf.to_container(OmegaConf.load(copy.config))
        whole.pop(key)
        text = OmegaConf.to_yaml(OmegaConf.create(whole)) + text
    (bad / name).write_text(text)
    assert "finished" in reported(copy, capsys)


@pytest.mark.parametrize("verb", ["eval", "resume"])
def test_a_part_of_any_section_has_the_users_cache(copy, data_cache, tmp_path, verb):
    """What stands inside of a section is built, too."""
    config = OmegaConf.load(copy.config)
    theirs = tmp_path / "theirs"
    config.optimizer.x = {**config.data, "cache_dir": str(theirs)}
    copy.config.write_text(OmegaConf.to_yaml(config))
    with suppress(UserError):
        evaluated(copy, data_cache) if verb == "eval" else resume(copy, data_cache)
    assert not theirs.exists()
