"""Runs that follow each other in memory are stored as one, and eight rows' numbers are made at a
time: no row may show where it lies, beside which others, or how many there are.

Every row is compared with itself alone, which has no seam, and no seven others. Results are stored
through the cache and past it, where lines are left to the next rows.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import DTYPES, Array, assert_same_bits, every_dtype, normal

import fastnorm
from fastnorm import _core

# Around lines and vectors, the longest that are turned into columns, and those from which on the
# sums are made meanwhile and by steps.
LENGTHS = [31, 32, 33, 47, 48, 49, 63, 64, 95, 96, 97, 128, 200, 255, 256, 257, 384, 385, 768, 1025]


def placed(values: Array, offset: int) -> Array:
    """A copy that begins so many elements after a line of the cache."""
    line = 64 // values.itemsize
    memory = np.zeros(values.size + 2 * line, values.dtype)
    start = -memory.ctypes.data % 64 // values.itemsize + offset % line
    copy = memory[start : start + values.size].reshape(values.shape)
    copy[...] = values
    return copy


def rows_of(n: int, rows: int, dtype: np.dtype, rng: np.random.Generator) -> Array:
    x = normal(rng, (rows, n), np.dtype(np.float64), mean=3)
    if rows > 4:
        # beyond the form that the others are computed in; float16 has nothing there
        x[rows // 2] += 3e4 if dtype == np.float16 else 1e6
    if rows > 7:
        x[5] *= 1e-18  # squares that float32 loses
        x[6] = 7.25  # all the same
    return x.astype(dtype)


@pytest.mark.parametrize("n", LENGTHS)
@every_dtype
def test_rows_beside_others_and_alone(dtype, n, stores, rng):
    param = np.float64 if dtype == np.float64 else np.float32
    weight, bias = (normal(rng, (n,), np.dtype(param)) for _ in range(2))
    for rows, offset in itertools.product((2, 3, 4, 7, 8, 9, 16, 17, 25), (0, 1, 4, 15)):
        x = placed(rows_of(n, rows, dtype, rng), offset)
        out = placed(np.zeros_like(x), offset + rows)
        for function in (
            lambda x, out=None: fastnorm.layer_norm(x, n, weight, bias, out=out),
            lambda x, out=None: fastnorm.layer_norm(x, n, weight, out=out),
            lambda x, out=None: fastnorm.layer_norm(x, n, bias=bias, out=out),
            lambda x, out=None: fastnorm.layer_norm(x, n, out=out),
            lambda x, out=None: fastnorm.rms_norm(x, n, weight, out=out),
            lambda x, out=None: fastnorm.rms_norm(x, n, out=out),
        ):
            alone = np.concatenate([function(row[None]) for row in x])
            assert_same_bits(function(x, out=out), alone, f"{rows} rows at {offset}")
            gaps = np.zeros((rows, n + 3), dtype)[:, :n]
            gaps[...] = x
            assert_same_bits(function(gaps), alone, f"{rows} rows with gaps")
            own = x.copy()
            assert_same_bits(function(own, out=own), alone, f"{rows} rows in place")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 23, 24, 28, 31])
@every_dtype
def test_short_rows_in_packs_and_alone(dtype, n, stores, rng):
    """Rows that are turned into columns: in packs, with some left over, and with odd ones among
    them; what is beside the output stays."""
    param = np.float64 if dtype == np.float64 else np.float32
    weight, bias = (normal(rng, (n,), np.dtype(param)) for _ in range(2))
    line = 64 // dtype.itemsize

    def check(function, x, expected, offset):
        memory = placed(np.ones(x.size + 2 * line, dtype), offset)
        out = memory[line:-line].reshape(x.shape)
        function(x, out=out)
        assert_same_bits(out, expected, f"{x.shape} at {offset}")
        assert (memory[:line] == 1).all()
        assert (memory[-line:] == 1).all()
        own = x.copy()
        assert_same_bits(function(own, out=own), expected, f"{x.shape} in place")
        gaps = np.zeros((*x.shape[:-1], n + 3), dtype)[..., :n]
        gaps[...] = x
        assert_same_bits(function(gaps), expected, f"{x.shape} with gaps")

    for rows, offset in ((16, 0), (31, 1), (70, 4), (129, 0), (200, line - 1)):
        x = placed(rows_of(n, rows, dtype, rng), offset)
        x[8] = 1e-200  # float64 squares vanish, too, and eps does not outweigh them
        for function in (
            lambda x, out=None: fastnorm.layer_norm(x, n, weight, bias, out=out),
            lambda x, out=None: fastnorm.layer_norm(x, n, bias=bias, out=out),
            lambda x, out=None: fastnorm.layer_norm(x, n, out=out),
            lambda x, out=None: fastnorm.rms_norm(x, n, weight, out=out),
            lambda x, out=None: fastnorm.rms_norm(x, n, eps=0, out=out),
        ):
            alone = np.concatenate([function(row[None]) for row in x])
            check(function, x, alone, offset)
        if n > 1:  # with a weight for each row
            w, b = (normal(rng, (rows,), np.dtype(param)) for _ in range(2))
            maps = np.stack([x, x[::-1]])
            single = np.stack(
                [
                    np.concatenate(
                        [
                            fastnorm.instance_norm(
                                maps[i, k][None, None], weight=w[k : k + 1], bias=b[k : k + 1]
                            )[0]
                            for k in range(rows)
                        ]
                    )
                    for i in range(2)
                ]
            )
            check(
                lambda x, out=None, w=w, b=b: fastnorm.instance_norm(x, weight=w, bias=b, out=out),
                maps,
                single,
                offset,
            )


@pytest.mark.parametrize("n", [16, 25, 31, 32, 49, 64, 100, 196, 289, 1024])
@every_dtype
def test_maps_beside_others_and_alone(dtype, n, stores, rng):
    """Batch norm in inference, whose maps follow each other, and so do its weights."""
    for channels, offset in itertools.product((1, 2, 5, 8, 16, 19), (0, 1, 7)):
        x = placed(normal(rng, (3, channels, n), np.dtype(np.float32)).astype(dtype), offset)
        mean, weight, bias = (normal(rng, (channels,), np.dtype(np.float32)) for _ in range(3))
        var = np.abs(normal(rng, (channels,), np.dtype(np.float32))) + 0.5
        alone = np.concatenate(
            [
                fastnorm.batch_norm(
                    x[:, c : c + 1], *(a[c : c + 1] for a in (mean, var, weight, bias))
                )
                for c in range(channels)
            ],
            axis=1,
        )
        out = placed(np.zeros_like(x), offset + 3)
        fastnorm.batch_norm(x, mean, var, weight, bias, out=out)
        assert_same_bits(out, alone, f"{channels} channels at {offset}")


# Around what is applied together and the widest pieces of rows; whole lines, and parts.
WIDTHS = [63, 64, 80, 96, 128, 131, 512, 544, 992, 1024, 1056, 2048, 2064, 4112]


@pytest.mark.parametrize("training", [False, True], ids=["given", "measured"])
@pytest.mark.parametrize("channels", WIDTHS)
@every_dtype
def test_rows_of_channels_together_and_apart(dtype, channels, training, stores, rng):
    """Rows that begin at the same place of a line are applied several at a time, and from the first
    line that is theirs alone; with gaps of an element between them they are not."""
    mean, weight, bias = (normal(rng, (channels,), np.dtype(np.float32)) for _ in range(3))
    var = np.abs(normal(rng, (channels,), np.dtype(np.float32))) + 0.5
    for rows, offset in itertools.product((2, 3, 4, 5, 8, 11), (0, 1, 4, 15)):
        x = normal(rng, (rows, channels), np.dtype(np.float32)).astype(dtype)

        def function(x: Array, out: Array) -> Array:
            if training:
                return fastnorm.batch_norm(x, None, None, weight, bias, training=True, out=out)
            return fastnorm.batch_norm(x, mean, var, weight, bias, out=out)

        apart, apart_out = (np.zeros((rows, channels + 1), dtype)[:, :channels] for _ in range(2))
        apart[...] = x
        expected = function(apart, apart_out)
        memory = placed(np.ones(x.size + 64, dtype), offset)
        out = memory[32:-32].reshape(x.shape)
        assert_same_bits(function(placed(x, 3 * offset), out), expected, f"{rows} at {offset}")
        assert (memory[:32] == 1).all()
        assert (memory[-32:] == 1).all()
        own = placed(x, offset)
        assert_same_bits(function(own, own), expected, f"{rows} at {offset} in place")


@pytest.mark.parametrize("pixels", [64, 80, 131, 512, 528, 784, 2064])
@every_dtype
def test_rows_with_a_parameter_each_together_and_apart(dtype, pixels, stores, rng):
    """Layer norm over the channels of channels first."""
    for channels, offset in itertools.product((1, 3, 4, 5, 11), (0, 1, 4, 15)):
        weight, bias = (normal(rng, (channels,), np.dtype(np.float32)) for _ in range(2))
        x = normal(rng, (2, channels, pixels), np.dtype(np.float32)).astype(dtype)
        apart, expected = (np.zeros((2, channels, pixels + 1), dtype)[..., :-1] for _ in range(2))
        apart[...] = x
        fastnorm.layer_norm(apart, axis=1, weight=weight, bias=bias, out=expected)
        memory = placed(np.ones(x.size + 64, dtype), offset)
        out = memory[32:-32].reshape(x.shape)
        fastnorm.layer_norm(placed(x, 3 * offset), axis=1, weight=weight, bias=bias, out=out)
        assert_same_bits(out, expected, f"{channels} at {offset}")
        assert (memory[:32] == 1).all()
        assert (memory[-32:] == 1).all()


@pytest.mark.parametrize("n", [3, 8, 15, 31, 32, 49, 96, 100, 256, 300, 768, 1025])
@pytest.mark.parametrize("name", DTYPES)
def test_rows_past_the_cache(name, n, rng):
    """More than a core's cache holds, on every tier, by two threads, and at every offset in a line:
    what is beside the output stays."""
    dtype = DTYPES[name]
    rows = (5 << 20) // 2 // (n * dtype.itemsize)
    x = rows_of(n, rows, dtype, rng)
    param = np.float64 if dtype == np.float64 else np.float32
    weight, bias = (normal(rng, (n,), np.dtype(param)) for _ in range(2))
    some = np.r_[0:40, rows // 2 - 20 : rows // 2 + 20, rows - 17 : rows]
    alone = np.concatenate([fastnorm.layer_norm(x[k : k + 1], n, weight, bias) for k in some])
    line = 64 // dtype.itemsize
    expected = None
    _core.use_stream_above(0)
    for isa, offset in zip(itertools.cycle(fastnorm.config()["isa_available"]), range(line)):
        _core.use_isa(isa)
        memory = placed(np.ones(x.size + 2 * line, dtype), offset)
        out = memory[line:-line].reshape(x.shape)
        fastnorm.layer_norm(x, n, weight, bias, out=out)
        assert_same_bits(out[some], alone, f"{isa} at {offset}")
        expected = out.copy() if expected is None else expected
        assert_same_bits(out, expected, f"{isa} at {offset}, all")
        assert (memory[:line] == 1).all()
        assert (memory[-line:] == 1).all()


@pytest.mark.parametrize("n", LENGTHS)
@every_dtype
def test_gradients_of_rows_beside_others_and_alone(dtype, n, stores, rng):
    """dx of a row is that of the row alone; gradients of parameters do not depend on the place."""
    param = np.float64 if dtype == np.float64 else np.float32
    weight = normal(rng, (n,), np.dtype(param))
    for rows in (2, 3, 7, 8, 9, 17, 25):
        x, grad = (normal(rng, (rows, n), np.dtype(np.float64)).astype(dtype) for _ in range(2))
        _, mean, rstd = fastnorm.layer_norm(x, n, return_stats=True)
        for w in (weight, None):
            alone = np.concatenate(
                [
                    fastnorm.layer_norm_backward(*rest, w, normalized_shape=n)[0]
                    for rest in zip(
                        *(np.split(a, rows) for a in (grad, x, mean, rstd)), strict=True
                    )
                ]
            )
            gaps = [np.zeros((rows, n + 3), dtype)[:, :n] for _ in range(3)]
            gaps[0][...], gaps[1][...] = grad, x
            expected = fastnorm.layer_norm_backward(
                gaps[0], gaps[1], mean, rstd, w, normalized_shape=n, out=gaps[2]
            )
            assert_same_bits(expected[0], alone, f"{rows} rows with gaps")
            for offset in (0, 1, 4, 15):
                g, out = placed(grad, offset), placed(np.zeros_like(x), offset + rows)
                for a in (out, g):
                    result = fastnorm.layer_norm_backward(
                        g, placed(x, 3 * offset), mean, rstd, w, normalized_shape=n, out=a
                    )
                    for got, want in zip(result, expected, strict=True):
                        assert_same_bits(got, want, f"{rows} rows at {offset}")


@pytest.mark.parametrize("n", [9, 25, 32, 49, 64, 100, 196, 289, 1024])
@every_dtype
def test_gradients_of_maps_beside_others_and_alone(dtype, n, stores, rng):
    for channels, offset in itertools.product((1, 2, 5, 8, 16, 19), (0, 1, 7)):
        shape = (3, channels, n)
        x, grad = (placed(normal(rng, shape, np.dtype("f8")).astype(dtype), offset) for _ in "xg")
        weight = normal(rng, (channels,), np.dtype(np.float32))
        _, mean, rstd = fastnorm.batch_norm(x, None, None, training=True, return_stats=True)
        for training in (True, False):
            alone = [
                fastnorm.batch_norm_backward(
                    *(a[:, c : c + 1] for a in (grad, x)),
                    *(a[c : c + 1] for a in (mean, rstd, weight)),
                    training=training,
                )
                for c in range(channels)
            ]
            out = placed(np.zeros_like(x), offset + 3)
            result = fastnorm.batch_norm_backward(
                grad, x, mean, rstd, weight, training=training, out=out
            )
            for got, want, axis in zip(result, zip(*alone, strict=True), (1, 0, 0), strict=True):
                assert_same_bits(got, np.concatenate(want, axis), f"{channels} at {offset}")


def assert_same_at_every_offset(backward, grad: Array, x: Array) -> None:
    _core.use_stream_above(2**62)
    expected = backward(grad, x, None)
    line = 64 // x.itemsize
    _core.use_stream_above(0)
    for isa, offset in zip(itertools.cycle(fastnorm.config()["isa_available"]), range(line)):
        _core.use_isa(isa)
        memory = placed(np.ones(x.size + 2 * line, x.dtype), offset)
        out = memory[line:-line].reshape(x.shape)
        for got, want in zip(backward(grad, x, out), expected, strict=True):
            assert_same_bits(got, want, f"{isa} at {offset}")
        assert (memory[:line] == 1).all()
        assert (memory[-line:] == 1).all()


@pytest.mark.parametrize("shape", [(96,), (100,), (768,), (1040,), (7, 7), (14, 14), (32, 32)])
@pytest.mark.parametrize("name", DTYPES)
def test_gradients_past_the_cache(name, shape, rng):
    """More than a core's cache holds, on every tier, by two threads, and at every offset in a line:
    what is beside the output stays."""
    dtype = DTYPES[name]
    n = int(np.prod(shape))
    rows = (5 << 20) // 2 // (n * dtype.itemsize) // 40 * 40
    x, grad = (normal(rng, (rows, n), np.dtype(np.float32)).astype(dtype) for _ in range(2))
    if len(shape) == 1:
        _, mean, rstd = fastnorm.layer_norm(x, n, return_stats=True)
        weight = normal(rng, (n,), np.dtype(np.float32))

        def backward(g, a, out):
            return fastnorm.layer_norm_backward(
                g, a, mean, rstd, weight, normalized_shape=n, out=out
            )
    else:
        x, grad = (a.reshape(4, rows // 4, *shape) for a in (x, grad))
        _, mean, rstd = fastnorm.batch_norm(x, None, None, training=True, return_stats=True)
        weight = normal(rng, (rows // 4,), np.dtype(np.float32))

        def backward(g, a, out):
            return fastnorm.batch_norm_backward(g, a, mean, rstd, weight, out=out)

    assert_same_at_every_offset(backward, grad, x)


@pytest.mark.parametrize("width", [112, 196, 260, 500, 1000, 1001, 3136])
@pytest.mark.parametrize("name", DTYPES)
def test_gradients_of_columns_past_the_cache(name, width, rng):
    """Rows that are summed along the columns of which dx is stored by lines."""
    dtype = DTYPES[name]
    rows = 21
    blocks = (5 << 20) // 2 // (rows * width * dtype.itemsize)
    x, grad = (
        normal(rng, (blocks, rows, width), np.dtype(np.float32)).astype(dtype) for _ in range(2)
    )
    weight = normal(rng, (rows,), np.dtype(np.float32))
    _, mean, rstd = fastnorm.layer_norm(x, axis=1, return_stats=True)
    _, only_rstd = fastnorm.rms_norm(x, axis=1, return_stats=True)

    def backward(g, a, out):
        return fastnorm.layer_norm_backward(g, a, mean, rstd, weight, axis=1, out=out)

    def rms_backward(g, a, out):
        return fastnorm.rms_norm_backward(g, a, only_rstd, weight, axis=1, out=out)

    assert_same_at_every_offset(backward, grad, x)
    assert_same_at_every_offset(rms_backward, grad, x)


@pytest.mark.parametrize("width", [32, 33, 49, 112, 196, 260, 500, 1000, 1001, 3136])
@pytest.mark.parametrize("name", DTYPES)
def test_columns_past_the_cache(name, width, rng):
    """Rows that follow each other, with a weight each, are stored as one; strips of long ones begin
    with lines."""
    dtype = DTYPES[name]
    rows = 21
    blocks = max(3, (1 << 17) // (rows * width))
    x = normal(rng, (blocks, rows, width), np.dtype(np.float32), mean=3).astype(dtype)
    weight, bias = (normal(rng, (rows,), np.dtype(np.float32)) for _ in range(2))
    gaps = np.zeros((blocks, rows, width + 3), dtype)[..., :width]
    gaps[...] = x
    for parameters in ((weight, bias), (weight, None), (None, bias), (None, None)):
        _core.use_stream_above(2**62)
        expected = fastnorm.layer_norm(gaps, None, *parameters, axis=1)
        _core.use_stream_above(0)
        line = 64 // dtype.itemsize
        every = parameters[0] is not None and parameters[1] is not None
        offsets = range(line) if every else (1, 4, line - 1)
        for isa, offset in zip(itertools.cycle(fastnorm.config()["isa_available"]), offsets):
            _core.use_isa(isa)
            memory = placed(np.ones(x.size + 2 * line, dtype), offset)
            out = memory[line:-line].reshape(x.shape)
            fastnorm.layer_norm(x, None, *parameters, axis=1, out=out)
            assert_same_bits(out, expected, f"{isa} at {offset}")
            assert (memory[:line] == 1).all()
            assert (memory[-line:] == 1).all()


@pytest.mark.parametrize("channels", [500, 513, 1024, 1030, 1536])
@every_dtype
def test_channels_last_past_the_cache(channels, dtype, rng):
    """Strips of columns with own parameters; the last one may take a line more."""
    x = normal(rng, (130, channels), np.dtype(np.float32), mean=3).astype(dtype)
    grad = normal(rng, x.shape, np.dtype(np.float32)).astype(dtype)
    weight, bias = (normal(rng, (channels,), np.dtype(np.float32)) for _ in range(2))

    def both_ways(out: Array) -> tuple[Array, ...]:
        y, mean, rstd = fastnorm.batch_norm(
            x, None, None, weight, bias, training=True, return_stats=True, out=out
        )
        y = y.copy()
        return y, mean, rstd, *fastnorm.batch_norm_backward(grad, x, mean, rstd, weight, out=out)

    _core.use_stream_above(2**62)
    expected = both_ways(placed(x, 0))
    _core.use_stream_above(0)
    for offset in (0, 1, 4, 15):
        for threads in (1, 2):
            fastnorm.set_num_threads(threads)
            for got, want in zip(both_ways(placed(x, offset)), expected, strict=True):
                assert_same_bits(got, want, f"at {offset}, {threads} threads")
