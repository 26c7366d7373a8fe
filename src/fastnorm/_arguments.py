"""Arguments: what is accepted, and what is said about the rest.

Every check here runs before anything is written, so that a refused call changes nothing.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np

from ._types import Array

DTYPES = "float32, float64, float16 or bfloat16"


def unsupported_dtype(name: str, dtype: Any) -> TypeError:
    return TypeError(f"{name}: dtype {dtype} is not supported; takes {DTYPES}")


def wrong_dtype(name: str, got: Any, wanted: Any) -> TypeError:
    return TypeError(f"{name}: has dtype {got}; takes {wanted}")


def wrong_shape(name: str, got: object, wanted: object) -> ValueError:
    return ValueError(f"{name}: has shape {got}; takes {wanted}")


def not_an_array(name: str, value: object) -> TypeError:
    return TypeError(f"{name}: is a {type(value).__name__}; takes a numpy.ndarray")


def as_array(name: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: is a masked array, whose mask would be ignored; takes an array")
    try:
        return np.asarray(value)
    except ValueError as error:  # sequences of unequal lengths
        raise ValueError(f"{name}: cannot be made an array: {error}") from None


def converted(values: Array, dtype: Any) -> Array:
    """A dense, aligned array of this dtype, perhaps the array itself.

    What is out of the dtype's range becomes inf without a warning.
    """
    with np.errstate(all="ignore"):
        return np.require(values, dtype, ["C", "A"])


def assign(target: Array, values: Array) -> None:
    """Overwrite an array; what is out of its dtype's range becomes inf without a warning."""
    with np.errstate(all="ignore"):
        target[...] = values.astype(target.dtype)


def integer(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: is {value!r}; takes an integer")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}: is a {type(value).__name__} ({value!r}); takes an integer"
        ) from None


def positive_int(name: str, value: Any) -> int:
    n = integer(name, value)
    if not 0 < n < 2**31:
        raise ValueError(f"{name}: is {n}; takes a positive integer")
    return n


def real(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not (
        isinstance(value, numbers.Real)
        or (
            isinstance(value, (np.ndarray, np.generic))
            and value.ndim == 0
            and value.dtype.kind in "fiuV"
        )
    ):
        raise TypeError(f"{name}: is a {type(value).__name__} ({value!r}); takes a real number")
    return float(value)


def eps(value: Any) -> float:
    number = real("eps", value)
    if not 0 <= number < math.inf:
        raise ValueError(f"eps: is {number}; takes a finite number, 0 or greater")
    return number


def momentum(value: Any) -> float:
    number = real("momentum", value)
    if not 0 <= number <= 1:
        raise ValueError(f"momentum: is {number}; takes a number from 0 to 1")
    return number


def axis_index(name: str, value: Any, shape: tuple[int, ...]) -> int:
    i = integer(name, value)
    if not -len(shape) <= i < len(shape):
        raise ValueError(
            f"{name}: is {i}, but x has {len(shape)} dimensions (shape {shape}); "
            f"takes {-len(shape)} to {len(shape) - 1}"
        )
    return i % len(shape)


def axes(name: str, value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """One axis or several, in x's order."""
    if not isinstance(value, (tuple, list)):
        value = (value,)
    found = [axis_index(name, v, shape) for v in value]
    if not found:
        raise ValueError(f"{name}: is empty; takes at least one axis of x, which has shape {shape}")
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: {tuple(value)} names an axis of x (shape {shape}) twice")
    return tuple(sorted(found))


def shape_argument(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        value = (value,)
    shape = tuple(integer("normalized_shape", v) for v in value)
    if not shape:
        raise ValueError("normalized_shape: is empty; takes the length of at least one axis")
    if min(shape) < 0:
        raise ValueError(f"normalized_shape: is {shape}; takes lengths, 0 or greater")
    return shape


def normalized_shape(value: Any, wanted: tuple[int, ...], where: str) -> tuple[int, ...]:
    shape = shape_argument(value)
    if shape != wanted:
        raise ValueError(f"normalized_shape: is {shape}; takes {wanted}, which is {where}")
    return shape


def trailing_shape(value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    wanted = shape_argument(value)
    if len(wanted) > len(shape) or wanted != shape[len(shape) - len(wanted) :]:
        raise ValueError(
            f"normalized_shape: is {wanted}; takes the last axes of x, which has shape {shape}"
        )
    return wanted


def channel_axis(value: Any, shape: tuple[int, ...], ndim: int, per_sample: bool) -> int:
    if len(shape) < ndim:
        raise ValueError(f"x: has shape {shape}; takes at least {ndim} dimensions")
    channel = axis_index("channel_axis", value, shape)
    if per_sample and channel == 0:
        raise ValueError(
            f"channel_axis: is axis 0 of x (shape {shape}), which is the batch; takes another axis"
        )
    return channel


def one_value(shape: tuple[int, ...], channel: int, per_sample: bool) -> ValueError:
    what = "spatial value per channel of a sample" if per_sample else "value per channel"
    return ValueError(
        f"x: shape {shape} with channel_axis {channel} has one {what}; "
        "takes at least 2 to compute their variance"
    )


def missing_statistics() -> ValueError:
    return ValueError(
        "running_mean, running_var: are missing; takes both when the statistics of x are not used"
    )


def missing_statistic(name: str) -> ValueError:
    return ValueError(f"{name}: is missing; takes an array, like the other running statistic")


def num_groups(value: Any, channels: int, shape: tuple[int, ...]) -> int:
    groups = positive_int("num_groups", value)
    if channels % groups:
        raise ValueError(
            f"num_groups: is {groups}, which does not divide the {channels} channels of x "
            f"(shape {shape})"
        )
    return groups
