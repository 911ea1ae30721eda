"""`isometry diagnose`: the network at initialization, measured against predicted, layer by layer,
and what to change, tried.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from isometry.config.checks import validate
from isometry.config.compose import resolved
from isometry.console import console, quiet
from isometry.data.module import DataModule
from isometry.errors import UserError, bad_value
from isometry.initialization.advise import Trial, advise
from isometry.initialization.cost import PRODUCTS, STEPS, forward_operations
from isometry.initialization.curvature import Curvature, curvature, stable_rate
from isometry.initialization.jacobian import jacobian_singular_values
from isometry.initialization.observe import observe, typed
from isometry.initialization.predict import predict_network
from isometry.layers.discover import layers_of
from isometry.runs.files import write_json, write_text, written_below
from isometry.runs.identity import config_hash, run_id
from isometry.training.build import build_data, build_for, scaled_rate, seed_everything
from isometry.training.classifier import LOSSES
from isometry.training.resume import typed_overrides
from isometry.training.trial import try_out
from isometry.verbs.alternatives import as_choice, as_trial, choices, situation
from isometry.verbs.comparison import compare, summarise_limit, verdict_of
from isometry.verbs.layer_table import show
from isometry.verbs.own_network import build_own

OWN_KEYS = ("batches", "plot", "tries", "trial", "curvature", "network", "input", "vocabulary")
"""Keys of diagnosis that training does not have: the run id is that of the training."""


def diagnose(config: DictConfig) -> dict[str, Any]:
    """Measure, predict, compare, advise; writes `diagnosis.json` (DESIGN.md) and returns its
    content.

    Raises:
        UserError: for a config that could not be trained.
    """
    quiet()
    plain = resolved(config)
    validate(plain)
    refuse_unused(config)
    seed_everything(config.seed)
    name, diagnosis = _of_function(config) if config.network else _of_config(config, plain)
    diagnosis = {"run_id": name, **diagnosis}
    folder = Path(config.paths.runs) / "diagnose" / name
    store(folder, diagnosis, config)
    show(diagnosis)
    console.print(f"-> {folder}/diagnosis.json", soft_wrap=True)
    return diagnosis


OF_A_CONFIG = (
    *("activation", "batches", "data", "initializer", "loss", "lr_scaling", "model"),
    *("normalization", "optimizer", "remedy", "scheduler", "trainer", "trial", "tries"),
)
"""Choices that a network of one's own has made itself, or that are of a training."""


def refuse_unused(config: DictConfig) -> None:
    """What is given and would not be looked at.

    Raises:
        UserError: for the first such choice.
    """
    if config.resume is not None:
        words = "goes on with a training; a diagnosis is of a network at its beginning"
        raise bad_value("resume", config.resume, words)
    for key in ("input", "vocabulary"):
        if config.network is None and config[key] is not None:
            raise bad_value(key, config[key], "is for a network of your own, module:function")
    for word in typed_overrides() if config.network is not None else ():
        if re.split(r"[.=]", word.lstrip("+"))[0] in OF_A_CONFIG:
            raise UserError(f"{word}: {config.network} is a network of its own; leave it out")


