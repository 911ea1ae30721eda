"""`isometry figure`: run what a paper's figure needs, draw it, check its claims."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure as Drawing
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from isometry.config.compose import compose, conf_dirs, resolved
from isometry.config.targets import instantiate
from isometry.console import console, quiet, wide_console
from isometry.errors import UserError, bad_value, nearest
from isometry.figures.claims import Claim, Estimate, judge_all
from isometry.figures.lab import Lab
from isometry.figures.multirun import launch
from isometry.plots.style import save
from isometry.runs.files import write_json, write_text, write_whole, written_below

FORMATS = ("pdf", "png", "svg")
RESULT_COLOURS = {"pass": "green", "fail": "bold red", "undecided": "yellow"}


class Figure(Protocol):
    """A paper's figure. Its constructor takes the settings of a preset."""

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """Everything that is drawn or checked, with a column `seed`; called again with more seeds
        if a claim is undecided.
        """

    def draw(self, data: pd.DataFrame) -> Drawing:
        """The picture."""

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        """What was measured, by claim id."""


@dataclass(frozen=True)
class Preset:
    """One entry of `presets` in a figure's config.

    Attributes:
        minutes: wall time to expect.
        seeds: how many to begin with.
        max_seeds: how many at most while a claim is undecided.
        settings: arguments of the figure's class.
    """

    minutes: float
    seeds: int
    max_seeds: int
    settings: dict[str, Any]


def figure(config: DictConfig) -> None:
    """The verb: list the figures, or make one or all; exit code 1 unless every claim passes.

    Raises:
        UserError: for a preset or a setting that there is not.
    """
    quiet()
    if config.get("figure") is None:
        show_list(Path(config.paths.runs))
        return
    hydra = HydraConfig.get()
    choices = [word for word in hydra.overrides.hydra if "launcher" in word.partition("=")[0]]
    words = [word for word in hydra.overrides.task if word.partition("=")[0] != "figure"]
    ids = known_figures() if config.figure.id == "all" else [config.figure.id]
    if len(ids) == 1:
        good = all_pass(make(config, choices))
    else:
        results = [
            _one_of_all(compose("figure", [f"figure={name}", *words]), choices) for name in ids
        ]
        good = all(results)
        show_list(Path(config.paths.runs))
    if not good:
        raise SystemExit(1)


def all_pass(entries: Sequence[dict[str, Any]]) -> bool:
    """Whether every claim holds."""
    return all(entry["result"] == "pass" for entry in entries)


def _one_of_all(config: DictConfig, choices: Sequence[str]) -> bool:
    """One figure of many: what is wrong with it does not keep the others from being made."""
    try:
        return all_pass(make(config, choices))
    except UserError as error:
        console.print(f"{config.figure.id}: {error}", soft_wrap=True)
        return False


