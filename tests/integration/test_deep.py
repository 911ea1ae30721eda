"""Networks so deep that most do not train: those that are said to, do."""

import pandas as pd
import pytest

from commands import run_of
from isometry.training.run import train

FEW = ["trainer.max_epochs=100", "trainer.limit_val_batches=1"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_highway_of_100_layers_trains_and_the_plain_network_does_not(make_config, seed):
    """Srivastava et al. 2015, gate bias -4. Pilot (seed 100): 0.84 and 0.10 after 300 steps."""
    common = ["model.depth=100", "model.width=50", "activation=relu", "initializer=he_normal"]
    common += ["optimizer=momentum", "optimizer.lr=0.01", "trainer.max_steps=300", f"seed={seed}"]
    common += [*FEW, "callbacks.signals.every_n_steps=null"]
    highway = train(make_config("model=highway", "model.gate_bias=-4", *common))
    plain = train(make_config("model=mlp", *common))
    assert highway["test_accuracy"] > 0.6
    assert plain["test_accuracy"] < 0.2


@pytest.mark.slow
def test_1000_layers_are_measured_alike_with_and_without_checkpointing(make_config):
    common = ["model.depth=1000", "model.width=16", "initializer=orthogonal", *FEW]
    frames = {}
    for checkpointing in (False, True):
        config = make_config(*common, f"activation_checkpointing={checkpointing}")
        run = run_of(train(config), config)
        frames[checkpointing] = pd.read_parquet(run.signals)
    assert len(frames[True]) == 4000
    pd.testing.assert_frame_equal(frames[True], frames[False], check_exact=True)


@pytest.mark.slow
def test_1000_plain_layers_train(make_config):
    """Mirrored weights (Balduzzi et al. 2017), checkpointed."""
    common = ["model.depth=1000", "model.width=32", "activation=relu", *FEW]
    common += ["initializer=looks_linear", "activation_checkpointing=true"]
    common += ["trainer.max_steps=62", "callbacks.signals.every_n_steps=null", "optimizer.lr=0.002"]
    assert train(make_config(*common))["test_accuracy"] > 0.5
