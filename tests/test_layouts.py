"""Any strides, byte order, alignment and number of dimensions; and no copies where promised.

The values of an array do not depend on where its elements lie in memory, so every layout is
compared with the exact answer for the values. Where NumPy would walk both in the same order the
bits agree as well; that is in test_bits.
"""

from __future__ import annotations

import functools
import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    OPERATIONS,
    Array,
    Operation,
    assert_accurate,
    assert_same_bits,
    assert_statistics,
    bits,
    each,
    every_dtype,
    every_measuring_operation,
    every_operation,
    misaligned,
    normal,
    scattered,
    strided,
)
from schedules import schedules, use_schedule

import fastnorm
from fastnorm._arguments import converted


def swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


def swapped_and_misaligned(array: Array) -> Array:
    return misaligned(swapped(array))


def read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


def from_bytes(array: Array) -> Array:
    """As data come out of a file or a message: read-only, at an odd offset."""
    return np.frombuffer(b"-" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


def with_gaps(array: Array) -> Array:
    copy = scattered(array.shape, array.dtype, "C")
    copy[...] = array
    return copy


def stepped(axis: int) -> Callable[[Array], Array]:
    def step(array: Array) -> Array:
        memory = np.zeros_like(np.repeat(array, 3, axis))
        index = [slice(None)] * array.ndim
        index[axis] = slice(1, None, 3)
        copy = memory[tuple(index)]
        copy[...] = array
        return copy

    return step


def reversed_along(axis: int) -> Callable[[Array], Array]:
    return lambda array: np.flip(np.flip(array, axis).copy(), axis)


def in_order(*axes: int) -> Callable[[Array], Array]:
    """The same array with its axes in memory in this order, outermost first."""
    return lambda array: array.transpose(axes).copy().transpose(np.argsort(axes))


def window(array: Array) -> Array:
    """A part of a larger array along every axis."""
    memory = np.pad(array.view(f"u{array.itemsize}"), 2).view(array.dtype)
    return memory[(slice(2, -2),) * array.ndim]


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    **{f"memory order {axes}": in_order(*axes) for axes in itertools.permutations(range(3))},
    **{f"every third along {axis}": stepped(axis) for axis in range(3)},
    **{f"reversed along {axis}": reversed_along(axis) for axis in range(3)},
    "backwards with gaps everywhere": strided,
    "with gaps between elements": with_gaps,
    "a window of a larger array": window,
    "misaligned": misaligned,
    "read-only": read_only,
    "from bytes": from_bytes,
    "byte-swapped": swapped,
    "byte-swapped and misaligned": swapped_and_misaligned,
    "byte-swapped and strided": lambda array: strided(swapped(array)),
}


@every_operation
@every_dtype
def test_layout_of_x(op, dtype, rng):
    for shape in ((4, 6, 35), (3, 64, 65), (5, 40, 300)):  # the last is enough work for threads
        base = normal(rng, shape, dtype, mean=2)
        arguments = op.arguments(base, rng)
        exact = op.exact(base, **arguments)
        for layout, lay_out in LAYOUTS.items():
            if "swapped" in layout and dtype == BFLOAT16:
                continue  # NumPy knows no byte order of types of other packages
            x = lay_out(base)
            np.testing.assert_array_equal(bits(x.astype(dtype)), bits(base))
            y = op(x, **arguments)
            assert_accurate(y, exact, dtype, layout)
            assert y.dtype.isnative
            contiguous = [op(x, out=np.empty(shape, dtype), **arguments) for _ in schedules()]
            assert_accurate(contiguous[0], exact, dtype, f"{layout}, contiguous out")
            for out in contiguous[1:]:
                assert_same_bits(out, contiguous[0], f"{layout}, contiguous out")
            use_schedule("usual")


@every_measuring_operation
@every_dtype
def test_statistics_of_any_layout(op, dtype, rng):
    """They have the caller's order, whatever that of memory."""
    base = normal(rng, (4, 6, 35), dtype, mean=2)
    arguments = op.arguments(base, rng)
    exact = op.exact(base, **arguments)
    for layout, lay_out in LAYOUTS.items():
        if "swapped" in layout and dtype == BFLOAT16:
            continue  # NumPy knows no byte order of types of other packages
        x = lay_out(base)
        y, *stats = op(x, return_stats=True, **arguments)
        assert_statistics(tuple(stats), exact, dtype)
        assert all(array.flags.c_contiguous for array in stats)
        assert_same_bits(y, op(x, **arguments), layout)


@every_operation
def test_layout_of_the_parameters(op, rng):
    """What changes neither the values nor the layout of x changes no bit."""
    x = normal(rng, (4, 6, 35), mean=2)
    for dtype in (np.float32, np.float64, np.float16):
        arguments = op.arguments(x, rng, dtype)
        expected = op(x, **arguments)
        for name, parameter in arguments.items():
            if not isinstance(parameter, np.ndarray):
                continue
            for layout, lay_out in LAYOUTS.items():
                changed = lay_out(parameter.reshape(1, 1, -1))[0, 0]
                np.testing.assert_array_equal(changed, parameter)
                y = op(x, **{**arguments, name: changed})
                assert_same_bits(y, expected, f"{name}, {layout}")


def test_what_c_reads_is_aligned(rng):
    """x86 forgives, other processors need not."""
    weight = misaligned(normal(rng, 35, np.float64))
    copy = converted(weight, np.float64)
    assert copy.flags.aligned
    assert_same_bits(copy, weight)


