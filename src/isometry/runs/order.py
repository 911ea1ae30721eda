"""The order in which a study's sweeps have named its runs: `order.json` in the folder of the study.

Values of a factor are shown in the order in which somebody typed them, whichever job ended first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isometry.errors import Damaged
from isometry.runs.files import read_json, write_json

KEY = "runs"


def note_order(study: Path, run_ids: Sequence[str]) -> None:
    """Add the runs of a sweep behind those that are known."""
    known = order_of(study)
    names = [*known, *(name for name in run_ids if name not in known)]
    if len(names) > len(known):
        write_json(study / "order.json", {KEY: list(dict.fromkeys(names))})


def order_of(study: Path) -> dict[str, int]:
    """Run id to its place; empty for a study whose runs were started one by one, and where the file
    is damaged: the order is not worth a refusal.
    """
    try:
        names = (read_json(study / "order.json") or {}).get(KEY)
    except Damaged:
        return {}
    if not isinstance(names, list):
        return {}
    return {str(name): place for place, name in enumerate(names)}
