"""Interactive figures of the page: Vega-Lite specifications made with Altair from the numbers behind the figures.

Each is one small panel, so that a page of any width can put them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from lofit.report.figures import level_names, pareto_front
from lofit.report.outputs import COSTS, HEADS, Output
from lofit.report.significance import leads
from lofit.report.style import LINES

Panel = dict[str, Any]
WIDTH = 260
"""Of a panel, in CSS pixels."""
MOST_HEADS = 30_000
"""On the map, of all rankings; of more, the first rankings are kept, those of the first fold and seed before others."""
_COLOURS = [line["color"] for line in LINES if line["color"] != "#000000"]  # which a dark page would hide
_GREY = "#808890"


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
    made: Panel = chart.to_dict()
    return made


def javascript() -> str:
    """Return the JavaScript that draws specifications: Vega, Vega-Lite and Vega-Embed, without any network."""
    import vl_convert

    code: str = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # its default
    return code


def _dots(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    shown = frame.dropna(subset=["percent"])
    shown = shown.assign(leads=leads(shown))
    methods, lost = list(dict.fromkeys(shown["method"])), frame[frame["percent"].isna()]
    for (model, task), panel in shown.groupby(["model", "task"], sort=False):
        absent = lost["method"][(lost["model"] == model) & (lost["task"] == task)]
        told = ["method", "percent", "percent_low", "percent_high", "seeds", "p_best", "leads"]
        base = alt.Chart(
            panel[told],
            width=WIDTH,
            height=alt.Step(20),
            title=_title(f"{task}, {model}", absent),
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


def _title(text: str, lost: Iterable[str]) -> alt.TitleParams:
    """A title, with the methods or arms that have no score below it."""
    names = ", ".join(dict.fromkeys(lost))
    return alt.TitleParams(text, subtitle=f"no score: {names}") if names else alt.TitleParams(text)


def _costs(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    known = frame.dropna(subset=["value"]).rename(columns={"arm": "name"})
    names = list(dict.fromkeys(known["name"][(known["trained_params"] > 0) | (known["seconds"] > 0)]))
    for model, of_model in known.groupby("model", sort=False):
        for column, title in (("trained_params", "trained parameters"), ("seconds", "seconds to localize and fit")):
            score, front = "mean headline score (%)", pareto_front(of_model, column)
            made = _scatter(of_model.assign(x=of_model[column]), names, title, score, str(model))
            if len(front) > 1:
                corners = pd.DataFrame({"x": front[column], "value": 100 * front["value"]})
                steps = alt.Chart(corners).mark_line(interpolate="step-after", color=_GREY, strokeWidth=1)
                made = steps.encode(x=alt.X("x:Q", title=title), y=alt.Y("value:Q", title=score)) + made
            yield made


def _disturbance(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    moved = frame.rename(columns={"method": "name", "kl": "x"})
    names = list(dict.fromkeys(moved["name"][moved["x"] > 0]))
    for (model, task, on, kind), panel in moved.groupby(["model", "task", "scored_on", "moved_on"], sort=False):
        x, y = f"KL to base on {kind} (nats/token)", f"{on} {panel['metric'].iloc[0]} (%)"
        yield _scatter(panel, names, x, y, f"{model}, fitted for {task}", number="~g")


def _scatter(
    panel: pd.DataFrame, names: list[str], x_title: str, y_title: str, title: str, number: str = "~s"
) -> alt.LayerChart:
    """Return points with vertical intervals, on a logarithmic axis; what is at 0 is a dashed line with its name.

    Args:
        panel: columns ``name``, ``x``, and as fractions ``value``, ``low`` and ``high``.
        names: all names of the figure, which have a colour each.
        x_title: title of the logarithmic axis.
        y_title: title of the other axis.
        title: title of the panel.
        number: how numbers on the logarithmic axis are written, as D3 has it.
    """
    scores = ["value", "low", "high"]
    percent = panel[["name", "x"]].join(100 * panel[scores])
    description = f"{y_title} against {x_title}: {title}"
    base = alt.Chart(percent[percent["x"] > 0], width=WIDTH, height=220, title=title, description=description)
    free = alt.Chart(percent[~(percent["x"] > 0)]).encode(y=alt.Y("value:Q", title=y_title))
    level = free.mark_rule(color=_GREY, strokeDash=[4, 3]).encode(tooltip=["name:N", "value:Q"])
    levels = percent[~(percent["x"] > 0)]
    apart = 0.08 * (percent["high"].max() - percent["low"].min())
    texts = pd.DataFrame(level_names(levels["name"], levels["value"], apart), columns=["value", "name"])
    named = alt.Chart(texts).mark_text(align="left", dx=3, dy=-5, fontSize=9, color=_GREY)
    named = named.encode(x=alt.value(0), y=alt.Y("value:Q", title=y_title), text="name:N")
    scale, axis = alt.Scale(type="log", padding=20), alt.Axis(format=number, tickCount=5)
    x, y = alt.X("x:Q", title=x_title, scale=scale, axis=axis), alt.Y("value:Q", title=y_title)
    colours = [_COLOURS[at % len(_COLOURS)] for at in range(len(names))]
    legend = alt.Legend(title=None, orient="bottom", columns=3)
    colour = alt.Color("name:N", legend=legend, scale=alt.Scale(domain=names, range=colours))
    tooltip = ["name:N", alt.Tooltip("x:Q", title=x_title, format=",.4~g")]
    tooltip += [alt.Tooltip(f"{column}:Q", format=".1f") for column in scores]
    bars = base.mark_rule().encode(x=x, y=alt.Y("low:Q", title=y_title), y2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
    return level + named + bars + points


def _curves(frame: pd.DataFrame) -> Iterator[alt.LayerChart]:
    if not {"arm", "x", "value", "low", "high", "axis"} <= set(frame.columns) or frame["x"].isna().all():
        return  # an experiment of another kind
    frame = frame.assign(x=frame["x"].where(~frame["axis"].str.endswith("(%)"), 100 * frame["x"]))
    arms = list(dict.fromkeys(frame["arm"]))
    for (model, task), panel in frame.groupby(["model", "task"], sort=False):
        known, lost = panel.dropna(subset=["value"]), panel[panel["value"].isna()]
        shown = known.assign(**{name: 100 * known[name] for name in ("value", "low", "high")})
        base = alt.Chart(
            shown[["arm", "x", "value", "low", "high"]],
            width=WIDTH,
            height=220,
            title=_title(f"{task}, {model}", [f"{line.arm} at {line.x:g}" for line in lost.itertuples()]),
            description=f"Scores: {task}, {model}",
        )
        axis, apart = alt.Axis(format="~g", labelAngle=0), alt.Scale(padding=0.5)
        x = alt.X("x:O", title=panel["axis"].iloc[0], axis=axis, scale=apart)
        colour = alt.Color(
            "arm:N",
            scale=alt.Scale(domain=arms, range=_COLOURS),
            legend=alt.Legend(title=None, orient="bottom", columns=3),
        )
        tooltip = ["arm:N", "x:Q", *(alt.Tooltip(f"{name}:Q", format=".1f") for name in ("value", "low", "high"))]
        # Side by side, as in the picture: intervals of arms on the same items are alike.
        place = {"x": x, "xOffset": alt.XOffset("arm:N", sort=arms), "color": colour}
        score = f"{panel['metric'].iloc[0]} (%)"
        bars = base.mark_rule().encode(y=alt.Y("low:Q", title=score), y2="high:Q", **place)
        yield bars + base.mark_line(point=True).encode(y=alt.Y("value:Q", title=score), tooltip=tooltip, **place)


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
                "selected": [end if isinstance(end, str) else "" for end in cells["selected"]],
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
                is_selected="datum.selected || 'no'",
            )
        )
        x, y = alt.X("head:O"), alt.Y("layer:O", sort="descending")
        tooltip = [alt.Tooltip(f"{name}:Q") for name in ("layer", "head", "score", "rank")]
        tooltip.append(alt.Tooltip("is_selected:N", title="selected"))
        colour = alt.Color("score:Q", scale=alt.Scale(scheme="cividis"), legend=alt.Legend(orient="bottom"))
        rect = base.mark_rect().encode(x=x, y=y, color=colour, tooltip=tooltip)
        marks = base.transform_filter("datum.selected").mark_point(color=_COLOURS[1], size=40)
        shape = alt.Shape(
            "selected:N", scale=alt.Scale(domain=["first", "last"], range=["square", "circle"]), legend=None
        )
        yield (rect + marks.encode(x=x, y=y, shape=shape, tooltip=tooltip)).add_params(chosen)


_MAKERS: dict[str, Callable[[pd.DataFrame], Iterator[alt.LayerChart]]] = {
    COSTS: _costs,
    HEADS: _heads,
    "main": _dots,
    "disturbance": _disturbance,
    "experiments": _curves,
}
"""By name of the figure, or else by the module that writes it."""
