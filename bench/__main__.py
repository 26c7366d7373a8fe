"""Command line of the benchmark: ``python -m bench``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastnorm

try:
    # What fastnorm's own command line draws with.
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from fastnorm.__main__ import console_for_tables, explained, with_progress
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"python -m bench needs {missing.name}, which is not installed.\n"
        'Install it with: python -m pip install ".[bench]"'
    ) from None

from bench import report
from bench.machine import Caches, describe, load_average, processors
from bench.measure import Session
from bench.peers import PEERS, keep_freed_memory, load
from bench.problems import OPERATIONS, Problem, lists, select
from bench.results import Measured, Run
from bench.tables import LEGEND, NOT_MET, Sheet, sheets

WIDTH = 260
"""Columns of the tables where there is no terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status: 0, whether bounds are met or not."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        problems = select(options.shapes, options.ops)
        threads = _available(options.threads)
        loaded = options.load and Run.from_json(options.load.read_text("utf-8"))
    except (OSError, ValueError) as refusal:
        parser.error(str(refusal))
    if options.list:
        _list(problems)
        return 0
    run = loaded or _measure(options, problems, threads, _command(parser, options))

    console = console_for_tables(WIDTH)
    for sheet in sheets(run):
        console.print(_table(sheet))
    console.print(explained({**LEGEND, **run.peers}))
    if run.quick:
        console.print("A trial run on small arrays: its times mean nothing.")
    _write(run, options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time fastnorm against copies and other libraries on the shapes of networks.",
        epilog="A shape may be a list (see --list), a problem, as 'layer_norm bert 4096x768 bf16', "
        "or a part of a listed problem's text.",
    )
    parser.add_argument(
        "--ops", nargs="+", default=[], metavar="OP", help=f"only these: {', '.join(OPERATIONS)}"
    )
    parser.add_argument("--shapes", nargs="+", default=[], metavar="SHAPE", help="default: all")
    parser.add_argument(
        "--peers",
        nargs="+",
        default=list(PEERS),
        choices=[*PEERS, "none"],
        metavar="PEER",
        help=f"default: all of {', '.join(PEERS)} that are installed; none: none",
    )
    parser.add_argument(
        "--threads",
        type=thread_counts,
        metavar="N[,N]",
        help="thread counts (default: as many as fastnorm uses); 1,2 compares them",
    )
    parser.add_argument(
        "--isa",
        nargs="+",
        default=[],
        choices=[*fastnorm.config()["isa_available"], "all"],
        metavar="ISA",
        help="instruction sets of fastnorm, the first of which is judged: "
        f"{', '.join(fastnorm.config()['isa_available'])}, all",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.3,
        metavar="S",
        help="time for each contender on each problem (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small arrays, no time: shows that all of it runs"
    )
    parser.add_argument("--list", action="store_true", help="print the problems and stop")
    files = parser.add_argument_group("files")
    files.add_argument("--json", type=Path, metavar="FILE", help="write all times, as they come")
    files.add_argument("--report", type=Path, metavar="FILE", help="write the tables as Markdown")
    files.add_argument("--plot", type=Path, metavar="DIR", help="draw two plots (matplotlib)")
    files.add_argument(
        "--load", type=Path, metavar="FILE", help="take an earlier --json instead of measuring"
    )
    return parser


def thread_counts(text: str) -> list[int]:
    """Read thread counts; the largest comes first."""
    counts = sorted({int(word) for word in text.split(",")}, reverse=True)
    if counts[-1] < 1:
        raise ValueError(text)
    return counts


def _command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Return the command line, without the names of files."""
    words = parser.prog.split()
    for name in ("ops", "shapes", "peers", "threads", "isa", "seconds", "quick"):
        value = getattr(options, name)
        if value == parser.get_default(name):
            continue
        words.append(f"--{name}")
        if name == "threads":
            words.append(",".join(map(str, value)))
        elif isinstance(value, list):
            words += value
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)


def _list(problems: Sequence[Problem]) -> None:
    """Print the problems by list; those that are in none last."""
    wanted = dict.fromkeys(problems)
    for name, listed in lists().items():
        chosen = [problem for problem in listed if problem in wanted]
        if chosen:
            print(f"{name}:")
        for problem in chosen:
            print(f"  {problem}")
            wanted.pop(problem, None)
    for problem in wanted:
        print(problem)


def _available(threads: list[int] | None) -> list[int]:
    """Return the thread counts; refuse more than there are processors, or than the build has."""
    if threads is None:
        return [fastnorm.get_num_threads()]
    fastnorm.set_num_threads(threads[0])
    most = min(fastnorm.get_num_threads(), processors())
    if most < threads[0]:
        raise ValueError(f"{threads[0]} threads: no more than {most} here")
    return threads


def _measure(
    options: argparse.Namespace, problems: Sequence[Problem], threads: list[int], command: str
) -> Run:
    """Measure all problems; what was measured before an interruption counts."""
    config = fastnorm.config()
    tiers = list(dict.fromkeys(options.isa)) or [config["isa"]]
    if "all" in tiers:
        tiers = list(config["isa_available"])

    keep_freed_memory()
    peers, skipped = load([name for name in options.peers if name != "none"], threads)
    for name, reason in skipped.items():
        print(f"{name}: {reason}")
    if not options.quick and load_average() > 0.5:
        print(f"load average {load_average():.1f}: something else is running; times will jump")
    session = Session(
        threads, tiers, peers, 0.0 if options.quick else options.seconds, options.quick
    )
    measured: list[Measured] = []
    distributions = dict.fromkeys(v for peer in peers.values() for v in peer.versions)
    run = Run(
        command,
        options.quick,
        describe(distributions),
        Caches.here(),
        {name: peer.note for name, peer in peers.items()},
        skipped,
        measured,
    )
    try:
        for found in with_progress(map(session.measure, problems), "Measuring", len(problems)):
            measured.append(found)
            if options.json is not None:
                options.json.write_text(run.as_json(), "utf-8")
    except KeyboardInterrupt:
        if not measured:
            raise
        print(f"interrupted after {len(measured)} of {len(problems)} problems")
    return run


def _write(run: Run, options: argparse.Namespace) -> None:
    """Write the files that were asked for."""
    plots: dict[str, Path] = {}
    if options.plot is not None:
        # Here, so that all else runs without matplotlib.
        from bench.plots import draw

        plots = draw(run, options.plot)
    if options.report is not None:
        report.write(run, options.report, plots)


def _table(sheet: Sheet) -> Table:
    """Lay out a table for the terminal."""
    table = Table(
        title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for name in sheet.columns:
        wide = name in ("bounds", "value", "reason")
        table.add_column(name, no_wrap=not wide)
    for row in sheet.rows:
        cells: list[Any] = [escape(cell) for cell in row]
        if row[-1].startswith(NOT_MET):
            cells[-1] = f"[red]{cells[-1]}[/]"
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
