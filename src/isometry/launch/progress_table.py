"""What a sweep shows while it runs: one live table on a terminal, plain lines otherwise, and the
table at the end.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from isometry.console import plain_console
from isometry.launch.job import Job

COLOURS = {
    "done": "green",
    "failed": "bold red",
    "interrupted": "yellow",
    "running": "cyan",
    "skipped": "dim",
    "busy": "magenta",
}
MOST_ROWS = 25


class ProgressTable:
    """Follows the jobs of a sweep on standard error.

    Args:
        jobs: all of them.
        slots: how many can run at once, for the estimate of the time left.
    """

    def __init__(self, jobs: Sequence[Job], slots: int):
        self.jobs = jobs
        self.slots = max(1, slots)
        self.console = plain_console(stderr=True)
        self.began = time.time()
        self._live = (
            Live(console=self.console, auto_refresh=False, transient=True)
            if sys.stderr.isatty()
            else None
        )
        self._told: dict[int, str] = {}

    def __enter__(self) -> ProgressTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def refresh(self) -> None:
        """Show what has changed."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for job in self.jobs:
            if self._told.get(job.number, "waiting") != job.state and job.state != "skipped":
                self._told[job.number] = job.state
                self.console.print(
                    (
                        f"#{job.number} {job.state:11} {' '.join(job.held):8} "
                        f"{job.words}{_because(job)}"
                    ),
                    soft_wrap=True,
                )

    def _table(self) -> Table:
        counts = Counter(job.state for job in self.jobs)
        summary = ", ".join(f"{count} {state}" for state, count in counts.items())
        table = Table(title=f"{summary}{self._time_left()}", expand=False)
        for heading in ("job", "overrides", "state", "epoch", "accuracy", "device"):
            table.add_column(heading, no_wrap=heading != "overrides")
        for job in self._shown():
            epoch, accuracy = progress(job)
            state = Text(job.state, COLOURS.get(job.state, "white"))
            held = " ".join(job.held)
            table.add_row(str(job.number), job.words, state, epoch, accuracy, held)
        return table

    def _shown(self) -> list[Job]:
        """Running and failed jobs first; a screen has no room for a thousand."""
        order = {
            "running": 0,
            "failed": 1,
            "interrupted": 1,
            "done": 2,
            "waiting": 3,
            "busy": 4,
            "skipped": 5,
        }
        chosen = sorted(
            self.jobs, key=lambda job: (order[job.state], -(job.ended or 0.0), job.number)
        )[:MOST_ROWS]
        return sorted(chosen, key=lambda job: job.number)

    def _time_left(self) -> str:
        seconds = [
            job.ended - job.started
            for job in self.jobs
            if job.state == "done" and job.started and job.ended
        ]
        waiting = sum(job.state in ("waiting", "running") for job in self.jobs)
        if not seconds or not waiting:
            return ""
        left = sum(seconds) / len(seconds) * waiting / self.slots
        return f"; about {left / 60:.0f} min left" if left > 90 else f"; about {left:.0f} s left"


def progress(job: Job) -> tuple[str, str]:
    """Epoch and validation accuracy of a running job, from the last line of its metrics.csv."""
    if job.state not in ("running", "done") or not job.run.metrics.exists():
        return "", ""
    try:
        header, *_, last = job.run.metrics.read_text().splitlines()
        values = dict(zip(header.split(","), last.split(","), strict=True))
        accuracy = values.get("test_accuracy") or values.get("val_accuracy") or ""
        return values.get("epoch", ""), f"{float(accuracy):.3f}" if accuracy else ""
    except ValueError:  # one line, or a file that is being replaced
        return "", ""


def final(jobs: Sequence[Job], console: Console) -> None:
    """Counts, and what went wrong with the end of its log."""
    counts = Counter(job.state for job in jobs)
    console.print(
        "sweep: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    )
    for job in jobs:
        if job.state == "failed":
            failed = Text(f"#{job.number} failed", "bold red")
            failed.append(f": {job.words}{_because(job)}", "not bold default")
            console.print(failed, soft_wrap=True)
            for line in job.last_lines():
                console.print(f"    {line}", soft_wrap=True)
            console.print(f"    whole log: {job.log}", soft_wrap=True)


def _because(job: Job) -> str:
    return f" ({job.note})" if job.note else ""
