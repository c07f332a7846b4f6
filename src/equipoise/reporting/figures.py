"""What plotly draws: one description a figure, without colours of the page's text, which follow light and dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import accumulate
from textwrap import wrap
from typing import Any

from equipoise.reporting.report import HeatMap, Losses, Report, Timeline

Figure = dict[str, Any]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's, told apart by all kinds of colour vision; lines differ in dashes and markers as well."""

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_LIMIT = "#7a7a7a"
_MOST_NAMED_CHANGES = 8
_MOST_CHANGES = 200
_LONGEST_NAME = 16
_BELOW_MAPS = 136
"""Pixels for an axis, its title, and the bar of colours under both, however high the map."""

_MOST_TICKS = 10
_LINE = 18
"""Letters of a line beside bars: on a phone half of the figure is left for these."""

_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_PERCENT = "%{y:.2f} %"


def draw(report: Report) -> dict[str, Figure]:
    """Return every figure by its key; those of parts that the report leaves out are not there."""
    figures = {"layers": _layers(report)}
    rank_top = _top([cell for found in report.maps if found.key != "experts" for row in found.values for cell in row], 1.0)
    for found in report.maps:
        top = rank_top if found.key != "experts" else _top([cell for row in found.values for cell in row], 0.995)
        figures[f"map-{found.key}"] = _map(found, report.balance.layer_ids, top)
    if report.timeline is not None:
        figures["timeline"] = _timeline(report.timeline)
    figures |= {f"losses-{number}": _losses(loss) for number, loss in enumerate(report.losses)}
    optional: Mapping[str, tuple[object, Callable[[Report], Figure]]] = {
        "redundancy": (report.redundancy, _redundancy),
        "moves": (report.moves, _moves),
    }
    return figures | {key: drawn(report) for key, (part, drawn) in optional.items() if part is not None}


def plain(text: str) -> str:
    """Return text as plotly shows it as it is: it takes a few tags, links among them, for markup.

    >>> plain("<b>code</b>")
    '&lt;b&gt;code&lt;/b&gt;'
    """
    return escape(text, quote=False)


def _line(name: str, number: int, x: Sequence[object], y: Sequence[float], **more: Any) -> dict[str, Any]:
    kind = number % len(COLOURS)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": list(x),
        "y": _percents(y),
        "line": {"color": COLOURS[kind], "dash": _DASHES[kind], "width": 2},
        "marker": {"symbol": _MARKERS[kind], "size": 5},
        "hovertemplate": _PERCENT,
        **more,
    }


def _percents(values: Sequence[float]) -> list[float | None]:
    return [None if value != value else round(100 * value, 4) for value in values]


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True, **more}


def _whole(span: float) -> dict[str, Any]:
    """Return what keeps an axis of numbers 0 to ``span`` from ticks between whole ones."""
    return {"nticks": int(max(1, min(_MOST_TICKS, span))), "tickformat": ",d"}


def _layers(report: Report) -> Figure:
    balance = report.balance
    names = [f"before: {balance.placements[0].name}", *(one.name for one in balance.placements[1:-1])]
    names.append(f"after: {balance.placements[-1].name}")
    ids = [str(number) for number in balance.layer_ids]
    lines = [_line(name, n, ids, one.by_layer) for n, (name, one) in enumerate(zip(names, balance.placements, strict=True))]
    limit = _line("proven limit", 0, ids, balance.bound_by_layer, mode="lines", line={"color": _LIMIT, "dash": "dot"})
    return {
        "data": [*lines, limit],
        "layout": {
            "height": 400,
            "hovermode": "x unified",
            "legend": _LEGEND,
            "xaxis": _axis("layer", type="category", nticks=20),
            "yaxis": _axis("balance, %", rangemode="tozero"),
        },
    }


def _top(cells: Sequence[float], part: float) -> float:
    """Return where colours end: what ``part`` of the cells stay within, and the mean at least."""
    ordered = sorted(cell for cell in cells if cell == cell)
    return max(1.0, ordered[int(part * (len(ordered) - 1))]) if ordered else 1.0


def _map(found: HeatMap, layer_ids: Sequence[int], top: float) -> Figure:
    rows = [str(layer_ids[row]) for row in found.first_rows]
    level = "the layer's mean" if found.key == "experts" else "the ideal time"
    last = found.first_columns[-1] + found.columns_each
    return {
        "data": [
            {
                "type": "heatmap",
                "z": [[None if cell != cell else cell for cell in row] for row in found.values],
                "hoverongaps": False,
                "x0": 0,
                "dx": found.columns_each,
                "y": rows,
                "zmin": 0,
                "zmax": round(top, 3),
                "colorscale": "Cividis",
                "colorbar": {
                    "orientation": "h",
                    "yref": "container",
                    "y": 0,
                    "yanchor": "bottom",
                    "ypad": 4,
                    "thickness": 12,
                    "title": {"text": f"times {level}", "side": "bottom"},
                },
                "hovertemplate": f"layer %{{y}}, {found.columns} %{{x}}: %{{z:.3f}} of {level}<extra></extra>",
            }
        ],
        "layout": {
            "height": min(680, 300 + 6 * len(rows)),
            "margin": {"b": _BELOW_MAPS},
            "xaxis": _axis(found.columns, **_whole(last)),
            "yaxis": _axis("layer", type="category", autorange="reversed", nticks=16),
        },
    }


