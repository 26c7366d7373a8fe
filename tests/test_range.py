"""Numbers near the ends of the range: right results, in a time that is not out of proportion.

Only a result may leave the range, not what it is computed from.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import pytest
from backward_helpers import Problem, spread_problem, standard, sum_unit
from helpers import (
    DTYPES,
    OPERATIONS,
    Array,
    Operation,
    assert_accurate,
    assert_statistics,
    assert_within,
    each,
    every_measuring_operation,
    every_operation,
    half_ulp,
    normal,
)

import fastnorm

COUNTS = ((96, 12), (64, 49), (6, 1024), (2, 9001))
INFERENCE = [op for op in OPERATIONS if op.needs_running]


def check(op: Operation, data: Array, **arguments: Array) -> None:
    x = op.spread(data)
    given = {**op.arguments(x, np.random.default_rng(0), groups=len(data) // 2), **arguments}
    y, *stats = op(x, eps=0, return_stats=True, **given)
    exact = op.exact(x, eps=0, **given)
    assert_accurate(y, exact, data.dtype, str(data.shape))
    assert_statistics(tuple(stats), exact, data.dtype)


# --- float64 ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-165, 1e155, 1e200, 1e300])
@every_measuring_operation
def test_squares_beyond_the_range_of_float64(op, scale, rng):
    for rows, count in COUNTS:
        check(op, rng.uniform(-1, 1, (rows, count)) * scale)
        check(op, (rng.uniform(-1, 1, (rows, count)) + 1e3) * (scale / 1e3))


@every_measuring_operation
def test_only_some_sets_beyond_the_range_of_float64(op, rng):
    for rows, count in COUNTS:
        scales = np.resize([1, 1e300, 1e-165, 1e155, 1e5], rows)[:, None]
        data = rng.standard_normal((rows, count)) * scales
        check(op, data)
        data[:, : count // 2] *= 1e-10
        check(op, data)


@every_measuring_operation
def test_differences_beyond_the_range_of_float64(op, rng):
    for rows, count in COUNTS:
        data = np.full((rows, count), -1.5e308)
        data[np.arange(rows), rng.integers(0, count, rows)] = 1.5e308
        check(op, data)


@every_measuring_operation
def test_eps_and_data_of_very_different_sizes(op, rng):
    """eps times the square of the scale that the data gets is beyond the range."""
    for rows, count in COUNTS:
        for scale, eps in ((1e-200, 1e-30), (1e-200, 1e9), (1e-310, 1e-5), (1e200, 1e300)):
            x = op.spread(rng.uniform(-1, 1, (rows, count)) * scale)
            given = op.arguments(x, rng, np.float64, rows // 2)
            y, *stats = op(x, eps=eps, return_stats=True, **given)
            exact = op.exact(x, eps=eps, **given)
            assert_accurate(y, exact, x.dtype, f"{x.shape} of {scale}, eps {eps}")
            assert_statistics(tuple(stats), exact, x.dtype)


@pytest.mark.parametrize("value", [0.0, 1e-200, 1e200, -1.5e308])
@every_measuring_operation
def test_constants(op, value):
    for rows, count in COUNTS:
        x = op.spread(np.full((rows, count), value))
        arguments = op.arguments(x, np.random.default_rng(0), groups=rows // 2)
        y, *stats = op(x, eps=1e-5, return_stats=True, **arguments)
        exact = op.exact(x, eps=1e-5, **arguments)
        assert_accurate(y, exact, x.dtype, str(x.shape))
        assert_statistics(tuple(stats), exact, x.dtype)


@every_measuring_operation
def test_means_of_parts_that_are_farther_apart_than_the_range_is_wide(op):
    """What is measured apart is positive in one part, and negative in another."""
    for rows, count in ((2, 140_000), (4, 12_000), (64, 48)):
        data = np.full((rows, count), 1.5e308)
        data[:, count // 2 :] = -1.5e308
        check(op, data)
        check(op, np.where(np.arange(count) % 2, data, -data))


# --- products of rstd and weight ----------------------------------------------------------

LARGE_WEIGHTS = {"float32": 1e38, "float64": 1e306, "bfloat16": 1e38}


@pytest.mark.parametrize("name", LARGE_WEIGHTS)
@every_operation
def test_weights_near_the_end_of_the_range(op, name, rng):
    """x̂ is at most 1.8, and so the results are within it; rstd·weight is not."""
    dtype = DTYPES[name]
    kind = np.float64 if name == "float64" else np.float32
    for rows, count in COUNTS:
        data = rng.uniform(-1e-3, 1e-3, (rows, count)).astype(dtype)
        channels = op.arguments(op.spread(data), rng, groups=rows // 2)["weight"].shape
        weight = np.asarray(rng.choice((-1, 1), channels) * LARGE_WEIGHTS[name], kind)
        given = {"weight": weight}
        if op.function != "rms_norm":
            given["bias"] = weight / 16
        if op.needs_running:
            given["running_mean"] = data.mean(1, dtype=np.float64)
            given["running_var"] = data.astype(np.float64).var(1)
        check(op, data, **given)


# --- differences in inference -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "var"),
    [("float32", 3e38, 1e38), ("bfloat16", 3e38, 1e38), ("float64", 1.5e308, 1e306)],
)
@each(INFERENCE)
def test_differences_from_a_running_mean_beyond_the_range(op, name, value, var, rng):
    """x - running_mean is infinite in the arithmetic's type, its product with rstd is not."""
    dtype = DTYPES[name]
    kind = np.float64 if name == "float64" else np.float32
    for rows, count in COUNTS:
        data = (rng.uniform(0.9, 1, (rows, count)) * value).astype(dtype)
        signs = np.resize([1, -1, -1], rows)
        given = {
            "running_mean": np.asarray(signs * value, kind),
            "running_var": np.full(rows, var, kind),
        }
        check(op, data, **given)
        x = op.spread(data)
        grad = normal(rng, x.shape, dtype)
        stats = given["running_mean"], (1 / np.sqrt(given["running_var"])).astype(kind)
        weight = normal(rng, rows, kind)
        assert_scaled_gradients(Problem(op, grad, x, stats, {"weight": weight}))


