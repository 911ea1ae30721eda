"""Going on with a run from its own directory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningDataModule, Trainer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from isometry.data.in_memory import InMemoryData
from isometry.errors import Damaged, UserError, bad_value
from isometry.runs.directory import RunDirectory
from isometry.runs.metrics import MetricsFile
from isometry.runs.signal_store import SignalStore
from isometry.training.callbacks.checkpoints import load_intact


def frozen_config(folder: Path, key: str = "resume") -> DictConfig:
    """The config of a run directory, as it was when the run began.

    Raises:
        UserError: where the folder is no run directory, or other overrides stand beside `resume=`.
    """
    run = RunDirectory(folder)
    if not run.config.is_file():
        raise bad_value(key, folder, "is not a run directory: it has no config.yaml")
    run.refuse_links()
    others = [text for text in typed_overrides() if not text.startswith((f"{key}=", *OF_THE_USER))]
    if others:
        words = f"the run's own config is used; leave out {', '.join(others)}"
        raise UserError(f"{key}={folder}: {words}")
    try:
        config = OmegaConf.create(run.config_text() or "")
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise bad_value(key, folder, f"its config.yaml cannot be read ({error})") from error
    if not isinstance(config, DictConfig) or not {"model", "data", "trainer", "seed"} <= set(
        config
    ):
        raise bad_value(key, folder, "its config.yaml is not the config of a run")
    _refuse_interpolations(config, key, folder)
    return config


OF_THE_USER = (
    "checkpoint=",
    "data.raw_dir=",
    "hydra.",
    "logger",
    "paths.",
    "print_config=",
    "rerun=",
    "split=",
    "trainer.max_epochs=",
    "trainer.max_steps=",
)
"""How overrides begin that may stand beside a run's own config: what belongs to this machine and
its user, not to the run, and how long it is trained.
"""


def at_home(config: DictConfig, given: DictConfig) -> DictConfig:
    """The config of a run directory, which may be a stranger's, with this user's places: where
    files lie and where it logs is not the directory's choice.

    Args:
        config: of the directory.
        given: composed from this command line.
    """
    config = copy.deepcopy(config)
    config.paths = given.paths
    config.rerun = given.get("rerun")
    _set_everywhere(config, "cache_dir", given.paths.data)
    for text in typed_overrides():
        if text.startswith("data.raw_dir="):
            config.data.raw_dir = str(Path(given.data.raw_dir).absolute())
        for limit in ("max_epochs", "max_steps"):  # more of them, say
            if text.startswith(f"trainer.{limit}="):
                _refuse_fewer(f"trainer.{limit}", config.trainer[limit], given.trainer[limit])
                config.trainer[limit] = given.trainer[limit]
    if "logger" in given:
        names = given.logger.names if _says("logger") else config.logger.get("names")
        config.logger = OmegaConf.merge(given.logger, {"names": names})
    return config


def _set_everywhere(node: Any, key: str, value: str) -> None:
    """In every section that has the key: a part of any of them is built, too."""
    children = node.values() if OmegaConf.is_dict(node) else node if OmegaConf.is_list(node) else ()
    for child in children:
        _set_everywhere(child, key, value)
    if OmegaConf.is_dict(node) and key in node:
        node[key] = value


def _refuse_fewer(key: str, own: int | None, given: int | None) -> None:
    """A run is taken on, never back.

    Raises:
        UserError: for a limit under the run's own.
    """
    unlimited = (None, -1)
    if own not in unlimited and given not in unlimited and given < own:  # type: ignore[operator]
        raise bad_value(key, given, f"the run's own is {own}, and it can only be taken further")


def _says(group: str) -> bool:
    return any(text.startswith((f"{group}=", f"{group}.names=")) for text in typed_overrides())


def _refuse_interpolations(config: DictConfig, key: str, folder: Path) -> None:
    """A run's config holds plain values: `${oc.env:X}` in a stranger's would read what is here, and
    log it there.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    found = [text for text in _texts(plain) if "${" in text]
    if found:
        words = f"its config.yaml holds {found[0]!r}; the config of a run has no interpolations"
        raise bad_value(key, folder, words)


