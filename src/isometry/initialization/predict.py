"""From a built network to what the theory predicts of it: the layer map as plain records, the
inputs as second moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isometry.layers.spec import LayerSpec
from isometry.theory.ensemble import by_drawing, can_be_drawn, operations
from isometry.theory.pairs import Batch
from isometry.theory.propagation import LayerRecord, Prediction, obstacle, predict

EXAMPLES = 64
"""Examples whose second moments enter a prediction: layers after the first see hardly a difference
between more.
"""


def records(layers: Sequence[LayerSpec]) -> list[LayerRecord]:
    """The layer map without torch."""
    return [_record(spec) for spec in layers]


def _record(spec: LayerSpec) -> LayerRecord:
    outputs, inputs = spec.size[:2] or (0, 0)  # of a recurrent kernel, which has no one matrix
    map_ = spec.module
    convolution = None
    if isinstance(map_, nn.Conv2d):
        convolution = (int(map_.kernel_size[0]), int(map_.stride[0]), str(map_.padding_mode))
    return LayerRecord(
        spec.index,
        spec.name,
        spec.kind,
        int(inputs),
        int(outputs),
        spec.activation,
        _normalization(spec),
        float(spec.sigma_w or 0.0),
        float(spec.sigma_b or 0.0),
        (spec.distribution or "unknown") if _is_plain(spec) else _unlike(spec),
        convolution,
        spec.branch,
        _epsilon(spec),
        spec.others,
    )


def _epsilon(spec: LayerSpec) -> float:
    """What the normalization adds to the variance; torch's own default where none is given."""
    given = getattr(spec.norm_module, "eps", 0.0)
    return float(torch.finfo(torch.float64).eps if given is None else given)


def _is_plain(spec: LayerSpec) -> bool:
    """Whether the theory knows such a map: of units, or of channels and two axes, used once."""
    known = spec.map == "linear" or isinstance(spec.module, nn.Conv2d)
    return known and spec.groups == 1 and spec.uses == 1 and _unlike_here(spec) is None


def _unlike(spec: LayerSpec) -> str:
    """What keeps a map from being plain."""
    if spec.uses > 1:
        return "shared"
    if spec.groups > 1:
        return f"grouped {spec.map}"
    return f"{_unlike_here(spec) or ''} {spec.map}".strip()


