"""Command line: every operation on activations of well-known layers.

Run ``python -m fastnorm``.  It exits with 1 when an error is larger than allowed.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from . import set_num_threads, show_config

try:
    # ml_dtypes is only needed by one case, but half a table would help nobody.
    import ml_dtypes  # noqa: F401
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track
    from rich.table import Table
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(
        f"python -m fastnorm needs {missing.name}, which is not installed.\n"
        'Install it with: python -m pip install "fastnorm-cpu[cli]"'
    ) from None

from ._demo import ALLOWED_ERROR, CASES, Record, records

T = TypeVar("T")

LEGEND = {
    "ms": "best time of many, written into an existing array",
    "GB/s": "bytes of the input read once and of the output written once",
    "copies": "the time as a multiple of a copy of the same bytes on the same threads, "
    "made in turn with the operation; of ordinary and streaming (non-temporal) "
    "stores the better",
    "error": "the largest of the whole array, against the formula in NumPy's float64 "
    "(float64 data: long double), in units of u·(1 + |x̂·weight| + |bias|) with "
    "u = 2⁻²⁴ for float32, 2⁻⁵³ for float64, 2⁻¹¹ for float16, 2⁻⁸ for bfloat16: what "
    "rounding the result once may cost. At most: "
    + ", ".join(f"{dtype} {limit:.0f}" for dtype, limit in ALLOWED_ERROR.items()),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnorm",
        description="Run every operation on activations of well-known layers: "
        "how long it takes, how far it is from the exact answer.",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads to use")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small arrays: the errors mean as much as before, the times nothing",
    )
    options = parser.parse_args(argv)
    if options.threads is not None:
        try:
            set_num_threads(options.threads)
        except ValueError as refusal:
            parser.error(str(refusal))

    console = console_for_tables(120)
    show_config()
    steps = records(quick=options.quick)
    found = list(with_progress(steps, "Normalising", len(CASES)))
    console.print(as_table(found))
    console.print(explained(LEGEND))

    wrong = [" ".join(record.case.cells) for record in found if not record.accurate]
    if wrong:
        console.print(f"[red]error larger than allowed:[/] {'; '.join(wrong)}")
    return 1 if wrong else 0


def console_for_tables(width: int) -> Console:
    """Return a console on which a table has room.

    A terminal is as wide as it is.  A pipe or a file is `width` columns wide; Rich
    would take it for 80 and fold the rows.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every encoding that a pipe may have knows "⁻²⁴".
        sys.stdout.reconfigure(errors="replace")
    return Console(width=None if sys.stdout.isatty() else width)


def with_progress(steps: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the steps and show how far they have come, if a person may be looking.

    That is shown on the error stream: what is redirected is only the table.
    """
    errors = Console(stderr=True)
    yield from track(
        steps,
        what,
        total=total,
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )


def case_table(*numbers: str) -> Table:
    """Return an empty table: the cells of a case, then columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("operation, layer")
    for name in ("shape", "layout", "dtype"):
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, no_wrap=True, justify="right")
    return table


def as_table(found: Sequence[Record]) -> Table:
    """Lay the records out, one row each."""
    table = case_table(*LEGEND)
    for record in found:
        table.add_row(
            *record.case.cells,
            f"{record.seconds * 1e3:.2f}",
            f"{record.gigabytes_per_second:.1f}",
            f"{record.copies:.2f}",
            f"{record.error:.2f}" if record.accurate else f"[red]{record.error:.3g}[/]",
        )
    return table


def explained(legend: Mapping[str, str]) -> Table:
    """Lay out what stands below a table: a term and its meaning in each row."""
    grid = Table.grid(padding=(0, 2))
    for term, meaning in legend.items():
        grid.add_row(term, escape(meaning))
    return grid


if __name__ == "__main__":
    raise SystemExit(main())
