"""Shapes, memory and axes that nobody thought of, and relations between the operations."""

from __future__ import annotations

import fractions
import math

import numpy as np
import pytest
import reference
from helpers import (
    DTYPES,
    MEASURING,
    OPERATIONS,
    Array,
    Operation,
    assert_accurate,
    assert_statistics,
    each,
    normal,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastnorm

SIZES = st.one_of(st.integers(1, 9), st.sampled_from([16, 31, 32, 33, 64, 65, 100]))
SHAPES = st.lists(SIZES, min_size=1, max_size=6).filter(lambda shape: math.prod(shape) <= 20_000)
NEW_DTYPES = st.sampled_from(list(DTYPES.values()))
SEEDS = st.integers(0, 2**32 - 1)
EPS = st.sampled_from([1e-12, 1e-5, 0.1])


@st.composite
def arrays(draw: st.DrawFn, ndim: int = 1) -> Array:
    """Normal deviates of any mean, anywhere in memory."""
    shape = draw(SHAPES.filter(lambda shape: len(shape) >= ndim))
    dtype = draw(NEW_DTYPES)
    rng = np.random.default_rng(draw(SEEDS))
    mean = draw(st.sampled_from([0, 1, -30] if dtype.itemsize == 2 else [0, 1, -1e3, 1e5]))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -3])) for _ in shape]
    memory = np.zeros([shape[axis] * abs(steps[axis]) for axis in order], dtype)
    x = memory.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
    x[...] = normal(rng, tuple(shape), dtype, mean)
    return x


def check(op: Operation, x: Array, seed: int, eps: float, out: Array | None) -> None:
    arguments = op.arguments(x, np.random.default_rng(seed))
    exact = op.exact(x, eps=eps, **arguments)
    y, *stats = op(x, eps=eps, out=out, return_stats=True, **arguments)
    assert_accurate(y, exact, x.dtype)
    assert_statistics(tuple(stats), exact, x.dtype)


@st.composite
def outputs(draw: st.DrawFn, x: Array) -> Array | None:
    """None, x itself, or an array of any order of memory."""
    choice = draw(st.sampled_from(["new", "in place", "given"]))
    if choice == "given":
        order = draw(st.permutations(range(x.ndim)))
        return np.empty([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order))
    return x if choice == "in place" else None


@settings(max_examples=300)
@given(data=st.data(), x=arrays(), seed=SEEDS, eps=EPS)
def test_any_axes_of_any_array(data, x, seed, eps):
    axes = data.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1).map(tuple))
    axes = tuple(data.draw(st.sampled_from([a, a - x.ndim])) for a in sorted(axes))
    function = data.draw(st.sampled_from(["layer_norm", "rms_norm"]))
    op = Operation(function, function, options={"axis": axes})
    check(op, x, seed, eps, data.draw(outputs(x)))


@settings(max_examples=300)
@given(data=st.data(), x=arrays(ndim=2), seed=SEEDS, eps=EPS)
def test_any_channels_of_any_array(data, x, seed, eps):
    function, options = data.draw(
        st.sampled_from(
            [
                ("batch_norm", {"training": True}),
                ("batch_norm", {"training": False}),
                ("instance_norm", {}),
                ("group_norm", {}),
            ]
        )
    )
    first = 0 if function == "batch_norm" else 1
    channel_axis = data.draw(st.integers(first, x.ndim - 1))
    pooled = x.size // x.shape[channel_axis] // (x.shape[0] if function == "instance_norm" else 1)
    assume(function == "group_norm" or pooled > 1)  # one value has no statistics
    assume(function != "instance_norm" or x.ndim > 2)
    op = Operation(function, function, channel_axis, options)
    check(op, x, seed, eps, data.draw(outputs(x)))


