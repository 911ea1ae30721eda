"""Write the table of `docs/theory.md` that shows where the 95 % bands hold.

    python scripts/band_coverage.py [WIDTH ...]

Takes about a quarter of an hour on two cores. Each cell is a network of `isometry diagnose`
(mnist_5k, one batch of 64), predicted and compared with 40 networks drawn from another seed by
`isometry.theory.ensemble`, which agree with torch's to rounding (`tests/theory/test_ensemble.py`).
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from isometry.config.compose import compose
from isometry.config.messages import options
from isometry.data.module import training_images
from isometry.errors import UserError
from isometry.initialization.predict import predict_network, records
from isometry.layers.discover import layers_of
from isometry.theory.ensemble import draw
from isometry.theory.propagation import Prediction
from isometry.training.build import build_data, build_network

DOCUMENT = Path(__file__).parents[1] / "docs" / "theory.md"
EXAMPLES = 64
NETWORKS = 40
SCHEMES = {
    "critical": ["initializer=critical"],
    "He": ["initializer=he_normal"],
    "Glorot": ["initializer=glorot_normal"],
    "σ_w = 2": ["initializer=gaussian", "initializer.sigma_w=2"],
    "orthogonal": ["initializer=orthogonal", "initializer.gain=auto"],
}
DEPTHS = (20, 50)
WIDTHS = (100,)

Array = NDArray[np.float64]


def cell(words: list[str]) -> tuple[float, float] | str:
    """Share of layers inside their band, and the band over the spread (its median over layers); or
    why there is none. The worse of q and δ.
    """
    config = compose("diagnose", [*words, "trainer=cpu", f"data.batch_size={EXAMPLES}"])
    data = build_data(config)
    images = training_images(data, EXAMPLES).double()
    try:
        network = build_network(config, data.input_shape, data.num_classes)
    except UserError:
        return "no σ_w"
    layers = layers_of(network)
    prediction = predict_network(layers, images, EXAMPLES)
    if prediction.fluctuations is None:
        return "none"
    drawn = draw(records(layers), images.flatten(1).numpy()[None], NETWORKS, seed=1)
    if not (np.isfinite(drawn.log_q).all() and np.isfinite(drawn.log_delta).all()):
        return "overflow"
    found = [_of(*pair) for pair in _pairs(prediction, drawn.log_q, drawn.log_delta)]
    return min(inside for inside, _ in found), max(ratio for _, ratio in found)


def _pairs(prediction: Prediction, q: Array, delta: Array) -> list[tuple[Array, Array, Array]]:
    f = prediction.fluctuations
    assert f is not None
    hidden = slice(0, len(f.q_std) - 1)
    below = slice(0, len(f.q_std) - 2)  # δ is relative to the last hidden layer's
    return [
        (q[:, hidden], (prediction.log_q + f.q_shift)[hidden], f.q_std[hidden]),
        (delta[:, below], (prediction.log_delta + f.delta_shift)[below], f.delta_std[below]),
    ]


def _of(values: Array, mean: Array, std: Array) -> tuple[float, float]:
    inside = np.abs(values - mean) <= 1.96 * std + 1e-9
    spread = values.std(0, ddof=1)
    moves = spread > 1e-9
    return float(inside.mean()), float(
        np.median(std[moves] / spread[moves])
    ) if moves.any() else 1.0


def text(found: list[tuple[float, float] | str]) -> str:
    """The worst over depths."""
    numbers = [value for value in found if not isinstance(value, str)]
    words = [value for value in found if isinstance(value, str)]
    if not numbers:
        return words[0]
    inside = min(value for value, _ in numbers)
    ratio = max(value for _, value in numbers)
    missing = f" ({len(words)} none)" if words else ""
    return f"{inside:.0%}, {ratio:.2f}{missing}"


def row(job: tuple[str, int]) -> str:
    """The line of one activation."""
    torch.set_num_threads(1)
    name, width = job
    cells = []
    for words in SCHEMES.values():
        base = [f"activation={name}", f"model.width={width}", *words]
        cells.append(text([cell([*base, f"model.depth={depth}"]) for depth in DEPTHS]))
    return f"| {name} | " + " | ".join(cells) + " |"


def table(width: int) -> str:
    """Both heads and a line for each activation."""
    lines = ["| activation | " + " | ".join(SCHEMES) + " |", "|---" * (len(SCHEMES) + 1) + "|"]
    names = [name for name in options("activation") if name != "own"]
    with ProcessPoolExecutor(2) as pool:
        for line in pool.map(row, [(name, width) for name in names]):
            print(line, flush=True)
            lines.append(line)
    return "\n".join([f"Width {width}, {mean(lines)} on average:", "", *lines, ""])


def mean(lines: list[str]) -> str:
    """The share inside over all cells, each the worst of its four."""
    shares = [int(share) for line in lines for share in re.findall(r"(\d+)%, ", line)]
    return f"{sum(shares) / len(shares):.0f} %"


def main() -> None:
    """Write the tables of the widths that are asked for."""
    for width in map(int, sys.argv[1:] or WIDTHS):
        begin, end = f"<!-- coverage {width} -->", f"<!-- end of coverage {width} -->"
        block = f"{begin}\n{table(width)}{end}"
        pattern = re.compile(f"{begin}.*{end}", re.DOTALL)
        DOCUMENT.write_text(pattern.sub(lambda _, new=block: new, DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
