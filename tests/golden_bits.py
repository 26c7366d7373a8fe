"""The bits that results have, and must keep: a table of their hashes.

    python tests/golden_bits.py --update

writes `golden_bits.json` anew, after a change that is meant to change bits; without ``--update``
it only says what would change. `test_golden_bits` compares the table with every tier.

The inputs are made of integers, so that no version of NumPy makes others of them. Each entry is
one function, direction and element type, over all its modes and layouts and over sizes that take
different paths.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from backward_helpers import Problem
from helpers import DTYPES, OPERATIONS, Array, Operation

TABLE = Path(__file__).with_suffix(".json")
# Short rows, small maps, whole and partial lines, long runs, many and few columns; the last is as
# much work as threads share.
SHAPES = (
    (3, 4, 5),
    (7, 6, 49),
    (2, 16, 128),
    (2, 4, 3001),
    (5, 130, 8),
    (3, 40, 196),
    (2, 40, 1500),
)
# Binary digits that the numbers of each type have room for.
DIGITS = {"float32": 24, "float64": 53, "float16": 11, "bfloat16": 8}


@functools.cache
def numbers(shape: tuple[int, ...], dtype: np.dtype[Any], seed: int) -> Array:
    """Numbers from -4 to 4 with all the digits that the type has room for.

    They are the leading digits of multiples of an odd number modulo 2⁶⁴, mixed once.
    """
    digits = DIGITS[dtype.name]
    indices = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(seed << 32)
    mixed = indices * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    integers = (mixed >> np.uint64(64 - digits)).astype(np.int64) - (1 << (digits - 1))
    return np.ldexp(integers.astype(np.float64), 3 - digits).astype(dtype).reshape(shape)


def problems(op: Operation, dtype: np.dtype[Any]) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Inputs of this operation, at an offset too, with what else it takes."""
    for seed, shape in enumerate(SHAPES):
        x = numbers(shape, dtype, seed).copy()
        x[len(x) // 2 :] += dtype.type(8)
        if op.channel_axis == -1:
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        arguments = op.arguments(x, np.random.default_rng(0))
        for number, (name, value) in enumerate(arguments.items(), 100):
            if isinstance(value, np.ndarray):
                made = numbers(value.shape, np.dtype(np.float32), number)
                arguments[name] = abs(made) + 1 if name == "running_var" else made
        yield x, arguments


def results(op: Operation, dtype: np.dtype[Any]) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """What every problem gives, with its direction."""
    for x, arguments in problems(op, dtype):
        y, *stats = op(x, return_stats=True, **arguments)
        yield "forward", (y, *stats)
        rest = {k: v for k, v in arguments.items() if k in ("weight", "num_groups")}
        if "normalized_shape" in arguments:
            rest["normalized_shape"] = arguments["normalized_shape"]
        yield "backward", Problem(op, numbers(x.shape, dtype, 200), x, tuple(stats), rest)()


def table() -> dict[str, str]:
    """The hashes as this library, with the tier and threads in use, makes them."""
    hashes: dict[str, Any] = {}
    for op in OPERATIONS:
        for name, dtype in DTYPES.items():
            for direction, arrays in results(op, dtype):
                entry = hashes.setdefault(f"{op.function} {direction} {name}", hashlib.sha256())
                for array in arrays:
                    entry.update(array.tobytes())
    return {key: entry.hexdigest()[:16] for key, entry in hashes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"write {TABLE.name}")
    update = parser.parse_args().update
    old = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    new = table()
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    print("\n".join(changed) or "no bit has changed")
    if update:
        TABLE.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    main()
