"""Activations of well-known layers: made, normalised, timed and checked.

What ``python -m fastnorm`` shows comes from here; ``bench/`` uses the same cases
and the same clock for its own list of shapes.  Nothing here prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ._core import parallel_copy
from .functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

Array = npt.NDArray[Any]
Operation = Literal["batch_norm", "layer_norm", "rms_norm", "instance_norm", "group_norm"]
DType = Literal["float32", "float64", "float16", "bfloat16"]

EPS = 1e-5
SEED = 2016

SIGNIFICAND_BITS: Mapping[DType, int] = {
    "float64": 53,
    "float32": 24,
    "float16": 11,
    "bfloat16": 8,
}

ALLOWED_ERROR: Mapping[DType, float] = {
    "float64": 1e-12 * 2**53,
    "float32": 3.0,
    "float16": 1.0,
    "bfloat16": 1.0,
}
"""Largest allowed error, in the units of `largest_error`.

What the library promises.  One unit is what rounding the result once may cost; a 16-bit
type may cost no more than that, because all that happens before the rounding happens in
at least float32.
"""


@dataclass(frozen=True)
class Case:
    """One normalisation of one array.

    Parameters
    ----------
    operation : str
        Name of the function in `fastnorm`.
    layer : str
        Where this work is met, or what is special about it.
    shape : tuple of int
        Shape of the input, in the order of `layout`.
    layout : str
        One letter per axis, ``C`` being the one that the weight belongs to.
    dtype : str
        dtype of the input and the output.
    num_groups : int
        Groups of a group norm.
    training : bool
        Whether a batch norm uses the statistics of the batch.
    offset : float
        Mean of the input as a multiple of its standard deviation, roughly.
    """

    operation: Operation
    layer: str
    shape: tuple[int, ...]
    layout: str = "NCHW"
    dtype: DType = "float32"
    num_groups: int = 1
    training: bool = False
    offset: float = 0.0

    @property
    def title(self) -> str:
        """Operation and layer in words."""
        name = self.operation.replace("_", " ").replace("rms", "RMS")
        return f"{name}, {self.layer}"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """What names the case in a table: title, shape, layout and dtype."""
        shape = "x".join(map(str, self.shape))
        return self.title, shape, self.layout, self.dtype

    @property
    def channel_axis(self) -> int:
        """Axis along which weight and bias vary."""
        return self.layout.index("C")

    @property
    def bytes_moved(self) -> int:
        """Bytes of the input read once and of the output written once."""
        return 2 * math.prod(self.shape) * scalar_type(self.dtype).itemsize

    def shrunk(self, elements: int) -> Case:
        """Return this case with at most about `elements` elements.

        The channels stay, since they decide which kernels run.
        """
        shape = list(self.shape)
        others = [axis for axis in range(len(shape)) if axis != self.channel_axis]
        while math.prod(shape) > elements and max(shape[a] for a in others) > 1:
            shape[max(others, key=shape.__getitem__)] //= 2
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True)
class Data:
    """The arrays that a case works on."""

    x: Array
    weight: Array
    bias: Array
    running_mean: Array
    running_var: Array
    out: Array


@dataclass(frozen=True)
class Record:
    """What was found out about a case."""

    case: Case
    seconds: float
    copy_seconds: float
    error: float

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes read and written in a second, in units of 10⁹."""
        return self.case.bytes_moved / self.seconds / 1e9

    @property
    def copies(self) -> float:
        """Time as a multiple of a copy of the same bytes."""
        return self.seconds / self.copy_seconds

    @property
    def allowed_error(self) -> float:
        """Largest allowed value of `error`."""
        return ALLOWED_ERROR[self.case.dtype]

    @property
    def accurate(self) -> bool:
        """Whether `error` is as small as allowed (a NaN is not)."""
        return self.error <= self.allowed_error


