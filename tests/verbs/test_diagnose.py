"""`isometry diagnose`: its measurement lies in its own predicted band, its JSON is DESIGN.md's, its
advice is computed.
"""

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import map_of, mlp, phi_of
from isometry import activations
from isometry.config.compose import compose
from isometry.errors import UserError
from isometry.initialization.jacobian import jacobian_singular_values
from isometry.runs.metrics import MetricsFile
from isometry.theory.fixed_points import settled
from isometry.training.build import build_data, build_network
from isometry.training.run import train
from isometry.training.trial import try_out
from isometry.verbs.alternatives import altered
from isometry.verbs.diagnose import diagnose

TEN = [
    "activation=sigmoid model.depth=20",
    "activation=relu initializer=he_normal model.depth=30",
    "activation=tanh initializer=critical model.depth=50",
    (
        "activation=tanh initializer=gaussian initializer.sigma_w=1.5 initializer.sigma_b=0.2 "
        "model.depth=20 seed=1"  # seed 0: MISSED
    ),
    "activation=gelu initializer=critical initializer.sigma_b=0 model.depth=20",
    "activation=selu initializer=lecun_normal model.depth=40",
    "activation=relu initializer=torch_default model.depth=20",
    "activation=linear initializer=orthogonal model.depth=60",
    "activation=sine initializer=gaussian initializer.sigma_w=1.2 model.depth=15",
    "activation=relu initializer=he_uniform normalization=layer model.depth=20",
]


@pytest.fixture
def run(tmp_path, data_cache):
    def call(words, *more):
        places = [f"paths.runs={tmp_path}", f"paths.data={data_cache}", "trainer=cpu"]
        quick = ["trial=false", "curvature=false"]
        config = compose("diagnose", [*places, *quick, *words.split(), *more])
        result = diagnose(config)
        (path,) = tmp_path.glob("diagnose/*/diagnosis.json")
        assert json.loads(path.read_text()) == result
        return result

    return call


MISSED = (
    "activation=tanh initializer=gaussian initializer.sigma_w=1.5 initializer.sigma_b=0.2 "
    "model.depth=20"
)
"""Seed 0 is one of the lowest of a hundred networks: outside of 95 %, as it should be."""


@pytest.mark.parametrize(
    "words", [*TEN, pytest.param(MISSED, marks=pytest.mark.xfail(strict=True, reason="tail"))]
)
def test_the_measurement_lies_in_the_predicted_band(run, words):
    """Rate inside 95 % (± rounding for a network that does not fluctuate); layers inside 4
    standard deviations.
    """
    found = run(words)
    low, high = found["gradient_rate_predicted_band"]
    assert low * (1 - 1e-6) <= found["gradient_rate"] <= high * (1 + 1e-6)
    assert found["reason"] is None
    for row in found["layers"]:
        for name in ("forward_second_moment", "backprop_norm", "sample_weight_grad_rms"):
            off = abs(math.log(row[name]) - row[f"{name}_predicted_log10"] * math.log(10))
            # examples of larger norm have other losses: their product's mean is not the product of
            # means, by some percent
            allowance = 0.1 if name == "sample_weight_grad_rms" else 1e-6
            assert off < 4 * row[f"{name}_std"] + allowance, (row["layer"], name)


def test_batch_norm_explodes_as_predicted(run):
    """Behind the first layers (whose examples are images, not the fixed point) by √(π/(π-1)) a
    layer, ± 5 % at width 100.
    """
    found = run("activation=relu normalization=batch model.depth=20 data.batch_size=256")
    deltas = np.log([row["backprop_norm"] for row in found["layers"][5:19]])
    assert math.exp((deltas[0] - deltas[-1]) / 13) == pytest.approx(
        math.sqrt(math.pi / (math.pi - 1)), rel=0.05
    )
    assert found["gradient_rate_predicted"] == pytest.approx(
        math.sqrt(math.pi / (math.pi - 1)), rel=0.01
    )
    assert "batch norm" in found["reason"]


