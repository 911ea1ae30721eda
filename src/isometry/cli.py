"""`isometry VERB [overrides]`: a dispatcher and nothing else."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

from isometry.completion import complete
from isometry.config.compose import conf_dir, extra_conf_dir
from isometry.config.messages import explain, is_users
from isometry.config.words import as_overrides, asks_for_help
from isometry.errors import INTERRUPTED, UserError, nearest

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
    "compare": (
        "isometry.verbs.compare:compare_runs",
        "runs side by side: which is best, by how much, and what explains it",
    ),
    "wandb": (
        "isometry.verbs.wandb:wandb_views",
        "setup: a saved view of a W&B project; report: a report of a study",
    ),
    "report": ("isometry.verbs.report:report", "table, figure and W&B folders of a study"),
}
"""Verb to its task, and one line of help."""

BROKEN_PIPE = 141
"""As a shell says it of other programs."""

USAGE = "isometry VERB [KEY=VALUE ...]\n\n" + "\n".join(
    f"  {verb:9} {text}" for verb, (_, text) in VERBS.items()
)


def main() -> None:
    """Entry point of the console script."""
    # on its way out the interpreter would visit each object of torch: a second, for nothing
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):  # σ on a terminal that has none is a ?
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        sys.exit(run(sys.argv))
    except BrokenPipeError:
        _leave_quietly()


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit code: 0 fine, 2 the user's own mistake, 130 Ctrl-C.
    Anything else raises.
    """
    if len(argv) > 1 and argv[1] in ("-sc", "--shell-completion"):
        return complete(argv[0], argv[2:], VERBS, lambda verb, words: _hydra(verb, words, False))
    if len(argv) < 2 or argv[1] in ("-h", "--help", "help"):
        print(f"{USAGE}\n\nMore: isometry VERB --help")
        return 0
    if argv[1] == "--version":
        print(f"isometry {version('isometry')}")
        return 0
    verb = argv[1]
    if verb not in VERBS:
        suggestion = nearest(verb, VERBS)
        allowed = ", ".join(VERBS)
        return _complain(f"isometry {verb}: no such verb{suggestion}; allowed are {allowed}")
    return _run_verb(verb, argv)


def _run_verb(verb: str, argv: list[str]) -> int:
    arguments = argv[2:]
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    # Hydra then hands its exceptions on instead of ending the process
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if asks_for_help(arguments):
            print(help_for(verb, arguments))
            return 0
        arguments = as_overrides(verb, arguments)
        _hydra(verb, [argv[0], *arguments], wants_traceback=before == "1")
    except KeyboardInterrupt:  # outside of a training, which has its own way to stop
        return INTERRUPTED
    except Exception as error:
        if before == "1" or not is_users(error):
            raise
        return _complain(explain(error, verb, arguments))
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before
    return 0


def help_for(verb: str, arguments: list[str]) -> str:
    """The help of a verb, for the choices beside `--help`."""
    from isometry.config.help import help_of

    words = [word for word in arguments if word not in ("--help", "-h")]
    asked = next((word for word in words if "=" not in word), None)
    return help_of(verb, [word for word in words if "=" in word], asked)


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
        except BrokenPipeError:
            _leave_quietly()

    return task


def _leave_quietly() -> NoReturn:
    """Who reads what is printed (`| head`) has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(BROKEN_PIPE) from None


def _complain(message: str) -> int:
    print(f"isometry: {message}", file=sys.stderr)
    return 2