def make(config: DictConfig, choices: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Measure (unless `draw_only`), draw, check, store, print; returns the claims."""
    started = time.perf_counter()
    plain = resolved(config)
    target = folder_of(plain)
    wall = None
    if config.draw_only:
        # what is drawn belongs to the settings it was measured with
        config.figure.presets = stored_presets(target)
        plain = resolved(config)
    preset = preset_of(plain)
    claims = claims_of(plain)
    code: Figure = instantiate({"_target_": plain["figure"]["_target_"], **preset.settings})
    check_types(code, f"figure.presets.{plain['preset']}")
    if config.draw_only:
        data = stored(target)
    else:
        data = measure(code, claims, make_lab(config, choices), preset, int(config.first_seed))
        wall = time.perf_counter() - started
    entries = judge_all(claims, code.check(data))
    store(target, config, data, entries, code.draw(data), wall)
    show_claims(plain["figure"]["id"], entries)
    console.print(f"-> {target}/figure.png", soft_wrap=True)
    if "wandb" in plain["logger"]["names"]:
        from isometry.figures.to_wandb import send

        send(target, plain, data, entries)
    return entries


def preset_of(plain: dict[str, Any]) -> Preset:
    """The chosen preset, typed.

    Raises:
        UserError: for a preset that there is not, or one without a usable number of seeds.
    """
    presets = plain["figure"]["presets"]
    if plain["preset"] not in presets:
        raise bad_value(
            "preset",
            plain["preset"],
            f"allowed are {', '.join(presets)}{nearest(plain['preset'], presets)}",
        )
    node = dict(presets[plain["preset"]])
    seeds = node.pop("seeds", None)
    minutes = node.pop("minutes", 1)
    most = node.pop("max_seeds", seeds)
    for key, value in {"seeds": seeds, "max_seeds": most}.items():
        if not isinstance(value, int) or value < 2:
            raise bad_value(
                f"figure.presets.{plain['preset']}.{key}",
                value,
                "must be a whole number of at least 2",
            )
    return Preset(float(minutes), seeds, most, node)


def claims_of(plain: dict[str, Any]) -> list[Claim]:
    """The claims, each with a tolerance: a mistake is told before anything is measured.

    Raises:
        UserError: for keys that a claim does not have, or a claim without a tolerance.
    """
    try:
        claims = [Claim(**entry) for entry in plain["figure"]["claims"]]
    except TypeError as error:
        allowed = ", ".join(field.name for field in fields(Claim))
        raise bad_value(
            "figure.claims", plain["figure"]["claims"], f"{error}; keys of a claim are {allowed}"
        ) from error
    for claim in claims:
        claim.tolerance(1.0 if claim.expected is None else claim.expected)
    return claims


def folder_of(plain: dict[str, Any]) -> Path:
    """Where the figure goes; other seeds than the usual ones (a pilot) have a folder of their
    own.
    """
    first = plain["first_seed"]
    name = plain["preset"] if first == 0 else f"{plain['preset']}-from-seed-{first}"
    return Path(plain["paths"]["runs"]) / "figures" / plain["figure"]["id"] / name


def make_lab(config: DictConfig, choices: Sequence[str]) -> Lab:
    """The lab in the configured folders."""
    paths = Path(config.paths.runs), Path(config.paths.data)
    return Lab(
        f"figure-{config.figure.id}",
        *paths,
        partial(launch, choices=choices),
        int(config.first_seed),
    )


def measure(
    code: Figure, claims: Sequence[Claim], lab: Lab, preset: Preset, first: int
) -> pd.DataFrame:
    """More seeds, twice as many each time, while a claim is undecided and there may be more."""
    count = preset.seeds
    data = code.measure(lab, range(first, first + preset.seeds))
    while count < preset.max_seeds and any(
        e["result"] == "undecided" for e in judge_all(claims, code.check(data))
    ):
        more = min(count, preset.max_seeds - count)
        console.print(f"{count} seeds leave a claim undecided: {more} more", soft_wrap=True)
        new = code.measure(lab, range(first + count, first + count + more))
        data = pd.concat([data, new], ignore_index=True)
        count = count + more
    return data


def store(
    target: Path,
    config: DictConfig,
    data: pd.DataFrame,
    claims: list[dict[str, Any]],
    drawing: Drawing,
    wall: float | None,
) -> None:
    """`figure.*`, `data.parquet`, `claims.json`, `config.yaml`, and `wall.json` where something was
    measured.
    """
    with written_below("paths.runs", config.paths.runs):
        target.mkdir(parents=True, exist_ok=True)
        write_whole(target / "data.parquet", lambda path: data.to_parquet(path, index=False))
        write_text(target / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_json(target / "claims.json", claims)
        save(drawing, target / "figure", FORMATS)
        if wall is not None:
            seeds = int(data["seed"].nunique())
            write_json(target / "wall.json", {"wall_seconds": round(wall, 1), "seeds": seeds})


def check_types(code: Any, prefix: str) -> None:
    """Numbers are numbers and lists are lists; dataclasses do not look.

    Raises:
        UserError: for the first setting that is not what it should be.
    """
    for setting in fields(code):
        value = getattr(code, setting.name)
        if setting.type in ("int", "float") and (
            isinstance(value, bool) or not isinstance(value, int | float)
        ):
            raise bad_value(f"{prefix}.{setting.name}", value, "must be a number")
        if str(setting.type).startswith("Sequence") and not isinstance(value, list):
            raise bad_value(f"{prefix}.{setting.name}", value, "must be a list")


def stored_presets(target: Path) -> Any:
    """The presets of the config that the stored data were measured with.

    Raises:
        UserError: where nothing was measured.
    """
    stored(target)
    return OmegaConf.load(target / "config.yaml").figure.presets


def stored(target: Path) -> pd.DataFrame:
    """What was measured before.

    Raises:
        UserError: where nothing was.
    """
    if not (target / "data.parquet").exists():
        raise UserError(
            f"draw_only=true: nothing has been measured in {target}; leave it out to measure"
        )
    return pd.read_parquet(target / "data.parquet")


# ---- what a person sees --------------------------------------------------------------------------


def known_figures() -> list[str]:
    """The ids, of the installed figures and of a fork's."""
    files = (path for folder in conf_dirs() for path in (folder / "figure").glob("*.yaml"))
    return sorted({path.stem for path in files} - {"all"})


def show_claims(name: str, entries: Sequence[dict[str, Any]]) -> None:
    """The table of claims."""
    table = Table(title=name)
    for heading in ("claim", "expected", "measured", "95 % interval", "tolerance", ""):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        low_high = "{} to {}".format(*map(number, entry["interval"]))
        result = Text(entry["result"].upper(), RESULT_COLOURS[entry["result"]])
        cells = (
            number(entry["expected"]),
            number(entry["measured"]),
            low_high,
            tolerance_words(entry),
        )
        table.add_row(entry["statement"], *cells, result)
    wide_console().print(table)


def tolerance_words(entry: dict[str, Any]) -> str:
    """`0.548 to 0.606`, `at least 0.7`, `at most 0.25`."""
    low, high = entry["tolerance"]
    if low is None:
        return f"at most {number(high)}"
    return f"at least {number(low)}" if high is None else f"{number(low)} to {number(high)}"


def number(value: float | None) -> str:
    """Four digits, `-` for none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def show_list(runs: Path) -> None:
    """Id, paper, line, presets, number of claims and last result of every figure."""
    table = Table(title="isometry figure ID [preset=quick|paper]")
    for heading in ("id", "paper", "what it shows", "presets", "claims", "last result"):
        table.add_column(heading, overflow="fold")
    for name in known_figures():
        node = resolved(compose("figure", [f"figure={name}"]))["figure"]
        presets = ", ".join(
            f"{preset} {duration(entry['minutes'])}" for preset, entry in node["presets"].items()
        )
        table.add_row(
            name,
            node["paper"],
            node["title"],
            presets,
            str(len(node["claims"])),
            last_result(runs, name),
        )
    wide_console().print(table)


def duration(minutes: float) -> str:
    """`20 s`, `3 min`, `5 h`."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"


def last_result(runs: Path, name: str) -> Text:
    """Claims that passed, of the preset that was run last."""
    found = sorted(
        (runs / "figures" / name).glob("*/claims.json"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        return Text("-")
    results = [entry["result"] for entry in json.loads(found[-1].read_text())]
    passed = results.count("pass")
    colour = "green" if passed == len(results) else "red"
    counts = Text(f"{passed} of {len(results)}", colour)
    return counts.append(f" ({found[-1].parent.name})", "default")
