"""What tests of the recorder share."""

from __future__ import annotations

import pytest
from torch.nn import functional as F


@pytest.fixture
def up_to_the_gradients():
    """Runs a step of one batch through the network and the recorder, until the gradients are complete and not yet clipped."""

    def run(recorder, network, x, labels, recorded=True, replay=None):
        network.zero_grad()
        loss = F.cross_entropy(network(x, recorder.begin(recorded, len(x), replay)), labels)
        recorder.after_forward(loss)
        loss.backward()
        recorder.after_backward(1 / len(x))
        recorder.before_update(recorded)

    return run
