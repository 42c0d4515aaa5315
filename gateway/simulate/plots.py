"""Pictures of a trial: waits, shares of tokens, standings over the day, and who waited how long. The only file that draws.

The same trial gives the same bytes: no date is written, and what SVG names by chance is named by a fixed salt.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from gateway.lanes.standing import Lane, Standing
from gateway.simulate.engine import Simulation
from gateway.simulate.offer import Offer
from gateway.simulate.traffic import DAY_US, HOUR_US
from gateway.simulate.waits import Waits

LANE_COLOURS = {Lane.FAST: "#1f77b4", Lane.SLOW: "#d9730d"}
STANDING_COLOURS = dict(zip(Standing, ("#2a9d58", "#a3d39c", "#f2c14e", "#e07b39", "#9b2226"), strict=True))
PLAN_COLOURS = {  # plan by plan: fast dark, slow light
    Lane.FAST: ("#1f5f99", "#2e7d32", "#6a3d9a", "#8c564b", "#7a7a1f", "#5f6b73"),
    Lane.SLOW: ("#9cc7ec", "#a5d6a7", "#cab2d6", "#d7bcb4", "#dede9e", "#c4cdd3"),
}
STYLE: Any = {
    "svg.hashsalt": "weir",
    "figure.figsize": (9.0, 4.8),
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "font.size": 10.0,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
}
WAIT_TICKS_S = (0, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600)


def draw(trial: Simulation, offers: Sequence[Offer], folder: Path, form: str) -> list[Path]:
    """Write every picture into a folder, as `form` (svg or png), and return their paths."""
    pictures: dict[str, Callable[[Axes, Simulation, Sequence[Offer]], None]] = {
        "waits": _waits,
        "tokens": _tokens,
        "standings": _standings,
        "fairness": _fairness,
    }
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, picture in pictures.items():
            figure = Figure(layout="constrained")
            FigureCanvasAgg(figure)
            picture(figure.subplots(), trial, offers)
            path = folder / f"{name}.{form}"
            nothing: dict[str, Any] = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
            figure.savefig(path, format=form, metadata=nothing)
            paths.append(path)
    return paths


def _waits(axes: Axes, trial: Simulation, _offers: Sequence[Offer]) -> None:
    """Draw each lane's median and worst hundredth, hour by hour."""
    for lane in Lane:
        by_hour = [_merged(cell.waits for (_plan, of), cell in hour.cells.items() if of is lane) for hour in trial.tally.hours]
        for percent, style in ((50, "-"), (99, "--")):
            seconds = [_seconds(found.percentile(percent)) for found in by_hour]
            axes.step(*_stairs(trial, seconds), where="post", color=LANE_COLOURS[lane], linestyle=style, label=f"{lane.value} lane, p{percent}")
    axes.set_title("Wait for a slot")
    axes.set_ylabel("wait (seconds)")
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.3)
    _wait_axis(axes.yaxis)
    axes.set_ylim(bottom=0)
    _time_axis(axes, trial)
    _legend(axes)


def _tokens(axes: Axes, trial: Simulation, offers: Sequence[Offer]) -> None:
    """Draw which part of each hour's tokens every plan had in each lane."""
    parts = [(plan, lane) for plan in range(len(offers)) for lane in Lane if trial.tally.total(plan, lane).served] or [(0, Lane.FAST)]
    totals = [sum(cell.input_tokens + cell.output_tokens for cell in hour.cells.values()) for hour in trial.tally.hours]
    rows = []
    for part in parts:
        cells = [hour.cells[part] for hour in trial.tally.hours]
        rows.append([100 * (cell.input_tokens + cell.output_tokens) / total if total else 0 for cell, total in zip(cells, totals, strict=True)])
    _stack(axes, trial, rows, [_colour(*part) for part in parts], [f"{offers[plan].name}, {lane.value}" for plan, lane in parts])
    axes.set_title("Share of tokens, by plan and lane")
    axes.set_ylabel("share of the hour's tokens (%)")
    axes.set_ylim(0, 100)
    _time_axis(axes, trial)
    _legend(axes)


