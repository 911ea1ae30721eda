"""`isometry VERB [overrides]`: a dispatcher and nothing else."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from isometry.config.compose import conf_dir, extra_conf_dir
from isometry.config.messages import explain, is_users
from isometry.config.quoting import hydra_value
from isometry.errors import UserError

VERBS = {
    "train": ("isometry.launch.ddp:train", "train one network, or a grid of them with -m"),
    "diagnose": (
        "isometry.verbs.diagnose:diagnose",
        "will the gradient reach the first layer? measured and predicted, no training",
    ),
    "eval": (
        "isometry.verbs.evaluate:evaluate",
        "test a run's checkpoint on its own data: isometry eval RUN_DIR",
    ),
    "plot": (
        "isometry.verbs.plot:plot",
        "draw an activation with its derivative and where it saturates",
    ),
    "theory": (
        "isometry.verbs.theory:theory",
        "critical scales, phases and depth scales of an activation",
    ),
    "figure": (
        "isometry.figures.figure:figure",
        "reproduce a paper's figure and check its claims: isometry figure ID",
    ),
    "report": ("isometry.verbs.report:report", "table, figure and W&B folders of a study"),
}
"""Verb to its task, and one line of help."""

POSITIONAL = {"eval": "run", "figure": "figure", "diagnose": "network"}
"""A verb's key that may be given as a bare word."""

USAGE = "isometry VERB [KEY=VALUE ...]\n\n" + "\n".join(
    f"  {verb:9} {text}" for verb, (_, text) in VERBS.items()
)


def main() -> None:
    """Entry point of the console script."""
    # on its way out the interpreter would visit each object of torch: a second, for nothing
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):  # σ on a terminal that has none is a ?
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv))


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit code: 0 fine, 2 the user's own mistake. Anything else
    raises.
    """
    if len(argv) > 1 and argv[1] in ("-sc", "--shell-completion"):
        argv = [argv[0], _verb_of_completion(), *argv[1:]]
    if len(argv) < 2 or argv[1] in ("-h", "--help", "help"):
        print(f"{USAGE}\n\nMore: isometry VERB --help")
        return 0
    verb = argv[1]
    if verb not in VERBS:
        return _complain(f"isometry {verb}: no such verb; allowed are {', '.join(VERBS)}")
    arguments = [_as_override(verb, word) for word in argv[2:]]
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    # Hydra then hands its exceptions on instead of ending the process
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _hydra(verb, [argv[0], *arguments], wants_traceback=before == "1")
    except Exception as error:
        if before == "1" or not is_users(error):
            raise
        return _complain(explain(error, verb, arguments))
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before
    return 0


def _as_override(verb: str, word: str) -> str:
    """`isometry eval RUN_DIR` is `isometry eval run=RUN_DIR`; `input=8,3` is a list, no sweep."""
    if verb == "diagnose" and re.fullmatch(r"input=[\d,]+", word):
        return f"input=[{word.removeprefix('input=')}]"
    named = os.path.exists(word) or "=" not in word
    bare = verb in POSITIONAL and named and not word.startswith(("-", "~", "+"))
    return f"{POSITIONAL[verb]}={hydra_value(word)}" if bare else word


def _verb_of_completion() -> str:
    """Take the verb out of the line that is being completed: Hydra's script knows of none.

    The script sets COMP_LINE to what the user typed so far, `isometry train mod`; Hydra has to see
    `isometry mod`.
    """
    words = os.environ.get("COMP_LINE", "").split(" ")
    verb = words[1] if len(words) > 1 and words[1] in VERBS else "train"
    if len(words) > 2 and words[1] == verb:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(int(os.environ.get("COMP_POINT", "0")) - len(verb) - 1)
    return verb


def _hydra(verb: str, argv: list[str], wants_traceback: bool) -> None:
    """Let Hydra parse `argv`, compose `conf/<verb>.yaml` and call the verb's task."""
    import hydra

    extra = extra_conf_dir()
    sys.argv = [*argv, *([] if extra is None else [f"hydra.searchpath=[file://{extra}]"])]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(
        _task(verb, wants_traceback)
    )()


def _task(verb: str, wants_traceback: bool) -> Callable[[Any], Any]:
    """The verb's function; its module is imported when a config has been composed, so that --help
    is quick.
    """

    def task(config: Any) -> Any:
        from isometry.config.checks import validate_values
        from isometry.config.compose import resolved

        try:
            validate_values(resolved(config))
            module, function = VERBS[verb][0].split(":")
            return getattr(import_module(module), function)(config)
        except UserError as error:
            if wants_traceback:
                raise
            raise SystemExit(_complain(str(error))) from None

    return task


def _complain(message: str) -> int:
    print(f"isometry: {message}", file=sys.stderr)
    return 2
