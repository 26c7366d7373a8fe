"""onnxruntime: a model of the one operator, made with onnx."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from bench.peers import Bound, UnsupportedError
from bench.work import Work
from fastnorm._demo import EPS, Array

OPERATORS: Mapping[str, tuple[str, int]] = {
    "batch_norm": ("BatchNormalization", 15),
    "layer_norm": ("LayerNormalization", 17),
    "rms_norm": ("RMSNormalization", 23),
    "instance_norm": ("InstanceNormalization", 6),
    "group_norm": ("GroupNormalization", 21),
}
"""Name of the ONNX operator, and the operator set that brought it."""


class OnnxRuntime:
    """onnxruntime on the CPU."""

    versions = ("onnxruntime", "onnx")
    note = (
        "writes into the existing output (I/O binding); where the channels are not on the axis of "
        "the operator, a transposition before and after, as converters write it"
    )

    def __init__(self) -> None:
        self.onnxruntime: Any = import_module("onnxruntime")
        self.onnx: Any = import_module("onnx")
        self.onnxruntime.set_default_logger_severity(4)

    def use_threads(self, threads: int) -> None:
        """Do nothing: each session has its threads."""

    def bind(self, work: Work, threads: int) -> Bound:
        """Make a session, bound to the arrays."""
        if work.training or work.problem.backward:
            raise UnsupportedError("inference only")
        settings = self.onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        session = self.onnxruntime.InferenceSession(
            self.model(work).SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        element, shape = self.element_type(work.data.x), work.data.x.shape
        for bind, name, array in (
            (binding.bind_input, "x", work.data.x),
            (binding.bind_output, "y", work.data.out),
        ):
            bind(name, "cpu", 0, element, shape, array.ctypes.data)
        return Bound(partial(session.run_with_iobinding, binding), lambda _: (work.data.out,))

    def element_type(self, array: Array) -> int:
        """Return ONNX's number of the dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype))

    def model(self, work: Work) -> Any:
        """Return the model: the operator, between transpositions if it needs them."""
        helper, data = self.onnx.helper, work.data
        operator, version = OPERATORS[work.operation]
        attributes: dict[str, Any] = {"epsilon": EPS}
        if work.operation == "group_norm":
            attributes["num_groups"] = work.problem.case.num_groups
        parameters = {"weight": work.neutral_weight}
        if work.operation != "rms_norm":
            parameters["bias"] = work.neutral_bias
        if work.operation == "batch_norm":
            parameters |= {"mean": data.running_mean, "var": data.running_var}

        rank = data.x.ndim
        wanted = rank - 1 if work.operation in ("layer_norm", "rms_norm") else 1
        there = [axis for axis in range(rank) if axis != work.channel_axis]
        there.insert(wanted, work.channel_axis)
        back = [there.index(axis) for axis in range(rank)]
        straight = there == back == list(range(rank))
        inner = ("x", "y") if straight else ("before", "after")
        nodes = [helper.make_node(operator, [inner[0], *parameters], [inner[1]], **attributes)]
        if not straight:
            nodes.insert(0, helper.make_node("Transpose", ["x"], ["before"], perm=there))
            nodes.append(helper.make_node("Transpose", ["after"], ["y"], perm=back))

        element = self.element_type(data.x)
        x, y = (helper.make_tensor_value_info(side, element, data.x.shape) for side in "xy")
        initializers = [self.onnx.numpy_helper.from_array(a, n) for n, a in parameters.items()]
        return helper.make_model(
            helper.make_graph(nodes, "norm", [x], [y], initializers),
            opset_imports=[helper.make_opsetid("", version)],
            ir_version=10,
        )


def make(threads: int) -> OnnxRuntime:
    """Return the peer."""
    return OnnxRuntime()
