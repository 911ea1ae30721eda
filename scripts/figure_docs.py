"""Writes the gallery, `docs/figures.md` and `docs/figures/*.png`, from what `isometry figure all
preset=quick` left in `runs/`.

isometry figure all preset=quick && python scripts/figure_docs.py
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--preset", default="quick", help="which results")
    arguments = parser.parse_args()
    shutil.rmtree(DOCS / "figures", ignore_errors=True)
    (DOCS / "figures").mkdir()
    rows = []
    sections = []
    seconds = 0.0
    results = []
    for name in known_figures():
        node = resolved(compose("figure", [f"figure={name}"]))["figure"]
        result = arguments.runs / "figures" / name / arguments.preset
        shutil.copy(result / "figure.png", DOCS / "figures" / f"{name}.png")
        if (
            OmegaConf.to_container(OmegaConf.load(result / "config.yaml").figure.presets)
            != node["presets"]
        ):
            raise SystemExit(
                f"{name}: measured with other presets than conf/ has; run isometry figure {name} "
                "again"
            )
        found = [entry["result"] for entry in json.loads((result / "claims.json").read_text())]
        wall = json.loads((result / "wall.json").read_text())["wall_seconds"]
        rows.append(
            f"| [{name}](#{name}) | {node['title']} | {found.count('pass')} of {len(found)} | "
            f"{wall:.0f} s |"
        )
        sections.append(section(node, result))
        seconds = seconds + wall
        results = results + found
    head = HEAD.format(
        total=f"{seconds / 60:.0f} minutes", passed=results.count("pass"), claims=len(results)
    )
    (DOCS / "figures.md").write_text(head + "\n".join(rows) + "\n\n" + "\n".join(sections))


if __name__ == "__main__":
    main()
