"""What the program around a call may do: small stacks, other rounding, flushed subnormals."""

from __future__ import annotations

import threading
from collections.abc import Callable

import float_environment
import numpy as np
import pytest
from helpers import (
    DTYPES,
    OPERATIONS,
    Array,
    assert_same_bits,
    every_dtype,
    every_operation,
    normal,
    run_python,
    strided,
)
from paths import THREADED_SIZES, paths
from schedules import use_schedule

import fastnorm

# --- stacks -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_64_kib_of_stack(threads):
    """For a Python thread and for OpenMP's: musl's threads have little more."""
    done = run_python("tests/small_stack.py", str(threads), OMP_STACKSIZE="64k")
    last = done.stderr.splitlines()[-1:]
    assert done.returncode == 0, f"ended by {done.returncode}: {last}"
    assert done.stdout.split("\n")[0] == "every path was taken", done.stderr[-2000:]


# --- rounding and subnormals --------------------------------------------------------------


@pytest.fixture(scope="module")
def environment() -> float_environment.Environment:
    return float_environment.Environment()


def in_new_thread(function: Callable[[], None]) -> None:
    """Run it where OpenMP has no threads yet: new ones get the settings of the one that calls."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


every_change = pytest.mark.parametrize("change", float_environment.CHANGES)


@every_change
def test_the_changes_change_something(environment, change):
    """What the tests below rely on."""
    numbers = np.array([1, -1, 1e-38, 1e-45], np.float32)
    others = np.array([3, 3, 100, 1], np.float32)
    expected = numbers / others
    before = environment.settings()
    with environment.changed(change):
        during = environment.settings()
        result = numbers / others
    assert before != during
    assert environment.settings() == before
    assert (result != expected).any()


@every_change
@every_operation
def test_settings_of_the_caller_change_no_bit(op, change, environment):
    sizes = ((132, 15), (40, 96), (36, 196), (1030, 12), THREADED_SIZES[0], THREADED_SIZES[2])
    for dtype in DTYPES.values():
        for path in paths(op, dtype, sizes, ("new output",)):
            for threads in (1, 2) if path.x.size > 100_000 else (1,):
                fastnorm.set_num_threads(threads)
                usual = environment.settings()
                expected = path.outcome()
                assert environment.settings() == usual
                with environment.changed(change):
                    during = environment.settings()
                    results = path.outcome()
                    after = environment.settings()
                assert after == during
                for name, array in results.items():
                    assert_same_bits(array, expected[name], f"{name} {dtype} of {path.name}")


@every_change
@every_dtype
def test_settings_that_threads_began_with_change_no_bit(dtype, change, environment):
    """Threads of a pool keep the settings of the moment when they were made."""
    problems = [
        path
        for op in OPERATIONS[::3]
        for path in paths(op, dtype, THREADED_SIZES[:1], ("new output",))
    ]
    fastnorm.set_num_threads(1)
    expected = [path.outcome() for path in problems]

    def compare() -> None:
        for path, arrays in zip(problems, expected, strict=True):
            for name, array in path.outcome().items():
                assert_same_bits(array, arrays[name], f"{name} of {path.name}")

    def made_with_the_change() -> None:
        fastnorm.set_num_threads(2)
        with environment.changed(change):
            compare()
        compare()

    def made_before_it() -> None:
        fastnorm.set_num_threads(2)
        compare()
        with environment.changed(change):
            compare()

    in_new_thread(made_with_the_change)
    in_new_thread(made_before_it)


@every_change
def test_settings_change_no_running_statistics(change, environment, rng):
    x = normal(rng, (40, 6, 7), mean=1)
    x[:, 0] *= np.float32(1e-41)
    first = np.repeat([[0.1], [1e-39]], 6, axis=1).astype(np.float32)

    def updated() -> Array:
        mean, var = first.copy()
        fastnorm.batch_norm(x, mean, var, training=True, momentum=0.3)
        fastnorm.instance_norm(x, mean, var, momentum=0.3)
        return np.stack([mean, var])

    expected = updated()
    with environment.changed(change):
        results = updated()
    assert_same_bits(results, expected)


# --- where fresh outputs begin ------------------------------------------------------------


@every_operation
@every_dtype
def test_streamed_results_begin_with_a_line_of_the_cache(op, dtype):
    """NumPy's own allocator begins 16 bytes after one."""
    use_schedule("streamed")
    for path in paths(op, dtype, ((40, 96), (34, 100), (36, 196)), ("new output", "strided")):
        results = path.outcome()
        for name in ("y", "dx"):
            assert results[name].ctypes.data % 64 == 0, f"{name} of {path.name}"


def test_large_results_begin_with_a_line_of_the_cache(rng):
    """Of a size that every processor streams."""
    x = normal(rng, (1500, 16, 784))
    for given in (x, x[:, ::-1], strided(x[:700])):
        y, mean, rstd = fastnorm.batch_norm(given, training=True, return_stats=True)
        assert y.ctypes.data % 64 == 0
        assert fastnorm.batch_norm_backward(given, given, mean, rstd)[0].ctypes.data % 64 == 0
