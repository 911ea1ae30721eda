"""`isometry report`: run table, figure and W&B folders of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from isometry.console import plain_console, wide_console
from isometry.errors import Damaged, bad_value
from isometry.runs.directory import RunDirectory
from isometry.runs.signal_store import read_signals
from isometry.runs.table import CHOICES, run_table, runs_of

STATE_COLOURS = {
    "finished": "green",
    "diverged": "red",
    "failed": "bold red",
    "interrupted": "yellow",
    "running": "cyan",
}
VERDICT_COLOURS = {"healthy": "green", "vanishing": "blue", "exploding": "red"}


def report(config: DictConfig) -> None:
    """Report a study that has run."""
    study = Path(config.paths.runs) / config.study_name
    if not runs_of(study):
        known = sorted(
            {path.parents[1].name for path in Path(config.paths.runs).glob("*/*/status.json")}
        )
        raise bad_value(
            "study_name",
            config.study_name,
            f"no runs below {study}; there are {', '.join(known) or 'none at all'}",
        )
    report_study(study, wide_console())


def report_study(study: Path, console: Console) -> None:
    """Print the table of a study, draw its figure, and say where W&B's folders are. What cannot be
    read is named and left out.
    """
    table = run_table(study)
    signals = {path: _signals(Path(path)) for path in table["path"]}
    whole = {path: rows for path, rows in signals.items() if not isinstance(rows, str)}
    damages = [*table.get("reason", pd.Series(dtype=str)).dropna()]
    damages += [rows for rows in signals.values() if isinstance(rows, str)]
    varying = varying_choices(table)
    console.print(fitting_table(table, whole, varying, study.name, console.width))
    for damage in dict.fromkeys(damages):
        console.print(f"left out: {damage}", soft_wrap=True)
    figure = draw_study(study, table, whole, varying)
    console.print(f"Figure: {figure or 'none, no run has recorded step 0'}", soft_wrap=True)
    print_wandb(runs_of(study), study, console)


COLUMNS = ("kind", "backprop_norm", "displacement", "update_ratio")


def _signals(run: Path) -> pd.DataFrame | str:
    """What the report needs of a run's signals; where they are damaged, the reason."""
    try:
        return read_signals(RunDirectory(run).signals, COLUMNS)
    except Damaged as damage:
        return str(damage)


def varying_choices(table: pd.DataFrame) -> list[str]:
    """The choices that differ between the runs, and the seed if it does."""
    columns = [column for column in (*CHOICES, "seed") if column in table]
    return [column for column in columns if table[column].nunique(dropna=False) > 1] or [
        "activation" if "activation" in table else "run_id"
    ]


def fitting_table(
    table: pd.DataFrame,
    signals: Mapping[str, pd.DataFrame],
    varying: list[str],
    title: str,
    width: int,
) -> Table:
    """`rich_table` without the columns for which a terminal has no room: no number is cut."""
    left_out: list[str] = []
    shown = rich_table(table, signals, varying, title, left_out)
    for column in DISPENSABLE:
        if Measurement.get(plain_console(width=1000), ROOMY, shown).maximum <= width:
            break
        left_out.append(column)
        shown = rich_table(table, signals, varying, title, left_out)
    return shown


def rich_table(
    table: pd.DataFrame,
    signals: Mapping[str, pd.DataFrame],
    varying: list[str],
    title: str,
    left_out: Sequence[str] = (),
) -> Table:
    """One row a run: what it is, how it ended, and whether the gradient reached the first layer."""
    shown = Table(title=f"study {title}", caption=_legend(left_out), caption_justify="left")
    for column in varying:
        shown.add_column(column)
    kept = [column for column in COLUMNS_OF_RUN if column not in left_out]
    for column in kept:
        words = column in ("state", "outcome", "verdict")
        heading = "\n".join(column.rsplit(" ", 1))
        shown.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for row in table.to_dict("records"):
        cells = _cells(row, signals.get(row["path"]))
        shown.add_row(*(str(row[column]) for column in varying), *(cells[name] for name in kept))
    return shown


def _legend(left_out: Sequence[str]) -> str:
    return LEGEND + (f" No room here for: {'; '.join(left_out)}." if left_out else "")


