"""The worked example of `docs/adding_a_figure.md`, typed as a user would."""

import json
import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding_a_figure.md"


def test_the_worked_example(typed, tmp_path):
    text = DOCUMENT.read_text()
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len((config + code).splitlines()) < 60
    (tmp_path / "conf" / "figure").mkdir(parents=True)
    (tmp_path / "conf" / "figure" / "erf-slope.yaml").write_text(config)
    (tmp_path / "erf_slope.py").write_text(code)
    fork = {"ISOMETRY_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    done = typed("figure", "erf-slope", "logger=none", cwd=tmp_path, **fork)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "figures" / "erf-slope" / "quick"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "figure.pdf",
        "figure.png",
        "figure.svg",
        "data.parquet",
        "claims.json",
        "config.yaml",
        "wall.json",
    }
    (claim,) = json.loads((folder / "claims.json").read_text())
    assert claim["result"] == "pass"
    assert "PASS" in done.stdout