def _of_config(config: DictConfig, plain: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and diagnosis of the network that the config builds."""
    data = build_data(config)
    network = build_for(config, data)
    batches, measured = measure(network, data, config)
    batch = batches[0]
    images = torch.cat([images for images, _ in batches])
    size = config.data.batch_size
    prediction = predict_network(layers_of(network), images, size, len(images))
    diagnosis = compare(layers_of(network), measured, prediction)
    diagnosis |= verdict_of(layers_of(network), measured, prediction, config)
    diagnosis |= summarise_limit(layers_of(network), size, prediction)
    diagnosis |= jacobian_of(network, images)
    diagnosis |= curvature_of(network, batch, LOSSES[config.loss], config)
    diagnosis |= {"lr": scaled_rate(config), "loss": str(config.loss)}
    now = situation(diagnosis, prediction, trial_of(network, batch[0], config), config)
    others = [] if now.well else choices(now, config, data, images, diagnosis["stable_lr"])
    diagnosis |= {"trial": as_trial(now.now), "tries": [as_choice(choice) for choice in others]}
    diagnosis["advice"] = advise(now, others)
    return run_id({k: v for k, v in plain.items() if k not in OWN_KEYS}), diagnosis


def _of_function(config: DictConfig) -> tuple[str, dict[str, Any]]:
    """Name and diagnosis of the network that somebody's function makes."""
    shape = None if config.input is None else list(config.input)
    own = build_own(config.network, shape, config.vocabulary, config.seed)
    measured = own.measure()
    diagnosis = compare(own.layers, measured, own.prediction())
    diagnosis |= verdict_of(own.layers, measured, own.prediction(), config)
    unknown = ("chi_1", "q_star", "phase", "jacobian_singular_values")
    diagnosis |= dict.fromkeys(unknown)
    diagnosis |= curvature_of(own.network, (own.inputs, None), own.loss, config)
    diagnosis |= {"lr": None, "stable_lr": None, "trial": None, "tries": []}
    now = situation(diagnosis, own.prediction(), None, config, "the depth")
    diagnosis |= {"advice": advise(now, []), "loss": own.loss_name}
    given = {key: resolved(config)[key] for key in ("network", "input", "vocabulary", "seed")}
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", config.network)[:80]
    return f"{safe}-s{config.seed}-{config_hash(given)}", diagnosis


# ---- measured ------------------------------------------------------------------------------------


def measure(
    network: nn.Module, data: DataModule, config: DictConfig
) -> tuple[list[tuple[Tensor, Tensor]], dict[str, NDArray[np.float64]]]:
    """The batches, and the columns of the network at initialization over `batches`
    batches, [L] each.
    """
    data.prepare_data()
    data.setup("fit")
    batches = list(itertools.islice(data.train_dataloader(), config.batches))
    columns = observe(network, batches, LOSSES[config.loss]).columns
    return [(typed(images, torch.float64)[0], labels) for images, labels in batches], columns


def jacobian_of(network: nn.Module, images: Tensor) -> dict[str, Any]:
    """Largest, median and smallest singular value through the hidden layers at the first example;
    null under batch norm.
    """
    mixed = any(spec.normalization == "batch" for spec in layers_of(network))
    values = None if mixed else jacobian_singular_values(network, images[:1])
    return {"jacobian_singular_values": None if values is None else [float(v) for v in values]}


# ---- training ------------------------------------------------------------------------------------


def curvature_of(
    network: nn.Module,
    batch: tuple[Any, Any],
    loss: Callable[[Any, Any], Tensor],
    config: DictConfig,
) -> dict[str, Any]:
    """Largest eigenvalues, and the largest rate that the optimizer at hand is stable with."""
    wanted = _wanted(config.curvature, network, batch[0], PRODUCTS)
    reason = f"not computed: {TOO_LARGE}curvature=true" if wanted is None else "curvature=false"
    found = curvature(network, batch, loss) if wanted else Curvature(None, None, reason)
    stable = stable_rate(found.hessian, resolved(config)["optimizer"])
    return {"curvature": dataclasses.asdict(found), "stable_lr": stable}


TOO_LARGE = "for a network of this size it takes minutes; "


def _wanted(value: bool | str, network: nn.Module, inputs: Any, most: float) -> bool | None:
    """Whether something is done; None where it would take too long."""
    if value != "auto":
        return bool(value)
    return True if forward_operations(network, inputs) <= most else None


def trial_of(network: nn.Module, images: Tensor, config: DictConfig) -> Trial | None:
    """What the first steps of the training come to; None where they are not taken."""
    wanted = _wanted(config.trial, network, images, STEPS)
    if wanted is None:
        console.print(f"not tried: {TOO_LARGE}trial=true", highlight=False)
    if not wanted:
        return None
    console.print("trying the network as it is ...", highlight=False)
    return try_out(config)


# ---- stored -------------------------------------------------------------------------------------


def store(folder: Path, diagnosis: dict[str, Any], config: DictConfig) -> None:
    """`diagnosis.json`, the config, and the picture if wanted."""
    with written_below("paths.runs", config.paths.runs):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_json(folder / "diagnosis.json", diagnosis)
    if config.plot:
        from isometry.plots.bands import draw_diagnosis
        from isometry.plots.style import save

        (path,) = save(draw_diagnosis(diagnosis), folder / "diagnosis")
        console.print(str(path), soft_wrap=True)