COLUMNS_OF_RUN = (
    *("state", "outcome", "verdict", "saturated", "gradient rate", "layer 1 / last"),
    *("layer 1 moved", "largest update", "test accuracy"),
)
DISPENSABLE = ("largest update", "layer 1 moved", "gradient rate", "saturated", "layer 1 / last")
"""Columns in the order in which they are left out where there is no room."""
LEGEND = (
    "verdict, at step 0: vanishing where backprop_norm of layer 1 is under 1e-2 of the last hidden "
    "layer's, exploding over 1e2 (the defaults of verdict.*); saturated: largest share of a "
    "layer's units at step 0; outcome: learned where the test is above guessing by 3 standard "
    "errors."
)
ROOMY = plain_console(width=1000).options


def _cells(row: dict[Any, Any], signals: pd.DataFrame | None) -> dict[str, Text | str]:
    state = str(row["state"])
    verdict = row.get("verdict_init")
    verdict = verdict if isinstance(verdict, str) else "-"
    outcome = row.get("outcome")
    moved, largest = _movement(signals, state)
    return {
        "state": Text(state + _where(row), STATE_COLOURS.get(state, "white")),
        "outcome": outcome if isinstance(outcome, str) else "-",
        "verdict": Text(verdict, VERDICT_COLOURS.get(verdict, "white")),
        "saturated": _number(row.get("saturation_init"), ".0%"),
        "gradient rate": _number(row.get("gradient_rate_init"), ".3f"),
        "layer 1 / last": _number(row.get("gradient_ratio_init"), ".2e"),
        "layer 1 moved": _number(moved, ".1e"),
        "largest update": _number(largest, ".1e"),
        "test accuracy": _number(row.get("test_accuracy"), ".3f"),
    }


def _where(row: dict[Any, Any]) -> str:
    """Step and layer of a divergence, as far as they are known."""
    if row["state"] != "diverged":
        return ""
    step = _number(row.get("first_nonfinite_step"), ".0f")
    return f" at step {step}, layer {_number(row.get('first_nonfinite_layer'), '.0f')}"


def _number(value: Any, form: str) -> str:
    number = isinstance(value, int | float) and not pd.isna(value)
    return format(value, form) if number else "-"


def _movement(rows: pd.DataFrame | None, state: str) -> tuple[float | None, float | None]:
    """‖W_t - W_0‖/‖W_0‖ of layer 1 at the end (none for a diverged run), and the largest ‖ΔW‖/‖W‖
    of any layer and step.
    """
    if rows is None:
        return None, None
    moved = rows.loc[rows["layer"] == 1, "displacement"].dropna()
    largest = rows["update_ratio"].dropna()
    end = None if moved.empty or state == "diverged" else float(moved.iloc[-1])
    return end, None if largest.empty else float(largest.max())


def draw_study(
    study: Path, table: pd.DataFrame, signals: Mapping[str, pd.DataFrame], varying: list[str]
) -> Path | None:
    """`gradient_against_depth.png` of a study: `backprop_norm` at initialization, a line a run.

    Returns:
        its path, None where no run got as far as step 0.
    """
    from isometry.plots.depth import against_depth
    from isometry.plots.style import save

    panel, *rest = varying
    frames = [pd.DataFrame()]
    for row in table[table["path"].isin(signals.keys())].to_dict("records"):
        found = signals[row["path"]]
        label = ", ".join(str(row[column]) for column in rest) or "all"
        first = found[(found["step"] == 0) & (found["kind"] == "hidden")]
        frames.append(first.assign(panel=str(row[panel]), label=label))
    rows = pd.concat(frames)
    if rows.empty:
        return None
    ylabel = r"backprop_norm $\sqrt{\langle\|\delta_l\|^2\rangle}$"
    figure = against_depth(
        rows, "backprop_norm", ylabel, "Does the gradient reach the first layer? (step 0)"
    )
    return save(figure, study / "gradient_against_depth")[0]


def print_wandb(runs: list[RunDirectory], study: Path, console: Console) -> None:
    """The offline runs of W&B, and the lines that upload or browse them."""
    folders = [path for run in runs for path in sorted(run.path.glob("wandb/offline-run-*"))]
    if not folders:
        return
    console.print(f"W&B offline runs: {len(folders)}, in {study}/*/wandb", soft_wrap=True)
    console.print(f"Upload:  wandb sync {quote(str(study))}/*/wandb/offline-run-*", soft_wrap=True)
    console.print(f"Browse:  wandb leet {quote(str(folders[-1].parent))}", soft_wrap=True)
