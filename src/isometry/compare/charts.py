"""The views against depth as W&B's custom charts: the same marks as on the page, on the table that
runs log (`training.views.wandb_table`).
"""

from __future__ import annotations

import json
import re
from typing import Any

import altair as alt

from isometry.compare.views import heatmap, profile_lines

FIELDS = ("step", "layer", "value", "status", "name")
"""Columns of the table, and `name`, the run's."""
TABLE = "signals/backprop_norm"
CHARTS = {
    "isometry-heatmap": "log10 backprop_norm over layer and step",
    "isometry-profile": "log10 backprop_norm against depth",
}
"""Name of the preset to what it shows."""


def chart_spec(name: str) -> dict[str, Any]:
    """Vega-Lite of a preset; a field stands there as W&B wants it, `${field:layer}`."""
    base = alt.Chart(alt.NamedData("wandb"))
    if name == "isometry-heatmap":
        chart = heatmap(base, "step", None, None).facet("name:N", columns=4)
    else:
        colour = alt.Color("step:Q", scale=alt.Scale(scheme="viridis"))
        depth = alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1))
        chart = profile_lines(base, depth, colour, "step:Q").facet("name:N", columns=4)
    return json.loads(_with_fields(json.dumps(chart.to_dict(validate=False))))  # type: ignore[no-any-return]


def _with_fields(text: str) -> str:
    names = "|".join(FIELDS)
    text = re.sub(rf'"field": "({names})"', r'"field": "${field:\1}"', text)
    return re.sub(rf"datum\.({names})\b", r"datum['${field:\1}']", text)


def chart_fields() -> dict[str, str]:
    """Which column is which field."""
    return {name: name for name in FIELDS}
