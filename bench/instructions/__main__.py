"""Command line: ``python -m bench.instructions``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.instructions.cases import DTYPES, Count, counts
from bench.instructions.counting import CountingError, build, count, counters
from bench.instructions.table import (
    TOLERANCE,
    Change,
    Tier,
    Verdict,
    compared,
    left_over,
    load,
    save,
)

TABLE = Path(__file__).with_name("table.json")

_STYLES = {
    Verdict.SAME: "default",
    Verdict.WORSE: "red",
    Verdict.BETTER: "green",
    Verdict.NEW: "yellow",
    Verdict.OTHER_COMPILER: "dim",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Count, compare, and return the exit status: 1 if anything takes more instructions."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.update and options.words:
        parser.error("--update replaces all rows of a tier, and takes no WORD")
    wanted = counts(options.words)
    if not wanted:
        parser.error(f"nothing to count contains {' or '.join(options.words)}")
    table = load(TABLE)
    try:
        found = _count(options.tier, wanted)
    except CountingError as error:
        parser.exit(2, f"{error}\n")

    console = Console(width=120)
    changes = {
        tier: compared(now, table.get(tier), options.tolerance) for tier, now in found.items()
    }
    for tier, now in found.items():
        console.print(_as_table(tier, now, table.get(tier), changes[tier]))
    _summarise(console, changes)
    if not options.words and not options.tier:
        for line in left_over(found, table):
            console.print(f"[yellow]in the table, but not counted:[/] {escape(line)}")
    if options.update:
        save(TABLE, table | found)
        console.print(f"wrote {TABLE.name}")
        return 0
    worse = any(c.verdict is Verdict.WORSE for found in changes.values() for c in found)
    return 1 if worse else 0


def _count(tiers: Sequence[str] | None, wanted: Sequence[Count]) -> dict[str, Tier]:
    """Count on some tiers, or on all that can be counted here."""
    status = Console(stderr=True)
    with status.status("Compiling"):
        driver = build()
    able = counters(driver)
    found: dict[str, Tier] = {}
    for tier in tiers or able:
        if tier not in able:
            raise CountingError(f"{tier} cannot be counted here; takes {', '.join(able)}")
        with status.status(f"Counting {tier} by {able[tier]}"):
            found[tier] = count(driver, tier, able[tier], wanted)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions",
        description="Count the instructions that each kernel executes per element, and hold them "
        "against table.json. Exits with 1 if anything takes more than before.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only what contains one of these, as rows_apply, 'layer norm' or float16",
    )
    parser.add_argument(
        "--tier", action="append", help="instruction set; may be given several times"
    )
    parser.add_argument("--update", action="store_true", help="write what was counted to the table")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="SHARE",
        help="changes up to this share are not mentioned (default: %(default)s)",
    )
    return parser


def _as_table(tier: str, now: Tier, before: Tier | None, changes: Sequence[Change]) -> Table:
    """Lay out the counts of a tier: a row for each kernel and case, a column for each dtype."""
    title = f"{tier}: instructions per element, {now.compiler}, counted by {now.counter}"
    if before and before.compiler != now.compiler:
        title += f"; not comparable with the table, which is of {before.compiler}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kernel: case", no_wrap=True)
    for dtype in DTYPES:
        table.add_column(dtype, justify="right", no_wrap=True)
    cells = {(c.row, c.dtype): f"[{_STYLES[c.verdict]}]{_now(c)}[/]" for c in changes}
    for row in now.rows:
        table.add_row(escape(row), *(cells.get((row, dtype), "") for dtype in DTYPES))
    return table


def _now(change: Change) -> str:
    """Write down a count and, if it means something, by how much it has changed."""
    if change.verdict is Verdict.SAME or change.share is None:
        return f"{change.now:.3f}"
    return f"{change.now:.3f} {change.share:+.1%}"


def _summarise(console: Console, changes: Mapping[str, Sequence[Change]]) -> None:
    """Print how many counts are as in the table, and which are not."""
    for verdict in Verdict:
        named = [
            (tier, change)
            for tier, found in changes.items()
            for change in found
            if change.verdict is verdict
        ]
        if named:
            console.print(f"[{_STYLES[verdict]}]{verdict.value}:[/] {len(named)} counts")
        if verdict in (Verdict.BETTER, Verdict.WORSE):
            for tier, change in named:
                text = (
                    f"  {tier} {change.row}, {change.dtype}: {change.before:.3f} -> {_now(change)}"
                )
                console.print(escape(text), soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
