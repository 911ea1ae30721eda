"""Run the Python and console blocks of a document and write what they print below them.

    python scripts/run_document.py docs/any_network.md

The Python blocks share their names, as the cells of a notebook do, and run in the document's
folder: pictures that they save lie beside it. A console block is one command behind `$`, run in an
empty folder. `tests/test_documents.py` holds the text to what is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n.*?```\n)?", re.DOTALL)

CONSOLE = re.compile(r"```console\n\$ (.*?)\n.*?```\n", re.DOTALL)


def with_outputs(text: str) -> str:
    """The document with each block's output below it, as text."""
    names: dict[str, object] = {"__name__": "__document__"}

    def run(found: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(found[1], "document", "exec"), names)
        output = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
        return f"```python\n{found[1]}```\n" + (f"\n```text\n{output}```\n" if output else "")

    return CONSOLE.sub(_run_command, BLOCK.sub(run, text))


def _run_command(found: re.Match[str]) -> str:
    """The block with what its command prints, in both streams."""
    program, *words = shlex.split(found[1])
    command = [str(Path(sys.executable).parent / program), *words]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.run(command, cwd=folder, check=True, **both).stdout
    output = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    return f"```console\n$ {found[1]}\n{output}```\n"


def main() -> None:
    """Rewrite the named documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", nargs="+", type=Path)
    for path in [document.resolve() for document in parser.parse_args().documents]:
        os.chdir(path.parent)
        path.write_text(with_outputs(path.read_text()))


if __name__ == "__main__":
    main()
