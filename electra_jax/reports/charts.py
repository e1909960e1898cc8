"""Charts of the metrics of runs, drawn by Bokeh: hover, zoom, and one range of steps for all of them.

Colours of axes and backgrounds are CSS variables of page.css, which differ between light and dark.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from electra_jax.reports.curves import Curve, evenly, thin
from electra_jax.reports.panels import COUNTING, Panel
from electra_jax.reports.run_view import RunView

# The hues of Okabe and Ito, which people with any colour vision tell apart. Their contrast to either
# background in page.css is at least 3.4.
COLOURS = ("#2e86d1", "#e0661a", "#17976b", "#c75fa0", "#94820f", "#7a6fd6")
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")  # for runs beyond the colours
MARK_COLOURS = {
    "alarm": "#d1495b",
    "spike": "#e0661a",
    "skipped": "#c75fa0",
    "rolled_back": "#7a6fd6",
    "fell_back": "#17976b",
    "restart": "#808080",
}
OTHER_MARK = "#94820f"
SHARED_LEVEL = "#808080"  # of the loss of counting tokens
MAX_MARKS = 150  # of one kind, run and chart
HEIGHT = 240  # pixels
MANY_POINTS = 40  # evaluations that are drawn small
MAX_HOVER = 160  # letters of a message under the pointer; the table of events has all of it
TRAINING_ALPHA = 0.9  # with which the contrast of the colours is still at least 3
POWERS = (-6, 8)  # powers of ten beyond which values have exponents: a learning rate is 0.0005
CLIPPED = 4.0  # an outlier is further from the bulk of the values than this many times their range
ONE_VALUE = 1e-6  # with a relative range below this the bulk is one value, from which nothing is an outlier


class Mark(NamedTuple):
    """A vertical line at a step."""

    step: int
    kind: str  # of events, or "restart"
    text: str


class Chart(NamedTuple):
    """A chart and what it shows, in words."""

    title: str
    figure: Any  # a figure of Bokeh
    summary: str
    outside: str  # a remark on values that it does not show, "" for none


class ChartMaker:
    """Makes the charts of a page.

    Args:
      runs: name → run.
      shown: what makes text from files visible; for hover texts.
    """

    def __init__(self, runs: Mapping[str, RunView], shown: Callable[[str], str]):
        from bokeh.models import Range1d

        self._runs, self._shown = runs, shown
        self._marks = {name: marks_of(run) for name, run in runs.items()}
        stop = max([run.step for run in runs.values()] + [1])
        self._steps = Range1d(0, stop * 1.02, bounds=(0, stop * 1.1))

    def make(self, panel: Panel) -> Chart:
        """The chart of one panel, for all runs that have its metrics."""
        figure, summaries, curves = self._empty(), [], []
        for index, (name, run) in enumerate(self._runs.items()):
            style = _style(index)
            self._band(figure, run, panel, style)
            for metric, is_points in ((panel.training, False), (panel.points, True)):
                curve = run.curves.get(metric)
                if curve is not None:
                    curves.append(curve)
                    self._line(figure, name, metric, thin(curve), is_points, style)
                    summaries.append(_summary(self._shown(name), metric, curve))
            self._draw_marks(figure, name)
        is_loss = panel.training == "mlm_loss" or panel.points == "eval/mlm_loss"
        outside = _set_range(figure, curves, self._counting(figure) if is_loss else [])
        return Chart(panel.title, figure, "; ".join(summaries), outside)

    def _empty(self) -> Any:
        from bokeh.models import BasicTickFormatter, NumeralTickFormatter
        from bokeh.plotting import figure

        made = figure(
            height=HEIGHT,
            sizing_mode="stretch_width",
            x_range=self._steps,
            tools="xbox_zoom,box_zoom,xpan,reset,save",
            active_drag="xbox_zoom",
            toolbar_location="above",
            output_backend="canvas",
        )
        made.toolbar.logo = None
        made.xaxis.axis_label = "step"
        made.xaxis.formatter = NumeralTickFormatter(format="0,0.[0]a")
        made.xaxis.ticker.desired_num_ticks = 5
        made.yaxis.formatter = BasicTickFormatter(power_limit_low=POWERS[0], power_limit_high=POWERS[1])
        made.yaxis.ticker.desired_num_ticks = 5
        made.min_border_left = 58
        made.outline_line_color = None
        return made

    def _line(
        self, figure: Any, name: str, metric: str, curve: Curve, is_points: bool, style: dict[str, str]
    ) -> None:
        from bokeh.models import HoverTool

        source = {"step": curve.steps.astype(float), "value": curve.values}
        colour, dash = style["colour"], style["dash"]
        line = figure.line(
            "step",
            "value",
            source=source,
            color=colour,
            line_dash=dash,
            width=1.2 if is_points else 1.4,
            alpha=1.0 if is_points else TRAINING_ALPHA,
        )
        if is_points:
            figure.scatter("step", "value", source=line.data_source, color=colour, size=_point_size(curve))
        # What the pointer finds is wider than what is drawn.
        target = figure.scatter("step", "value", source=line.data_source, size=12, alpha=0)
        target.name = f"{self._shown(name)}: {'' if '/' in metric else 'training, '}{metric}"
        tooltips = [("", "$name"), ("step", "@step{0,0}"), ("value", "@value{0.[000000]}")]
        where = "above" if is_points else "below"
        figure.add_tools(
            HoverTool(renderers=[target], tooltips=tooltips, limit=1, attachment=where, visible=False)
        )

    def _band(self, figure: Any, run: RunView, panel: Panel, style: dict[str, str]) -> None:
        """The range of the recipe's own runs, for held-out metrics or else those of training."""
        bands = run.reference.curves if run.reference is not None else {}
        band = bands.get(panel.points) or bands.get(panel.training)
        if band is None or run.tokens_per_step is None:
            return
        values = [
            np.array([math.nan if value is None else value for value in side], float)
            for side in (band.low, band.high)
        ]
        steps = [tokens / run.tokens_per_step for tokens in band.tokens]  # runs may have other batches
        figure.varea(x=steps, y1=values[0], y2=values[1], color=style["colour"], alpha=0.16, level="underlay")

    def _counting(self, figure: Any) -> list[float]:
        """The loss of a model that only counts tokens: one level, or where it differs, as with other text,
        one of each run in its colour."""
        found = [
            (run.curves[COUNTING].last(), _style(index)["colour"])
            for index, run in enumerate(self._runs.values())
            if COUNTING in run.curves
        ]
        found = [(level, colour) for level, colour in found if level is not None]
        if len({level for level, _ in found}) == 1:
            found = [(found[0][0], SHARED_LEVEL)]
        for level, colour in found:
            figure.hspan(y=[level], color=colour, line_dash="dashed", width=1.2)
        return [level for level, _ in found]

    def _draw_marks(self, figure: Any, name: str) -> None:
        from bokeh.models import HoverTool

        marks = self._marks[name]
        for kind in dict.fromkeys(mark.kind for mark in marks):
            chosen = evenly([mark for mark in marks if mark.kind == kind], MAX_MARKS)
            source = {
                "x": [float(mark.step) for mark in chosen],
                "text": [
                    f"{self._shown(name)}, step {mark.step:,}: {self._shown(mark.text[:MAX_HOVER])}"
                    for mark in chosen
                ],
            }
            lines = figure.vspan(
                x="x",
                source=source,
                color=MARK_COLOURS.get(kind, OTHER_MARK),
                line_dash="dotted" if kind == "restart" else "solid",
                width=1.4,
                alpha=0.8,
            )
            figure.add_tools(HoverTool(renderers=[lines], tooltips=[("", "@text")], visible=False))


