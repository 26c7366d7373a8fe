"""The README's promises on errors and speed, checked on this machine.

``python -m fastnorm`` shows what is found here; nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (with it, NumPy knows "bfloat16")
import numpy as np

from ._core import parallel_copy
from ._types import Array
from .functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

EPS = 1e-5
SEED = 2016
ROUNDS = 20
GROUPS = 32

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "batch norm, training": partial(batch_norm, training=True),
    "batch norm, inference": batch_norm,
    "layer norm": layer_norm,
    "RMS norm": rms_norm,
    "instance norm": instance_norm,
    "group norm": partial(group_norm, num_groups=GROUPS),
}
BY_AXIS = ("layer norm", "RMS norm")

UNITS = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-24, "bfloat16": 2.0**-24}
ALLOWED_ERROR = {"float32": 4.0, "float64": 1e-12 * 2**53, "float16": 4.0, "bfloat16": 4.0}
"""What is promised for a dtype: at most so many units times |weight|·(1 + |x̂|) + |bias|.

Of float16 and bfloat16 results, half a unit in the last place is allowed besides.
"""


@dataclass(frozen=True)
class Case:
    """One normalisation of one array; C in `layout` is the axis of the weight."""

    operation: str
    shape: tuple[int, ...]
    layout: str
    dtype: str = "float32"
    offset: float = 0.0  # mean/std of the data

    @property
    def channel_axis(self) -> int:
        return self.layout.index("C")


OFFSETS = (0.0, 1e2, 1e4, 1e6)
ARRAYS = ((2, 320, 11, 13), "NCHW"), ((2, 11, 13, 320), "NHWC")
"""Where every operation and dtype is checked."""

LAYERS: Mapping[str, Case] = {
    "ResNet-50": Case("batch norm, training", (32, 64, 56, 56), "NCHW"),
    "ResNet-50, channels last": Case("batch norm, inference", (32, 56, 56, 64), "NHWC"),
    "BERT-base": Case("layer norm", (16, 512, 768), "NTC"),
    "ViT-B/16": Case("layer norm", (64, 197, 768), "NTC", "float16"),
    "ConvNeXt-T": Case("layer norm", (20, 96, 56, 56), "NCHW"),
    "LLaMA-7B": Case("RMS norm", (6, 512, 4096), "NTC", "bfloat16"),
    "style transfer": Case("instance norm", (12, 128, 64, 64), "NCHW"),
    "Stable Diffusion": Case("group norm", (5, 320, 64, 64), "NCHW"),
}
"""The timed cases: 19 to 26 MB in and as much out for each."""


class Timing(NamedTuple):
    """The best times of a case and of a copy of its input, and the error of its result."""

    seconds: float
    copy_seconds: float
    error: float


def make_call(case: Case) -> partial[Array]:
    """Return the call of a case's function with its arguments, the same ones in every run."""
    rng = np.random.default_rng(SEED)
    dtype, channels = np.dtype(case.dtype), case.shape[case.channel_axis]
    # Repeated, since fresh numbers take long; the odd count gives each row and channel other ones.
    noise = np.resize(rng.standard_normal(100_003), case.shape)
    # A standard deviation of about 0.01 keeps every offset in the range of float16.
    scale = 0.01 * rng.uniform(0.5, 1.5, channels)
    centre = 0.01 * (rng.standard_normal(channels) + case.offset)
    x = (noise * _along_channels(case, scale) + _along_channels(case, centre)).astype(dtype)
    weight = rng.choice([-1, 1], channels) * 10 ** rng.uniform(-2, 2, channels)
    arguments = {
        "weight": weight.astype(dtype),
        "eps": EPS,
        "axis" if case.operation in BY_AXIS else "channel_axis": case.channel_axis,
    }
    if case.operation != "RMS norm":
        arguments["bias"] = rng.standard_normal(channels).astype(dtype)
    if case.operation == "batch norm, inference":
        wide = np.float64 if case.dtype == "float64" else np.float32
        arguments["running_mean"] = centre.astype(wide)
        arguments["running_var"] = (scale**2).astype(wide)
    return partial(OPERATIONS[case.operation], x, **arguments)


