"""The prediction of a run, and the images it is made for."""

from __future__ import annotations

import torch

from builders import map_of
from isometry.data.module import training_images
from isometry.initialization import predict
from isometry.training.build import build_data, build_network


def test_it_is_that_of_the_first_training_images(make_config):
    config = make_config("model.depth=4")
    data = build_data(config)
    network = build_network(config, data.input_shape, data.num_classes)
    data.setup()
    images = data.normalization(data.splits["train"][0][: predict.EXAMPLES])
    layers = map_of(network)
    prediction = predict.predict_network(layers, images, 128, networks=predict.FEW)
    expected, _ = predict.predicted_rate(prediction, layers)
    found = predict.predict_run(layers, training_images(data, predict.EXAMPLES), 128)
    assert found["gradient_rate_predicted"] == expected


def test_the_images_are_on_the_cpu_wherever_the_training_is(make_config):
    """The normalization is made on the CPU and the splits lie where the training is: a prediction
    that took them failed every run on a GPU.
    """
    data = build_data(make_config())
    data.setup()
    data.splits = {name: (x.to("meta"), y.to("meta")) for name, (x, y) in data.splits.items()}
    images = training_images(data, predict.EXAMPLES)
    assert images.device.type == "cpu"
    assert images.shape == (predict.EXAMPLES, 1, 28, 28)


def test_no_random_number_of_the_training_is_used_up(make_config):
    data = build_data(make_config())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training_images(data, predict.EXAMPLES)
    assert torch.equal(torch.rand(3), expected)
