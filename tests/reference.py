"""The five functions written from their definitions: the oracle of the tests.

Nothing here is fast and nothing is clever. Data come in as stored, are widened to a type that
is much finer than the arithmetic under test, and every formula reads as in the papers. Each
function takes the arguments of its namesake in ``fastnorm``, leaves running statistics alone
and returns an `Exact`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Wide = NDArray[Any]
Axes = int | Sequence[int]


@dataclass(frozen=True)
class Exact:
    """An answer in wide precision.

    ``normalized`` is x̂; ``weight`` and ``bias`` broadcast against it. They are kept apart because
    the promised error is a multiple of |weight|·(1 + |x̂|) + |bias|. The statistics have the
    shapes that ``return_stats=True`` promises.
    """

    normalized: Wide
    weight: Wide
    bias: Wide
    mean: Wide
    rstd: Wide
    running_mean: Wide | None = None
    running_var: Wide | None = None

    @functools.cached_property
    def y(self) -> Wide:
        with np.errstate(all="ignore"):
            return self.normalized * self.weight + self.bias

    @functools.cached_property
    def magnitude(self) -> Wide:
        """What the promised errors are multiples of."""
        return abs(self.weight) * (1 + abs(self.normalized)) + abs(self.bias)


def is_double(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" and dtype.itemsize == 8


def widen(array: ArrayLike) -> Wide:
    """float64 for the narrow types, longdouble for float64 (and what is longdouble already).

    Where longdouble is no wider than float64, the twin of float64 data is only as good as
    careful float64 arithmetic: `moments` keeps it within a few 1e-16, far inside the 1e-12
    that is promised.
    """
    array = np.asarray(array)
    wide = np.longdouble if is_double(array.dtype) or array.dtype.itemsize > 8 else np.float64
    return array.astype(wide)


def mean_of(x: Wide, axes: tuple[int, ...]) -> Wide:
    """The mean, then the mean of what that left over, so that no offset of the data matters."""
    mean = x.mean(axes, keepdims=True)
    return mean + (x - mean).mean(axes, keepdims=True)


def moments(x: Wide, axes: tuple[int, ...]) -> tuple[Wide, Wide, Wide]:
    """Deviations, mean and biased variance, with the reduced axes kept."""
    rough = x.mean(axes, keepdims=True)
    deviations = x - rough
    rest = deviations.mean(axes, keepdims=True)
    deviations = deviations - rest
    return deviations, rough + rest, (deviations**2).mean(axes, keepdims=True)


def updated(
    running: tuple[ArrayLike | None, ArrayLike | None], batch: tuple[Wide, Wide], momentum: float
) -> list[Wide | None]:
    """Running statistics after one batch."""
    return [
        None if old is None else (1 - momentum) * widen(old) + momentum * new
        for old, new in zip(running, batch, strict=True)
    ]


def sizes(x: Wide, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(x.shape[axis] for axis in axes)


def along(parameter: ArrayLike | None, x: Wide, axes: Sequence[int], default: float) -> Wide:
    """``parameter`` as an array that broadcasts against x, varying along ``axes`` of x only."""
    if parameter is None:
        return np.full((1,) * x.ndim, default)
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    return widen(parameter).reshape(shape)


def normalized_axes(ndim: int, normalized_shape: Axes | None, axis: Axes | None) -> tuple[int, ...]:
    if axis is not None:
        return tuple(sorted(int(a) % ndim for a in np.atleast_1d(axis)))
    count = 1 if normalized_shape is None else np.size(normalized_shape)
    return tuple(range(ndim - count, ndim))


def layer_norm(
    x: ArrayLike,
    normalized_shape: Axes | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: Axes | None = None,
) -> Exact:
    x = widen(x)
    axes = normalized_axes(x.ndim, normalized_shape, axis)
    with np.errstate(all="ignore"):
        deviations, mean, var = moments(x, axes)
        rstd = 1 / np.sqrt(var + eps)
        normalized = deviations * rstd
    return Exact(normalized, along(weight, x, axes, 1), along(bias, x, axes, 0), mean, rstd)


def rms_norm(
    x: ArrayLike,
    normalized_shape: Axes | None = None,
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    axis: Axes | None = None,
) -> Exact:
    if eps is None:
        arithmetic = np.float64 if is_double(np.asarray(x).dtype) else np.float32
        eps = float(np.finfo(arithmetic).eps)
    x = widen(x)
    axes = normalized_axes(x.ndim, normalized_shape, axis)
    with np.errstate(all="ignore"):
        rstd = 1 / np.sqrt((x**2).mean(axes, keepdims=True) + eps)
        normalized = x * rstd
    weight, bias = along(weight, x, axes, 1), along(None, x, axes, 0)
    return Exact(normalized, weight, bias, np.zeros_like(rstd), rstd)


def batch_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
) -> Exact:
    x = widen(x)
    channels = (channel_axis % x.ndim,)
    others = tuple(axis for axis in range(x.ndim) if axis not in channels)
    with np.errstate(all="ignore"):
        if training:
            deviations, mean, var = moments(x, others)
        else:
            assert running_mean is not None
            assert running_var is not None
            mean, var = along(running_mean, x, channels, 0), along(running_var, x, channels, 1)
            deviations = x - mean
        rstd = 1 / np.sqrt(var + eps)
        normalized = deviations * rstd
        count = math.prod(sizes(x, others))
        batch = mean.ravel(), var.ravel() * count / np.float64(count - 1)
        running = updated((running_mean, running_var), batch, momentum)
    weight, bias = along(weight, x, channels, 1), along(bias, x, channels, 0)
    stats = mean.ravel(), rstd.ravel()
    return Exact(normalized, weight, bias, *stats, *(running if training else ()))


def instance_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
) -> Exact:
    x = widen(x)
    channels = (channel_axis % x.ndim,)
    per_instance = (0, *channels)
    spatial = tuple(axis for axis in range(x.ndim) if axis not in per_instance)
    with np.errstate(all="ignore"):
        if use_input_stats:
            deviations, mean, var = moments(x, spatial)
        else:
            assert running_mean is not None
            assert running_var is not None
            mean, var = along(running_mean, x, channels, 0), along(running_var, x, channels, 1)
            deviations = x - mean
        rstd = 1 / np.sqrt(var + eps)
        normalized = deviations * rstd
        stats = sizes(x, per_instance)
        count = math.prod(sizes(x, spatial))
        unbiased = var.reshape(-1, stats[1]) * count / np.float64(count - 1)
        batch = mean.reshape(-1, stats[1]).mean(0), unbiased.mean(0)
        running = updated((running_mean, running_var), batch, momentum)
    weight, bias = along(weight, x, channels, 1), along(bias, x, channels, 0)
    mean, rstd = (np.broadcast_to(s.reshape(-1, stats[1]), stats) for s in (mean, rstd))
    return Exact(normalized, weight, bias, mean, rstd, *(running if use_input_stats else ()))


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
) -> Exact:
    x = widen(x)
    channel_axis %= x.ndim
    first = np.moveaxis(x, channel_axis, 1)
    grouped = first.reshape(x.shape[0], num_groups, -1)
    with np.errstate(all="ignore"):
        deviations, mean, var = moments(grouped, (2,))
        rstd = 1 / np.sqrt(var + eps)
        normalized = np.moveaxis((deviations * rstd).reshape(first.shape), 1, channel_axis)
    weight, bias = along(weight, x, (channel_axis,), 1), along(bias, x, (channel_axis,), 0)
    return Exact(normalized, weight, bias, mean[..., 0], rstd[..., 0])
