"""Problems as one line of text: the grammar, the lists in ``shapes/``, and choosing among them.

``operation network shape[:layout] [option ...]``, where a backward is an operation of its own:
``layer_norm_backward bert 4096x768``. See ``README.md``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import get_args

from fastnorm._demo import Case, DType, Operation, scalar_type

FORWARD: tuple[Operation, ...] = get_args(Operation)

_BACKWARD = "_backward"
BACKWARD = tuple(operation + _BACKWARD for operation in FORWARD)

OPERATIONS = (*FORWARD, *BACKWARD)
"""What the first word of a problem may be."""

_DTYPES: Mapping[str, DType] = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
}
_SHORT_DTYPES: Mapping[DType, str] = {name: short for short, name in _DTYPES.items()}

_FIRST = {2: "nc", 3: "ncl", 4: "nchw", 5: "ncdhw"}
_LAST = {2: "nc", 3: "nlc", 4: "nhwc", 5: "ndhwc"}

_LISTS = Path(__file__).with_name("shapes")


class ProblemError(ValueError):
    """A problem that is not understood, and why."""


@dataclass(frozen=True)
class Problem:
    """One normalisation, or the backward of one, to measure.

    Parameters
    ----------
    case : Case
        Operation, network, shape, layout, dtype, groups, and whether statistics are those of the
        batch.
    memory : str
        Order of the axes in memory; the layout of the case, or else the array is a transposed view.
    affine : bool
        Whether there are a weight and a bias.
    backward : bool
        Whether gradients are computed, of the case's operation.
    """

    case: Case
    memory: str
    affine: bool = True
    backward: bool = False

    def __str__(self) -> str:
        """Write the problem as `parse` reads it."""
        case = self.case
        layout = case.layout.lower()
        shape = "x".join(map(str, case.shape))
        if layout != _default_layout(case.operation, len(case.shape)):
            shape += f":{layout}"
        words = [self.operation, case.layer, shape]
        if case.operation == "group_norm":
            words.append(f"groups={case.num_groups}")
        if case.training:
            words.append("training")
        if self.memory != case.layout:
            words.append(f"memory={self.memory.lower()}")
        if not self.affine:
            words.append("plain")
        if case.dtype != "float32":
            words.append(_SHORT_DTYPES[case.dtype])
        return " ".join(words)

    @property
    def operation(self) -> str:
        """The first word: one of `OPERATIONS`."""
        return self.case.operation + (_BACKWARD if self.backward else "")

    @property
    def nbytes(self) -> int:
        """Bytes of the input, and of the output, and of each one's gradient."""
        return math.prod(self.case.shape) * scalar_type(self.case.dtype).itemsize

    @property
    def axes(self) -> tuple[int, ...]:
        """Where in memory the axes of the case's layout are."""
        return tuple(map(self.memory.index, self.case.layout))

    @property
    def memory_case(self) -> Case:
        """The case in the order of memory."""
        shape = tuple(self.case.shape[self.case.layout.index(axis)] for axis in self.memory)
        return replace(self.case, shape=shape, layout=self.memory)

    @property
    def normalised_axes(self) -> tuple[int, ...]:
        """The axes in memory that a statistic covers, but for a group's channels."""
        channel = self.memory.index("C")
        if self.case.operation in ("layer_norm", "rms_norm"):
            return (channel,)
        first = 0 if self.case.operation == "batch_norm" else 1
        return tuple(axis for axis in range(first, len(self.memory)) if axis != channel)

    def shrunk(self, elements: int) -> Problem:
        """Return the problem with at most about `elements` elements and as many channels."""
        return replace(self, case=self.case.shrunk(elements))


def parse(text: str) -> Problem:
    """Read a problem.

    Parameters
    ----------
    text : str
        As in ``batch_norm resnet50 32x64x56x56 training`` or
        ``group_norm sd 2x64x64x320:nhwc groups=32 bf16``.

    Raises
    ------
    ProblemError
        If it is not one; the message says which word is wrong, and what it could be.
    """
    words = text.split()
    try:
        return _from_words(words)
    except ProblemError as error:
        raise ProblemError(f"{text.strip()!r}: {error}") from None


def _from_words(words: Sequence[str]) -> Problem:
    if len(words) < 3:
        raise ProblemError("write operation, network and shape, as in 'layer_norm bert 4096x768'")
    word, network, dimensions, *options = words
    if word not in OPERATIONS:
        raise ProblemError(f"no operation {word!r}; there are {', '.join(OPERATIONS)}")
    backward = word in BACKWARD
    operation = FORWARD[(BACKWARD if backward else FORWARD).index(word)]
    if "=" in network or _sizes(network.partition(":")[0]):
        raise ProblemError(f"{network!r} stands where the network's name belongs, before the shape")

    numbers, colon, layout = dimensions.partition(":")
    shape = _sizes(numbers)
    if not shape:
        raise ProblemError(f"no shape {numbers!r}; write positive numbers, as in 32x64x56x56")
    if len(shape) not in _FIRST:
        raise ProblemError(f"{len(shape)} axes in {numbers!r}; there may be 2 to 5")
    layout = _layout(layout, len(shape)) if colon else _default_layout(operation, len(shape))
    problem = Problem(
        Case(operation, network, shape, layout.upper()),
        memory=layout.upper(),
        backward=backward,
    )
    seen: set[str] = set()
    for option in options:
        name, equals, value = option.partition("=")
        kind = "dtype" if name in _DTYPES else name
        if kind in seen:
            raise ProblemError(f"{option!r}: a {kind} was given before")
        seen.add(kind)
        if kind not in _OPTIONS:
            raise ProblemError(f"no option {option!r}; there are {', '.join(_KNOWN_OPTIONS)}")
        problem = _OPTIONS[kind](problem, value if equals else name)
    if operation == "group_norm" and "groups" not in seen:
        raise ProblemError("a group norm needs groups=N")
    return problem


