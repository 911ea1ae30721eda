"""What the recorder hands on: the recorded columns, and where the first non-finite number was. On
the host, in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from isometry.signals.rows import COLUMN, DERIVED, MEASURES, ROW, columns

Written = dict[str, NDArray[np.bool_] | None]
"""The columns that a step has measured, and for which layers, [L]; None: for all."""


@dataclass(frozen=True)
class Divergence:
    """Where the first non-finite number appeared.

    Attributes:
        step: the optimizer step.
        kind: `forward` or `gradient`.
        layer: the lowest non-finite layer going forward, the highest going backward.
        forward_layer: the lowest layer with a non-finite preactivation, None if all are finite.
        gradient_layer: the highest layer with a non-finite weight gradient, None if all are finite.
    """

    step: int
    kind: str
    layer: int
    forward_layer: int | None = None
    gradient_layer: int | None = None


@dataclass(frozen=True)
class TimeRows:
    """A gate of a recurrent layer in one recorded step.

    Attributes:
        step, layer, name: as in the other rows.
        gate: as of `layers.recurrent.Gate`.
        values: [5, T] `columns.OVER_TIME`; NaN where it was not measured.
    """

    step: int
    layer: int
    name: str
    gate: str
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Flush:
    """What was recorded since the last flush, on the host.

    Attributes:
        steps: [S] the recorded steps.
        values: [S, columns, L] float64, columns as in `MEASURED`.
        measured: [S, columns, L] bool; False where a value does not exist (null).
        divergence: the first non-finite number, None while all are finite.
        first_step: the first step since the last flush, recorded or not.
        gradient_norms: [T] norm of the whole weight gradient of each step since the last flush,
            before clipping; weights that layers share count once.
        over_time: of the recurrent layers.
        own: the user's statistics by name, [the steps that have a batch, L].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    measured: NDArray[np.bool_]
    divergence: Divergence | None
    first_step: int
    gradient_norms: NDArray[np.float64]
    over_time: Sequence[TimeRows] = ()
    own: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def measured(
    steps: Sequence[Written], values: NDArray[np.float64], exists: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """[S, columns, L]: what the recorded steps have; a displacement from W_0 = 0 (0/0 or x/0) does
    not exist, nor does an update relative to W = 0.

    Args:
        steps: what each of S steps has written.
        values: [S, columns, L].
        exists: [columns, L]: False where a column does not exist for a layer, whatever the step.
    """
    result = np.zeros(values.shape, dtype=bool)
    for mask, written in zip(result, steps, strict=True):
        for name, has in written.items():
            mask[COLUMN[name]] = True if has is None else has
    for name, source in DERIVED.items():
        result[:, COLUMN[name]] = result[:, COLUMN[source]]
    finite = np.isfinite(values)
    from_zero = finite[:, COLUMN["weight_norm"]] & ~finite[:, COLUMN["displacement"]]
    result[:, COLUMN["displacement"]] &= ~from_zero
    result[:, COLUMN["update_ratio"]] &= values[:, COLUMN["weight_norm"]] != 0
    return result & exists


def watch(
    rows: NDArray[np.float64], steps: Sequence[Written | None], processes: int
) -> NDArray[np.float64]:
    """The rows `WATCH` [T, 3, L] of T steps; those of the recorded ones follow from what is
    recorded.

    Args:
        rows: [T, rows, L], where the rows of the watch are sums over the processes.
        steps: what each step has written; None: only watched.
        processes: that train together.
    """
    watched = rows[:, MEASURES:].copy()
    watched[:, 1] /= processes  # all processes hold the same gradient
    recorded = [i for i, written in enumerate(steps) if written and "preactivation_mean" in written]
    watched[recorded, 0] = (
        rows[recorded, ROW["preactivation_mean"]] + rows[recorded, ROW["preactivation_var"]]
    )
    for i in recorded:
        has = (steps[i] or {})["weight_grad_norm"]
        norms = rows[i, ROW["weight_grad_norm"]]
        watched[i, 1] = norms if has is None else np.where(has, norms, 0.0)
    return watched


def first_divergence(
    watched: NDArray[np.float64], layers: Sequence[int], skips_overflow: bool
) -> Divergence | None:
    """The first step whose loss or gradient is not finite, from 0, and its address.

    An infinite preactivation that φ maps to a finite number (tanh, say) and that leaves no trace is
    none; an infinite activation always leaves one, in the weight gradient of the layer above.

    Args:
        watched: [T, 3, L].
        layers: the layers' numbers, [L].
        skips_overflow: a non-finite gradient is a skipped step and no divergence.
    """
    bad = ~np.isfinite(watched)
    if skips_overflow:
        bad[:, 1] = False
    steps = np.flatnonzero(bad[:, 1:].any(axis=(1, 2)))
    if len(steps) == 0:
        return None
    step = int(steps[0])
    forward, gradient, _ = bad[step]
    lowest = layers[int(forward.argmax())] if forward.any() else None
    highest = layers[int(np.flatnonzero(gradient)[-1])] if gradient.any() else None
    if lowest is None and highest is not None:
        return Divergence(step, "gradient", highest, lowest, highest)
    # finite logits with a non-finite loss are the readout's
    return Divergence(step, "forward", lowest or layers[-1], lowest, highest)


def read(
    host: NDArray[np.float64],
    steps: Sequence[Written | None],
    first_step: int,
    layers: Sequence[int],
    exists: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    skips_overflow: bool,
    processes: int,
) -> Flush:
    """The buffer's rows [T, rows, L] of T steps from `first_step` on; what follows a divergence is
    left out.

    `counted` [L] is False for layers whose weights are an earlier layer's; the other arguments are
    those of `watch`, `measured` and `first_divergence`.
    """
    watched = watch(host, steps, processes)
    divergence = first_divergence(watched, layers, skips_overflow)
    last = len(host) if divergence is None else divergence.step + 1
    chosen = [i for i, written in enumerate(steps[:last]) if written is not None]
    values = columns(host[chosen])
    return Flush(
        np.array([first_step + i for i in chosen], dtype=np.int64),
        values,
        measured([steps[i] or {} for i in chosen], values, exists),
        None if divergence is None else replace(divergence, step=first_step + divergence.step),
        first_step,
        np.linalg.norm(watched[:, 1, counted], axis=1),
    )
