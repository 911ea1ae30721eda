"""The worked example of `docs/adding_a_figure.md`, typed as a user would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding_a_figure.md"


def test_the_worked_example(tmp_path):
    text = DOCUMENT.read_text()
    (config,), (code,) = re.findall(r"```yaml\n(.*?)```", text, re.S), re.findall(r"```python\n(.*?)```", text, re.S)
    assert len((config + code).splitlines()) < 60
    (tmp_path / "conf" / "figure").mkdir(parents=True)
    (tmp_path / "conf" / "figure" / "erf-slope.yaml").write_text(config)
    (tmp_path / "erf_slope.py").write_text(code)
    environment = {**os.environ, "ISOMETRY_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "isometry"), "figure", "erf-slope", "logger=none"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "figures" / "erf-slope" / "quick"
    names = {path.name for path in folder.iterdir()}
    assert names == {"figure.pdf", "figure.png", "figure.svg", "data.parquet", "claims.json", "config.yaml", "wall.json"}
    (claim,) = json.loads((folder / "claims.json").read_text())
    assert claim["result"] == "pass"
    assert "PASS" in done.stdout
