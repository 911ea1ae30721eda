"""Golden numbers of one small network per model: init, forward, gradients and update.

A refactor that changes a number is seen here. Written by `python tests/test_golden.py` after a
*meant* change; the reason belongs into the commit's message. Tolerance 1e-9: float64 sums differ in
the last digits between BLAS libraries.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from builders import recorder_of, shown
from isometry.columns import MEASURED
from isometry.config.compose import compose
from isometry.training.build import build_network

FOLDER = Path(__file__).parent / "golden"
CASES = {
    "mlp": [
        "model=mlp",
        "model.depth=4",
        "model.width=8",
        "activation=tanh",
        "initializer=gaussian",
        "initializer.sigma_b=0.1",
    ],
    "convnet": [
        "model=convnet",
        "model.depth=4",
        "model.channels=4",
        "activation=gelu",
        "initializer=he_normal",
    ],
    "mlp_batch": [
        "model=mlp",
        "model.depth=4",
        "model.width=8",
        "activation=relu",
        "normalization=batch",
    ],
    "resnet18": ["model=resnet18", "initializer=he_normal"],
    "residual_mlp": ["model=residual_mlp", "model.depth=6", "model.width=8", "remedy=fixup"],
    "highway": ["model=highway", "model.depth=4", "model.width=8"],
    "resnet": ["model=resnet", "model.depth=8", "model.channels=4", "model.shortcut=B"],
    "vgg": [
        "model=vgg",
        "model.depth=7",
        "model.stem=4",
        "model.stage_channels=[4,6,6]",
        "model.width=8",
    ],
    "rnn": ["model=rnn", "model.width=6", "model.start=torch"],
    "irnn": ["model=irnn", "model.width=6"],
    "lstm": ["model=lstm", "model.width=6"],
    "gru": ["model=gru", "model.width=6"],
    "vit": ["model=vit", "model.depth=2", "model.width=8", "model.heads=2", "model.patch=4"],
    "decoder": ["model=decoder", "model.depth=2", "model.width=8", "model.heads=2"],
}
SHAPES = {"resnet18": (3, 16, 16), "decoder": (7,)}


def numbers_of(case: str) -> dict[str, list[float]]:
    """Norms and sums of everything that one step makes, and what the recorder says of it."""
    shape = SHAPES.get(case, (1, 8, 8))
    vocabulary = 5 if case == "decoder" else None
    config = compose("train", [*CASES[case], "seed=7"])
    network = build_network(config, shape, 5, vocabulary).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    if vocabulary:
        x = torch.randint(5, (6, *shape), generator=generator)
        labels = x.roll(-1, 1)
    parameters = dict(network.named_parameters())
    result = {f"init {name}": fingerprint(value) for name, value in parameters.items()}
    recorder = recorder_of(network, flush_every=1)
    logits = shown(recorder, network, x, True)
    loss = F.cross_entropy(logits, labels)
    recorder.after_forward(loss)
    loss.backward()
    recorder.after_backward(1 / 6)
    recorder.before_update(True)
    result |= {"forward": logits.detach().flatten().tolist(), "loss": [float(loss.detach())]}
    result |= {f"gradient {name}": fingerprint(value.grad) for name, value in parameters.items()}
    torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).step()
    recorder.after_update(True)
    result |= {f"update {name}": fingerprint(value) for name, value in parameters.items()}
    flush = recorder.flush()
    for index, column in enumerate(MEASURED):
        result[f"signal {column}"] = [
            v if m else None
            for v, m in zip(flush.values[0, index], flush.measured[0, index], strict=True)
        ]
    return result


def fingerprint(tensor: torch.Tensor) -> list[float]:
    """Norm, sum, and first entry: scale, sign and order."""
    tensor = tensor.detach()
    return [float(tensor.norm()), float(tensor.sum()), float(tensor.flatten()[0])]


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    golden = json.loads((FOLDER / f"{case}.json").read_text())
    numbers = numbers_of(case)
    assert numbers.keys() == golden.keys()
    for key, expected in golden.items():
        assert [v is None for v in numbers[key]] == [v is None for v in expected], key
        measured, pinned = (
            [v for v in values if v is not None] for values in (numbers[key], expected)
        )
        assert measured == pytest.approx(pinned, rel=1e-9, abs=1e-12), key


def test_every_model_has_a_golden():
    from isometry.config.compose import conf_dir

    assert {path.stem for path in (conf_dir() / "model").glob("*.yaml")} <= set(CASES)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in CASES:
        (FOLDER / f"{name}.json").write_text(json.dumps(numbers_of(name), indent=1) + "\n")
