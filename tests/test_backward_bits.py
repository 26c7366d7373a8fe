"""One gradient for one input, to the last bit, as test_bits has it for the forward passes.

Tiers and threads may not show in any of the three gradients, the rest of the batch not in dx where
each sample has statistics of its own, and neither may where dx goes or where grad lies.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from backward_helpers import NAMES, SHAPE, Problem, gradient, images, problem
from helpers import (
    DTYPES,
    Array,
    Operation,
    assert_same_bits,
    every_batch_free_operation,
    every_dtype,
    every_operation,
    misaligned,
    normal,
    placed,
    strided,
)
from schedules import settings
from test_layouts import LAYOUTS

# Work that is just enough for threads, huge rows, few channels, maps of 7 by 7, short rows.
SHAPES = [
    (3, 5, 7),
    (37, 16, 49),
    (4, 512, 49),
    (2, 3, 20_000),
    (1, 1, 70_000),
    (1, 64, 1500),
    (9000, 3, 2),
    (9, 100, 65),
    (100, 300, 2),
    (2, 4099, 9),
]
GROUPED = [(64, 64), (96, 32), (1200, 2), (6, 2), (640, 1)]
AXES = [((5, 6, 40, 70), (2, 3)), ((4, 3, 300, 9), (1, 3)), ((70, 2, 7, 7), (1, 2, 3))]


def problems(op: Operation, rng: np.random.Generator, dtype: np.dtype) -> Iterator[Problem]:
    for n, channels, spatial in SHAPES:
        shape: tuple[int, ...] = (n, channels, spatial)
        if op.channel_axis is None and "axis" not in op.options:
            shape = (n * channels, spatial) if spatial > 2 else (n, channels * spatial)
        yield problem(op, images(op, shape, rng, dtype), rng)


def groups(channel_axis: int, rng: np.random.Generator, dtype: np.dtype) -> Iterator[Problem]:
    op = Operation("group_norm", "group_norm", channel_axis)
    for channels, count in GROUPED:
        for n, spatial in ((7, 5), (2, 500)):
            x = images(op, (n, channels, spatial), rng, dtype, count)
            yield problem(op, x, rng, groups=count)


def any_axes(axis: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[Problem]:
    for function in ("layer_norm", "rms_norm"):
        op = Operation(function, function, options={"axis": axis})
        yield problem(op, images(op, shape, rng), rng)


def assert_same_gradients(
    results: tuple[Array, ...], expected: tuple[Array, ...], message: str
) -> None:
    assert len(results) == len(expected)
    for name, result, same in zip(NAMES, results, expected, strict=False):
        assert_same_bits(result, same, f"{name} {message}")


# --- tiers and threads --------------------------------------------------------------------


def assert_bits_everywhere(given: Problem) -> None:
    expected: tuple[Array, ...] = ()
    for setting in settings():
        results = given()
        expected = expected or results
        assert_same_gradients(results, expected, f"{setting}, {given.x.shape}")


@every_operation
@every_dtype
def test_every_tier_and_number_of_threads(op, dtype, rng):
    for given in problems(op, rng, dtype):
        assert_bits_everywhere(given)


@pytest.mark.parametrize("channel_axis", [1, -1])
@every_dtype
def test_every_tier_and_number_of_threads_for_groups(channel_axis, dtype, rng):
    for given in groups(channel_axis, rng, dtype):
        assert_bits_everywhere(given)


@pytest.mark.parametrize(("shape", "axis"), AXES, ids=str)
def test_every_tier_and_number_of_threads_for_any_axes(shape, axis, rng):
    for given in any_axes(axis, shape, rng):
        assert_bits_everywhere(given)


@every_operation
def test_every_tier_and_number_of_threads_for_any_layout(op, rng):
    for shape in (SHAPE, (5, 40, 700)):
        given = problem(op, images(op, shape, rng), rng)
        for order in itertools.permutations(range(3)):
            x, grad = (
                a.transpose(order).copy().transpose(np.argsort(order))
                for a in (given.x, given.grad)
            )
            assert_bits_everywhere(Problem(op, grad, x, given.stats, given.arguments))
            assert_bits_everywhere(Problem(op, given.grad, x, given.stats, given.arguments))


@every_operation
def test_a_second_call_gives_the_same(op, rng):
    """Nothing is left over in memory that is used again."""
    for given in problems(op, rng, np.dtype(np.float32)):
        expected = given()
        other = problem(op, given.x * 3, rng, grad=np.full_like(given.grad, np.nan))
        other()
        assert_same_gradients(given(), expected, str(given.x.shape))


# --- the batch ----------------------------------------------------------------------------


def parts(n: int) -> list[slice]:
    """Single samples, an even and an odd number of them, everything but one, every second."""
    cuts = {(0, 1), (n // 2, n // 2 + 1), (1, n), (n // 3, n // 3 + 3)}
    ranges = [slice(i, j) for i, j in sorted(cuts) if i < j]
    return [*ranges, slice(None, None, 2), slice(None, None, -1)]


def assert_batch_does_not_matter(given: Problem) -> None:
    whole = given()[0]
    for part in parts(len(given.x)):
        stats = given.stats if given.op.needs_running else [s[part] for s in given.stats]
        dx = given(x=given.x[part], grad=given.grad[part], stats=stats)[0]
        assert_same_bits(dx, whole[part], f"{part} of {given.x.shape}")


@every_batch_free_operation
@every_dtype
def test_the_rest_of_the_batch_does_not_matter(op, dtype, rng):
    for given in problems(op, rng, dtype):
        assert_batch_does_not_matter(given)


@pytest.mark.parametrize("channel_axis", [1, -1])
@every_dtype
def test_the_rest_of_the_batch_does_not_matter_for_groups(channel_axis, dtype, rng):
    for given in groups(channel_axis, rng, dtype):
        assert_batch_does_not_matter(given)


@pytest.mark.parametrize(("shape", "axis"), AXES, ids=str)
def test_the_rest_of_the_batch_does_not_matter_for_any_axes(shape, axis, rng):
    for given in any_axes(axis, shape, rng):
        assert_batch_does_not_matter(given)


@every_batch_free_operation
def test_the_rest_of_the_batch_does_not_matter_wherever_it_lies(op, rng):
    """Samples side by side in memory, cut out as views."""
    for shape in ((7, 6, 35), (40, 24, 65)):
        given = problem(op, images(op, shape, rng), rng)
        for order in itertools.permutations(range(3)):
            x, grad = (
                a.transpose(order).copy().transpose(np.argsort(order))
                for a in (given.x, given.grad)
            )
            assert_batch_does_not_matter(Problem(op, grad, x, given.stats, given.arguments))


def test_the_gradients_of_parameters_do_depend_on_the_batch(rng):
    """Of one sample they are its own: what makes the comparisons above worth something."""
    given = problem(Operation("", "layer_norm"), normal(rng, (8, 70)), rng)
    first = given(x=given.x[:1], grad=given.grad[:1], stats=[s[:1] for s in given.stats])
    assert (first[1] != given()[1]).all()
    np.testing.assert_array_equal(first[2], given.grad[0])


# --- where dx goes and grad lies ----------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16"])
@every_operation
def test_in_place_and_elsewhere(op, name, rng):
    for given in problems(op, rng, DTYPES[name]):
        expected, shape = given(), given.x.shape
        odd = {"x": misaligned(given.x), "grad": misaligned(given.grad)}
        changes: dict[str, dict[str, Any]] = {
            "out": {"out": np.empty_like(given.x)},
            "misaligned": odd,
            "misaligned out": {"out": misaligned(given.x)},
            "out with gaps": {"out": strided(given.x)},
            "out in another order": {"out": np.empty_like(given.x, order="F")},
            "in place of x": {"x": (x := given.x.copy()), "out": x},
            "in place of grad": {"grad": (grad := given.grad.copy()), "out": grad},
            "in place, misaligned": {**odd, "out": odd["grad"]},
        }
        for message, change in changes.items():
            results = given(**change)
            assert "out" not in change or results[0] is change["out"], message
            assert_same_gradients(results, expected, f"{message} {shape}")


@every_operation
def test_one_array_for_everything(op, rng):
    """grad, x and out are one: dx of Σy²/2 at weight 1 has such a start, by accident or not."""
    for given in problems(op, rng, np.dtype(np.float32)):
        expected = given(grad=given.x.copy())
        assert_same_gradients(given(grad=given.x), expected, "grad is x")
        x = given.x.copy()
        assert_same_gradients(given(grad=x, x=x, out=x), expected, "and out")


@every_operation
def test_out_that_overlaps_behaves_as_if_it_did_not(op, rng):
    for shape in (SHAPE, (8, 40, 300)):
        base = images(op, (shape[0] + 1, *shape[1:]), rng)
        given = problem(op, base[1:], rng)
        expected, n = given(), given.x.size
        for name in ("x", "grad"):
            for start, step in ((0, 1), (1, 1), (0, -1), (n // 2, 1)):
                memory = np.zeros(2 * n + 2, np.float32)
                inside = memory[n // 2 :][:n].reshape(given.x.shape)
                inside[...] = getattr(given, name)
                out = memory[start : start + n][::step].reshape(given.x.shape)
                results = given(**{name: inside, "out": out})
                assert results[0] is out
                assert_same_gradients(results, expected, f"{name} {start} {step} {shape}")


@every_operation
def test_out_that_overlaps_a_parameter_behaves_as_if_it_did_not(op, rng):
    """Weight and statistics too, which are still needed when the first dx is stored."""
    for shape in (SHAPE, (8, 64, 300)):
        given = problem(op, images(op, shape, rng), rng)
        expected = given()
        sources = {"weight": given.arguments["weight"]}
        sources |= {f"stat {i}": s for i, s in enumerate(given.stats)}
        for name, source in sources.items():
            out = np.empty_like(given.x)
            inside = out.reshape(-1)[5 : 5 + source.size].reshape(source.shape)
            inside[...] = source
            change: dict[str, Any] = {"weight": inside}
            if name != "weight":
                change = {"stats": [inside if s is source else s for s in given.stats]}
            assert_same_gradients(given(**change, out=out), expected, f"{name} {shape}")


@every_operation
def test_layouts_of_grad(op, rng):
    """The layout of x decides the order of additions: where grad lies changes no bit."""
    for shape in (SHAPE, (3, 64, 65)):
        given = problem(op, images(op, shape, rng), rng)
        expected = given()
        for layout, lay_out in LAYOUTS.items():
            results = given(grad=lay_out(given.grad))
            assert_same_gradients(results, expected, f"{layout} {shape}")
        broadcast = np.broadcast_to(gradient(given.x, rng)[:1], given.x.shape)
        assert_same_gradients(given(grad=broadcast), given(grad=broadcast.copy()), "broadcast")


@every_operation
@every_dtype
def test_where_arrays_begin(op, dtype, rng):
    """Memory decides which vectors are whole; what is added in which order must not follow it."""
    for shape in ((9, 3, 35), (4, 40, 64)):
        given = problem(op, images(op, shape, rng, dtype), rng)
        expected = given()
        for offset in (1, 5, 15, 16, 17, 31):
            moved = dataclasses.replace(
                given, x=placed(given.x, offset), grad=placed(given.grad, 32 - offset)
            )
            out = placed(given.x, (7 * offset) % 32)
            assert_same_gradients(moved(out=out), expected, f"{shape} at {offset}")
