"""Each special case of the schedule can be switched off, and changes no bit."""

from __future__ import annotations

from helpers import assert_same_bits, every_dtype, every_operation
from paths import paths
from schedules import use_schedule

import fastnorm
from fastnorm import _core


def test_names_and_bits():
    features = _core.features()
    assert features
    assert all(bit > 0 and bit & (bit - 1) == 0 for bit in features.values())
    assert len(set(features.values())) == len(features)


@every_operation
@every_dtype
def test_without_one(op, dtype):
    fastnorm.set_num_threads(2)
    features = _core.features()
    everything = sum(features.values())
    for path in paths(op, dtype):
        use_schedule("streamed")
        expected = path.outcome()
        for feature, bit in features.items():
            _core.use_features(everything & ~bit)
            for name, array in path.outcome().items():
                assert_same_bits(array, expected[name], f"{name} of {path.name} without {feature}")
