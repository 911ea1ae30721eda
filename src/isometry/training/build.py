"""From a validated config to the objects of a run; shared by training, diagnosis and figures."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from isometry.activations import Activation, wrap
from isometry.config.checks import processes_of
from isometry.config.compose import resolved
from isometry.config.keys import LARGEST_RATE
from isometry.config.targets import instantiate, parameters_of
from isometry.data.module import (
    SPLITS,
    DataModule,
    InMemoryData,
    check_module,
    evaluation_loader,
    training_images,
)
from isometry.errors import UserError, bad_value
from isometry.initializers.base import InitializerError
from isometry.initializers.data_dependent import DataDependent
from isometry.layers.discover import layers_of, remember
from isometry.layers.spec import LayerSpec
from isometry.networks.blocks import NORMALIZATIONS, Network
from isometry.remedies.base import Remedy
from isometry.signals.own import Statistic
from isometry.training.classifier import Classifier
from isometry.training.clipping import OURS as CLIPPINGS

HAS_ITS_OWN = "defaults: [override /activation@_global_.activation: own]"
"""What a model's config says for it."""


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


def check_limits(config: DictConfig, data: DataModule) -> None:
    """Refuse a share of an epoch that comes to no batch: Lightning would notice it when the test
    begins.

    Raises:
        UserError: for such a share.
    """
    for split in SPLITS:
        _check_share(config, data, f"limit_{split}_batches", split)
    _check_share(config, data, "overfit_batches", "train")
    interval = config.trainer.get("val_check_interval")
    _check_share(config, data, "val_check_interval", "train")
    batches = batches_in(data, "train") if isinstance(interval, int) else None
    if batches is not None and interval > batches:
        words = f"an epoch has {batches} batches; trainer.check_val_every_n_epoch counts epochs"
        raise bad_value("trainer.val_check_interval", interval, words)


def _check_share(config: DictConfig, data: DataModule, key: str, split: str) -> None:
    share = config.trainer.get(key)
    if not isinstance(share, float) or share in (0.0, 1.0):  # overfit_batches=0.0 is none
        return
    batches = batches_in(data, split)
    if batches is not None and int(share * batches) == 0:
        words = f"of {batches} batch{'es' * (batches > 1)} is none; give a number, e.g. 1"
        raise bad_value(f"trainer.{key}", share, words)


def check_labels(data: DataModule) -> None:
    """Labels of a fork's data are those that the readout has units for: torch would end in the
    middle of a step.

    Raises:
        UserError: where the first training batch has another one.
    """
    if isinstance(data, InMemoryData):  # whose files are looked at as they are decoded
        return
    with torch.random.fork_rng(devices=[]):
        batch = next(iter(evaluation_loader(data, "train")))
    labels = batch[-1] if isinstance(batch, tuple | list) else None
    if isinstance(labels, Tensor) and not labels.is_floating_point() and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= data.num_classes:
            words = f"{type(data).__name__} has labels from {low} to {high}"
            raise bad_value("data.num_classes", data.num_classes, words)


def batches_in(data: DataModule, split: str) -> int | None:
    """How many batches a split has; None where its loader does not know."""
    if isinstance(data, InMemoryData):
        return data.batches_in(split)
    try:
        return len(evaluation_loader(data, split))  # type: ignore[arg-type]
    except TypeError:
        return None


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_batch_norms(config: DictConfig, network: nn.Module) -> None:
    """Batch norm, whoever brings it, has no variance over one example.

    Raises:
        UserError: where a process has one.
    """
    size = config.data.get("batch_size")
    processes = processes_of(config.trainer.devices)
    brought = any(isinstance(part, BATCH_NORMS) for part in network.modules())
    if brought and isinstance(size, int) and size // processes < 2:
        raise bad_value(
            "data.batch_size", size, "the network's batch norm needs 2 examples a process"
        )