def _unlike_here(spec: LayerSpec) -> str | None:
    """What a convolution does that `LayerRecord.convolution` does not say."""
    map_ = spec.module
    if not isinstance(map_, nn.Conv2d):
        return None
    height, width = map_.kernel_size
    if height != width or map_.stride[0] != map_.stride[1]:
        return "oblong"
    if height % 2 == 0:
        return "even"
    if map_.dilation != (1, 1):
        return "dilated"
    whole = map_.padding == "same" or map_.padding == (height // 2, width // 2)
    return None if whole else "otherwise padded"


def _normalization(spec: LayerSpec) -> str:
    """Its kind; of one whose scale and shift are not 1 and 0 another."""
    scale = getattr(spec.norm_module, "weight", None)
    shift = getattr(spec.norm_module, "bias", None)
    plain = (scale is None or bool((scale == 1).all())) and (shift is None or not shift.any())
    return spec.normalization if plain or spec.normalization == "none" else "rescaled"


def input_moments(images: Tensor, layers: Sequence[LayerSpec]) -> NDArray[np.float64]:
    """Mean square of the input units of each example: [examples, 1, 1], or [examples, height,
    width] for a convolution.
    """
    chosen = _chosen(images).square()
    dims = 1 if layers[0].map == "conv" else (1, 2, 3)
    moments: NDArray[np.float64] = chosen.mean(dims, keepdim=True).squeeze(1).cpu().numpy()
    return moments


LARGEST = 256
"""Examples of a batch that are looked at: the average over more is hardly narrower."""

NETWORKS = 32
"""Drawn for a band: its width is then known to 13 %."""

FEW = 8
"""Drawn where a rate is wanted more than a band: a tenth of a second at 10 layers."""

AFFORDABLE = 1e9
"""Operations of a network up to which others are drawn like it, 0.1 s each on one core; with fewer
examples than that takes, layers are so wide that the first order in 1/width is good enough.
"""


def predict_network(
    layers: Sequence[LayerSpec],
    images: Tensor,
    batch: int,
    measured: int | None = None,
    networks: int = NETWORKS,
) -> Prediction:
    """Predict an initialized network: by networks drawn like it where that is a matter of seconds,
    by mean-field theory and its first order in 1/width else.

    Args:
        layers: its map.
        images: those that it is measured on, or like them, normalized, [N, C, H, W].
        batch: examples that batch norm sees.
        measured: examples over which its statistics are averaged; None: `batch`.
        networks: how many are drawn; 0 for none.
    """
    plain = records(layers)
    if obstacle(plain) is not None:
        return predict(plain, np.empty(0), batch)
    found = None
    if networks > 0 and can_be_drawn(plain, batch):
        inputs = _affordable(plain, _batches(images, batch))
        found = None if inputs is None else by_drawing(plain, inputs, networks)
    if found is not None:
        return found
    examples = _batch(layers, images, batch if measured is None else measured)
    return predict(plain, input_moments(images, layers), batch, examples)


def _affordable(
    layers: Sequence[LayerRecord], inputs: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """All examples, or as many as cost what is affordable (of a batch norm's batch none can be left
    out); None under `FEWEST`.
    """
    count = inputs.shape[0] * inputs.shape[1]
    most = int(AFFORDABLE / operations(layers, inputs) * count)
    if most >= count:
        return inputs
    if most < FEWEST or any(layer.normalization == "batch" for layer in layers):
        return None
    chosen: NDArray[np.float64] = inputs.reshape(1, count, -1)[:, :: -(-count // most)]
    return chosen


FEWEST = 16
"""Examples whose average fluctuates hardly more than that of a whole batch."""


def _batches(images: Tensor, size: int) -> NDArray[np.float64]:
    """[batches, examples, units]; a last batch that is not full is left out."""
    flat = images.detach().double().flatten(1).cpu().numpy()
    size = min(size, len(flat))
    count = len(flat) // size
    result: NDArray[np.float64] = flat[: count * size].reshape(count, size, -1)
    return result


def _batch(layers: Sequence[LayerSpec], images: Tensor, size: int) -> Batch:
    """What the fluctuations of a batch depend on: how its inputs and its labels correlate."""
    if not layers or layers[0].map != "linear":
        return Batch.of_one()  # convolutions have no result for them
    chosen = _chosen(images)[::2].flatten(1).cpu().numpy()  # 500 pairs tell as much as 2,000
    return Batch.of(size, chosen, int(layers[-1].size[0]))


def _chosen(images: Tensor) -> Tensor:
    """Up to `EXAMPLES` of them, evenly, in float64."""
    return images[:: max(1, len(images) // EXAMPLES)][:EXAMPLES].detach().double()


def predicted_rate(
    prediction: Prediction, layers: Sequence[LayerSpec]
) -> tuple[float | None, float | None]:
    """The gradient rate that one network is expected to show, and the standard deviation of its
    logarithm over networks.

    The same estimator as the measured one, on the predicted profile of E log ‖δ_l‖.
    """
    hidden = [i for i, spec in enumerate(layers) if spec.kind == "hidden"]
    logs = 0.5 * prediction.log_delta[hidden]
    if prediction.fluctuations is not None:
        logs = logs + 0.5 * prediction.fluctuations.delta_shift[hidden]
    if len(hidden) < 2 or not np.isfinite(logs).all():
        return None, None
    # increments of logarithms, so that depth 1000 at rate 0.25 does not underflow on the way
    rate = float(np.exp((logs[0] - logs[-1]) / (len(hidden) - 1)))
    return rate, None if prediction.fluctuations is None else prediction.fluctuations.rate_std


def predict_run(layers: Sequence[LayerSpec], images: Tensor, batch: int) -> dict[str, Any]:
    """`prediction.json` of a run: the rate and the profile that its network is expected to show at
    initialization.

    Args:
        layers: of an initialized network.
        images: training images as the network sees them, [N, C, H, W].
        batch: what batch norm sees.

    Returns:
        `gradient_rate_predicted` and its band; by layer the mean and the standard deviation over
        networks of the natural logarithm of `backprop_norm` relative to the last hidden layer;
        `reason` where something is null.
    """
    prediction = predict_network(layers, images, batch, networks=FEW)
    rate, spread = predicted_rate(prediction, layers)
    f = prediction.fluctuations
    logs = 0.5 * (prediction.log_delta + (0.0 if f is None else f.delta_shift))
    stds = np.full(len(layers), np.nan) if f is None else 0.5 * f.delta_std
    return {
        "gradient_rate_predicted": rate,
        "gradient_rate_predicted_std": spread,
        "layer": [spec.index for spec in layers],
        "log_backprop_norm": [_number(value) for value in logs],
        "log_backprop_norm_std": [_number(value) for value in stds],
        "reason": prediction.reason,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
