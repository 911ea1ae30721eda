"""What the page shows, as small tables: each has `row`, the number of a configuration."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isometry.compare.comparison import Comparison
from isometry.compare.explain import KNOWN_BEFORE, before
from isometry.compare.table import Configuration, Table, shown_level
from isometry.compare.words import counted, shown_mean
from isometry.errors import Damaged
from isometry.plots.logarithms import logarithms
from isometry.plots.seeds import interval
from isometry.runs.directory import RunDirectory
from isometry.runs.metrics import MetricsFile

BUDGET = 60_000
"""Rows of profiles: two megabytes."""
MOST_MOMENTS = 20
MOST_LAYERS = 60
POINTS = 40
"""Of a learning curve."""
COUNTED = ("row", "run", "layer", "moment", "step", "status")
CURVES = ("train_loss", "val_accuracy")


@dataclass(frozen=True)
class PageData:
    """The tables of a page.

    Attributes:
        rows: a line each: `row`, `name`, and the cells `c0`, `c1`, ...
        headings: of these cells.
        first: how many of them stand before the judged metric.
        runs: `row`, `run`, `y` (the judged metric), and what was known before, `before_0`, ...
        known: names of what was known before.
        parallel: `row`, `run`, `axis`, `height` in 0 ... 1, `shown`.
        profiles: `row`, `run`, `moment`, `step`, `layer`, `value` (log10 of backprop_norm) and
            its `status`.
        layers: `row`, `layer`, and mean and interval of saturation and displacement.
        curves: `row`, `step`, `what`, and mean and interval.
        events: `row`, `run`, `step`, `event`: diverged, or alarm.
        steps: of the moments.
    """

    rows: pd.DataFrame
    headings: list[str]
    first: int
    runs: pd.DataFrame
    known: list[str]
    parallel: pd.DataFrame
    profiles: pd.DataFrame
    layers: pd.DataFrame
    curves: pd.DataFrame
    events: pd.DataFrame
    steps: list[int]


def page_data(found: Comparison) -> PageData:
    """The tables of a comparison's page."""
    table = found.table
    runs = pd.concat(
        [row.runs.assign(row=number) for number, row in enumerate(table.rows)], ignore_index=True
    )
    runs["run"] = range(len(runs))
    hidden = found.hidden()
    profiles, steps = _profiles(runs, hidden)
    rows, headings = _rows(table)
    scatter, known = _scatter(runs, table)
    return PageData(
        rows,
        headings,
        headings.index(table.metrics[0].name),
        scatter,
        known,
        _parallel(runs, table),
        profiles,
        _layers(hidden),
        _curves(runs),
        _events(runs),
        steps,
    )


def as_csv(frame: pd.DataFrame) -> str:
    """Four significant digits, a third of the bytes of JSON; what is counted is whole."""
    text = io.StringIO()
    counted = {name: np.int64 for name in COUNTED if name in frame}
    frame.astype(counted).to_csv(text, index=False, float_format="%.4g")
    return text.getvalue()


# ---- the table -----------------------------------------------------------------------------------


def _rows(table: Table) -> tuple[pd.DataFrame, list[str]]:
    headings = [*table.factors, "runs", "state", *(metric.name for metric in table.metrics)]
    lines = []
    for number, row in enumerate(table.rows):
        cells = {f"c{i}": text for i, text in enumerate(_cells(row, table))}
        lines.append({"row": number, "name": row.name, "best": row.best, **cells})
    return pd.DataFrame(lines), headings


def _cells(row: Configuration, table: Table) -> list[str]:
    cells = [shown_level(value) for value in row.levels.values()]
    cells += [str(len(row.runs)), ", ".join(text for _, text in counted(row.runs, "state"))]
    for metric in table.metrics:
        mark = " *" if row.best else " =" if row.tied else ""
        judged = metric is table.metrics[0]
        mean = shown_mean(row.means[metric.name], metric, len(row.runs))
        cells.append(mean + (mark if judged else ""))
    return cells


def _scatter(runs: pd.DataFrame, table: Table) -> tuple[pd.DataFrame, list[str]]:
    """The judged metric, and what was known before the first step."""
    metric = table.metrics[0].name
    frame = runs[["row", "run", "seed"]].assign(y=runs[metric].astype(float))
    known = [(key, before(runs, key)) for key, _ in KNOWN_BEFORE]
    there = [(key, values) for key, values in known if values.notna().any()]
    for index, (_, values) in enumerate(there):
        frame[f"before_{index}"] = values.replace(np.inf, np.nan)
    return frame, [key for key, _ in there]


def _parallel(runs: pd.DataFrame, table: Table) -> pd.DataFrame:
    """One point for each run and axis: factors by the place of their value, metrics by size."""
    frames = []
    for name in table.factors:
        levels = list(dict.fromkeys(row.levels[name] for row in table.rows))
        places = runs[name].map(levels.index)
        frames.append(_axis(runs, name, places, runs[name].map(shown_level)))
    for metric in table.metrics:
        values = runs[metric.name].astype(float)
        heights = np.log(values.where(values > 0)) if metric.geometric else values
        shown = values.map(lambda value, form=metric.form: format(value, form))
        frames.append(_axis(runs, metric.name, pd.Series(heights), shown))
    return pd.concat(frames, ignore_index=True)


