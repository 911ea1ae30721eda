"""What a run says on the terminal."""

from __future__ import annotations

import logging
import warnings

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.measure import Measurement
from rich.syntax import Syntax
from rich.table import Table
from rich.tree import Tree


def plain_console(stderr: bool = False, width: int | None = None) -> Console:
    """Prints what it is given: no name of a study or a folder is taken for markup."""
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


console = plain_console(stderr=True)


def print_config(config: DictConfig) -> None:
    """The resolved config as a tree, a branch a group."""
    tree = Tree("config")
    for key, value in config.items():
        text = OmegaConf.to_yaml(value, resolve=True) if OmegaConf.is_config(value) else str(value)
        tree.add(str(key)).add(Syntax(text.rstrip(), "yaml", background_color="default"))
    console.print(tree)


def quiet() -> None:
    """Silence Lightning's advertisements and its advice on loaders, which are not ours."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        # a login node: the pool is meant
        ".*`srun` command is available on your system but is not used.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        # our sums are reduced before they are logged
        ".*when logging on epoch level in distributed setting.*",
        ".*LeafSpec.*is deprecated.*",  # of torch, in Lightning's code
        # our loader resumes mid-epoch
        ".*resuming from a checkpoint that ended before the epoch ended.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def print_whole(table: Table, console: Console | None = None) -> None:
    """A table of numbers: wider than the console (the terminal) rather than with words or numbers
    that are cut.
    """
    found = console or wide_console()
    narrow = found.width
    found.width = max(narrow, width_of(table))
    found.print(table)
    found.width = narrow


def width_of(table: Table) -> int:
    """Columns that a table needs for all that stands in it."""
    roomy = plain_console(width=1000)
    return Measurement.get(roomy, roomy.options, table).maximum


def wide_console() -> Console:
    """The terminal, or 140 columns where the output goes to a file."""
    found = plain_console()
    return found if found.is_terminal else plain_console(width=140)