def test_layout_of_parameters_of_several_axes(rng):
    x = normal(rng, (4, 6, 5, 7), mean=2)
    weight, bias = normal(rng, (6, 5, 7)), normal(rng, (6, 5, 7))
    expected = fastnorm.layer_norm(x, (6, 5, 7), weight, bias)
    for name, layout in LAYOUTS.items():
        assert_same_bits(
            fastnorm.layer_norm(x, (6, 5, 7), layout(weight), layout(bias)), expected, name
        )
    op = Operation("layer_norm", "layer_norm", options={"normalized_shape": (6, 5, 7)})
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    y = fastnorm.layer_norm(np.moveaxis(last, -1, 1), (6, 5, 7), weight, bias)
    assert_accurate(y, op.exact(x, weight=weight, bias=bias))


@every_operation
@every_dtype
def test_broadcast_x_and_parameters(op, dtype, rng):
    """Stride 0: the same memory for many elements."""
    base = normal(rng, (4, 6, 35), dtype, mean=2)
    arguments = op.arguments(base, rng)
    constant = {
        k: np.broadcast_to(v.ravel()[:1], v.shape) if isinstance(v, np.ndarray) else v
        for k, v in arguments.items()
    }
    for index in (np.s_[:1], np.s_[:, :1], np.s_[:, :, :1], np.s_[:1, :1], np.s_[:, :1, :1]):
        x = np.broadcast_to(base[index], base.shape)
        for given in (arguments, constant):
            y = op(x, eps=1e-3, **given)
            assert_accurate(y, op.exact(x.copy(), eps=1e-3, **given), dtype)
            assert y.flags.writeable
            assert 0 not in y.strides


@every_operation
def test_axes_of_one_element(op, rng):
    for shape in ((1, 8, 33), (4, 1, 33), (1, 1, 33), (5, 8, 1, 1, 7), (1, 3, 1, 9, 1)):
        x = normal(rng, shape, mean=1)
        if op.channel_axis == -1:
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        arguments = op.arguments(x, rng)
        expected = op(x, **arguments)
        assert_accurate(expected, op.exact(x, **arguments))
        # NumPy gives axes of one element any stride, and it must not matter
        odd = np.lib.stride_tricks.as_strided(
            x, strides=[s if n > 1 else 4444 for n, s in zip(x.shape, x.strides, strict=True)]
        )
        assert_same_bits(op(odd, **arguments), expected)


@each([op for op in OPERATIONS if op.channel_axis in (1, None)])
@every_dtype
def test_many_dimensions(op, dtype, rng):
    for shape in ((2, 4, 3, 2, 3, 2), (2, 4, 1, 3, 1, 2, 3), (2, 4, 2, 1, 2, 2, 1, 2, 2, 3)):
        base = normal(rng, shape, dtype, mean=1)
        arguments = op.arguments(base, rng)
        expected = op.exact(base, **arguments)
        mixed = rng.permutation(len(shape))
        for x in (base, in_order(*mixed)(base), strided(base), np.asfortranarray(base)):
            assert_accurate(op(x, **arguments), expected, dtype)


@pytest.mark.parametrize("ndim", [32, 64])
def test_as_many_dimensions_as_numpy_has(ndim, rng):
    shape = [1] * ndim
    shape[0], shape[1], shape[ndim // 2], shape[-1] = 3, 4, 5, 6
    x = normal(rng, tuple(shape))
    for y, flat in (
        (fastnorm.layer_norm(x), fastnorm.layer_norm(x.reshape(3, 4, 5, 6))),
        (fastnorm.layer_norm(x, axis=1), fastnorm.layer_norm(x.reshape(3, 4, 5, 6), axis=1)),
        (fastnorm.group_norm(x, 2), fastnorm.group_norm(x.reshape(3, 4, 5, 6), 2)),
        (
            fastnorm.instance_norm(x.T, channel_axis=-2),
            fastnorm.instance_norm(x.T.reshape(6, 5, 4, 3), channel_axis=-2),
        ),
    ):
        assert_same_bits(y.reshape(flat.shape), flat)


# --- no copies ----------------------------------------------------------------------------


def peak(call: Callable[..., object], *args: Any, **kwargs: Any) -> int:
    """Bytes of the NumPy arrays alive at once during a call, the result included."""
    call(*args, **kwargs)  # what a first call sets up is not counted
    tracemalloc.start()
    try:
        call(*args, **kwargs)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_peak_sees_a_copy(rng):
    """The measure that the next test relies on."""
    x = normal(rng, (64, 256, 100))
    assert peak(np.multiply, x, 2) < 1.1 * x.nbytes
    assert peak(lambda: np.ascontiguousarray(x.T) * 2) > 1.9 * x.nbytes


@every_operation
@every_dtype
def test_contiguous_memory_is_not_copied(op, dtype, rng):
    x = normal(rng, (16, 64, 24, 32), dtype)
    views = {"as it lies": x, "every second sample": x[::2]}
    if op.channel_axis == 1 or op.options.get("axis") == 1:
        views["NHWC seen as NCHW"] = np.moveaxis(x, -1, 1)
    elif op.channel_axis == -1:
        views["NCHW seen as NHWC"] = np.moveaxis(x, 1, -1)
    for name, view in views.items():
        call = functools.partial(op, **op.arguments(view, rng))
        small = 0.25 * view.nbytes
        assert peak(call, view) < view.nbytes + small, name
        out = np.empty_like(view)
        assert peak(call, view, out=out) < small, name
        assert peak(call, out, out=out) < small, name
