"""Every figure: its claims in a form small enough for a test; those that train, or take long, in
the slow tier.
"""

import json
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from isometry import cli
from isometry.config.compose import compose, resolved
from isometry.config.targets import instantiate
from isometry.errors import UserError
from isometry.figures import figure as figure_module
from isometry.figures.claims import Claim
from isometry.figures.figure import known_figures, make, preset_of
from isometry.figures.papers import he2015, saxe2014
from isometry.figures.papers.balduzzi2017 import lag_one
from isometry.training.run import train

FAST = {
    "balduzzi2017-fig1": ["depths=[1,24]"],
    "dong2021-rank-collapse": ["seeds=4"],
    "glorot2010-fig6": ["width=600"],
    "glorot2010-fig7": ["width=600"],
    "glorot2010-fig8": ["width=600", "batch=30"],
    "klambauer2017-theorem1": ["width=256", "depth=30"],
    "xiao2018": ["channels=16", "size=4", "depth=41"],
}
SLOW = {
    "bachlechner2020-rezero": ["seeds=3", "blocks=16", "width=64"],
    "he2016-plain-residual": ["seeds=3", "steps=62", "depths=[8,44]"],
    "le2015-irnn": ["seeds=3", "steps=186", "width=64"],
    "martens2021-dks": ["seeds=3", "width=64", "steps=124"],
    "pascanu2013": ["seeds=3", "width=400", "steps=100"],
    "residual-growth": ["seeds=6"],
    "xiong2020-fig3": ["width=64", "seeds=4"],
    "hanin2018-moments": ["draws=300", "width=80", "layers=5", "direct=3"],
    "he2015-factor": ["channels=128", "conv_depth=6", "size=3", "batch=4", "max_seeds=40"],
    "lu2020-dying-relu": ["draws=600", "widths=[2,3,4,6]"],
    "poole2016-fig1": ["width=600", "max_seeds=20"],
    "glorot2010-fig2": ["seeds=3", "steps=1500"],
    "hanin-rolnick2018": ["seeds=3", "shapes=[[5,10],[5,20],[5,40],[20,10],[20,20],[20,40]]"],
    "he2015-fig2": ["seeds=3", "max_seeds=6"],
    "he2015-fig3": ["seeds=4", "max_seeds=8"],
    "klambauer2017-fig1": ["depths=[8,32]", "seeds=3", "steps=200"],
    "pennington2017-spectrum": [],
    "poole2016-fig2": ["depth=41"],
    "saxe2014-fig4": ["layers=[3,10,100]", "seeds=3", "steps=100", "rates=[0.005,0.01]"],
    "schoenholz2017-fig5": [
        "depths=[5]",
        "sigma_w2=[1.0,2.5]",
        "checked=[1.0]",
        "near=[1.6]",
        "seeds=3",
        "max_seeds=6",
    ],
    "schoenholz2017-gradients": [],
    "seed-sigmoid": ["steps=60"],
    "yang2019-batchnorm": ["trained_depth=100", "trained_width=64", "seeds=3", "steps=200"],
}
CLAIMS = {
    "schoenholz2017-fig5": ["short-1", "long-1", "short-1.6", "no-cut"],
    "he2016-plain-residual": ["residual-ahead", "plain-explodes", "residual-healthy"],
    "klambauer2017-fig1": ["faster-8", "faster-32", "deep", "shallow"],
}
"""Those that the settings above check, where it is not all."""


def figure(name, folder, data, *overrides):
    """The config of `isometry figure NAME`, with settings of the quick preset replaced."""
    words = [f"paths.runs={folder}/runs", f"paths.data={data}", "logger=none"]
    config = compose("figure", [f"figure={name}", *words])
    preset = config.figure.presets.quick
    OmegaConf.set_struct(preset, False)
    preset.merge_with(OmegaConf.from_dotlist(list(overrides)))
    config.figure.claims = [
        claim for claim in config.figure.claims if claim.id in CLAIMS.get(name, [claim.id])
    ]
    return config


def check(name, tmp_path, data_cache, overrides, monkeypatch):
    # the others are looked at in `test_example.py`
    monkeypatch.setattr(figure_module, "FORMATS", ("png",))
    entries = make(figure(name, tmp_path, data_cache, *overrides))
    assert {entry["id"]: entry["result"] for entry in entries} == {
        entry["id"]: "pass" for entry in entries
    }, entries


