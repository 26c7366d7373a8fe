"""The promised error bounds on data that break summation, cancellation and range.

Each pattern makes a (rows, count) matrix in float64; every row becomes one of the sets that an
operation normalises together, wherever its elements then lie. The exact answer is computed from
the data as stored: at mean/std = 10⁶ float32 numbers are 1/16 apart, and that is not the
library's error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    OPERATIONS,
    Array,
    Operation,
    assert_accurate,
    assert_statistics,
    each,
    every_dtype,
    every_measuring_operation,
    every_operation,
    half_ulp,
    normal,
)

import fastnorm

Pattern = Callable[[np.random.Generator, int, int], Array]

OFFSETS = (0, 1, 1e2, 1e3, 1e4, 1e5, 1e6)
# Short runs, whole blocks of a long one, a few elements more, and what is divided into chunks.
COUNTS = ((96, 12), (64, 49), (6, 1024), (4, 4097), (2, 33000))


def signs(rows: int) -> Array:
    return np.where(np.arange(rows) % 2, -1.0, 1.0)[:, None]


def different_offsets(rng: np.random.Generator, rows: int, count: int) -> Array:
    """Neighbouring sets with means of any size and either sign."""
    offsets = np.resize(OFFSETS, rows)[:, None] * signs(rows)
    return rng.standard_normal((rows, count)) + offsets


def different_scales(rng: np.random.Generator, rows: int, count: int) -> Array:
    scales = np.resize([1e-3, 1.0, 1e3, 1e-6, 1e6], rows)[:, None]
    return (rng.standard_normal((rows, count)) + 1e3 * signs(rows)) * scales


def heavy_tails(rng: np.random.Generator, rows: int, count: int) -> Array:
    return rng.standard_t(1.5, (rows, count))


def skewed(rng: np.random.Generator, rows: int, count: int) -> Array:
    return rng.lognormal(0, 3, (rows, count))


def first_elements_far_out(rng: np.random.Generator, rows: int, count: int) -> Array:
    """An estimate of the mean from the first elements is far from the mean."""
    data = rng.standard_normal((rows, count))
    data[:, : min(64, count // 3)] += 1e4
    return data


def first_elements_are(value: float, rng: np.random.Generator, rows: int, count: int) -> Array:
    data = rng.standard_normal((rows, count)) + 100 * signs(rows)
    data[:, : min(64, count // 3)] = value
    return data


def first_elements_zero(rng: np.random.Generator, rows: int, count: int) -> Array:
    """An estimate from the first elements finds neither their mean nor a scale."""
    return first_elements_are(0, rng, rows, count)


def first_elements_tiny(rng: np.random.Generator, rows: int, count: int) -> Array:
    return first_elements_are(1e-30, rng, rows, count)


def first_elements_huge(rng: np.random.Generator, rows: int, count: int) -> Array:
    """Their squares are beyond float32, those of the others are lost beside them."""
    return first_elements_are(1e30, rng, rows, count)


def last_elements_far_out(rng: np.random.Generator, rows: int, count: int) -> Array:
    return first_elements_far_out(rng, rows, count)[:, ::-1]


def first_element_far_out(rng: np.random.Generator, rows: int, count: int) -> Array:
    data = rng.standard_normal((rows, count))
    data[:, 0] = 1e4
    return data


def spaced_elements_far_out(rng: np.random.Generator, rows: int, count: int) -> Array:
    """An estimate from samples at even distances sees hardly anything else."""
    data = rng.standard_normal((rows, count))
    for parts, width in ((8, 1), (4, 32)):
        for start in np.linspace(0, count - width, parts).astype(int):
            data[:, max(start, 0) : start + min(width, count // 16)] += 1e4
    return data


def periodic_elements_far_out(rng: np.random.Generator, rows: int, count: int) -> Array:
    """At distances that a sample may share."""
    data = rng.standard_normal((rows, count))
    data[:, ::128] += 1e4
    return data


def one_outlier(rng: np.random.Generator, rows: int, count: int) -> Array:
    data = rng.standard_normal((rows, count))
    data[np.arange(rows), rng.integers(0, count, rows)] = 1e8
    return data


def one_outlier_among_constants(rng: np.random.Generator, rows: int, count: int) -> Array:
    """A variance that is one square divided by the count, from far below the constant to above."""
    data = np.full((rows, count), 7.7)
    data[np.arange(rows), rng.integers(0, count, rows)] += np.resize([1e-3, 1, 1e3, 1e8], rows)
    return data


def four_values(rng: np.random.Generator, rows: int, count: int) -> Array:
    """Few digits below a large offset: squares of whole steps, which add up to whole steps."""
    return 40000.0 + rng.integers(0, 4, (rows, count))


def ascending(rng: np.random.Generator, rows: int, count: int) -> Array:
    return np.sort(rng.standard_normal((rows, count)), axis=1) + 100 * signs(rows)


def ramp(rng: np.random.Generator, rows: int, count: int) -> Array:
    return np.arange(rows * count, dtype=np.float64).reshape(rows, count)


def drifting_mean(rng: np.random.Generator, rows: int, count: int) -> Array:
    """Every block has a mean of its own, far from that of the whole."""
    return rng.standard_normal((rows, count)) + np.linspace(-1e4, 1e4, count)


def jump(rng: np.random.Generator, rows: int, count: int) -> Array:
    data = rng.standard_normal((rows, count))
    data[:, count // 2 :] += 1e5
    return data


def alternating(rng: np.random.Generator, rows: int, count: int) -> Array:
    """Large terms that cancel in pairs."""
    return rng.standard_normal((rows, count)) + 1e4 * np.resize([1, -1], count)


def two_values(rng: np.random.Generator, rows: int, count: int) -> Array:
    """In every proportion, from one element that differs to all but one."""
    data = np.full((rows, count), 1e4)
    data[np.arange(count) < np.linspace(1, count - 1, rows).astype(int)[:, None]] += 10
    return data


PATTERNS: list[Pattern] = [
    different_offsets,
    different_scales,
    heavy_tails,
    skewed,
    first_elements_far_out,
    first_elements_zero,
    first_elements_tiny,
    first_elements_huge,
    last_elements_far_out,
    first_element_far_out,
    spaced_elements_far_out,
    periodic_elements_far_out,
    one_outlier,
    one_outlier_among_constants,
    four_values,
    ascending,
    ramp,
    drifting_mean,
    jump,
    alternating,
    two_values,
]


@functools.lru_cache(len(COUNTS))
def sets_of(pattern: Pattern, rows: int, count: int) -> Array:
    """One pattern's data, the same for all operations."""
    return pattern(np.random.default_rng(rows * count), rows, count)


