"""`isometry.watch`: measures a network in a training loop that is somebody's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from isometry.errors import UserError
from isometry.layers.discover import eagerly, refuse_scripts, untouched
from isometry.layers.operations import tensors_in
from isometry.layers.spec import LayerSpec
from isometry.signals import distributed
from isometry.signals.flush import Divergence
from isometry.signals.recorder import Recorder
from isometry.training.scaling import gradient_scale, loss_scale
from isometry.training.signal_log import SignalLog
from isometry.training.signal_options import signal_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Watched:
    """`with Watched(model, folder) as signals:` around a training loop.

    A call of the model with gradients begins a micro-batch (evaluate under `torch.no_grad()`); a
    step of the optimizer that has the model's parameters ends the step. Each loss is taken for a
    mean over its micro-batch's examples.

    Args:
        model: what is trained; may be wrapped for data-parallel training or compiled.
        folder: where `signals.parquet` is written; None keeps the rows in memory.
        accumulate: backward passes to an optimizer step, by which their losses are divided.
        batch_dim: of the model's first input, the dimension that counts examples.
        scaler: the `torch.amp.GradScaler` of the training, where there is one.
        first_step: optimizer steps that an earlier training has taken, whose rows are kept.
        chosen: fields of `SignalOptions` that are not to be the defaults.

    Raises:
        UserError: for an option that there is not; where the folder holds the rows of another
            training; for a ScriptModule. In the loop: for several optimizers, more backward passes
            than `accumulate`, a model without weights.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path | None = None,
        *,
        accumulate: int = 1,
        batch_dim: int = 0,
        scaler: torch.amp.GradScaler | None = None,
        first_step: int = 0,
        **chosen: Any,
    ):
        self.options = signal_options(chosen)
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        if not isinstance(self.model, nn.Module):
            raise UserError(f"isometry.watch: {type(model).__name__} is no torch module")
        refuse_scripts(self.model)
        self.accumulate = accumulate
        self.batch_dim = batch_dim
        self.scaler = scaler
        self.kept = SignalLog(self.options)
        self.kept.begin(folder, first_step)
        options = self.options
        fixed = (options.flush_every, first_step, scaler is not None, options.statistics)
        self.recorder = Recorder(self.model, None, *fixed)
        if first_step > 0:
            self.recorder.restore_initial(None)  # nobody has kept the weights of step 0
        self._own = {id(parameter) for parameter in self.model.parameters()}
        self._optimizer: torch.optim.Optimizer | None = None
        self._accumulated: dict[nn.Parameter, Tensor] = {}
        self._of_block = ExitStack()  # what stands for as long as the block,
        self._of_step = ExitStack()  # for one step,
        self._of_call = ExitStack()  # for one call of the model
        self._recorded = False
        self._passes = 0  # micro-batches of the step that have begun
        self._open = False  # whether the last one's backward pass is still to come, or running
        self._complete = False  # whether the step's gradients have been read

    # ---- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Watched:
        if self.options.every_n_steps is not None:
            self._of_block.callback(register_optimizer_step_pre_hook(self._before_update).remove)
            self._of_block.callback(register_optimizer_step_post_hook(self._after_update).remove)
            self._begin_step()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for stack in (self._of_call, self._of_step, self._of_block):
            stack.close()
        self.recorder.observer.close()
        self._flush()
        if kind is not None or self.options.every_n_steps is None:
            return
        if self._optimizer is None:
            warnings.warn(
                "isometry.watch: no optimizer of torch's has stepped with the model's parameters "
                "inside of the block: nothing was recorded",
                stacklevel=2,
            )
        elif self.divergence is None:
            self.recorder.weights_only()
            self._flush()

    def _begin_step(self) -> None:
        self._of_step.close()
        every = self.options.every_n_steps
        self._recorded = every is not None and self.recorder.step % every == 0
        self._accumulated = {}
        self._passes = 0
        self._open = False
        self._complete = False
        compiled = self.recorder.observer.compiled
        if compiled and self._recorded:
            self._of_step.enter_context(eagerly(self.model))
        if self._recorded or not compiled:  # of a compiled model a hook would become a part
            hook = self.model.register_forward_pre_hook(self._called, with_kwargs=True)
            self._of_step.callback(hook.remove)

    # ---- a micro-batch ---------------------------------------------------------------------------

    def _called(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.is_grad_enabled():
            return
        if self._open and self._recorded and not self.recorder.sums.backward_began:
            self.recorder.observer.forward_continues()  # one loss of several calls
        else:
            self._end_pass()
            self._begin_pass(args, kwargs)
        # behind the recorder's own hooks
        self._of_call.callback(model.register_forward_hook(self._returned).remove)

    def _begin_pass(self, args: Any, kwargs: Any) -> None:
        if self._passes == self.accumulate:
            self._overdue()
        self._passes += 1
        self._open = True
        self._examples = self._count(args, kwargs)
        replay = None if self._recorded else self._again(args, kwargs)
        self.recorder.begin(self._recorded, self._examples, replay, called_with=(args, kwargs))

    def _end_pass(self) -> None:
        """The backward pass of the last micro-batch is over."""
        if self._open:
            of_mean = 1.0 / (self._examples * self.accumulate)
            self.recorder.after_backward(loss_scale(self.scaler) * of_mean)
        self._open = False

    def _overdue(self) -> None:
        """One more pass than a step has: the scaler has skipped the optimizer's step."""
        if self.scaler is None:
            raise UserError(
                f"isometry.watch: {self._passes + 1} backward passes before a step of the "
                "optimizer; accumulate=N says that the losses of N are averaged"
            )
        self.recorder.start_over()
        self._accumulated = {}
        self._passes = 0
        self._complete = False

    def _count(self, args: Any, kwargs: Any) -> int:
        tensors = tensors_in((args, kwargs))
        if not tensors or tensors[0].dim() <= self.batch_dim:
            raise UserError(
                "isometry.watch: the size of a batch is not seen: the model's first input has no "
                f"dimension {self.batch_dim} (batch_dim)"
            )
        return tensors[0].shape[self.batch_dim]

    def _again(self, args: Any, kwargs: Any) -> Callable[[], None]:
        """Runs a forward pass once more, with the same random numbers."""
        state = torch.get_rng_state()
        on = torch.is_autocast_enabled("cpu")
        precision = torch.autocast("cpu", torch.get_autocast_dtype("cpu"), enabled=on)

        def run() -> None:
            with torch.no_grad(), untouched(self.model), eagerly(self.model), precision:
                torch.set_rng_state(state)
                self.model(*args, **kwargs)

        return run

    def _returned(self, model: nn.Module, args: Any, out: Any) -> None:
        self._of_call.close()
        self.recorder.after_forward()
        if self._recorded and self._passes == 1 and distributed.world_size() == 1:
            self._keep_gradients()

    # ---- gradients -------------------------------------------------------------------------------

    def _keep_gradients(self) -> None:
        """Copy each gradient when it has been added to: before anybody clips it."""
        of_layers = (*self.recorder.weights.parameters, *self.recorder.biases.parameters)
        for parameter in dict.fromkeys(of_layers):
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._keep_gradient)
                self._of_step.callback(hook.remove)

    def _keep_gradient(self, parameter: nn.Parameter) -> None:
        gradient = parameter.grad
        assert gradient is not None
        self._accumulated[parameter] = torch.div(gradient, loss_scale(self.scaler))

    @contextmanager
    def _as_accumulated(self) -> Iterator[None]:
        """Gradients inside of the block are those that the backward passes have left."""
        now = [(parameter, parameter.grad) for parameter in self._accumulated]
        for parameter, accumulated in self._accumulated.items():
            parameter.grad = accumulated
        yield
        for parameter, gradient in now:
            parameter.grad = gradient

    def step(self, loss: Tensor | None = None) -> None:
        """All backward passes of a step are over, its gradients not yet clipped.

        Only needed where several processes train together (there gradients are complete when
        `backward` returns, and not before), behind `scaler.unscale_` if there is a scaler; or to
        have a loss that is not finite told apart from a gradient that is not.

        Args:
            loss: of the last micro-batch.
        """
        if loss is not None:
            self.recorder.losses.append(loss.detach())
        self._end_pass()
        with self._as_accumulated():
            self.recorder.before_update(self._recorded)
        self._complete = True

    # ---- the update ------------------------------------------------------------------------------

    def _before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        compiled = self.recorder.observer.compiled and self.recorder.prepared
        if not self._steps_for_us(optimizer) or not (self._passes or compiled):
            return
        if not self._complete and distributed.world_size() > 1:
            raise UserError(
                "isometry.watch: several processes train together; call signals.step(loss) "
                "between loss.backward() and clipping"
            )
        if not self._complete:
            self.step()
        self.recorder.after_clipping(self._recorded, gradient_scale(self.scaler, optimizer))

    def _steps_for_us(self, optimizer: torch.optim.Optimizer) -> bool:
        if optimizer is self._optimizer:
            return True
        groups = optimizer.param_groups
        if not any(id(p) in self._own for group in groups for p in group["params"]):
            return False
        if self._optimizer is not None:
            raise UserError(
                "isometry.watch: several optimizers step with the model's parameters; what a step "
                "is, only one tells"
            )
        self._optimizer = optimizer
        return True

    def _after_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if optimizer is not self._optimizer or not self._complete:
            return
        self.recorder.after_update(self._recorded)
        if self.recorder.full:
            self._flush()
        self._begin_step()

    # ---- what is recorded ------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self.recorder.prepared or not self.recorder.rows:
            return
        flush = self.recorder.flush()
        if self.kept.take(flush, self.layers) and flush.divergence is not None:
            what = "preactivation" if flush.divergence.kind == "forward" else "weight gradient"
            warnings.warn(
                f"isometry.watch: the {what} of layer {flush.divergence.layer} is not finite at "
                f"step {flush.divergence.step}; nothing is recorded from here on",
                stacklevel=2,
            )

    @property
    def layers(self) -> Sequence[LayerSpec]:
        """The layer map; empty before the model's first call."""
        return self.recorder.layers

    @property
    def divergence(self) -> Divergence | None:
        """The first non-finite number, None while all are finite."""
        return self.kept.divergence

    def frame(self) -> pd.DataFrame:
        """Everything recorded up to now, a row for each (step, layer). A value that was not
        measured is NaN.
        """
        self._flush()
        return self.kept.frame()

    def frame_over_time(self) -> pd.DataFrame:
        """The recurrent layers' rows, one for each (step, layer, gate, time). NaN as in `frame`."""
        self._flush()
        return self.kept.frame_over_time()

    def plot(self) -> tuple[Figure, Figure]:
        """Profiles against depth at a few of the recorded steps, and backprop_norm over layer and
        step.
        """
        self._flush()
        return self.kept.plot()


def watch(model: nn.Module, folder: str | Path | None = None, **chosen: Any) -> Watched:
    """Measure a model in a training loop of one's own: `with isometry.watch(model) as signals:`
    around it; then `signals.frame()`, `signals.plot()`.

    Args:
        model, folder, chosen: as of `Watched`.
    """
    return Watched(model, folder, **chosen)