def _timeline(timeline: Timeline) -> Figure:
    lines, moved = [], []
    for number, policy in enumerate(timeline.policies):
        windows = timeline.windows[: len(policy.balancedness)]
        name = f"{policy.name}, kept" if policy.is_fixed else policy.name
        lines.append(_line(name, number, windows, policy.balancedness, legendgroup=str(number)))
        if not policy.is_fixed:
            moved.append(
                {
                    **_line(name, number, windows, policy.moves, legendgroup=str(number)),
                    "y": [round(count, 2) for count in policy.moves],
                    "yaxis": "y2",
                    "showlegend": False,
                    "hovertemplate": "%{y:,.0f} moves",
                }
            )
    shapes, names = _marks(timeline)
    return {
        "data": [*lines, *moved],
        "layout": {
            "height": 560,
            "hovermode": "x unified",
            "legend": _LEGEND,
            "xaxis": _axis(
                "window", anchor="y2", **_whole(timeline.windows[-1] - timeline.windows[0] if timeline.windows else 1)
            ),
            "yaxis": _axis("balance, %", domain=[0.4, 1]),
            "yaxis2": _axis("moves", domain=[0, 0.28], rangemode="tozero"),
            "shapes": shapes,
            "annotations": names,
        },
    }


def _marks(timeline: Timeline) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return lines where domains change, and their names where there is room for them."""
    changes = [change for change in timeline.changes if change.window > 0][:_MOST_CHANGES]
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": _LIMIT, "width": 1, "dash": "dot"}}
    shapes = [{**line, "x0": change.window - 0.5, "x1": change.window - 0.5} for change in changes]
    if len(changes) > _MOST_NAMED_CHANGES:
        return shapes, []
    begin = timeline.windows[0] - 0.5 if timeline.windows else 0.5
    named = [(max(change.window - 0.5, begin), change.domain) for change in timeline.changes]
    note = {"yref": "paper", "y": 0.34, "yanchor": "middle", "xanchor": "left", "showarrow": False, "font": {"size": 11}}
    return shapes, [{**note, "x": x, "text": plain(domain[:_LONGEST_NAME])} for x, domain in named]


def _losses(losses: Losses) -> Figure:
    total = losses.total or 1.0
    terms = ["<br>".join(wrap(term.meaning, _LINE)) for term in losses.terms]
    steps = [round(100 * term.tokens / total, 4) for term in losses.terms]
    highest = max(accumulate(steps))
    return {
        "data": [
            {
                "type": "waterfall",
                "orientation": "h",
                "measure": ["absolute", *["relative"] * (len(terms) - 1), "total"],
                "y": [*terms, "met"],
                "x": [*steps, 100.0],
                "text": [f"{steps[0]:.2f}", *(f"{step:+.2f}" for step in steps[1:]), "100.00"],
                "textposition": "auto",
                "cliponaxis": False,
                "hovertemplate": "%{y}: %{text} %<extra></extra>",
                "increasing": {"marker": {"color": COLOURS[1]}},
                "decreasing": {"marker": {"color": COLOURS[2]}},
                "totals": {"marker": {"color": COLOURS[0]}},
                "connector": {"line": {"color": _LIMIT, "width": 1}},
            }
        ],
        "layout": {
            "height": 380,
            "showlegend": False,
            "xaxis": _axis("time of the slowest ranks, %", range=[0, round(1.15 * highest, 2)]),
            "yaxis": _axis("", autorange="reversed"),
        },
    }


def _redundancy(report: Report) -> Figure:
    assert report.redundancy is not None
    choices = report.redundancy.choices
    spare = [choice.spare_per_rank for choice in choices]
    lines = [_line("in-sample", 0, spare, [choice.in_sample for choice in choices])]
    known = [choice for choice in choices if choice.next_window is not None]
    if known:
        errors = [100 * (choice.next_window_error or 0.0) for choice in known]
        balance = [choice.next_window for choice in known if choice.next_window is not None]
        bars = {"type": "data", "array": errors, "visible": True, "thickness": 1}
        lines.append(_line("next window", 1, [choice.spare_per_rank for choice in known], balance, error_y=bars))
    knee = next(choice for choice in choices if choice.is_knee)
    judged = knee.in_sample if knee.next_window is None else knee.next_window
    return {
        "data": [*lines, _knee([knee.spare_per_rank], [judged])],
        "layout": {
            "height": 380,
            "legend": _LEGEND,
            "xaxis": _axis("spare slots of a rank, in each layer"),
            "yaxis": _axis("balance, %"),
        },
    }


def _moves(report: Report) -> Figure:
    assert report.moves is not None
    points, knee = report.moves.points, report.moves.points[report.moves.knee]
    total = [point.moves for point in points]
    curves = [
        _line("all layers", 0, total, [point.balancedness for point in points], mode="lines"),
        _line("worst layer", 1, total, [point.worst_layer for point in points], mode="lines"),
    ]
    return {
        "data": [*curves, _knee([knee.moves], [knee.balancedness])],
        "layout": {
            "height": 380,
            "legend": _LEGEND,
            "xaxis": _axis("moves over all layers", **_whole(total[-1])),
            "yaxis": _axis("balance, in-sample, %"),
        },
    }


def _knee(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    marker = {"symbol": "star", "size": 14, "color": COLOURS[5], "line": {"color": _LIMIT, "width": 1}}
    return {"type": "scatter", "mode": "markers", "name": "knee", "x": list(x), "y": _percents(y), "marker": marker}
