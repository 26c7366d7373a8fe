"""What training leaves in running statistics, and what evaluation makes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import reference
from helpers import (
    BFLOAT16,
    DTYPES,
    Array,
    Operation,
    assert_accurate,
    assert_same_bits,
    bits,
    each,
    every_dtype,
    half_ulp,
    misaligned,
    normal,
)

import fastnorm

UPDATING = [
    Operation(f"{function} {layout}", function, channel_axis, options)
    for function, options in (("batch_norm", {"training": True}), ("instance_norm", {}))
    for layout, channel_axis in (("NCHW", 1), ("NHWC", -1))
]
every_updating_operation = each(UPDATING)
SHAPES = ((2, 6, 2), (3, 6, 5, 7), (4, 64, 65), (2, 3, 9000))


def inputs(op: Operation, rng: np.random.Generator, dtype: np.dtype, mean: float) -> list[Array]:
    """Batches with channels of different means and variances."""
    batches = []
    for shape in SHAPES:
        per_channel = np.linspace(0.5, 2, shape[1]).reshape(-1, *[1] * (len(shape) - 2))
        x = (normal(rng, shape) * per_channel + mean * per_channel).astype(dtype)
        batches.append(np.ascontiguousarray(np.moveaxis(x, 1, op.channel_axis)))
    return batches


def running(rng: np.random.Generator, channels: int, dtype: np.dtype) -> tuple[Array, Array]:
    return normal(rng, channels, dtype), (normal(rng, channels) ** 2 + 1).astype(dtype)


def assert_updated(actual: Array, expected: Array, x_dtype: np.dtype) -> None:
    """A rounding to the type of the running statistics, and one of the arithmetic."""
    unit = 1e-12 if reference.is_double(x_dtype) else 2.0**-22
    tolerance = unit * (1 + abs(expected)) + half_ulp(expected.astype(np.float64), actual.dtype)
    assert (abs(reference.widen(actual) - expected) <= tolerance).all()


@pytest.mark.parametrize("momentum", [0.1, 1])
@every_dtype
@every_updating_operation
def test_update(op, dtype, momentum, rng):
    for mean in (0, 1, 30) if dtype.itemsize == 2 else (0, 1, 1e4):
        for x in inputs(op, rng, dtype, mean):
            without = op(x)
            for running_dtype in DTYPES.values():
                old = running(rng, x.shape[op.channel_axis], running_dtype)
                exact = op.exact(x, running_mean=old[0], running_var=old[1], momentum=momentum)
                new = [array.copy() for array in old]
                y = op(x, running_mean=new[0], running_var=new[1], momentum=momentum)
                assert_updated(new[0], exact.running_mean, dtype)
                assert_updated(new[1], exact.running_var, dtype)
                assert_same_bits(y, without, "with and without running statistics")
            assert_accurate(without, exact, dtype)


def test_the_formula_by_hand():
    """Values small enough to check in the head."""
    x = np.array([[[1, 3], [0, 0]], [[5, 7], [8, 8]]], np.float32)  # (N, C, S) = (2, 2, 2)
    mean, var = np.array([10, 20], np.float32), np.array([1, 2], np.float32)
    fastnorm.batch_norm(x, mean, var, training=True, momentum=0.25)
    # means 4 and 4; squared deviations 9 + 1 + 1 + 9 = 20 and 64, divided by 4 - 1
    np.testing.assert_allclose(mean, [0.75 * 10 + 0.25 * 4, 0.75 * 20 + 0.25 * 4])
    np.testing.assert_allclose(var, [0.75 * 1 + 0.25 * 20 / 3, 0.75 * 2 + 0.25 * 64 / 3], rtol=1e-6)

    mean, var = np.array([10, 20], np.float32), np.array([1, 2], np.float32)
    fastnorm.instance_norm(x, mean, var, momentum=0.25)
    # means 2, 6 and 0, 8; variances 2, 2 and 0, 0, divided by 2 - 1
    np.testing.assert_allclose(mean, [0.75 * 10 + 0.25 * 4, 0.75 * 20 + 0.25 * 4])
    np.testing.assert_allclose(var, [0.75 * 1 + 0.25 * 2, 0.75 * 2], rtol=1e-6)


@every_updating_operation
def test_momentum_zero_keeps_every_bit(op, rng):
    for running_dtype in DTYPES.values():
        x = normal(rng, (4, 6, 6))
        old = running(rng, 6, running_dtype)
        new = [array.copy() for array in old]
        op(x, running_mean=new[0], running_var=new[1], momentum=0)
        for kept, array in zip(new, old, strict=True):
            assert_same_bits(kept, array)


BAD = (np.nan, np.inf, -np.inf)


@every_updating_operation
def test_momentum_zero_keeps_what_is_bad_and_takes_nothing_bad(op, rng):
    """0·inf is no number, and neither old nor new values may get there so."""
    for bad in BAD:
        x = normal(rng, (4, 6, 6))
        old = running(rng, 6, np.dtype(np.float32))
        old[0][1] = old[1][4] = bad
        x[(1, 3, 2) if op.channel_axis == 1 else (1, 2, 3)] = bad
        new = [array.copy() for array in old]
        op(x, running_mean=new[0], running_var=new[1], momentum=0)
        for kept, array in zip(new, old, strict=True):
            assert_same_bits(kept, array, f"{bad}")


@every_updating_operation
def test_momentum_one_replaces_what_is_bad(op, rng):
    for running_dtype in DTYPES.values():
        x = normal(rng, (4, 6, 6))
        clean = running(rng, 6, running_dtype)
        op(x, running_mean=clean[0], running_var=clean[1], momentum=1)
        for bad in BAD:
            new = [np.full_like(array, bad) for array in clean]
            op(x, running_mean=new[0], running_var=new[1], momentum=1)
            for array, expected in zip(new, clean, strict=True):
                assert_same_bits(array, expected, f"{bad}")


@pytest.mark.parametrize("layer", [fastnorm.layers.BatchNorm, fastnorm.layers.InstanceNorm])
def test_the_first_of_a_cumulative_average_replaces_what_is_bad(layer, rng):
    x = normal(rng, (4, 6, 6))
    for bad in BAD:
        layers = [layer(6, momentum=None, track_running_stats=True) for _ in range(2)]
        layers[0].running_mean[...] = layers[0].running_var[...] = bad
        for each_layer in layers:
            each_layer.train()
            each_layer(x)
            each_layer(2 * x)
        assert_same_bits(layers[0].running_mean, layers[1].running_mean, f"{bad}")
        assert_same_bits(layers[0].running_var, layers[1].running_var, f"{bad}")
        assert np.isfinite(layers[0].running_mean).all()


@every_updating_operation
def test_many_batches(op, rng):
    mean, var = np.zeros(6, np.float32), np.ones(6, np.float32)
    expected = mean.astype(np.float64), var.astype(np.float64)
    for _ in range(50):
        x = normal(rng, (4, 6, 6), mean=5)
        exact = op.exact(x, running_mean=expected[0], running_var=expected[1])
        expected = exact.running_mean, exact.running_var
        op(x, running_mean=mean, running_var=var)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-5)
    np.testing.assert_allclose(var, expected[1], rtol=1e-5)


def gapped(array: Array) -> Array:
    return np.repeat(array, 3)[1::3]


def backwards(array: Array) -> Array:
    return array[::-1].copy()[::-1]


def byte_swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


@pytest.mark.parametrize("lay_out", [gapped, backwards, byte_swapped, misaligned])
@every_updating_operation
def test_any_arrays_are_updated_in_place(op, lay_out: Callable[[Array], Array], rng):
    for dtype in DTYPES.values():
        if dtype == BFLOAT16 and lay_out is byte_swapped:
            continue  # NumPy knows no byte order of types of other packages
        x = normal(rng, (4, 6, 6), mean=2)
        plain = running(rng, 6, dtype)
        arrays = [lay_out(array) for array in plain]
        op(x, running_mean=plain[0], running_var=plain[1])
        op(x, running_mean=arrays[0], running_var=arrays[1])
        for array, expected in zip(arrays, plain, strict=True):
            assert_same_bits(array.astype(dtype), expected)


@pytest.mark.parametrize("momentum", [0.1, 1])
@every_updating_operation
def test_values_beyond_the_range_become_infinite(op, momentum, rng):
    x = normal(rng, (4, 6, 6)) * 1e30
    for dtype in (np.float16, np.float32):
        mean, var = running(rng, 6, np.dtype(dtype))
        op(x, running_mean=mean, running_var=var, momentum=momentum)  # a warning would be an error
        assert np.isposinf(var).all()
        assert np.isinf(mean).all() == (dtype == np.float16)


def test_a_channel_does_not_depend_on_how_many_there_are(rng):
    """Averages over many samples are added up in the same order for one channel and for more."""
    x = normal(rng, (300, 6, 6), np.float64, mean=1)
    mean, var = np.zeros(6), np.ones(6)
    fastnorm.instance_norm(x, mean, var)
    for channel in range(6):
        one = slice(channel, channel + 1)
        alone = np.zeros(1), np.ones(1)
        fastnorm.instance_norm(x[:, one], *alone)
        assert_same_bits(alone[0], mean[one])
        assert_same_bits(alone[1], var[one])


def test_one_array_for_both(rng):
    """The mean is stored before the variance is read."""
    x = normal(rng, (4, 6, 6), mean=3)
    mean, var = np.zeros(6), np.zeros(6)
    fastnorm.batch_norm(x, mean, var, training=True, momentum=0.25)
    both = np.zeros(6)
    fastnorm.batch_norm(x, both, both, training=True, momentum=0.25)
    assert_same_bits(both, 0.75 * mean + var)


def test_the_neighbours_of_strided_statistics_are_kept(rng):
    memory = np.full((6, 4), 7, np.float32)
    memory[:, 1], memory[:, 2] = 0, 1
    fastnorm.batch_norm(normal(rng, (4, 6, 6)), memory[:, 1], memory[:, 2], training=True)
    assert (memory[:, [0, 3]] == 7).all()
    assert (memory[:, [1, 2]] != 7).all()


@every_updating_operation
def test_empty_batches_change_nothing(op, rng):
    for shape in ((0, 6, 6), (4, 6, 0), (0, 6, 0)):
        x = np.empty(shape, np.float32)
        x = x if op.channel_axis == 1 else np.moveaxis(x, 1, -1)
        old = running(rng, 6, np.dtype(np.float32))
        new = [array.copy() for array in old]
        assert op(x, running_mean=new[0], running_var=new[1]).shape == x.shape
        for kept, array in zip(new, old, strict=True):
            assert_same_bits(kept, array, str(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every_updating_operation
def test_a_bad_value_poisons_its_channel_alone(op, bad, rng):
    x = normal(rng, (4, 6, 6))
    clean = running(rng, 6, np.dtype(np.float32))
    poisoned = [array.copy() for array in clean]
    op(x, running_mean=clean[0], running_var=clean[1])
    x[(1, 3, 2) if op.channel_axis == 1 else (1, 2, 3)] = bad
    op(x, running_mean=poisoned[0], running_var=poisoned[1])
    for array, expected in zip(poisoned, clean, strict=True):
        assert not np.isfinite(array[3])
        assert_same_bits(np.delete(array, 3), np.delete(expected, 3))


# --- evaluation ---------------------------------------------------------------------------


@pytest.mark.parametrize("channel_axis", [1, -1])
@every_dtype
def test_evaluation_uses_and_keeps_them(channel_axis, dtype, rng):
    for function, options in (
        ("batch_norm", {"training": False}),
        ("instance_norm", {"use_input_stats": False}),
    ):
        op = Operation(function, function, channel_axis, options)
        for running_dtype in DTYPES.values():
            for shape in ((4, 6, 6), (1, 6, 6), (3, 6, 1)):
                x = np.moveaxis(normal(rng, shape, dtype), 1, channel_axis)
                mean, var = running(rng, 6, running_dtype)
                before = [bits(array).copy() for array in (mean, var)]
                y = op(x, running_mean=mean, running_var=var)
                assert_accurate(y, op.exact(x, running_mean=mean, running_var=var), dtype)
                for array, old in zip((mean, var), before, strict=True):
                    assert (bits(array) == old).all()


def test_batch_and_instance_norm_agree_in_evaluation(rng):
    x = normal(rng, (4, 6, 35))
    mean, var = running(rng, 6, np.dtype(np.float32))
    assert_same_bits(
        fastnorm.instance_norm(x, mean, var, use_input_stats=False),
        fastnorm.batch_norm(x, mean, var),
    )


@pytest.mark.parametrize("lay_out", [gapped, backwards, byte_swapped, misaligned])
@pytest.mark.parametrize("function", ["batch_norm", "instance_norm"])
def test_any_arrays_are_read(function, lay_out: Callable[[Array], Array], rng):
    mode = {"training" if function == "batch_norm" else "use_input_stats": False}
    for dtype in DTYPES.values():
        if dtype == BFLOAT16 and lay_out is byte_swapped:
            continue  # NumPy knows no byte order of types of other packages
        for x_dtype in (np.float32, np.float64):
            x = normal(rng, (4, 6, 6), x_dtype, mean=2)
            plain = running(rng, 6, dtype)
            expected = getattr(fastnorm, function)(x, *plain, return_stats=True, **mode)
            arrays = [lay_out(array) for array in plain]
            results = getattr(fastnorm, function)(x, *arrays, return_stats=True, **mode)
            for result, wanted in zip(results, expected, strict=True):
                assert_same_bits(result, wanted)


@pytest.mark.parametrize("which", ["running_mean", "running_var"])
@every_dtype
def test_out_may_be_one_of_them(which, dtype, rng):
    """They are read, and returned as the statistics used, before the output overwrites them."""
    x = normal(rng, (1, 6), dtype, mean=2)
    names = ("running_mean", "running_var")
    arguments = dict(zip(names, running(rng, 6, dtype), strict=True))
    expected = fastnorm.batch_norm(x, **arguments, return_stats=True)
    out = arguments[which][np.newaxis]
    results = fastnorm.batch_norm(x, **arguments, out=out, return_stats=True)
    assert results[0] is out
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(result, wanted)
