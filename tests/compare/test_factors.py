"""What differs between runs, whichever key it is."""

from __future__ import annotations

import pytest

from isometry.compare.factors import ABSENT, factors_of
from isometry.errors import UserError
from isometry.runs.table import flat
from studies import with_values


def configs(*values):
    return [dict(flat(with_values(each))) for each in values]


def grid(*pairs):
    return configs(*({"initializer.sigma_w": w, "model.width": n} for w, n in pairs))


def test_any_key_is_a_factor_and_what_is_typed_first_comes_first():
    """initializer.sigma_w=2,0.5 model.width=64,32: neither is in a hard-coded list."""
    found = factors_of(grid((2, 64), (2, 32), (0.5, 64), (0.5, 32)))
    assert found.names == ["initializer.sigma_w", "model.width"]
    assert found.levels("initializer.sigma_w") == [2, 0.5]
    assert found.levels("model.width") == [64, 32]


def test_runs_that_no_sweep_named_come_by_size():
    found = factors_of(grid((10, 8), (9, 8), (2.5, 8)), [False] * 3)
    assert found.levels("initializer.sigma_w") == [2.5, 9, 10]


def test_named_values_come_before_those_that_are_not():
    found = factors_of(grid((10, 8), (9, 8), (2.5, 8)), [True, False, True])
    assert found.levels("initializer.sigma_w") == [10, 2.5, 9]


def test_seeds_are_no_factor():
    assert factors_of(configs({"seed": 0}, {"seed": 1})).names == []


def test_an_option_is_one_factor_however_many_keys_it_changes():
    relu = {"activation.name": "relu", "activation._target_": "isometry.activations.relu"}
    found = factors_of(configs({}, relu))
    assert found.names == ["activation"]
    assert found.levels("activation") == ["tanh", "relu"]
    assert found.same == {}


def test_a_key_of_an_option_is_one_where_it_varies_within_it():
    leaky = {"activation.name": "leaky", "activation.negative_slope": 0.1}
    found = factors_of(configs({}, leaky, {**leaky, "activation.negative_slope": 0.2}))
    assert found.names == ["activation", "activation.negative_slope"]
    assert found.levels("activation.negative_slope") == [ABSENT, 0.1, 0.2]


def test_what_varies_together_is_one_factor_and_said():
    found = factors_of(
        configs({"model.depth": 10, "optimizer.lr": 0.1}, {"model.depth": 20, "optimizer.lr": 0.05})
    )
    assert found.names == ["model.depth"]
    assert found.same == {"model.depth": ["optimizer.lr"]}


def test_null_true_and_1_are_three_values():
    found = factors_of(configs(*({"trainer.max_epochs": v} for v in (1, True, 1.0))))
    assert found.levels("trainer.max_epochs") == [1, "true"]


def test_a_key_that_must_be_a_factor_is_one():
    found = factors_of(configs({}, {"model.depth": 5}), always=["activation", "model.depth"])
    assert set(found.names) == {"activation", "model.depth"}


def test_a_key_that_no_run_has_is_a_message():
    with pytest.raises(UserError, match=r"model\.dept: no run has such a key; .*model\.depth"):
        factors_of(configs({}), always=["model.dept"])


def test_an_activation_that_the_model_brings_along_is_no_factor():
    """Two of three models have the same φ, which none of the runs was given."""
    chosen = {"rnn": "tanh", "irnn": "relu", "lstm": "own", "gru": "own"}
    configs = [
        {"activation.name": phi, "model.name": model, "model.gain": gain, "seed": seed}
        for model, phi in chosen.items()
        for gain in (1, 2)
        for seed in (0, 1)
    ]
    found = factors_of(configs)
    assert found.names == ["model", "model.gain"]
    assert found.same == {"model": ["activation"]}


def test_an_activation_that_was_crossed_with_the_model_is_one():
    configs = [
        {"activation.name": phi, "model.name": model}
        for model in ("rnn", "mlp")
        for phi in ("tanh", "relu")
    ]
    assert set(factors_of(configs).names) == {"activation", "model"}
