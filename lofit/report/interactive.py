"""Interactive figures of the page: Vega-Lite specifications made with Altair from the numbers behind the figures.

Each is one small panel, so that a page of any width can put them side by side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from lofit.report.outputs import COSTS, HEADS, Output
from lofit.report.significance import leads
from lofit.report.style import LINES

Panel = dict[str, Any]
WIDTH = 260
"""Of a panel, in CSS pixels."""
MOST_HEADS = 30_000
"""On the map, of all rankings; of more, the first rankings are kept, those of the first fold and seed before others."""
_COLOURS = [line["color"] for line in LINES if line["color"] != "#000000"]  # which a dark page would hide


def panels(output: Output, results: Path) -> list[Panel]:
    """Return the specifications of a figure's panels; none if it has no interactive form."""
    make = _MAKERS.get(output.name) or _MAKERS.get(output.module)
    file = results / f"{output.id}.csv"
    if output.kind != "figure" or make is None or not file.is_file():
        return []
    frame = pd.read_csv(file)
    return list(map(specification, make(frame))) if len(frame) else []


def specification(chart: alt.LayerChart) -> Panel:
    """Return the Vega-Lite specification of a chart, with its numbers in it."""
    made: Panel = json.loads(chart.to_json(indent=None))
    return made


def javascript() -> str:
    """Return the JavaScript that draws specifications: Vega, Vega-Lite and Vega-Embed, without any network."""
    import vl_convert

    code: str = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # its default
    return code