def build_activation(node: DictConfig) -> Activation:
    """φ from its config, which may build an Activation, a torch module or (with `_partial_: true`)
    name a function.

    Raises:
        UserError: for `own`, which is none.
    """
    if "_target_" not in node:
        raise bad_value("activation", node.name, "is a network's own φ; here one is to be named")
    return wrap(node.name, functools.partial(instantiate, node), node.get("kinks") or (0.0,))


def build_for(config: DictConfig, data: DataModule) -> nn.Module:
    """The network for a data set (`build_network`)."""
    vocabulary = getattr(data, "vocabulary", None)
    examples = functools.partial(training_images, data)
    network = build_network(config, data.input_shape, data.num_classes, vocabulary, examples)
    check_batch_norms(config, network)
    return network


def build_network(
    config: DictConfig,
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: int | None = None,
    examples: Callable[[int], Tensor] | None = None,
) -> nn.Module:
    """The network, initialized from `seed` alone: no other random draw shifts its weights. Its
    layer map is kept with it (`layers.discover.layers_of`).

    Args:
        config: of a training.
        input_shape: of one example.
        num_classes: units of the readout.
        vocabulary: examples are whole numbers below it; None: images.
        examples: gives so many training examples, for initializers that look at them.

    Raises:
        UserError: where model, normalization, initializer and remedy do not go together.
    """
    initialize = instantiate(config.initializer)
    remedy = build_remedy(config)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):  # for what no initializer draws
        torch.manual_seed(config.seed)
        network = make_network(config, input_shape, num_classes, vocabulary)
    remedy.alter(network)
    layers = found_layers(config, network, input_shape, num_classes, vocabulary)
    try:
        initialize(layers, generator)
        if isinstance(initialize, DataDependent):
            initialize.adapt(network, layers, examples)
    except InitializerError as error:
        raise UserError(str(error)) from error
    remedy.begin(network, layers, generator)
    if remedy.hides_weights:
        found_layers(config, network, input_shape, num_classes, vocabulary)
    return network


def build_remedy(config: DictConfig) -> Remedy:
    """What changes more than weights; of `remedy=none` what changes nothing.

    Raises:
        UserError: where the config builds something else.
    """
    if "_target_" not in config.remedy:
        return Remedy()
    remedy = instantiate(config.remedy)
    if not isinstance(remedy, Remedy):
        raise bad_value("remedy._target_", config.remedy["_target_"], "must build a Remedy")
    remedy.name = str(config.remedy.get("name") or type(remedy).__name__)
    return remedy


def make_network(
    config: DictConfig, input_shape: tuple[int, ...], num_classes: int, vocabulary: int | None
) -> nn.Module:
    """The network as its class makes it. What the class takes is passed by its parameters' names.

    Raises:
        UserError: for a normalization or an activation that it does not take, and what does not
            build a module.
    """
    kind = config.normalization.kind
    if kind not in NORMALIZATIONS:
        raise bad_value("normalization.kind", kind, f"allowed are {', '.join(NORMALIZATIONS)}")
    names = parameters_of(config.model)
    offered = {"input_shape": input_shape, "num_classes": num_classes, "normalization": kind}
    if ("vocabulary" in names) != (vocabulary is not None):
        what = "text: data=copy, reverse, addition" if "vocabulary" in names else "images"
        reads = f"{_name(config)} reads {what}"
        raise bad_value("data", config.data.get("name") or config.data.get("source"), reads)
    offered |= {"vocabulary": vocabulary}
    if "activation" in names:
        offered["activation"] = build_activation(config.activation)
    elif config.activation.name != "own":
        words = f"{_name(config)} takes none: activation=own, or in the model's YAML {HAS_ITS_OWN}"
        raise bad_value("activation", config.activation.name, words)
    if "**" in names and "num_classes" not in config.model:
        names.add("num_classes")  # torchvision's and timm's functions hand it on
    if kind != "none" and "normalization" not in names:
        raise bad_value("normalization.kind", kind, f"{_name(config)} takes no normalization")
    network = instantiate(config.model, **{key: offered[key] for key in offered if key in names})
    if not isinstance(network, nn.Module):
        raise bad_value("model._target_", config.model.get("_target_"), "builds no torch module")
    return network


