"""The README's three ways to extend: each file and config as printed there, run as a user would."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks() -> dict[str, str]:
    """The README's code blocks that begin with a comment naming their file."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL)
    return dict(found)


@pytest.mark.parametrize(
    ("kind", "option"),
    [("activation", "snake"), ("initializer", "bimodal"), ("model", "hourglass")],
)
def test_readme_extension(typed, tmp_path, kind, option):
    for name, content in blocks().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert (tmp_path / "conf" / kind / f"{option}.yaml").exists()
    words = [
        "logger=csv",
        "trainer.max_steps=3",
        f"paths.runs={tmp_path}/runs",
        f"paths.data={tmp_path}/data",
    ]
    fork = {"ISOMETRY_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    done = typed("train", f"{kind}={option}", *words, cwd=tmp_path, **fork)
    assert done.returncode == 0, done.stderr
    (summary,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/summary.json"))
    assert option in summary["run_id"]
    assert summary["gradient_rate_init"] > 0
