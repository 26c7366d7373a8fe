"""placeholder"""
from ._core import channel_norm as _channel_norm, group_norm as _group_norm, layer_norm as _layer_norm

def layer_norm(x, /, normalized_shape=None, weight=None, bias=None, eps=1e-5, *, axis=None, out=None, return_stats=False):
    return _layer_norm(x, normalized_shape, weight, bias, eps, axis, out, return_stats, True)
def rms_norm(x, /, normalized_shape=None, weight=None, eps=None, *, axis=None, out=None, return_stats=False):
    return _layer_norm(x, normalized_shape, weight, None, eps, axis, out, return_stats, False)
def batch_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *, channel_axis=1, out=None, return_stats=False):
    return _channel_norm(x, running_mean, running_var, weight, bias, training, momentum, eps, channel_axis, out, return_stats, False)
def instance_norm(x, /, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5, *, channel_axis=1, out=None, return_stats=False):
    return _channel_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, channel_axis, out, return_stats, True)
def group_norm(x, /, num_groups, weight=None, bias=None, eps=1e-5, *, channel_axis=1, out=None, return_stats=False):
    return _group_norm(x, num_groups, weight, bias, eps, channel_axis, out, return_stats)
