"""The benchmark's problems: reading them, and choosing among them."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("bench", reason="the benchmark is only in the repository")

from bench.problems import (
    BACKWARD,
    FORWARD,
    OPERATIONS,
    Problem,
    ProblemError,
    lists,
    parse,
    select,
)
from bench.work import Work

LISTED = [problem for problems in lists().values() for problem in problems]


@pytest.mark.parametrize("problem", LISTED, ids=str)
def test_listed_problem_reads_as_it_is_written(problem: Problem) -> None:
    assert parse(str(problem)) == problem


def test_problem_has_what_its_words_say() -> None:
    problem = parse(" group_norm  sd 2x64x48x320:nhwc bf16   groups=32 plain")
    case = problem.case
    assert (case.operation, case.layer, case.shape) == ("group_norm", "sd", (2, 64, 48, 320))
    assert (case.layout, case.dtype, case.num_groups) == ("NHWC", "bfloat16", 32)
    assert not problem.affine
    assert problem.nbytes == 2 * 64 * 48 * 320 * 2
    assert str(problem) == "group_norm sd 2x64x48x320:nhwc groups=32 plain bf16"


def test_layouts_default_to_the_operations() -> None:
    assert parse("layer_norm a 2x3x4x5").case.layout == "NHWC"
    assert parse("layer_norm a 2x3x4x5:nchw").case.layout == "NCHW"
    assert parse("instance_norm a 2x3x4x5").case.layout == "NCHW"
    assert parse("batch_norm a 2x3").case.layout == "NC"
    assert parse("batch_norm a 2x3x4").case.layout == "NCL"


def test_memory_may_be_in_another_order() -> None:
    problem = parse("batch_norm resnet 2x3x4x5 training memory=nhwc")
    assert problem.memory_case.shape == (2, 4, 5, 3)
    work = Work.of(problem)
    assert work.data.x.transpose(problem.axes).shape == (2, 3, 4, 5)


def test_backward_is_an_operation() -> None:
    text = "group_norm_backward sd 2x64x48x320:nhwc groups=32 bf16"
    problem = parse(text)
    assert problem.backward
    assert problem.operation == "group_norm_backward"
    assert problem.case == parse(text.replace("_backward", "")).case
    assert str(problem) == text
    assert str(problem.shrunk(2**14)).startswith("group_norm_backward sd ")
    assert parse("rms_norm_backward a 2x3x4").case.layout == "NLC"
    assert parse("batch_norm_backward a 2x3x4 training").case.training
    assert not parse("layer_norm a 2x3").backward


def test_work_of_a_backward_has_what_the_forward_gives() -> None:
    work = Work.of(parse("group_norm_backward a 2x6x4x4 groups=3 memory=nhwc"))
    assert work.saved is not None
    assert work.grad.shape == work.data.x.shape == (2, 4, 4, 6)
    assert [array.shape for array in work.saved.stats] == [(2, 3), (2, 3)]
    mean, rstd = work.saved.stats
    x = work.data.x.transpose(0, 3, 1, 2).reshape(2, 3, -1)
    np.testing.assert_allclose(mean, x.mean(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rstd, 1 / x.std(-1), rtol=1e-3)
    assert len(Work.of(parse("rms_norm_backward a 5x7")).saved.stats) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("layer_norm_backwards bert 4x4", "no operation 'layer_norm_backwards'"),
        ("group_norm_backward sd 1x4x8x8", "a group norm needs groups=N"),
        ("layer_norm_backward bert 4x4 training", "training is for batch_norm"),
        ("layer_norm bert", "write operation, network and shape"),
        ("layernorm bert 4x4", "no operation 'layernorm'; there are batch_norm"),
        ("layer_norm 4x4 f16", "'4x4' stands where the network's name belongs"),
        ("layer_norm bert 4x0", "no shape '4x0'"),
        ("layer_norm bert 4x-1", "no shape"),
        ("layer_norm bert 4x²", "no shape"),
        ("layer_norm bert 4", "1 axes in '4'; there may be 2 to 5"),
        ("batch_norm r 1x2x3x4:nhcw", "no layout 'nhcw' of 4 axes; there is nchw and nhwc"),
        ("batch_norm r 1x2x3x4 memory=nchw", "memory=nchw is what nchw means already"),
        ("batch_norm r 1x2x3x4 memory=ncl", "no layout 'ncl'"),
        ("group_norm sd 1x4x8x8", "a group norm needs groups=N"),
        ("group_norm sd 1x4x8x8 groups=3", "groups=3 does not divide the 4 channels"),
        ("group_norm sd 1x4x8x8 groups", "groups=groups does not divide"),
        ("layer_norm bert 4x4 groups=2", "groups= is for group_norm, not for layer_norm"),
        ("layer_norm bert 4x4 training", "training is for batch_norm, not for layer_norm"),
        ("batch_norm r 4x4 training=yes", "'training' takes no value; 'yes' was given"),
        ("batch_norm r 4x4 plain=1", "'plain' takes no value"),
        ("batch_norm r 4x4 f16=1", "a dtype takes no value"),
        ("batch_norm r 4x4 f16 bf16", "'bf16': a dtype was given before"),
        ("batch_norm r 4x4 fp16", "no option 'fp16'; there are groups=N, training"),
    ],
)
def test_bad_problem_is_explained(text: str, reason: str) -> None:
    with pytest.raises(ProblemError, match=f"^{re.escape(repr(text))}: .*{re.escape(reason)}"):
        parse(text)


def test_lists_cover_what_a_network_meets() -> None:
    assert len(LISTED) == len(set(LISTED))
    assert {p.operation for p in LISTED} == set(OPERATIONS)
    for operation in FORWARD:
        mine = [p.case for p in LISTED if p.case.operation == operation]
        assert {case.dtype for case in mine} == {"float32", "float64", "float16", "bfloat16"}
    assert {p.memory for p in LISTED if p.memory != p.case.layout} == {"NHWC"}
    names = "resnet50 densenet121 bert-base whisper vit llama-7b qwen-0.5b convnext unet"
    assert set(names.split()) < set(lists())


def test_shapes_are_lists_problems_or_parts() -> None:
    assert tuple(select(["vit"])) == lists()["vit"]
    assert list(map(str, select(["rms_norm own 3x5"]))) == ["rms_norm own 3x5"]
    inference = "batch_norm resnet50 32x64x56x56"
    assert list(map(str, select([inference]))) == [inference]
    assert set(select(["64x56x56"])) == {p for p in LISTED if "64x56x56" in str(p)}
    assert tuple(select(["vit", "layer_norm vit-b16 32x197x768"])) == lists()["vit"]
    assert select() == LISTED


def test_backwards_are_chosen_by_a_word() -> None:
    assert set(select(["backward"])) == {p for p in LISTED if p.backward}
    assert {p.operation for p in select(["backward"])} == set(BACKWARD)
    # Only of networks that are trained by what is listed, and with the forward beside it.
    forward = {str(p) for p in LISTED if not p.backward}
    others = [p for p in select(["backward"]) if p.case.layer != "digits"]
    assert all(str(p).replace("_backward", "") in forward for p in others)


def test_operations_are_chosen_from_shapes() -> None:
    assert {p.operation for p in select([], ["rms_norm"])} == {"rms_norm"}
    mine = select(["resnet50"], ["batch_norm_backward"])
    assert {p.operation for p in mine} == {"batch_norm_backward"}
    small = select(["decoding"], ["group_norm", "instance_norm"])
    assert [p.case.operation for p in small] == ["group_norm", "instance_norm"]


@pytest.mark.parametrize(
    ("shapes", "operations", "reason"),
    [
        (["restnet50"], [], "did you mean 'resnet50'?"),
        (["nothing like it"], [], "no list and no part of a listed problem"),
        ([" "], [], "no list"),
        (["layer_norm own 3xx5"], [], "no shape '3xx5'"),
        (["vit"], ["rms_norm"], "none of these problems is one of rms_norm"),
        ([], ["rms-norm"], "no operation 'rms-norm'"),
    ],
)
def test_bad_choice_is_explained(shapes: list[str], operations: list[str], reason: str) -> None:
    with pytest.raises(ProblemError, match=re.escape(reason)):
        select(shapes, operations)
