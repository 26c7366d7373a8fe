"""Take every path in a Python thread with a stack of 64 KiB: python small_stack.py THREADS

Everything was called once in the main thread before, so that what is on the small stack is a call
and not an import. The last line on standard error is the path that was taken last.
"""

from __future__ import annotations

import sys
import threading

from helpers import DTYPES, OPERATIONS
from paths import SIZES, THREADED_SIZES, VARIANTS, Path, paths
from schedules import use_schedule

import fastnorm
from fastnorm import _core


def take(calls: list[Path], where: str) -> None:
    for call in calls:
        print(where, call.op.name, call.x.dtype, call.name, file=sys.stderr)
        call.outcome()


def take_on_every_tier(calls: list[Path]) -> None:
    for isa in fastnorm.config()["isa_available"]:
        _core.use_isa(isa)
        for schedule in ("plain", "streamed"):
            use_schedule(schedule)
            take(calls, f"{isa} {schedule}")
    use_schedule("usual")
    print("every path was taken")


def main() -> None:
    threads = int(sys.argv[1])
    fastnorm.set_num_threads(threads)
    one = (SIZES, VARIANTS)
    several = (THREADED_SIZES, VARIANTS[:1])
    which = one if threads == 1 else several
    calls = [path for op in OPERATIONS for d in DTYPES.values() for path in paths(op, d, *which)]
    take(calls, "main thread")
    threading.stack_size(64 * 1024)
    thread = threading.Thread(target=take_on_every_tier, args=(calls,))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
