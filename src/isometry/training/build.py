"""From a validated config to the objects of a run; shared by training, diagnosis and figures."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from isometry.activations import Activation, wrap
from isometry.config.compose import resolved
from isometry.config.targets import instantiate
from isometry.data.module import DataModule, check_module
from isometry.errors import UserError, bad_value
from isometry.initializers.base import InitializerError
from isometry.networks.blocks import NORMALIZATIONS, Network
from isometry.training.classifier import Classifier


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_data(config: DictConfig) -> DataModule:
    """The data module; reads the data set, so that a missing file is told here.

    Raises:
        UserError: where no network can be trained on it.
    """
    if "batch_size" not in config.data:
        raise bad_value("data.batch_size", "missing", "say what a batch of the data module is")
    return check_module(instantiate(config.data))


def build_activation(node: DictConfig) -> Activation:
    """φ from its config, which may build an Activation, a torch module or (with `_partial_: true`)
    name a function.
    """
    return wrap(node.name, functools.partial(instantiate, node), node.get("kinks") or (0.0,))


def build_network(config: DictConfig, input_shape: tuple[int, ...], num_classes: int) -> Network:
    """The network, initialized from `seed` alone: no other random draw shifts its weights.

    Raises:
        UserError: where model, normalization and initializer do not go together.
    """
    if config.normalization.kind not in NORMALIZATIONS:
        raise UserError(
            f"normalization.kind={config.normalization.kind}: allowed are "
            f"{', '.join(NORMALIZATIONS)}"
        )
    activation = build_activation(config.activation)
    initialize = instantiate(config.initializer)
    network: Network = instantiate(
        config.model,
        input_shape=input_shape,
        num_classes=num_classes,
        activation=activation,
        normalization=config.normalization.kind,
    )
    try:
        initialize(network.layer_map(), torch.Generator().manual_seed(config.seed))
    except InitializerError as error:
        raise UserError(str(error)) from error
    return network


def build_classifier(config: DictConfig, network: Network) -> Classifier:
    """Network, loss, optimizer and scheduler in one LightningModule; of a fork's class if the
    config names one.

    Raises:
        UserError: for options that do not go together.
    """
    if config.activation_checkpointing and config.normalization.kind == "batch":
        raise UserError(
            "activation_checkpointing=true: with normalization=batch its statistics would be "
            "updated twice a step"
        )
    network.activation_checkpointing = config.activation_checkpointing
    if config.compile:
        network.compile()
    optimizer = {**resolved(config)["optimizer"], "lr": scaled_rate(config)}
    # a mistake in its arguments is told now, not in the middle of `fit`
    instantiate(optimizer, network.parameters())
    parts = (network, functools.partial(instantiate, optimizer), _scheduling(config), config.loss)
    if "classifier" not in config:
        return Classifier(*parts)
    classifier = instantiate(config.classifier, *parts)
    if not isinstance(classifier, Classifier):
        wanted = "must be a subclass of isometry.training.classifier.Classifier"
        raise bad_value("classifier._target_", config.classifier.get("_target_"), wanted)
    return classifier


def _scheduling(config: DictConfig) -> Callable[..., Any] | None:
    """Makes the scheduler of an optimizer; None for a constant rate."""
    constant = config.scheduler.get("_target_") is None
    return None if constant else functools.partial(_scheduler, config.scheduler)


def scaled_rate(config: DictConfig) -> float:
    """`optimizer.lr` by the scaling rule: times B/B_ref (linear, Goyal et al. 2017) or its root, B
    the examples of an update.

    `data.batch_size` is global: the number of devices alone never changes the rate.
    """
    ratio = (
        config.data.batch_size
        * config.trainer.accumulate_grad_batches
        / config.lr_scaling.reference_batch
    )
    return float(
        config.optimizer.lr
        * {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[config.lr_scaling.rule]
    )


def _scheduler(
    node: DictConfig, optimizer: torch.optim.Optimizer, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    scheduler: torch.optim.lr_scheduler.LRScheduler = instantiate(
        node, optimizer, total_steps=total_steps
    )
    return scheduler
