"""Every kernel of every tier gives the bits of the others.

The names of the kernels come from the table that the tiers are made of, so a new kernel that no
problem in `paths` reaches is a failure.
"""

from __future__ import annotations

import itertools

from helpers import DTYPES, OPERATIONS, assert_same_bits, every_dtype, every_operation
from paths import paths
from schedules import schedules, tiers_and_schedules

import fastnorm
from fastnorm import _core


def test_every_kernel_is_called():
    fastnorm.set_num_threads(1)
    _core.trace_kernels(True)
    try:
        for op, dtype in itertools.product(OPERATIONS, DTYPES.values()):
            for path in paths(op, dtype):
                for _ in schedules():
                    path.outcome()
        called = set(_core.kernels_called())
    finally:
        _core.trace_kernels(False)
    assert _core.kernel_names()
    never = set(_core.kernel_names()) - called
    assert not never, "a problem that reaches it belongs in `paths`"


@every_operation
@every_dtype
def test_every_tier_and_schedule(op, dtype):
    for path in paths(op, dtype):
        expected = {}
        for setting in tiers_and_schedules():
            for name, array in path.outcome().items():
                first = expected.setdefault(name, array)
                assert_same_bits(array, first, f"{name} of {path.name}, {setting}")
