"""`compare.html`: everything about a comparison in one file that needs no network."""

from __future__ import annotations

import html
import json
from pathlib import Path

import altair
import vl_convert

from isometry.compare.comparison import Comparison
from isometry.compare.explain import sentences
from isometry.compare.page_data import page_data
from isometry.compare.views import page_spec
from isometry.compare.words import legend, notes
from isometry.runs.files import write_text

VEGA_LITE = ".".join(altair.SCHEMA_VERSION.split(".")[:2])
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 1em 2em; color: #222; }}
p {{ max-width: 70em; line-height: 1.4; font-size: 0.9em; }}
.vega-bind {{ position: sticky; top: 0; font-weight: bold; }}
.vega-bind input {{ width: 30em; }}
</style>
<script>{script}</script>
</head>
<body>
<h1>{title}</h1>
{explanation}
<div id="views"></div>
{legend}
<script>
const spec = {spec};
vegaEmbed("#views", spec, {{actions: false, renderer: "svg"}}).then(
  found => {{ window.view = found.view; }});
</script>
</body>
</html>
"""


def write_page(found: Comparison, path: Path) -> Path:
    """Write the page; returns its path."""
    write_text(path, page(found))
    return path


def page(found: Comparison) -> str:
    """The page of a comparison: tables and charts are linked, and all data is inside."""
    metric = found.table.metrics[0].name
    spec = json.dumps(page_spec(page_data(found), metric), allow_nan=False)
    below = [legend(found.table, found.table.metrics), *notes(found.table)]
    return PAGE.format(
        title=html.escape(found.title),
        script=vl_convert.javascript_bundle(vl_version=VEGA_LITE),  # type: ignore[call-arg]
        explanation=_paragraphs(sentences(found.explanation)),
        legend=_paragraphs(below),
        spec=_inside_script(spec),
    )


def _inside_script(text: str) -> str:
    """Nothing in it ends the element."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _paragraphs(lines: list[str]) -> str:
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)
