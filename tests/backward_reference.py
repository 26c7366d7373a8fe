"""The backward passes written from their definitions: the oracle of their tests.

As in `reference`, nothing is fast and nothing is clever, and all is widened. Statistics are
computed from x as stored: what the forward pass rounds is not taken as given. Only
`batch_norm_backward` in evaluation takes the statistics given, which are constants there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import reference
from numpy.typing import ArrayLike
from reference import Axes, Wide, along, moments, normalized_axes, widen


@dataclass(frozen=True)
class Gradients:
    """The gradients, and what the promised errors of dweight and dbias are multiples of: Σ|terms|.

    ``normalized`` is x̂, with the shape of x; ``centred`` tells whether the mean was taken from x.
    """

    dx: Wide
    dweight: Wide
    dbias: Wide
    weight_terms: Wide
    bias_terms: Wide
    normalized: Wide
    centred: bool


def gradients(
    grad: Wide, normalized: Wide, rstd: Wide, weight: Wide, pooled: Axes, parameters: Axes
) -> Gradients:
    """The chain rule through y = x̂·weight + bias and x̂ = (x - mean)·rstd.

    ``pooled``: the axes that the statistics are taken over, none where they are constants.
    ``parameters``: the axes along which weight and bias vary.
    """
    scaled = grad * weight
    if pooled:
        along_mean = scaled.mean(pooled, keepdims=True)
        along_rstd = (scaled * normalized).mean(pooled, keepdims=True)
        dx = rstd * (scaled - along_mean - normalized * along_rstd)
    else:
        dx = rstd * scaled
    return finished(dx, grad, normalized, parameters, centred=bool(pooled))


def finished(
    dx: Wide, grad: Wide, normalized: Wide, parameters: Axes, *, centred: bool
) -> Gradients:
    others = tuple(axis for axis in range(grad.ndim) if axis not in np.atleast_1d(parameters))
    terms = grad * normalized
    sums = [a.sum(others) for a in (terms, grad, abs(terms), abs(grad))]
    return Gradients(dx, *sums, np.broadcast_to(normalized, grad.shape), centred)


def layer_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    normalized_shape: Axes | None = None,
    axis: Axes | None = None,
) -> Gradients:
    grad, x = widen(grad), widen(x)
    axes = normalized_axes(x.ndim, normalized_shape, axis)
    with np.errstate(all="ignore"):
        deviations, _, var = moments(x, axes)
        rstd = 1 / np.sqrt(var + eps)
        w = widen(along(weight, x, axes, 1))
        return gradients(grad, deviations * rstd, rstd, w, axes, axes)


def rms_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    normalized_shape: Axes | None = None,
    axis: Axes | None = None,
) -> Gradients:
    if eps is None:
        arithmetic = np.float64 if reference.is_double(np.asarray(x).dtype) else np.float32
        eps = float(np.finfo(arithmetic).eps)
    grad, x = widen(grad), widen(x)
    axes = normalized_axes(x.ndim, normalized_shape, axis)
    with np.errstate(all="ignore"):
        rstd = 1 / np.sqrt((x**2).mean(axes, keepdims=True) + eps)
        normalized = x * rstd
        scaled = grad * widen(along(weight, x, axes, 1))
        dx = rstd * (scaled - normalized * (scaled * normalized).mean(axes, keepdims=True))
        return finished(dx, grad, normalized, axes, centred=False)


def batch_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    mean: ArrayLike | None = None,
    rstd: ArrayLike | None = None,
    training: bool = True,
    channel_axis: int = 1,
) -> Gradients:
    grad, x = widen(grad), widen(x)
    channels = (channel_axis % x.ndim,)
    others = tuple(axis for axis in range(x.ndim) if axis not in channels)
    w = widen(along(weight, x, channels, 1))
    with np.errstate(all="ignore"):
        if training:
            deviations, _, var = moments(x, others)
            scale = 1 / np.sqrt(var + eps)
            return gradients(grad, deviations * scale, scale, w, others, channels)
        assert mean is not None
        assert rstd is not None
        scale = widen(along(widen(rstd), x, channels, 1))
        deviations = x - widen(along(widen(mean), x, channels, 0))
        return gradients(grad, deviations * scale, scale, w, (), channels)


def instance_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
) -> Gradients:
    grad, x = widen(grad), widen(x)
    channels = (channel_axis % x.ndim,)
    spatial = tuple(axis for axis in range(x.ndim) if axis not in (0, *channels))
    w = widen(along(weight, x, channels, 1))
    with np.errstate(all="ignore"):
        deviations, _, var = moments(x, spatial)
        rstd = 1 / np.sqrt(var + eps)
        return gradients(grad, deviations * rstd, rstd, w, spatial, channels)


def group_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
) -> Gradients:
    """Layer norm of every group, with the groups as an axis of their own."""
    grad, x = widen(grad), widen(x)
    channels = x.shape[channel_axis]

    def grouped(a: Wide) -> Wide:
        first = np.moveaxis(a, channel_axis, 1)
        positions = math.prod(first.shape[2:])
        return first.reshape(len(a), num_groups, channels // num_groups, positions)

    def like_x(a: Wide) -> Wide:
        first = np.moveaxis(x, channel_axis, 1).shape
        return np.moveaxis(a.reshape(first), 1, channel_axis)

    w = widen(np.ones(channels) if weight is None else weight)
    with np.errstate(all="ignore"):
        deviations, _, var = moments(grouped(x), (2, 3))
        rstd = 1 / np.sqrt(var + eps)
        parts = gradients(
            grouped(grad), deviations * rstd, rstd, w.reshape(num_groups, -1, 1), (2, 3), (1, 2)
        )
    sums = (parts.dweight, parts.dbias, parts.weight_terms, parts.bias_terms)
    return Gradients(
        like_x(parts.dx), *(s.reshape(channels) for s in sums), like_x(parts.normalized), True
    )
