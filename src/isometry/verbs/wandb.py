"""`isometry wandb setup`: a saved view of a W&B project; `isometry wandb report`: a report of a
study.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import wandb
from omegaconf import DictConfig

from isometry.compare.charts import CHARTS, chart_spec
from isometry.compare.collect import collected, studies
from isometry.compare.documents import in_markdown
from isometry.compare.pictures import draw_study
from isometry.config.compose import compose
from isometry.console import console
from isometry.errors import UserError, bad_value
from isometry.runs.table import runs_of
from isometry.verbs.report import compare_study

ACTIONS = ("setup", "report")


def wandb_views(config: DictConfig) -> None:
    """Do what the first word says.

    Raises:
        UserError: for another word; where W&B is not to be reached, or lacks what is asked of it.
    """
    if config.action not in ACTIONS:
        words = f"isometry wandb {config.action or ''}: allowed are {', '.join(ACTIONS)}"
        raise UserError(words.replace(" :", ":"))
    built = _workspaces()
    with said_by_server():
        entity = config.entity or wandb.Api().default_entity
    if entity is None:
        raise bad_value("entity", "null", "W&B knows no default; give a team or a user")
    {"setup": setup, "report": report}[config.action](config, built, str(entity))


def _workspaces() -> Any:
    try:
        return import_module("isometry.compare.workspace")
    except ModuleNotFoundError as error:
        words = "isometry wandb needs wandb-workspaces: pip install 'isometry[workspaces]'"
        raise UserError(words) from error


@contextmanager
def said_by_server() -> Iterator[None]:
    """What W&B's client raises becomes one sentence.

    Raises:
        UserError: for any error in the block.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # its transports raise what they like
        first = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        where = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
        raise UserError(f"isometry wandb: {where} did not take it ({first})") from error


# ---- setup ---------------------------------------------------------------------------------------


def setup(config: DictConfig, built: Any, entity: str) -> None:
    """Write the charts, and the view of the project; of a study, with its factors."""
    runs = Path(config.paths.runs)
    names = [config.group] if config.group else studies(runs)
    folders = [run for name in names for run in runs_of(runs / name)]
    factors = collected(folders).factors.names if folders else []
    for name in CHARTS:
        make_chart(entity, name)
    title = f"isometry {config.group}" if config.group else "isometry"
    view = built.workspace(entity, config.project, factors, logged_columns(), title)
    with said_by_server():
        view.save()
        print(view.url)


def make_chart(entity: str, name: str) -> None:
    """Write a custom chart; a server without them, or where it is already, is one line."""
    try:
        wandb.Api().create_custom_chart(
            entity=entity,
            name=name,
            display_name=CHARTS[name],
            spec_type="vega2",
            access="private",
            spec=chart_spec(name),
        )
    except Exception as error:  # an older server has none; the view is of use without
        first = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        console.print(f"W&B: no chart {name} written ({first})", soft_wrap=True)


def logged_columns() -> list[str]:
    """Columns that runs log for each layer."""
    return list(compose("train").callbacks.signals.log_columns)


# ---- report --------------------------------------------------------------------------------------


def report(config: DictConfig, built: Any, entity: str) -> None:
    """Log the figures of a study as a run of its own, and write the report.

    Raises:
        UserError: for a study without runs.
    """
    runs = Path(config.paths.runs)
    folder = runs / str(config.group)
    found = runs_of(folder) if config.group else []
    if not found:
        known = ", ".join(studies(runs)) or "none at all"
        raise bad_value("study", config.group or "null", f"no runs there; there are {known}")
    comparison = compare_study(found, config.group)
    figures = draw_study(folder, comparison)
    pictures = {f"figure/{path.stem}": path for path in figures}
    text = in_markdown(comparison)
    about = (text, comparison.table.factors, logged_columns(), list(pictures))
    written = built.report(entity, config.project, config.group, *about)
    with said_by_server():
        log_figures(pictures, folder, entity, config.project)
        written.save()
        print(written.url)


def log_figures(pictures: Mapping[str, Path], folder: Path, entity: str, project: str) -> None:
    """One W&B run with the pictures of a study, by their keys."""
    run = wandb.init(
        entity=entity,
        project=project,
        group=folder.name,
        job_type="report",
        name=f"report of {folder.name}",
        dir=folder,
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.log({key: wandb.Image(str(path)) for key, path in pictures.items()})
    run.finish()
