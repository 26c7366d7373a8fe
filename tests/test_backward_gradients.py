"""The backward passes against the forward passes: finite differences, and what follows from them.

The twin could share a mistake with the library; the forward passes, in float64, cannot. And a
normalisation forgets offset and scale of what it normalises, so its gradient has no part along
either, whatever the data.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from backward_helpers import (
    NAMES,
    SHAPE,
    Problem,
    dx_bound,
    gradient,
    images,
    problem,
)
from helpers import (
    DTYPES,
    MEASURING,
    OPERATIONS,
    Array,
    Operation,
    assert_within,
    each,
    every_dtype,
    every_measuring_operation,
    every_operation,
)
from reference import widen

STEP = 3e-4  # its fourth power is as small as the rounding of float64 divided by it
SHAPES = [SHAPE, (3, 4, 7, 7), (2, 40, 33), (5, 2, 3, 2, 3), (2, 3, 1500), (2, 600, 4)]
MEAN_FREE = [op for op in MEASURING if op.function != "rms_norm"]


def forward(given: Problem, **changes: Any) -> Array:
    """y of the forward pass that belongs to a problem."""
    arguments = {**given.arguments, **changes}
    x = arguments.pop("x", given.x)
    if given.op.needs_running:
        mean, rstd = given.stats
        arguments["running_mean"], arguments["running_var"] = mean, rstd**-2 - given.eps
    return given.op(x, eps=given.eps, **arguments)


def derivative(given: Problem, name: str, direction: Array) -> Array:
    """That of y along a direction of x, weight or bias, by differences of fourth order."""
    at = {"x": given.x, "weight": 1.0, "bias": 0.0, **given.arguments}[name]

    def difference(step: float) -> Array:
        ahead = forward(given, **{name: at + step * direction})
        return (ahead - forward(given, **{name: at - step * direction})) / (2 * step)

    return (4 * difference(STEP) - difference(2 * STEP)) / 3


def variables(given: Problem) -> dict[str, Array]:
    """The gradients with what each is the gradient with respect to."""
    names = ("x", "weight", "bias")
    return dict(zip(names, given(), strict=False))


# --- finite differences -------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, np.float64])
@each([*OPERATIONS, Operation("layer_norm axes", "layer_norm", options={"axis": (0, 2)})])
def test_the_full_jacobian(op, weight, rng):
    """∂y/∂x, ∂y/∂weight and ∂y/∂bias, element by element, of a tiny input."""
    x = images(op, (2, 4, 3), rng, np.float64)
    given = problem(op, x, rng, weight=weight)
    units = np.eye(x.size).reshape(x.size, *x.shape)
    backward = [given(grad=unit) for unit in units]
    for index, name in enumerate(("x", "weight", "bias")[: len(backward[0])]):
        size = backward[0][index].size
        jacobian = np.stack([gradients[index].ravel() for gradients in backward])
        directions = np.eye(size).reshape(size, *backward[0][index].shape)
        expected = np.stack([derivative(given, name, d).ravel() for d in directions], axis=1)
        np.testing.assert_allclose(jacobian, expected, rtol=0, atol=2e-10, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_operation
def test_derivatives_along_directions(op, shape, rng):
    given = problem(op, images(op, shape, rng, np.float64), rng, weight=np.float64)
    for name, gradients in variables(given).items():
        for _ in range(3):
            direction = rng.standard_normal(gradients.shape)
            changes = given.grad * derivative(given, name, direction)
            scale = abs(changes).sum()
            assert abs((gradients * direction).sum() - changes.sum()) <= 1e-10 * (1 + scale), name


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_derivatives_with_any_number_of_groups(channel_axis, rng):
    op = Operation("group_norm", "group_norm", channel_axis)
    for groups in (1, 2, 3, 4, 6, 12):
        x = images(op, (2, 12, 3, 5), rng, np.float64, groups)
        given = problem(op, x, rng, weight=np.float64, groups=groups)
        for name, gradients in variables(given).items():
            direction = rng.standard_normal(gradients.shape)
            changes = given.grad * derivative(given, name, direction)
            difference = abs((gradients * direction).sum() - changes.sum())
            assert difference <= 1e-10 * (1 + abs(changes).sum()), (groups, name)


# --- what the mathematics says is zero ----------------------------------------------------


def pooled_sums(given: Problem, values: Array) -> Array:
    """Σ of values over what each statistic covers."""
    op, ndim = given.op, given.x.ndim
    if op.function == "group_norm":
        first = np.moveaxis(values, op.channel_axis, 1)
        return first.reshape(len(first), given.arguments["num_groups"], -1).sum(2)
    if op.channel_axis is None:
        return values.sum(op.parameter_axes)
    kept = {op.channel_axis % ndim} | ({0} if op.function == "instance_norm" else set())
    return values.sum(tuple(set(range(ndim)) - kept))


@each(MEAN_FREE)
@every_dtype
def test_the_sum_of_the_outputs_does_not_depend_on_x(op, dtype, rng):
    """Without weight, dx is 0 whatever x is; dweight is then Σx̂, where a channel has a mean 0."""
    for shape in SHAPES:
        x = images(op, shape, rng, dtype)
        given = problem(op, x, rng, weight=None, grad=np.broadcast_to(dtype.type(1), x.shape))
        dx, dweight, dbias = given()
        zeros = np.zeros(x.shape)
        assert_within(dx, zeros, dx_bound(zeros, dtype), dtype, f"dx {shape}")
        np.testing.assert_array_equal(dbias, x.size // dbias.size)
        if op.function in ("batch_norm", "instance_norm"):
            unit = 1e-12 if dtype == np.float64 else 1e-6
            assert (abs(dweight) <= unit * given.exact().weight_terms).all(), shape


@every_measuring_operation
def test_dx_has_no_part_along_what_the_normalisation_forgets(op, rng):
    """Over each set Σdx = 0, as an offset of x changes nothing; Σdx·x̂ = 0, nor does a scale."""
    for name in ("float32", "float64"):
        for shape in SHAPES:
            given = problem(op, images(op, shape, rng, DTYPES[name]), rng, eps=1e-14)
            dx, exact = widen(given()[0]), given.exact()
            bound = dx_bound(exact.dx, DTYPES[name])
            directions = [exact.normalized]
            if op.function != "rms_norm":
                directions.append(np.ones(dx.shape))
            for direction in directions:
                part = abs(pooled_sums(given, dx * direction))
                assert (part <= pooled_sums(given, bound * abs(direction))).all(), shape


@every_operation
def test_the_parts_of_grad_that_change_nothing(op, rng):
    """Without weight, a constant and a multiple of x̂ may be added to grad."""
    for shape in SHAPES:
        x = images(op, shape, rng, np.float64)
        given = problem(op, x, rng, weight=None, eps=1e-14)
        dx = given()[0]
        normalized = given.exact().normalized.astype(np.float64)
        shifted = given(grad=given.grad + 1.5)[0] - dx
        along_x = given(grad=given.grad + normalized)[0] - dx
        mean_free = op.function != "rms_norm" and not op.needs_running
        assert (abs(shifted).max() <= 1e-11) == mean_free, shape
        assert (abs(along_x).max() <= 1e-11) != op.needs_running, shape


@each([op for op in MEASURING if op.function in ("layer_norm", "rms_norm", "group_norm")])
def test_sets_of_one_element_have_no_gradient(op, rng):
    """Their x̂ is 0, for RMS norm 1, whatever x is; up to eps."""
    for dtype in DTYPES.values():
        shape = (4, 1, 6) if op.options.get("axis") == 1 else (4, 6, 1)
        if op.function == "group_norm":
            shape = (4, 6)
        x = images(op, shape, rng, dtype, groups=6)
        given = problem(op, x, rng, groups=6, eps=0 if op.function == "rms_norm" else 1)
        zeros = np.zeros(shape)
        assert_within(given()[0], zeros, dx_bound(zeros, dtype), dtype, "dx")


# --- scales -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16"])  # float16: subnormals round
@every_operation
def test_scales_that_are_powers_of_two_change_no_bit(op, name, rng):
    """dx is linear in grad and in weight, and inverse to the scale of x."""
    dtype = DTYPES[name]
    for shape in SHAPES[:4]:
        given = problem(op, images(op, shape, rng, dtype), rng)
        plain = given()
        for name, change, factors in (
            ("grad", {"grad": given.grad * dtype.type(2)}, (2, 2, 2)),
            ("weight", {"weight": given.arguments["weight"] * 2}, (2, 1, 1)),
            ("x", scaled(given, 2), (0.5, 1, 1)),
            ("-x", scaled(given, -1), (1, -1, 1)),
        ):
            for what, result, old, factor in zip(
                NAMES, given(**change), plain, factors, strict=False
            ):
                expected = old * old.dtype.type(factor)
                np.testing.assert_array_equal(result, expected, f"{what}, {name} {shape}")


def scaled(given: Problem, factor: int) -> dict[str, Any]:
    """x times a factor, with the statistics that it then has."""
    *mean, rstd = given.stats
    return {
        "x": given.x * given.x.dtype.type(factor),
        "stats": (*(m * factor for m in mean), rstd / abs(factor)),
    }


@every_operation
def test_gradients_are_linear_in_grad(op, rng):
    for shape in SHAPES:
        given = problem(op, images(op, shape, rng, np.float64), rng)
        other = gradient(given.x, rng)
        both = given(grad=given.grad + 3 * other)
        for name, result, a, b in zip(NAMES, both, given(), given(grad=other), strict=False):
            np.testing.assert_allclose(result, a + 3 * b, rtol=1e-11, atol=1e-10, err_msg=name)


# --- the operations and each other --------------------------------------------------------


@pytest.mark.parametrize("weight", [None, np.float32])
def test_operations_that_are_special_cases_of_others(weight, rng):
    """A group per channel, one group, one sample: as often as one is another, gradients too."""
    image = Operation("", "instance_norm", 1)
    x = images(image, (3, 6, 5, 7), rng)
    given = problem(image, x, rng, weight=weight)
    exact = given.exact()
    group = dataclasses.replace(given, op=Operation("", "group_norm", 1, {"num_groups": 6}))
    group.check("a group per channel")
    assert_close(group.exact(), exact)
    batch = Operation("", "batch_norm", 1, {"training": True})
    one = problem(image, x[:1], rng, weight=weight)
    stats = tuple(s[0] for s in one.stats)
    assert_close(dataclasses.replace(one, op=batch, stats=stats).exact(), one.exact())
    dataclasses.replace(one, op=batch, stats=stats).check("one sample")


def test_one_group_is_layer_norm(rng):
    op = Operation("", "layer_norm", options={"axis": (1, 2, 3)})
    x = images(op, (3, 6, 5, 7), rng)
    given = problem(op, x, rng, weight=None)
    grouped = Operation("", "group_norm", 1, {"num_groups": 1})
    stats = tuple(s.reshape(3, 1) for s in given.stats)
    same = dataclasses.replace(given, op=grouped, stats=stats, arguments={})
    same.check()
    dx, dweight, dbias = same()
    _, by_feature, bias_by_feature = given()
    np.testing.assert_allclose(dx, given()[0], rtol=0, atol=32 * 2.0**-24 * (1 + abs(dx).max()))
    np.testing.assert_allclose(dweight, by_feature.sum((1, 2)), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dbias, bias_by_feature.sum((1, 2)), rtol=1e-5, atol=1e-4)


def assert_close(actual: Any, expected: Any) -> None:
    """Two answers of the twin."""
    for field in dataclasses.fields(actual):
        np.testing.assert_allclose(
            getattr(actual, field.name), getattr(expected, field.name), rtol=1e-14, atol=1e-13
        )
