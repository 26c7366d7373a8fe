"""Normalisation layers for NumPy arrays on the CPU.

At copy speed, to the last bits, and with the same bits on every processor and thread count.
"""

from ._config import config, get_num_threads, set_num_threads, show_config
from .functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "__version__",
    "batch_norm",
    "config",
    "get_num_threads",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "rms_norm",
    "set_num_threads",
    "show_config",
]

__version__ = config()["version"]
