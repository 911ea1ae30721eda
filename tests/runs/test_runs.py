import json
import math
import os

import pandas as pd
import pyarrow as pa
import pytest

from isometry.config.compose import resolved
from isometry.runs import files, identity
from isometry.runs.decision import decide
from isometry.runs.directory import RunDirectory
from isometry.runs.metrics import MetricsFile
from isometry.runs.order import note_order, order_of
from isometry.runs.signal_store import SCHEMA, SignalStore, read_signals
from isometry.runs.table import read_record, run_table, runs_of

CONFIG = {
    "model": {"name": "mlp", "depth": 30, "width": 100},
    "activation": {"name": "tanh"},
    "initializer": {"name": "orthogonal", "gain": 1.0},
    "normalization": {"kind": "none"},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "trainer": {"devices": 1, "max_epochs": 3},
    "callbacks": {"progress": {"every": 1}, "signals": {"every_n_steps": 50}},
    "data": {"source": "mnist_5k"},
    "logger": {"names": ["csv"]},
    "paths": {"runs": "runs"},
    "study_name": "single",
    "tags": [],
    "rerun": None,
    "seed": 1,
}


def changed(key, value):
    config = json.loads(json.dumps(CONFIG))
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


def test_places_are_no_part_of_a_result(make_config, tmp_path):
    """Another folder for the cache, and a folder that is written in another way."""
    (tmp_path / "ok").mkdir()
    plain = [f"data.raw_dir={tmp_path}/ok", "paths.data=one", "data.cache_dir=one"]
    ways = [f"{tmp_path}/ok/", f"{tmp_path}/./ok", f"{tmp_path}/ok/../ok"]
    ids = [identity.run_id(resolved(make_config(*plain)))]
    for way in ways:
        words = [f"data.raw_dir={way}", "paths.data=two", "data.cache_dir=two"]
        ids.append(identity.run_id(resolved(make_config(*words))))
    assert len(set(ids)) == 1
    other = [f"data.raw_dir={tmp_path}", "paths.data=one", "data.cache_dir=one"]
    assert identity.run_id(resolved(make_config(*other))) not in ids


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_is_whole_or_absent(tmp_path):
    def torn(path):
        path.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        files.write_whole(tmp_path / "a.json", torn)
    assert list(tmp_path.iterdir()) == []
    files.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(RuntimeError):
        files.write_whole(tmp_path / "a.json", torn)
    assert files.read_json(tmp_path / "a.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_a_kill_has_left_is_swept_by_the_next_write(tmp_path):
    """Outside of run folders, too. What is young may be another process's, and what is another
    file's is left alone.
    """
    names = ["[a].json.old.json", "[a].json.young.json", "a.json.old.json"]
    left = [tmp_path / f"{files.UNFINISHED}{name}" for name in names]
    for path in left:
        path.write_text("half")
        if "old" in path.name:
            os.utime(path, (0, 0))
    files.write_json(tmp_path / "[a].json", {})
    assert [path.exists() for path in left] == [False, True, True]


def test_written_files_have_the_users_mode(tmp_path):
    files.write_text(tmp_path / "a", "x")
    plain = tmp_path / "b"
    plain.write_text("x")
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_the_content_is_synced_before_the_rename(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(files.os, "fsync", lambda fd: events.append("sync"))
    replace = files.Path.replace
    monkeypatch.setattr(
        files.Path, "replace", lambda self, target: (events.append("rename"), replace(self, target))
    )
    files.write_text(tmp_path / "a", "x")
    assert events == ["sync", "rename", "sync"]


# ---- identity ------------------------------------------------------------------------------------


def test_run_id_reads_like_the_design_says():
    name = identity.run_id(CONFIG)
    assert name.startswith("mlp-d30-tanh-orthogonal-s1-")
    assert len(name.rsplit("-", 1)[1]) == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paths.runs", "elsewhere"),
        ("logger.names", ["wandb"]),
        ("callbacks.progress", None),
        ("study_name", "other"),
        ("tags", ["x"]),
        ("rerun", "all"),
        ("trainer.devices", [3]),
        ("optimizer.lr", 0.10),
        ("initializer.gain", 1),
    ],
)
def test_what_cannot_change_the_result_does_not_change_the_id(key, value):
    assert identity.run_id(changed(key, value)) == identity.run_id(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", 0.2),
        ("seed", 2),
        ("trainer.max_epochs", 4),
        ("trainer.devices", 2),
        ("model.width", 101),
    ],
)
def test_what_can_change_the_result_changes_the_id(key, value):
    assert identity.config_hash(changed(key, value)) != identity.config_hash(CONFIG)


