"""What the functions take and return, for type checkers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
ArrayLike: TypeAlias = npt.ArrayLike
Ints: TypeAlias = int | tuple[int, ...] | list[int]
