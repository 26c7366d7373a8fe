"""Every operation, dtype, layout and instruction set against the twin; `out` and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import (
    DTYPES,
    EDGES,
    OPERATIONS,
    Operation,
    assert_accurate,
    assert_same_bits,
    assert_statistics,
    bits,
    each,
    every_dtype,
    every_operation,
    misaligned,
    normal,
    scattered,
)

import fastnorm

AXES: list[tuple[tuple[int, ...], Any]] = [
    ((7, 33), -1),
    ((7, 33), 0),
    ((7, 33), (0, 1)),
    ((40,), 0),
    ((3, 5, 34), (1, 2)),
    ((3, 5, 34), (-1, -2)),
    ((3, 5, 34), 1),
    ((3, 5, 34), (0, 2)),
    ((3, 5, 34), (0, 1)),
    ((2, 6, 5, 7), 1),
    ((2, 6, 5, 7), (1, 2, 3)),
    ((2, 6, 5, 7), (1, 3)),
    ((2, 6, 5, 7), (0, -1)),
    ((2, 6, 5, 7), (2, 3)),
    ((2, 6, 5, 7), -2),
    ((2, 3, 4, 5, 6), (1, 3)),
    ((2, 3, 4, 5, 6), (0, 2, 4)),
    ((2, 3, 4, 5, 6), (0, 1, 2, 3, 4)),
    ((1, 1, 40, 1), (1, 2)),
]
NORMALIZED_SHAPES: list[tuple[tuple[int, ...], Any]] = [
    ((7, 33), None),
    ((7, 33), 33),
    ((7, 33), (33,)),
    ((7, 33), [7, 33]),
    ((7, 33), np.int64(33)),
    ((3, 5, 34), (5, 34)),
    ((2, 6, 5, 7), (6, 5, 7)),
    ((2, 6, 5, 7), (2, 6, 5, 7)),
    ((2, 3, 4, 5, 6), (5, 6)),
]
CHANNEL_SHAPES = [
    (6, 12),
    (3, 6, 34),
    (1, 12, 33),
    (2, 6, 5, 7),
    (3, 40, 7, 7),
    (2, 6, 3, 4, 5),
    (2, 3, 1, 2, 1, 2, 4),
]
CHANNELED = [op for op in OPERATIONS if op.channel_axis is not None]


def shapes_around(op: Operation, n: int) -> Iterator[tuple[int, ...]]:
    """Shapes with runs of n elements, then with n channels or n rows."""
    if op.channel_axis is None:
        along_rows = "axis" not in op.options
        yield (5, n) if along_rows else (2, n, 3)
        yield (n, 5) if along_rows else (2, 5, n)
        return
    for channels, spatial in ((4, n), (n, 5)):
        if spatial > 1 or op.function != "instance_norm":  # one value has no statistics
            yield (3, channels, spatial) if op.channel_axis == 1 else (3, spatial, channels)


def check(op: Operation, x: np.ndarray, **arguments: Any) -> None:
    y, *stats = op(x, return_stats=True, **arguments)
    exact = op.exact(x, **arguments)
    assert_accurate(y, exact, x.dtype)
    assert_statistics(tuple(stats), exact, x.dtype)
    assert_same_bits(op(x, **arguments), y, "with and without return_stats")


@every_operation
@every_dtype
def test_lengths_around_the_widths_of_vectors_and_blocks(op, dtype, tier, rng):
    for n in EDGES:
        for shape in shapes_around(op, n):
            x = normal(rng, shape, dtype, mean=3)
            check(op, x, **op.arguments(x, rng))


@pytest.mark.parametrize(("shape", "axis"), AXES, ids=str)
@every_dtype
def test_any_axes(shape, axis, dtype, rng):
    x = normal(rng, shape, dtype, mean=-2)
    for function in ("layer_norm", "rms_norm"):
        op = Operation(function, function, options={"axis": axis})
        check(op, x)
        axes = sorted(a % x.ndim for a in np.atleast_1d(axis))
        weight = normal(rng, [shape[a] for a in axes])
        check(op, x, weight=weight)
        if function == "layer_norm":
            check(op, x, weight=weight, bias=normal(rng, weight.shape))


@pytest.mark.parametrize(("shape", "normalized_shape"), NORMALIZED_SHAPES, ids=str)
@every_dtype
def test_normalized_shape(shape, normalized_shape, dtype, rng):
    x = normal(rng, shape, dtype, mean=1)
    sizes = shape[-1:] if normalized_shape is None else tuple(np.atleast_1d(normalized_shape))
    weight, bias = normal(rng, sizes), normal(rng, sizes)
    trailing = tuple(range(-len(sizes), 0))
    for name, parameters in (
        ("layer_norm", {"weight": weight, "bias": bias}),
        ("rms_norm", {"weight": weight}),
    ):
        op = Operation(name, name)
        y = getattr(fastnorm, name)(x, normalized_shape, *parameters.values())
        assert_accurate(y, op.exact(x, axis=trailing, **parameters))
        assert_same_bits(y, op(x, axis=trailing, **parameters))
        assert_same_bits(y, op(x, normalized_shape=sizes, axis=trailing, **parameters))


@each(CHANNELED)
@every_dtype
def test_any_number_of_dimensions(op, dtype, rng):
    for shape in CHANNEL_SHAPES:
        if len(shape) == 2 and op.function == "instance_norm":
            continue
        x = normal(rng, shape, dtype, mean=2)
        x = np.ascontiguousarray(np.moveaxis(x, 1, op.channel_axis))
        check(op, x, **op.arguments(x, rng))


@pytest.mark.parametrize("function", ["batch_norm", "instance_norm", "group_norm"])
def test_any_channel_axis(function, rng):
    x = normal(rng, (4, 6, 8, 10), mean=2)
    for channel_axis in (0, 1, 2, 3, -1, -2, -3, -4):
        if channel_axis % 4 == 0 and function != "batch_norm":
            continue  # axis 0 is the batch, which these two keep apart
        options = {"training": True} if function == "batch_norm" else {}
        op = Operation(function, function, channel_axis, options)
        check(op, x, **op.arguments(x, rng))


def test_any_number_of_groups(rng):
    for shape in ((3, 12, 5, 5), (2, 120, 4), (4, 60)):
        for channel_axis in (1, -1):
            x = normal(rng, shape, mean=1)
            channels = shape[channel_axis]
            for groups in (g for g in range(1, channels) if channels % g == 0):
                weight, bias = normal(rng, channels), normal(rng, channels)
                y = fastnorm.group_norm(x, groups, weight, bias, channel_axis=channel_axis)
                op = Operation("group_norm", "group_norm", channel_axis)
                exact = op.exact(x, num_groups=groups, weight=weight, bias=bias)
                assert_accurate(y, exact)


@every_operation
@every_dtype
def test_parameters_are_optional_and_of_any_dtype(op, dtype, rng):
    for shape in ((4, 6, 35), (3, 5, 3, 11)):
        x = normal(rng, shape, dtype, mean=1)
        for parameter_dtype in DTYPES.values():
            arguments = op.arguments(x, rng, parameter_dtype)
            check(op, x, **arguments)
            for name in ("weight", "bias"):
                check(op, x, **{k: v for k, v in arguments.items() if k != name})
            check(op, x, **{k: v for k, v in arguments.items() if k not in ("weight", "bias")})
        mixed = dict(op.arguments(x, rng, np.float64))
        mixed["weight"] = mixed["weight"].astype(np.float16)
        check(op, x, **mixed)


@every_operation
@every_dtype
def test_eps(op, dtype, rng):
    x = normal(rng, (4, 6, 35), dtype, mean=1)
    arguments = op.arguments(x, rng)
    for eps in (0, 1e-12, 1e-3, 1, np.float32(0.5), np.float64(1e-6)):
        check(op, x, eps=eps, **arguments)


def test_eps_of_rms_norm_is_the_machine_epsilon_of_the_arithmetic(rng):
    for dtype in DTYPES.values():
        x = normal(rng, (4, 50), dtype)
        wide = dtype == np.float64
        eps = float(np.finfo(np.float64 if wide else np.float32).eps)
        assert_same_bits(fastnorm.rms_norm(x), fastnorm.rms_norm(x, eps=eps))
        zeros = np.zeros((1, 8), dtype)
        _, rstd = fastnorm.rms_norm(zeros, return_stats=True)
        np.testing.assert_allclose(rstd, eps**-0.5, rtol=1e-6)


def test_positional_arguments_are_in_the_order_of_torch(rng):
    x = normal(rng, (4, 6, 35), mean=1)
    mean, weight, bias = (normal(rng, 6) for _ in range(3))
    var = mean**2 + 1
    row_weight, row_bias = normal(rng, 35), normal(rng, 35)
    pairs = [
        (
            fastnorm.layer_norm(x, (35,), row_weight, row_bias, 1e-3),
            fastnorm.layer_norm(
                x, normalized_shape=(35,), weight=row_weight, bias=row_bias, eps=1e-3
            ),
        ),
        (
            fastnorm.rms_norm(x, (35,), row_weight, 1e-3),
            fastnorm.rms_norm(x, normalized_shape=(35,), weight=row_weight, eps=1e-3),
        ),
        (
            fastnorm.batch_norm(x, mean, var, weight, bias, False, 0.1, 1e-3),
            fastnorm.batch_norm(
                x, running_mean=mean, running_var=var, weight=weight, bias=bias, eps=1e-3
            ),
        ),
        (
            fastnorm.instance_norm(x, None, None, weight, bias, True, 0.1, 1e-3),
            fastnorm.instance_norm(x, weight=weight, bias=bias, eps=1e-3),
        ),
        (
            fastnorm.group_norm(x, 3, weight, bias, 1e-3),
            fastnorm.group_norm(x, num_groups=3, weight=weight, bias=bias, eps=1e-3),
        ),
    ]
    for by_position, by_name in pairs:
        assert_same_bits(by_position, by_name)


def test_statistics_of_instances_that_use_running_ones(rng):
    x = normal(rng, (4, 6, 35))
    mean, var = normal(rng, 6), normal(rng, 6) ** 2 + 1
    result = fastnorm.instance_norm(x, mean, var, use_input_stats=False, return_stats=True)
    exact = Operation("", "instance_norm").exact(
        x, running_mean=mean, running_var=var, use_input_stats=False
    )
    assert_accurate(result[0], exact)
    assert_statistics(result[1:], exact, x.dtype)


# --- out ----------------------------------------------------------------------------------

SMALL, THREADED = (4, 6, 35), (4, 40, 1000)


@every_operation
@every_dtype
def test_out_of_any_kind(op, dtype, rng):
    for shape in (SMALL, THREADED):
        x = normal(rng, shape, dtype, mean=1)
        arguments = op.arguments(x, rng)
        expected = op(x, **arguments)
        outs = {
            "contiguous": np.empty(shape, dtype),
            "Fortran order": np.empty(shape, dtype, "F"),
            "channels last": np.moveaxis(np.empty((4, 1000, 40), dtype), -1, 1)[
                tuple(slice(n) for n in shape)
            ],
            "with gaps": scattered(shape, dtype, "C"),
            "backwards": np.empty(shape, dtype)[::-1, ::-1, ::-1],
            "misaligned": misaligned(np.empty(shape, dtype)),
        }
        if dtype.kind == "f":  # NumPy has no bfloat16 of the other byte order
            outs["byte-swapped"] = np.empty(shape, dtype.newbyteorder())
        for kind, out in outs.items():
            assert op(x, out=out, **arguments) is out, kind
            assert_same_bits(out.astype(dtype), expected, kind)
        y, *_ = op(x, out=outs["contiguous"], return_stats=True, **arguments)
        assert y is outs["contiguous"]


@every_operation
@every_dtype
def test_in_place(op, dtype, rng):
    for shape in (SMALL, THREADED):
        original = normal(rng, shape, dtype, mean=1)
        arguments = op.arguments(original, rng)
        for kind, x in {
            "contiguous": original.copy(),
            "Fortran order": np.asfortranarray(original),
            "backwards": original[:, ::-1].copy()[:, ::-1],
        }.items():
            expected = op(x, **arguments)
            assert op(x, out=x, **arguments) is x, kind
            assert_same_bits(x, expected, kind)


@every_operation
def test_out_that_overlaps_x_behaves_as_if_it_did_not(op, rng):
    for shape in (SMALL, THREADED):
        original = normal(rng, (shape[0] + 1, *shape[1:]), mean=1)
        arguments = op.arguments(original[1:], rng)
        size = int(np.prod(shape))

        def samples(memory):
            return memory[:-1], memory[1:]

        def elements(memory, shape=shape, size=size):
            return (memory.ravel()[start : start + size].reshape(shape) for start in (0, 1))

        def mirrored(memory):
            return memory[1:], memory[:0:-1]

        for overlapping in (samples, elements, mirrored):
            for swap in (False, True):
                x, out = tuple(overlapping(original.copy()))[:: -1 if swap else 1]
                expected = op(x.copy(), **arguments)
                op(x, out=out, **arguments)
                assert_same_bits(out, expected, f"{overlapping.__name__}, {swap}")


@pytest.mark.parametrize("name", ["float32", "float64"])
@every_operation
def test_out_that_overlaps_a_parameter_behaves_as_if_it_did_not(op, name, rng):
    """With parameters of the type of x, which need no conversion and so might not be copied."""
    dtype = DTYPES[name]
    for shape in (SMALL, THREADED):
        x = normal(rng, shape, dtype, mean=1)
        arguments = op.arguments(x, rng, dtype)
        expected = op(x, **arguments)
        for name, parameter in arguments.items():
            if isinstance(parameter, np.ndarray):
                out = np.empty(shape, dtype)
                inside = out.ravel()[5 : 5 + parameter.size]
                inside[...] = parameter
                op(x, out=out, **{**arguments, name: inside})
                assert_same_bits(out, expected, name)


# --- the result as an array ----------------------------------------------------------------


@every_operation
def test_results_lie_in_memory_as_their_inputs_do(op, rng):
    base = normal(rng, (4, 6, 8))
    for x in (
        base,
        np.asfortranarray(base),
        base.transpose(0, 2, 1),
        base.transpose(2, 0, 1),
        base.transpose(1, 2, 0),
        np.moveaxis(normal(rng, (4, 5, 6, 7)), -1, 1),
    ):
        y = op(x, **op.arguments(x, rng))
        assert y.strides == np.empty_like(x).strides
        assert y.flags.writeable


@every_operation
def test_lists_are_converted_as_numpy_does(op, rng):
    x = normal(rng, (4, 6, 8), np.float64)
    arguments = op.arguments(x, rng, np.float64)
    expected = op(x, **arguments)
    for name in {"weight", "bias"} & set(arguments):  # running statistics have to be arrays
        arguments[name] = arguments[name].tolist()
    y = op(x.tolist(), **arguments)
    assert type(y) is np.ndarray
    assert_same_bits(y, expected)


@every_operation
def test_inputs_are_left_alone(op, rng):
    x = normal(rng, (4, 6, 8), mean=1)
    arguments = op.arguments(x, rng)
    arrays = [x, *(a for a in arguments.values() if isinstance(a, np.ndarray))]
    before = [bits(a).copy() for a in arrays]
    for array in arrays:
        array.flags.writeable = False
    op(x, **arguments)
    for array, old in zip(arrays, before, strict=True):
        assert (bits(array) == old).all()