@settings(max_examples=50)
@given(x=arrays(), data=st.data())
def test_the_oracle_against_rational_arithmetic(x, data):
    """The twin of the tests is right to the last bits of its wide type."""
    row = x.reshape(-1)[:50].astype(np.float64 if x.dtype.itemsize == 2 else x.dtype)
    exact = reference.layer_norm(row, eps=1e-5)
    numbers = [fractions.Fraction(float(v)) for v in row]
    mean = sum(numbers) / len(numbers)
    var = sum((v - mean) ** 2 for v in numbers) / len(numbers)
    # the square root to 40 digits, by way of integers
    total, scale = var + fractions.Fraction(1e-5), 10**40
    root = fractions.Fraction(math.isqrt(int(total * scale**2)), scale)
    for value, result in zip(numbers, exact.y, strict=True):
        expected = (value - mean) / root
        error = abs(fractions.Fraction(*result.as_integer_ratio()) - expected)
        assert error <= fractions.Fraction(1e-14) * (1 + abs(expected))


# --- relations ----------------------------------------------------------------------------


@each(MEASURING)
@settings(max_examples=20)
@given(seed=SEEDS, shift=st.integers(-(2**23), 2**23))
def test_a_shift_changes_nothing(op, seed, shift):
    """Sums of integers are exact, so the exact answer is the same one."""
    if op.function == "rms_norm":
        shift = 0 * shift  # which does not subtract the mean: a shift of nothing
    rng = np.random.default_rng(seed)
    x = rng.integers(-1000, 1000, (4, 6, 35)).astype(np.float32)
    arguments = op.arguments(x, rng)
    assert_accurate(op(x + np.float32(shift), **arguments), op.exact(x, **arguments))


@each(MEASURING)
@settings(max_examples=20)
@given(seed=SEEDS, exponent=st.integers(-60, 60), negative=st.booleans())
def test_a_scale_is_taken_out(op, seed, exponent, negative):
    rng = np.random.default_rng(seed)
    x = normal(rng, (4, 6, 35), mean=1)
    arguments = op.arguments(x, rng)
    exact = op.exact(x, eps=0, **arguments)
    if negative:
        x = -x
        arguments["weight"] = -arguments["weight"]
    assert_accurate(op(np.ldexp(x, exponent), eps=0, **arguments), exact)


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_groups_of_one_channel_are_instances(channel_axis, rng):
    for shape in ((4, 6, 35), (2, 40, 9, 9)):
        x = normal(rng, shape, mean=3)
        channels = x.shape[channel_axis]
        parameters = normal(rng, channels), normal(rng, channels)
        instances = Operation("", "instance_norm", channel_axis)
        y = fastnorm.group_norm(x, channels, *parameters, channel_axis=channel_axis)
        exact = instances.exact(x, weight=parameters[0], bias=parameters[1])
        assert_accurate(y, exact)


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_one_group_is_a_layer(channel_axis, rng):
    for shape in ((4, 6, 35), (2, 40, 9, 9)):
        x = normal(rng, shape, mean=3)
        layers = Operation("", "layer_norm", options={"axis": tuple(range(1, x.ndim))})
        assert_accurate(fastnorm.group_norm(x, 1, channel_axis=channel_axis), layers.exact(x))


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_a_batch_of_one_is_an_instance(channel_axis, rng):
    for shape in ((1, 6, 35), (1, 40, 9, 9)):
        x = normal(rng, shape, mean=3)
        y = fastnorm.batch_norm(x, training=True, channel_axis=channel_axis)
        assert_accurate(y, Operation("", "instance_norm", channel_axis).exact(x))


@each(OPERATIONS)
def test_weight_one_and_bias_zero_are_the_defaults(op, rng):
    for shape in ((4, 6, 35), (2, 40, 3000)):
        x = normal(rng, shape, mean=3)
        arguments = op.arguments(x, rng)
        plain = {k: v for k, v in arguments.items() if k not in ("weight", "bias")}
        arguments["weight"] = np.ones_like(arguments["weight"])
        if "bias" in arguments:
            arguments["bias"] = np.zeros_like(arguments["bias"])
        exact = op.exact(x, **plain)
        assert_accurate(op(x, **plain), exact)
        assert_accurate(op(x, **arguments), exact)
