"""A refused call says which argument is wrong, shows the shapes, and has changed nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fastnorm

SHAPE = (4, 6, 5)


def refuse(
    error: type[Exception] | tuple[type[Exception], ...],
    words: str | tuple[str, ...],
    function: str,
    *args: Any,
    **kwargs: Any,
) -> None:
    """The call raises ``error``, mentions ``words``, and leaves all arrays that it got alone."""
    arrays = [a for a in (*args, *kwargs.values()) if type(a) is np.ndarray and a.size < 10**6]
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error) as caught:
        getattr(fastnorm, function)(*args, **kwargs)
    for word in (words,) if isinstance(words, str) else words:
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(caught.value)), (
            f"{word!r} is not in {str(caught.value)!r}"
        )
    assert [a.tobytes() for a in arrays] == before, "a refused call changed its arguments"


def valid(function: str, shape: tuple[int, ...] = SHAPE, **changes: Any) -> dict[str, Any]:
    """The keyword arguments of a valid call that writes all it can; ``changes`` spoil it."""
    channels = shape[1] if len(shape) > 1 else 1
    arguments: dict[str, Any] = {"out": np.full(shape, 7, np.float32)}
    if function in ("batch_norm", "instance_norm"):
        arguments["running_mean"] = np.zeros(channels, np.float32)
        arguments["running_var"] = np.ones(channels, np.float32)
    if function == "batch_norm":
        arguments["training"] = True
    if function == "group_norm":
        arguments["num_groups"] = 2
    size = shape[-1] if function in AXED else channels
    arguments["weight"] = np.ones(size, np.float32)
    if function != "rms_norm":
        arguments["bias"] = np.zeros(size, np.float32)
    return {k: v for k, v in {**arguments, **changes}.items() if v is not MISSING}


MISSING = object()
AXED = ("layer_norm", "rms_norm")
CHANNELED = ("batch_norm", "instance_norm", "group_norm")
RUNNING = ("batch_norm", "instance_norm")
EVALUATION = {"batch_norm": {"training": False}, "instance_norm": {"use_input_stats": False}}
EVERY = (*AXED, *CHANNELED)
every_function = pytest.mark.parametrize("function", EVERY)


def data(shape: tuple[int, ...] = SHAPE, dtype: Any = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def f32(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@every_function
def test_the_call_that_the_others_spoil_is_valid(function):
    arguments = valid(function)
    y = getattr(fastnorm, function)(data(), **arguments)
    assert y is arguments["out"]
    assert (y != 7).any()
    if function in RUNNING:
        assert (arguments["running_mean"] != 0).all()
        assert (arguments["running_var"] != 1).all()


def shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return "missing" if value is MISSING else repr(value)


@dataclass(frozen=True)
class Case:
    """``words``: what the message must hold, the name of the argument first."""

    functions: tuple[str, ...]
    error: type[Exception]
    words: tuple[str, ...]
    changes: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name}={shown(value)}" for name, value in self.changes.items())


def spoilt(functions: tuple[str, ...], error: type[Exception], words: tuple[str, ...], **changes):
    return Case(functions, error, words, changes)


def values(functions, name, refused, error=ValueError):
    return [spoilt(functions, error, (name,), **{name: value}) for value in refused]


def shapes(functions, name, refused, wanted, **others):
    """Arrays of wrong shapes: the message shows the shape that came and the one wanted."""
    return [
        spoilt(functions, ValueError, (name, str(n), wanted), **{name: f32(*n)}, **others)
        for n in refused
    ]


def dtypes(functions, name, shape):
    kinds = ["int32", "int64", "bool", "complex64", "U3", "M8[s]", "object"]
    arrays = [np.zeros(shape, "int64").astype(kind) for kind in kinds]
    if np.dtype(np.longdouble) != np.float64:
        arrays.append(np.zeros(shape, np.longdouble))
    return [spoilt(functions, TypeError, (name, str(a.dtype)), **{name: a}) for a in arrays]


NAN, INF = float("nan"), float("inf")
PLAIN = {"weight": MISSING, "bias": MISSING}
NOT_SIX = [(5,), (7,), (1,), (0,), (6, 1), (1, 6), (6, 5), ()]
NOT_FIVE = [(4,), (6,), (1,), (0,), (5, 1), (1, 5), (6, 5), ()]
NOT_TRAILING = [4, (6,), (5, 6), (6, 4), (1,), (1, 4, 6, 5), (2, 4, 6, 5), 0, (0,)]
NOT_X = [(4, 6), (4, 6, 5, 1), (1, 4, 6, 5), (4, 5, 6), (4, 6, 6), (120,), ()]
DISAGREEING = [(5, 1), ((6,), 2), ((6, 5), 2), ((5,), (1, 2))]
CASES = [
    # weight and bias
    *shapes(CHANNELED, "weight", NOT_SIX, "(6,)"),
    *shapes(CHANNELED, "bias", NOT_SIX, "(6,)"),
    *shapes(AXED, "weight", NOT_FIVE, "(5,)"),
    *shapes(("layer_norm",), "bias", NOT_FIVE, "(5,)"),
    *shapes(AXED, "weight", [(5,), (30,), (5, 6)], "(6, 5)", normalized_shape=(6, 5), bias=MISSING),
    *shapes(AXED, "weight", [(5,), (4,), (6, 1)], "(6,)", axis=1, bias=MISSING),
    *dtypes(CHANNELED, "weight", 6),
    *dtypes(CHANNELED, "bias", 6),
    *dtypes(AXED, "weight", 5),
    *dtypes(("layer_norm",), "bias", 5),
    # normalized_shape and axis
    *[
        spoilt(AXED, ValueError, ("normalized_shape", str(SHAPE)), normalized_shape=n, **PLAIN)
        for n in NOT_TRAILING
    ],
    *values(AXED, "normalized_shape", [(), -5, (-5,), (6, -5)]),
    *values(AXED, "normalized_shape", [5.0, "5", (5.0,), True, (True,), ("5",), b"5"], TypeError),
    *values(AXED, "axis", [3, -4, (0, 3), (), (1, 1), (1, -2), 2**70]),
    *values(AXED, "axis", [1.0, "1", (1.0,), True, (True, 2), ("1",)], TypeError),
    *[
        spoilt(AXED, ValueError, ("normalized_shape", "axis"), normalized_shape=n, axis=a, **PLAIN)
        for n, a in DISAGREEING
    ],
    # groups
    *[
        spoilt(("group_norm",), ValueError, ("num_groups", str(n), "6"), num_groups=n)
        for n in (4, 5, 7, 12)
    ],
    *values(("group_norm",), "num_groups", [0, -1, -2]),
    *values(("group_norm",), "num_groups", [2.0, "2", True, None, (2,), np.float32(2)], TypeError),
    # channels
    *values(CHANNELED, "channel_axis", [3, -4, 2**70]),
    *values(CHANNELED, "channel_axis", [1.0, "1", True, None, (1,)], TypeError),
    *values(("instance_norm", "group_norm"), "channel_axis", [0, -3]),
    # eps and momentum
    *values(EVERY, "eps", [-1e-5, NAN, INF, -INF]),
    *values(EVERY, "eps", ["1e-5", (1e-5,), 1e-5j, np.zeros(3)], TypeError),
    *values(("layer_norm", *CHANNELED), "eps", [None], TypeError),
    *values(RUNNING, "momentum", [-0.1, 1.1, NAN, INF, -INF]),
    *values(RUNNING, "momentum", ["0.1", None, 0.1j, (0.1,)], TypeError),
    # running statistics
    *shapes(RUNNING, "running_mean", NOT_SIX, "(6,)"),
    *shapes(RUNNING, "running_var", NOT_SIX, "(6,)"),
    *dtypes(RUNNING, "running_mean", 6),
    *dtypes(RUNNING, "running_var", 6),
    *values(RUNNING, "running_mean", [[0.0] * 6, (0.0,) * 6, 0.0], TypeError),
    *values(RUNNING, "running_var", [[1.0] * 6, (1.0,) * 6, 1.0], TypeError),
    *values(RUNNING, "running_mean", [MISSING]),
    *values(RUNNING, "running_var", [MISSING]),
    # out
    *shapes(EVERY, "out", NOT_X, str(SHAPE)),
    *[
        spoilt(EVERY, TypeError, ("out", "float32", kind), out=np.full(SHAPE, 7, kind))
        for kind in ("float64", "float16", "int32", "complex64", "object")
    ],
    *values(EVERY, "out", [[[0.0]], 0.0, "out", (f32(*SHAPE),)], TypeError),
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
    refuse(case.error, case.words, function, data(), **valid(function, **case.changes))


# --- x ------------------------------------------------------------------------------------


@every_function
def test_dtypes_of_x(function):
    refused = [
        np.int8,
        np.int64,
        np.uint16,
        np.bool_,
        np.complex64,
        np.complex128,
        "U5",
        "S5",
        "M8[s]",
        "m8[s]",
        object,
        "V4",
    ]
    if np.dtype(np.longdouble) != np.float64:
        refused.append("longdouble")
    for dtype in refused:
        x = np.zeros(SHAPE, dtype)
        refuse(TypeError, ("x", str(x.dtype)), function, x, **valid(function, out=MISSING))
    refuse(TypeError, "x", function, [[1, 2, 3]] * 4, **valid(function, out=MISSING))
    refuse(TypeError, "x", function, "text", **valid(function, out=MISSING))
    refuse(TypeError, "x", function, None, **valid(function, out=MISSING))


@every_function
def test_masked_arrays(function):
    """Their masks would be lost."""
    x = np.ma.masked_less(data(), 3)
    refuse(TypeError, "x", function, x, **valid(function))


@every_function
def test_scalars(function):
    for x in (np.float32(1), np.array(1, np.float32), 1.0):
        refuse(ValueError, "x", function, x, **valid(function, out=MISSING))


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        ("batch_norm", (6,)),
        ("instance_norm", (6,)),
        ("instance_norm", (4, 6)),
        ("group_norm", (6,)),
    ],
)
def test_too_few_dimensions(function, shape):
    refuse(ValueError, ("x", str(shape)), function, data(shape), **valid(function, shape))


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        ("batch_norm", (1, 6)),
        ("batch_norm", (1, 6, 1)),
        ("batch_norm", (1, 6, 1, 1)),
        ("instance_norm", (4, 6, 1)),
        ("instance_norm", (1, 6, 1, 1)),
    ],
)
def test_one_value_has_no_statistics(function, shape):
    refuse(ValueError, ("x", str(shape)), function, data(shape), **valid(function, shape))
    # in evaluation there is nothing to estimate
    arguments = valid(function, shape, **EVALUATION[function])
    assert getattr(fastnorm, function)(data(shape), **arguments).shape == shape


@every_function
def test_shapes_beyond_the_memory(function):
    x = np.broadcast_to(np.float32(1), (2**20, 2**20, 2**20))
    arguments = valid(function, weight=MISSING, bias=MISSING, out=MISSING)
    arguments = {k: v for k, v in arguments.items() if not k.startswith("running")}
    refuse((ValueError, MemoryError), (), function, x, **arguments)


@every_function
def test_x_is_positional_only(function):
    with pytest.raises(TypeError):
        getattr(fastnorm, function)(x=data(), **valid(function))


# --- running statistics -------------------------------------------------------------------


@pytest.mark.parametrize("function", RUNNING)
def test_evaluation_needs_running_statistics(function):
    options = EVALUATION[function]
    for missing in (("running_mean",), ("running_var",), ("running_mean", "running_var")):
        arguments = valid(function, **options, **dict.fromkeys(missing, MISSING))
        refuse(ValueError, missing[0], function, data(), **arguments)


@pytest.mark.parametrize("function", RUNNING)
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_cannot_be_updated(function, name):
    frozen = f32(6)
    frozen.flags.writeable = False
    broadcast = np.broadcast_to(np.float32(1), 6)
    for refused in (frozen, broadcast):
        refuse(ValueError, name, function, data(), **valid(function, **{name: refused}))
        # they need not be writeable to be used
        arguments = valid(function, **EVALUATION[function], **{name: refused})
        getattr(fastnorm, function)(data(), **arguments)


@pytest.mark.parametrize("function", RUNNING)
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_in_evaluation(function, name):
    options = EVALUATION[function]
    for shape in NOT_SIX:
        arguments = valid(function, **options, **{name: f32(*shape)})
        refuse(ValueError, (name, str(shape), "(6,)"), function, data(), **arguments)
    for case in dtypes((function,), name, 6):
        refuse(TypeError, name, function, data(), **valid(function, **options, **case.changes))
    refuse(TypeError, name, function, data(), **valid(function, **options, **{name: [1.0] * 6}))


# --- out ----------------------------------------------------------------------------------


@every_function
def test_read_only_out(function):
    out = np.full(SHAPE, 7, np.float32)
    out.flags.writeable = False
    refuse(ValueError, "out", function, data(), **valid(function, out=out))


@every_function
def test_the_last_argument_is_checked_before_the_first_is_written(function):
    """Whichever argument is wrong, `refuse` sees that all the others are as they were."""
    arguments = valid(function)
    wrong = {"weight": f32(3), "eps": -1.0, "out": f32(1)}
    if function != "rms_norm":
        wrong["bias"] = f32(3)
    for name, value in wrong.items():
        refuse(ValueError, name, function, data(), **{**arguments, name: value})
    x = data()
    in_place = {**arguments, "out": x, "weight": f32(3)}
    refuse(ValueError, "weight", function, x, **in_place)


# --- threads and tiers --------------------------------------------------------------------


def test_numbers_of_threads():
    before = fastnorm.get_num_threads()
    for refused in (0, -1, -(2**70), 2**70):
        refuse(ValueError, "n", "set_num_threads", refused)
    for refused in (1.5, True, "2", None, np.float64(2), [2]):
        refuse(TypeError, "n", "set_num_threads", refused)
    assert fastnorm.get_num_threads() == before


def test_tiers_that_are_not_there():
    before = fastnorm.config()["isa"]
    for refused in ("x86-64-v9", "", "AVX2"):
        with pytest.raises(ValueError, match=re.escape(before)):  # shows what is available
            fastnorm._core.use_isa(refused)
    assert fastnorm.config()["isa"] == before
