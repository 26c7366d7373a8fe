"""One result for one input, to the last bit.

Neither the instruction set, nor the number of threads, nor the rest of the batch, nor where the
result goes may show in the bytes of a result. The shapes below are those where an implementation
would be tempted: work that is only just enough for threads, one huge row, few channels, maps of
7 by 7, groups of one channel and of many.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from helpers import (
    DTYPES,
    MEASURING,
    Array,
    Operation,
    assert_same_bits,
    each,
    every_batch_free_operation,
    every_dtype,
    every_operation,
    misaligned,
    normal,
)
from schedules import settings, use_schedule

# (N, C, S) for channels, (N, S) or (N, C, S) for axes; most of them are just enough for threads
SHAPES = [
    (3, 5, 7),
    (37, 64, 49),
    (4, 1024, 7 * 7),
    (2, 3, 33_000),  # few channels, long
    (1, 1, 200_000),  # one row
    (1, 64, 3000),
    (33_000, 3, 2),  # short rows
    (30, 100, 65),
    (3, 600, 120),
    (2, 1, 100_003),
    (200, 512, 2),
    (2, 4099, 33),
]
GROUPED = [  # channels and groups: 1, 3, 40 and 600 channels in a group
    (64, 64),
    (96, 32),
    (1200, 30),
    (1200, 2),
    (6, 2),
    (640, 1),
]


def inputs(
    op: Operation,
    rng: np.random.Generator,
    dtype: np.dtype,
    shapes: Iterable[tuple[int, int, int]] = SHAPES,
) -> Iterator[Array]:
    for n, channels, spatial in shapes:
        if op.options.get("axis") == 1 or op.channel_axis == 1:
            shape = (n, channels, spatial)
        elif op.channel_axis == -1:
            shape = (n, spatial, channels)
        else:
            shape = (n * channels, spatial) if spatial > 2 else (n, channels * spatial)
        yield normal(rng, shape, dtype, mean=3)


def assert_bits_everywhere(op: Operation, x: Array, arguments: dict) -> None:
    expected: tuple[Array, ...] = ()
    for setting in settings():
        results = op(x, return_stats=True, **arguments)
        expected = expected or results
        for result, first in zip(results, expected, strict=True):
            assert_same_bits(result, first, f"{setting}, {x.shape}")


@every_operation
@every_dtype
def test_every_tier_and_number_of_threads(op, dtype, rng):
    for x in inputs(op, rng, dtype):
        assert_bits_everywhere(op, x, op.arguments(x, rng))


@pytest.mark.parametrize("channel_axis", [1, -1])
@every_dtype
def test_every_tier_and_number_of_threads_for_groups(channel_axis, dtype, rng):
    op = Operation("group_norm", "group_norm", channel_axis)
    for channels, groups in GROUPED:
        for n, spatial in ((2, 5), (7, 16), (2, 200)):
            x = normal(rng, (n, channels, spatial), dtype, mean=3)
            x = np.ascontiguousarray(np.moveaxis(x, 1, channel_axis))
            assert_bits_everywhere(op, x, op.arguments(x, rng, groups=groups))


@every_operation
def test_every_tier_and_number_of_threads_where_range_is_guarded(op, rng):
    """Parts that are measured anew, in some places only."""
    for x in inputs(op, rng, np.dtype(np.float64), SHAPES[1:4]):
        scales = np.resize([1, 1, 1e25, 1, 1e-25], x.size).reshape(x.shape)
        x = np.where(rng.random(x.shape) < 0.01, x * scales, x).astype(np.float32)
        x.ravel()[: x.size // 3] *= np.float32(1e-25)
        assert_bits_everywhere(op, x, op.arguments(x, rng))


@each([op for op in MEASURING if op.function in ("batch_norm", "instance_norm")])
def test_running_statistics_of_every_tier_and_number_of_threads(op, rng):
    for x in inputs(op, rng, np.dtype(np.float32)):
        channels = x.shape[op.channel_axis]
        expected = None
        for setting in settings():
            mean, var = np.zeros(channels, np.float32), np.ones(channels, np.float32)
            op(x, running_mean=mean, running_var=var)
            running = np.stack([mean, var])
            expected = running if expected is None else expected
            assert_same_bits(running, expected, setting)


# --- the batch ----------------------------------------------------------------------------


def parts(n: int) -> list[slice]:
    """Single samples, an even and an odd number of them, everything but one."""
    cuts = {(0, 1), (n // 2, n // 2 + 1), (n - 1, n), (0, n // 2), (1, n), (n // 3, n // 3 + 3)}
    return [slice(i, j) for i, j in sorted(cuts) if i < j]


def assert_batch_does_not_matter(op: Operation, x: Array, arguments: dict) -> None:
    whole = op(x, **arguments)
    for part in parts(len(x)):
        assert_same_bits(op(x[part], **arguments), whole[part], f"{part} of {x.shape}")
    chosen = np.arange(0, len(x), 3)[::-1]
    assert_same_bits(op(x[chosen], **arguments), whole[chosen], f"a choice of {x.shape}")
    assert_same_bits(op(x[::2], **arguments), whole[::2], f"every second of {x.shape}")
    assert_same_bits(op(x[::-1], **arguments), whole[::-1], f"{x.shape} backwards")
    one = misaligned(x[-1:])
    assert_same_bits(op(one, **arguments), whole[-1:], f"one of {x.shape}, misaligned")


@every_batch_free_operation
@every_dtype
def test_the_rest_of_the_batch_does_not_matter(op, dtype, rng):
    for x in inputs(op, rng, dtype, [shape for shape in SHAPES if shape[0] > 1]):
        assert_batch_does_not_matter(op, x, op.arguments(x, rng))


@pytest.mark.parametrize("channel_axis", [1, -1])
@every_dtype
def test_the_rest_of_the_batch_does_not_matter_for_groups(channel_axis, dtype, rng):
    op = Operation("group_norm", "group_norm", channel_axis)
    for channels, groups in GROUPED:
        for n, spatial in ((5, 1), (5, 2), (7, 16), (3, 500)):
            x = normal(rng, (n, channels, spatial), dtype, mean=3)
            x = np.ascontiguousarray(np.moveaxis(x, 1, channel_axis))
            assert_batch_does_not_matter(op, x, op.arguments(x, rng, groups=groups))


@pytest.mark.parametrize("axis", [2, 3, (1, 2), (2, 3), (1, 3), (1, 2, 3)], ids=str)
@every_dtype
def test_the_rest_of_the_batch_does_not_matter_for_any_axes(axis, dtype, rng):
    for shape in ((5, 6, 40, 70), (4, 3, 300, 9), (70, 2, 7, 7)):
        x = normal(rng, shape, dtype, mean=3)
        for function in ("layer_norm", "rms_norm"):
            op = Operation(function, function, options={"axis": axis})
            assert_batch_does_not_matter(op, x, op.arguments(x, rng))
        assert_bits_everywhere(op, x, op.arguments(x, rng))


@every_batch_free_operation
def test_the_rest_of_the_batch_does_not_matter_wherever_it_lies(op, rng):
    """Samples side by side in memory, cut out as views."""
    for shape in ((7, 6, 35), (40, 24, 65), (5, 130, 400)):
        base = normal(rng, shape, mean=3)
        arguments = op.arguments(base, rng)
        for order in itertools.permutations(range(3)):
            x = base.transpose(order).copy().transpose(np.argsort(order))
            whole = op(x, **arguments)
            for part in parts(len(x)):
                message = f"{part} of {shape}, {order} in memory"
                assert_same_bits(op(x[part], **arguments), whole[part], message)


@pytest.mark.parametrize("function", ["batch_norm", "group_norm"])
def test_matrices(function, rng):
    """(N, C), without spatial axes."""
    options = {"training": True} if function == "batch_norm" else {}
    op = Operation(function, function, 1, options)
    for shape in ((60_000, 3), (2000, 100), (200, 1000), (2, 70_000), (3100, 65)):
        x = normal(rng, shape, mean=3)
        arguments = op.arguments(x, rng)
        assert_bits_everywhere(op, x, arguments)
        if function == "group_norm":
            assert_batch_does_not_matter(op, x, arguments)


# --- where the result goes ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16"])
@every_operation
def test_in_place_and_elsewhere(op, name, rng):
    dtype = DTYPES[name]
    for x in inputs(op, rng, dtype):
        arguments = op.arguments(x, rng)
        expected = op(x, **arguments)
        odd = misaligned(x)
        assert_same_bits(op(odd, **arguments), expected, f"misaligned {x.shape}")
        assert_same_bits(op(odd, out=odd, **arguments), expected, f"misaligned {x.shape} in place")
        op(x, out=x, **arguments)
        assert_same_bits(x, expected, f"{x.shape} in place")


@every_operation
def test_large_arrays(op, rng):
    """Of a size that is streamed without being told to, but never in place."""
    x = normal(rng, (64, 64, 28 * 28), mean=3)
    arguments = op.arguments(x, rng)
    use_schedule("plain")
    expected = op(x, **arguments)
    use_schedule("usual")
    assert_same_bits(op(x, **arguments), expected, "new output")
    op(x, out=x, **arguments)
    assert_same_bits(x, expected, "in place")
