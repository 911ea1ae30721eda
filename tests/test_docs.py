"""What the documents name is there."""

from __future__ import annotations

import re

import pytest

from commands import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = (ROOT, ROOT / "src" / "isometry", ROOT / "tests", ROOT / "tests" / "signals")
EXAMPLES = {
    "snake.py",
    "sparsity.py",
    "bimodal.py",
    "hourglass.py",
    "stripes.py",
    "spectral.py",
    "smoothed.py",
}
EXAMPLES |= {"erf_slope.py"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document):
    named = set(re.findall(r"[\w/]+\.py\b", document.read_text())) - EXAMPLES
    missing = {name for name in named if not any((place / name).exists() for place in PLACES)}
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = {link for link in links if not (document.parent / link).exists()}
    assert not missing


def test_every_test_that_a_document_names_is_there():
    named = re.findall(r"([\w/]+\.py)::(\w+)", (ROOT / "docs" / "models.md").read_text())
    assert len(named) > 30
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), name


def test_every_network_and_remedy_has_its_line():
    text = (ROOT / "docs" / "models.md").read_text()
    for group in ("model", "remedy"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"{group}={path.stem}" in text or path.stem in ("mlp", "none"), path.stem