def _dots(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    shown = frame.dropna(subset=["percent"])
    shown = shown.assign(leads=leads(shown))
    methods = list(dict.fromkeys(shown["method"]))
    for (model, task), panel in shown.groupby(["model", "task"], sort=False):
        told = ["method", "percent", "percent_low", "percent_high", "seeds", "p_best", "leads"]
        base = alt.Chart(
            panel[told],
            width=WIDTH,
            height=alt.Step(20),
            title=f"{task}, {model}",
            description=f"Scores of methods: {task}, {model}",
        )
        y = alt.Y("method:N", sort=methods, title=None)
        tooltip = ["method:N", *(alt.Tooltip(f"{name}:Q", format=".1f") for name in told[1:4]), "seeds:Q"]
        tooltip.append(alt.Tooltip("p_best:Q", format=".4f", title="p against the best"))
        points = base.mark_point(size=70, opacity=1).encode(
            x=alt.X("percent:Q", title=f"{panel['metric'].iloc[0]} (%)", scale=alt.Scale(zero=False)),
            y=y,
            tooltip=tooltip,
            stroke=alt.value(_COLOURS[0]),
            fill=alt.condition("datum.leads", alt.value(_COLOURS[0]), alt.value("white")),
        )
        yield base.mark_rule(color=_COLOURS[0]).encode(x="percent_low:Q", x2="percent_high:Q", y=y) + points


def _costs(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    known = frame[(frame["trained_params"] > 0) | (frame["seconds"] > 0)].dropna(subset=["value"])
    known = known.rename(columns={"arm": "name"})
    names = list(dict.fromkeys(known["name"]))
    for model, of_model in known.groupby("model", sort=False):
        for column, title in (("trained_params", "trained parameters"), ("seconds", "seconds to localize and fit")):
            panel = of_model[of_model[column] > 0].assign(x=of_model[column])
            yield _scatter(panel, names, title, "mean headline score (%)", str(model))


def _disturbance(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    moved = frame[frame["kl"] > 0].rename(columns={"method": "name", "kl": "x"})
    names = list(dict.fromkeys(moved["name"]))
    for (model, task, on, kind), panel in moved.groupby(["model", "task", "scored_on", "moved_on"], sort=False):
        x, y = f"KL to base on {kind} (nats/token)", f"{on} {panel['metric'].iloc[0]} (%)"
        yield _scatter(panel, names, x, y, f"{model}, fitted for {task}")


def _scatter(panel: pd.DataFrame, names: list[str], x_title: str, y_title: str, title: str) -> alt.LayerChart:
    """Return points with vertical intervals and their names, on a logarithmic axis.

    Args:
        panel: columns ``name``, ``x``, and as fractions ``value``, ``low`` and ``high``.
        names: all names of the figure, which have a colour each.
        x_title: title of the logarithmic axis.
        y_title: title of the other axis.
        title: title of the panel.
    """
    scores = ["value", "low", "high"]
    percent = panel[["name", "x"]].join(100 * panel[scores])
    description = f"{y_title} against {x_title}: {title}"
    base = alt.Chart(percent, width=WIDTH, height=220, title=title, description=description)
    scale, axis = alt.Scale(type="log", padding=20), alt.Axis(format="~s", tickCount=5)
    x, y = alt.X("x:Q", title=x_title, scale=scale, axis=axis), alt.Y("value:Q", title=y_title)
    colours = [_COLOURS[at % len(_COLOURS)] for at in range(len(names))]
    legend = alt.Legend(title=None, orient="bottom", columns=3)
    colour = alt.Color("name:N", legend=legend, scale=alt.Scale(domain=names, range=colours))
    tooltip = ["name:N", alt.Tooltip("x:Q", title=x_title, format=",.4~g")]
    tooltip += [alt.Tooltip(f"{column}:Q", format=".1f") for column in scores]
    bars = base.mark_rule().encode(x=x, y=alt.Y("low:Q", title=y_title), y2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
    return bars + points


def _curves(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    if not {"arm", "x", "value", "low", "high"} <= set(frame.columns) or frame["x"].isna().all():
        return  # an experiment of another kind
    for (model, task), panel in frame.dropna(subset=["value"]).groupby(["model", "task"], sort=False):
        shown = panel.assign(**{name: 100 * panel[name] for name in ("value", "low", "high")})
        base = alt.Chart(
            shown[["arm", "x", "value", "low", "high"]],
            width=WIDTH,
            height=220,
            title=f"{task}, {model}",
            description=f"Scores: {task}, {model}",
        )
        x = alt.X("x:Q", scale=alt.Scale(type="log"), title="share or number")
        colour = alt.Color("arm:N", scale=alt.Scale(range=_COLOURS), sort=None, legend=alt.Legend(orient="bottom"))
        tooltip = ["arm:N", "x:Q", *(alt.Tooltip(f"{name}:Q", format=".1f") for name in ("value", "low", "high"))]
        band = base.mark_area(opacity=0.15).encode(x=x, y=alt.Y("low:Q", title="score (%)"), y2="high:Q", color=colour)
        yield band + base.mark_line(point=True).encode(x=x, y="value:Q", color=colour, tooltip=tooltip)


def _heads(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    """Yield two maps to be set side by side, each with a menu of the rankings."""
    first = set(frame.drop_duplicates(["model", "task", "localizer"])["ranking"])
    frame = frame.sort_values("ranking", key=lambda ids: ~ids.isin(first), kind="stable")
    sizes = frame.groupby("ranking", sort=False).size().cumsum()
    frame = frame[frame["ranking"].isin(sizes.index[(sizes <= MOST_HEADS) | (sizes.index == sizes.index[0])])]
    told = ["model", "task", "localizer", "seed", "fold", "training_seed"]
    told = [name for name in told if frame[name].nunique() > 1] or ["task", "localizer"]
    rankings = []
    for _, ranking in frame.groupby("ranking", sort=False):
        cells = ranking.sort_values(["layer", "head"])
        rankings.append(
            {
                "map": ", ".join(str(cells[name].iloc[0]) for name in told),
                "width": int(cells["head"].max()) + 1,
                "score": [float(f"{score:.4g}") for score in cells["score"]],
                "rank": cells["rank"].tolist(),
                "selected": cells["selected"].astype(int).tolist(),
            }
        )
    names = [ranking["map"] for ranking in rankings]
    for side, start in (("left", names[0]), ("right", names[min(1, len(names) - 1)])):
        chosen = alt.param(f"map_{side}", value=start, bind=alt.binding_select(options=names, name="map "))
        title = "Scores of heads, by layer"
        base = (
            alt.Chart(alt.Data(values=rankings), width=WIDTH, height=WIDTH, description=f"{title}, {side}")
            .transform_filter(f"datum.map == map_{side}")
            .transform_flatten(["score", "rank", "selected"])
            .transform_window(at="row_number()")
            .transform_calculate(
                layer="floor((datum.at - 1) / datum.width)",
                head="(datum.at - 1) % datum.width",
                is_selected="datum.selected ? 'yes' : 'no'",
            )
        )
        x, y = alt.X("head:O"), alt.Y("layer:O", sort="descending")
        tooltip = [alt.Tooltip(f"{name}:Q") for name in ("layer", "head", "score", "rank")]
        tooltip.append(alt.Tooltip("is_selected:N", title="selected"))
        colour = alt.Color("score:Q", scale=alt.Scale(scheme="cividis"), legend=alt.Legend(orient="bottom"))
        rect = base.mark_rect().encode(x=x, y=y, color=colour, tooltip=tooltip)
        marks = base.transform_filter("datum.selected").mark_point(shape="square", color=_COLOURS[1], size=40)
        yield (rect + marks.encode(x=x, y=y, tooltip=tooltip)).add_params(chosen)


_MAKERS: dict[str, Callable[[pd.DataFrame], Iterator[alt.LayerChart]]] = {
    COSTS: _costs,
    HEADS: _heads,
    "main": _dots,
    "disturbance": _disturbance,
    "experiments": _curves,
}
"""By name of the figure, or else by the module that writes it."""