def _style(index: int) -> dict[str, str]:
    return {
        "colour": COLOURS[index % len(COLOURS)],
        "dash": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def _point_size(curve: Curve) -> int:
    return 5 if len(curve.steps) <= MANY_POINTS else 3


def mark_colours(runs: Mapping[str, RunView]) -> dict[str, str]:
    """Kind of the vertical lines of a page → their colour."""
    kinds = dict.fromkeys(mark.kind for run in runs.values() for mark in marks_of(run))
    return {kind: MARK_COLOURS.get(kind, OTHER_MARK) for kind in kinds}


def styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Run → the colour and the dashes of its curves."""
    return {name: _style(index) for index, name in enumerate(names)}


def marks_of(run: RunView) -> list[Mark]:
    """Events and restarts of a run, by step."""
    marks = [
        Mark(event["step"], str(event.get("kind")), f"{event.get('kind')}: {event.get('message')}")
        for event in run.events
    ]
    for session in run.sessions:
        step = session.get("start_step")
        if isinstance(step, int) and step > 0:
            marks.append(Mark(step, "restart", f"restart of {session.get('started')}"))
    return sorted((mark for mark in marks if mark.step <= 2**53), key=lambda mark: mark.step)


def _summary(name: str, metric: str, curve: Curve) -> str:
    finite = curve.values[np.isfinite(curve.values)]
    if not len(finite):
        return f"{name}, {metric}: no finite value"
    return (
        f"{name}, {metric}: from {finite[0]:.4g} to {finite[-1]:.4g} at step {curve.steps[-1]:,}, smallest "
        f"{finite.min():.4g}, largest {finite.max():.4g}"
    )


def _set_range(figure: Any, curves: Sequence[Curve], levels: Sequence[float]) -> str:
    """Show the bulk of the values and the newest of each curve: outliers, such as spikes, leave the chart.

    Returns a remark on what is outside, "" for nothing.
    """
    from bokeh.models import Range1d

    finite = [curve.values[np.isfinite(curve.values)] for curve in curves]
    values = np.concatenate([*finite, levels])
    # Of thinned curves, so that a few evaluations count beside many training rows.
    drawn = np.concatenate([*(thin(curve).values for curve in curves), levels])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 20:
        return ""
    with np.errstate(over="ignore", invalid="ignore"):
        low, lower, upper, high = np.quantile(drawn, [0.02, 0.1, 0.9, 0.98])
        if upper - lower <= ONE_VALUE * abs(upper):
            return ""
        newest = [one[-1] for one in finite if len(one)]
        low, high = min(low, *newest), max(high, *newest)
        margin = CLIPPED * max(high - low, 0.01 * abs(high))
        is_outside = (values > high + margin) | (values < low - margin)
    if not is_outside.any():
        return ""
    inside = values[~is_outside]
    pad = 0.05 * float(np.ptp(inside))
    figure.y_range = Range1d(float(inside.min()) - pad, float(inside.max()) + pad)
    return _outside(np.concatenate(finite), figure.y_range.start, figure.y_range.end)


def _outside(values: np.ndarray, start: float, end: float) -> str:
    """How many values are below and above the range of a chart, and between which bounds."""
    parts = []
    for place, found in (("above", values[values > end]), ("below", values[values < start])):
        if len(found):
            bounds = dict.fromkeys(f"{value:.4g}" for value in (found.min(), found.max()))
            parts.append(f"{len(found):,} {place} ({' to '.join(bounds)})")
    return f"Outside the chart, of {len(values):,} values: {', '.join(parts)}" if parts else ""
