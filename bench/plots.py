"""Two plots of a run: times a copy for each shape, and speed against each peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from bench.bounds import FASTNORM, is_array, mean_speed, traffic_bound, yardstick
from bench.results import Run, in_words

MARKERS = "vs^<>PX*"


def draw(run: Run, folder: Path) -> dict[str, Path]:
    """Draw the plots that the run has points for.

    Parameters
    ----------
    run : Run
        What was measured.
    folder : Path
        Where to store the plots; made if it is not there.

    Returns
    -------
    dict of str to Path
        Title and file of each plot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = {}
    for title, name, figure in (
        ("Times a copy", "copies.svg", _copies(run)),
        ("Speed against each peer", "speed.svg", _speed(run)),
    ):
        if figure is None:
            continue
        path = folder / name
        # The same file from the same run, so that changes of it are changes of times.
        with mpl.rc_context({"svg.hashsalt": "fastnorm", "svg.fonttype": "none"}):
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plots[title] = path
    return plots


def _copies(run: Run) -> Figure | None:
    """Plot a row for each array, with a point for everyone's time as a multiple of a copy."""
    arrays = [found for found in run.measured if is_array(found.problem)]
    if not arrays:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.17 * len(arrays)))
    axes: Axes = figure.subplots()
    rows = range(len(arrays))
    found = [array.timings[run.most_threads] for array in arrays]
    moves = [
        yardstick(array.problem, timings, run.caches)
        for array, timings in zip(arrays, found, strict=True)
    ]
    for index, name in enumerate([*run.peers, FASTNORM]):
        points = [
            (timings[name].best / move.best, row)
            for row, timings, move in zip(rows, found, moves, strict=True)
            if name in timings
        ]
        style: dict[str, Any] = {"alpha": 0.6, "marker": MARKERS[index % len(MARKERS)]}
        if name == FASTNORM:
            style = {"color": "black", "marker": "D", "zorder": 3.0}
        axes.scatter(
            [copies for copies, _ in points],
            [row for _, row in points],
            s=14,
            label=name,
            linewidths=0,
            **style,
        )
    limits = [traffic_bound(array.problem, run.most_threads, run.caches) for array in arrays]
    axes.plot(
        [limit[1] for limit in limits if limit],
        [row for row, limit in zip(rows, limits, strict=True) if limit],
        "|",
        color="red",
        label="limit",
    )
    axes.axvline(1.0, color="grey", linewidth=0.8)
    _logarithmic(axes)
    axes.set_ylim(len(arrays) - 0.5, -0.5)
    axes.set_yticks(rows, [str(array.problem) for array in arrays], fontsize=6)
    axes.set_xlabel(
        "best time as a multiple of a copy (of a backward, of a pass with the same reads), "
        f"{in_words(run.most_threads)}"
    )
    axes.grid(axis="both", linewidth=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _speed(run: Run) -> Figure | None:
    """Plot a row for each peer, with a point for each shape and a line at the mean.

    Backwards have rows of their own.
    """
    speeds = {
        name + ", backward" * backward: [s for p, s in found.items() if p.backward == backward]
        for backward in (False, True)
        for name, found in ((name, run.speeds(name)) for name in run.peers)
    }
    speeds = {name: values for name, values in speeds.items() if values}
    if not speeds:
        return None
    figure = Figure(figsize=(8, 1.5 + 0.5 * len(speeds)))
    axes: Axes = figure.subplots()
    for row, values in enumerate(speeds.values()):
        # Spread, in an order that does not change, so that points do not hide each other.
        heights = [row + 0.5 * ((7 * index) % 16 / 16 - 0.5) for index in range(len(values))]
        axes.scatter(values, heights, s=8, alpha=0.6, linewidths=0)
        mean = mean_speed(values)
        axes.plot([mean, mean], [row - 0.35, row + 0.35], color="black")
        axes.annotate(f"{mean:.1f}", (mean, row - 0.37), ha="center", va="bottom", fontsize=8)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    _logarithmic(axes)
    axes.set_ylim(len(speeds) - 0.5, -0.7)
    axes.set_yticks(range(len(speeds)), list(speeds))
    axes.set_xlabel(
        f"times faster than the peer, each shape and the geometric mean, "
        f"{in_words(run.most_threads)}"
    )
    axes.grid(axis="x", linewidth=0.3)
    return figure


def _logarithmic(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with plain numbers on it."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
