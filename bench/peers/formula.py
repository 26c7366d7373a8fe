"""The textbook formula: in NumPy, and compiled by ``jax.jit``."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers import Bound, UnsupportedError
from bench.shapes import Problem
from bench.work import EPS, MOMENTUM, Work, along


class PlainNumPy:
    """NumPy, as one writes it without a library."""

    versions = ("numpy",)
    note = "one thread always; makes a new output and temporary arrays in each call"
    xp: Any = np

    def __init__(self, threads: int) -> None:
        pass

    def bind(self, work: Work) -> Bound:
        """Return a call of the formula."""
        if work.problem.backward:
            raise UnsupportedError("forward only")
        return Bound(
            partial(self.formula, work.problem, *self.arrays(work)), lambda found: found[:1]
        )

    def arrays(self, work: Work) -> tuple[Any, ...]:
        """Return the input, the weight, the bias and the running statistics."""
        parameters = work.weight, work.bias, work.running_mean, work.running_var
        shaped = (None if v is None else along(work.problem, v) for v in parameters)
        return tuple(None if v is None else self.xp.asarray(v) for v in (work.x, *shaped))

    def divided(self, values: Any, square: Any) -> Any:
        """Return values / √square."""
        return values / np.sqrt(square)

    def formula(
        self, problem: Problem, x: Any, weight: Any, bias: Any, *running: Any
    ) -> tuple[Any, ...]:
        """Return the result; after it, in training, the new running statistics."""
        xp, axes, shape = self.xp, problem.normalised_axes, x.shape
        # 16-bit sums would go astray.
        wide = x if x.dtype.itemsize > 2 else x.astype(xp.float32)
        if problem.operation == "group_norm":
            channel = problem.channel_axis
            wide = wide.reshape(*shape[:channel], problem.num_groups, -1, *shape[channel + 1 :])
            axes = tuple(axis for axis in range(1, wide.ndim) if axis != channel)
        state: tuple[Any, ...] = ()
        if problem.operation == "batch_norm" and not problem.training:
            y = self.divided(wide - running[0], running[1] + EPS)
        elif problem.operation == "rms_norm":
            y = self.divided(wide, xp.mean(wide * wide, axis=axes, keepdims=True) + EPS)
        else:
            mean, var = (f(wide, axis=axes, keepdims=True) for f in (xp.mean, xp.var))
            y = self.divided(wide - mean, var + EPS).reshape(shape)
            if problem.training:
                count = x.size / problem.channels
                batch = mean, var * (count / (count - 1))
                state = tuple(
                    r + MOMENTUM * (new - r) for r, new in zip(running, batch, strict=True)
                )
        if weight is not None:
            y = y * weight
        if bias is not None:
            y = y + bias
        return (y if y.dtype == x.dtype else y.astype(x.dtype), *state)


class Jax(PlainNumPy):
    """jax on the CPU. Its threads are made once, when it starts."""

    versions = ("jax",)
    note = "makes a new output in each call (its input is not donated: the next call needs it)"

    def __init__(self, threads: int) -> None:
        # XLA reads the number of processors from here before it asks the operating system.
        os.environ["NPROC"] = str(threads)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        self.xp = import_module("jax.numpy")

    def divided(self, values: Any, square: Any) -> Any:
        """Multiply by the reciprocal of a root, as flax does: XLA would divide each element."""
        return values * self.jax.lax.rsqrt(square)

    def bind(self, work: Work) -> Bound:
        """Compile, and return the compiled call."""
        if work.problem.backward:
            raise UnsupportedError("forward only")
        arguments, ready = self.arrays(work), self.jax.block_until_ready
        function = self.jax.jit(partial(self.formula, work.problem))
        compiled = function.lower(*arguments).compile()
        return Bound(lambda: ready(compiled(*arguments)), lambda found: (np.asarray(found[0]),))
