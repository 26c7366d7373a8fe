"""Fixtures, and restoring what the library keeps for the whole process."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

# Before OpenMP is loaded: there are tests with more threads than processors, and threads that wait
# in a loop keep the others from work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import numpy as np
import pytest
from schedules import use_schedule

import fastnorm
from fastnorm import _core

# The same examples in every run: a failure then belongs to the change that shows it. To look
# for new ones, `pytest --hypothesis-profile=explore`.
hypothesis.settings.register_profile("repeat", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", max_examples=5000, deadline=None)
hypothesis.settings.load_profile("repeat")


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """No test leaves its tier, its thread count or its schedule to the next."""
    isa, threads = fastnorm.config()["isa"], fastnorm.get_num_threads()
    yield
    _core.use_isa(isa)
    use_schedule("usual")
    fastnorm.set_num_threads(threads)


@pytest.fixture(params=fastnorm.config()["isa_available"])
def tier(request: pytest.FixtureRequest) -> str:
    """Every instruction set that runs here, in use during the test."""
    _core.use_isa(request.param)
    assert fastnorm.config()["isa"] == request.param
    return request.param


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the name of the test alone."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
