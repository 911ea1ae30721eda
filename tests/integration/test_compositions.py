"""Networks and remedies drawn by chance: three steps to finite weights or to a divergence with its
address, or one message that names what does not go together. Nothing else.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import run_of
from isometry.config.messages import options
from isometry.errors import UserError
from isometry.training.run import train

DEPTHS = {
    "mlp": [1, 2, 5, 30],
    "residual_mlp": [4, 10, 11, 32],
    "highway": [1, 2, 12],
    "convnet": [1, 4, 9],
    "vgg": [7, 8, 10],
    "resnet": [8, 14, 15],
    "rnn": [1, 2, 3],
    "irnn": [2],
    "lstm": [2, 3],
    "gru": [2],
    "vit": [1, 4],
    "decoder": [1, 3],
}
CLIPPING = ["null", "norm", "value", "layer", "adaptive"]
SMALL = {"convnet": "model.channels=6", "resnet": "model.channels=4", "vgg": "model.width=16"}
"""What makes a model small; the others have a width."""


def group(name: str, *without: str) -> st.SearchStrategy[str]:
    return st.sampled_from([option for option in options(name) if option not in without])


@st.composite
def compositions(draw) -> list[str]:
    model = draw(st.sampled_from(sorted(DEPTHS)))
    words = [f"model={model}", f"model.depth={draw(st.sampled_from(DEPTHS[model]))}"]
    words += [SMALL.get(model, "model.width=16")]
    if draw(st.booleans()):
        words += [f"activation={draw(group('activation', 'own'))}"]
    words += [f"initializer={draw(group('initializer'))}", f"remedy={draw(group('remedy'))}"]
    if draw(st.booleans()):
        words += [f"normalization={draw(group('normalization'))}"]
    words += [f"optimizer={draw(group('optimizer'))}"]
    clipping = draw(st.sampled_from(CLIPPING))
    if clipping != "null":
        words += [f"trainer.gradient_clip_algorithm={clipping}", "trainer.gradient_clip_val=0.1"]
    return words


@pytest.mark.slow
@settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(words=compositions())
def test_a_composition_trains_diverges_or_is_refused(make_config, words):
    data = [] if "model=decoder" in words else ["data=mnist_5k"]
    few = ["data.batch_size=16", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    config = make_config(*words, *data, *few, "data.train_size=64")
    try:
        summary = train(config)
    except UserError as refused:
        message = str(refused)
    else:
        message = None
    if message is not None:
        assert names_two(message), message
        return
    assert summary["state"] in ("finished", "diverged")
    if summary["state"] == "diverged":
        assert summary["first_nonfinite_layer"] is not None
        assert summary["first_nonfinite_step"] <= 3
        return
    run = run_of(summary, config)
    weights = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    assert all(torch.isfinite(weight).all() for weight in weights.values())


WORDS = ("activation", "branches", "convolutions", "hidden layer", "linear", "model", "network")
WORDS += ("normalization", "norm", "transformers", "square", "shortcuts", "inputs", "rule", "takes")
"""What the other of the two things is called."""


def names_two(message: str) -> bool:
    """The choice with its value, and what it does not go with; of a depth, what there is."""
    choice, _, rest = message.partition(": ")
    depth = choice.startswith("model.depth=") and "must be" in rest
    return "=" in choice and (depth or any(word in rest for word in WORDS))
