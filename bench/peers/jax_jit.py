"""jax: the textbook formula, compiled by ``jax.jit``."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers import Bound, UnsupportedError
from bench.work import MOMENTUM, Work
from fastnorm._demo import EPS, Array


class Jax:
    """jax on the CPU. Its threads are made once, when it starts."""

    versions = ("jax",)
    note = (
        "makes a new output in each call (its input is not donated: the next call needs it); its "
        "threads are as many as the most that --threads asks for, and cannot be changed"
    )

    def __init__(self, threads: int) -> None:
        self.threads = threads
        # XLA reads the number of processors from here before it asks the operating system.
        os.environ["NPROC"] = str(threads)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        self.numpy: Any = import_module("jax.numpy")

    def use_threads(self, threads: int) -> None:
        """Do nothing: it is too late."""

    def bind(self, work: Work, threads: int) -> Bound:
        """Compile, and return the compiled call."""
        if threads != self.threads:
            raise UnsupportedError(f"its threads are {self.threads} for the whole process")
        data = work.data
        parameters = [
            None if values is None else self.numpy.asarray(work.along_channels(values))
            for values in (work.weight, work.bias, data.running_mean, data.running_var)
        ]
        arguments = self.numpy.asarray(data.x), *parameters
        compiled = self.jax.jit(partial(_normalised, self.jax, work)).lower(*arguments).compile()
        ready = self.jax.block_until_ready

        def call() -> Any:
            return ready(compiled(*arguments))

        return Bound(call, _first)


def _first(result: Any) -> Array:
    return np.asarray(result[0])


def _normalised(
    jax: Any, work: Work, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any
) -> tuple[Any, ...]:
    """Return the result; after it, in training, the new running statistics.

    Multiplied by the reciprocal of a root, as in flax: XLA would divide for each element.
    """
    numpy, rsqrt = jax.numpy, jax.lax.rsqrt
    shape, axes = x.shape, work.problem.normalised_axes
    wide = x.astype(numpy.promote_types(x.dtype, numpy.float32))
    if work.operation == "group_norm":
        channel = work.channel_axis
        groups = work.problem.case.num_groups
        wide = wide.reshape(*shape[:channel], groups, -1, *shape[channel + 1 :])
        axes = tuple(axis for axis in range(1, wide.ndim) if axis != channel)

    state: tuple[Any, ...] = ()
    if work.operation == "batch_norm" and not work.training:
        y = (wide - running_mean) * rsqrt(running_var + EPS)
    elif work.operation == "rms_norm":
        y = wide * rsqrt(numpy.mean(wide * wide, axis=axes, keepdims=True) + EPS)
    else:
        mean, var = (f(wide, axis=axes, keepdims=True) for f in (numpy.mean, numpy.var))
        y = ((wide - mean) * rsqrt(var + EPS)).reshape(shape)
        if work.training:
            count = x.size / x.shape[work.channel_axis]
            state = (
                running_mean + MOMENTUM * (mean - running_mean),
                running_var + MOMENTUM * (var * (count / (count - 1)) - running_var),
            )
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return (y.astype(x.dtype), *state)


def make(threads: int) -> Jax:
    """Return the peer."""
    return Jax(threads)
