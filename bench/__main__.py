"""Time fastnorm against copies, other libraries and another build of it: ``python -m bench``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastnorm
from bench.judge import read
from bench.machine import cache_bytes, describe
from bench.measure import Session, load_baseline
from bench.peers import PEERS, keep_freed_memory, load
from bench.shapes import OPERATIONS, OUTPUTS, select
from fastnorm import _core


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark: print a line for each problem, and write the JSON."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(words)
    try:
        problems = select(options.shapes or options.ablate * ["representative"], options.ops)
        processors = len(os.sched_getaffinity(0))
        if not 1 <= options.threads <= processors:
            raise ValueError(f"threads: got {options.threads}; takes 1 to {processors} here")
        fastnorm.set_num_threads(options.threads)
        _core.use_isa(options.isa)
        baseline = None
        if options.baseline is not None:
            baseline = load_baseline(options.baseline)
            baseline.set_num_threads(options.threads)
            baseline._core.use_isa(options.isa)
        switches = getattr(_core, "features", None)
        if options.ablate and switches is None:
            raise ValueError("ablate: this build of fastnorm has no features to switch off")
    except ValueError as refusal:
        parser.error(str(refusal))

    keep_freed_memory()
    peers, skipped = load([n for n in options.peers if n != "none"], options.threads)
    features = switches() if options.ablate and switches is not None else {}
    outputs = [output for output in OUTPUTS if output in options.out]
    session = Session(peers, options.seconds, outputs, baseline, features, options.quick)
    run: dict[str, Any] = {
        # Paths without their folders.
        "command": shlex.join(["python", "-m", "bench", *(Path(word).name for word in words)]),
        "quick": options.quick,
        "threads": options.threads,
        "machine": describe(dict.fromkeys(v for peer in peers.values() for v in peer.versions)),
        "l2": cache_bytes(2),
        "peers": {name: peer.note for name, peer in peers.items()},
        "skipped": skipped,
        "measured": [],
    }
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}")
    for problem in problems:
        run["measured"].append(session.measure(problem))
        print(read(run)[-1], flush=True)
        if options.json is not None:
            # After each problem, so that an interrupted run is a run.
            Path(options.json).write_text(json.dumps(run, indent=1) + "\n", "utf-8")
    if options.quick:
        print("A trial run on small arrays: its times mean nothing.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--shapes", nargs="+", default=[], metavar="S", help="lists, or parts of problems' text")
    add("--ops", nargs="+", default=[], choices=OPERATIONS, metavar="OP", help="only these")
    add("--peers", nargs="+", default=list(PEERS), choices=[*PEERS, "none"], metavar="PEER")
    add("--threads", type=int, default=fastnorm.get_num_threads(), metavar="N")
    config = fastnorm.config()
    add("--isa", default=config["isa"], choices=config["isa_available"], help="instruction set")
    add("--seconds", type=float, default=0.3, metavar="S", help="for each contender and problem")
    add("--out", nargs="+", default=["given"], choices=OUTPUTS)
    add("--baseline", metavar="PATH", help="site-packages with another build of fastnorm")
    add("--ablate", action="store_true", help="without each feature of the schedule, in turn")
    add("--quick", action="store_true", help="small arrays, no time: shows that all of it runs")
    add("--json", metavar="FILE", help="write the times; python -m bench.judge reads them")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
