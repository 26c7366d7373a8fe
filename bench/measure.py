"""Measure a problem: fastnorm, the moves and the others, checked and then timed in turn."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench.clock import Contender, interleave
from bench.peers import Bound, Peer, UnsupportedError
from bench.shapes import Problem
from bench.work import Call, Outputs, Work
from fastnorm import _core

TOLERANCES = {"float64": 1e-5, "float32": 1e-3, "float16": 1e-2, "bfloat16": 6e-2}
"""Most that another's result y may differ from fastnorm's, in units of 1 + |y|; where it is a sum
of n terms, of √n + |y|. Enough for arithmetic in half precision, not for another formula."""


def load_baseline(site_packages: str) -> ModuleType:
    """Import another build of fastnorm, in a folder of that name there, beside this one."""
    folder = Path(site_packages) / "fastnorm"
    if not folder.is_dir():
        raise ValueError(f"baseline: got {site_packages}; takes a folder that has one of fastnorm")
    loader = SourceFileLoader("fastnorm_baseline", str(folder / "__init__.py"))
    spec = ModuleSpec(loader.name, loader, is_package=True)
    # Its modules import each other relative to this name, and so does its compiled one.
    spec.submodule_search_locations = [str(folder)]
    module = sys.modules[spec.name] = module_from_spec(spec)
    loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Session:
    """How to measure.

    Each contender has so many seconds; `features` are the switches of the schedule that are tried
    off; `quick` cuts the arrays down and takes no time.
    """

    peers: Mapping[str, Peer]
    seconds: float
    outputs: Sequence[str] = ("given",)
    baseline: ModuleType | None = None
    features: Mapping[str, int] = field(default_factory=dict)
    quick: bool = False

    def measure(self, problem: Problem) -> dict[str, Any]:
        """Check and time everyone on one problem; return what goes into the run's JSON."""
        work = Work.of(problem.shrunk(2**14) if self.quick else problem)
        calls: dict[str, Call] = work.moves(self.outputs[0]) if problem.is_array else {}
        # Calls are compared with peers without `out`.
        outputs = dict.fromkeys((*self.outputs, *(() if problem.is_array else ("new",))))
        calls |= {named("fastnorm", output): work.call(output) for output in outputs}
        others = {name: partial(peer.bind, work) for name, peer in self.peers.items()}
        if self.baseline is not None:
            for output in outputs:
                others[named("baseline", output)] = partial(_rebuilt, self.baseline, output, work)

        expected = tuple(array.copy() for array in work.outputs(work.call()()))
        left_out = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, bind in others.items():
                try:
                    calls[name] = _checked(bind, work, expected)
                except UnsupportedError as reason:
                    left_out[name] = str(reason)
                except Exception as error:
                    # Whatever a library does with a shape that it cannot handle.
                    first = (str(error).strip().splitlines() or [""])[0]
                    left_out[name] = f"{type(error).__name__}: {first[:150]}"
            usual = work.call(self.outputs[0] if problem.is_array else "new")
            contenders = self._contenders(calls, usual)
            timings = interleave(contenders, 0.0 if self.quick else self.seconds)
        return {"problem": asdict(problem), "seconds": timings, "left_out": left_out}

    def _contenders(self, calls: Mapping[str, Call], ours: Call) -> dict[str, Contender]:
        """Return the contenders; among them fastnorm without each feature, and without all."""
        if not self.features:
            return {name: Contender(call) for name, call in calls.items()}
        use = getattr(_core, "use_features", bool)
        masks = {f"without {name}": ~bit for name, bit in self.features.items()}
        found = {name: Contender(call, partial(use, -1)) for name, call in calls.items()}
        for name, mask in {**masks, "without all": 0}.items():
            found[name] = Contender(ours, partial(use, mask))
        return found


def named(who: str, output: str) -> str:
    """Return the name of a contender that writes into an output: the given one is not said."""
    return who if output == "given" else f"{who} {output}"


def _rebuilt(library: ModuleType, output: str, work: Work) -> Bound:
    return Bound(work.call(output, library), work.outputs)


def _checked(bind: Callable[[], Bound], work: Work, expected: Outputs) -> Call:
    """Return the call of another after seeing that its results are the expected ones."""
    bound = bind()
    work.out[...] = np.nan
    found = bound.outputs(bound.call())
    if len(found) != len(expected):
        raise UnsupportedError(f"it has {len(found)} results instead of {len(expected)}")
    names = ("result", "gradient of the weight", "gradient of the bias")
    for index, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
        # A sum of n terms of either sign is about √n; libraries differ in its dtype.
        unit = math.sqrt(found[0].size / ours.size) if index else 1.0
        if theirs.shape != ours.shape or (index == 0 and theirs.dtype != ours.dtype):
            raise UnsupportedError(f"its {names[index]} is {theirs.shape} {theirs.dtype}")
        wide = ours.astype(np.float64)
        difference = (np.abs(theirs.astype(np.float64) - wide) / (unit + abs(wide))).max()
        if not difference <= TOLERANCES[work.problem.dtype]:
            raise UnsupportedError(f"its {names[index]} differs by {difference:.1g}")
    return bound.call
