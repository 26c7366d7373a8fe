"""The same work done by torch and onnxruntime, where they are installed."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from fastnorm._demo import EPS, Case, Data, Operation

Call = Callable[[], object]
Peer = Callable[[Case, Data], Call | None]
"""Binds a case to a call, or says with None that it has no such operation."""


def installed_peers(threads: int) -> dict[str, Peer]:
    """Return the peers that can be imported, set to use `threads` threads."""
    peers: dict[str, Peer] = {}
    for name, make in {"torch": _torch, "onnxruntime": _onnxruntime}.items():
        try:
            peers[name] = make(threads)
        except ModuleNotFoundError:
            continue
    return peers


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, and return whether it agreed.

    torch makes its output anew in each call.  Above 32 MB glibc fetches it from
    the operating system each time, one page fault after the other, which takes
    as long as the normalisation; an allocator that reuses memory hides that.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_max = -1, -4
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def _torch(threads: int) -> Peer:
    torch = import_module("torch")
    functional = torch.nn.functional
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)

    def tensor(array: Any) -> Any:
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view("i2")).view(torch.bfloat16)
        return torch.from_numpy(array)

    def bind(case: Case, data: Data) -> Call | None:
        x, weight, bias = map(tensor, (data.x, data.weight, data.bias))
        mean, var = tensor(data.running_mean), tensor(data.running_var)
        if case.operation in ("layer_norm", "rms_norm"):
            if case.channel_axis != x.ndim - 1:
                return None
            size = (x.shape[-1],)
            if case.operation == "layer_norm":
                return lambda: functional.layer_norm(x, size, weight, bias, EPS)
            return lambda: functional.rms_norm(x, size, weight, EPS)
        # NHWC as torch has it: another order of the strides.
        x = x.movedim(case.channel_axis, 1)
        if case.operation == "batch_norm":
            return lambda: functional.batch_norm(x, mean, var, weight, bias, case.training, eps=EPS)
        if case.operation == "instance_norm":
            return lambda: functional.instance_norm(x, None, None, weight, bias)
        groups = case.num_groups
        return lambda: functional.group_norm(x, groups, weight, bias, EPS)

    return bind


def _onnxruntime(threads: int) -> Peer:
    onnxruntime = import_module("onnxruntime")
    onnx = import_module("onnx")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3

    def bind(case: Case, data: Data) -> Call | None:
        if not _onnx_can(case):
            return None
        name, version = _ONNX_OPERATORS[case.operation]
        attributes = {"epsilon": EPS}
        if case.operation == "group_norm":
            attributes["num_groups"] = case.num_groups
        parameters = {"weight": data.weight, "bias": data.bias}
        if case.operation == "batch_norm":
            parameters |= {"mean": data.running_mean, "var": data.running_var}
        if case.operation == "rms_norm":
            del parameters["bias"]
        helper = onnx.helper
        x, y = (
            helper.make_tensor_value_info(side, onnx.TensorProto.FLOAT, case.shape)
            for side in ("x", "y")
        )
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node(name, ["x", *parameters], ["y"], **attributes)],
                "norm",
                [x],
                [y],
                [onnx.numpy_helper.from_array(a, n) for n, a in parameters.items()],
            ),
            opset_imports=[helper.make_opsetid("", version)],
            ir_version=10,
        )
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        # Bound, so that the output is made once, as fastnorm's is.
        binding = session.io_binding()
        binding.bind_cpu_input("x", data.x)
        binding.bind_output("y", "cpu", 0, data.out.dtype, case.shape, data.out.ctypes.data)
        return lambda: session.run_with_iobinding(binding)

    return bind


_ONNX_OPERATORS: Mapping[Operation, tuple[str, int]] = {
    "batch_norm": ("BatchNormalization", 15),
    "layer_norm": ("LayerNormalization", 17),
    "rms_norm": ("RMSNormalization", 23),
    "instance_norm": ("InstanceNormalization", 6),
    "group_norm": ("GroupNormalization", 21),
}
"""Name of the ONNX operator, and the operator set that brought it."""


def _onnx_can(case: Case) -> bool:
    """Whether onnxruntime has this operation on the CPU, for these axes."""
    over_rows = case.operation in ("layer_norm", "rms_norm")
    axis = len(case.shape) - 1 if over_rows else 1
    return case.dtype == "float32" and case.channel_axis == axis and not case.training