def largest_error(case: Case, call: partial[Array], y: Array) -> float:
    """Return the largest error of a call's result, in the units of `ALLOWED_ERROR`.

    The whole result is compared with the textbook formula, evaluated by NumPy in float64 (in long
    double for float64 data).
    """
    wide = np.longdouble if case.dtype == "float64" else np.float64
    arrays = {"x": call.args[0], "y": y}
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = call.keywords.get(name, np.zeros(case.shape[case.channel_axis]))
        arrays[name] = np.broadcast_to(_along_channels(case, values), y.shape)

    # Part by part along an axis that no statistic is taken over: temporary arrays are small.
    axis = case.channel_axis if case.operation.startswith("batch norm") else 0
    step = max(1, 2**18 * y.shape[axis] // y.size)
    worst = np.float64(0)
    for start in range(0, y.shape[axis], step):
        part = (slice(None),) * axis + (slice(start, start + step),)
        parts = {name: array[part].astype(wide) for name, array in arrays.items()}
        xhat, weight, bias = _standardised(case, parts), parts["weight"], parts["bias"]
        exact = xhat * weight + bias
        error = np.abs(parts["y"] - exact)
        if y.itemsize == 2:
            error = np.maximum(error - _half_ulp(exact, case.dtype), 0)
        error /= UNITS[case.dtype] * (np.abs(weight) * (1 + np.abs(xhat)) + np.abs(bias))
        worst = np.maximum(worst, error.max())  # keeps a NaN
    return float(worst)


def errors() -> Iterator[tuple[str, str, list[float]]]:
    """Yield an operation, a dtype, and the largest error at each of `OFFSETS`."""

    def error(case: Case) -> float:
        call = make_call(case)
        return largest_error(case, call, call())

    for operation in OPERATIONS:
        for dtype in UNITS:
            cases = [[Case(operation, *a, dtype, offset) for a in ARRAYS] for offset in OFFSETS]
            yield operation, dtype, [float(np.max([*map(error, both)])) for both in cases]


def timings() -> Iterator[tuple[str, Timing]]:
    """Yield each name of `LAYERS` and what was found for it.

    A copy is made by the same threads; of ordinary and streaming stores the better counts.
    """
    for name, case in LAYERS.items():
        call = make_call(case)
        x, y = call.args[0], call()
        error = largest_error(case, call, y)
        calls: list[Callable[[], object]] = [
            partial(call, out=y),
            partial(parallel_copy, x, y, stream=False),
            partial(parallel_copy, x, y, stream=True),
        ]
        best = [np.inf] * len(calls)
        # In turn, so that whatever disturbs one disturbs all.
        for _ in range(ROUNDS):
            for i, timed in enumerate(calls):
                timed()  # the next call finds in the cache what this one left there
                start = perf_counter()
                timed()
                best[i] = min(best[i], perf_counter() - start)
        yield name, Timing(best[0], min(best[1:]), error)


def _along_channels(case: Case, values: Array) -> Array:
    """Shape one value per channel so that it broadcasts against the input."""
    return values.reshape([-1 if letter == "C" else 1 for letter in case.layout])


def _standardised(case: Case, arrays: Mapping[str, Array]) -> Array:
    """Return (x - mean) / √(var + eps) of a part of the input."""
    x, channel, operation = arrays["x"], case.channel_axis, case.operation
    shape = x.shape
    if operation == "batch norm, inference":
        return np.asarray((x - arrays["running_mean"]) / np.sqrt(arrays["running_var"] + EPS))
    if operation == "group norm":
        x = x.reshape(*shape[:channel], GROUPS, -1, *shape[channel + 1 :])
    if operation in BY_AXIS:
        axes: tuple[int, ...] = (channel,)
    else:
        kept = (channel,) if operation == "batch norm, training" else (0, channel)
        axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
    if operation != "RMS norm":
        # Twice, because the mean of data with a large offset is itself rounded.
        x = x - x.mean(axis=axes, keepdims=True)
        x -= x.mean(axis=axes, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + EPS)
    return np.asarray(x.reshape(shape))


def _half_ulp(values: Array, dtype: str) -> Array:
    """Return half the distance of neighbouring numbers of a 16-bit dtype."""
    smallest_normal, digits = {"float16": (2.0**-14, 11), "bfloat16": (2.0**-126, 8)}[dtype]
    _, exponent = np.frexp(np.maximum(np.abs(values), smallest_normal))
    return np.asarray(np.ldexp(0.5, exponent - digits))