def _axis(runs: pd.DataFrame, name: str, heights: pd.Series, shown: pd.Series) -> pd.DataFrame:
    spread = heights.max() - heights.min()
    scaled = (heights - heights.min()) / (spread if spread > 0 else 1.0)
    known = {"axis": name, "height": scaled, "shown": shown}
    return runs[["row", "run"]].assign(**known).dropna(subset="height")


# ---- against depth -------------------------------------------------------------------------------


def _profiles(runs: pd.DataFrame, hidden: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    numbers = dict(zip(runs["run_id"], runs["run"], strict=True))
    known = hidden[hidden["nonfinite"].notna()]
    known = known.assign(run=known["run_id"].map(numbers))
    depth = 0 if known.empty else int(known["layer"].max())
    known = known[known["layer"].isin(shown_layers(depth))]
    steps = moments(known)
    frames = [_at_moment(known, moment, step) for moment, step in enumerate(steps)]
    names = ("row", "run", "layer", "moment", "step", "value", "status")
    return pd.concat([pd.DataFrame({name: [] for name in names}), *frames]), steps


def shown_layers(depth: int) -> list[int]:
    """At most `MOST_LAYERS` of the layers, the first and the last among them."""
    count = min(depth, MOST_LAYERS)
    return sorted({int(layer) for layer in np.linspace(1, max(depth, 1), count).round()})


def moments(hidden: pd.DataFrame) -> list[int]:
    """Steps that the slider offers: spread over those that were recorded, as many as the page has
    room for.

    Args:
        hidden: `run`, `step` and `layer`.
    """
    recorded = sorted(int(step) for step in hidden["step"].unique())
    per_moment = len(hidden[["run", "layer"]].drop_duplicates())
    count = int(np.clip(BUDGET // max(per_moment, 1), 2, MOST_MOMENTS))
    if len(recorded) <= count:
        return recorded
    places = np.linspace(0, len(recorded) - 1, count).round().astype(int)
    return [recorded[place] for place in places]


def _at_moment(hidden: pd.DataFrame, moment: int, step: int) -> pd.DataFrame:
    """Each run's latest record at a step, as long as it recorded."""
    last = hidden.groupby("run")["step"].transform("max")
    before = hidden[(hidden["step"] <= step) & (last >= step)]
    latest = before.groupby("run")["step"].transform("max")
    there = before[before["step"] == latest]
    logs, status = logarithms(there["backprop_norm"].to_numpy(dtype=float))
    kept = there[["row", "run", "layer"]]
    return kept.assign(moment=moment, step=step, value=logs, status=status)


def _layers(hidden: pd.DataFrame) -> pd.DataFrame:
    """Saturation at step 0 and displacement at the end (log10), over the seeds."""
    start = hidden[hidden["step"] == 0]
    ended = hidden["state"] != "diverged"
    moved = hidden[(hidden["displacement"] > 0) & ended].drop_duplicates(
        ["run_id", "layer"], keep="last"
    )
    saturation = start[["row", "layer"]].assign(what="saturation", value=start["saturation"])
    logs = np.log10(moved["displacement"].astype(float))
    displacement = moved[["row", "layer"]].assign(what="displacement", value=logs)
    long = pd.concat([saturation, displacement]).dropna(subset="value")
    return interval(long, ["row", "what", "layer"], "value").reset_index()


# ---- against steps -------------------------------------------------------------------------------


def _curves(runs: pd.DataFrame) -> pd.DataFrame:
    frames = [pd.DataFrame({name: [] for name in ("row", "what", "step", "value")})]
    for row, path in runs[["row", "path"]].itertuples(index=False):
        frames += _curves_of(path, row)
    long = thinned(pd.concat(frames, ignore_index=True))
    return interval(long, ["row", "what", "step"], "value").reset_index()


def thinned(curves: pd.DataFrame) -> pd.DataFrame:
    """At most `POINTS` steps of each curve of a configuration, the same of all its seeds: means of
    other seeds at each step would be no curve.
    """
    groups = curves.groupby(["row", "what"])["step"]
    places = groups.rank(method="dense")
    stride = np.ceil(groups.transform("nunique") / POINTS)
    return curves[((places - 1) % stride == 0) | (places == groups.transform("nunique"))]


def _curves_of(path: str, row: int) -> Iterator[pd.DataFrame]:
    try:
        metrics = MetricsFile(RunDirectory(Path(path)).metrics).rows
    except Damaged:
        return
    for what in CURVES:
        points = {step: float(line[what]) for step, line in metrics.items() if what in line}
        known = {"row": row, "what": what, "step": list(points), "value": list(points.values())}
        yield pd.DataFrame(known)


EVENTS = {"first_nonfinite_step": "diverged", "alarm_step": "alarm"}
"""Keys of the summary that are the step of something."""


def _events(runs: pd.DataFrame) -> pd.DataFrame:
    frames = [pd.DataFrame({name: [] for name in ("row", "run", "step", "event")})]
    for key, event in EVENTS.items():
        if key not in runs:
            continue
        steps = pd.to_numeric(runs[key], errors="coerce")
        there = runs[["row", "run"]].assign(step=steps, event=event)
        frames.append(there.dropna(subset="step"))
    return pd.concat(frames, ignore_index=True)