def _standings(axes: Axes, trial: Simulation, _offers: Sequence[Offer]) -> None:
    """Draw how many tenants stood how, hour by hour."""
    spans_us = [_span_us(trial, index) for index in range(len(trial.tally.hours))]
    rows = [
        [sum(stood[standing] for stood in hour.stood_us) / span_us for hour, span_us in zip(trial.tally.hours, spans_us, strict=True)] for standing in Standing
    ]
    _stack(axes, trial, rows, list(STANDING_COLOURS.values()), [standing.value for standing in Standing])
    axes.set_title("How tenants stand with their credits")
    axes.set_ylabel("tenants (mean of the hour)")
    axes.set_ylim(0, len(trial.tenants))
    _time_axis(axes, trial)
    _legend(axes)


def _fairness(axes: Axes, trial: Simulation, offers: Sequence[Offer]) -> None:
    """Draw the distribution of waits of every plan in each lane: how many got their slot within which time."""
    for plan, offer in enumerate(offers):
        for lane in Lane:
            found = trial.tally.total(plan, lane).waits
            if not found.count:
                continue
            points = [(wait_us / 1e6, 100 * seen / found.count) for wait_us, seen in found.steps()]
            x, y = zip(*[(0, points[0][1] if points[0][0] == 0 else 0), *points], strict=True)
            label = f"{offer.name}, {lane.value} ({found.count:,})"
            width = 1.5 + 2 * min(2, len(offers) - 1 - plan)  # the first ones broad, so that one that lies under another is seen
            axes.step(x, y, where="post", color=_colour(plan, Lane.FAST), linestyle="-" if lane is Lane.FAST else "--", label=label, linewidth=width)
    axes.set_title("How long requests waited, by plan and lane")
    axes.set_xlabel("wait for a slot (seconds)")
    axes.set_ylabel("requests that waited no longer (%)")
    axes.set_xscale("symlog", linthresh=0.1, linscale=0.3)
    _wait_axis(axes.xaxis)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 101)
    _legend(axes, title="plan, lane (requests)")


def _stack(axes: Axes, trial: Simulation, rows: list[list[float]], colours: list[str], labels: list[str]) -> None:
    edges, _last = _stairs(trial, rows[0])
    axes.stackplot(edges, [[*row, row[-1]] for row in rows], step="post", colors=colours, labels=labels, linewidth=0)
    axes.grid(visible=False, axis="x")


def _stairs(trial: Simulation, values: list[float]) -> tuple[list[float], list[float]]:
    """Return the edges of the hours, in the axis's unit, and a value for each; the last one twice, so that its hour is drawn too."""
    unit_us = _unit_us(trial)
    edges = [(trial.tally.hour_us(index) - trial.start_us) / unit_us for index in range(len(values))]
    return [*edges, (trial.end_us - trial.start_us) / unit_us], [*values, values[-1]]


def _time_axis(axes: Axes, trial: Simulation) -> None:
    unit_us = _unit_us(trial)
    length = (trial.end_us - trial.start_us) / unit_us
    axes.set_xlim(0, length)
    axes.set_xlabel("days since the beginning" if unit_us == DAY_US else "hours since the beginning")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 3, 4, 6, 10], integer=length >= 4))


def _unit_us(trial: Simulation) -> int:
    return DAY_US if trial.end_us - trial.start_us > 3 * DAY_US else HOUR_US


def _wait_axis(axis: Any) -> None:
    axis.set_major_locator(FixedLocator(WAIT_TICKS_S))
    axis.set_minor_locator(FixedLocator([]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(axes: Axes, title: str | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _colour(plan: int, lane: Lane) -> str:
    colours = PLAN_COLOURS[lane]
    return colours[plan % len(colours)]


def _merged(parts: Iterable[Waits]) -> Waits:
    whole = Waits()
    for part in parts:
        whole.merge(part)
    return whole


def _seconds(wait_us: int | None) -> float:
    return math.nan if wait_us is None else wait_us / 1e6


def _span_us(trial: Simulation, index: int) -> int:
    return min(HOUR_US, trial.end_us - trial.tally.hour_us(index))
