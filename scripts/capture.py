"""Run the commands that a document shows and write what they print into it.

    python scripts/capture.py docs/sweeps.md

A block `<!-- run: COMMAND -->` ... `<!-- end -->` is replaced by the command and its output, both
in one temporary folder for the whole document, from which `<!-- copy: FILE NAME -->` brings
pictures; `SECONDS` after a command's `timeout -s INT` plays
the user's Ctrl-C.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).parent.resolve()
COPY = re.compile(r"<!-- copy: (?P<source>\S+) (?P<target>\S+) -->")
BLOCK = re.compile(r"<!-- run: (?P<command>.*?) -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    """Rewrite the documents named on the command line."""
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{SCRIPTS}:{os.environ['PATH']}",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
    }
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:

            def captured(match: re.Match[str], folder: str = folder) -> str:
                command = match["command"]
                pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
                done = subprocess.run(
                    ["bash", "-c", command], cwd=folder, env=environment, text=True, **pipes
                )  # type: ignore[call-overload]
                print(done.stdout)
                shown = "\n".join(
                    line.rstrip() for line in done.stdout.replace(folder, "").splitlines()
                )
                return f"<!-- run: {command} -->\n```\n$ {command}\n{shown}\n```\n<!-- end -->"

            path = Path(name)
            text = BLOCK.sub(captured, path.read_text())
            for picture in COPY.finditer(text):
                shutil.copy(Path(folder) / picture["source"], path.parent / picture["target"])
            path.write_text(text)


if __name__ == "__main__":
    main()
