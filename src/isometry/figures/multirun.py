"""Starting training runs from inside another verb, through whichever Hydra launcher was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from isometry.config.compose import hydra_of_our_own

TASK = "isometry.launch.ddp:train"


def launch(jobs: Sequence[Sequence[str]], choices: Sequence[str] = ()) -> None:
    """Run `isometry train` once for each list of overrides, as a multirun does; returns when the
    launcher does.

    A grid of Hydra's sweeper is a product; these lists need not be one.

    Args:
        jobs: overrides of each run.
        choices: overrides of the launcher, `hydra/launcher=slurm` say.

    Raises:
        whatever Hydra and the launcher raise: UserError for a job that cannot be trained, before
        anything runs.
    """
    with hydra_of_our_own() as search:
        hydra: Any = GlobalHydra.instance().hydra
        config = hydra.compose_config(
            "train", [*choices, *search], run_mode=RunMode.MULTIRUN, with_log_configuration=False
        )
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=context, task_function=_train
        )
        launcher.launch([list(job) for job in jobs], initial_job_idx=0)


def _train(config: Any) -> Any:
    module, function = TASK.split(":")
    return getattr(import_module(module), function)(config)
