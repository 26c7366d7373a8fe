"""What a backward pass refuses, and what bad or missing values do to gradients.

A refused call says which argument is wrong and has changed nothing. A NaN spoils what it belongs
to. Where there is nothing, the gradients of the parameters are zeros.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from backward_helpers import NAMES, images, problem, spread_problem, standard
from helpers import (
    MEASURING,
    OPERATIONS,
    Array,
    assert_same_bits,
    each,
    every_dtype,
    every_measuring_operation,
    every_operation,
)
from test_errors import MISSING, NOT_SIX, NOT_X, dtypes, f32, refuse, spoilt, values

import fastnorm

SHAPE = (4, 6, 5)
AXED = ("layer_norm_backward", "rms_norm_backward")
CHANNELED = ("batch_norm_backward", "instance_norm_backward", "group_norm_backward")
CENTRED = ("layer_norm_backward", *CHANNELED)
EVERY = (*AXED, *CHANNELED)
STATISTICS = dict(zip(EVERY, ((4, 6, 1), (4, 6, 1), (6,), (4, 6), (4, 2)), strict=True))
every_function = pytest.mark.parametrize("function", EVERY)


def valid(function: str, **changes: Any) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """grad and x, and the keyword arguments of a valid call; ``changes`` spoil it."""
    arguments: dict[str, Any] = {
        "grad": np.linspace(-1, 1, 120, dtype=np.float32).reshape(SHAPE),
        "x": np.arange(120, dtype=np.float32).reshape(SHAPE),
        "rstd": f32(*STATISTICS[function]),
        "weight": f32(5 if function in AXED else 6),
        "out": np.full(SHAPE, 7, np.float32),
    }
    if function in CENTRED:
        arguments["mean"] = f32(*STATISTICS[function])
    if function == "group_norm_backward":
        arguments["num_groups"] = 2
    arguments |= changes
    positional = (arguments.pop("grad"), arguments.pop("x"))
    return positional, {k: v for k, v in arguments.items() if v is not MISSING}


def refused(function: str, error: Any, words: str | tuple[str, ...], **changes: Any) -> None:
    positional, arguments = valid(function, **changes)
    refuse(error, words, function, *positional, **arguments)


@every_function
def test_the_call_that_the_others_spoil_is_valid(function):
    positional, arguments = valid(function)
    dx, dweight, *_ = getattr(fastnorm, function)(*positional, **arguments)
    assert dx is arguments["out"]
    assert (dx != 7).any()
    assert dweight.shape == arguments["weight"].shape


# --- refused ------------------------------------------------------------------------------


def shapes(functions, name, given, wanted, **others):
    """Arrays of wrong shapes: the message shows the shape that came and the one wanted."""
    return [
        spoilt(functions, ValueError, (name, str(n), str(wanted)), **{name: f32(*n)}, **others)
        for n in given
    ]


def around(shape):
    """Shapes that are not this one, though some of them broadcast to it."""
    near = [(), (1,), (0,), (5,), (7,), (*shape, 1), (1, *shape), shape[::-1], shape[:-1]]
    near += [(*shape[:-1], shape[-1] + 1), (4, 6), (6, 4), (2, 4), (1,) * len(shape), SHAPE]
    return [s for s in dict.fromkeys(near) if s != shape]


STATISTIC_CASES = [
    case
    for function, shape in STATISTICS.items()
    for name in (("mean", "rstd") if function in CENTRED else ("rstd",))
    for case in (
        *shapes((function,), name, around(shape), shape),
        *dtypes((function,), name, shape),
        *values((function,), name, [None, "text"], TypeError),
        *values((function,), name, [MISSING], TypeError),
    )
]
CASES = [
    *STATISTIC_CASES,
    # grad
    *shapes(EVERY, "grad", [*NOT_X, (4, 6, 1), (1, 6, 5), (1, 1, 1), (0, 6, 5)], SHAPE),
    *[
        spoilt(EVERY, TypeError, ("grad", "float32", kind), grad=np.zeros(SHAPE, kind))
        for kind in ("float64", "float16", "int32", "complex64", "bool")
    ],
    *values(EVERY, "grad", [np.ma.zeros(SHAPE, np.float32)], TypeError),
    *values(EVERY, "grad", [None, 1.0, "text"], (TypeError, ValueError)),
    # x
    *dtypes(EVERY, "x", SHAPE),
    *values(EVERY, "x", [np.ma.zeros(SHAPE, np.float32), None, "text"], TypeError),
    *values(EVERY, "x", [np.float32(1), np.array(1, np.float32)]),
    # weight
    *shapes(CHANNELED, "weight", NOT_SIX, (6,)),
    *shapes(AXED, "weight", [(4,), (6,), (1,), (0,), (5, 1), (1, 5), (6, 5), ()], (5,)),
    *dtypes(CHANNELED, "weight", 6),
    *dtypes(AXED, "weight", 5),
    # out
    *shapes(EVERY, "out", NOT_X, SHAPE),
    *[
        spoilt(EVERY, TypeError, ("out", "float32", kind), out=np.full(SHAPE, 7, kind))
        for kind in ("float64", "float16", "int32", "complex64", "object")
    ],
    *values(EVERY, "out", [[[0.0]], 0.0, "out", (f32(*SHAPE),)], TypeError),
    # axes, channels, groups
    *[
        spoilt(AXED, ValueError, ("normalized_shape", str(SHAPE)), normalized_shape=n, weight=None)
        for n in (4, (6,), (5, 6), (1,), (2, 4, 6, 5), 0)
    ],
    *values(AXED, "normalized_shape", [(), -5]),
    *values(AXED, "normalized_shape", [5.0, "5", True, ("5",)], TypeError),
    *values(AXED, "axis", [3, -4, (0, 3), (), (1, 1), (1, -2), 2**70]),
    *values(AXED, "axis", [1.0, "1", (1.0,), True], TypeError),
    spoilt(AXED, ValueError, ("normalized_shape", "axis"), normalized_shape=5, axis=1),
    *values(CHANNELED, "channel_axis", [3, -4, 2**70]),
    *values(CHANNELED, "channel_axis", [1.0, "1", True, None, (1,)], TypeError),
    *values(("instance_norm_backward", "group_norm_backward"), "channel_axis", [0, -3]),
    *[
        spoilt(("group_norm_backward",), ValueError, ("num_groups", str(n), "6"), num_groups=n)
        for n in (4, 5, 7, 12)
    ],
    *values(("group_norm_backward",), "num_groups", [0, -1]),
    *values(("group_norm_backward",), "num_groups", [2.0, "2", True, None, (2,)], TypeError),
    *values(("group_norm_backward",), "num_groups", [MISSING], TypeError),
]


@pytest.mark.parametrize(
    ("function", "case"),
    [
        pytest.param(function, case, id=f"{function} {case}")
        for case in CASES
        for function in case.functions
    ],
)
def test_refused(function, case):
    refused(function, case.error, case.words, **case.changes)


@every_function
def test_statistics_of_another_axis(function):
    """Those of another call: of the same size, or such that NumPy would broadcast them."""
    if function in AXED:
        for axis, stats in ((1, (4, 6, 1)), ((1, 2), (4, 6, 1)), (2, (4, 1, 5)), (-1, (4, 6, 5))):
            wanted = str(tuple(1 if d in np.atleast_1d(axis) % 3 else SHAPE[d] for d in range(3)))
            changes = {"rstd": f32(*stats), "axis": axis, "weight": None}
            if function in CENTRED:
                changes["mean"] = f32(
                    *(1 if d in np.atleast_1d(axis) % 3 else n for d, n in enumerate(SHAPE))
                )
            refused(function, ValueError, ("rstd", str(stats), wanted), **changes)
        return
    wanted = {"batch": "(5,)", "instance": "(4, 5)", "group": "(4, 5)"}[function.split("_")[0]]
    changes = {"channel_axis": -1, "weight": f32(5)}
    if function == "group_norm_backward":
        changes["num_groups"] = 5
    shape = str(STATISTICS[function])
    refused(function, ValueError, ("mean", shape, wanted), **changes)


@every_function
def test_read_only_out(function):
    out = np.full(SHAPE, 7, np.float32)
    out.flags.writeable = False
    refused(function, ValueError, "out", out=out)


@every_function
def test_the_last_argument_is_checked_before_the_first_is_written(function):
    """In place of x and of grad, where most could be spoilt."""
    for where in (0, 1):
        wrong: dict[str, Any] = {"weight": f32(3), "rstd": f32(3)}
        wrong["axis" if function in AXED else "channel_axis"] = 7
        if function in CENTRED:
            wrong["mean"] = f32(3)
        if function == "group_norm_backward":
            wrong["num_groups"] = 4
        for name, value in wrong.items():
            positional, arguments = valid(function, **{name: value})
            arguments["out"] = positional[where]
            refuse(ValueError, name, function, *positional, **arguments)


@every_function
def test_names_and_number_of_arguments(function):
    (grad, x), arguments = valid(function)
    call = getattr(fastnorm, function)
    with pytest.raises(TypeError):  # positional only
        call(grad=grad, x=x, **arguments)
    with pytest.raises(TypeError):
        call(grad, x=x, **arguments)
    with pytest.raises(TypeError):
        call(grad, x, **arguments, eps=1e-5)
    order = ("mean", "rstd", "num_groups", "weight")
    by_position = [arguments[name] for name in order if name in arguments]
    for result, same in zip(call(grad, x, *by_position), call(grad, x, **arguments), strict=True):
        assert_same_bits(result, same)
    with pytest.raises(TypeError):
        call(grad, x, *by_position, arguments["out"])


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        ("batch_norm_backward", (6,)),
        ("instance_norm_backward", (4, 6)),
        ("group_norm_backward", (6,)),
    ],
)
def test_too_few_dimensions(function, shape):
    refused(function, ValueError, ("x", str(shape)), grad=f32(*shape), x=f32(*shape))


@every_function
def test_shapes_beyond_the_memory(function):
    x = np.broadcast_to(np.float32(1), (2**20, 2**20, 2**20))
    changes = {
        name: x[:, :1, :1] for name in ("mean", "rstd") if function in CENTRED or name[0] == "r"
    }
    refused(function, (ValueError, MemoryError), (), grad=x, x=x, weight=None, out=None, **changes)


# --- NaN and infinities -------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
COUNTS = ((16, 12), (8, 49), (4, 1025), (2, 20_000))


@pytest.mark.parametrize("where", ["grad", "x", "stat"])
@every_dtype
@every_measuring_operation
def test_bad_values_poison_their_set_alone(op, dtype, where, rng):
    """All of dx in the set, and of the parameters what the set has a part in."""
    for rows, count in COUNTS if dtype == np.float32 else COUNTS[:2]:
        data = standard(rng, rows, count, dtype)
        given = spread_problem(op, data, rng)
        sets = op.spread(np.arange(rows).repeat(count).reshape(data.shape))
        clean = given()
        for bad, row in zip((NAN, INF, -INF), (0, rows - 1, rows // 2), strict=True):
            spoilt_set = sets == row
            place = tuple(axis[len(axis) // 2] for axis in np.nonzero(spoilt_set))
            changes: dict[str, Any] = {"stats": list(given.stats)}
            if where == "stat":
                spoilt_stat = given.stats[-1].copy()
                spoilt_stat.flat[row] = NAN
                changes["stats"][-1] = spoilt_stat
            else:
                changes[where] = getattr(given, where).copy()
                changes[where][place] = bad
            dx, *sums = given(**changes)
            poisoned = np.isnan(dx)
            if where != "x" or bad != bad or op.function != "rms_norm":
                assert not np.isfinite(dx[spoilt_set]).any(), (bad, row, count)
            assert not poisoned[~spoilt_set].any()
            assert_same_bits(dx[~spoilt_set], clean[0][~spoilt_set], f"{bad} in {data.shape}")
            axes = tuple(a % sets.ndim for a in op.parameter_axes)
            parts = spoilt_set.any(tuple(a for a in range(sets.ndim) if a not in axes))
            for name, gradients, same in zip(NAMES[1:], sums, clean[1:], strict=False):
                assert_same_bits(gradients[~parts], same[~parts], name)
            at = tuple(place[a] for a in axes)
            assert not np.isfinite(sums[0][at])
            if where == "grad" and len(sums) == 2:
                np.testing.assert_equal(float(sums[1][at]), bad)
                others = parts.copy()
                others[at] = False
                assert_same_bits(sums[1][others], clean[2][others], "dbias")


@each([op for op in OPERATIONS if op.needs_running])
@every_dtype
def test_inference_spoils_single_elements(op, dtype, rng):
    given = problem(op, images(op, (4, 6, 35), rng, dtype), rng)
    clean = given()
    place = (1, 2, 3)
    channel = place[op.channel_axis]
    for where, bad in itertools.product(("grad", "x"), (NAN, INF)):
        values = getattr(given, where).copy()
        values[place] = bad
        dx, dweight, dbias = given(**{where: values})
        assert np.isfinite(dx[place]) == (where == "x")
        dx[place] = clean[0][place]
        assert_same_bits(dx, clean[0])
        for gradients, same, spoilt_too in (
            (dweight, clean[1], True),
            (dbias, clean[2], where == "grad"),
        ):
            assert np.isfinite(gradients[channel]) != spoilt_too
            gradients[channel] = same[channel]
            assert_same_bits(gradients, same)


@every_operation
def test_a_bad_weight_spoils_what_it_multiplies(op, rng):
    """dx of the sets that contain it, and no gradient of a parameter."""
    for shape in ((4, 6, 35), (2, 40, 300)):
        given = problem(op, images(op, shape, rng), rng)
        clean = given()
        weight = given.arguments["weight"].copy()
        weight.flat[2] = NAN
        dx, *sums = given(weight=weight)
        touched = np.moveaxis(np.zeros(given.x.shape, bool), op.parameter_axes[0], -1)
        touched[..., 2] = True
        touched = np.moveaxis(touched, -1, op.parameter_axes[0])
        assert np.isnan(dx[touched]).all()
        if op.function in ("batch_norm", "instance_norm"):
            assert_same_bits(dx[~touched], clean[0][~touched])
        for name, result, same in zip(NAMES[1:], sums, clean[1:], strict=False):
            assert_same_bits(result, same, name)


@each(MEASURING)
def test_numpy_sees_no_floating_point_errors(op, rng):
    for value in (0, NAN, INF, 3e38, 1e-45):
        for dtype in (np.float32, np.float64):
            x = images(op, (4, 40, 300), rng, dtype)
            given = problem(op, x, rng)
            spoilt_x = np.where(rng.random(x.shape) < 0.1, dtype(value), x)
            with np.errstate(all="raise"):
                given(x=spoilt_x)
                given(grad=spoilt_x)
                given(x=spoilt_x, grad=spoilt_x, out=spoilt_x)


# --- nothing at all -----------------------------------------------------------------------


@every_operation
@every_dtype
def test_empty_arrays(op, dtype, rng):
    """No sample, or nothing in each: an empty dx, and zeros for the parameters that there are."""
    for shape in ((0, 6, 35), (4, 6, 0), (4, 0, 35), (0, 6, 0), (0, 6, 5, 7), (2, 6, 0, 7)):
        x = np.empty(shape, dtype)
        if op.channel_axis == -1:
            x = np.moveaxis(x, 1, -1)
        for weight in (None, np.float32):
            given = problem(op, x, rng, weight=weight)
            for empty in (x, np.asfortranarray(x), x[::-1]):
                dx, *sums = given(x=empty)
                assert dx.shape == x.shape
                assert dx.dtype == dtype
                assert len(sums) == (1 if op.function == "rms_norm" else 2)
                wanted = np.float64 if dtype == np.float64 else np.float32
                for gradients in sums:
                    assert gradients.dtype == wanted
                    zeros = np.zeros([x.shape[axis] for axis in op.parameter_axes], wanted)
                    assert_same_bits(gradients, zeros)
            out = np.empty_like(x)
            assert given(out=out)[0] is out


@every_operation
def test_empty_arrays_are_checked_like_others(op, rng):
    x = np.empty((0, 6, 6), np.float32)
    given = problem(op, x, rng)
    wrong: Array = np.empty((0, 6, 5), np.float32)
    with pytest.raises(ValueError, match="grad"):
        given(grad=wrong)
    with pytest.raises(ValueError, match="out"):
        given(out=wrong)
    with pytest.raises(ValueError, match="weight"):
        given(weight=f32(5))
    with pytest.raises(ValueError, match="rstd"):
        given(stats=[*given.stats[:-1], f32(5)])