def _name(config: DictConfig) -> str:
    return f"model={config.model.get('name') or config.model.get('_target_')}"


def found_layers(
    config: DictConfig,
    network: nn.Module,
    input_shape: tuple[int, ...],
    num_classes: int,
    vocabulary: int | None,
) -> list[LayerSpec]:
    """The layer map, by a dry run on two examples.

    Raises:
        UserError: where the network does not take them, or gives other than logits.
    """
    dtype = torch.float32 if vocabulary is None else torch.int64
    wanted = (2, num_classes) if vocabulary is None else (2, num_classes, *input_shape)
    seen: list[Any] = []
    handle = network.register_forward_hook(lambda module, args, out: seen.append(out))
    try:
        layers = remember(network, torch.zeros(2, *input_shape, dtype=dtype))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        words = f"does not take examples {list(input_shape)}: {str(error).splitlines()[0]}"
        raise UserError(f"{_name(config)}: {words}") from error
    finally:
        handle.remove()
    shape = tuple(getattr(seen[-1], "shape", ()))
    if shape != wanted:
        words = f"gives {list(shape)} for 2 examples; needed are logits {list(wanted)}"
        raise UserError(f"{_name(config)}: {words}")
    return layers


def build_statistics(nodes: DictConfig) -> dict[str, Statistic]:
    """The user's statistics, by the name of their column.

    Raises:
        UserError: for a node that builds something else.
    """
    built = {str(name): instantiate(node) for name, node in nodes.items()}
    for name, statistic in built.items():
        if not isinstance(statistic, Statistic):
            key = f"callbacks.signals.statistics.{name}"
            raise bad_value(key, type(statistic).__name__, "must be isometry.signals.own.Statistic")
    return built


def build_classifier(config: DictConfig, network: nn.Module) -> Classifier:
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
    if config.activation_checkpointing:
        if not isinstance(network, Network):
            raise bad_value("activation_checkpointing", True, f"{_name(config)} offers none")
        network.activation_checkpointing = True
    if config.compile:
        network.compile()
    optimizer = {**resolved(config)["optimizer"], "lr": scaled_rate(config)}
    # a mistake in its arguments is told now, not in the middle of `fit`
    instantiate(optimizer, network.parameters())
    parts = (network, _optimization(config, network, optimizer), _scheduling(config), config.loss)
    classifier = Classifier(*parts) if "classifier" not in config else _own(config, parts)
    algorithm, limit = (config.trainer[f"gradient_clip_{key}"] for key in ("algorithm", "val"))
    if limit is not None and algorithm in CLIPPINGS:
        classifier.clip = lambda network: CLIPPINGS[algorithm](network, limit)
    return classifier


def _own(config: DictConfig, parts: tuple[Any, ...]) -> Classifier:
    """A fork's LightningModule."""
    classifier = instantiate(config.classifier, *parts)
    if not isinstance(classifier, Classifier):
        wanted = "must be a subclass of isometry.training.classifier.Classifier"
        raise bad_value("classifier._target_", config.classifier.get("_target_"), wanted)
    return classifier


def _optimization(
    config: DictConfig, network: nn.Module, node: dict[str, Any]
) -> Callable[[Any], torch.optim.Optimizer]:
    """Makes the optimizer; of the parameters in groups, where the remedy has some."""
    groups = build_remedy(config).groups(network, layers_of(network), node["_target_"], node["lr"])

    def make(parameters: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = instantiate(node, groups or parameters)
        return optimizer

    return make


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
    factor = {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[config.lr_scaling.rule]
    rate = float(config.optimizer.lr * factor)
    if rate > LARGEST_RATE:
        raise bad_value("optimizer.lr", config.optimizer.lr, f"lr_scaling makes it {rate:g}")
    return rate


def _scheduler(
    node: DictConfig, optimizer: torch.optim.Optimizer, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    scheduler: torch.optim.lr_scheduler.LRScheduler = instantiate(
        node, optimizer, total_steps=total_steps
    )
    return scheduler
