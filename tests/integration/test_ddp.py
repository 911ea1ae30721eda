"""Several processes train as one: the same numbers, one run directory, one writer."""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from commands import ISOMETRY
from isometry.errors import DiskFull
from isometry.runs.decision import decide
from isometry.runs.directory import RunDirectory
from isometry.training import processes
from isometry.training.outcome import state_after
from isometry.training.run import train

COMMON = [
    "model.depth=5",
    "trainer.precision=64-true",
    "trainer.max_steps=4",
    "callbacks.signals.every_n_steps=1",
    "logger=csv",
]


def run(folder: Path, *overrides: str) -> Path:
    """Train through the command line; returns the run directory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ISOMETRY_DATA": str(folder / "data")}
    command = [
        ISOMETRY,
        "train",
        *COMMON,
        *overrides,
        f"paths.runs={folder}/{len(list(folder.iterdir()))}",
    ]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (status,) = Path(command[-1].partition("=")[2]).glob("*/*/status.json")
    assert json.loads(status.read_text())["state"] == "finished"
    return status.parent


def alone(make_config, *overrides: str) -> Path:
    """Train in this process, whose imports are done; returns the run directory."""
    config = make_config(*COMMON, *overrides)
    summary = train(config)
    return Path(config.paths.runs) / summary["study"] / summary["run_id"]


def signals(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path / "signals.parquet").sort_values(
        ["step", "layer"], ignore_index=True
    )


CASES = [
    (1, [], []),
    (2, [], []),
    (
        2,
        ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.01"],
        ["activation=relu"],
    ),
    (3, ["data.batch_size=63"], []),  # 21 each
]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "overrides", "more"), CASES, ids=str)
def test_n_processes_measure_what_one_measures(tmp_path, make_config, processes, overrides, more):
    """64-bit: every column agrees to 1e-9, and so do weights and metrics; W&B has one run, nothing
    from rank one.
    """
    one = alone(make_config, *overrides, *more)
    ddp = [
        "trainer=ddp",
        "trainer.accelerator=cpu",
        f"trainer.devices={processes}",
        "logger.names=[csv,wandb]",
    ]
    several = run(tmp_path, *ddp, *overrides, *more)
    a = signals(one)
    b = signals(several)
    pd.testing.assert_frame_equal(a, b, rtol=1e-9, atol=1e-14)
    weights = [
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for path in (one, several)
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-9, atol=1e-14)
    drop = ["images_per_second", "epoch"]
    metrics = [
        pd.read_csv(path / "metrics.csv").drop(columns=drop, errors="ignore")
        for path in (one, several)
    ]
    pd.testing.assert_frame_equal(*metrics, rtol=1e-9)
    assert len(list(several.glob("wandb/offline-run-*"))) == 1
    assert np.isfinite(json.loads((several / "summary.json").read_text())["test_accuracy"])


def run_with_worker(folder: Path, body: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Train with two processes whose ranks run `body` first."""
    (folder / "changed.py").write_text(
        "import os\n"
        "from isometry.launch.ddp import worker as original\n"
        "def worker(*arguments):\n"
        f"    {body}\n"
        "    original(*arguments)\n"
    )
    (folder / "go.py").write_text(
        "import sys\n"
        "import isometry.launch.ddp as ddp\n"
        "from changed import worker\n"
        "ddp.worker = worker\n"
        "from isometry.cli import main\n"
        "sys.argv = ['isometry', 'train', *sys.argv[1:]]\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    arguments = [
        *COMMON,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        f"paths.runs={folder}/runs",
        *overrides,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "ISOMETRY_DATA": str(folder / "data"),
    }
    command = [sys.executable, str(folder / "go.py"), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_a_dying_rank_ends_the_run_as_failed(tmp_path):
    done = run_with_worker(tmp_path, "os.environ['RANK'] == '1' and os._exit(7)")
    assert done.returncode == 1
    (status,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/status.json"))
    assert status["state"] == "failed"
    assert "rank 1 failed" in status["reason"]


@pytest.mark.parametrize(
    ("launched", "parent", "error", "state"),
    [
        (True, -1, RuntimeError("the connection was closed by a peer"), "interrupted"),
        (True, None, RuntimeError("a peer has died"), "failed"),
        (False, -1, RuntimeError("an orphan's own mistake"), "failed"),
        (False, None, DiskFull("no room"), "interrupted"),
    ],
)
def test_what_goes_wrong_when_the_launcher_is_gone_is_no_failure_of_the_run(
    monkeypatch, launched, parent, error, state
):
    """Killed, it takes the processes' store with it: who notices first ends, and the others lose it
    in a sum.
    """
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1") if launched else monkeypatch.delenv(
        "TORCHELASTIC_RUN_ID", raising=False
    )
    monkeypatch.setattr(processes, "PARENT", os.getppid() if parent is None else parent)
    assert state_after(error) == state


ENDLESS = [
    "trainer.devices=2",
    "trainer.max_steps=1000000",
    "trainer.max_epochs=100000",
    "model.depth=10",
    "logger=none",
]


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path):
    """Without the agreement rank 0 would wait for rank 1's gradients."""
    (tmp_path / "later.py").write_text(
        "import os, pathlib, signal, threading, time\n"
        "def later():\n"
        "    while not "
        f"list(pathlib.Path({str(tmp_path)!r}).glob('runs/*/*/checkpoints/last.ckpt')):\n"
        "        time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "def start():\n"
        "    threading.Thread(target=later, daemon=True).start()\n"
    )
    done = run_with_worker(
        tmp_path, "os.environ['RANK'] == '1' and __import__('later').start()", *ENDLESS
    )
    assert_interrupted(tmp_path, done.returncode, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "more"),
    [
        (signal.SIGINT, []),
        (signal.SIGHUP, []),
        (signal.SIGTERM, ["trainer.limit_train_batches=1"]),
        (signal.SIGUSR2, ["trainer.limit_train_batches=4", "trainer.accumulate_grad_batches=2"]),
    ],
)
def test_a_signal_to_the_launcher_stops_the_run_where_it_can_go_on(tmp_path, number, more):
    process = endless(tmp_path, *more)
    process.send_signal(number)
    _, errors = process.communicate(timeout=25)  # the launcher would kill after 30 seconds
    assert_interrupted(tmp_path, process.returncode, errors)
    assert "Traceback" not in errors