def launch_here(jobs, choices=()):
    """The jobs of a launcher one by one in this process, whose imports are done."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for words in jobs:
            train(compose("train", words))


def test_every_figure_is_tested():
    assert sorted([*FAST, *SLOW]) == known_figures()


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_every_preset_builds_its_figure(name, preset, tmp_path):
    """The settings are those of the class, and every claim has a tolerance."""
    config = resolved(
        compose("figure", [f"figure={name}", f"preset={preset}", f"paths.runs={tmp_path}"])
    )
    chosen = preset_of(config)
    instantiate({"_target_": config["figure"]["_target_"], **chosen.settings})
    assert config["figure"]["id"] == name
    assert chosen.minutes > 0
    assert 2 <= chosen.seeds <= chosen.max_seeds
    for entry in config["figure"]["claims"]:
        Claim(**entry).tolerance(entry.get("expected", 1.0))


@pytest.mark.parametrize("name", FAST)
def test_claims(name, tmp_path, data_cache, monkeypatch):
    check(name, tmp_path, data_cache, FAST[name], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_claims_that_take_longer(name, tmp_path, data_cache, monkeypatch):
    """One of them through the pool, as users do."""
    if name != "seed-sigmoid":
        monkeypatch.setattr(figure_module, "launch", launch_here)
    check(name, tmp_path, data_cache, SLOW[name], monkeypatch)


def test_a_wrong_initializer_fails_its_claim(tmp_path, data_cache, monkeypatch):
    """The claims can fail: Glorot under He's name."""
    monkeypatch.setitem(he2015.FACTORS, "He", "glorot_normal")
    words = ["channels=8", "conv_depth=6", "size=4", "max_seeds=10"]
    results = {
        entry["id"]: entry["result"]
        for entry in make(figure("he2015-factor", tmp_path, data_cache, *words))
    }
    assert (results["xavier"], results["he"]) == ("pass", "fail")


def test_draw_only_and_again(tmp_path, data_cache):
    config = figure("glorot2010-fig8", tmp_path, data_cache, "width=50", "batch=5")
    first = make(config)
    folder = tmp_path / "runs" / "figures" / "glorot2010-fig8" / "quick"
    before = (folder / "data.parquet").read_bytes()
    (folder / "figure.png").unlink()
    config.draw_only = True
    assert make(config) == first
    assert (folder / "figure.png").exists()
    assert (folder / "data.parquet").read_bytes() == before
    assert json.loads((folder / "claims.json").read_text()) == first
    assert set(pd.read_parquet(folder / "data.parquet")["seed"]) >= set(range(5))


def test_a_figure_in_wandb(tmp_path, data_cache):
    """Picture, data and claims as one run of the group `figures`, read back by W&B's own tool."""
    config = figure("xiao2018", tmp_path, data_cache, "channels=4", "size=3", "depth=20")
    config.logger = compose("figure", ["logger=wandb"]).logger
    make(config)
    (path,) = tmp_path.glob("runs/figures/xiao2018/quick/wandb/offline-run-*/*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    (run,) = [record["run"] for record in records if "run" in record]
    assert (run["run_group"], run["job_type"], run["display_name"]) == (
        "figures",
        "figure",
        "xiao2018 quick",
    )
    (history,) = [record["history"]["item"] for record in records if "history" in record]
    kinds = {
        key.removesuffix("._type"): value
        for key, value in history.items()
        if key.endswith("._type")
    }
    assert kinds == {"figure": "image-file", "claims": "table-file", "data": "table-file"}
    assert history["claims.nrows"] == 3
    summaries = [record["summary"] for record in records if "summary" in record]
    assert "claims_passed" in json.dumps(summaries)


def test_mistakes(tmp_path, data_cache, capsys):
    config = figure("xiao2018", tmp_path, data_cache)
    config.draw_only = True
    with pytest.raises(UserError, match="nothing has been measured"):
        make(config)
    config.draw_only = False
    config.preset = "quik"
    with pytest.raises(
        UserError, match="preset=quik: allowed are quick, paper; did you mean quick"
    ):
        make(config)
    for words, message in {
        "seeds=1": "presets.quick.seeds=1: must be a whole number of at least 2",
        "depth=deep": "presets.quick.depth=deep: must be a number",
    }.items():
        with pytest.raises(UserError, match=message):
            make(figure("xiao2018", tmp_path, data_cache, words))
    config = figure("xiao2018", tmp_path, data_cache)
    config.figure.claims = [{"id": "gaussian", "statement": "", "lower": 1.0}]
    with pytest.raises(UserError, match=r"lower.*keys of a claim are id, statement, expected"):
        make(config)
    run = partial(cli.run, ["isometry", "figure", "he2015-fig1", f"paths.runs={tmp_path}"])
    assert run() == 2
    assert "figure=he2015-fig1: no such option; did you mean he2015-fig" in capsys.readouterr().err


def test_the_list(tmp_path, capsys):
    assert cli.run(["isometry", "figure", f"paths.runs={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in known_figures())


@pytest.mark.parametrize(
    ("layers", "expected"), [(3, 13.81), (10, 285.8), (100, 900.0), (1000, 1001.0)]
)
def test_learning_time_of_saxe(layers, expected):
    """Eq. 15 integrated from 0.001 to 0.999, s = 1; for three layers 2 ln 999 in closed form."""
    assert saxe2014.learning_time(layers, 0.001, 0.999, 1.0) == pytest.approx(expected, rel=1e-3)
    assert saxe2014.learning_time(3, 0.001, 0.999, 1.0) == pytest.approx(2 * np.log(999), rel=1e-9)


def test_lag_one_of_known_sequences():
    assert lag_one(np.array([1.0, -1.0] * 100)) == pytest.approx(-1.0, abs=0.01)
    assert lag_one(np.linspace(-1, 1, 2001)) == pytest.approx(1.0, abs=0.01)
