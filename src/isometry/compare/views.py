"""The views of the page, in Altair; two of them are also W&B's custom charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from isometry.compare.page_data import PageData, as_csv
from isometry.plots.logarithms import FINITE, NOT_FINITE, ZERO
from isometry.plots.style import COLOURS

Layers = alt.LayerChart | alt.FacetChart
"""What `alt.layer(...)` is to a type checker."""
LINE = 16
"""Pixels of a line of the table."""
FEW_LINES = 24
"""A table of more lines stands beside the views, not above them, and has fewer columns."""
CHARACTER = 6.4
"""Pixels of a character of it."""
HEATMAPS = 12
"""Configurations whose heatmaps are shown side by side."""
WIDE, HIGH = 330, 230
RED = "#D00000"
BRUSH = "brushed"
PICKED = "picked"
MOMENT = "moment"


def page_spec(data: PageData, metric: str) -> dict[str, Any]:
    """All views as one Vega-Lite specification, linked: lines of the table are brushed, runs
    picked, and the others show what is left of them.

    Args:
        data: the tables.
        metric: name of the judged one.
    """
    brush = alt.selection_interval(name=BRUSH, encodings=["y"])
    picked = alt.selection_point(name=PICKED, fields=["row"], toggle="event.shiftKey")
    colour = _colours(len(data.rows))
    chosen = brush & picked
    top = alt.hconcat(
        _parallel(data, colour, chosen).add_params(picked), *_scatters(data, metric, colour, chosen)
    )
    profiles = _data(data.profiles)
    middle = alt.hconcat(
        _profile(profiles, data.steps, data.profiles["layer"], colour, chosen),
        *_curves(data, colour, chosen),
    )
    bottom = alt.hconcat(*_layers(data, colour, chosen))
    views = (top, middle, bottom, _heatmaps(profiles, data, chosen))
    right = alt.vconcat(*views).resolve_scale(color="independent")
    table = _table(data, colour, brush)
    beside = len(data.rows) > FEW_LINES
    chart = alt.hconcat(table, right) if beside else alt.vconcat(table, right)
    # colours of heatmaps are numbers, all others configurations
    spec = (
        chart.resolve_scale(color="independent")
        .configure_view(stroke="#ddd")
        .to_dict(validate=False)
    )
    most = max(len(data.steps) - 1, 0)
    slider = {"input": "range", "min": 0, "max": most, "step": 1, "name": "recorded step "}
    # Altair would hand a parameter of the whole down to each view
    spec["params"].append(
        {"name": MOMENT, "value": 0, "bind": {**slider, "name": "recorded step "}}
    )
    return spec


def _data(frame: Any, **types: str) -> alt.InlineData:
    """A table as csv, its columns numbers unless said otherwise."""
    parse = {name: types.get(name, "number") for name in frame}
    kinds = alt.CsvDataFormat(type="csv", parse=alt.Parse(**parse))
    return alt.InlineData(values=as_csv(frame), format=kinds)


def _colours(count: int) -> alt.Color:
    """A colour a configuration: those that everybody can tell apart while they last."""
    if count > len(COLOURS):
        scale = alt.Scale(scheme="turbo", domain=[0, count - 1])
        return alt.Color("row:Q", scale=scale, legend=None)
    scale = alt.Scale(domain=list(range(count)), range=list(COLOURS[:count]))
    return alt.Color("row:N", scale=scale, legend=None)


# ---- table ---------------------------------------------------------------------------------------


def _table(data: PageData, colour: alt.Color, brush: alt.Parameter) -> Layers:
    """The configurations, a line each; brushed by dragging over lines."""
    texts = {str(name): "string" for name in data.rows if name != "row"}
    base = alt.Chart(_data(data.rows, **texts)).encode(alt.Y("row:O", axis=None))
    headings = data.headings if len(data.rows) <= FEW_LINES else data.headings[: data.first + 2]
    widths = [
        max(map(len, [heading, *data.rows[f"c{i}"]])) * CHARACTER + 14
        for i, heading in enumerate(headings)
    ]
    places = [24 + sum(widths[:i]) for i in range(len(widths))]
    background = base.mark_rect(color="#f2f2f2").encode(
        opacity=alt.condition(brush, alt.value(1), alt.value(0)), tooltip="name:N"
    )
    swatch = base.mark_rect(width=10, height=10, align="left").encode(colour, x=alt.value(8))
    layers = [background.add_params(brush), swatch]
    for i, (heading, place) in enumerate(zip(headings, places, strict=True)):
        cell = base.mark_text(align="left", fontSize=11)
        layers.append(cell.encode(text=f"c{i}:N", x=alt.value(place)))
        head = alt.Chart(alt.InlineData(values=[{"t": heading}]))
        head = head.mark_text(align="left", fontWeight="bold", fontSize=11)
        layers.append(head.encode(text="t:N", x=alt.value(place), y=alt.value(-8)))
    words = "drag over lines to choose; click beside to forget"
    title = alt.Title(words, anchor="start", fontSize=11, offset=18)
    size = {"width": sum(widths) + 30, "height": LINE * len(data.rows)}
    return alt.layer(*layers, title=title).properties(**size)


# ---- parallel coordinates and scatters -----------------------------------------------------------


def _parallel(data: PageData, colour: alt.Color, chosen: Any) -> Layers:
    """A line a run through all factors and metrics; clicked to pick its configuration."""
    texts = {"axis": "string", "shown": "string"}
    axes = alt.X("axis:N", sort=None, title=None, axis=alt.Axis(labelAngle=-25, grid=True))
    base = alt.Chart(_data(data.parallel, **texts)).encode(
        axes, alt.Y("height:Q", axis=None), tooltip=["axis:N", "shown:N"], detail="run:N"
    )
    grey = base.mark_line(color="#ddd", strokeWidth=1)
    lines = base.mark_line(strokeWidth=1.6, opacity=0.8).encode(colour).transform_filter(chosen)
    points = base.mark_circle(size=34).encode(colour)
    size = {"width": max(WIDE, 70 * data.parallel["axis"].nunique()), "height": HIGH}
    return alt.layer(grey, lines, points, title="runs; click to pick, shift for more").properties(
        **size
    )


def _scatters(data: PageData, metric: str, colour: alt.Color, chosen: Any) -> list[alt.Chart]:
    """The result against what was known before the first step."""
    charts = []
    for index, name in enumerate(data.known[:2]):
        words = f"|log {name}|" if name.startswith("gradient") else name
        base = alt.Chart(_data(data.runs)).encode(
            alt.X(f"before_{index}:Q", title=words),
            alt.Y("y:Q", title=metric, scale=alt.Scale(zero=False)),
            tooltip=["row:Q", "seed:Q", "y:Q", f"before_{index}:Q"],
        )
        points = base.mark_circle(size=50).encode(
            colour, opacity=alt.condition(chosen, alt.value(0.9), alt.value(0.08))
        )
        title = "known before the first step" if index == 0 else ""
        charts.append(points.properties(width=HIGH, height=HIGH, title=title))
    return charts


# ---- against depth -------------------------------------------------------------------------------


def profile_lines(base: alt.Chart, depth: alt.X, colour: Any, detail: str) -> Layers:
    """log10 of backprop_norm against the layer, one line a run; zeros below, what is not finite
    above.

    Args:
        base: data with `layer`, `value` and `status`.
        depth: the axis of `layer`.
        colour: of the lines.
        detail: the field that tells lines apart.
    """
    value = alt.Y("value:Q", title="log10 backprop_norm", scale=alt.Scale(zero=False))
    lines = base.mark_line(opacity=0.75, strokeWidth=1.3)
    finite = lines.encode(depth, value, colour, alt.Detail(detail))
    layers = [finite.transform_filter(f"datum.status == {FINITE}")]
    for mark, shape, place in ((ZERO, "triangle-down", HIGH - 6), (NOT_FINITE, "cross", 6)):
        points = base.mark_point(shape=shape, size=40, filled=True)
        points = points.encode(depth, colour, y=alt.value(place))
        layers.append(points.transform_filter(f"datum.status == {mark}"))
    return alt.layer(*layers)


def _profile(
    profiles: alt.InlineData, moments: list[int], layers: Any, colour: alt.Color, chosen: Any
) -> Layers:
    now = f"datum.moment == {MOMENT}"
    base = alt.Chart(profiles).transform_filter(now).transform_filter(chosen)
    words = "gradient against depth (slider below); triangle: zero, cross: not finite"
    steps = ", ".join(f"'{step}'" for step in moments) or "''"
    title = alt.Title(alt.ExprRef(f"'step ' + [{steps}][{MOMENT}]"), subtitle=words)
    return profile_lines(base, _axis_of(layers, "layer"), colour, "run:N").properties(
        width=WIDE, height=HIGH, title=title
    )


def heatmap(base: alt.Chart, x: str, low: float | None, high: float | None) -> Layers:
    """log10 of backprop_norm over layer (down) and step (across): red is not finite, white zero.

    Args:
        base: data with `layer`, `value`, `status` and x.
        x: the field of the recorded steps.
        low, high: of the colour scale; None: those of the data.
    """
    across = alt.X(f"{x}:O", title="step")
    down = alt.Y("layer:O", title="layer", sort="ascending", axis=alt.Axis(labelOverlap=True))
    domain = alt.Undefined if low is None or high is None else [low, high]
    scale = alt.Scale(scheme="viridis", domain=domain)
    colour = alt.Color("value:Q", scale=scale, title="log10 backprop_norm")
    finite = base.mark_rect().encode(across, down, colour)
    lost = base.mark_rect(color=RED).encode(across, down)
    return alt.layer(
        lost.transform_filter(f"datum.status == {NOT_FINITE}"),
        finite.transform_filter(f"datum.status == {FINITE}"),
    )


def _heatmaps(profiles: alt.InlineData, data: PageData, chosen: Any) -> alt.FacetChart:
    """Side by side on one colour scale, the mean over seeds, of the first chosen ones."""
    low, high = data.profiles["value"].min(), data.profiles["value"].max()
    known = (None, None) if np.isnan(low) else (float(low), float(high))
    cells = heatmap(alt.Chart(), "step", *known)
    pairs = zip(data.rows["row"], data.rows["name"], strict=True)
    names = alt.InlineData(values=[{"row": int(row), "name": name} for row, name in pairs])
    looked_up = alt.LookupData(data=names, key="row", fields=["name"])
    order = alt.EncodingSortField("row", op="min")
    panels = alt.Facet("name:N", title=None, sort=order)
    facets = (
        cells.properties(width=150, height=130)
        .facet(panels, columns=5, data=profiles)
        .transform_filter(chosen)
        .transform_window(place="dense_rank()", sort=[alt.SortField("row")])
        .transform_filter(f"datum.place <= {HEATMAPS}")
        .transform_aggregate(
            value="mean(value)", status="max(status)", groupby=["row", "step", "layer"]
        )
        .transform_lookup("row", from_=looked_up)
    )
    words = f"layer x step, the first {HEATMAPS} of what is chosen; red: not finite, white: zero"
    return facets.properties(title=words)


def _layers(data: PageData, colour: alt.Color, chosen: Any) -> list[Layers]:
    titles = {"saturation": "share saturated, step 0", "displacement": "log10 displacement, end"}
    there = [what for what in titles if what in set(data.layers.get("what", ()))]
    depth = _axis_of(data.layers["layer"], "layer")
    return [
        _banded(data.layers[data.layers["what"] == what], depth, titles[what], colour, chosen)
        for what in there
    ]


def _axis_of(values: Sequence[float] | Any, field: str) -> alt.X:
    """An axis over all values, whatever is chosen of them: Vega-Lite gives an empty layer of marks
    an infinite one.
    """
    known = [float(value) for value in values] or [0.0]
    scale = alt.Scale(domain=[min(known), max(known)], nice=False)
    title = "optimizer step" if field == "step" else field
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickMinStep=1))


# ---- against steps -------------------------------------------------------------------------------


def _curves(data: PageData, colour: alt.Color, chosen: Any) -> list[Layers]:
    """Learning curves, seeds as a band; where runs diverged, and where the alarm went off."""
    charts: list[Layers] = []
    there: Sequence[str] = list(dict.fromkeys(data.curves.get("what", ())))
    for what in there:
        rows = data.curves[data.curves["what"] == what]
        step = _axis_of([0, *rows["step"], *data.events["step"]], "step")
        lines = _banded(rows, step, what, colour, chosen)
        if data.events.empty:
            charts.append(lines)
            continue
        events = alt.Chart(_data(data.events, event="string")).mark_rule(strokeWidth=1.5)
        kinds = alt.Scale(domain=sorted(set(data.events["event"])))
        below = alt.Legend(title=None, orient="bottom")
        dash = alt.StrokeDash("event:N", scale=kinds, legend=below)
        rules = events.encode(step, colour, dash, tooltip=["event:N", "step:Q"])
        charts.append(alt.layer(lines, rules.transform_filter(chosen)))
    return charts


def _banded(frame: Any, x: alt.X, title: str, colour: alt.Color, chosen: Any) -> Layers:
    value = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart(_data(frame.drop(columns="what"))).transform_filter(chosen)
    band = base.mark_area(opacity=0.15).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colour)
    line = base.mark_line(strokeWidth=1.6).encode(x, value, colour)
    return alt.layer(band, line).properties(width=WIDE, height=HIGH)
