"""From words to runs: names of studies, their folders, run directories, patterns of these."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from isometry.compare.factors import Factors, factors_of
from isometry.errors import bad_value, nearest
from isometry.runs.directory import RunDirectory
from isometry.runs.order import order_of
from isometry.runs.table import Record, read_record, runs_of


@dataclass(frozen=True)
class Collection:
    """The runs that are compared.

    Attributes:
        records: of each run, in the order in which its sweep named it.
        factors: by which they differ, a row a record.
        left_out: why runs that were asked for are not among them, a line each.
    """

    records: Sequence[Record]
    factors: Factors
    left_out: Sequence[str] = ()


def collect(words: Sequence[str], runs: Path, always: Sequence[str] = ()) -> Collection:
    """Find the runs that words stand for, and what differs between them.

    Args:
        words: names of studies below `runs`, folders of studies or of runs, patterns of these.
        runs: `paths.runs`.
        always: keys that are factors even if they do not vary.

    Raises:
        UserError: for a word that stands for no run; for a key that no run has.
    """
    meant = [word for word in words if not _stands_beside_runs(Path(word))]
    found = [run for word in meant or words for run in runs_for(word, runs)]
    return collected(found, always)


def _stands_beside_runs(path: Path) -> bool:
    """Whether it is another file or folder of a study: a shell makes `mine/*` of all of them."""
    is_run = (path / "status.json").is_file()
    return path.exists() and not is_run and any(path.parent.glob("*/status.json"))


def collected(runs: Sequence[RunDirectory], always: Sequence[str] = ()) -> Collection:
    """The records of some runs. A run that stands in two studies is the same training, and counts
    once.
    """
    paths = {run.path.resolve(): run for run in runs}
    with ThreadPoolExecutor() as threads:
        records = list(threads.map(read_record, paths.values()))
    left_out = [record.damage for record in records if record.damage is not None]
    once: dict[str, Record] = {}
    for record in records:
        before = once.get(record.run.run_id)
        if record.damage is None and (before is None or not _is_over(before)):
            once[record.run.run_id] = record
    whole = [record for record in records if record.damage is None]
    again = [record for record in whole if once[record.run.run_id] is not record]
    other = [record for record in again if record.config != once[record.run.run_id].config]
    left_out += [f"{each.run.path}: {once[each.run.run_id].run.path} {OTHERS}" for each in other]
    if twice := len(again) - len(other):
        left_out.append(f"{twice} runs that stand in another study, too")
    kept = list(once.values())
    orders = {record.run.path.parent: order_of(record.run.path.parent) for record in kept}
    named = [record.run.run_id in orders[record.run.path.parent] for record in kept]
    configs = [record.config for record in kept]
    return Collection(kept, factors_of(configs, named, always), left_out)


OTHERS = "is the same run, taken to other limits"


def _is_over(record: Record) -> bool:
    return record.state in ("finished", "diverged")


def runs_for(word: str, runs: Path, key: str = "studies") -> list[RunDirectory]:
    """The runs of one word, which was given as a value of a key.

    Raises:
        UserError: where there is none.
    """
    paths = list(_paths(word, runs))
    found = [run for path in paths for run in _runs_in(path)]
    if not found:
        known = studies(runs)
        allowed = f"there are {', '.join(known) or 'none at all'}"
        raise bad_value(key, word, f"no runs there{nearest(word, known)}; {allowed}")
    return found


def studies(runs: Path) -> list[str]:
    """Names of all studies."""
    return sorted({path.parents[1].name for path in runs.glob("*/*/status.json")})


def _paths(word: str, runs: Path) -> Iterator[Path]:
    """The folders that a word may mean: below `runs`, else as a path."""
    if (runs / word).is_dir():
        yield runs / word
        return
    patterns = (str(runs / word), word)
    matches = [sorted(glob.glob(pattern)) for pattern in patterns]
    yield from (Path(path) for path in (matches[0] or matches[1]))


def _runs_in(path: Path) -> list[RunDirectory]:
    return [RunDirectory(path)] if (path / "status.json").is_file() else runs_of(path)
