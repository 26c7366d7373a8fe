"""The report of a run, in Markdown. All numbers in it are the run's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.results import Run
from bench.tables import LEGEND, Sheet, sheets

NOTES = Path(__file__).with_name("NOTES.md")


def markdown(run: Run, plots: Mapping[str, str] | None = None, notes: str = "") -> str:
    """Write the report.

    Parameters
    ----------
    run : Run
        What was measured.
    plots : mapping of str to str, optional
        Title and address of each plot.
    notes : str, optional
        Markdown to include as it stands.
    """
    parts = ["# Results", "Written by the benchmark, see [README.md](README.md)."]
    if run.quick:
        parts.append("**A trial run on small arrays: its times mean nothing.**")
    parts.append(f"```\n{run.command}\n```")
    parts += ["## Machine", _items(run.machine)]
    parts += ["## Reading the tables", _items(LEGEND)]
    if run.peers or run.skipped:
        parts += ["## Peers", _items({**run.peers, **run.skipped})]
    # What matters most comes first here, and last on a terminal.
    for sheet in reversed(sheets(run)):
        parts += [f"## {sheet.title}", _table(sheet)]
        if sheet.title == "Bounds" and notes:
            parts.append(notes.strip())
    if plots:
        parts.append("## Plots")
        parts += [f"![{title}]({address})" for title, address in plots.items()]
    return "\n\n".join(parts) + "\n"


def write(run: Run, path: Path, plots: Mapping[str, Path]) -> None:
    """Write the report to a file, with links to plots, and the notes in ``NOTES.md``."""
    addresses = {
        title: Path(os.path.relpath(plot, path.parent)).as_posix() for title, plot in plots.items()
    }
    notes = NOTES.read_text("utf-8") if NOTES.exists() else ""
    path.write_text(markdown(run, addresses, notes), encoding="utf-8")


def _items(entries: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {_escaped(text)}" for name, text in entries.items())


def _table(sheet: Sheet) -> str:
    numbers = ("problem", "bound", "value", "of", "peer", "reason", "first of them", "shapes")
    rules = ["---" if name in (*numbers, "bounds", "limit") else "--:" for name in sheet.columns]
    rows: Sequence[Sequence[str]] = [sheet.columns, rules, *sheet.rows]
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def _escaped(text: str) -> str:
    """Keep Markdown from reading more into a text."""
    for special in "|<*":
        text = text.replace(special, f"\\{special}")
    return text
