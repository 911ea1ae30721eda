"""The fast way of composing gives Hydra's own configs."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from isometry.config.compose import conf_dir
from isometry.launch.fast_compose import Composer

JOBS = [
    [],
    ["seed=3"],
    ["activation=relu", "seed=0"],
    ["activation=relu", "initializer=gaussian", "initializer.sigma_w=1.7", "model.depth=7"],
    ["model=convnet", "model.channels=8", "optimizer.lr=1e-3", "tags=[a,b]"],
    ["+optimizer.nesterov=true", "optimizer=momentum"],
    ["study=vanishing_exploding", "trainer.max_epochs=2"],
    ["data.train_size=null", "trainer.gradient_clip_val=0.5"],
    ["study_name=x", "callbacks.signals.log_columns=[backprop_norm]"],
]


@pytest.fixture
def loader():
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        hydra = GlobalHydra.instance().hydra
        master = hydra.compose_config(
            "train", ["logger=csv"], RunMode.MULTIRUN, with_log_configuration=False
        )
        yield hydra.config_loader, master


@pytest.mark.parametrize("words", JOBS, ids=" ".join)
def test_a_job_is_what_hydra_composes(loader, words):
    config_loader, master = loader
    expected = OmegaConf.to_container(
        config_loader.load_sweep_config(master, list(words)), resolve=False
    )
    expected.pop("hydra")
    composer = Composer(config_loader, master)
    for _ in range(2):  # the second job of the same groups comes from a copy
        assert OmegaConf.to_container(composer._compose(words), resolve=False) == expected
    composer._compose(["seed=99", *[word for word in words if not word.startswith("seed")]])
    assert OmegaConf.to_container(composer._compose(words), resolve=False) == expected


@pytest.mark.parametrize("words", [["model.dept=3"], ["activation=rleu"], ["nothing.at.all=1"]])
def test_what_hydra_refuses_is_refused(loader, words):
    with pytest.raises((HydraException, Exception), match=r"(?i)key|could not|not find|struct"):
        Composer(*loader).compose(words)


def test_groups_are_composed_once(loader):
    config_loader, master = loader
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(config_loader, name)

        def load_sweep_config(self, *arguments):
            calls.append(arguments[1])
            return config_loader.load_sweep_config(*arguments)

    composer = Composer(Counting(), master)
    for seed in range(20):
        for activation in ("tanh", "relu"):
            assert composer.compose([f"activation={activation}", f"seed={seed}"]).seed == seed
    assert len(calls) == 2
