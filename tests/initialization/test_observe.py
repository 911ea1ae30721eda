"""What an observation keeps, and for how long."""

import gc
import weakref

import torch

from builders import mlp
from isometry import activations
from isometry.initialization.observe import kept, observe


def test_what_was_kept_is_freed_with_it():
    """A graph that holds a hook that holds the graph would stay for ever: no collector sees it."""
    network = mlp((1, 3, 3), 2, activations.tanh(), depth=4)
    images = torch.zeros(2, 1, 3, 3)
    with kept(network, 2) as seen:
        network(images).sum().backward()
    alive = [weakref.ref(h) for h in seen.preactivations]
    assert len(alive) == 4
    seen = None
    observation = observe(network, [(images, torch.zeros(2, dtype=torch.long))])
    alive += [weakref.ref(h) for h in observation.preactivations]
    observation = None
    gc.collect()
    assert [reference() for reference in alive] == [None] * 8
