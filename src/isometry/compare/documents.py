"""A comparison as csv, parquet, LaTeX (booktabs) and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from isometry.compare.comparison import Comparison
from isometry.compare.explain import sentences
from isometry.compare.metrics import Metric
from isometry.compare.table import Configuration, Table, shown_level
from isometry.compare.words import counted, legend, notes, shown_mean
from isometry.runs.directory import STATES
from isometry.runs.files import write_text, write_whole


def write_documents(found: Comparison, folder: Path) -> list[Path]:
    """Write `compare.csv`, `.parquet`, `.tex`, `.md` (a row a configuration), and
    `compare_runs.csv` (a row a run); returns their paths.
    """
    frame = numbers(found.table)
    paths = [folder / f"compare.{suffix}" for suffix in ("csv", "parquet", "tex", "md")]
    csv, parquet, tex, markdown = paths
    write_text(csv, frame.to_csv(index=False))
    write_whole(parquet, lambda path: uniform(frame).to_parquet(path, index=False))
    write_text(tex, latex(found.table))
    write_text(markdown, in_markdown(found))
    runs = folder / "compare_runs.csv"
    write_text(runs, found.table.runs.to_csv(index=False))
    return [*paths, runs]


def numbers(table: Table) -> pd.DataFrame:
    """One row a configuration: its factors, `runs`, runs by state, and of each metric the mean,
    `_low`, `_high`, `_n` and `_interval` (its method); `best`, `tied` of the first one.
    """
    return pd.DataFrame([_numbers(row, table.metrics) for row in table.rows])


def _numbers(row: Configuration, metrics: Sequence[Metric]) -> dict[str, Any]:
    states = {state: int((row.runs["state"] == state).sum()) for state in STATES}
    known: dict[str, Any] = {**row.levels, "runs": len(row.runs), **states}
    for metric in metrics:
        mean = row.means[metric.name]
        known[metric.name] = mean.value
        known |= {f"{metric.name}_low": mean.low, f"{metric.name}_high": mean.high}
        known |= {f"{metric.name}_zeros": mean.zeros} if metric.geometric else {}
        known |= {f"{metric.name}_n": mean.n, f"{metric.name}_interval": mean.method}
    return {**known, "best": row.best, "tied": row.tied}


def uniform(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each: a factor that is a number here and a word there is text."""
    mixed = [str(name) for name in frame if frame[name].map(type).nunique() > 1]
    return frame.assign(**{name: frame[name].map(shown_level) for name in mixed})


# ---- as text -------------------------------------------------------------------------------------


def cells(table: Table) -> pd.DataFrame:
    """The table as it is read: `0.936 ± 0.012`; the best mean of the first metric ends in ` *`, one
    that cannot be told from it in ` =`.
    """
    rows = []
    for row in table.rows:
        known = {key: shown_level(value) for key, value in row.levels.items()}
        known |= {"runs": str(len(row.runs)), "state": _states(row)}
        known |= {
            metric.name: shown_mean(row.means[metric.name], metric, len(row.runs))
            for metric in table.metrics
        }
        known[table.metrics[0].name] += " *" if row.best else " =" if row.tied else ""
        rows.append(known)
    return pd.DataFrame(rows)


def _states(row: Configuration) -> str:
    return ", ".join(text for _, text in counted(row.runs, "state"))


def in_markdown(found: Comparison) -> str:
    """Title, table, legend and what explains it; the best row is bold."""
    frame = cells(found.table)
    best = [row.best for row in found.table.rows]
    lines = [_line(frame.columns), _line(["---"] * len(frame.columns))]
    for values, bold in zip(frame.to_numpy(), best, strict=True):
        lines.append(_line([f"**{value}**" if bold else value for value in values]))
    below = [legend(found.table, found.table.metrics), *notes(found.table)]
    below += sentences(found.explanation)
    return "\n".join([f"## {found.title}", "", *lines, "", *(f"{each}\n" for each in below)])


def _line(values: Sequence[str] | pd.Index) -> str:
    return "| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |"


LATEX = {"±": r"$\pm$", "×÷": r"$\times\!/\!\div$", " *": r"$^\ast$", " =": "$^{=}$"}
"""What of the cells is a symbol there."""


def latex(table: Table) -> str:
    """A `tabular` with the rules of booktabs; the best row is bold."""
    frame = cells(table)
    best = [row.best for row in table.rows]
    bold = pd.DataFrame("", index=frame.index, columns=frame.columns)
    bold.loc[best] = "textbf:--rwrap;"
    styler = frame.style.hide(axis="index").format(_escaped).format_index(_escaped, axis=1)
    text = styler.apply(lambda _: bold, axis=None).to_latex(hrules=True)
    legend_lines = [legend(table, table.metrics), *notes(table)]
    return "".join(f"% {line}\n" for line in legend_lines) + str(text)


SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _escaped(text: Any) -> str:
    escaped = "".join(SPECIAL.get(character, character) for character in str(text))
    for words, symbol in LATEX.items():
        escaped = escaped.replace(words, symbol)
    return escaped
