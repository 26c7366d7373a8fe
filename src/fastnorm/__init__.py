"""Normalisation layers for NumPy arrays on the CPU.

At copy speed, to the last bits, and with the same bits on every processor and thread count.
"""

from ._config import config, get_num_threads, set_num_threads, show_config
from .functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .gradients import (
    batch_norm_backward,
    group_norm_backward,
    instance_norm_backward,
    layer_norm_backward,
    rms_norm_backward,
)
from .layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "__version__",
    "batch_norm",
    "batch_norm_backward",
    "config",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "set_num_threads",
    "show_config",
]

__version__ = config()["version"]