def test_circular_convolutions_are_predicted(run):
    found = run("model=convnet activation=tanh initializer=critical model.depth=8")
    assert found["gradient_rate"] == pytest.approx(found["gradient_rate_predicted"], rel=0.04)
    for row in found["layers"][:-1]:
        assert row["backprop_norm"] == pytest.approx(row["backprop_norm_predicted"], rel=0.15)
    assert found["layers"][-1]["forward_second_moment_predicted"] is None


def test_a_gradient_far_below_float32_is_predicted_by_its_logarithm(run):
    found = run("activation=sigmoid model.depth=100")
    assert found["layers"][0]["backprop_norm_predicted_log10"] < -55
    assert found["layers"][0]["backprop_norm"] == pytest.approx(
        10 ** found["layers"][0]["backprop_norm_predicted_log10"], rel=3
    )
    assert found["verdict_init"] == "vanishing"


def test_advice_is_the_rate_of_the_changed_network(run, tmp_path):
    words = "activation=sigmoid model.depth=20"
    (line, *_) = run(words, "tries=['initializer=critical']")["advice"]
    assert line.startswith("initializer=critical brings the rate from 0.23")
    promised = float(re.search(r"to ([0-9.]+),", line).group(1))
    shutil.rmtree(tmp_path / "diagnose")
    assert run(f"{words} initializer=critical")["gradient_rate"] == pytest.approx(
        promised, abs=0.05
    )


