"""What the blocks of a document print is what stands below them."""

from __future__ import annotations

import logging
import sys

import pytest

from commands import ROOT


@pytest.mark.filterwarnings("ignore")  # Lightning's, of the machine
@pytest.mark.parametrize("name", ["any_network"])
def test_a_document_is_what_its_blocks_print(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(tmp_path)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from run_document import with_outputs

    text = (ROOT / "docs" / f"{name}.md").read_text()
    assert with_outputs(text) == text
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    sys.modules.pop("run_document")
