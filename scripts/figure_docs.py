"""Writes the gallery, `docs/figures.md` and `docs/figures/*.png`, from what `isometry figure all
preset=quick` left in `runs/`.

isometry figure all preset=quick && python scripts/figure_docs.py

A figure without a result there stays as it is written.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from omegaconf import OmegaConf

from isometry.config.compose import compose, resolved
from isometry.figures.figure import known_figures, number, tolerance_words

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Figures

Written by `python scripts/figure_docs.py` from the results of `isometry figure all preset=quick`:
pictures, claims, wall times. Every claim is checked: it passes if its 95 % interval over seeds
lies inside the tolerance. While one is undecided the seeds are doubled, a few times at most, so
intervals of claims near a bound are a little less than 95 % sure. Adding a figure:
[adding_a_figure.md](adding_a_figure.md).

{total} on two cores. {passed} of {claims} claims pass.

| figure | shows | claims | wall time |
|---|---|---|---|
"""


def section(node: dict, result: Path) -> str:
    """Picture, text, claims and command of one figure."""
    entries = json.loads((result / "claims.json").read_text())
    wall = json.loads((result / "wall.json").read_text())
    text = inspect.getdoc(import_module(node["_target_"].rpartition(".")[0])) or ""
    lines = [
        f"## {node['id']}",
        "",
        f"{node['paper']}: {node['title']}.",
        "",
        f"![{node['title']}](figures/{node['id']}.png)",
        "",
    ]
    lines += [
        (
            f"`isometry figure {node['id']} preset=quick`: {wall['wall_seconds']:.0f} s, "
            f"{wall['seeds']} seeds."
        ),
        "",
    ]
    lines += [
        "| claim | expected | measured | 95 % interval | tolerance | |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        interval = "{} to {}".format(*map(number, entry["interval"]))
        cells = [
            entry["statement"],
            number(entry["expected"]),
            number(entry["measured"]),
            interval,
            tolerance_words(entry),
        ]
        lines.append(f"| {' | '.join(cells)} | {entry['result'].upper()} |")
    explained = [
        f"{entry['id']}: {entry['why']}"
        for entry in entries
        if entry["result"] != "pass" and "why" in entry
    ]
    return "\n".join([*lines, "", *explained, "", text, ""])


@dataclass(frozen=True)
class Written:
    """What the document says of one figure.

    Attributes:
        passed, claims: how many.
        seconds: wall time.
        section: its text.
        title: one line.
    """

    passed: int
    claims: int
    seconds: float
    section: str
    title: str


def measured(name: str, result: Path) -> Written:
    """From a result; its picture is copied.

    Raises:
        SystemExit: for a result of other presets than `conf/` has.
    """
    node = resolved(compose("figure", [f"figure={name}"]))["figure"]
    presets = OmegaConf.load(result / "config.yaml").figure.presets
    if OmegaConf.to_container(presets) != node["presets"]:
        words = "measured with other presets than conf/ has; run isometry figure"
        raise SystemExit(f"{name}: {words} {name} again")
    shutil.copy(result / "figure.png", DOCS / "figures" / f"{name}.png")
    found = [entry["result"] for entry in json.loads((result / "claims.json").read_text())]
    wall = json.loads((result / "wall.json").read_text())["wall_seconds"]
    return Written(found.count("pass"), len(found), wall, section(node, result), node["title"])


def kept(name: str, text: str) -> Written:
    """As the document has it.

    Raises:
        SystemExit: where it has nothing.
    """
    line = re.search(
        rf"^\| \[{name}\]\(#{name}\) \| (.*) \| (\d+) of (\d+) \| (\d+) s \|$", text, re.M
    )
    body = re.search(rf"^## {name}$.*?(?=^## |\Z)", text, re.M | re.S)
    if line is None or body is None:
        raise SystemExit(f"{name}: no result; run isometry figure {name} preset=quick")
    title, passed, claims, seconds = line.groups()
    return Written(int(passed), int(claims), float(seconds), body.group(), title)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--preset", default="quick", help="which results")
    arguments = parser.parse_args()
    document = DOCS / "figures.md"
    before = document.read_text()
    (DOCS / "figures").mkdir(exist_ok=True)
    results = {
        name: arguments.runs / "figures" / name / arguments.preset for name in known_figures()
    }
    written = {
        name: measured(name, result) if result.exists() else kept(name, before)
        for name, result in results.items()
    }
    rows = [
        f"| [{name}](#{name}) | {w.title} | {w.passed} of {w.claims} | {w.seconds:.0f} s |"
        for name, w in written.items()
    ]
    head = HEAD.format(
        total=f"{sum(w.seconds for w in written.values()) / 60:.0f} minutes",
        passed=sum(w.passed for w in written.values()),
        claims=sum(w.claims for w in written.values()),
    )
    sections = [w.section.rstrip("\n") + "\n" for w in written.values()]
    document.write_text(head + "\n".join(rows) + "\n\n" + "\n".join(sections))


if __name__ == "__main__":
    main()