def test_plot_and_run_id(run, tmp_path):
    run("model.depth=4 plot=true")
    (folder,) = tmp_path.glob("diagnose/*")
    assert (folder / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    assert folder.name.startswith("mlp-d4-tanh-glorot_normal-s0-")


def test_orthogonal_linear_networks_have_singular_values_of_one():
    network = mlp((1, 8, 8), 10, activations.linear(), depth=30, width=64)
    for spec in map_of(network)[1:-1]:
        torch.nn.init.orthogonal_(spec.weight)
    values = jacobian_singular_values(network, torch.randn(1, 1, 8, 8))
    np.testing.assert_allclose(values, 1.0, atol=1e-5)  # float32


def test_the_jacobian_is_the_product_of_its_layers():
    """Against D_{L-1} W_{L-1} ... written out; none above 1,024 units."""
    torch.manual_seed(0)
    network = mlp((1, 3, 3), 4, activations.tanh(), depth=5, width=7).double()
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    product = torch.eye(7, dtype=torch.float64)
    a = x.flatten(1)
    hidden = map_of(network)[:-1]
    for index, spec in enumerate(hidden):
        h = spec.module(a)
        a = torch.tanh(h)
        if index < len(hidden) - 1:
            product = hidden[index + 1].weight @ torch.diag(1 - a[0].square()) @ product
    expected = torch.linalg.svdvals(product).detach().numpy()
    np.testing.assert_allclose(jacobian_singular_values(network, x), expected, rtol=1e-9)
    assert (
        jacobian_singular_values(
            mlp((1, 3, 3), 4, activations.tanh(), depth=3, width=1025), x.float()
        )
        is None
    )


@pytest.mark.parametrize("group", ["he_normal", "glorot_uniform", "orthogonal"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu"])
def test_gain_auto_declares_the_critical_scale(make_config, group, activation):
    from isometry.theory.critical import critical

    config = make_config(
        "model.depth=4", f"initializer={group}", "initializer.gain=auto", f"activation={activation}"
    )
    layers = map_of(build_network(config, (1, 28, 28), 10))
    expected = critical(phi_of(activation), 0.0).sigma_w
    assert layers[1].sigma_w == pytest.approx(expected, rel=1e-9)  # a square layer
    weight = layers[1].weight
    assert float(weight.detach().std()) == pytest.approx(expected / 10, rel=0.05)
    assert build_data(config).num_classes == 10
    assert Path(config.paths.runs).name == "runs"


# a gradient, or h itself, that overflows: in float32 beyond 1e38, in float64 beyond 1e308
OVERFLOWS = [
    ["activation=relu", "initializer=normal", "model.depth=60"],
    ["activation=relu", "initializer=normal", "model.depth=200"],
    ["activation=relu", "initializer=normal", "model.depth=420"],
    ["activation=squared_relu", "initializer=he_normal", "model.depth=14"],
    ["activation=linear", "initializer=gaussian", "initializer.sigma_w=30", "model.depth=250"],
]


@pytest.mark.parametrize("words", OVERFLOWS, ids=" ".join)
def test_what_overflows_explodes(run, make_config, words):
    """Never vanishing, and never no verdict; how far it goes, theory says in its logarithm."""
    found = run(" ".join(words) + " model.width=50", "tries=[]")
    assert found["verdict_init"] == "exploding"
    layers = [row for row in found["layers"] if row["kind"] == "hidden"]
    logs = [row["backprop_norm_predicted_log10"] for row in layers]
    if found["verdict_source"] == "measured":
        assert all(a > b for a, b in itertools.pairwise(logs))
    summary = train(make_config(*words, "model.width=50", "trainer.max_steps=2"))
    assert summary["state"] == "diverged"
    assert summary["verdict_init"] == "exploding"


def test_what_underflows_vanishes(run):
    """Also where nothing is left of it in float64."""
    found = run("initializer=normal_small model.depth=400 activation=linear", "tries=[]")
    assert found["verdict_init"] == "vanishing"


def test_the_limit_is_the_one_to_which_this_network_goes(run):
    """gelu at σ_w = 1.52 has an unstable point at q = 1.136: from 2.2 lengths grow for ever, from
    0.1 they vanish.
    """
    words = "activation=gelu initializer=gaussian initializer.sigma_w=1.52 model.depth=30"
    found = run(f"{words} model.width=300")
    assert found["layers"][0]["forward_second_moment"] > 2
    assert found["q_star"] is None
    assert found["chi_1"] == pytest.approx(1.155, abs=0.001)
    assert found["phase"] == "chaotic"
    assert settled(phi_of("gelu"), 1.52, 0.0, 2.2) == math.inf
    assert settled(phi_of("gelu"), 1.52, 0.0, 0.1) == 0.0


def test_batch_norm_over_few_examples_has_no_limit(run):
    """It was layer norm's that was printed."""
    found = run("normalization=batch activation=relu model.depth=10 data.batch_size=4 batches=2")
    assert (found["chi_1"], found["phase"]) == (None, None)
    assert "no finite expectation" in found["reason"]


# ---- tried out -----------------------------------------------------------------------------------


def test_a_trial_is_the_first_steps_of_the_training(make_config):
    """Validation loss and accuracy after the first epoch, to float32's rounding."""
    words = ["activation=tanh", "model.depth=5", "trainer.max_epochs=1", "trainer.max_steps=-1"]
    config = make_config(*words)
    steps = train(config)["steps"]
    trial = try_out(config, steps)
    (path,) = Path(config.paths.runs).glob("*/*/metrics.csv")
    (row,) = (r for r in MetricsFile(path).rows.values() if "val_loss" in r)
    assert trial.steps == steps
    assert trial.loss == pytest.approx(float(row["val_loss"]), rel=1e-5)
    assert trial.accuracy == pytest.approx(float(row["val_accuracy"]), abs=1e-6)


def test_a_diverging_trial_stops_there(make_config):
    trial = try_out(make_config("activation=relu", "initializer=normal", "model.depth=30"))
    assert trial.outcome == "diverged"
    assert trial.steps <= 5


def test_what_is_recommended_was_tried_and_learned(run):
    """Batch norm cures the deep sigmoid, a critical scale does not."""
    tries = "tries=['initializer=critical','normalization=batch','initializer=glorot_normal']"
    found = run("activation=sigmoid model.depth=12", "trial=true", tries)
    assert found["trial"]["outcome"] == "chance"
    tried = {choice["override"]: choice["trial"] for choice in found["tries"]}
    names = ["initializer=critical", "normalization=batch", "optimizer.lr=0.5", "model.depth=5"]
    assert list(tried) == names
    assert not any("model.depth" in line for line in found["advice"])  # healthy, and learns nothing
    assert tried["normalization=batch"]["outcome"] == "learned"
    loss = tried["normalization=batch"]["loss"]
    assert found["advice"][0].startswith(f"normalization=batch: loss {loss:.3g} after 200 steps")
    assert f"now loss {found['trial']['loss']:.3g}" in found["advice"][0]


def test_a_network_that_learns_is_left_alone(run):
    found = run("model.depth=4", "trial=true", "curvature=true")
    assert found["tries"] == []
    assert found["trial"]["outcome"] == "learned"
    assert found["advice"][0].startswith("nothing")
    assert found["stable_lr"] == pytest.approx(2 / found["curvature"]["hessian"])
    assert found["lr"] == 0.05


@pytest.mark.parametrize(("factor", "holds"), [(0.2, True), (5.0, False)])
def test_far_over_the_stable_rate_gradient_descent_diverges(run, make_config, factor, holds):
    """tanh at the critical scale, depth 20, one batch 30 times: the loss never rises over its start
    at a fifth of 2/λ_max, and doubles at five times it. (Between 1 and 4 networks may still find
    flatter ground: Lewkowycz et al. 2020.)
    """
    words = ["activation=tanh", "initializer=critical", "model.depth=20"]
    rate = factor * run(" ".join(words), "curvature=true")["stable_lr"]
    losses = descend(make_config(*words), rate)
    assert (max(losses) <= losses[0]) is holds
    assert holds or max(losses) > 2 * losses[0]


def descend(config, rate):
    """Losses of 30 steps of gradient descent on the first batch."""
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    network = build_network(config, data.input_shape, data.num_classes)
    optimizer = torch.optim.SGD(network.parameters(), rate)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize(
    "word", ["critical", "model.deepness=3", "initializer=nothing", "model=vit"]
)
def test_a_try_that_is_no_override_is_the_users_mistake(run, word):
    with pytest.raises(UserError, match=r"tries|initializer"):
        run("activation=sigmoid model.depth=12", f"tries=['{word}']")


def test_large_networks_are_not_tried_by_themselves(run, capsys):
    found = run("model.width=4000 model.depth=4 batches=1 data.batch_size=64", "trial=auto")
    assert found["trial"] is None


FOLLOWED = [
    "activation=gelu model.depth=50",
    "activation=tanh initializer=gaussian initializer.sigma_w=2 model.depth=50",
    "activation=relu model.depth=50",
    "activation=relu normalization=batch model.depth=50",
    "activation=sigmoid model.depth=20",
    "activation=softplus initializer=he_normal model.depth=50",
    "activation=selu model.depth=100",
    "activation=sine initializer=gaussian initializer.sigma_w=2 model.depth=30",
    "activation=sigmoid model.depth=10",
    "activation=relu initializer=torch_default model.depth=20",
    "activation=tanh initializer=normal_small model.depth=20",
    "activation=relu initializer=he_normal model.depth=50",
    "activation=elu initializer=he_normal model.depth=50",
    "activation=gelu initializer=he_normal model.depth=50",
    "activation=hardsigmoid model.depth=10",
    "activation=leaky_relu initializer=normal model.depth=30",
    "activation=silu model.depth=30",
    "activation=squared_relu initializer=he_normal model.depth=10",
    "activation=mish initializer=normal model.depth=20",
    "activation=tanh initializer=normal model.depth=20",
]
SIX_EPOCHS = 372


@pytest.mark.slow
@pytest.mark.parametrize("words", FOLLOWED)
def test_advice_that_is_followed_ends_no_worse_and_trained(run, make_config, words):
    """Six epochs as it is, and six with the first line of advice."""
    (line, *_) = run(words, "trial=true", "batches=1")["advice"]
    config = make_config(*words.split())
    before = try_out(config, SIX_EPOCHS)
    if "=" not in line.partition(":")[0]:
        assert before.outcome == "learned"
        return
    after = try_out(altered(config, line.partition(":")[0]), SIX_EPOCHS)
    assert after.outcome == "learned"
    assert not before.loss < after.loss
