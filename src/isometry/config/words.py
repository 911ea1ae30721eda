"""What a user types, as Hydra reads it: bare words, `--key=value`, lists with commas."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from isometry.config.compose import conf_dirs, is_group
from isometry.config.quoting import hydra_value
from isometry.errors import UserError

BARE = {
    "eval": "run",
    "figure": "figure",
    "diagnose": "network",
    "report": "study_name",
    "wandb": "action",
    "plot": "activation",
    "theory": "activation",
}
"""A verb's key that may be given as a bare word."""

SEVERAL = {"plot": "also"}
"""A verb's key for the bare words behind the first."""

ALL = {"compare": "studies"}
"""A verb's key for all its bare words."""

LISTS = {
    "diagnose": {"input": r"[\d,]+"},
    "compare": dict.fromkeys(("metric", "metrics", "by", "over"), r"[\w.,]+"),
}
"""A verb's keys whose value is a list though it stands without brackets, and how it looks then."""

RENAMED = {"compare": {"metric": "metrics"}, "wandb": {"study": "group"}}
"""A verb's keys under another name: `study` is a group of Hydra's, `metric` a key of a training."""
TEXT = {"compare": ("where",)}
"""A verb's keys whose value is text, whatever Hydra's grammar would read into it."""

TEXTS = {"diagnose": ("tries",)}
"""A verb's keys whose value is a list of texts that Hydra's grammar would read something into."""

NOT_OURS = ("_wandb=", "wandb_version=")
"""W&B's notes on a run, which its agent types beside the choices where it resumes one."""

FLAGS = (
    *("--cfg", "--config-dir", "--config-name", "--config-path", "--experimental-rerun", "--help"),
    *("--hydra-help", "--info", "--multirun", "--package", "--resolve", "--run", "--version"),
    "--shell-completion",
)
"""Hydra's own."""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether `--help` or `-h` is among them."""
    return "--help" in words or "-h" in words


def as_overrides(verb: str, words: Sequence[str]) -> list[str]:
    """The words behind a verb as Hydra's grammar wants them.

    Raises:
        UserError: for a bare word where none has a meaning.
    """
    typed = [_without_dashes(verb, word) for word in words]
    plain = [word for word in typed if not word.startswith(NOT_OURS)]
    _refuse(verb, plain)
    bare = [word for index, word in enumerate(plain) if _is_bare(plain, index)]
    others = [_as_value(verb, word) for word in plain if word not in bare]
    # between choices argparse would not take it
    others.sort(key=lambda word: word not in ("-m", "--multirun"))
    if not bare:
        return others
    if verb in ALL:
        return [f"{ALL[verb]}=[{','.join(map(hydra_value, bare))}]", *others]
    if verb not in BARE or (len(bare) > 1 and verb not in SEVERAL):
        word = bare[0] if verb not in BARE else bare[1]
        raise UserError(f"isometry {verb} {word}: not understood; {_meant(word)}")
    first = _named(verb, bare[0])
    more = [f"{SEVERAL[verb]}=[{','.join(map(hydra_value, bare[1:]))}]"] if len(bare) > 1 else []
    return [*first, *more, *others]


def _named(verb: str, word: str) -> list[str]:
    """What a bare word is the value of; `report` takes the folder of a study, too."""
    above, name = os.path.split(os.path.normpath(word))
    if verb == "report" and os.path.isdir(word) and above:
        return [f"paths.runs={hydra_value(above)}", f"study_name={hydra_value(name)}"]
    return [f"{BARE[verb]}={hydra_value(word)}"]


def _refuse(verb: str, words: Sequence[str]) -> None:
    """What Hydra takes, and nothing would come of."""
    for word in words:
        _refuse_change(verb, word)
    of_sweep = [word for word in words if word.startswith(("hydra/launcher=", "hydra/sweeper="))]
    of_sweep += [word for word in words if word.startswith("study=") and word != "study=null"]
    if verb == "train" and of_sweep and not {"-m", "--multirun"} & set(words):
        raise UserError(f"isometry train {of_sweep[0]}: is of a sweep, which -m makes")
    if "--resolve" in words and not {"--cfg", "-c"} & set(words):
        raise UserError(f"isometry {verb} --resolve: belongs to --cfg job, which shows the config")


def _refuse_change(verb: str, word: str) -> None:
    """A key less, or one more."""
    if word.startswith("~"):
        what = "nothing can be left out; KEY=null or GROUP=none switches off what can be"
        raise UserError(f"isometry {verb} {word}: {what}")
    name = word.lstrip("+").partition("=")[0].partition("@")[0]
    new = word.startswith("+") and not word.startswith("++")
    if new and "." not in name and not is_group(name):
        raise UserError(f"isometry {verb} {word}: no such key, and nothing would read it")


def _meant(word: str) -> str:
    """`tanh` is an option of the group `activation`."""
    files = (path for folder in conf_dirs() for path in folder.glob(f"*/{word}.yaml"))
    found = [path.parent.name for path in files]
    return f"did you mean {found[0]}={word}?" if found else "choices are KEY=VALUE"


def _is_bare(words: Sequence[str], index: int) -> bool:
    """Whether a word is neither `key=value`, nor a flag, nor what belongs to a flag."""
    word = words[index]
    behind_flag = index > 0 and words[index - 1] in ("--cfg", "-c", "--info", "-i", "-p", "-sc")
    named = os.path.exists(word) or "=" not in word
    return named and not behind_flag and not word.startswith(("-", "~", "+"))


def _without_dashes(verb: str, word: str) -> str:
    """`--model.depth=30` is what other programs want.

    Raises:
        UserError: for `--model.depth`, whose value would be the next word.
    """
    name = word.partition("=")[0]
    if not word.startswith("--") or name in FLAGS or word == "--":
        return word
    if "=" not in word:
        raise UserError(f"isometry {verb} {word}: values are given as {word[2:]}=VALUE")
    return word[2:]


def _as_value(verb: str, word: str) -> str:
    """`input=8,3` is a list, no sweep; `where=a == 1` is text."""
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if key in TEXT.get(verb, ()) and value != "null":
        return f"{key}={hydra_value(value)}"
    if key in TEXTS.get(verb, ()) and re.fullmatch(r"\[?[^'\"]*=[^'\"]*\]?", value):
        items = value.removeprefix("[").removesuffix("]").split(",")
        return f"{key}=[{','.join(map(hydra_value, items))}]"
    name = RENAMED.get(verb, {}).get(key, key)
    pattern = LISTS.get(verb, {}).get(key)
    if pattern is not None and value != "null" and re.fullmatch(pattern, value):
        return f"{name}=[{value}]"
    return f"{name}={value}"
