"""What the tests of the backward passes share: calls to them, data, the promised bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import backward_reference
import numpy as np
import reference
from backward_reference import Gradients
from helpers import Array, Operation, assert_within, half_ulp, normal

import fastnorm

NAMES = ("dx", "dweight", "dbias")
SHAPE = (4, 6, 35)


@dataclass(frozen=True)
class Problem:
    """One backward pass: what goes in. The same goes to fastnorm and to its twin."""

    op: Operation
    grad: Array
    x: Array
    stats: tuple[Array, ...]
    arguments: dict[str, Any]
    eps: float = 1e-5

    def __call__(self, **changes: Any) -> tuple[Array, ...]:
        """The gradients by fastnorm; ``changes`` replace or add arguments."""
        arguments = {**self.op.fixed(), **self.arguments, **changes}
        grad, x = arguments.pop("grad", self.grad), arguments.pop("x", self.x)
        stats = arguments.pop("stats", self.stats)
        return getattr(fastnorm, f"{self.op.function}_backward")(grad, x, *stats, **arguments)

    def exact(self) -> Gradients:
        arguments = {**self.op.fixed(), **self.arguments}
        if self.op.needs_running:
            arguments["mean"], arguments["rstd"] = self.stats
        twin = getattr(backward_reference, f"{self.op.function}_backward")
        return twin(self.grad, self.x, eps=self.eps, **arguments)

    def check(self, message: str = "", **changes: Any) -> None:
        """The gradients are right; ``changes`` must not change what is right."""
        assert_gradients(self(**changes), self.exact(), self.x.dtype, message)


def problem(
    op: Operation,
    x: Array,
    rng: np.random.Generator,
    *,
    weight: Any = np.float32,
    groups: int | None = None,
    eps: float = 1e-5,
    grad: Array | None = None,
    **given: Any,
) -> Problem:
    """A backward pass for this input: ``weight`` is the dtype of the weight or None, ``given``
    are other arguments of the forward pass. The statistics are those of the forward pass."""
    arguments = {**op.arguments(x, rng, groups=groups), **given}
    arguments["weight"] = about_one(rng, arguments["weight"].shape).astype(weight or np.float32)
    _, *stats = op(x, eps=eps, return_stats=True, **arguments)
    forward_only = ("bias", "running_mean", "running_var") + (() if weight else ("weight",))
    arguments = {k: v for k, v in arguments.items() if k not in forward_only}
    if grad is None:
        grad = gradient(x, rng)
    return Problem(op, grad, x, tuple(stats), arguments, eps)


def about_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Weights of either sign whose size is about 1, as the bounds suppose."""
    sizes = rng.uniform(0.5, 1.5, shape)
    return (sizes * rng.choice((-1, 1), shape)).astype(np.float32)


def gradient(x: Array, rng: np.random.Generator) -> Array:
    """Gradients about 1, as the bounds suppose: those of 4 would be rounded to 2 units themselves.

    They have a mean and a part along x, so that what dx leaves out is not near zero.
    """
    deviations = x.astype(np.float64)
    if x.size:
        deviations /= abs(deviations).max() or 1  # squares of any x stay within the range
        deviations -= deviations.mean()
        deviations /= deviations.std() or 1
    along_x = np.clip(deviations, -1, 1)
    return (rng.uniform(-1, 1, x.shape) + 0.2 + 0.2 * along_x).astype(x.dtype)


def standard(
    rng: np.random.Generator, rows: int, count: int, dtype: Any = np.float32, mean: Any = 0
) -> Array:
    """Rows of standard deviation 1 around ``mean``; the bounds are promised for such data."""
    data = rng.standard_normal((rows, count))
    data -= data.mean(1, keepdims=True)
    if count > 1:
        data /= data.std(1, keepdims=True)
    return np.asarray(data + mean).astype(dtype)


def images(
    op: Operation,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    dtype: Any = np.float32,
    groups: int | None = None,
) -> Array:
    """An input of this shape (N, C, ...), channels last for the operations that say so.

    What a statistic covers has standard deviation 1, however few elements that are.
    """
    x = normal(rng, shape)
    if op.channel_axis == -1:
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    if not op.needs_running:
        arguments = {**op.arguments(x, rng, groups=groups), "weight": None}
        x = op.exact(x, eps=1e-12, **arguments).normalized
    return np.asarray(x + 2).astype(dtype, order="C")


def spread_problem(op: Operation, data: Array, rng: np.random.Generator, **options: Any) -> Problem:
    """A problem whose pooled sets are the rows of ``data``, an even number of them."""
    if data.shape[1] == 1:
        options.setdefault("eps", 1)  # there is no deviation, and 1/std is at most 1 so
    return problem(op, op.spread(data), rng, groups=len(data) // 2, **options)


# --- comparisons --------------------------------------------------------------------------


def assert_gradients(
    results: tuple[Array, ...], exact: Gradients, dtype: np.dtype[Any], message: str = ""
) -> None:
    """dx, dweight and, where there is one, dbias have the promised types and errors."""
    assert type(results) is tuple
    stored = np.dtype(np.float64 if reference.is_double(dtype) else np.float32)
    expectations = (
        (exact.dx, dx_bound(exact.dx, dtype), dtype),
        (exact.dweight, dweight_bound(exact, dtype), stored),
        (exact.dbias, sum_unit(dtype) * exact.bias_terms, stored),
    )
    for name, result, expected in zip(NAMES, results, expectations, strict=False):
        assert_within(result, *expected, f"{name} {message}")


def sum_unit(dtype: np.dtype[Any]) -> float:
    return 1e-12 if reference.is_double(dtype) else 1e-6


def dweight_bound(exact: Gradients, dtype: np.dtype[Any]) -> Array:
    """10⁻⁶ of Σ|terms|, and as the terms are grad·x̂, half a unit of x̂.

    Where dweight is the sum of one or two terms, a difference of x and mean may be as good as
    zero, and then its relative error is of any size.
    """
    bound = sum_unit(dtype) * exact.weight_terms
    if exact.centred and not reference.is_double(dtype):
        bound = bound + 2.0**-25 * exact.bias_terms
    return bound


def dx_bound(dx: Array, dtype: np.dtype[Any]) -> Array:
    """The largest error of dx that is promised."""
    if reference.is_double(dtype):
        return 1e-12 * (1 + abs(dx))
    arithmetic = 8 * 2.0**-24 * (1 + abs(dx))
    return arithmetic if dtype.itemsize == 4 else arithmetic + half_ulp(dx, dtype)
