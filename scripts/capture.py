"""Run the commands that a document shows and write what they print into it.

    python scripts/capture.py docs/sweeps.md
    python scripts/capture.py --runs runs docs/studies.md      # where the studies have been run

A block `<!-- run: COMMAND -->` ... `<!-- end -->` is replaced by the command and its output, both
in one temporary folder for the whole document, from which `<!-- copy: FILE NAME -->` brings
pictures; `SECONDS` after a command's `timeout -s INT` plays
the user's Ctrl-C.
"""

from __future__ import annotations

import argparse
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
    parser = argparse.ArgumentParser(description="Write what commands print into documents.")
    parser.add_argument("--runs", type=Path, help="folder of runs that the commands find")
    parser.add_argument("documents", nargs="+", type=Path)
    arguments = parser.parse_args()
    for path in arguments.documents:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.runs is not None:
                (Path(folder) / "runs").symlink_to(arguments.runs.resolve())

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

            text = BLOCK.sub(captured, path.read_text())
            for picture in COPY.finditer(text):
                shutil.copy(Path(folder) / picture["source"], path.parent / picture["target"])
            path.write_text(text)


if __name__ == "__main__":
    main()
