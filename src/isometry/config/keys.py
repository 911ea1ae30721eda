"""Every key of a config and what its value may be; messages, `--help` and tests follow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from isometry.columns import MEASURED, SUMMARY_NUMBERS
from isometry.config.kinds import (
    Kind,
    above,
    any_number,
    each_of,
    flag,
    integer,
    is_integer,
    listed,
    matching,
    named_or_built,
    number,
    one_of,
    or_null,
    or_word,
    share,
    text,
)
from isometry.runs.decision import RERUN

LARGEST_RATE = 1e30
"""What an optimizer may still divide by its own small numbers in float32."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}"
CIFAR = ("cifar10", "cifar100", "cifar100_coarse")
SOURCES = ("mnist_5k", "unit_vectors", "mnist", "fashion_mnist", *CIFAR)
PRECISIONS = ("64-true", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")

name_of_option = text(100)


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= 1000 or not _is_unicode(value):
        return False
    return all(len(os.fsencode(name)) <= 255 for name in value.split("/"))


def _is_unicode(text: str) -> bool:
    """Whether config.yaml and status.json can hold it: a folder's name may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


path = Kind(_is_path, "must be a path in UTF-8 of up to 1000 characters, 255 bytes a name")
project = matching(
    r"[^/\\#?%:\s]{1,128}",
    "must be up to 128 characters without / \\ # ? % : and spaces",
)
team = matching(r"[A-Za-z0-9_-]{1,128}", "must be a W&B team or user")


def _are_devices(value: Any) -> bool:
    indices = isinstance(value, list) and len(value) > 0 and len(set(map(str, value))) == len(value)
    return is_integer(value, 1, 1000) or (indices and all(map(is_integer, value)))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(is_integer(size, 1) for size in value)


def _is_statistic(value: Any) -> bool:
    return hasattr(value, "compute") or (isinstance(value, Mapping) and "_target_" in value)


def _are_statistics(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(map(_is_statistic, value.values())):
        return False
    new = set(value).isdisjoint((*MEASURED, "step", "layer", "name", "kind"))
    return new and all(matching(NAME, "").accepts(key) for key in value)


KEYS: dict[str, Kind] = {
    "seed": integer(0, 2**32 - 1),
    # ---- the network
    "model.name": name_of_option,
    "model.depth": integer(1, 100_000),
    "model.width": integer(1, 1_000_000),
    "model.channels": integer(1, 100_000),
    "model.stages": integer(1, 100),
    "model.kernel_size": Kind(
        lambda value: is_integer(value, 1, 99) and value % 2 == 1, "must be an odd whole number"
    ),
    "model.padding": one_of("circular", "zeros"),
    "model.channel_multiplier": integer(1, 100),
    "model.bias": flag(),
    "model.dropout": Kind(
        lambda value: number(0, 1).accepts(value) and value < 1, "must be from 0 to below 1"
    ),
    "model.block_depth": integer(1, 1000),
    "model.shortcut": one_of("A", "B", "none"),
    "model.stem": integer(1, 100_000),
    "model.stem_stride": integer(1, 100),
    "model.stage_channels": listed(
        integer(1, 100_000), "must be a list of whole numbers of at least 1", shortest=1
    ),
    "model.reads": one_of("rows", "pixels"),
    "model.start": one_of("torch", "orthogonal", "identity", "gaussian"),
    "model.gain": number(0),
    "model.input_std": or_null(number(0)),
    "model.forget_bias": or_null(any_number()),
    "model.heads": integer(1, 10_000),
    "model.patch": integer(1, 10_000),
    "model.norm_place": one_of("pre", "post", "sandwich"),
    "model.attention_scale": or_null(any_number()),
    "model.order": one_of("pre", "post"),
    "model.scale": or_word("auto", any_number()),
    "model.gate_bias": any_number(),
    "normalization.kind": one_of("none", "batch", "layer", "rms"),
    "activation.name": name_of_option,
    "activation.alpha": any_number(),
    "activation.beta": any_number(),
    "activation.negative_slope": any_number(),
    "activation.initial_slope": any_number(),
    "activation.module": text(100),
    "activation.kinks": listed(any_number(), "must be a list of numbers, e.g. [0.0]"),
    "remedy.name": name_of_option,
    "remedy.start": any_number(),
    "remedy.eta": Kind(lambda value: number(0, 1).accepts(value), "must be between 0 and 1"),
    "remedy.zeta": above(1, 1000),
    "remedy.base_width": integer(1, 1_000_000),
    "initializer.name": name_of_option,
    "initializer.sigma_w": number(0),
    "initializer.sigma_b": or_word("auto", number(0)),
    "initializer.std": number(0),
    "initializer.gain": or_word("auto", above(0)),
    "initializer.a": number(0),
    "initializer.connections": integer(1),
    "initializer.batch": integer(2, 100_000),
    "initializer.tolerance": above(0),
    "initializer.distribution": one_of("gaussian", "uniform", "truncated", "orthogonal"),
    "initializer.mode": one_of("fan_in", "fan_out", "fan_avg"),
    "initializer.readout": one_of("gaussian", "identity"),
    "compile": flag(),
    "activation_checkpointing": flag(),
    # ---- the data
    "data.source": named_or_built(*SOURCES),
    "data.batch_size": integer(1),
    "data.eval_batch_size": integer(1),
    "data.val_size": integer(1),
    "data.train_size": or_null(integer(1)),
    "data.augmentation": one_of("none", "crop_flip"),
    "data.seed": integer(0, 2**32 - 1),
    "data.name": name_of_option,
    "data.task": one_of("copy", "reverse", "addition"),
    "data.digits": integer(1, 18),
    "data.examples": integer(1, 10_000_000),
    "data.test_size": integer(1, 10_000_000),
    "data.raw_dir": or_null(path),
    "data.cache_dir": path,
    # ---- the training
    "loss": one_of("cross_entropy", "mse"),
    "optimizer.name": name_of_option,
    "optimizer.lr": above(0, LARGEST_RATE),
    "optimizer.momentum": number(0),
    "optimizer.nesterov": flag(),
    "optimizer.weight_decay": number(0),
    "optimizer.lr_decay": number(0),
    "optimizer.alpha": number(0, 1),
    "optimizer.eps": number(0),
    "optimizer.betas": listed(
        Kind(lambda value: number(0, 1).accepts(value) and value < 1, ""),
        "must be two numbers from 0 to below 1",
        shortest=2,
        longest=2,
    ),
    "scheduler.name": name_of_option,
    "scheduler.final": number(0, 1000),
    "scheduler.warmup": number(0, 1),
    "scheduler.gamma": number(0, 1000),
    "scheduler.milestones": listed(number(0, 1), "must be a list of shares between 0 and 1"),
    "lr_scaling.rule": one_of("none", "linear", "sqrt"),
    "lr_scaling.reference_batch": integer(1),
    "threads": or_null(integer(1, 1024)),
    # ---- Lightning's Trainer
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": or_word(
        "auto",
        Kind(_are_devices, "must be a whole number of at least 1, a list of device indices"),
    ),
    "trainer.num_nodes": integer(1, 100_000),
    "trainer.strategy": one_of("auto", "ddp"),
    "trainer.precision": one_of(*PRECISIONS),
    "trainer.max_epochs": or_null(integer(1)),
    "trainer.max_steps": Kind(
        lambda value: value == -1 or is_integer(value, 1), "must be at least 1, or -1 for no limit"
    ),
    "trainer.accumulate_grad_batches": integer(1),
    "trainer.gradient_clip_val": or_null(above(0)),
    "trainer.gradient_clip_algorithm": one_of("norm", "value", "layer", "adaptive"),
    "trainer.check_val_every_n_epoch": integer(1),
    "trainer.num_sanity_val_steps": integer(-1),
    "trainer.limit_train_batches": share(),
    "trainer.limit_val_batches": share(),
    "trainer.limit_test_batches": share(),
    "trainer.detect_anomaly": flag(),
    "trainer.profiler": one_of(None, "simple", "advanced"),
    "trainer.log_every_n_steps": integer(0),
    "trainer.deterministic": or_word("warn", flag()),
    "trainer.enable_progress_bar": flag(),
    "trainer.enable_model_summary": flag(),
    # ---- callbacks
    "callbacks.signals.every_n_steps": or_null(integer(1)),
    "callbacks.signals.flush_every": integer(1),
    "callbacks.signals.alarm_factor": above(1),
    "callbacks.signals.alarm_steps": or_null(integer(1)),
    "callbacks.signals.log_columns": each_of(MEASURED),
    "callbacks.signals.statistics": Kind(
        _are_statistics,
        "must map names that are no column yet to nodes with a _target_ (or Statistics)",
    ),
    "callbacks.checkpoints.every_n_steps": or_null(integer(1)),
    "callbacks.checkpoints.every_n_epochs": integer(1),
    "callbacks.early_stopping.monitor": one_of("val_loss", "val_accuracy"),
    "callbacks.early_stopping.mode": one_of("min", "max"),
    "callbacks.early_stopping.patience": or_null(integer(1)),
    "callbacks.early_stopping.min_delta": any_number(),
    # ---- what is logged where
    "logger.names": each_of(("csv", "wandb", "tensorboard")),
    "logger.project": project,
    "logger.entity": or_null(team),
    "logger.offline": flag(),
    "logger.patience": number(0, 86_400),
    "study_name": matching(
        NAME, "must be text: up to 40 letters, digits, . _ - (a number needs quotes: '\"2024\"')"
    ),
    "metric": one_of(None, *SUMMARY_NUMBERS),
    "label": or_null(text(200)),
    "tags": listed(text(64), "must be a list of texts of up to 64 characters, e.g. [a,b]"),
    "print_config": flag(),
    "pictures": flag(),
    "paths.runs": path,
    "paths.data": path,
    "resume": or_null(path),
    "rerun": one_of(*RERUN),
    "verdict.vanishing_below": above(0),
    "verdict.exploding_above": above(0),
    # ---- other verbs
    "network": or_null(text()),
    "batches": integer(1, 1_000_000),
    "input": or_null(
        Kind(_is_shape, "must be whole numbers of at least 1, examples first, e.g. 8,3,224,224")
    ),
    "vocabulary": or_null(integer(2)),
    "tries": listed(text(200), "must be a list of words of a command line, e.g. [model.depth=10]"),
    "trial": or_word("auto", flag()),
    "curvature": or_word("auto", flag()),
    "plot": flag(),
    "also": listed(text(100), "must be a list of activations, e.g. [tanh,relu]"),
    "phase_diagram": flag(),
    "reach": number(1e-3, 1000),
    "sigma_b": listed(number(0), "must be a list of numbers of at least 0, e.g. [0.1]"),
    "sigma_b_max": number(1e-3, 1000),
    "sigma_w_max": or_word("auto", number(1e-3, 1000)),
    "run": path,
    "checkpoint": path,
    "split": one_of("train", "val", "test"),
    "studies": listed(path, "must be names of studies, or folders"),
    "metrics": or_null(listed(text(100), "must be a list, e.g. [test_accuracy]", shortest=1)),
    "by": or_null(listed(text(200), "must be a list of keys, e.g. [activation]")),
    "over": listed(text(200), "must be a list of keys, e.g. [model.depth]"),
    "x": or_null(text(200)),
    "where": or_null(text(1000)),
    "sort": or_null(text(200)),
    "top": or_null(integer(1)),
    "folder": or_null(path),
    "html": flag(),
    "action": or_null(text(20)),
    "project": project,
    "entity": or_null(team),
    "group": or_null(text(40)),
    "preset": text(100),
    "first_seed": integer(0, 2**31),
    "draw_only": flag(),
}
"""Dotted key to its kind. A config need not have each; what it has beside them is its target's
affair (`FREE`).
"""

FREE = ("_target_", "_partial_", "_args_")
"""Last parts of keys that name what is built; `config.targets` decides about them."""
