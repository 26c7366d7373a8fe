"""What the functions and layers take and return, for type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array: TypeAlias = NDArray[Any]
else:
    # Annotations stay readable at run time without an import of numpy.typing.
    Array, ArrayLike, DTypeLike = np.ndarray, Any, Any

Ints: TypeAlias = int | tuple[int, ...] | list[int]
Indices: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

__all__ = ["Array", "ArrayLike", "DTypeLike", "Indices", "Ints"]
