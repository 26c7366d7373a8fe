"""torch.compile of the same functions."""

from __future__ import annotations

import os
import shutil
from functools import partial

from bench.peers import Bound, UnsupportedError, torch_backward
from bench.peers.eager_torch import Torch
from bench.work import Work


class CompiledTorch(Torch):
    """torch's functions, compiled for the one shape before they are timed."""

    note = (
        "makes a new output in each call; compiled beforehand, for the one shape; backward: "
        "autograd.grad of a compiled forward that was done before"
    )

    def __init__(self) -> None:
        # Workers that compile in the background would still be there when times are taken.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        super().__init__()
        self._last: Work | None = None

    def bind(self, work: Work, threads: int) -> Bound:
        """Compile, and return the compiled call."""
        self.use_threads(threads)
        if work is not self._last:
            # Otherwise all shapes count as versions of one function, of which torch keeps eight.
            self.torch._dynamo.reset()
            self._last = work
        function, arguments = self.function(work)
        function = self.torch.compile(function, dynamic=False, fullgraph=True)
        if work.problem.backward:
            # A graph whose backward is done many times may not give its memory away.
            with self.torch._functorch.config.patch(donated_buffer=False):
                function, arguments = torch_backward.autograd(self, work, function, arguments)
                call = partial(function, *arguments)
                call()
        else:
            call = partial(function, *arguments)
            call()
        return Bound(call, partial(self.outputs, work))


def make(threads: int) -> CompiledTorch:
    """Return the peer, if there is the compiler that it needs."""
    peer = CompiledTorch()
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UnsupportedError("it needs a C++ compiler")
    peer.use_threads(threads)
    return peer
