"""The backward passes against their twin: every operation, dtype, layout and edge size."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from backward_helpers import (
    NAMES,
    SHAPE,
    assert_gradients,
    gradient,
    images,
    problem,
    spread_problem,
    standard,
)
from helpers import (
    BFLOAT16,
    DTYPES,
    EDGES,
    OPERATIONS,
    Operation,
    assert_same_bits,
    bits,
    each,
    every_dtype,
    every_operation,
    normal,
)
from test_layouts import LAYOUTS, in_order, peak

import fastnorm

COUNTS = ((96, 12), (64, 49), (6, 1024), (4, 4097), (2, 33_000))
# (N, C, ...), for the operations with channels last (N, ..., C)
IMAGES = [
    (5, 3, 7, 7),
    (2, 3, 40, 41),
    (3, 8, 14, 14),
    (2, 2048, 3, 3),
    (2_000, 3, 2),
    (2, 3, 20_000),
    (1, 1, 66_000),
    (3, 1, 5, 1, 7),
    (1, 4099, 2),
    (2, 6, 3, 2, 2, 3),
]
MATRICES = [(30_000, 3), (300, 100), (33, 1000), (2, 5000), (9, 1), (66_000, 1)]
CHANNELED = [op for op in OPERATIONS if op.channel_axis is not None]
MEASURING_CHANNELS = [op for op in CHANNELED if not op.needs_running]


# --- sizes --------------------------------------------------------------------------------


@every_operation
@every_dtype
def test_lengths_around_the_widths_of_vectors_and_blocks(op, dtype, rng):
    for count in (2, 3, 5, 7, *EDGES):
        if count == 1 and op.function in ("batch_norm", "instance_norm"):
            continue  # one value has no statistics
        for rows in (2, 6):
            data = standard(rng, rows, count, dtype, mean=3)
            spread_problem(op, data, rng).check(f"{rows} x {count}")


@every_operation
@every_dtype
def test_numbers_of_sets_around_the_widths_of_vectors_and_blocks(op, dtype, rng):
    """Short sets, as many of them side by side as the edges say, and one more than is even."""
    for rows in (n + n % 2 for n in EDGES):
        data = standard(rng, rows, 6, dtype, mean=-2)
        spread_problem(op, data, rng).check(f"{rows} x 6")


@pytest.mark.parametrize("weight", [None, np.float32])
@pytest.mark.parametrize("shape", IMAGES, ids=str)
@every_operation
def test_images(op, shape, weight, rng):
    eps = 1 if op.channel_axis is None and shape[1] == 1 else 1e-5  # no deviation: 1/std is 1
    if op.channel_axis is None and "axis" not in op.options:
        shape = (shape[0], *shape[2:], shape[1])  # rows as long as there are channels
    problem(op, images(op, shape, rng), rng, weight=weight, eps=eps).check()


@every_operation
@every_dtype
def test_maps_of_7_by_7_and_14_by_14(op, dtype, rng):
    for shape in ((3, 40, 7, 7), (2, 3, 14, 14), (1, 130, 7, 7), (5, 2, 14, 14)):
        problem(op, images(op, shape, rng, dtype), rng).check(str(shape))


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@each([op for op in CHANNELED if op.function != "instance_norm"])
def test_matrices(op, shape, rng):
    """(N, C), without spatial axes."""
    if op.function == "group_norm" and shape[1] == 1:
        return  # one value in a group: dx is 0, which the lengths above have
    problem(op, images(op, shape, rng), rng).check()


@pytest.mark.parametrize("channel_axis", [1, -1])
@every_dtype
def test_groups(channel_axis, dtype, rng):
    """Of one channel, of a few, of more than a vector, of all."""
    op = Operation("group_norm", "group_norm", channel_axis)
    for channels, groups in ((32, 32), (96, 32), (6, 2), (66, 2), (1200, 2), (640, 1), (75, 25)):
        for n, spatial in ((2, 9), (3, 49), (1, 130)):
            x = images(op, (n, channels, spatial), rng, dtype, groups)
            problem(op, x, rng, groups=groups).check(f"{groups} groups of {x.shape}")


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((40,), 0),
        ((7, 33), 0),
        ((7, 33), (0, 1)),
        ((3, 5, 34), (-1, -2)),
        ((3, 5, 34), (0, 2)),
        ((3, 9, 34), (0, 1)),
        ((2, 6, 5, 7), (1, 3)),
        ((2, 6, 5, 7), (0, -1)),
        ((2, 6, 5, 7), -2),
        ((2, 40, 9, 7), (1, 2, 3)),
        ((2, 2, 260, 260), (2, 3)),
        ((2, 8, 4, 5, 6), (1, 3)),
        ((2, 8, 4, 5, 6), (0, 2, 4)),
        ((2, 3, 4, 5, 6), (0, 1, 2, 3, 4)),
        ((1, 1, 40, 1), (1, 2)),
    ],
    ids=str,
)
@every_dtype
def test_any_axes(shape, axis, dtype, rng):
    for function in ("layer_norm", "rms_norm"):
        axes = tuple(sorted(a % len(shape) for a in np.atleast_1d(axis)))
        op = Operation("", function, options={"axis": axes})
        given = problem(op, images(op, shape, rng, dtype), rng)
        given.check(function)
        given.check(f"{function} {axis}", axis=axis)


@every_dtype
def test_axes_of_one_index(dtype, rng):
    """Also all of them, so that the array has one element: x̂ is 0 then, or without mean about 1."""
    for shape in itertools.chain.from_iterable(
        itertools.product((1, 3), repeat=n) for n in (1, 2, 3)
    ):
        axes = itertools.chain.from_iterable(
            itertools.combinations(range(len(shape)), n) for n in range(1, len(shape) + 1)
        )
        for axis, function in itertools.product(axes, ("layer_norm", "rms_norm")):
            op = Operation("", function, options={"axis": axis})
            x = normal(rng, shape, dtype, mean=2)
            for weight in (None, np.float32):
                problem(op, x, rng, weight=weight, eps=1).check(f"{function} {shape} {axis}")
        for function, channel_axis in itertools.product(("batch_norm", "group_norm"), (1, -1)):
            options = {"training": False} if function == "batch_norm" else {}
            op = Operation("", function, channel_axis, options)
            if len(shape) > 1:
                x = normal(rng, shape, dtype, mean=2)
                for weight in (None, np.float32):
                    given = problem(op, x, rng, weight=weight, eps=1, groups=1)
                    given.check(f"{function} {shape} {channel_axis}")


def test_normalized_shape(rng):
    for shape in (None, 7, (7,), [5, 7], (6, 5, 7), (2, 6, 5, 7), np.int64(7)):
        axes = tuple(range(-np.size(shape), 0))
        for function in ("layer_norm", "rms_norm"):
            op = Operation("", function, options={"axis": axes})
            by_axis = problem(op, images(op, (2, 6, 5, 7), rng), rng)
            by_axis.check()
            by_shape = dataclasses.replace(by_axis, op=Operation("", function))
            results = by_shape(normalized_shape=shape)
            for result, expected in zip(results, by_axis(), strict=True):
                assert_same_bits(result, expected, f"{function} {shape}")


def test_any_channel_axis(rng):
    for op in MEASURING_CHANNELS:
        for channel_axis in (0, 1, 2, 3, -1, -2, -3, -4):
            if channel_axis % 4 or op.function == "batch_norm":
                moved = Operation("", op.function, channel_axis, op.options)
                x = images(op, (4, 6, 8, 10), rng)
                problem(moved, x, rng).check(f"{op.name} {channel_axis}")


# --- values -------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 10, 1e4])
@every_operation
def test_offsets(op, offset, rng):
    """The mean is rounded to float32, and that must not show."""
    for rows, count in COUNTS:
        signs = np.where(np.arange(rows) % 2, -1.0, 1.0)[:, None]
        for dtype in (np.float32, np.float64):
            data = standard(rng, rows, count, dtype, offset * signs)
            spread_problem(op, data, rng).check(f"{rows} x {count} {dtype.__name__}")


PATTERNS = {
    "few values": lambda rng, rows, count: rng.integers(0, 4, (rows, count)),
    "two values": lambda rng, rows, count: rng.integers(0, 2, (rows, count)),
    "ramp": lambda rng, rows, count: np.tile(np.arange(count), (rows, 1)),
    "sorted": lambda rng, rows, count: np.sort(rng.standard_normal((rows, count)), axis=1),
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@every_operation
def test_patterns(op, pattern, rng):
    """Of standard deviation 1, at an offset that leaves them few digits."""
    for rows, count in COUNTS:
        data = pattern(rng, rows, count).astype(np.float64)
        data -= data.mean(1, keepdims=True)
        data /= np.maximum(data.std(1, keepdims=True), 0.1)  # two values may be all the same
        spread_problem(op, (data + 1e4).astype(np.float32), rng).check(f"{rows} x {count}")


@pytest.mark.parametrize("offset", [0, 10])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@every_operation
def test_offsets_of_half_precision(op, name, offset, rng):
    for rows, count in COUNTS:
        data = standard(rng, rows, count, DTYPES[name], offset)
        spread_problem(op, data, rng).check(f"{rows} x {count}")


@pytest.mark.parametrize("eps", [0, 1e-5, 1e-2, 1.0])
@every_operation
def test_eps_is_in_rstd(op, eps, rng):
    """A backward pass takes none: that of the forward pass is in rstd."""
    for rows, count in COUNTS[:3]:
        spread_problem(op, standard(rng, rows, count, mean=3), rng, eps=eps).check()


@every_operation
@every_dtype
def test_statistics_of_another_type_are_their_values(op, dtype, rng):
    for shape in (SHAPE, (3, 40, 300)):
        given = problem(op, images(op, shape, rng, dtype), rng)
        for kind in DTYPES.values():
            stats = tuple(s.astype(kind) for s in given.stats)
            arithmetic = np.float64 if dtype == np.float64 else np.float32
            values = tuple(s.astype(arithmetic) for s in stats)
            results, expected = given(stats=stats), given(stats=values)
            for name, result, same in zip(NAMES, results, expected, strict=False):
                assert_same_bits(result, same, f"{name} {kind}")


@every_operation
@every_dtype
def test_weights_of_any_type(op, dtype, rng):
    for kind in DTYPES.values():
        problem(op, images(op, SHAPE, rng, dtype), rng, weight=kind).check(str(kind))


@every_operation
@every_dtype
def test_no_weight_is_ones(op, dtype, rng):
    for shape in (SHAPE, (3, 40, 300)):
        given = problem(op, images(op, shape, rng, dtype), rng)
        ones = np.ones_like(given.arguments["weight"])
        results, expected = given(weight=None), given(weight=ones)
        for name, result, same in zip(NAMES, results, expected, strict=False):
            assert_same_bits(result, same, name)


# --- layouts ------------------------------------------------------------------------------


@every_operation
@every_dtype
def test_layouts(op, dtype, rng):
    for shape in (SHAPE, (3, 64, 65)):
        given = problem(op, images(op, shape, rng, dtype), rng)
        exact = given.exact()
        for layout, lay_out in LAYOUTS.items():
            if "swapped" in layout and dtype == BFLOAT16:
                continue  # NumPy knows no byte order of types of other packages
            grad, x = lay_out(given.grad), lay_out(given.x)
            np.testing.assert_array_equal(x, given.x)
            both = {"x": x, "grad": grad}
            out = np.empty(x.shape, dtype)
            for change in ({"x": x}, {"grad": grad}, both, {**both, "out": out}):
                results = given(**change)
                assert_gradients(results, exact, dtype, f"{layout} {' '.join(change)} {x.shape}")
                assert all(r.dtype.isnative for r in results)
                assert all(r.flags.c_contiguous for r in results[1:])
            assert results[0] is out
            if x.flags.writeable:
                assert given(**both, out=x)[0] is x
                assert_gradients(
                    (x.astype(dtype),), exact, dtype, f"{layout} {x.shape}, in place of x"
                )
                assert given(x=given.x, grad=grad, out=grad)[0] is grad
                assert_gradients(
                    (grad.astype(dtype),), exact, dtype, f"{layout} {x.shape}, in place of grad"
                )


@each([op for op in OPERATIONS if op.channel_axis != -1])
def test_samples_innermost(op, rng):
    """N innermost: pooled sets side by side, for batch norm one set in a run."""
    for shape in ((64, 6, 35), (70, 5, 7, 7), (33_000, 3, 2)):
        outwards = (*range(1, len(shape)), 0)
        given = problem(op, in_order(*outwards)(images(op, shape, rng)), rng)
        assert given.x.strides[0] == 4
        given.check(str(shape))
        given.check(f"{shape}, grad as usual", grad=np.ascontiguousarray(given.grad))


@every_operation
@every_dtype
def test_broadcast_gradients(op, dtype, rng):
    """Stride 0, as the gradient of a sum or mean has."""
    for shape in (SHAPE, (3, 40, 300)):
        x = images(op, shape, rng, dtype)
        full = gradient(x, rng)
        for index in (np.s_[:1], np.s_[:, :1], np.s_[:, :, :1], np.s_[:1, :1, :1]):
            grad = np.broadcast_to(full[index], x.shape)
            given = problem(op, x, rng, grad=grad)
            given.check(str(grad.strides))
            dx = given()[0]
            assert dx.flags.writeable
            assert 0 not in dx.strides


@every_operation
def test_broadcast_x(op, rng):
    for index in (np.s_[:1], np.s_[:, :1], np.s_[:, :, :1]):
        x = images(op, SHAPE, rng)
        constant = np.broadcast_to(x[index], x.shape)
        given = problem(op, constant, rng, eps=0.1, grad=gradient(x, rng))
        given.check()
        assert 0 not in given()[0].strides


@every_operation
def test_layout_of_parameters_and_statistics(op, rng):
    """What changes neither values nor the layout of grad and x changes no bit."""
    given = problem(op, images(op, SHAPE, rng), rng)
    expected = given()
    for layout, lay_out in LAYOUTS.items():
        weight = lay_out(given.arguments["weight"].reshape(1, 1, -1))[0, 0]
        stats = tuple(lay_out(s.reshape((1,) * (3 - s.ndim) + s.shape)) for s in given.stats)
        stats = tuple(s[(0,) * (3 - g.ndim)] for s, g in zip(stats, given.stats, strict=True))
        results = given(weight=weight, stats=stats)
        for name, result, same in zip(NAMES, results, expected, strict=False):
            assert_same_bits(result, same, f"{name} {layout}")


# --- the results as arrays ----------------------------------------------------------------


@every_operation
@every_dtype
def test_what_comes_back(op, dtype, rng):
    for weight in (None, np.float16):
        x = images(op, SHAPE, rng, dtype)
        given = problem(op, x, rng, weight=weight)
        dx, *sums = given()
        assert len(sums) == (1 if op.function == "rms_norm" else 2)
        assert dx.shape == x.shape
        assert dx.dtype == dtype
        assert dx.flags.writeable
        for gradients in sums:
            assert gradients.shape == tuple(x.shape[a] for a in op.parameter_axes)
            assert gradients.dtype == (np.float64 if dtype == np.float64 else np.float32)
            assert gradients.flags.writeable
            assert gradients.base is None or gradients.base.size == gradients.size


@every_operation
def test_inputs_are_left_alone(op, rng):
    given = problem(op, images(op, (3, 40, 300), rng), rng)
    arrays = [given.grad, given.x, *given.stats, given.arguments["weight"]]
    before = [bits(a).copy() for a in arrays]
    for array in arrays:
        array.flags.writeable = False
    given()
    given(out=np.empty_like(given.x))
    for array, old in zip(arrays, before, strict=True):
        assert (bits(array) == old).all()


@every_operation
@every_dtype
def test_nothing_of_the_size_of_the_array_is_allocated_besides_dx(op, dtype, rng):
    given = problem(op, images(op, (16, 64, 24, 32), rng, dtype), rng)
    nbytes = given.x.nbytes
    small = 0.25 * nbytes
    assert peak(given) < nbytes + small
    assert peak(given, out=np.empty_like(given.x)) < small
    assert peak(given, x=given.x.copy(), out=given.grad) < small


def test_every_function_has_a_backward_pass():
    """The list of operations in `helpers` names every function that there is."""
    there = {name for name in vars(fastnorm) if name.endswith("_norm_backward")}
    assert there == {f"{op.function}_backward" for op in OPERATIONS}
