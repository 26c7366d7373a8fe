"""The bits of results are fixed: every tier gives those of the table in `golden_bits.json`."""

from __future__ import annotations

import json

import golden_bits
import numpy as np
import pytest
from helpers import DTYPES

import fastnorm


def test_results_have_the_bits_of_the_table(tier):
    fastnorm.set_num_threads(2)
    recorded = json.loads(golden_bits.TABLE.read_text())
    made = golden_bits.table()
    assert made.keys() == recorded.keys()
    changed = [key for key in made if made[key] != recorded[key]]
    assert not changed, f"on {tier}; if that is meant: python tests/golden_bits.py --update"


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_inputs_are_what_they_were(dtype):
    """The table is one of results, not of a stream of numbers; integers have exact sums."""
    digits = golden_bits.DIGITS[dtype.name]
    values = golden_bits.numbers((1000,), dtype, 1).astype(np.float64)
    total = {24: 88429331, 53: 47475405246059226, 11: 10311, 8: 836}[digits]
    assert np.ldexp(values, digits - 3).astype(np.int64).sum() == total
