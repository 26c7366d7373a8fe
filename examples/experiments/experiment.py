"""What the experiments have in common: the command line, tables, and their part of the docs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

Array = npt.NDArray[Any]
Result = TypeVar("Result")

DOCS = Path(__file__).parents[2] / "docs"

# One colour for each normalisation, in all plots.
COLOURS = {
    "none": "tab:gray",
    "batch": "tab:blue",
    "layer": "tab:orange",
    "group": "tab:green",
    "instance": "tab:red",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table, with the first column to the left and all others to the right."""
    lines = [list(head), ["---"] + ["--:"] * (len(head) - 1), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        line[0] = line[0].ljust(widths[0])
        line[1:] = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Any, digits: int = 1) -> str:
    """Format the mean of several runs, and the least and the greatest of them."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return "diverged"
    low, high = (f"{value:.{digits}f}" for value in (values.min(), values.max()))
    return f"{values.mean():.{digits}f} ({low} to {high})"


def save(figure: Figure, path: Path) -> None:
    """Store a plot; the same file from the same numbers."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context({"svg.hashsalt": "fastnorm", "svg.fonttype": "none"}):
        figure.savefig(path, bbox_inches="tight", metadata=metadata, dpi=80)


def insert(page: str, name: str, text: str) -> str:
    """Replace what stands between the two marks of an experiment in a Markdown page."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page has no place for {name}; takes one {begin.strip()} and {end}")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}{text.strip()}\n{end}{after}"


def document(name: str, text: str, figure: Figure, suffix: str, docs: Path = DOCS) -> None:
    """Put tables and picture of an experiment into ``docs``."""
    page = docs / "experiments.md"
    picture = docs / "experiments" / (name + suffix)
    versions = ", ".join(
        f"{title} {version(package)}"
        for title, package in (
            ("fastnorm", "fastnorm-cpu"),
            ("NumPy", "numpy"),
            ("scikit-learn", "scikit-learn"),
        )
    )
    block = (
        f"![{name}](experiments/{picture.name})\n\n{text}\n\n"
        f"(What `examples/experiments/{name}.py` printed, with {versions}.)"
    )
    new = insert(page.read_text("utf-8"), name, block)
    picture.parent.mkdir(exist_ok=True)
    save(figure, picture)
    page.write_text(new, "utf-8")


def main(
    name: str,
    run: Callable[[], Result],
    tables: Callable[[Result], str],
    draw: Callable[[Result], Figure],
    *,
    description: str,
    suffix: str = ".svg",
) -> None:
    """Run an experiment from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path(name + suffix),
        metavar="FILE",
        help="where to store the plot (default: %(default)s)",
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help="put tables and plot into the repository's docs/ instead",
    )
    arguments = parser.parse_args()
    start = time.perf_counter()
    result = run()
    text = tables(result)
    print(text)
    print(f"\n{time.perf_counter() - start:.0f} seconds")
    if arguments.docs:
        document(name, text, draw(result), suffix)
    else:
        save(draw(result), arguments.plot)
        print(f"plot: {arguments.plot}")
