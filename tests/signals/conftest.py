"""What tests of the recorder share."""

from __future__ import annotations

import pytest
from torch.nn import functional as F

from builders import shown


@pytest.fixture
def up_to_the_gradients():
    """Runs a step of one batch through the network and the recorder, until the gradients are
    complete and not yet clipped.
    """

    def run(
        recorder,
        network,
        x,
        labels,
        recorded=True,
        replay=None,
        scale=1.0,
        criterion=F.cross_entropy,
    ):
        network.zero_grad()
        loss = criterion(shown(recorder, network, x, recorded, replay), labels)
        recorder.after_forward(loss)
        (loss * scale).backward()
        recorder.after_backward(scale / len(x))
        recorder.before_update(recorded, scale)

    return run
