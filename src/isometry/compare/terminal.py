"""The table on a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from isometry.compare.metrics import Metric
from isometry.compare.table import Configuration, Table, shown_level
from isometry.compare.words import counted, legend, notes, shown_mean
from isometry.console import print_whole, width_of

STATE_COLOURS = {
    "finished": "green",
    "diverged": "red",
    "failed": "bold red",
    "interrupted": "yellow",
    "running": "cyan",
}
VERDICT_COLOURS = {"healthy": "green", "vanishing": "blue", "exploding": "red"}


def show(table: Table, title: str, console: Console) -> None:
    """Print the table as wide as the console is, its legend, and what was left out."""
    print_whole(fitting(table, title, console.width), console)
    for line in notes(table):
        console.print(line, soft_wrap=True)


def fitting(table: Table, title: str, width: int) -> RichTable:
    """The table without the metrics for which there is no room, the last ones first: no number is
    cut.
    """
    for count in range(len(table.metrics), 0, -1):
        shown = rich_table(table, title, table.metrics[:count])
        if width_of(shown) <= width:
            return shown
    return rich_table(table, title, table.metrics[:1])


def rich_table(table: Table, title: str, metrics: Sequence[Metric]) -> RichTable:
    """One row a configuration."""
    shown = RichTable(title=title, caption=legend(table, metrics), caption_justify="left")
    for name in table.factors:
        shown.add_column(name)
    for name in ("runs", "state", "outcome", "verdict"):
        shown.add_column(name, justify="right" if name == "runs" else "left")
    for metric in metrics:
        shown.add_column(_heading(metric.name), justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(
            *(shown_level(value) for value in row.levels.values()),
            str(len(row.runs)),
            *_words(row),
            *(_cell(row, metric, metric is table.metrics[0]) for metric in metrics),
        )
    return shown


def _heading(name: str) -> str:
    """A key on lines of up to a dozen characters."""
    return "\n".join(textwrap.wrap(re.sub(r"[._](?!\d)", r" ", name), 12))


def _words(row: Configuration) -> list[Text]:
    """State, outcome and verdict of a row's runs."""
    columns: tuple[tuple[str, dict[str, str]], ...]
    columns = (("state", STATE_COLOURS), ("outcome", {}), ("verdict_init", VERDICT_COLOURS))
    return [_coloured(row.runs, column, colours) for column, colours in columns]


def _coloured(runs: pd.DataFrame, column: str, colours: dict[str, str]) -> Text:
    found = counted(runs, column)
    parts = [
        Text(text.replace(" at ", "\nat "), colours.get(word, "white")) for word, text in found
    ]
    return Text("\n").join(parts)


def _cell(row: Configuration, metric: Metric, judged: bool) -> Text:
    mark = " =" if judged and row.tied and not row.best else ""
    text = Text(shown_mean(row.means[metric.name], metric, len(row.runs)) + mark)
    if judged and row.best:
        text.stylize("bold")
        text.append(" *")
    return text
