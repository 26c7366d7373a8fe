"""Command line: the errors of every operation, and the times of well-known layers.

Run ``python -m fastnorm``.  It exits with 1 when an error is larger than promised.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from . import set_num_threads, show_config

try:
    # ml_dtypes is only needed for bfloat16, but half a table would help nobody.
    import ml_dtypes  # noqa: F401
    from rich import box
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(
        f"python -m fastnorm needs {missing.name}, which is not installed.\n"
        'Install it with: python -m pip install "fastnorm-cpu[cli]"'
    ) from None

from ._selfcheck import ALLOWED_ERROR, LAYERS, OFFSETS, OPERATIONS, errors, timings

T = TypeVar("T")

ERRORS = (
    "The largest error against the formula in NumPy's float64 (float64 data: long double). At N: "
    "the mean of the data is N standard deviations. Units: u·(|weight|·(1 + |x̂|) + |bias|), where "
    "u is 2⁻²⁴, for float64 2⁻⁵³, of which 9007 are 10⁻¹². Of float16 and bfloat16, half a unit in "
    "the last place is taken off first; far from 0, hardly any of their values differ.\n"
)
TIMES = (
    "ms: the best time of many, written into an existing array. Copies: that time as a multiple of "
    "a copy of the same bytes on the same threads, made in turn with the operation, with ordinary "
    "or streaming (non-temporal) stores, whichever is faster. Error: that of the whole array.\n"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnorm",
        description="Run every operation on this machine: how far it is from the exact answer, and "
        "how long it takes for activations of well-known layers.",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads to use")
    parser.add_argument("--quick", action="store_true", help="errors only, no times")
    options = parser.parse_args(argv)
    if options.threads is not None:
        try:
            set_num_threads(options.threads)
        except ValueError as refusal:
            parser.error(str(refusal))

    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every encoding that a pipe may have knows "⁻²⁴".
        sys.stdout.reconfigure(errors="replace")
    # Rich takes a pipe or a file for 80 columns wide, and would fold the rows.
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    show_config()
    wrong: list[str] = []

    def judged(error: float, dtype: str, where: str) -> str:
        if error <= ALLOWED_ERROR[dtype]:  # a NaN is not
            return f"{error:.2f}"
        wrong.append(where)
        return f"[red]{error:.3g}[/]"

    offsets = [f"{offset:g}" for offset in OFFSETS]
    table = new_table(["operation", "dtype"], [*(f"at {offset}" for offset in offsets), "at most"])
    total = len(OPERATIONS) * len(ALLOWED_ERROR)
    for operation, dtype, found in progress(errors(), "Checking", total):
        cells = [
            judged(error, dtype, f"{operation}, {dtype}, mean/std {offset}")
            for error, offset in zip(found, offsets, strict=True)
        ]
        table.add_row(operation, dtype, *cells, f"{ALLOWED_ERROR[dtype]:.0f}")
    console.print(table, ERRORS)

    if not options.quick:
        table = new_table(
            ["layer", "operation", "shape", "layout", "dtype"], ["ms", "copies", "error"]
        )
        for name, time in progress(timings(), "Timing", len(LAYERS)):
            case = LAYERS[name]
            table.add_row(
                *(name, case.operation, "x".join(map(str, case.shape)), case.layout, case.dtype),
                f"{time.seconds * 1e3:.2f}",
                f"{time.seconds / time.copy_seconds:.2f}",
                judged(time.error, case.dtype, name),
            )
        console.print(table, TIMES)

    if wrong:
        console.print(f"[red]error larger than allowed:[/] {'; '.join(wrong)}")
    return 1 if wrong else 0


def new_table(names: Sequence[str], numbers: Sequence[str]) -> Table:
    """Return an empty table with columns of names, then of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=name not in ("layer", "operation"))
    for name in numbers:
        table.add_column(name, no_wrap=True, justify="right")
    return table


def progress(steps: Iterable[T], what: str, total: int) -> Iterable[T]:
    """Show how far the steps have come on the error stream, if a person may be looking."""
    stderr = Console(stderr=True)
    hidden = not stderr.is_terminal
    return track(steps, what, total=total, console=stderr, transient=True, disable=hidden)


if __name__ == "__main__":
    raise SystemExit(main())
