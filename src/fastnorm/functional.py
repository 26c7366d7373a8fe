"""The functions: what each means, and what it passes down to the compiled core.

The positional order is that of ``torch.nn.functional``, so that porting is a search and replace;
what NumPy has and torch has not (``axis``, ``channel_axis``, ``out``) are keywords.
"""

from ._channel_functions import batch_norm, group_norm, instance_norm
from ._shape_functions import layer_norm, rms_norm

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]
