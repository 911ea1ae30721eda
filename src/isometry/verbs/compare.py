"""`isometry compare`: runs side by side, on the terminal and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from isometry.compare.collect import collect
from isometry.compare.comparison import Comparison, compare
from isometry.compare.documents import write_documents
from isometry.compare.factors import REPLICATE
from isometry.compare.metrics import metric, usual
from isometry.compare.page import write_page
from isometry.compare.pictures import draw_against, draw_study, numbers_of
from isometry.compare.table import Choices
from isometry.config.compose import resolved
from isometry.console import wide_console
from isometry.errors import UserError
from isometry.runs.files import written_below
from isometry.verbs.report import show_comparison


def compare_runs(config: DictConfig) -> None:
    """Compare the runs of some studies: print the table and what explains it, write both as csv,
    parquet, LaTeX and Markdown, draw the figures, write the page.

    Raises:
        UserError: for a word that stands for no run; for a choice that the runs do not have.
    """
    chosen = resolved(config)
    runs = Path(config.paths.runs)
    comparison = compared(chosen, runs)
    if chosen["x"] is not None and not comparison.table.runs.empty:
        numbers_of(comparison, chosen["x"])  # a mistake is told before anything is shown
    show_comparison(comparison, wide_console())
    if comparison.table.runs.empty:
        raise UserError("isometry compare: none of these runs can be read")
    folder = Path(chosen["folder"] or folder_of(comparison, runs))
    with written_below("folder", folder):
        paths = write_all(comparison, folder, chosen["x"], chosen["html"])
    for path in paths:
        print(path)


def compared(chosen: dict[str, Any], runs: Path) -> Comparison:
    """The runs that the words stand for, side by side as the keys ask."""
    words = [str(word) for word in chosen["studies"]]
    if not words:
        which = "which runs? Name a study, or several, or run directories"
        raise UserError(f"isometry compare: {which}")
    x = [name for name in [chosen["x"]] if name is not None]
    by = None if chosen["by"] is None else [*chosen["by"], *x]
    always = [name for name in [*(by or x), *chosen["over"]] if name != REPLICATE]
    choices = Choices(by, *(chosen[key] for key in ("over", "where", "sort", "top")))
    found = collect(words, runs, always)
    asked = chosen["metrics"] or usual(record.summary for record in found.records)
    return compare(found, list(map(metric, asked)), choices, ", ".join(words))


def folder_of(found: Comparison, runs: Path) -> Path:
    """The folder of the study, where there is one."""
    folders = {Path(path).parent for path in found.table.runs["path"]}
    return folders.pop() if len(folders) == 1 else runs / "compare"


def write_all(found: Comparison, folder: Path, x: str | None, html: bool) -> list[Path]:
    """Every file of a comparison; returns the paths.

    Raises:
        UserError: for an x that is no number.
    """
    paths = write_documents(found, folder)
    paths += draw_study(folder, found)
    paths += [draw_against(folder, found, x)] if x is not None else []
    return [*paths, write_page(found, folder / "compare.html")] if html else paths