every_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.__name__)


def check(
    op: Operation,
    data: Array,
    rng: np.random.Generator,
    eps: float,
    *,
    affine: bool = True,
    weights: float = 1,
) -> None:
    """Lay the rows of ``data`` out for ``op`` and compare with the exact answer."""
    x = op.spread(data)
    arguments = op.arguments(x, rng, groups=len(data) // 2)
    for name in {"weight", "bias"} & set(arguments):
        arguments[name] *= np.float32(weights)
    if op.needs_running:  # those of the data, which is what the bound supposes
        arguments["running_mean"] = data.mean(1, dtype=np.float64).astype(np.float32)
        arguments["running_var"] = data.var(1, dtype=np.float64).astype(np.float32)
    if not affine:
        arguments = {k: v for k, v in arguments.items() if k not in ("weight", "bias")}
    y, *stats = op(x, eps=eps, return_stats=True, **arguments)
    exact = op.exact(x, eps=eps, **arguments)
    assert_accurate(y, exact, data.dtype)
    assert_statistics(tuple(stats), exact, data.dtype)


@pytest.mark.parametrize("offset", OFFSETS)
@every_operation
def test_offsets(op, offset, rng):
    for rows, count in COUNTS:
        deviates = rng.standard_normal((rows, count))
        for eps in (0, 1e-5):
            check(op, (deviates + offset * signs(rows)).astype(np.float32), rng, eps)
        check(op, deviates + offset, rng, 0)


@pytest.mark.parametrize("offset", OFFSETS)
@every_operation
def test_offsets_in_long_rows(op, offset, rng):
    check(op, normal(rng, (2, 300_000), mean=offset), rng, eps=1e-5)


@pytest.mark.parametrize("offset", OFFSETS)
@every_operation
def test_offsets_in_many_sets(op, offset, rng):
    for rows, count in ((4096, 8), (1500, 65)):
        check(op, normal(rng, (rows, count), mean=offset * signs(rows)), rng, eps=1e-5)


@pytest.mark.parametrize("offset", [0, 1, 10, 100])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@every_operation
def test_offsets_of_half_precision(op, name, offset, rng):
    for rows, count in COUNTS:
        data = normal(rng, (rows, count), DTYPES[name], mean=offset * signs(rows))
        for eps in (0, 1e-5):
            check(op, data, rng, eps)


@every_measuring_operation
@every_pattern
def test_patterns(op, pattern, rng):
    for rows, count in COUNTS:
        data = sets_of(pattern, rows, count)
        for eps in (0, 1e-5):
            check(op, data.astype(np.float32), rng, eps)
        check(op, data, rng, 0)


@pytest.mark.parametrize("weights", [1e-6, 1, 100, 1e6])
@every_operation
def test_small_and_large_weights(op, weights, rng):
    """A weight multiplies every error of x̂, and so does the bound; the bias is as large."""
    for rows, count in COUNTS:
        for offset in (0, 1e3, 1e6):
            data = rng.standard_normal((rows, count)) + offset * signs(rows)
            check(op, data.astype(np.float32), rng, 1e-5, weights=weights)
            check(op, data, rng, 1e-5, weights=weights)
        check(op, normal(rng, (rows, count), BFLOAT16), rng, 1e-5, weights=weights)


@each([op for op in OPERATIONS if op.function != "rms_norm"])
@every_dtype
def test_constant_sets_become_the_bias(op, dtype, rng):
    for constant in (0.0, 0.1, -1e-3, 1 / 3, 7.7, -12345.678, 3.3e7, 1e30, 1e-30):
        for rows, count in COUNTS:
            with np.errstate(over="ignore", under="ignore"):
                data = np.full((rows, count), constant).astype(dtype)
            if not np.isfinite(data).all():
                continue  # beyond float16
            x = op.spread(data)
            arguments = op.arguments(x, rng, groups=rows // 2)
            if op.needs_running:
                arguments["running_mean"] = data[:, 0].copy()
            bias = arguments["bias"].astype(dtype)
            expected = np.swapaxes(np.zeros(x.shape, dtype), op.parameter_axes[0], -1) + bias
            expected = np.swapaxes(expected, op.parameter_axes[0], -1)
            for eps in (1e-5, 1e-12):
                y = op(x, eps=eps, **arguments)
                np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("function", [fastnorm.layer_norm, fastnorm.instance_norm])
@every_dtype
def test_a_set_of_one_differing_element(function, dtype):
    """x̂ is known in closed form: √(n-1) for the one, -1/√(n-1) for the rest."""
    for n in (2, 17, 64, 1024, 1025, 40_000):
        x = np.zeros((2, 2, n), dtype)
        x[0, 0, n // 2] = x[1, 1, 0] = 1
        x[1, 0], x[1, 0, -1] = 1, 0
        y = function(x, eps=1e-30).astype(np.float64)
        root = np.sqrt(n - 1)
        for actual, expected in (
            (y[0, 0, n // 2], root),
            (y[1, 0, -1], -root),
            (y[1, 1, 1:], -1 / root),
        ):
            rounded = half_ulp(expected, dtype) if dtype.itemsize == 2 else 0
            tolerance = 4 * 2.0**-24 * (1 + abs(expected)) + rounded
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


# --- range --------------------------------------------------------------------------------


# At 2e-38 most elements are subnormal, while 1/std is still a float32.
@pytest.mark.parametrize("scale", [2e-38, 1e-30, 1e-19, 1e19, 1e30, 3e38])
@every_measuring_operation
def test_squares_beyond_the_range_of_float32(op, scale, rng):
    for rows, count in COUNTS:
        data = rng.uniform(-1, 1, (rows, count)) * scale
        for eps in (0, 1e-5):
            check(op, data.astype(np.float32), rng, eps, affine=False)
            check(op, data.astype(np.float32), rng, eps)


@every_measuring_operation
def test_only_some_sets_beyond_the_range_of_float32(op, rng):
    """A set that is measured anew does not disturb its neighbours, nor they it."""
    for rows, count in COUNTS:
        scales = np.resize([1, 1e25, 1e-25, 1e5], rows)[:, None]
        data = rng.standard_normal((rows, count)) * scales
        check(op, data.astype(np.float32), rng, 0)
        mixed = rng.standard_normal((rows, count))
        mixed[:, : count // 2] *= 1e25
        check(op, mixed.astype(np.float32), rng, 0)


@every_measuring_operation
def test_differences_beyond_the_range_of_float32(op, rng):
    """Both ends of the range in one set: x - mean does not fit in float32."""
    for rows, count in COUNTS:
        data = np.full((rows, count), -3e38, np.float32)
        data[np.arange(rows), rng.integers(0, count, rows)] = 3e38
        check(op, data, rng, 1e-5, affine=False)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
@every_measuring_operation
def test_range_of_float64(op, scale, rng):
    for rows, count in COUNTS:
        check(op, rng.uniform(-1, 1, (rows, count)) * scale, rng, eps=0)


# At this size most of the data are subnormal, and then most of the results.
@pytest.mark.parametrize(("name", "scale"), [("float16", 1e-6), ("bfloat16", 2e-38)])
@every_measuring_operation
def test_subnormal_half_precision(op, name, scale, rng):
    for rows, count in COUNTS:
        data = (rng.uniform(-1, 1, (rows, count)) * scale).astype(DTYPES[name])
        check(op, data, rng, eps=0, affine=False)
        x = op.spread(normal(rng, (rows, count), DTYPES[name]))
        arguments = op.arguments(x, rng, groups=rows // 2)
        arguments["weight"] *= np.float32(scale)
        arguments.pop("bias", None)
        assert_accurate(op(x, **arguments), op.exact(x, **arguments))


@pytest.mark.parametrize("constant", [1e30, -1e30, 3.4e38, 1e-30, 1e-37, 5e-45, 1.0, -0.1])
def test_rms_norm_of_a_constant_is_one(constant):
    for shape, axis in (((3, 50), -1), ((2, 4097), -1), ((2, 70, 33), 1), ((2, 70000), 1)):
        x = np.full(shape, constant, np.float32)
        y = fastnorm.rms_norm(x, axis=axis, eps=0)
        exact = Operation("", "rms_norm").exact(x, axis=axis, eps=0)
        assert_accurate(y, exact)
        np.testing.assert_allclose(exact.y, np.copysign(1, constant), rtol=1e-15)


def test_every_function_is_among_the_operations():
    """The list of operations in `helpers` names every function that there is."""
    assert {op.function for op in OPERATIONS} == {
        name for name in vars(fastnorm) if name.endswith("_norm") and name[0] != "_"
    }
