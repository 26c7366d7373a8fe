"""dx of a set does not show what lies beside it; gradients of parameters not where arrays lie.

As test_sets has it for the forward passes: sets beside others and alone, under every schedule, at
every offset in a line of the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from helpers import Array, assert_guarded, assert_same_bits, every_dtype, guarded, normal, placed
from schedules import schedules, settings, use_schedule
from test_sets import LONG, OFFSETS, SHORT, TOGETHER, gapped, parameters

import fastnorm

Backward = Callable[..., tuple[Array, ...]]
NAMES = ("dx", "dweight", "dbias")


def inputs(shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator) -> tuple[Array, ...]:
    return tuple(normal(rng, shape, mean=mean).astype(dtype) for mean in (0, 3))


def assert_gradients(results: tuple[Array, ...], expected: tuple[Array, ...], message: str) -> None:
    for name, result, same in zip(NAMES, results, expected, strict=False):
        assert_same_bits(result, same, f"{name}, {message}")


def assert_everywhere(
    backward: Backward,
    given: tuple[Array, ...],
    expected: tuple[Array, ...],
    offset: int,
    message: str,
) -> None:
    """To a new array, to one that begins anywhere, and in place of grad; all with other offsets."""
    grad, x = placed(given[0], offset), placed(given[1], 3 * offset)
    message = f"{x.shape} at {offset}, {message}"
    assert_gradients(backward(grad, x), expected, message)
    memory, out = guarded(x.shape, x.dtype, offset + len(x))
    assert_gradients(backward(grad, x, out=out), expected, f"{message}, given output")
    assert_guarded(memory, message)
    assert_gradients(backward(grad, x, out=grad), expected, f"{message}, in place")


# --- rows and maps ------------------------------------------------------------------------


@pytest.mark.parametrize("n", SHORT[1:] + LONG)
@every_dtype
def test_rows_beside_others_and_alone(dtype, n, rng):
    """Gradients of the parameters are sums over rows, and those of a row alone are others."""
    grad, x = inputs((max(TOGETHER), n), dtype, rng)
    weight, _ = parameters(dtype, n, rng)
    _, mean, rstd = fastnorm.layer_norm(x, n, return_stats=True)
    _, rms_rstd = fastnorm.rms_norm(x, n, return_stats=True)

    def of_layer(g, x, w, rows, out=None):
        stats = mean[rows], rstd[rows]
        return fastnorm.layer_norm_backward(g, x, *stats, w, normalized_shape=n, out=out)

    def of_rms(g, x, w, rows, out=None):
        return fastnorm.rms_norm_backward(g, x, rms_rstd[rows], w, normalized_shape=n, out=out)

    for function, w in itertools.product((of_layer, of_rms), (weight, None)):
        use_schedule("usual")
        singles = [slice(k, k + 1) for k in range(len(x))]
        alone = np.concatenate([function(grad[k], x[k], w, k)[0] for k in singles])
        for some, offset in zip(TOGETHER, OFFSETS, strict=True):
            rows = slice(0, some)

            def backward(g, x, out=None, f=function, w=w, rows=rows):
                return f(g, x, w, rows, out=out)

            use_schedule("plain")
            expected = backward(gapped(grad[rows]), gapped(x[rows]))
            assert_same_bits(expected[0], alone[rows], f"{some} rows with gaps")
            for schedule in schedules():
                assert_everywhere(backward, (grad[rows], x[rows]), expected, offset, schedule)


@pytest.mark.parametrize("n", [2, 9, 25, 32, 49, 64, 100, 196, 289, 1024])
@every_dtype
def test_maps_beside_others_and_alone(dtype, n, rng):
    """Instance norm, and batch norm with statistics that are constants."""
    channels = 19
    grad, x = inputs((3, channels, n), dtype, rng)
    weight, _ = parameters(dtype, channels, rng)
    _, mean, rstd = fastnorm.instance_norm(x, return_stats=True)

    def of_instances(g, x, c, out=None):
        stats = mean[:, c], rstd[:, c]
        return fastnorm.instance_norm_backward(g, x, *stats, weight[c], out=out)

    def of_inference(g, x, c, out=None):
        stats = mean[0, c], rstd[0, c]
        return fastnorm.batch_norm_backward(g, x, *stats, weight[c], training=False, out=out)

    for function in (of_instances, of_inference):
        use_schedule("usual")
        singles = [slice(c, c + 1) for c in range(channels)]
        alone = [function(grad[:, c], x[:, c], c) for c in singles]
        dx = np.concatenate([one[0] for one in alone], axis=1)
        for some, offset in ((1, 0), (2, 1), (5, 4), (8, 0), (16, 7), (19, 15)):
            first = slice(0, some)

            def backward(g, x, out=None, f=function, first=first):
                return f(g, x, first, out=out)

            given = grad[:, first].copy(), x[:, first].copy()
            use_schedule("plain")
            expected = (dx[:, first], *backward(*given)[1:])
            for schedule in schedules():
                assert_everywhere(backward, given, expected, offset, schedule)


# --- threads and lines --------------------------------------------------------------------


def assert_every_offset(backward: Backward, grad: Array, x: Array) -> None:
    """Threads share neither a line of dx nor what is beside it, wherever it begins."""
    use_schedule("plain")
    expected = backward(grad, x)
    line = 64 // x.itemsize
    offsets = itertools.chain(range(line), itertools.repeat(0))
    for setting, offset in zip(settings((2, 3)), offsets, strict=False):
        memory, out = guarded(x.shape, x.dtype, 5 * offset)
        assert_gradients(backward(grad, x, out=out), expected, f"{setting} at {offset}")
        assert_guarded(memory, f"{setting} at {offset}")
        assert_gradients(backward(grad, x), expected, f"{setting}, new output")


@pytest.mark.parametrize("n", [3, 15, 31, 32, 49, 96, 100, 768, 1040])
@every_dtype
def test_threads_and_rows(dtype, n, rng):
    grad, x = inputs((150_000 // n, n), dtype, rng)
    _, mean, rstd = fastnorm.layer_norm(x, n, return_stats=True)
    weight, _ = parameters(dtype, n, rng)

    def backward(g, x, out=None):
        return fastnorm.layer_norm_backward(g, x, mean, rstd, weight, normalized_shape=n, out=out)

    assert_every_offset(backward, grad, x)


@pytest.mark.parametrize("pixels", [4, 9, 49, 196, 1024])
@every_dtype
def test_threads_and_maps(dtype, pixels, rng):
    channels = 150_000 // 4 // pixels
    grad, x = inputs((4, channels, pixels), dtype, rng)
    _, mean, rstd = fastnorm.batch_norm(x, None, None, training=True, return_stats=True)
    weight, _ = parameters(dtype, channels, rng)

    def backward(g, x, out=None):
        return fastnorm.batch_norm_backward(g, x, mean, rstd, weight, out=out)

    assert_every_offset(backward, grad, x)


@pytest.mark.parametrize("pixels", [1, 3, 112, 196, 260, 1001, 3136])
@every_dtype
def test_threads_and_columns(dtype, pixels, rng):
    """Blocks of rows that are summed along the columns of which dx is stored by lines."""
    rows = 21
    grad, x = inputs((1 + 150_000 // (rows * pixels), rows, pixels), dtype, rng)
    _, mean, rstd = fastnorm.layer_norm(x, axis=1, return_stats=True)
    _, rms_rstd = fastnorm.rms_norm(x, axis=1, return_stats=True)
    weight, _ = parameters(dtype, rows, rng)

    def of_layer(g, x, out=None):
        return fastnorm.layer_norm_backward(g, x, mean, rstd, weight, axis=1, out=out)

    def of_rms(g, x, out=None):
        return fastnorm.rms_norm_backward(g, x, rms_rstd, weight, axis=1, out=out)

    assert_every_offset(of_layer, grad, x)
    assert_every_offset(of_rms, grad, x)


@pytest.mark.parametrize("channels", [5, 64, 500, 513, 1024, 1030])
@every_dtype
def test_threads_and_channels_last(dtype, channels, rng):
    grad, x = inputs((150_000 // channels, channels), dtype, rng)
    _, mean, rstd = fastnorm.batch_norm(x, None, None, training=True, return_stats=True)
    weight, _ = parameters(dtype, channels, rng)

    def backward(g, x, out=None):
        return fastnorm.batch_norm_backward(g, x, mean, rstd, weight, out=out)

    assert_every_offset(backward, grad, x)