CASES: Sequence[Case] = (
    Case("batch_norm", "ResNet-50, training", (32, 64, 56, 56), training=True),
    Case("batch_norm", "ResNet-50, training", (32, 56, 56, 64), "NHWC", training=True),
    Case("batch_norm", "ResNet-50, inference", (32, 64, 56, 56)),
    Case("batch_norm", "ResNet-50, inference", (32, 56, 56, 64), "NHWC"),
    Case("layer_norm", "BERT-base", (16, 512, 768), "NTC"),
    Case("layer_norm", "BERT-base, mean/std 10⁴", (16, 512, 768), "NTC", offset=1e4),
    Case("layer_norm", "BERT-base", (8, 512, 768), "NTC", "float64"),
    Case("layer_norm", "ViT-B/16", (64, 197, 768), "NTC", "float16"),
    Case("layer_norm", "ConvNeXt-T", (20, 96, 56, 56)),
    Case("rms_norm", "LLaMA-7B", (3, 512, 4096), "NTC"),
    Case("rms_norm", "LLaMA-7B", (6, 512, 4096), "NTC", "bfloat16"),
    Case("group_norm", "Stable Diffusion", (5, 320, 64, 64), num_groups=32),
    Case("group_norm", "Stable Diffusion", (5, 64, 64, 320), "NHWC", num_groups=32),
    Case("instance_norm", "style transfer", (12, 128, 64, 64)),
)
"""The default: 20 to 26 MB in and as much out for each case."""


def scalar_type(name: DType) -> np.dtype[Any]:
    """Return the dtype called `name`; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        # Here, so that the float cases run without it.
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def make_data(case: Case) -> Data:
    """Make the arrays of a case, the same ones in every run."""
    rng = np.random.default_rng(SEED)
    dtype = scalar_type(case.dtype)
    channels = case.shape[case.channel_axis]
    wide = np.float64 if case.dtype == "float64" else np.float32

    # A million numbers laid end to end cost a tenth of as many fresh ones, and
    # the odd count keeps rows and channels from meeting the same numbers.
    noise = rng.standard_normal(1_000_003, dtype=np.float32).astype(wide)
    x = np.resize(noise, case.shape)
    x *= _along_channels(case, rng.uniform(0.5, 1.5, channels).astype(wide))
    centre = case.offset + rng.standard_normal(channels)
    x += _along_channels(case, centre.astype(wide))

    return Data(
        x=_placed(x.astype(dtype, copy=False)),
        weight=rng.uniform(0.5, 1.5, channels).astype(dtype),
        bias=rng.standard_normal(channels).astype(dtype),
        running_mean=centre.astype(wide),
        running_var=rng.uniform(0.5, 1.5, channels).astype(wide),
        # Written, so that no call meets a page for the first time.
        out=_placed(np.full_like(x, np.nan, dtype=dtype)),
    )


def bind(case: Case, data: Data, *, new_output: bool = False) -> Callable[[], object]:
    """Return the call of fastnorm that does the work of a case.

    It writes into ``data.out``, or makes a new output each time.
    """
    x, axis = data.x, case.channel_axis
    out = None if new_output else data.out
    affine: dict[str, Any] = {
        "weight": data.weight,
        "bias": data.bias,
        "eps": EPS,
        "out": out,
    }
    match case.operation:
        case "batch_norm":
            return partial(
                batch_norm,
                x,
                data.running_mean,
                data.running_var,
                **affine,
                training=case.training,
                channel_axis=axis,
            )
        case "instance_norm":
            return partial(instance_norm, x, **affine, channel_axis=axis)
        case "group_norm":
            return partial(group_norm, x, case.num_groups, **affine, channel_axis=axis)
        case "layer_norm":
            return partial(layer_norm, x, **affine, axis=axis)
        case "rms_norm":
            del affine["bias"]
            return partial(rms_norm, x, **affine, axis=axis)


def copies(data: Data) -> dict[str, Callable[[], object]]:
    """Return two parallel copies of ``data.x`` into ``data.out``.

    Which of them is the faster depends on the size and the processor; the
    comparison is with the better one.
    """
    return {
        "copy": partial(parallel_copy, data.x, data.out, stream=False),
        "streaming copy": partial(parallel_copy, data.x, data.out, stream=True),
    }


def race(
    calls: Mapping[str, Callable[[], object]], seconds: float, rounds: int = 5
) -> dict[str, list[float]]:
    """Time calls in turn, so that whatever disturbs one disturbs all.

    Each is called twice and the second call counts: it finds in the cache what it
    left there itself, not what another one did (streaming stores leave nothing).

    Parameters
    ----------
    calls : mapping of str to callable
        What to time.  A call that only prepares the next one may stand among
        them; its times are then of no interest.
    seconds : float
        Time to spend, in seconds.
    rounds : int
        Least number of times that each is timed, whatever it takes.

    Returns
    -------
    dict of str to list of float
        Seconds of each call, in the order of the rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = perf_counter() + seconds
    done = 0
    while done < rounds or perf_counter() < end:
        for name, call in calls.items():
            call()
            start = perf_counter()
            call()
            times[name].append(perf_counter() - start)
        done += 1
    return times


