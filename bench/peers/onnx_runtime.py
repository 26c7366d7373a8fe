"""onnxruntime: a model of the one operator, made with onnx."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from bench.peers import Bound, UnsupportedError
from bench.shapes import ROWS
from bench.work import EPS, Array, Work

# Name of each operator, and the operator set that brought it.
OPERATORS: Mapping[str, tuple[str, int]] = {
    "batch_norm": ("BatchNormalization", 15),
    "layer_norm": ("LayerNormalization", 17),
    "rms_norm": ("RMSNormalization", 23),
    "instance_norm": ("InstanceNormalization", 6),
    "group_norm": ("GroupNormalization", 21),
}


class OnnxRuntime:
    """onnxruntime on the CPU."""

    versions = ("onnxruntime", "onnx")
    note = "writes into the existing output; transpositions where channels are on another axis"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.onnxruntime: Any = import_module("onnxruntime")
        self.onnx: Any = import_module("onnx")
        self.onnxruntime.set_default_logger_severity(4)

    def bind(self, work: Work) -> Bound:
        """Make a session, bound to the arrays."""
        if work.problem.training or work.problem.backward:
            raise UnsupportedError("inference only")
        settings = self.onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        session = self.onnxruntime.InferenceSession(
            self.model(work).SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        kind = "cpu", 0, self.element_type(work.x), work.x.shape
        binding.bind_input("x", *kind, work.x.ctypes.data)
        binding.bind_output("y", *kind, work.out.ctypes.data)
        return Bound(partial(session.run_with_iobinding, binding), lambda _: (work.out,))

    def element_type(self, array: Array) -> int:
        """Return ONNX's number of the dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype))

    def model(self, work: Work) -> Any:
        """Return the model: the operator, between transpositions if it needs them."""
        helper, problem = self.onnx.helper, work.problem
        operator, version = OPERATORS[problem.operation]
        attributes: dict[str, Any] = {"epsilon": EPS}
        if problem.operation == "group_norm":
            attributes["num_groups"] = problem.num_groups
        parameters = {"weight": work.some_weight}
        if problem.operation != "rms_norm":
            parameters["bias"] = work.some_bias
        if problem.operation == "batch_norm":
            parameters |= {"mean": work.running_mean, "var": work.running_var}

        rank = work.x.ndim
        wanted = rank - 1 if problem.operation in ROWS else 1
        there = [axis for axis in range(rank) if axis != problem.channel_axis]
        there.insert(wanted, problem.channel_axis)
        back, straight = [there.index(axis) for axis in range(rank)], there == sorted(there)
        inner = ("x", "y") if straight else ("before", "after")
        nodes = [helper.make_node(operator, [inner[0], *parameters], [inner[1]], **attributes)]
        if not straight:
            nodes.insert(0, helper.make_node("Transpose", ["x"], ["before"], perm=there))
            nodes.append(helper.make_node("Transpose", ["after"], ["y"], perm=back))

        element = self.element_type(work.x)
        x, y = (helper.make_tensor_value_info(side, element, work.x.shape) for side in "xy")
        initializers = [self.onnx.numpy_helper.from_array(a, n) for n, a in parameters.items()]
        return helper.make_model(
            helper.make_graph(nodes, "norm", [x], [y], initializers),
            opset_imports=[helper.make_opsetid("", version)],
            ir_version=10,
        )
