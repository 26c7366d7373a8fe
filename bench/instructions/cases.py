"""What is counted: one small array of each kind that the kernels have code for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

ROWS = ("rows_fused", "rows_measure", "rows_apply")
COLUMNS = ("columns_fused", "columns_measure", "columns_apply")
GRAD_ROWS = ("grad_rows_fused", "grad_rows_measure", "grad_rows_apply")
GRAD_GATHER = ("grad_rows_gather", "grad_rows_measure")
GRAD_COLUMNS = ("grad_columns_fused", "grad_columns_measure", "grad_columns_apply")
DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Case:
    """An array and what is made of it.

    Parameters
    ----------
    name : str
        What it is called in tables.
    axes : str
        Sizes with roles: 'k' kept, 'p' param, 's' split; see ``driver.c``.
    flags : str
        'c' centre, 'p' precise (float32), 'w' weight, 'b' bias, 's' stream.
    kernels : sequence of str
        The kernels that are counted.
    dtypes : sequence of str
        The element types that they are counted for.
    """

    name: str
    axes: str
    flags: str
    kernels: Sequence[str]
    dtypes: Sequence[str] = DTYPES

    @property
    def elements(self) -> int:
        """Elements of the array."""
        return math.prod(int(size) for size in re.findall(r"\d+", self.axes))


@dataclass(frozen=True)
class Count:
    """One number of the table: a kernel at work on a case."""

    kernel: str
    case: Case
    dtype: str

    @property
    def row(self) -> str:
        """Where it stands in the table; the columns are the element types."""
        return f"{self.kernel}: {self.case.name}"

    @property
    def line(self) -> str:
        """What the driver is told."""
        return f"{self.kernel} {self.dtype} {self.case.flags or '-'} {self.case.axes}"


# Batch norm has no 'p': its statistics cover many elements, if not in these small arrays.
CASES: Sequence[Case] = (
    Case("layer norm, 2 x 768", "2k 768p", "cpwb", ROWS),
    Case("layer norm, 2 x 768, no parameters", "2k 768p", "cp", ("rows_fused",)),
    Case("layer norm, 2 x 768, streaming", "2k 768p", "cpwbs", ("rows_fused",)),
    Case("layer norm, 8 x 64", "8k 64p", "cpwb", ("rows_fused",)),
    Case("layer norm, 4 x 2048", "4k 2048p", "cpwb", ("rows_fused",)),
    Case("layer norm, 256 x 3", "256k 3p", "cpwb", ("rows_fused",)),
    Case("layer norm, 256 x 15", "256k 15p", "cpwb", ("rows_fused",)),
    Case("RMS norm, 2 x 768", "2k 768p", "pw", ROWS),
    Case("instance norm, 2 x 56x56", "1k 2kp 3136", "cpwb", ROWS),
    Case("instance norm, 2 x 56x56, streaming", "1k 2kp 3136", "cpwbs", ("rows_apply",)),
    Case("batch norm, 2 x 56x56", "1 2kp 3136", "cwb", ("rows_measure",)),
    Case("batch norm, 8 x 4 x 7x7", "8 4kp 49", "cwb", ROWS),
    Case("group norm, 1 x 2x8 x 14x14", "1k 2kp 8sp 196", "cpwb", ("rows_fused", "rows_apply")),
    Case("batch norm, 64 x 64", "64 64kp", "cwb", COLUMNS),
    Case("batch norm, 64 x 50", "64 50kp", "cwb", COLUMNS[1:]),
    Case("batch norm, 16 x 512", "16 512kp", "cwb", ("columns_fused",)),
    Case("batch norm, 16 x 512, streaming", "16 512kp", "cwbs", ("columns_apply",)),
    Case("batch norm, 1024 x 3", "1024 3kp", "cwb", COLUMNS),
    Case("group norm, 8x8 x 8x8", "1k 64 8kp 8sp", "cpwb", ("columns_fused",)),
    Case("layer norm over 32 of 32 x 98", "1k 32p 98k", "cpwb", ("columns_fused", "columns_apply")),
    Case("a parameter of 4096", "4096p", "", ("widen",), ("float32", "float16", "bfloat16")),
    Case("a parameter of 4096", "4096p", "", ("to_float",), ("float64", "float16", "bfloat16")),
    # The backward pass: no bias, and nothing depends on 'p'.
    Case("layer norm, 2 x 768", "2k 768p", "cw", GRAD_GATHER),
    Case("layer norm, 2 x 768, streaming", "2k 768p", "cws", GRAD_GATHER[:1]),
    Case("layer norm, 16 x 96", "16k 96p", "cw", GRAD_GATHER[:1]),
    Case("RMS norm, 2 x 768", "2k 768p", "w", GRAD_GATHER),
    Case("instance norm, 2 x 56x56", "1k 2kp 3136", "cw", GRAD_ROWS[:1]),
    Case("batch norm, 2 x 56x56", "1 2kp 3136", "cw", GRAD_ROWS[1:]),
    Case("batch norm, 8 x 4 x 7x7", "8 4kp 49", "cw", GRAD_ROWS),
    Case("group norm, 1 x 2x8 x 14x14", "1k 2kp 8sp 196", "cw", GRAD_ROWS[:1]),
    Case("batch norm, 64 x 64", "64 64kp", "cw", GRAD_COLUMNS),
    Case("batch norm, 1024 x 3", "1024 3kp", "cw", GRAD_COLUMNS),
    Case("group norm, 8x8 x 8x8", "1k 64 8kp 8sp", "cw", GRAD_COLUMNS[:1]),
    Case("layer norm over 32 of 32 x 98", "1k 32p 98k", "cw", GRAD_COLUMNS),
)


def counts(words: Sequence[str] = ()) -> list[Count]:
    """Return everything to count, or what one of `words` stands in."""
    every = (
        Count(kernel, case, dtype)
        for case in CASES
        for kernel in case.kernels
        for dtype in case.dtypes
    )
    return [
        count
        for count in every
        if not words or any(w.casefold() in f"{count.row} {count.dtype}".casefold() for w in words)
    ]
