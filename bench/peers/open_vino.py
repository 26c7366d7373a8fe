"""openvino: a model of the one operation."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers import Bound, UnsupportedError
from bench.work import EPS, Array, Work, along


class OpenVino:
    """openvino on the CPU."""

    versions = ("openvino",)
    note = "writes into the existing output; NHWC group and batch norm have two transpositions"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.openvino: Any = import_module("openvino")
        self.ops: Any = import_module("openvino.opset13")
        self.core: Any = self.openvino.Core()

    def bind(self, work: Work) -> Bound:
        """Compile a model, and give it the arrays."""
        if work.problem.training or work.problem.backward:
            raise UnsupportedError("inference only")
        precision = _PRECISIONS.get(work.x.dtype.name)
        if precision is None:
            raise UnsupportedError(f"no {work.x.dtype.name} on the CPU")
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        compiled = self.core.compile_model(self.model(work, precision), "CPU", settings)
        request = compiled.create_infer_request()
        request.set_input_tensor(self.tensor(work.x, precision))
        request.set_output_tensor(self.tensor(work.out, precision))
        call = partial(request.infer, share_inputs=True, share_outputs=True)
        return Bound(call, lambda _: (work.out,))

    def tensor(self, array: Array, precision: str) -> Any:
        """Return a tensor on the array's memory."""
        kind = getattr(self.openvino.Type, precision)
        # It has no bfloat16 arrays, and takes others of the same size for them.
        raw = array.view(np.uint16) if precision == "bf16" else array
        return self.openvino.Tensor(raw, list(array.shape), kind)

    def model(self, work: Work, precision: str) -> Any:
        """Return the model."""
        ops, problem = self.ops, work.problem
        kind = getattr(self.openvino.Type, precision)
        x = ops.parameter(list(work.x.shape), kind, name="x")

        def constant(values: Array) -> Any:
            return ops.convert(ops.constant(values.astype("float32")), precision)

        if problem.operation in ("layer_norm", "rms_norm", "instance_norm"):
            axes = ops.constant(list(problem.normalised_axes), dtype="int64")
            if problem.operation == "rms_norm":
                square = ops.reduce_mean(ops.multiply(x, x), axes, keep_dims=True)
                root = ops.sqrt(ops.add(square, constant(np.array(EPS))))
                y = ops.multiply(x, ops.divide(constant(np.array(1.0)), root))
            else:
                y = ops.mvn(x, axes, True, EPS, "inside_sqrt")
            if work.weight is not None:
                y = ops.multiply(y, constant(along(problem, work.weight)))
            if work.bias is not None:
                y = ops.add(y, constant(along(problem, work.bias)))
            return self.openvino.Model([y], [x], "norm")

        def moved(tensor: Any, order: list[int]) -> Any:
            """Transpose, where that changes anything."""
            axes = ops.constant(order, dtype="int64")
            return tensor if order == sorted(order) else ops.transpose(tensor, axes)

        axes = list(range(work.x.ndim))
        there = sorted(axes, key=lambda axis: (axis > 0) + (axis not in (0, problem.channel_axis)))
        inner = moved(x, there)
        weight, bias = constant(work.some_weight), constant(work.some_bias)
        if problem.operation == "group_norm":
            y = ops.group_normalization(inner, weight, bias, problem.num_groups, EPS)
        else:
            running = constant(work.running_mean), constant(work.running_var)
            y = ops.batch_norm_inference(inner, weight, bias, *running, EPS)
        return self.openvino.Model([moved(y, [there.index(a) for a in axes])], [x], "norm")


_PRECISIONS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
