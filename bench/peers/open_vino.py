"""openvino: a model of the one operation."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers import Bound, UnsupportedError
from bench.work import Work
from fastnorm._demo import EPS, Array


class OpenVino:
    """openvino on the CPU."""

    versions = ("openvino",)
    note = (
        "writes into the existing output; group norm and batch norm of NHWC have a transposition "
        "before and after; arithmetic in the array's own type"
    )

    def __init__(self) -> None:
        self.openvino: Any = import_module("openvino")
        self.ops: Any = import_module("openvino.opset13")
        self.core: Any = self.openvino.Core()

    def use_threads(self, threads: int) -> None:
        """Do nothing: each model has its threads."""

    def bind(self, work: Work, threads: int) -> Bound:
        """Compile a model, and give it the arrays."""
        if work.training or work.problem.backward:
            raise UnsupportedError("inference only")
        precision = _PRECISIONS.get(work.data.x.dtype.name)
        if precision is None:
            raise UnsupportedError(f"no {work.data.x.dtype.name} on the CPU")
        compiled = self.core.compile_model(
            self.model(work, precision),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": precision,
            },
        )
        request = compiled.create_infer_request()
        request.set_input_tensor(self.tensor(work.data.x, precision))
        request.set_output_tensor(self.tensor(work.data.out, precision))

        call = partial(request.infer, share_inputs=True, share_outputs=True)
        return Bound(call, lambda _: (work.data.out,))

    def tensor(self, array: Array, precision: str) -> Any:
        """Return a tensor on the array's memory."""
        kind = getattr(self.openvino.Type, precision)
        # It has no bfloat16 arrays, and takes others of the same size for them.
        raw = array.view(np.uint16) if precision == "bf16" else array
        return self.openvino.Tensor(raw, list(array.shape), kind)

    def model(self, work: Work, precision: str) -> Any:
        """Return the model."""
        ops, data = self.ops, work.data
        kind = getattr(self.openvino.Type, precision)
        x = ops.parameter(list(data.x.shape), kind, name="x")

        def constant(values: Array) -> Any:
            return ops.convert(ops.constant(values.astype("float32")), precision)

        if work.operation in ("layer_norm", "rms_norm", "instance_norm"):
            axes = ops.constant(list(work.problem.normalised_axes), dtype="int64")
            if work.operation == "rms_norm":
                square = ops.reduce_mean(ops.multiply(x, x), axes, keep_dims=True)
                root = ops.sqrt(ops.add(square, constant(np.array(EPS))))
                y = ops.multiply(x, ops.divide(constant(np.array(1.0)), root))
            else:
                y = ops.mvn(x, axes, True, EPS, "inside_sqrt")
            if work.weight is not None:
                y = ops.multiply(y, constant(work.along_channels(work.weight)))
            if work.bias is not None:
                y = ops.add(y, constant(work.along_channels(work.bias)))
            return self.openvino.Model([y], [x], "norm")

        rank = data.x.ndim
        there = [0, work.channel_axis, *(a for a in range(1, rank) if a != work.channel_axis)]
        back = [there.index(axis) for axis in range(rank)]
        moved = there != back or there != list(range(rank))
        inner = ops.transpose(x, ops.constant(there, dtype="int64")) if moved else x
        weight, bias = constant(work.neutral_weight), constant(work.neutral_bias)
        if work.operation == "group_norm":
            y = ops.group_normalization(inner, weight, bias, work.problem.case.num_groups, EPS)
        else:
            running = constant(data.running_mean), constant(data.running_var)
            y = ops.batch_norm_inference(inner, weight, bias, *running, EPS)
        if moved:
            y = ops.transpose(y, ops.constant(back, dtype="int64"))
        return self.openvino.Model([y], [x], "norm")


_PRECISIONS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def make(threads: int) -> OpenVino:
    """Return the peer."""
    return OpenVino()
