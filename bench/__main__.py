"""Command line of the benchmark: ``python -m bench``."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

import fastnorm
from bench.cases import CALLS, CASES, PROMISED_COPIES, promised_copies, selected
from bench.measure import Bench, Result, Timing
from bench.peers import Peer, installed_peers, keep_freed_memory
from fastnorm.__main__ import case_table, console_for_tables, explained, with_progress

LEGEND = {
    "copy": "best time of a parallel copy of the same bytes, in ms; of ordinary and "
    "streaming (non-temporal) stores the better",
    "tier, peer": "time as a multiple of that copy: the best by the best (the median "
    "by the median)",
    "!": f"more than the {PROMISED_COPIES} copies that this row promises (marked ≤)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status, which is always 0."""
    options = _parser().parse_args(argv)
    if options.threads is not None:
        fastnorm.set_num_threads(options.threads)
    config = fastnorm.config()
    tiers = options.isa or [config["isa"]]
    if "all" in tiers:
        tiers = list(config["isa_available"])
    peers: dict[str, Peer] = {}
    if options.peers:
        keep_freed_memory()
        peers = installed_peers(fastnorm.get_num_threads())

    console = console_for_tables(160)
    fastnorm.show_config()
    bench = Bench(tiers, peers, options.seconds, options.quick)
    cases = selected(CASES, options.words)
    calls = selected(CALLS, options.words)
    arrays = list(with_progress(bench.arrays(cases), "Arrays", len(cases)))
    small = list(with_progress(bench.calls(calls), "Calls", len(calls)))
    if arrays:
        console.print(_arrays_table(arrays, [*tiers, *peers]))
        console.print(explained(LEGEND))
    if small:
        console.print(_calls_table(small))

    if options.json is not None:
        document = {
            "config": config,
            "machine": platform.platform(),
            "versions": {name: version(name) for name in ("numpy", *peers)},
            "arrays": [result.as_json() for result in arrays],
            "calls": [result.as_json() for result in small],
        }
        options.json.write_text(json.dumps(document, indent=1, default=str) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time every operation as a multiple of a parallel copy.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only the rows that contain one of these, as "
        "'group norm', NHWC, bfloat16 or 4096x4096",
    )
    parser.add_argument(
        "--isa",
        action="append",
        choices=[*fastnorm.config()["isa_available"], "all"],
        help="instruction set to measure; may be given several times",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads to use")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also measure torch and onnxruntime (with onnx), if installed",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.5,
        help="time for each row and library (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny arrays, hardly any time: shows that the benchmark runs",
    )
    return parser


def _arrays_table(results: Sequence[Result], names: Sequence[str]) -> Table:
    """Lay out whole arrays: a row for each case, a column for each contender."""
    table = case_table("copy", *names, "promise")
    for result in results:
        limit = promised_copies(result.case)
        table.add_row(
            *result.case.cells,
            f"{result.copy.best * 1e3:.2f}" if result.copy else "",
            *(_multiple(result, name) for name in names),
            f"≤ {limit}" if limit else "",
        )
    return table


def _multiple(result: Result, name: str) -> str:
    """Write down how many copies `name` took."""
    if name not in result.copies:
        return ""
    text = _pair(result.copies[name])
    return f"[red]{text}![/]" if result.breaks_promise(name) else text


def _calls_table(results: Sequence[Result]) -> Table:
    """Lay out small calls, in µs."""
    names = list(dict.fromkeys(name for r in results for name in r.timings))
    table = case_table(*names)
    table.title = "calls in µs: best (median)"
    table.title_justify = "left"
    for result in results:
        cells = (_pair(result.timings[name].scaled(1e6)) for name in names)
        table.add_row(*result.case.cells, *cells)
    return table


def _pair(timing: Timing) -> str:
    return f"{timing.best:.2f} ({timing.median:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
