"""Write the table of all activations and the two pictures of `docs/theory.md`.

    python scripts/theory_docs.py

Takes about ten seconds.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from isometry.config.compose import compose
from isometry.config.messages import options
from isometry.plots.phase import draw_phase_diagram
from isometry.plots.style import save
from isometry.training.build import build_activation
from isometry.verbs.diagnose import diagnose
from isometry.verbs.theory import SCHEMES, row

DOCS = Path(__file__).parents[1] / "docs"


def table() -> str:
    """A line for each option of `conf/activation`."""
    heads = [
        "activation",
        "σ_w² (σ_b 0)",
        "(0.05)",
        "(0.2)",
        "kind",
        "q*",
        *[f"χ₁ {name}" for name in SCHEMES],
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for option in [name for name in options("activation") if name != "own"]:
        config = compose("theory", [f"activation={option}"])
        lines.append("| " + " | ".join(row(option, build_activation(config.activation))) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write everything."""
    document = DOCS / "theory.md"
    pattern = re.compile("<!-- table -->.*<!-- end of table -->", re.DOTALL)
    text = f"<!-- table -->\n{table()}\n<!-- end of table -->"
    document.write_text(pattern.sub(lambda _: text, document.read_text()))
    save(
        draw_phase_diagram(build_activation(compose("theory", []).activation)),
        DOCS / "phase_diagram",
    )
    with tempfile.TemporaryDirectory() as folder:
        network = [
            "activation=relu",
            "initializer=he_normal",
            "model.depth=30",
            "plot=true",
            "trial=false",
        ]
        diagnose(compose("diagnose", [*network, f"paths.runs={folder}", "trainer=cpu"]))
        (picture,) = Path(folder).glob("diagnose/*/diagnosis.png")
        shutil.copy(picture, DOCS / "diagnosis.png")


if __name__ == "__main__":
    main()