def largest_error(case: Case, data: Data) -> float:
    r"""Return how far ``data.out`` is from the exact answer, at worst.

    The whole array is compared with the textbook formula, evaluated by NumPy in
    float64 (in long double for float64 data).  An element's error is in units of
    :math:`2^{-p}\,(1 + |\hat x w| + |b|)`, with p the bits of the significand.
    """
    wide = np.longdouble if case.dtype == "float64" else np.float64
    unit = 2.0 ** -SIGNIFICAND_BITS[case.dtype]
    weight = _along_channels(case, data.weight.astype(wide))
    bias = _along_channels(case, data.bias.astype(wide))

    # Part by part along an axis that no statistic is taken over, so that what
    # NumPy makes on the way stays in the cache.
    by_channel = case.operation == "batch_norm"
    axis = case.channel_axis if by_channel else 0
    step = max(1, 2**18 * case.shape[axis] // data.x.size)
    worst = np.float64(0.0)
    for start in range(0, case.shape[axis], step):
        part = (slice(None),) * axis + (slice(start, start + step),)
        w, b = (weight[part], bias[part]) if by_channel else (weight, bias)
        scaled = _standardise(case, data, part, wide) * w
        if case.operation == "rms_norm":
            b = np.zeros_like(b)
        error = np.abs(data.out[part].astype(wide) - (scaled + b))
        error /= unit * (1 + np.abs(scaled) + np.abs(b))
        worst = np.maximum(worst, error.max())
    return float(worst)


def measure(case: Case, seconds: float) -> Record:
    """Check a case, then time it against a copy for about `seconds`."""
    data = make_data(case)
    call = bind(case, data)
    call()
    # Before the race, where copies write to the same array.
    error = largest_error(case, data)
    best = {
        name: min(times) for name, times in race({**copies(data), "call": call}, seconds).items()
    }
    return Record(
        case=case,
        seconds=best.pop("call"),
        copy_seconds=min(best.values()),
        error=error,
    )


def records(*, quick: bool = False) -> Iterator[Record]:
    """Measure every case of `CASES`, one at a time.

    Parameters
    ----------
    quick : bool
        Take small arrays and hardly any time.  The errors mean as much as
        before; the times do not.
    """
    for case in CASES:
        yield measure(case.shrunk(2**17), 0.0) if quick else measure(case, 0.2)


def _placed(values: Array) -> Array:
    """Copy an array to 16 bytes after the start of a page.

    That is where large arrays start when glibc fetches their memory; elsewhere they
    start on some multiple of 16 bytes that changes from run to run, and the times
    with it.
    """
    page, offset = 4096, 16
    memory = np.empty(values.nbytes + page, np.uint8)
    start = (offset - memory.ctypes.data) % page
    placed = memory[start : start + values.nbytes].view(values.dtype)
    placed = placed.reshape(values.shape)
    placed[...] = values
    return placed


def _along_channels(case: Case, values: Array) -> Array:
    """Shape one value per channel so that it broadcasts against the input."""
    shape = [1] * len(case.shape)
    shape[case.channel_axis] = -1
    return values.reshape(shape)


def _standardise(
    case: Case, data: Data, part: tuple[slice, ...], wide: type[np.floating[Any]]
) -> Array:
    """Return (x - mean) / √(var + eps) of a part of the input, in `wide`."""
    x = data.x[part].astype(wide)
    if case.operation == "batch_norm" and not case.training:
        mean = _along_channels(case, data.running_mean.astype(wide))[part]
        var = _along_channels(case, data.running_var.astype(wide))[part]
        return np.asarray((x - mean) / np.sqrt(var + wide(EPS)))

    shape = x.shape
    channel = case.channel_axis
    match case.operation:
        case "batch_norm":
            axes = tuple(a for a in range(x.ndim) if a != channel)
        case "instance_norm":
            axes = tuple(a for a in range(1, x.ndim) if a != channel)
        case "group_norm":
            groups = case.num_groups
            x = x.reshape(*shape[:channel], groups, -1, *shape[channel + 1 :])
            axes = tuple(a for a in range(1, x.ndim) if a != channel)
        case _:
            axes = (channel,)
    if case.operation != "rms_norm":
        x -= x.mean(axis=axes, keepdims=True)
    x /= np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + wide(EPS))
    return x.reshape(shape)
