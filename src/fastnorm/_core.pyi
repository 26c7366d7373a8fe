from typing import Any

import numpy.typing as npt

_Array = npt.NDArray[Any]

def use_isa(name: str) -> None: ...
def use_stream_above(bytes: int) -> None: ...
def isas() -> tuple[str, ...]: ...
def features() -> dict[str, int]: ...
def use_features(mask: int) -> None: ...
def kernel_names() -> tuple[str, ...]: ...
def trace_kernels(on: bool) -> None: ...
def kernels_called() -> set[str]: ...
def build() -> dict[str, Any]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def layer_norm(
    x: npt.ArrayLike,
    normalized_shape: Any,
    weight: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
    eps: float | None,
    axis: Any,
    out: _Array | None,
    return_stats: bool,
    centre: bool,
) -> Any: ...
def channel_norm(
    x: npt.ArrayLike,
    running_mean: _Array | None,
    running_var: _Array | None,
    weight: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
    measure: bool,
    momentum: float,
    eps: float,
    channel_axis: int,
    out: _Array | None,
    return_stats: bool,
    per_sample: bool,
) -> Any: ...
def group_norm(
    x: npt.ArrayLike,
    num_groups: int,
    weight: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
    eps: float,
    channel_axis: int,
    out: _Array | None,
    return_stats: bool,
) -> Any: ...
def layer_norm_backward(
    grad: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike | None,
    rstd: npt.ArrayLike,
    weight: npt.ArrayLike | None,
    normalized_shape: Any,
    axis: Any,
    out: _Array | None,
    centre: bool,
) -> tuple[_Array, _Array, _Array]: ...
def channel_norm_backward(
    grad: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    rstd: npt.ArrayLike,
    weight: npt.ArrayLike | None,
    frozen: bool,
    channel_axis: int,
    out: _Array | None,
    per_sample: bool,
) -> tuple[_Array, _Array, _Array]: ...
def group_norm_backward(
    grad: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    rstd: npt.ArrayLike,
    num_groups: int,
    weight: npt.ArrayLike | None,
    channel_axis: int,
    out: _Array | None,
) -> tuple[_Array, _Array, _Array]: ...
def parallel_copy(x: _Array, out: _Array, stream: bool = False) -> None: ...
def parallel_pass(
    grad: _Array, x: _Array, out: _Array, stream: bool = False, twice: bool = False
) -> None: ...