def test_run_id_is_short_and_safe():
    name = identity.run_id(changed("activation.name", "a/b c" * 60))
    assert len(name) <= identity.MAX_LENGTH
    assert not set(name) & set('/ \\:*?"<>|')


def test_id_does_not_depend_on_the_order_of_keys():
    assert identity.run_id(dict(reversed(CONFIG.items()))) == identity.run_id(CONFIG)


# ---- directory and decision ----------------------------------------------------------------------


def test_status_tells_state_times_and_attempt(tmp_path):
    run = RunDirectory(tmp_path / "study" / "run")
    assert run.status() is None
    assert run.next_attempt() == 1
    run.begin("a: 1\n")
    assert run.status()["state"] == "running"
    run.end("failed", "RuntimeError: x")
    status = run.status()
    assert (status["state"], status["reason"], status["attempt"]) == (
        "failed",
        "RuntimeError: x",
        1,
    )
    assert status["start"] <= status["end"]
    assert run.next_attempt() == 2
    assert run.next_attempt(resuming=True) == 1
    run.begin("a: 1\n", resuming=True)
    assert run.status()["start"] == status["start"]
    run.begin("a: 1\n")
    assert run.status()["attempt"] == 2
    assert (run.study, run.run_id) == ("study", "run")


@pytest.mark.parametrize(
    ("state", "rerun", "decision"),
    [
        (None, None, "train"),
        ("finished", None, "skip"),
        ("diverged", None, "skip"),
        ("failed", None, "resume"),
        ("interrupted", None, "resume"),
        ("running", None, "resume"),
        ("interrupted", "all", "train"),
        ("finished", "failed", "skip"),
        ("finished", "all", "train"),
    ],
)
def test_decision(tmp_path, state, rerun, decision):
    run = RunDirectory(tmp_path / "study" / "run")
    if state is not None:
        run.begin("")
        run.end(state)
        run.checkpoints.mkdir()
        run.last_checkpoint.touch()
    assert decide(run, rerun)[0] == decision


def test_other_sources_are_told(tmp_path):
    run = RunDirectory(tmp_path / "study" / "run")
    run.begin("")
    run.end("finished")
    files.write_json(run.path / "status.json", {**run.status(), "sources": "0" * 12})
    decision, why = decide(run, None)
    assert decision == "skip"
    assert "other sources" in why
    assert "rerun=all" in why


# ---- signal store --------------------------------------------------------------------------------


