"""The prediction of a run that was trained elsewhere than on the CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from isometry.data.loader import Normalization
from isometry.initialization import predict
from isometry.training.build import build_data, build_network


class Seen(Exception):
    """What comes after needs numbers."""


def test_images_on_the_device_that_trained_are_brought_to_the_cpu(monkeypatch):
    """The normalization is made on the CPU, the splits lie where the training was: every run on a
    GPU failed at its end.
    """
    seen = []

    def look(layers, images, batch):
        seen.append(images)
        raise Seen

    monkeypatch.setattr(predict, "predict_network", look)
    with FakeTensorMode():
        data = SimpleNamespace(
            normalization=Normalization(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)),
            splits={"train": (torch.zeros(100, 1, 4, 4, dtype=torch.uint8, device="cuda"), None)},
        )
        with pytest.raises(Seen):
            predict.predict_run([], data, 10)
    (images,) = seen
    assert images.device.type == "cpu"
    assert images.shape == (predict.EXAMPLES, 1, 4, 4)


def test_the_prediction_is_that_of_the_data_on_the_cpu(make_config):
    config = make_config("model.depth=4")
    data = build_data(config)
    data.setup()
    network = build_network(config, data.input_shape, data.num_classes)
    images = data.normalization(data.splits["train"][0][: predict.EXAMPLES])
    expected, _ = predict.predicted_rate(
        predict.predict_network(network.layer_map(), images, 128), network.layer_map()
    )
    found = predict.predict_run(network.layer_map(), data, 128)
    assert found["gradient_rate_predicted"] == expected
