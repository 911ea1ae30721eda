"""Write the tables of `docs/models.md`: each line of `models.csv`, trained a little.

    python scripts/model_docs.py              # or only: networks, beginnings, remedies

Takes about five minutes on 2 cores.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pandas as pd

from isometry.config.compose import compose
from isometry.training.build import build_data, build_for
from isometry.training.run import train

ROOT = Path(__file__).parents[1]
STEPS = 100
HEADS = ("", "paper", "`isometry train ...`", "held to it by", "parameters")
HEADS += (f"s per {STEPS} steps", "verdict at step 0")


def cells(row: pd.Series, folder: Path) -> list[str]:
    """Train, and say what it came to."""
    common = [f"trainer.max_steps={STEPS}", "trainer.max_epochs=1000", f"paths.runs={folder}"]
    common += ["logger=none", "pictures=false", "trainer=cpu"]
    config = compose("train", [*row.words.split(), *common])
    data = build_data(config)
    count = sum(parameter.numel() for parameter in build_for(config, data).parameters())
    summary = train(config)
    seconds = STEPS * config.data.batch_size / summary["images_per_second"]
    verdict = summary["verdict_init"] or "none: a branch or the readout begins at zero"
    if summary["state"] == "diverged":
        verdict += "; diverged"
    test = f"{row.checked} (`{row.test}`)"
    return [row.what, row.paper, f"`{row.words}`", test, f"{count:,}", f"{seconds:.1f}", verdict]


def table(rows: pd.DataFrame) -> str:
    """A line for each row, trained one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [cells(row, Path(folder)) for _, row in rows.iterrows()]
    rule = "|".join(["---"] * len(HEADS))
    return "\n".join(f"| {' | '.join(line)} |" for line in [HEADS, *lines]).replace(
        "|\n", f"|\n|{rule}|\n", 1
    )


def main() -> None:
    """Write the tables that are named, or all."""
    document = ROOT / "docs" / "models.md"
    rows = pd.read_csv(ROOT / "scripts" / "models.csv")
    for name in sys.argv[1:] or rows["table"].unique():
        text = f"<!-- {name} -->\n{table(rows[rows['table'] == name])}\n<!-- end of {name} -->"
        pattern = re.compile(f"<!-- {name} -->.*?<!-- end of {name} -->", re.DOTALL)
        document.write_text(pattern.sub(lambda _, text=text: text, document.read_text()))


if __name__ == "__main__":
    main()