def table(steps, layers=2, value=1.0):
    rows = [
        {"step": s, "layer": n, "name": f"layers.{n}", "kind": "hidden", "weight_norm": value}
        for s in steps
        for n in range(layers)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_parts_are_read_back_whole_by_us_and_by_pandas(tmp_path):
    store = SignalStore(tmp_path / "signals.parquet")
    store.append(table([0, 50]))
    store.append(table([100], value=math.inf))
    store.append(table([]))
    frame = read_signals(tmp_path / "signals.parquet")
    assert frame["step"].tolist() == [0, 0, 50, 50, 100, 100]
    assert frame["weight_norm"].tolist()[-1] == math.inf
    plain = pd.read_parquet(tmp_path / "signals.parquet").sort_values(
        ["step", "layer"], ignore_index=True
    )
    pd.testing.assert_frame_equal(plain, frame)
    assert [str(plain[column].dtype) for column in ("step", "layer", "weight_norm")] == [
        "int64",
        "int32",
        "float64",
    ]


def test_null_and_nan_are_told_apart_in_the_file(tmp_path):
    store = SignalStore(tmp_path / "signals.parquet")
    store.append(table([0], layers=1, value=math.nan))
    column = pa.parquet.read_table(store.parts()[0])
    assert column["weight_norm"].null_count == 0
    assert column["displacement"].null_count == 1


def test_a_torn_part_is_never_read(tmp_path):
    store = SignalStore(tmp_path / "signals.parquet")
    store.append(table([0]))
    (tmp_path / "signals.parquet" / ".part-0000000050.parquet.xyz.parquet").write_bytes(b"torn")
    assert (
        len(pd.read_parquet(tmp_path / "signals.parquet"))
        == len(read_signals(tmp_path / "signals.parquet"))
        == 2
    )


def test_dropping_rows_at_or_after_a_step(tmp_path):
    store = SignalStore(tmp_path / "signals.parquet")
    for steps in ([0, 10], [20, 30], [40]):
        SignalStore(store.folder).append(table(steps))  # each a process that is killed
    store.drop_from(30)
    assert sorted(set(read_signals(store.folder)["step"])) == [0, 10, 20]
    assert len(store.parts()) == 2


def test_an_empty_store_reads_as_an_empty_frame(tmp_path):
    assert list(read_signals(tmp_path / "nothing")["step"]) == []


# ---- metrics -------------------------------------------------------------------------------------


def test_metrics_share_rows_and_survive_reopening(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.log(10, {"a": 0.1})
    metrics.log(10, {"b": 2})
    metrics.log(20, {"a": 0.3})
    metrics.flush()
    again = MetricsFile(tmp_path / "metrics.csv")
    again.log(30, {"c": 1})
    again.flush()
    frame = pd.read_csv(tmp_path / "metrics.csv")
    assert frame["step"].tolist() == [10, 20, 30]
    assert list(frame) == ["step", "a", "b", "c"]
    assert frame["a"].tolist()[:2] == [0.1, 0.3]
    assert math.isnan(frame["b"][1])
    again.drop_from(10)
    again.flush()
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [10]


# ---- run table -----------------------------------------------------------------------------------


def test_runs_come_as_their_sweep_named_them(tmp_path):
    """A second sweep's new runs come behind; whoever began first does not matter."""
    for name in ("c", "a", "b", "by_hand"):
        RunDirectory(tmp_path / name).begin("")
    note_order(tmp_path, ["b", "c"])
    note_order(tmp_path, ["a", "c"])
    assert [run.run_id for run in runs_of(tmp_path)] == ["b", "c", "a", "by_hand"]


@pytest.mark.parametrize("text", ["", "[]", '{"runs": 3}', "{", '{"runs": [{}]}'])
def test_a_damaged_order_is_none(tmp_path, text):
    RunDirectory(tmp_path / "a").begin("")
    (tmp_path / "order.json").write_text(text)
    assert [run.run_id for run in runs_of(tmp_path)] == ["a"]
    assert "a" not in order_of(tmp_path)


@pytest.mark.parametrize("section", ["data", "trainer", "callbacks", "model"])
@pytest.mark.parametrize("value", [None, 3, [], "x", {"raw_dir": 3, "devices": None}])
def test_a_strangers_config_has_sections_that_are_none(tmp_path, section, value):
    run = RunDirectory(tmp_path / "s" / "run")
    run.begin(json.dumps({**CONFIG, section: value}))
    assert read_record(run).damage is None


def test_run_table_joins_choices_state_and_summary(tmp_path):
    for seed, state in ((0, "finished"), (1, "failed")):
        run = RunDirectory(tmp_path / "study" / f"run{seed}")
        run.begin(json.dumps({**CONFIG, "seed": seed}))
        run.end(state)
        if state == "finished":
            run.write_summary({"test_accuracy": 0.5, "seed": seed})
    records = [read_record(run) for run in runs_of(tmp_path / "study")]
    rows = run_table(records).set_index("run_id")
    assert rows.loc["run0", "test_accuracy"] == 0.5
    assert rows.loc["run1", "state"] == "failed"
    assert math.isnan(rows.loc["run1", "test_accuracy"])
    assert records[0].config["activation.name"] == "tanh"
    assert "paths.runs" not in records[0].config
    assert os.path.basename(rows.loc["run1", "path"]) == "run1"


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    run = RunDirectory(tmp_path / "study" / "run")
    run.begin("")
    run.end("interrupted")
    assert decide(run, None)[0] == "train"


@pytest.mark.parametrize("limit", sorted(identity.LIMITS))
def test_one_batch_and_all_of_them_are_two_runs(limit):
    """1 is a batch, 1.0 is every batch."""
    config = changed(f"trainer.{limit}", 1.0)
    assert identity.run_id(changed(f"trainer.{limit}", 1)) != identity.run_id(config)
