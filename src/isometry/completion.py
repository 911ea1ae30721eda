"""Completion in the shell: verbs, figure ids, activations, studies and run directories; keys and
options are Hydra's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from isometry.config.compose import conf_dirs
from isometry.config.words import as_overrides
from isometry.errors import UserError


def complete(
    program: str,
    arguments: Sequence[str],
    verbs: Iterable[str],
    hydra: Callable[[str, list[str]], None],
) -> int:
    """Answer the shell. Hydra's script, which `-sc install=bash` prints, asks with `-sc query=bash`
    and what was typed so far in COMP_LINE: `isometry train mod`.

    Args:
        program: `isometry`.
        arguments: behind `-sc`.
        verbs: of the command line.
        hydra: runs Hydra on a verb and its words.

    Returns:
        the exit code.
    """
    line = os.environ.get("COMP_LINE", "")
    *before, last = line[: int(os.environ.get("COMP_POINT", len(line)))].split(" ")
    typed = [*filter(None, before), last]
    verbs = list(verbs)
    asked = any(word.startswith("query=") for word in arguments)
    if asked and len(typed) <= 2:
        print("\n".join(verb for verb in verbs if verb.startswith(typed[-1])))
        return 0
    verb = typed[1] if len(typed) > 2 and typed[1] in verbs else "train"
    own = bare_words(verb, typed[-1]) if asked else []
    if own:
        print("\n".join(own))
        return 0
    if len(typed) > 2 and typed[1] == verb:  # Hydra has to see `isometry mod`
        asks = " ".join([typed[0], *_as_hydra_reads(verb, typed[2:-1]), last])
        os.environ |= {"COMP_LINE": asks, "COMP_POINT": str(len(asks))}
    hydra(verb, [program, "-sc", *arguments])
    return 0


def _as_hydra_reads(verb: str, words: Sequence[str]) -> list[str]:
    """Words that are complete; what is not understood is no help."""
    try:
        return as_overrides(verb, words)
    except UserError:
        return []


def bare_words(verb: str, typed: str) -> list[str]:
    """What a bare word of a verb may be, as far as it has been typed."""
    known = {
        "figure": lambda: _options("figure"),
        "plot": lambda: _options("activation"),
        "theory": lambda: _options("activation"),
        "report": lambda: [folder.name for folder in _studies()],
        "wandb": lambda: ["setup", "report"],
        "compare": lambda: [folder.name for folder in _studies()],
        "eval": _run_directories,
    }
    if verb == "train" and typed.startswith("resume="):
        return [
            f"resume={path}" for path in _run_directories() if f"resume={path}".startswith(typed)
        ]
    found = known[verb]() if verb in known else []
    return sorted(word for word in found if word.startswith(typed))


def _options(group: str) -> list[str]:
    return [path.stem for folder in conf_dirs() for path in (folder / group).glob("*.yaml")]


def _studies() -> list[Path]:
    runs = Path(os.environ.get("ISOMETRY_RUNS", "runs"))
    return sorted({path.parents[1] for path in runs.glob("*/*/status.json")})


def _run_directories() -> list[str]:
    return [str(path.parent) for study in _studies() for path in study.glob("*/status.json")]
