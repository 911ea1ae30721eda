"""`isometry report`: table, figures and W&B folders of a study."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from omegaconf import DictConfig
from rich.console import Console

from isometry.compare.collect import collected, runs_for
from isometry.compare.comparison import Comparison, compare
from isometry.compare.explain import sentences
from isometry.compare.metrics import metric, usual
from isometry.compare.pictures import draw_study
from isometry.compare.table import Choices
from isometry.compare.terminal import show
from isometry.console import wide_console
from isometry.runs.directory import RunDirectory
from isometry.runs.files import written_below
from isometry.runs.table import runs_of


def report(config: DictConfig) -> None:
    """Report a study that has run."""
    runs_for(config.study_name, Path(config.paths.runs), "study_name")
    study = Path(config.paths.runs) / config.study_name
    with written_below("paths.runs", config.paths.runs):
        report_study(study, wide_console())


def report_study(study: Path, console: Console) -> None:
    """Print the table of a study and what explains it, draw its figures, and say where W&B's
    folders are. What cannot be read is named and left out.
    """
    runs = runs_of(study)
    found = compare_study(runs, study.name)
    show_comparison(found, console)
    figures = [str(path) for path in draw_study(study, found)]
    for figure in figures or ["none, no run has recorded step 0"]:
        console.print(f"Figure: {figure}", soft_wrap=True)
    print_wandb(runs, study, console)


def compare_study(runs: list[RunDirectory], name: str) -> Comparison:
    """All runs of a study side by side."""
    found = collected(runs)
    words = usual(record.summary for record in found.records)
    return compare(found, list(map(metric, words)), Choices(), f"study {name}")


def show_comparison(found: Comparison, console: Console) -> None:
    """Print the table and what explains it."""
    show(found.table, found.title, console)
    for line in sentences(found.explanation):
        console.print(line, soft_wrap=True)


def print_wandb(runs: list[RunDirectory], study: Path, console: Console) -> None:
    """The offline runs of W&B, and the lines that upload or browse them."""
    folders = [path for run in runs for path in sorted(run.path.glob("wandb/offline-run-*"))]
    if not folders:
        return
    console.print(f"W&B offline runs: {len(folders)}, in {study}/*/wandb", soft_wrap=True)
    console.print(f"Upload:  wandb sync {quote(str(study))}/*/wandb/offline-run-*", soft_wrap=True)
    console.print(f"Browse:  wandb leet {quote(str(browsable(study, folders)))}", soft_wrap=True)


def browsable(study: Path, folders: list[Path]) -> Path:
    """One folder with all of a study's offline runs, as links: `wandb leet` reads one."""
    place = study / "wandb"
    place.mkdir(exist_ok=True)
    for folder in folders:
        link = place / folder.name
        if not link.is_symlink():
            link.symlink_to(Path("..") / folder.relative_to(study))
    return place
