"""The textbook formulas in NumPy, as one writes them without a library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.peers import Bound
from bench.work import MOMENTUM, Outputs, Work
from fastnorm._demo import EPS, Array


class PlainNumPy:
    """NumPy; its arithmetic has one thread whatever is asked for."""

    versions = ("numpy",)
    note = "one thread always; makes a new output and temporary arrays in each call"

    def use_threads(self, threads: int) -> None:
        """Do nothing: there is one."""

    def bind(self, work: Work, threads: int) -> Bound:
        """Return a call of the formula."""
        if work.problem.backward:
            return Bound(_backward(work), tuple)
        data = work.data
        weight, bias = (
            None if values is None else work.along_channels(values)
            for values in (work.weight, work.bias)
        )
        mean, var = work.along_channels(data.running_mean), work.along_channels(data.running_var)
        axes = work.problem.normalised_axes
        x = data.x
        half = x.dtype.itemsize == 2

        def call() -> Array:
            # 16-bit sums would go astray.
            wide = x.astype(np.float32) if half else x
            if work.operation == "batch_norm" and not work.training:
                y = (wide - mean) / np.sqrt(var + EPS)
            elif work.operation == "group_norm":
                y = _by_groups(wide, work.problem.case.num_groups, work.channel_axis)
            else:
                y = _standardised(wide, axes, centre=work.operation != "rms_norm")
            if work.training:
                count = wide.size / wide.shape[work.channel_axis]
                batch_var = wide.var(axis=axes, keepdims=True) * (count / (count - 1))
                mean[...] += MOMENTUM * (wide.mean(axis=axes, keepdims=True) - mean)
                var[...] += MOMENTUM * (batch_var - var)
            if weight is not None:
                y = y * weight
            if bias is not None:
                y = y + bias
            return y.astype(x.dtype, copy=False)

        return Bound(call, lambda y: (y,))


def _backward(work: Work) -> Callable[[], Outputs]:
    """Return a call of the backward's formula, with mean and 1/√(var + eps) from before."""
    x, grad, groups = work.data.x, work.grad, work.problem.case.num_groups
    kind = np.promote_types(x.dtype, np.float32) if x.dtype.itemsize > 2 else np.dtype(np.float32)
    channel, axes = work.channel_axis, work.problem.normalised_axes
    given = work.operation == "batch_norm" and not work.training
    centre = work.operation != "rms_norm"
    split = x.shape
    if work.operation == "group_norm":
        split = (*x.shape[:channel], groups, -1, *x.shape[channel + 1 :])
        axes = tuple(axis for axis in range(1, x.ndim + 1) if axis != channel)
    wide = x.astype(np.float64).reshape(split)
    mean = wide.mean(axis=axes, keepdims=True) * centre
    var = np.square(wide - mean).mean(axis=axes, keepdims=True)
    if given:
        mean, var = map(work.along_channels, (work.data.running_mean, work.data.running_var))
    mean, rstd = mean.astype(kind), (1 / np.sqrt(var + EPS)).astype(kind)
    weight = work.along_channels(work.neutral_weight).astype(kind)
    others = tuple(axis for axis in range(x.ndim) if axis != channel)

    def call() -> Outputs:
        g, normal = grad.astype(kind, copy=False), x.astype(kind, copy=False).reshape(split)
        normal = (normal - mean) * rstd
        dx = (g * weight).reshape(split)
        if not given:
            inner = normal * (dx * normal).mean(axis=axes, keepdims=True)
            dx = dx - (inner + dx.mean(axis=axes, keepdims=True) if centre else inner)
        dx = (dx * rstd).reshape(x.shape).astype(x.dtype, copy=False)
        dweight = (g * normal.reshape(x.shape)).sum(axis=others)
        return (dx, dweight, g.sum(axis=others)) if centre else (dx, dweight)

    return call


def _standardised(x: Array, axes: tuple[int, ...], *, centre: bool = True) -> Array:
    """Return (x - mean) / √(var + eps), or x / √(mean square + eps)."""
    eps = x.dtype.type(EPS)
    if not centre:
        return np.asarray(x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + eps))
    mean = x.mean(axis=axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(x.var(axis=axes, keepdims=True) + eps))


def _by_groups(x: Array, groups: int, channel_axis: int) -> Array:
    """Standardise groups of channels: an axis of groups, then one of their channels."""
    split = x.reshape(*x.shape[:channel_axis], groups, -1, *x.shape[channel_axis + 1 :])
    axes = tuple(axis for axis in range(1, split.ndim) if axis != channel_axis)
    return _standardised(split, axes).reshape(x.shape)


def make(threads: int) -> Any:
    """Return the peer."""
    return PlainNumPy()