@pytest.mark.slow
def test_processes_meet_where_nobody_else_comes(tmp_path):
    """Every port that a rank or the launcher listens at is on the loopback interface, and their
    store is a file in a folder of this user's.
    """
    process = endless(tmp_path)
    family = [process.pid, *children(process.pid)]
    ports = list(itertools.chain.from_iterable(map(listening, family)))
    (folder,) = meetings(tmp_path)
    mode = folder.stat().st_mode
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=25)
    assert ports  # gloo's
    assert {address for address, _ in ports} <= {"127.0.0.1", "::1"}
    assert stat.S_IMODE(mode) == 0o700
    assert not folder.exists()


def meetings(folder: Path) -> list[Path]:
    """Where the processes of `endless` meet."""
    return [path.parent for path in folder.glob("tmp/isometry-*/processes")]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def listening(pid: int) -> list[tuple[str, int]]:
    """Address and port of each socket that a process listens at."""
    return [
        connection.laddr
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="here several processes take GPUs")
def test_without_a_gpu_several_processes_train_on_the_cpu(tmp_path, data_cache):
    """Torch may be built for one all the same."""
    words = [*COMMON, "trainer=ddp", "trainer.accelerator=auto", f"paths.data={data_cache}"]
    done = subprocess.run([ISOMETRY, "train", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (status,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/status.json"))
    assert status["state"] == "finished"


@pytest.mark.slow
def test_ranks_that_were_just_born_end_with_their_launcher(tmp_path):
    """They would wait half an hour for a meeting to which nobody comes."""
    began = time.monotonic()
    run_with_worker(
        tmp_path,
        "os.environ['RANK'] == '0' and os.kill(os.getppid(), 9); "
        "os.environ['RANK'] == '1' and __import__('time').sleep(5)",
    )  # returns when all have closed its output
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_killed_launcher_leaves_a_run_that_goes_on(tmp_path):
    """Its processes lose the store by which they agree; none of them may call the run failed, which
    would be trained anew.
    """
    process = endless(tmp_path)
    process.kill()
    process.communicate(timeout=30)  # also the other processes, which hold its stderr, are gone
    (path,) = tmp_path.glob("runs/*/*")
    run = RunDirectory(path)
    assert run.status()["state"] in ("running", "interrupted"), run.status()
    assert decide(run, None)[0] == "resume"


KILLS = {
    "each process stopped": ("os.kill(os.getpid(), signal.SIGTERM)", 130),
    "the launcher killed": ("os.kill(launcher, signal.SIGKILL)", -signal.SIGKILL),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", KILLS)
def test_an_epoch_that_was_cut_short_has_the_metrics_of_one_that_was_not(tmp_path, how):
    """Each process goes on with its own sums: to the last digit."""
    kill, code = KILLS[how]
    more = ["trainer.max_epochs=2", "trainer.max_steps=-1", "callbacks.checkpoints.every_n_steps=5"]
    more += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    whole = run(tmp_path, *more)
    folder = tmp_path / "cut"
    folder.mkdir()
    body = "import later; later.start()"
    (folder / "later.py").write_text(
        "import os, pathlib, signal, threading, time\n"
        "launcher = os.getppid()\n"
        "def later():\n"
        f"    runs = pathlib.Path({str(folder)!r}) / 'runs'\n"
        "    while not list(runs.glob('*/*/checkpoints/last.ckpt')):\n"
        "        time.sleep(0.005)\n"
        f"    {kill}\n"
        "def start():\n"
        "    threading.Thread(target=later, daemon=True).start()\n"
    )
    done = run_with_worker(folder, body, *more)
    assert done.returncode == code, done.stderr
    (path,) = folder.glob("runs/*/*")
    cut = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert cut % 62
    done = run_with_worker(folder, "pass", *more)
    assert done.returncode == 0, done.stderr
    a, b = (pd.read_csv(p / "metrics.csv").drop(columns="images_per_second") for p in (whole, path))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def endless(folder: Path, *more: str) -> subprocess.Popen[str]:
    """A run of two processes that has written a checkpoint."""
    command = [
        ISOMETRY,
        "train",
        *COMMON,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        f"paths.runs={folder}/runs",
    ]
    (folder / "tmp").mkdir()  # of its own: other tests' launchers meet at the same time
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ISOMETRY_DATA": str(folder / "data"),
        "TMPDIR": str(folder / "tmp"),
    }
    process = subprocess.Popen(
        [*command, *ENDLESS, *more], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not list(folder.glob("runs/*/*/checkpoints/last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def assert_interrupted(folder: Path, code: int, errors: str) -> None:
    assert code == 130, errors
    assert errors.count("the same command goes on") == 1
    (path,) = folder.glob("runs/*/*")
    assert json.loads((path / "status.json").read_text())["state"] == "interrupted"
    steps = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    rows = pd.read_parquet(path / "signals.parquet")
    # a row for every step, and none that has no checkpoint
    assert sorted(set(rows["step"])) == list(range(steps))


MUTATIONS = {
    "total": ["backprop_norm", "sample_weight_grad_rms"],
    "gathered": ["forward_second_moment", "preactivation_mean", "activation_var"],
}


@pytest.mark.slow
def test_without_its_all_reduce_the_statistics_of_the_global_batch_are_wrong(tmp_path, make_config):
    """The comparison above has teeth: reductions taken out, and their columns miss the other rank's
    examples.
    """
    one = signals(alone(make_config, f"paths.runs={tmp_path}/one"))
    out = "; ".join(f"d.{function} = lambda tensor: tensor" for function in MUTATIONS)
    done = run_with_worker(tmp_path, f"import isometry.signals.distributed as d; {out}")
    assert done.returncode == 0, done.stderr
    (path,) = (
        path.parent
        for path in tmp_path.glob("runs/*/*/status.json")
        if (path.parent / "signals.parquet").exists()
    )
    mutated = signals(path)
    for column in itertools.chain(*MUTATIONS.values()):
        a, b = (frame[frame.step < 4][column].to_numpy() for frame in (one, mutated))
        assert np.nanmax(np.abs(a / b - 1)) > 1e-3, column
    np.testing.assert_allclose(mutated.weight_grad_norm, one.weight_grad_norm, rtol=1e-9)


@pytest.mark.slow
def test_a_process_without_an_example_and_nothing_left_behind(tmp_path, monkeypatch):
    """A validation of one example, on two processes; and the temporary folder as it was."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    words = ["trainer.max_epochs=1", "trainer.max_steps=-1", "trainer.limit_train_batches=3"]
    words += ["data.val_size=1", "trainer.accelerator=cpu"]
    folders = [tmp_path / name for name in ("two", "one")]
    for folder in folders:
        folder.mkdir()
    two = run(folders[0], *words, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    one = run(folders[1], *words)
    found, expected = (
        pd.read_csv(path / "metrics.csv")["val_loss"].dropna().tolist() for path in (two, one)
    )
    assert len(found) == 1
    assert found == pytest.approx(expected, rel=1e-9)
    assert not [path.name for path in scratch.iterdir() if "wandb" not in path.name]
