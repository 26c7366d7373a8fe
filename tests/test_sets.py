"""No set may show where it lies, beside which others, or how many there are.

Sets are taken in batches, of which each is summed while the one before is applied; results go
straight to the output or by way of a buffer. So every set is compared with itself alone, under
every schedule, wherever the arrays begin in a line of the cache. Nothing is written beside them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from helpers import Array, assert_guarded, assert_same_bits, every_dtype, guarded, normal, placed
from schedules import schedules, settings, use_schedule

import fastnorm

Function = Callable[..., Array]

# Short rows, and around lines, vectors and lanes, their sums' levels, and blocks of parameters.
SHORT = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31)
LONG = (32, 33, 48, 49, 64, 96, 97, 128, 200, 256, 257, 384, 768, 1024, 1025, 2100)
MAPS = (2, 4, 9, 16, 25, 31, 32, 49, 64, 100, 196, 289, 1024)
# Part of a batch, one, one and a bit, more.
TOGETHER = (2, 7, 15, 16, 17, 35)
OFFSETS = (0, 1, 4, 7, 15, 0)


def rows_of(n: int, rows: int, dtype: np.dtype, rng: np.random.Generator) -> Array:
    """Rows, some of which are not measured or applied as their neighbours are."""
    x = normal(rng, (rows, n), np.float64, mean=3)
    x[rows // 2] += 3e4 if dtype == np.float16 else 1e6
    x[5] *= 1e-18  # squares that float32 loses
    x[6] = 7.25  # all the same
    x[8] = 1e-200  # squares that float64 loses
    return x.astype(dtype)


def parameters(dtype: np.dtype, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    kind = np.float64 if dtype == np.float64 else np.float32
    return normal(rng, (n,), kind), normal(rng, (n,), kind)


def gapped(x: Array) -> Array:
    """A copy with three elements between its rows."""
    copy = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)[..., :-3]
    copy[...] = x
    return copy


def assert_sets(
    function: Function, x: Array, expected: Array, offset: int, message: str, gaps: bool = True
) -> None:
    """To a new array, to one that begins anywhere, in place, and with gaps between rows."""
    x = placed(x, offset)
    message = f"{x.shape} at {offset}, {message}"
    assert_same_bits(function(x), expected, message)
    memory, out = guarded(x.shape, x.dtype, offset + len(x))
    assert_same_bits(function(x, out=out), expected, f"{message}, given output")
    assert_guarded(memory, message)
    if gaps:
        apart = gapped(x)
        assert_same_bits(function(apart, out=apart), expected, f"{message}, with gaps, in place")
    assert_same_bits(function(x, out=x), expected, f"{message}, in place")


# --- rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SHORT + LONG)
@every_dtype
def test_rows_beside_others_and_alone(dtype, n, rng):
    rows = rows_of(n, max(TOGETHER), dtype, rng)
    w, b = parameters(dtype, n, rng)
    functions: dict[str, Function] = {
        "weight and bias": lambda x, out=None: fastnorm.layer_norm(x, n, w, b, out=out),
        "weight": lambda x, out=None: fastnorm.layer_norm(x, n, w, out=out),
        "bias": lambda x, out=None: fastnorm.layer_norm(x, n, bias=b, out=out),
        "neither": lambda x, out=None: fastnorm.layer_norm(x, n, out=out),
        "RMS, weight": lambda x, out=None: fastnorm.rms_norm(x, n, w, out=out),
        "RMS": lambda x, out=None: fastnorm.rms_norm(x, n, eps=0, out=out),
    }
    for name, function in functions.items():
        use_schedule("usual")
        alone = np.concatenate([function(row[None]) for row in rows])
        for schedule in schedules():
            for some, offset in zip(TOGETHER, OFFSETS, strict=True):
                message = f"{name}, {schedule}"
                assert_sets(function, rows[:some], alone[:some], offset, message)


@pytest.mark.parametrize("n", MAPS)
@every_dtype
def test_maps_beside_others_and_alone(dtype, n, rng):
    """Parameters and statistics vary from map to map."""
    channels = 19
    maps = np.stack([rows_of(n, channels, dtype, rng) for _ in range(3)])
    w, b = parameters(dtype, channels, rng)
    mean, var = normal(rng, channels), normal(rng, channels) ** 2 + np.float32(0.5)
    functions: dict[str, Function] = {
        "instance": lambda x, k, out=None: fastnorm.instance_norm(
            x, weight=w[k], bias=b[k], out=out
        ),
        "inference": lambda x, k, out=None: fastnorm.batch_norm(
            x, mean[k], var[k], w[k], b[k], out=out
        ),
    }
    for name, function in functions.items():
        use_schedule("usual")
        each = [slice(c, c + 1) for c in range(channels)]
        alone = np.concatenate([function(maps[:, k], k) for k in each], axis=1)
        for schedule in schedules():
            for some, offset in ((1, 0), (2, 1), (5, 4), (8, 0), (16, 7), (19, 15)):
                first = slice(0, some)

                def of_the_first(x: Array, out: Array | None = None, k=first, f=function) -> Array:
                    return f(x, k, out=out)

                message = f"{name}, {schedule}"
                assert_sets(of_the_first, maps[:, first], alone[:, first], offset, message)


# --- columns ------------------------------------------------------------------------------

# Around vectors, lines and the widest strips.
WIDTHS = (1, 3, 16, 17, 48, 64, 100, 131, 511, 512, 513, 544, 1030, 2064)


@pytest.mark.parametrize("channels", WIDTHS)
@every_dtype
def test_rows_of_channels_together_and_apart(dtype, channels, rng):
    """With gaps between them, rows are not one contiguous piece of memory.

    Few columns are summed as several rows side by side, which only contiguous ones can be.
    """
    mean, w, b = (normal(rng, channels) for _ in range(3))
    var = normal(rng, channels) ** 2 + np.float32(0.5)
    functions: dict[str, Function] = {
        "training": lambda x, out=None: fastnorm.batch_norm(
            x, None, None, w, b, training=True, out=out
        ),
        "inference": lambda x, out=None: fastnorm.batch_norm(x, mean, var, w, b, out=out),
    }
    for rows, offset in ((2, 0), (3, 1), (4, 4), (5, 15), (8, 0), (11, 7), (70, 1)):
        x = normal(rng, (rows, channels), mean=3).astype(dtype)
        for name, function in functions.items():
            gaps = name == "inference" or channels >= 64
            use_schedule("plain")
            expected = function(gapped(x) if gaps else x)
            for schedule in schedules():
                assert_sets(function, x, expected, offset, f"{name}, {schedule}", gaps)


@pytest.mark.parametrize("pixels", [1, 4, 49, 64, 80, 131, 512, 528, 784, 2064])
@every_dtype
def test_columns_with_a_parameter_for_each_row_together_and_apart(dtype, pixels, rng):
    """Layer norm over the channels of channels first."""
    for channels, offset in ((1, 0), (3, 1), (4, 4), (5, 15), (11, 0), (70, 7)):
        w, b = parameters(dtype, channels, rng)
        x = normal(rng, (2, channels, pixels), mean=3).astype(dtype)
        for given in ((w, b), (w, None), (None, b), (None, None)):

            def function(x: Array, out: Array | None = None, given=given) -> Array:
                return fastnorm.layer_norm(x, None, *given, axis=1, out=out)

            use_schedule("plain")
            expected = function(gapped(x))
            for schedule in schedules():
                assert_sets(function, x, expected, offset, schedule)


# --- threads and lines --------------------------------------------------------------------


def assert_every_offset(function: Function, x: Array) -> None:
    """Threads share neither a line of the output nor what is beside it, wherever it begins."""
    use_schedule("plain")
    expected = function(x)
    line = 64 // x.itemsize
    offsets = itertools.chain(range(line), itertools.repeat(0))
    for setting, offset in zip(settings((2, 3)), offsets, strict=False):
        memory, out = guarded(x.shape, x.dtype, 5 * offset)
        function(x, out=out)
        assert_same_bits(out, expected, f"{setting} at {offset}")
        assert_guarded(memory, f"{setting} at {offset}")
        assert_same_bits(function(x), expected, f"{setting}, new output")


@pytest.mark.parametrize("n", [3, 15, 31, 32, 49, 96, 100, 300, 768, 1025])
@every_dtype
def test_threads_and_rows(dtype, n, rng):
    x = rows_of(n, 250_000 // n, dtype, rng)
    w, b = parameters(dtype, n, rng)
    assert_every_offset(lambda x, out=None: fastnorm.layer_norm(x, n, w, b, out=out), x)


@pytest.mark.parametrize("pixels", [4, 9, 49, 196, 256, 784, 5000, 40_000])
@every_dtype
def test_threads_and_maps(dtype, pixels, rng):
    channels = max(3, 50_000 // pixels)
    x = rows_of(pixels, 4 * channels, dtype, rng).reshape(4, channels, pixels)
    w, b = parameters(dtype, channels, rng)
    for function in (
        lambda x, out=None: fastnorm.instance_norm(x, weight=w, bias=b, out=out),
        lambda x, out=None: fastnorm.batch_norm(x, None, None, w, b, training=True, out=out),
    ):
        assert_every_offset(function, x)


@pytest.mark.parametrize("pixels", [1, 3, 32, 49, 196, 260, 1001, 3136])
@every_dtype
def test_threads_and_columns(dtype, pixels, rng):
    """Blocks of rows with parameters of their own; then strips of columns with theirs."""
    rows = 21
    w, b = parameters(dtype, rows, rng)
    blocks = 1 + 200_000 // (rows * pixels)
    x = normal(rng, (blocks, rows, pixels), mean=3).astype(dtype)
    assert_every_offset(lambda x, out=None: fastnorm.layer_norm(x, None, w, b, axis=1, out=out), x)


@pytest.mark.parametrize("channels", [5, 64, 500, 513, 1024, 1030])
@every_dtype
def test_threads_and_channels_last(dtype, channels, rng):
    x = normal(rng, (200_000 // channels, channels), mean=3).astype(dtype)
    w, b = parameters(dtype, channels, rng)
    assert_every_offset(
        lambda x, out=None: fastnorm.batch_norm(x, None, None, w, b, training=True, out=out), x
    )