def _texts(node: Any) -> Iterator[str]:
    """All strings of nested containers, keys included."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _texts(name)
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)


def typed_overrides() -> list[str]:
    """What stands on this command line; nothing where none was parsed."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def load_checkpoint(path: Path, key: str = "checkpoint") -> dict[str, Any]:
    """The content of a checkpoint, tensors and plain containers only.

    Raises:
        UserError: where the file is missing or no checkpoint.
    """
    if not path.is_file():
        raise bad_value(key, path, "no such file")
    try:
        content = load_intact(path)
    except Damaged as damage:
        raise bad_value(key, path, str(damage).removeprefix(f"{path}: ")) from damage
    if not isinstance(content, dict) or "state_dict" not in content:
        raise bad_value(key, path, "is not a checkpoint of a training")
    return content


def checkpoint_step(path: Path) -> int:
    """The optimizer steps that had been taken when a checkpoint was written.

    Raises:
        UserError: where it does not say.
    """
    content = load_checkpoint(path, "resume")
    if lacking := [key for key in NEEDED if key not in content]:
        raise bad_value("resume", path, f"it has no {', '.join(lacking)}; {STARTS_OVER}")
    step = content["global_step"]
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise bad_value("resume", path, f"its global_step is {step!r}; {STARTS_OVER}")
    return step


def refuse_half_an_epoch(run: RunDirectory) -> None:
    """A training that `max_steps` ends is at the end of its last epoch for Lightning, wherever in
    the order of its examples it stands.

    Raises:
        UserError: for a finished run whose last epoch is not whole.
    """
    if _is_within_epoch(run.last_checkpoint):
        words = "trainer.max_steps ended it within an epoch, and it cannot go on from there"
        raise UserError(f"{run.path}: {words}; rerun=all trains it from its beginning")


def warn_of_foreign_order(data: LightningDataModule, checkpoint: Path) -> None:
    """Where in an epoch the loader of somebody's data module was is known by itself alone."""
    if not isinstance(data, InMemoryData) and _is_within_epoch(checkpoint):
        warnings.warn(
            f"{type(data).__name__}: the epoch goes on, but its loader begins anew: the rest of "
            "this epoch has other examples than in an undisturbed run",
            stacklevel=2,
        )


def _is_within_epoch(checkpoint: Path) -> bool:
    """Whether Lightning had batches of the epoch before it when a checkpoint was written."""
    loops = load_checkpoint(checkpoint, "resume").get("loops", {})
    progress = loops.get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    return progress.get("is_last_batch") is False


NEEDED = ("global_step", "epoch", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""What Lightning restores a training from; without one of them it would silently begin anew."""
STARTS_OVER = "rerun=all trains the run from its beginning"


@contextmanager
def restoring(trainer: Trainer, checkpoint: Path | None) -> Iterator[None]:
    """Around `fit`: what goes wrong before the first step of a resume is the checkpoint's fault.

    Raises:
        UserError: where the checkpoint does not fit the run.
    """
    begun = _Begun()
    trainer.callbacks.append(begun)  # type: ignore[attr-defined]
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever Lightning, torch or a callback trips over
        if checkpoint is None or begun.training:
            raise
        first = (str(error).splitlines() or [""])[0]
        words = f"does not fit the run ({type(error).__name__}: {first}); {STARTS_OVER}"
        raise bad_value("resume", checkpoint, words) from error


class _Begun(Callback):
    """Knows whether a training has come to its first batch, or to its end."""

    training = False

    def on_train_batch_start(self, *_: Any) -> None:
        self.training = True

    def on_train_end(self, *_: Any) -> None:
        self.training = True


def keep_before(run: RunDirectory, step: int) -> None:
    """Drop the signals at or after a checkpoint's step, and the metrics after it: they will be
    measured again.
    """
    SignalStore(run.signals).drop_from(step)
    metrics = MetricsFile(run.metrics)
    if metrics.rows:
        metrics.drop_from(step)
        metrics.flush()
