"""The command line as a user types it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from commands import ISOMETRY
from isometry import cli
from isometry.cli import VERBS
from isometry.config.compose import compose_for_help
from isometry.config.help import UNREAD
from isometry.runs.directory import RunDirectory
from studies import write_study


def isometry(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [ISOMETRY, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(typed, tmp_path, verb):
    """Its groups and keys, those of no other verb, and lines that can be typed."""
    text = typed(verb, "--help", cwd=tmp_path).stdout
    assert text.startswith(f"isometry {verb}")
    assert len(text.splitlines()) <= 66
    assert max(map(len, text.splitlines())) <= 120
    assert f"  isometry {verb} " in text
    assert ("initializer " in text) == (verb in ("train", "diagnose"))
    assert "paths. " in text
    assert "wandb_sweep" not in text
    assert ("logger. " in text) == (verb in ("train", "figure"))
    assert "${" not in text
    assert not list(tmp_path.iterdir())


def test_help_of_choices_and_of_a_key(typed, tmp_path):
    text = typed("train", "model=convnet", "optimizer=adam", "--help", cwd=tmp_path).stdout
    assert "channels=" in text
    assert "betas=[0.9,0.999]" in text
    text = typed("train", "--help", "model", cwd=tmp_path).stdout
    assert "model.depth=10: a whole number from 1 to 100000" in text
    for verb, word, says in (
        ("train", "activation", "gelu"),
        ("compare", "metric", "metrics=null: a list"),
        ("wandb", "study", "group=null: text"),
    ):
        assert says in typed(verb, "--help", word, cwd=tmp_path).stdout
    done = typed("train", "--help", "model.widht", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean model.width?" in done.stderr


def test_batch_norm_over_one_example_is_not_diagnosed(typed, tmp_path, data_cache):
    """It shows when the network is built."""
    words = ["data.batch_size=1", "normalization=batch", f"paths.data={data_cache}"]
    done = typed("diagnose", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "data.batch_size=1: the network's batch norm needs 2 examples" in done.stderr
    assert not list(tmp_path.iterdir())


def test_version_and_module(tmp_path):
    env = {**os.environ, "PYTHONPATH": ""}
    for command in ([ISOMETRY], [sys.executable, "-m", "isometry"]):
        done = subprocess.run(
            [*command, "--version"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.stdout.strip() == f"isometry {version('isometry')}"


# what is typed, and the words of the answer
LINES = [
    (["trian"], "did you mean train?"),
    (["train", "tanh"], "did you mean activation=tanh?"),
    (["train", "--seed"], "values are given as seed=VALUE"),
    (["train", "model.depth=[1"], "model.depth=[1: cannot be read as KEY=VALUE"),
    (["eval"], "run: is missing"),
    (["plot", "tnah"], "did you mean tanh?"),
    (["plot", "tanh", "rleu"], "did you mean relu?"),
    (["plot", "reach=abc"], "reach=abc: must lie between"),
    (["diagnose", "resume=runs/s/x"], "resume=runs/s/x: goes on with a training"),
    (["theory", "tanh", "relu"], "isometry theory relu: not understood"),
    (["report", "nothing"], "study_name=nothing: no runs"),
    (["report", "some/nothing"], "study_name=some/nothing: "),
    (["theory", "--sigma_b=[-1]"], "sigma_b=[-1]: must be a list of numbers"),
    (["figure", "he2015"], "he2015"),
    (["train", "-m", "activation=glob(zz*)"], "the sweep has no job"),
    (["train", "seed=0,1"], "seed=0,1: several values are a sweep, with -m"),
    (["train", "seed=range(3)"], "seed=range(3): several values are a sweep, with -m"),
    (["train", "-m", "optimizer.lr=interval(0,1)"], "hydra/sweeper=optuna"),
    (["train", "-m", "hydra/sweeper=foo"], "hydra/sweeper=foo: no such option"),
    (["train", "hydra/launcher=slurm"], "is of a sweep, which -m makes"),
    (["train", "depth=3"], "did you mean model.depth?"),
    (["train", "lr=3"], "did you mean optimizer.lr?"),
    (["train", "modle.depth=3"], "did you mean model.depth?"),
    (["train", "activation=Relu"], "did you mean relu?"),
    (["train", "seed=-1"], "isometry: seed=-1: must be"),
    (["theory", "sigma_b=0.1"], "sigma_b=0.1: must be a list of numbers of at least 0, e.g. [0.1]"),
    (["train", "study=vanishing_exploding"], "study=vanishing_exploding: is of a sweep, which -m"),
    (["diagnose", "input=3,3"], "input=[3, 3]: is for a network of your own"),
    (["diagnose", "vocabulary=10"], "vocabulary=10: is for a network of your own"),
    (["diagnose", "a:b", "input=3,3", "activation=relu"], "activation=relu: a:b is a network of"),
    (["diagnose", "a:b", "input=3,3", "model.depth=3"], "model.depth=3: a:b is a network of"),
    (["diagnose", "./my/module.py:factory"], "must be module:function, e.g. my.module:factory"),
    (["plot", "sigmoid", "paths.runs=/proc/x"], "paths.runs=/proc/x: cannot write there"),
    (
        ["theory", "phase_diagram=true", "paths.runs=/proc/x"],
        "paths.runs=/proc/x: cannot write there",
    ),
    (
        ["train", "-m", "seed=0,1", "model.depth=2", "paths.runs=/proc/x", "paths.data=/proc/x"],
        "paths.runs=/proc/x: cannot write there",
    ),
]


@pytest.mark.parametrize(("line", "words"), LINES, ids=lambda value: " ".join(value))
def test_what_is_not_understood_is_said_in_one_line(typed, tmp_path, line, words):
    done = typed(*line, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert done.stderr.count("isometry: ") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["plot", "theory"])
def test_a_sweep_of_any_verb_leaves_nothing_of_hydras(typed, tmp_path, verb):
    """And its flag may stand between the choices."""
    done = typed(verb, "activation=tanh,relu", "-m", "activation.name=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


@pytest.mark.parametrize("verb", ["train", "diagnose", "plot", "theory"])
@pytest.mark.parametrize("text", ["", "a: [", "- 1\n", "slope: 3\n"])
def test_an_option_of_ones_own_that_is_none(typed, tmp_path, verb, text):
    (tmp_path / "conf" / "activation").mkdir(parents=True)
    (tmp_path / "conf" / "activation" / "mine.yaml").write_text(text)
    done = typed(verb, "activation=mine", cwd=tmp_path, ISOMETRY_CONF=str(tmp_path / "conf"))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "activation" in done.stderr


def test_a_folder_of_options_that_is_not_there(typed, tmp_path):
    done = typed("theory", "tanh", cwd=tmp_path, ISOMETRY_CONF=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "ISOMETRY_CONF" in done.stderr


def test_numbers_are_whole_on_a_narrow_terminal(typed, tmp_path):
    words = ["model.depth=4", "trial=false", "curvature=false", "plot=false"]
    for line in (["theory", "tanh"], ["diagnose", *words]):
        done = typed(*line, cwd=tmp_path, COLUMNS="40", FORCE_COLOR="1", TTY_COMPATIBLE="1")
        assert done.returncode == 0, done.stderr
        assert "…" not in done.stdout


def test_dashes_are_taken_for_what_they_mean(typed, tmp_path):
    done = typed("theory", "--activation=relu", "--sigma_b=[0]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "relu: critical" in done.stdout


NOTES = ["_wandb={t:1}", "--_wandb={'t': {'1': [1, 5, 53]}}", "wandb_version=1"]


@pytest.mark.parametrize("word", NOTES)
def test_what_an_agent_of_wandb_types_besides_the_choices(typed, tmp_path, word):
    """Where it resumes a run it hands on all that W&B has noted of it."""
    short = ["model.depth=3", "trainer.max_steps=2", "pictures=false", "logger=none"]
    done = typed("train", *short, word, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 steps" in done.stderr + done.stdout


def completed(monkeypatch, capfd, line: str) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    monkeypatch.setattr(sys, "argv", ["isometry"])
    assert cli.run(["isometry", "-sc", "query=bash"]) == 0
    return capfd.readouterr().out.split()


def test_completion(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("one/run-a", "one/run-b", "two/run-c"):
        RunDirectory(tmp_path / "runs" / name).begin("")
    asked = functools.partial(completed, monkeypatch, capfd)
    assert asked("isometry ") == list(VERBS)
    assert asked("isometry tr") == ["train"]
    assert asked("isometry figure he2015-fig") == ["he2015-fig2", "he2015-fig3"]
    assert asked("isometry plot ta") == ["tanh"]
    assert asked("isometry report ") == ["one", "two"]
    assert asked("isometry eval runs/two") == ["runs/two/run-c"]
    assert asked("isometry train resume=runs/one/run-b") == ["resume=runs/one/run-b"]
    assert "model.depth=" in asked("isometry train model.d")
    assert "model.depth=" in asked("isometry  train seed=1 model.d")  # a space too many
    assert asked("isometry figure schoenholz2017-fig5 prese") == ["preset="]
    assert asked("isometry plot tanh reac") == ["reach="]
    assert asked("isometry plot tanh ,[ reac") == ["reach="]


@pytest.mark.parametrize("names", [("sigmoid",), ("sigmoid", "tanh", "relu"), ("sine", "prelu")])
def test_several_activations_in_one_picture(typed, tmp_path, names):
    done = typed("plot", *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == list(names)
    assert (tmp_path / lines[-1]).read_bytes().startswith(b"\x89PNG")


def test_bare_command_lists_the_verbs(tmp_path):
    done = isometry(cwd=tmp_path)
    assert done.returncode == 0
    for verb in ("train", "plot", "report"):
        assert f"  {verb}" in done.stdout


def test_a_terminal_without_greek_letters_gets_others(tmp_path):
    done = isometry("theory", "activation=gelu", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "initializer.gain" in done.stdout


def test_plot_activation_draws_and_names_the_saturation(typed, tmp_path):
    done = typed("plot", "activation=sigmoid", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "largest slope 0.25; saturated on [-inf, -4.357], [4.357, inf]" in done.stdout
    picture = tmp_path / done.stdout.splitlines()[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_report_of_a_folder(typed, tmp_path):
    grid = {"model.width": [8, 16], "seed": [0, 1]}
    write_study(tmp_path / "else where" / "mine", grid, lambda _: ({"test_accuracy": 0.5}, None))
    for word in ("else where/mine", "else where/mine/", str(tmp_path / "else where" / "mine")):
        done = typed("report", word, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "study mine" in done.stdout


def test_a_multirun_ends_with_table_figure_and_runs(typed, tmp_path):
    grid = [
        "activation=tanh,relu",
        "initializer=normal_small,critical",
        "model.depth=6",
        "trainer.max_steps=5",
        "logger=csv",
    ]
    done = isometry("train", "-m", *grid, "study_name=grid", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "tanh",
        "relu",
        "normal_small",
        "critical",
        "vanishing",
        "healthy",
        "gradient_against_depth.png",
    ):
        assert words in done.stdout
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("runs/grid/*/summary.json")]
    assert len(summaries) == 4
    assert {summary["study"] for summary in summaries} == {"grid"}
    assert (tmp_path / "runs/grid/gradient_against_depth.png").exists()
    again = typed("report", "study_name=grid", cwd=tmp_path)
    assert "vanishing" in again.stdout


def test_options_of_ones_own_are_known(typed, tmp_path):
    """To the help and to suggestions."""
    own = {"ISOMETRY_CONF": str(tmp_path / "conf")}
    for name in ("activation/snake", "statistic/sparsity"):
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("name: x\n_target_: x.y\n")
    assert "snake" in typed("train", "--help", "activation", cwd=tmp_path, **own).stdout
    assert "sparsity" in typed("train", "--help", "statistic", cwd=tmp_path, **own).stdout
    for word, meant in (("activation=snak", "snake"), ("statistic=spars", "sparsity")):
        done = typed("train", word, cwd=tmp_path, **own)
        assert f"did you mean {meant}?" in done.stderr


def test_an_axis_that_is_no_number_is_told_before_the_table(typed, tmp_path):
    grid = {"activation.name": ["tanh", "relu"], "seed": [0, 1]}
    write_study(tmp_path / "runs" / "mine", grid, lambda _: ({"test_accuracy": 0.5}, None))
    for x in ("activation.name", "optimizer.lr"):
        done = typed("compare", "mine", f"x={x}", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert f"x={x}: " in done.stderr


def test_a_reader_that_has_seen_enough(tmp_path):
    grid = {"model.width": list(range(8, 40)), "seed": [0, 1]}
    write_study(tmp_path / "runs" / "mine", grid, lambda _: ({"test_accuracy": 0.5}, None))
    line = f"{ISOMETRY} compare mine html=false | head -1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("value", ["[initializer=critical,model.depth=5]", "model.depth=5"])
def test_tries_as_the_help_prints_them(typed, tmp_path, data_cache, value):
    words = ["model.depth=4", "model.width=8", "trial=false", "curvature=false"]
    done = typed("diagnose", *words, f"tries={value}", f"paths.data={data_cache}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_of_a_group_without_options(typed, tmp_path):
    done = typed("train", "--help", "statistic", cwd=tmp_path)
    assert "statistic: has no option yet; a folder of your own has" in done.stdout


def test_a_place_whose_name_is_no_text(typed, tmp_path):
    """A file system takes any bytes; the records of a run do not."""
    place = os.fsdecode(str(tmp_path).encode() + b"/bad\xff")
    for verb in ("train", "plot"):
        done = typed(verb, "activation=tanh", cwd=tmp_path, ISOMETRY_RUNS=place)
        assert done.returncode == 2, done.stderr
        assert "paths.runs=" in done.stderr
        assert "must be a path in UTF-8" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_help_leaves_out_is_there():
    """A key that is renamed or gone is not left out in silence."""
    for verb, names in UNREAD.items():
        config, groups, _ = compose_for_help(verb, [])
        assert set(names) <= {*config, *groups}
