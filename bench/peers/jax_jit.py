"""jax: the textbook formula, and its derivative by ``jax.vjp``, compiled by ``jax.jit``."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers import Bound, UnsupportedError
from bench.work import MOMENTUM, Outputs, Work
from fastnorm._demo import EPS


class Jax:
    """jax on the CPU. Its threads are made once, when it starts."""

    versions = ("jax",)
    note = (
        "makes a new output in each call (its input is not donated: the next call needs it); its "
        "threads are as many as the most that --threads asks for, and cannot be changed; backward: "
        "what jax.vjp of a compiled forward that was done before returned, compiled"
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
        arguments: tuple[Any, ...] = self.numpy.asarray(data.x), *parameters
        function = self.jax.jit(partial(_normalised, self.jax, work))
        if work.problem.backward:
            function, arguments = self.derivative(work, function, arguments)
        compiled = function.lower(*arguments).compile()
        ready = self.jax.block_until_ready

        def call() -> Any:
            return ready(compiled(*arguments))

        return Bound(call, partial(_outputs, work))

    def derivative(
        self, work: Work, function: Any, arguments: tuple[Any, ...]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Do the forward, and return the function that goes back, and its arguments."""
        x, weight, bias, *running = arguments
        weight = self.numpy.asarray(work.along_channels(work.neutral_weight))
        inputs = [x, weight]
        if work.operation != "rms_norm":
            inputs.append(self.numpy.zeros_like(weight) if bias is None else bias)

        def result(x: Any, weight: Any, bias: Any = None) -> Any:
            return function(x, weight, bias, *running)[0]

        # What the forward saves is a part of `pull`, which counts as a tree of arrays.
        _, pull = self.jax.vjp(result, *inputs)
        return self.jax.jit(lambda pull, grad: pull(grad)), (pull, self.numpy.asarray(work.grad))


def _outputs(work: Work, result: Any) -> Outputs:
    first, *others = map(np.asarray, result)
    return (first, *(values.reshape(-1) for values in others if work.problem.backward))


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
