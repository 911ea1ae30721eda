"""Whatever W&B's server does, the training goes on, local files are whole, and one warning says
what to do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from wandb_server import KEY, RUN, Loopback

pytestmark = pytest.mark.slow
Done = subprocess.CompletedProcess[str]
LIMIT = 150
HOLD = 600
"""Seconds: within the first a training is over, on any machine; a server that hangs says nothing
for the second.
"""


class Server(Loopback):
    """A loopback endpoint that speaks as much of W&B's protocol as starting a run needs; answers
    until told not to.

    Args:
        failing: "hang" keeps every connection open without an answer, "drop" closes it; None
            answers.

    Attributes:
        requests: how many came.
    """

    def __init__(self, failing: str | None = None):
        self.failing = failing
        self.requests = 0
        self.over = threading.Event()
        super().__init__()

    def reply(self, path: str, content: bytes) -> dict[str, object] | None:
        self.requests += 1
        if self.failing == "hang":
            self.over.wait(HOLD)
        if self.failing is not None:
            return None
        known = {"upsertBucket": {"bucket": RUN, "inserted": True}}
        return {"data": known if b"UpsertBucket" in content else {}}

    def close(self) -> None:
        self.over.set()
        super().close()


def train(folder: Path, data: Path, url: str, *overrides: str, key: str = KEY) -> Done:
    # whoever runs the tests offline has WANDB_MODE set, which would win over logger.offline=false
    outside = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = {**outside, "WANDB_BASE_URL": url, "WANDB_API_KEY": key, "OMP_NUM_THREADS": "1"}
    small = [
        "model.depth=3",
        "trainer.max_steps=6",
        "callbacks.signals.every_n_steps=2",
        "callbacks.signals.flush_every=2",
    ]
    online = [
        "logger=wandb",
        "logger.offline=false",
        "logger.patience=4",
        "trainer=cpu",
        "pictures=false",
    ]
    command = [
        str(Path(sys.executable).parent / "isometry"),
        "train",
        f"paths.runs={folder}",
        f"paths.data={data}",
    ]
    words = [*command, *small, *online, *overrides]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT)


def check_whole(folder: Path, done: Done) -> Path:
    """A finished run with every file, one warning, no traceback; returns its directory."""
    assert done.returncode == 0, done.stderr[-2000:]
    (status,) = folder.glob("*/*/status.json")
    assert json.loads(status.read_text())["state"] == "finished"
    assert sorted(pd.read_parquet(status.parent / "signals.parquet").step.unique()) == [
        0,
        2,
        4,
        5,
        6,
    ]
    assert json.loads((status.parent / "summary.json").read_text())["test_accuracy"] is not None
    assert "Traceback (most recent call last)" not in re.sub(
        r"Exception ignored in atexit.*", "", done.stderr, flags=re.S
    )
    return status.parent


def sync_hint(done: Done) -> int:
    return (done.stderr + done.stdout).count("what W&B missed is sent by: wandb sync")


@pytest.mark.parametrize("failing", ["hang", "drop", "refuse"])
def test_a_server_that_does_not_answer(tmp_path, data_cache, failing):
    server = Server(None if failing == "refuse" else failing)
    if failing == "refuse":
        server.close()
    done = train(tmp_path, data_cache, server.url)
    run = check_whole(tmp_path, done)
    assert sync_hint(done) == 1, done.stderr
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    server.close()


def test_a_server_that_is_lost_in_mid_run(tmp_path, data_cache):
    server = Server()

    def lose() -> None:
        """After the first part of signals the server is gone."""
        while not list(tmp_path.glob("*/*/signals.parquet/*.parquet")):
            time.sleep(0.05)
        server.failing = "hang"

    threading.Thread(target=lose, daemon=True).start()
    done = train(tmp_path, data_cache, server.url, "trainer.max_steps=6")
    run = check_whole(tmp_path, done)
    assert server.requests > 0
    assert sync_hint(done) == 1, done.stderr
    assert list(run.glob("wandb/run-*/*.wandb"))
    server.close()


@pytest.mark.parametrize("key", ["short", "z" * 40])
def test_a_bad_key(tmp_path, data_cache, key):
    server = Server("drop")
    done = train(tmp_path, data_cache, server.url, key=key)
    check_whole(tmp_path, done)
    assert sync_hint(done) == 1, done.stderr
    server.close()
