"""Small problems that take every path through the kernels, for tests that compare bits.

Each is an operation over a matrix whose rows are the sets that share a statistic, in one of four
variants: where the results go, how the arrays lie, and which parameters there are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers import Array, Operation, normal, placed, strided

import fastnorm

# Sets and their elements: short rows; whole lines of a cache and parts of them; small maps and
# larger; blocks of a long row; few columns and many; what is divided among chunks.
SIZES = (
    (70, 5),
    (132, 15),
    (66, 31),
    (40, 96),
    (34, 100),
    (36, 196),
    (6, 1024),
    (4, 4099),
    (1030, 12),
    (200, 64),
    (2, 33_000),
)
# Enough work for two threads: many sets, and few that are divided.
THREADED_SIZES = ((4000, 49), (60, 4099), (2, 140_000))
VARIANTS = ("new output", "in place", "strided", "between lines")
PARAMETERS = ({"weight", "bias"}, {"weight"}, {"bias"}, set())


@functools.cache
def sets(rows: int, count: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """x and grad, in rows: some lie far off, are constant, or have squares beyond the range."""
    rng = np.random.default_rng(rows * count)
    x, grad = (normal(rng, (rows, count), np.float64, mean) for mean in (3, 0))
    x[1::7] += 1e4
    x[2::11] = 7.25
    if dtype.itemsize > 2:
        x[3::13] *= 1e160 if dtype.itemsize == 8 else 1e25
        x[4::17] *= 1e-165 if dtype.itemsize == 8 else 1e-25
        subnormal = 1e-311 if dtype.itemsize == 8 else 1e-41
        x[5::19] *= subnormal
        grad[6::19] *= subnormal
    return x.astype(dtype), grad.astype(dtype)


@dataclass(frozen=True)
class Path:
    """A problem with its inputs; ``x`` and ``grad`` are overwritten by nothing."""

    name: str
    op: Operation
    x: Array
    grad: Array
    forward: dict[str, Any]
    backward: dict[str, Any]
    in_place: bool
    out: Array | None

    def outcome(self) -> dict[str, Array]:
        """What both directions give, each in memory of its own."""
        x, out, dx_out = self.x, self.out, self.out
        if self.in_place:
            x = out = self.x.copy()
        y, *stats = self.op(x, out=out, return_stats=True, **self.forward)
        y = y.copy() if y is self.out else y
        grad = self.grad
        if self.in_place:
            grad = dx_out = self.grad.copy()
        function = getattr(fastnorm, f"{self.op.function}_backward")
        arguments = {**self.op.fixed(), **self.backward}
        dx, *sums = function(grad, self.x, *stats, out=dx_out, **arguments)
        dx = dx.copy() if dx is self.out else dx
        names = ("y", *("mean", "rstd")[-len(stats) :], "dx", "dweight", "dbias")
        return dict(zip(names, (y, *stats, dx, *sums), strict=False))


def paths(
    op: Operation,
    dtype: np.dtype[Any],
    sizes: tuple[tuple[int, int], ...] = SIZES,
    variants: tuple[str, ...] = VARIANTS,
) -> Iterator[Path]:
    """Every size and variant of an operation and element type."""
    for i, size in enumerate(sizes):
        x, grad = (op.spread(rows) for rows in sets(*size, dtype))
        for j, variant in enumerate(variants):
            kind = (np.dtype(np.float32), dtype)[i // 2 % 2]
            forward = op.arguments(x, np.random.default_rng(i), kind, size[0] // 2)
            absent = {"weight", "bias"} - PARAMETERS[(i + j) % 4]
            forward = {name: value for name, value in forward.items() if name not in absent}
            kept = ("weight", "normalized_shape", "num_groups")
            backward = {name: value for name, value in forward.items() if name in kept}
            yield Path(
                f"{size} {variant}",
                op,
                strided(x) if variant == "strided" else x,
                strided(grad) if variant == "strided" else grad,
                forward,
                backward,
                variant == "in place",
                placed(x, 3) if variant == "between lines" else None,
            )
