"""What measuring needs of a LightningModule, ours or anybody's: its layers, its batches, a second
forward pass, the moment between clipping and the optimizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import nn

from isometry.errors import UserError
from isometry.layers.discover import eagerly, layers_of, refuse_scripts, untouched
from isometry.layers.spec import LayerSpec
from isometry.training.classifier import Classifier, window


def refuse(module: LightningModule) -> None:
    """
    Raises:
        UserError: where an optimizer step is not one forward and one backward pass of each
            micro-batch. (Several optimizers without manual optimization Lightning refuses itself.)
    """
    name = type(module).__name__
    if not module.automatic_optimization:
        raise UserError(
            f"isometry.Signals: {name}.automatic_optimization is False; what a step is, only "
            "automatic optimization tells: isometry measures nothing else"
        )
    refuse_scripts(module)


def measured(module: LightningModule) -> tuple[nn.Module, Sequence[LayerSpec] | None]:
    """The network, and its layers; None where the first forward pass has to find them."""
    if isinstance(module, Classifier):
        return module.network, layers_of(module.network)
    return module, None


def examples_in(batch: Any) -> int:
    """How many examples a batch holds.

    Raises:
        UserError: where it holds no tensor.
    """
    try:
        return int(extract_batch_size(batch))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"isometry.Signals: the size of a batch is not seen: {error}") from None


def accumulated(trainer: Trainer, module: LightningModule, batch_idx: int) -> int:
    """By how much the differentiated loss of a micro-batch was divided."""
    if isinstance(module, Classifier):
        return window(trainer, batch_idx)  # it weighs its loss up in a short window
    return trainer.accumulate_grad_batches


def second_pass(
    module: LightningModule,
    batch: Any,
    batch_idx: int,
    context: Callable[[], AbstractContextManager[Any]],
) -> Callable[[], None]:
    """Runs the forward pass of a training step once more, with the same random numbers; running
    statistics stay what they are.
    """
    state = torch.get_rng_state()

    def run() -> None:
        with torch.no_grad(), untouched(module), eagerly(module), context(), _mute(module):
            torch.set_rng_state(state)
            _forward(module, batch, batch_idx)

    return run


def _forward(module: LightningModule, batch: Any, batch_idx: int) -> None:
    if isinstance(module, Classifier):
        module.network(batch[0])
        return
    arguments = (batch, batch_idx)
    accepted = len(inspect.signature(module.training_step).parameters)
    module.training_step(*arguments[:accepted])


@contextmanager
def _mute(module: LightningModule) -> Iterator[None]:
    """What a step logs inside of the block has been logged before."""
    object.__setattr__(module, "log", lambda *arguments, **settings: None)
    try:
        yield
    finally:
        object.__delattr__(module, "log")


def read_clipped(module: LightningModule, read: Callable[[], None]) -> Callable[[], None]:
    """Call something between clipping and the optimizer's arithmetic, where Lightning has no hook
    for callbacks; returns what ends that.
    """
    clip = module.configure_gradient_clipping

    def clip_and_read(*arguments: Any, **settings: Any) -> None:
        clip(*arguments, **settings)
        read()

    object.__setattr__(module, "configure_gradient_clipping", clip_and_read)

    def end() -> None:
        if vars(module).get("configure_gradient_clipping") is clip_and_read:
            object.__delattr__(module, "configure_gradient_clipping")

    return end