# --- gradients ----------------------------------------------------------------------------


def assert_scaled_gradients(given: Problem) -> None:
    """The gradients are right where 1/std or the weight is far from 1.

    dx is proportional to both, and so is its bound; where it is subnormal, it has fewer digits,
    and so has the rstd that is given.
    """
    exact, dtype = given.exact(), given.x.dtype
    arithmetic = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    unit = 1e-12 if arithmetic.itemsize == 8 else 8 * 2.0**-24
    *_, rstd = given.stats
    given_digits = float((half_ulp(rstd, arithmetic) / rstd).max())
    weight = abs(given.arguments["weight"]).astype(np.longdouble).max()
    scale = rstd.max() * weight
    results = given()
    rounded = half_ulp(exact.dx, dtype) if dtype.itemsize == 2 else half_ulp(exact.dx, arithmetic)
    allowed = (unit + given_digits) * (scale + abs(exact.dx)) + rounded
    assert_within(results[0], exact.dx, allowed, dtype, "dx")
    for name, result, expected, terms in zip(
        ("dweight", "dbias"),
        results[1:],
        (exact.dweight, exact.dbias),
        (exact.weight_terms, exact.bias_terms),
        strict=False,
    ):
        allowed = (sum_unit(dtype) + given_digits) * terms
        if name == "dweight":  # half a unit of x̂, of which terms are a multiple
            allowed = allowed + unit / 16 * exact.bias_terms
        assert_within(result, expected, allowed, arithmetic, name)


@every_measuring_operation
def test_gradients_of_differences_beyond_the_range(op, rng):
    """mean - x is 3.75·10³⁸ for one element in four."""
    for rows, count in ((96, 12), (64, 48), (6, 1024)):
        data = np.resize([2.5e38, 2.5e38, 2.5e38, -2.5e38], (rows, count))
        for dtype, factor in ((np.float32, 1), (DTYPES["bfloat16"], 1), (np.float64, 1e270 / 2.5)):
            x = (data * factor).astype(dtype)
            assert_scaled_gradients(spread_problem(op, x, rng, eps=0))


@pytest.mark.parametrize("scale", [1e-165, 1e155, 1e300])
@every_measuring_operation
def test_gradients_of_squares_beyond_the_range_of_float64(op, scale, rng):
    for rows, count in COUNTS[:3]:
        data = standard(rng, rows, count, np.float64, mean=3) * (scale / 10)
        assert_scaled_gradients(spread_problem(op, data, rng, eps=0))


