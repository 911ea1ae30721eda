"""Training through Lightning against a training loop written out here: same weights, same
signals.
"""

import pytest
import torch

import reference
from builders import map_of
from commands import run_of
from isometry.runs.signal_store import read_signals
from isometry.training.build import build_data, build_network
from isometry.training.run import train


def plain_loop(config, steps):
    """The same training by hand in float64; the reference's rows before each step, and the weights
    at the end.
    """
    data = build_data(config)
    data.setup()
    network = build_network(config, data.input_shape, data.num_classes).double()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.optimizer.lr, momentum=config.optimizer.momentum
    )
    rows = []
    start = [spec.weight.detach().clone() for spec in map_of(network)]
    for _, (x, labels) in zip(range(steps), data.train_dataloader(), strict=False):
        rows.append(reference.columns(network, x.double(), labels))
        before = [spec.weight.detach().clone() for spec in map_of(network)]
        optimizer.step()
        for row, spec, old, first in zip(rows[-1], map_of(network), before, start, strict=True):
            row["update_norm"] = float((spec.weight.detach() - old).norm())
            row["displacement"] = float((old - first).norm() / first.norm())
            row["weight_grad_norm_clipped"] = row["weight_grad_norm"]
    return rows


@pytest.mark.parametrize(
    "overrides",
    [["optimizer=momentum"], ["model=convnet", "model.depth=4", "model.channels=4"]],
    ids=str,
)
def test_signals_of_a_training_are_those_of_the_plain_loop(make_config, overrides):
    config = make_config(
        "model.depth=5", "trainer.precision=64-true", "trainer.max_steps=4", *overrides
    )
    expected = plain_loop(config, 4)
    frame = read_signals(run_of(train(config), config).signals)
    # 4 training steps, and the row of the weights at the end
    assert sorted(set(frame["step"])) == [0, 1, 2, 3, 4]
    for (step, layer), row in frame[frame.step < 4].set_index(["step", "layer"]).iterrows():
        for column, value in expected[step][layer - 1].items():
            # batches are normalized in float32 by both; the network itself runs in float64
            assert reference.close(row[column], value, 1e-7), (
                step,
                layer,
                column,
                row[column],
                value,
            )
    last = frame[frame.step == 4]
    assert last["displacement"].notna().all()
    assert last["weight_grad_norm"].isna().all()


def test_the_last_window_of_an_epoch_is_shorter_and_its_gradient_is_a_mean_too(make_config):
    """Three batches, two to a step: Lightning divides by two also where there is one."""
    windows = [
        "trainer.accumulate_grad_batches=2",
        "trainer.limit_train_batches=3",
        "trainer.max_epochs=1",
    ]
    config = make_config(
        "model.depth=4", "trainer.precision=64-true", "optimizer=momentum", *windows
    )
    found = read_signals(run_of(train(config), config).signals).set_index(["step", "layer"])

    data = build_data(config)
    data.setup()
    network = build_network(config, data.input_shape, data.num_classes).double()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.optimizer.lr, momentum=config.optimizer.momentum
    )
    batches = [
        (x.double(), labels)
        for (x, labels), _ in zip(data.train_dataloader(), range(3), strict=False)
    ]
    pairs = [tuple(map(torch.cat, zip(*batches[:2], strict=True))), batches[2]]
    for step, (x, labels) in enumerate(pairs):
        for layer, row in enumerate(reference.columns(network, x, labels), start=1):
            for column, value in row.items():
                assert reference.close(found.loc[(step, layer), column], value, 1e-7), (
                    step,
                    layer,
                    column,
                )
        optimizer.step()


def test_a_checkpoint_has_the_alarms_latest_norms(make_config):
    often = ["callbacks.checkpoints.every_n_steps=20", "callbacks.signals.flush_every=200"]
    config = make_config("model.depth=3", "trainer.max_steps=20", "trainer.max_epochs=2", *often)
    run = run_of(train(config), config)
    (state,) = torch.load(run.last_checkpoint, weights_only=True)["callbacks"].values()
    assert len(state["Signals"]["alarm"]["norms"]) == 20


def test_default_interval_records_first_steps_of_fifty_and_the_last(make_config):
    config = make_config(
        "model.depth=3", "trainer.max_steps=60", "callbacks.signals.every_n_steps=50"
    )
    frame = read_signals(run_of(train(config), config).signals).dropna(subset="backprop_norm")
    assert sorted(set(frame["step"])) == [0, 50, 59]


def test_signals_off_measures_nothing_and_trains_the_same(make_config):
    on = make_config("model.depth=3")
    off = make_config("model.depth=3", "callbacks.signals.every_n_steps=null")
    first = train(on)
    second = train(off)
    assert not run_of(second, off).signals.exists()
    assert second["gradient_rate_init"] is None
    assert first["train_loss"] == second["train_loss"]


def test_step_zero_is_the_network_at_initialization(make_config):
    config = make_config("model.depth=5")
    network = build_network(config, (1, 28, 28), 10)
    frame = read_signals(run_of(train(config), config).signals).query("step == 0")
    norms = [float(spec.weight.detach().double().norm()) for spec in map_of(network)]
    assert frame["weight_norm"].tolist() == pytest.approx(norms, rel=1e-12)
    assert (frame["displacement"] == 0).all()
