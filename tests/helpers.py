"""What the tests share: dtypes, operations, data, the promised bounds, comparisons of bits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from reference import Exact

import fastnorm

Array = NDArray[Any]
ROOT = Path(__file__).parents[1]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)

# Around the widths of vectors, the lanes, the levels of sums and the blocks of about 1024.
EDGES = (1, 15, 16, 17, 31, 32, 33, 63, 65, 97, 1023, 1025, 4099)


# --- operations ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One way to call one function; the same call goes to fastnorm and to its twin.

    ``channel_axis`` is None for the functions that take axes rather than channels.
    """

    name: str
    function: str
    channel_axis: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, x: Any, **arguments: Any) -> Any:
        return getattr(fastnorm, self.function)(x, **self.fixed(), **arguments)

    def exact(self, x: Any, **arguments: Any) -> Exact:
        return getattr(reference, self.function)(x, **self.fixed(), **arguments)

    def fixed(self) -> dict[str, Any]:
        if self.channel_axis is None:
            return self.options
        return {**self.options, "channel_axis": self.channel_axis}

    @property
    def depends_on_batch(self) -> bool:
        return bool(self.options.get("training"))

    @property
    def needs_running(self) -> bool:
        return self.options.get("training") is False

    @property
    def parameter_axes(self) -> tuple[int, ...]:
        """The axes of x along which weight and bias vary."""
        if self.channel_axis is not None:
            return (self.channel_axis,)
        axis = self.options.get("axis", -1)
        return axis if isinstance(axis, tuple) else (axis,)

    def sets(self, rows: int, count: int) -> Array:
        """Indices that lay a (rows, count) matrix out as an input of this operation.

        ``data[op.sets(*data.shape)]`` has every row of ``data`` where the operation pools it.
        """
        n = next(n for n in (4, 3, 2, 1) if count % n == 0)
        if rows % 2:
            raise ValueError("an even number of rows, please: half of them for each sample")
        flat = np.arange(rows * count)
        if self.function == "batch_norm":
            nchw = flat.reshape(rows, n, count // n).transpose(1, 0, 2)
        elif self.function == "instance_norm":
            nchw = flat.reshape(2, rows // 2, count)
        elif self.function == "group_norm":
            nchw = flat.reshape(2, rows // 2 * n, count // n)
        elif self.options.get("axis") == 1:
            return flat.reshape(2, rows // 2, count).transpose(0, 2, 1)
        else:
            return flat.reshape(rows, count)
        assert self.channel_axis is not None
        return np.moveaxis(nchw, 1, self.channel_axis)

    def spread(self, data: Array) -> Array:
        """A new contiguous input whose pooled sets are the rows of ``data``."""
        rows, count = data.shape
        return np.ascontiguousarray(data.ravel()[self.sets(rows, count)])

    def arguments(
        self, x: Array, rng: np.random.Generator, dtype: Any = np.float32, groups: int | None = None
    ) -> dict[str, Any]:
        """Weight, bias and whatever else this operation needs for ``x``."""
        arguments: dict[str, Any] = {}
        shape = reference.sizes(x, self.parameter_axes)
        if self.channel_axis is None and "axis" not in self.options:
            arguments["normalized_shape"] = shape
        arguments["weight"] = normal(rng, shape, dtype)
        if self.function != "rms_norm":
            arguments["bias"] = normal(rng, shape, dtype)
        if self.function == "group_norm":
            arguments["num_groups"] = groups or some_groups(shape[0])
        if self.needs_running:
            arguments["running_mean"] = normal(rng, shape, dtype)
            arguments["running_var"] = (normal(rng, shape) ** 2 + 1).astype(dtype)
        return arguments


def some_groups(channels: int) -> int:
    """Two or more groups of more than one channel where ``channels`` allows it, else one."""
    return next((g for g in (2, 3, 5, 7, 11) if channels % g == 0 and channels > g), 1)


OPERATIONS = [
    Operation("layer_norm", "layer_norm"),
    Operation("layer_norm axis=1", "layer_norm", options={"axis": 1}),
    Operation("rms_norm", "rms_norm"),
    Operation("rms_norm axis=1", "rms_norm", options={"axis": 1}),
    *(
        Operation(f"{name} {layout}", function, channel_axis, options)
        for name, function, options in (
            ("batch_norm training", "batch_norm", {"training": True}),
            ("batch_norm inference", "batch_norm", {"training": False}),
            ("instance_norm", "instance_norm", {}),
            ("group_norm", "group_norm", {}),
        )
        for layout, channel_axis in (("NCHW", 1), ("NHWC", -1))
    ),
]


def each(operations: list[Operation]) -> Any:
    return pytest.mark.parametrize("op", operations, ids=lambda op: op.name)


every_operation = each(OPERATIONS)
MEASURING = [op for op in OPERATIONS if not op.needs_running]
every_measuring_operation = each(MEASURING)
every_batch_free_operation = each([op for op in OPERATIONS if not op.depends_on_batch])


# --- data ---------------------------------------------------------------------------------


def normal(
    rng: np.random.Generator, shape: int | tuple[int, ...], dtype: Any = np.float32, mean: Any = 0
) -> Array:
    """Normal deviates around ``mean``, made in float32 unless ``dtype`` is finer.

    Parameters made as float32 and stored as float64 stay float32 numbers, so that an exact
    answer does not depend on whether the arithmetic rounds them to float32.
    """
    deviates = rng.standard_normal(shape, dtype=np.float32)
    if np.any(mean):
        deviates = deviates.astype(np.float64) + mean
    return np.asarray(deviates).astype(dtype)


def scattered(shape: tuple[int, ...], dtype: Any, order: str) -> Array:
    """An uninitialised array of ``shape`` whose memory is not one contiguous block."""
    return np.empty((*shape, 2), dtype, order)[..., 0]


def misaligned(array: Array) -> Array:
    """A copy of ``array`` that starts one byte after an aligned address."""
    memory = np.zeros(array.nbytes + array.itemsize, np.uint8)
    copy = memory[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def placed(array: Array, offset: int) -> Array:
    """A copy that begins so many elements after a line of the cache."""
    line = 64 // array.itemsize
    memory = np.zeros(array.size + 2 * line, array.dtype)
    start = -memory.ctypes.data % 64 // array.itemsize + offset % line
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def guarded(shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> tuple[Array, Array]:
    """Memory full of ones, and an output in it that a line of them precedes and follows.

    The output begins ``offset`` elements after a line.
    """
    line = 64 // dtype.itemsize
    memory = placed(np.ones(math.prod(shape) + 2 * line, dtype), offset)
    return memory, memory[line:-line].reshape(shape)


def assert_guarded(memory: Array, message: str = "") -> None:
    """Nothing was written beside the output."""
    line = 64 // memory.itemsize
    assert (memory[:line] == 1).all(), message
    assert (memory[-line:] == 1).all(), message


def strided(array: Array) -> Array:
    """A copy of ``array`` with a gap after every element and, backwards, along every axis."""
    memory = np.zeros([2 * n for n in array.shape], array.dtype)
    copy = memory[tuple(slice(None, None, -2) for _ in array.shape)]
    copy[...] = array
    return copy


# --- comparisons --------------------------------------------------------------------------


def half_ulp(values: Array, dtype: np.dtype[Any]) -> Array:
    """Half the distance of neighbouring numbers of ``dtype`` at ``values``, also subnormal."""
    info = ml_dtypes.finfo(dtype)
    lowest = round(math.log2(float(info.smallest_normal))) + 1
    _, exponent = np.frexp(values)
    exponent = np.where(values == 0, lowest, np.maximum(exponent, lowest))
    return np.ldexp(0.5, exponent - 1 - info.nmant)


def bound(exact: Exact, dtype: np.dtype[Any]) -> Array:
    """The largest error that is promised for results of ``dtype``.

    Subnormal float32 numbers are 2⁻¹⁴⁹ apart, and no result of the arithmetic can be nearer.
    """
    if reference.is_double(dtype):
        return 1e-12 * exact.magnitude
    arithmetic = 4 * 2.0**-24 * exact.magnitude + 2.0**-150
    if dtype.itemsize == 4:
        return arithmetic
    return arithmetic + half_ulp(exact.y, dtype)


def assert_accurate(y: Array, exact: Exact, dtype: Any = None, message: str = "") -> None:
    """``y`` has the shape of the exact answer and is within the promised bound of it."""
    dtype = np.dtype(dtype or y.dtype)
    assert_within(y, exact.y, bound(exact, dtype), dtype, message)


def assert_within(
    actual: Array, expected: Array, bound: Array, dtype: np.dtype[Any], message: str
) -> None:
    """An array of this dtype, every element of which is within its bound of what is expected."""
    assert type(actual) is np.ndarray, message
    assert actual.shape == expected.shape, message
    assert actual.dtype == dtype, message
    assert np.isfinite(expected).all(), "the exact answer is not finite: there is nothing to test"
    errors = abs(actual.astype(expected.dtype) - expected)
    off = ~(errors <= bound)  # also where it is not finite
    if off.any():
        with np.errstate(all="ignore"):
            parts = np.where(off, errors / bound, 0)
        worst = np.unravel_index(np.argmax(np.nan_to_num(parts, nan=np.inf)), parts.shape)
        raise AssertionError(
            f"{message}: {parts[worst]:.3g} of the promised bound at {tuple(map(int, worst))} of "
            f"{actual.shape}: {actual[worst]} instead of {expected[worst]}; "
            f"{int(off.sum())} of {actual.size} elements are off"
        )


def assert_statistics(stats: tuple[Array, ...], exact: Exact, dtype: np.dtype[Any]) -> None:
    """``(mean, rstd)``, or ``(rstd,)``, have the promised dtype and shape and are right.

    A mean is good to a rounding of itself and to a small part of the standard deviation, an
    rstd relatively.
    """
    stat = np.dtype(np.float64 if reference.is_double(dtype) else np.float32)
    unit = 1e-12 if stat.itemsize == 8 else 2.0**-22
    smallest = np.finfo(stat).smallest_subnormal
    expectations = [
        ("mean", exact.mean, abs(exact.mean) + 1 / exact.rstd),
        ("rstd", exact.rstd, exact.rstd),
    ][-len(stats) :]
    for actual, (name, expected, scale) in zip(stats, expectations, strict=True):
        assert_within(actual, expected, unit * scale + smallest, stat, name)


def bits(array: Array) -> Array:
    """The values as unsigned integers in C order: NaN equals itself, -0 differs from 0."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)


def assert_same_bits(actual: Array, expected: Array, message: str = "") -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    different = bits(actual) != bits(expected)
    if different.any():
        # Any NaN is as good as another: which of two operands' NaN an addition gives depends on
        # the order that a compiler writes them in, and is not promised.
        different &= ~(np.isnan(actual) & np.isnan(expected))
    if different.any():
        first = tuple(int(i) for i in np.argwhere(different)[0])
        raise AssertionError(
            f"{message}: {int(different.sum())} of {actual.size} differ, first at {first}: "
            f"{actual[first]} and {expected[first]}"
        )


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository, without a terminal and without colours forced upon it."""
    forced = ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS")
    inherited = {name: v for name, v in os.environ.items() if name not in forced}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**inherited, "PYTHONIOENCODING": "utf-8", **environment},
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
        capture_output=True,
        timeout=600,
        check=False,
    )


def run_without(missing: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module`` as if a package were not installed; warnings are errors."""
    return run_python(
        "-W",
        "error",
        "-c",
        "import runpy, sys\n"
        f"sys.modules[{missing!r}] = None\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        f"runpy.run_module({module!r}, run_name='__main__')",
    )
