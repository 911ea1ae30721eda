"""What is printed can be pasted: through the shell and Hydra's grammar it comes back as it was."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from isometry.config.quoting import override

PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda text: text.strip() == text
)


@given(PATHS)
@example("/runs/lr=0.1 (copy), b")
@example("a'b\"c\\d")
@example("${oc.env:HOME}"[2:])
@example("1e5")
@example("null")
@example("C:\\x\\")
def test_a_pasted_override_is_the_path(path):
    (word,) = shlex.split(override("resume", path))
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert parsed.key_or_group == "resume"
    assert getattr(parsed.value(), "text", parsed.value()) == path


@pytest.mark.parametrize("name", ["lr=0.1 (copy), b", "a'b", "[1]"])
def test_eval_and_resume_take_a_folder_of_any_name(typed, tmp_path, data_cache, name):
    small = ["model.depth=3", "trainer=cpu", "logger=csv", "pictures=false"]
    folder = tmp_path / name
    folder.mkdir()
    places = [override("paths.runs", folder), f"paths.data={data_cache}"]
    line = ["train", *small, "trainer.max_steps=2", "trainer.limit_val_batches=1"]
    done = typed(*line, *(shlex.split(word)[0] for word in places), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (status,) = folder.glob("*/*/status.json")
    run = str(status.parent)
    done = typed("eval", run, f"paths.data={data_cache}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (word,) = shlex.split(override("resume", run))
    done = typed("train", word, f"paths.data={data_cache}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished already" in done.stderr