def _sizes(text: str) -> tuple[int, ...]:
    """Return the numbers of ``4096x768``; nothing if that is not what it is."""
    parts = text.split("x")
    good = all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts)
    return tuple(map(int, parts)) if good else ()


def _default_layout(operation: Operation, rank: int) -> str:
    return (_LAST if operation in ("layer_norm", "rms_norm") else _FIRST)[rank]


def _layout(name: str, rank: int) -> str:
    choices = list(dict.fromkeys((_FIRST[rank], _LAST[rank])))
    if name not in choices:
        raise ProblemError(f"no layout {name!r} of {rank} axes; there is {' and '.join(choices)}")
    return name


def _groups(problem: Problem, value: str) -> Problem:
    case = problem.case
    channels = case.shape[case.channel_axis]
    if case.operation != "group_norm":
        raise ProblemError(f"groups= is for group_norm, not for {case.operation}")
    if not value.isdigit() or int(value) == 0 or channels % int(value):
        raise ProblemError(f"groups={value} does not divide the {channels} channels")
    return replace(problem, case=replace(case, num_groups=int(value)))


def _training(problem: Problem, value: str) -> Problem:
    if value != "training":
        raise ProblemError(f"'training' takes no value; {value!r} was given")
    if problem.case.operation != "batch_norm":
        raise ProblemError(f"training is for batch_norm, not for {problem.case.operation}")
    return replace(problem, case=replace(problem.case, training=True))


def _memory(problem: Problem, value: str) -> Problem:
    memory = _layout(value, len(problem.case.shape)).upper()
    if memory == problem.case.layout:
        raise ProblemError(f"memory={value} is what {problem.case.layout.lower()} means already")
    return replace(problem, memory=memory)


def _plain(problem: Problem, value: str) -> Problem:
    if value != "plain":
        raise ProblemError(f"'plain' takes no value; {value!r} was given")
    return replace(problem, affine=False)


def _dtype(problem: Problem, value: str) -> Problem:
    if value not in _DTYPES:
        raise ProblemError(f"a dtype takes no value; {value!r} was given")
    return replace(problem, case=replace(problem.case, dtype=_DTYPES[value]))


_OPTIONS: Mapping[str, Callable[[Problem, str], Problem]] = {
    "groups": _groups,
    "training": _training,
    "memory": _memory,
    "plain": _plain,
    "dtype": _dtype,
}


_KNOWN_OPTIONS = ("groups=N", "training", "memory=LAYOUT", "plain", *_DTYPES)


@cache
def lists() -> Mapping[str, tuple[Problem, ...]]:
    """Return the lists of ``shapes/`` by name, each in its order."""
    found = {}
    for path in sorted(_LISTS.glob("*.txt")):
        lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
        found[path.stem] = tuple(parse(line) for line in lines if line)
    return found


def select(wanted: Iterable[str] = (), operations: Iterable[str] = ()) -> list[Problem]:
    """Choose problems.

    Parameters
    ----------
    wanted : iterable of str
        Each is the name of a list, a problem, or a part of a listed problem's text; all lists if
        there is none.
    operations : iterable of str
        Only these operations; all if there is none.

    Returns
    -------
    list of Problem
        Each once, in the order in which it was asked for.

    Raises
    ------
    ProblemError
        If one of `wanted` is nothing, or nothing is left.
    """
    listed = [problem for problems in lists().values() for problem in problems]
    found: list[Problem] = []
    for word in wanted:
        found += _wanted(word.strip(), listed)
    chosen = set(operations)
    unknown = chosen - set(OPERATIONS)
    if unknown:
        raise ProblemError(f"no operation {min(unknown)!r}; there are {', '.join(OPERATIONS)}")
    problems = [
        problem
        for problem in dict.fromkeys(found or listed)
        if not chosen or problem.operation in chosen
    ]
    if not problems:
        raise ProblemError(f"none of these problems is one of {', '.join(sorted(chosen))}")
    return problems


def _wanted(word: str, listed: Sequence[Problem]) -> Sequence[Problem]:
    if word in lists():
        return lists()[word]
    refusal = ""
    if word.partition(" ")[0] in OPERATIONS and " " in word:
        try:
            return [parse(word)]
        except ProblemError as error:
            refusal = str(error)
    matches = [problem for problem in listed if word in str(problem)]
    if word and matches:
        return matches
    near = difflib.get_close_matches(word, lists(), n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise ProblemError(
        refusal
        or f"{word!r} is no list and no part of a listed problem{guess} "
        f"(lists: {', '.join(lists())}; a problem of your own begins with an operation)"
    )