@pytest.mark.parametrize("name", LARGE_WEIGHTS)
@every_operation
def test_gradients_with_weights_near_the_end_of_the_range(op, name, rng):
    """Sums of grad·weight are beyond it, their mean and its product with rstd are not."""
    dtype = DTYPES[name]
    for rows, count in COUNTS[:3]:
        data = (standard(rng, rows, count, np.float64, mean=3) * 100).astype(dtype)
        given = spread_problem(op, data, rng)
        weight = given.arguments["weight"].astype(np.float64) * LARGE_WEIGHTS[name]
        kind = np.float64 if name == "float64" else np.float32
        arguments = {**given.arguments, "weight": weight.astype(kind)}
        assert_scaled_gradients(dataclasses.replace(given, arguments=arguments))


GREAT = {"float32": 125, "float64": 1021, "bfloat16": 125}


@pytest.mark.parametrize("name", GREAT)
@each([op for op in OPERATIONS if not op.needs_running])
def test_gradients_times_weights_near_the_end_of_the_range(op, name, rng):
    """A power of two changes no digit, so dx has the bound of gradients and weights about 1."""
    dtype, great = DTYPES[name], GREAT[name]
    kind = np.float64 if name == "float64" else np.float32
    for rows, count in COUNTS[:3]:
        data = standard(rng, rows, count, np.float64, mean=3).astype(dtype)
        given = spread_problem(op, data, rng, weight=kind)
        weight = given.arguments["weight"]
        exact = given.exact().dx
        rounding = half_ulp(exact, dtype) if dtype.itemsize == 2 else 0
        allowed = (1e-12 if name == "float64" else 8 * 2.0**-24) * (1.5 + abs(exact)) + rounding
        for of_grad, of_weight in (
            (great, 25 - great),
            (25 - great, great),
            (great, -9),
            (-9, great),
        ):
            result = given(
                grad=np.ldexp(given.grad.astype(np.float64), of_grad).astype(dtype),
                weight=np.ldexp(weight.astype(np.float64), of_weight).astype(kind),
            )[0]
            plain = np.ldexp(result.astype(np.float64), -of_grad - of_weight)
            assert_within(plain, exact.astype(np.float64), allowed, plain.dtype, f"2^{of_grad}")


# --- time ---------------------------------------------------------------------------------

LIMITS = {  # scale of x and of the weight, and the times that they may take of what 1 takes
    "weights of 1e-32": (1, 1e-32, 2),
    "data of 1e-20": (1e-20, 1, 2),
    # Subnormal numbers are operands of two multiplications in each direction, which wait for
    # them: ten times, which is aimed at, is not reached by all processors.
    "data of 1e-39": (1e-39, 1, 20),
}
TIMED = {  # about 4 MB each
    "rows": (fastnorm.layer_norm, fastnorm.layer_norm_backward, (1365, 768), -1),
    "maps": (fastnorm.batch_norm, fastnorm.batch_norm_backward, (32, 32, 32, 32), 1),
    "columns": (fastnorm.batch_norm, fastnorm.batch_norm_backward, (16384, 64), 1),
}


def best_times(calls: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Of many, in turn, so that what else the computer does meets all of them."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repetitions):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


@pytest.mark.parametrize("shape", TIMED)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_small_numbers_take_little_more_time(direction, shape, rng):
    """Subnormal numbers cost some processors a hundred cycles each, wherever they come up."""
    forward, backward, size, axis = TIMED[shape]
    options = {"training": True} if forward is fastnorm.batch_norm else {}
    plain, plain_grad = normal(rng, size, mean=0.5), normal(rng, size)
    fastnorm.set_num_threads(1)

    def timed(x_scale: float, weight_scale: float) -> Callable[[], object]:
        x = (plain.astype(np.float64) * x_scale).astype(np.float32)
        weight = np.full(size[axis], weight_scale, np.float32)
        out = np.empty_like(x)
        if direction == "forward":
            return lambda: forward(x, weight=weight, out=out, **options)
        _, mean, rstd = forward(x, return_stats=True, **options)
        return lambda: backward(plain_grad, x, mean, rstd, weight, out=out)

    calls = {"1": timed(1, 1)}
    calls |= {name: timed(*scales) for name, (*scales, _) in LIMITS.items()}
    best = best_times(calls, 25)
    for name, (*_, limit) in LIMITS.items():
        assert best[name] <= limit * best["1"], f"{name}: {best[name] / best['1']:.1f} times"
