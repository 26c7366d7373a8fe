"""Normalisation layers: parameters and running statistics around the functions.

A layer owns arrays and decides which of them a call gets; everything that looks at the
data is in `functional`. Names, defaults and state-dict keys are those of ``torch.nn``.
"""

from ._channel_layers import BatchNorm, GroupNorm, InstanceNorm
from ._shape_layers import LayerNorm, RMSNorm

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]
