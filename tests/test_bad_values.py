"""NaN, infinities, subnormals, negative zeros: what they spoil, and what they must not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    MEASURING,
    Array,
    Operation,
    assert_accurate,
    assert_same_bits,
    each,
    every_dtype,
    every_measuring_operation,
    every_operation,
    normal,
)

import fastnorm
from fastnorm import _core

NAN, INF = float("nan"), float("inf")
BAD = ([NAN], [INF], [-INF], [INF, -INF], [NAN, INF])
COUNTS = ((16, 12), (8, 49), (4, 1025), (2, 20_000))


def spoilt_row(op: Operation, row: Array) -> Array:
    """What the definitions leave: NaN, or with an infinity in RMS norm x·0."""
    if op.function == "rms_norm" and not np.isnan(row).any():
        return np.where(np.isinf(row), NAN, 0)
    return np.full(row.shape, NAN)


@every_dtype
@every_measuring_operation
def test_bad_values_poison_their_set_alone(op, dtype, rng):
    for rows, count in COUNTS:
        data = normal(rng, (rows, count), dtype, mean=1)
        arguments = op.arguments(op.spread(data), rng, groups=rows // 2)
        clean, *clean_stats = op(op.spread(data), return_stats=True, **arguments)
        places = itertools.cycle([(0, 0), (rows - 1, count - 2), (rows // 2, count // 2)])
        for isa, bad in itertools.product(fastnorm.config()["isa_available"], BAD):
            _core.use_isa(isa)
            row, position = next(places)
            spoilt = data.copy()
            spoilt[row, position : position + len(bad)] = bad
            expected = np.zeros(data.shape)
            expected[row] = spoilt_row(op, spoilt[row].astype(np.float64))
            poisoned = op.spread(np.arange(rows).repeat(count).reshape(data.shape)) == row
            y, *stats = op(op.spread(spoilt), return_stats=True, **arguments)
            np.testing.assert_array_equal(
                y[poisoned].astype(np.float64), op.spread(expected)[poisoned]
            )
            assert_same_bits(y[~poisoned], clean[~poisoned], f"{bad} in {data.shape}")
            for stat, clean_stat in zip(stats, clean_stats, strict=True):
                assert not np.isfinite(stat.flat[row]) or op.function == "rms_norm"
                assert_same_bits(np.delete(stat, row), np.delete(clean_stat, row))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@every_dtype
@every_operation
def test_nothing_but_bad_values(op, dtype, bad, rng):
    for shape in ((4, 6, 35), (2, 40, 300)):
        x = np.full(shape, bad, dtype)
        arguments = op.arguments(x, rng)
        exact = op.exact(x, **arguments).y
        assert not np.isfinite(exact).any()
        np.testing.assert_array_equal(op(x, **arguments).astype(np.float64), exact)


@pytest.mark.parametrize("channel_axis", [1, -1])
@every_dtype
def test_inference_spoils_single_elements(channel_axis, dtype, rng):
    op = Operation("batch_norm", "batch_norm", channel_axis, {"training": False})
    x = normal(rng, (4, 6, 35, 3), dtype)
    arguments = op.arguments(x, rng)
    clean = op(x, **arguments)
    places = (0, 1, 2, 3), (0, 3, 1, 5), (0, 7, 34, 11), (0, 1, 2, 2)
    places = tuple(np.minimum(p, n - 1) for p, n in zip(places, x.shape, strict=True))
    x[places] = [NAN, INF, -INF, NAN]
    y = op(x, **arguments)
    expected = op.exact(x, **arguments).y
    np.testing.assert_array_equal(y[places].astype(np.float64), expected[places])
    y[places] = clean[places]
    assert_same_bits(y, clean)


@every_operation
def test_bad_parameters_spoil_what_they_multiply(op, rng):
    for shape in ((4, 6, 35), (2, 40, 300)):
        x = normal(rng, shape)
        arguments = op.arguments(x, rng)
        clean = op(x, **arguments)
        names = [name for name, value in arguments.items() if isinstance(value, np.ndarray)]
        for name in names:
            parameter = arguments[name].copy()
            parameter.flat[2] = NAN
            y = op(x, **{**arguments, name: parameter})
            spoilt = np.isnan(op.exact(x, **{**arguments, name: parameter}).y)
            assert spoilt.any()
            assert not spoilt.all()
            np.testing.assert_array_equal(np.isnan(y), spoilt)
            assert_same_bits(y[~spoilt], clean[~spoilt], name)


@every_dtype
def test_results_beyond_the_range_become_infinite(dtype):
    x = np.array([[-1, 1]], dtype)
    big = np.array([float(np.finfo(np.float32).max)] * 2, np.float32)
    if dtype == np.float64:
        big = np.array([np.finfo(np.float64).max] * 2)
    y = fastnorm.layer_norm(x, weight=big, bias=np.copysign(big, x[0].astype(big.dtype)), eps=0)
    np.testing.assert_array_equal(y.astype(np.float64), [[-INF, INF]])


# --- small numbers ------------------------------------------------------------------------


@every_dtype
def test_subnormals_are_kept(dtype, tier):
    """By all threads: with mean 0 and variance 1, inference is the identity."""
    largest = 0x03FF if dtype == np.float16 else 0x007F if dtype == BFLOAT16 else 0x3FFFFF
    patterns = np.resize(np.arange(1, 1 + largest), (3, 64, 700)).astype(f"u{dtype.itemsize}")
    x = patterns.view(dtype) * np.array([1, -1], dtype)[patterns % 2]
    zeros, ones = np.zeros(64, np.float32), np.ones(64, np.float32)
    for threads in (1, 4):
        fastnorm.set_num_threads(threads)
        for transposed in (x, np.moveaxis(x, 1, -1).copy()):
            channel_axis = transposed.shape.index(64)
            y = fastnorm.batch_norm(transposed, zeros, ones, eps=0, channel_axis=channel_axis)
            np.testing.assert_array_equal(y, transposed)
            assert (y != 0).all()


@every_dtype
@every_measuring_operation
def test_negative_zeros_are_zeros(op, dtype, rng):
    data = normal(rng, (8, 49), dtype)
    data[:, ::3] = 0
    negative = data.copy()
    negative[:, ::3] = -0.0
    arguments = op.arguments(op.spread(data), rng, groups=4)
    y, y_negative = op(op.spread(data), **arguments), op(op.spread(negative), **arguments)
    np.testing.assert_array_equal(y_negative, y)
    x = np.full((4, 6, 35), -0.0, dtype)
    arguments = op.arguments(x, rng)
    assert_accurate(op(x, **arguments), op.exact(x, **arguments), dtype)


# --- the floating-point environment -------------------------------------------------------


def spoiled_inputs(rng: np.random.Generator) -> list[Array]:
    """Inputs that raise every floating-point exception there is."""
    shape = (4, 40, 300)
    inputs = [np.full(shape, value, np.float32) for value in (0, NAN, INF, 3e38, 1e-45)]
    inputs.append(normal(rng, shape) * np.float32(1e30))
    inputs.append(np.where(rng.random(shape) < 0.1, np.float32(INF), normal(rng, shape)))
    return inputs + [x.astype(np.float64) for x in inputs]


@each(MEASURING)
def test_numpy_sees_no_floating_point_errors(op, rng):
    for x in spoiled_inputs(rng):
        arguments = op.arguments(x, rng)
        with np.errstate(all="raise"):
            for eps in (0, 1e-5):
                op(x, eps=eps, return_stats=True, **arguments)
            running = {
                "running_mean": np.zeros(6, np.float16),
                "running_var": np.ones(6, np.float16),
            }
            if op.function in ("batch_norm", "instance_norm"):
                running = {k: np.resize(v, x.shape[op.channel_axis]) for k, v in running.items()}
                op(x, **running, **arguments)
            assert np.add(np.float32(1), np.float32(2)) == 3


# --- nothing at all -----------------------------------------------------------------------


def shape_of_statistics(op: Operation, x: Array, groups: int) -> tuple[int, ...]:
    if op.channel_axis is None:
        axis = op.options.get("axis", -1) % x.ndim
        return tuple(1 if d == axis else n for d, n in enumerate(x.shape))
    channels = x.shape[op.channel_axis]
    if op.function == "batch_norm":
        return (channels,)
    return (len(x), groups if op.function == "group_norm" else channels)


@every_operation
@every_dtype
def test_empty_arrays(op, dtype, rng):
    """No sample, or nothing in each: an empty result, statistics of the promised shape."""
    for shape in ((0, 6, 35), (4, 6, 0), (4, 0, 35), (0, 6, 0), (0, 6, 5, 7), (2, 6, 0, 7)):
        x = np.empty(shape, dtype)
        if op.channel_axis == -1:
            x = np.moveaxis(x, 1, -1)
        arguments = op.arguments(x, rng)
        for empty in (x, np.asfortranarray(x), x[::-1]):
            y, *stats = op(empty, return_stats=True, **arguments)
            assert y.shape == x.shape
            assert y.dtype == dtype
            assert len(stats) == (1 if op.function == "rms_norm" else 2)
            for stat in stats:
                assert stat.shape == shape_of_statistics(op, x, arguments.get("num_groups", 0))
                assert stat.dtype == (np.float64 if dtype == np.float64 else np.float32)
                assert op.needs_running or np.isnan(stat).all()
        out = np.empty_like(x)
        assert op(x, out=out, **arguments) is out


def test_empty_arrays_without_a_batch():
    for shape in ((0,), (3, 0), (0, 3), (0, 0), (2, 0, 3)):
        for dtype in DTYPES.values():
            x = np.empty(shape, dtype)
            for y in (fastnorm.layer_norm(x), fastnorm.rms_norm(x), fastnorm.layer_norm(x, axis=0)):
                assert y.shape == shape
                assert y.dtype == dtype
