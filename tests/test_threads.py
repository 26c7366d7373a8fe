"""Numbers of threads, the environment, forks, and calls from several threads at once."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import threadpoolctl
from helpers import OPERATIONS, assert_same_bits, normal
from schedules import schedules

import fastnorm

needs_openmp = pytest.mark.skipif(
    not fastnorm.config()["openmp"], reason="built without OpenMP: there is one thread"
)
LARGE = (64, 100_000)


def run(script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new interpreter that finds the same fastnorm as this one."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "KMP_", "FASTNORM_"))
    }
    inherited["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output(script: str, *options: str, **environment: str) -> str:
    done = run(script, *options, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_config():
    config = fastnorm.config()
    assert {"version", "isa", "isa_available", "openmp", "num_threads", "compiler"} <= set(config)
    assert config["isa"] in config["isa_available"]
    assert isinstance(config["openmp"], bool)
    assert config["num_threads"] == fastnorm.get_num_threads()


def test_show_config(capsys):
    assert fastnorm.show_config() is None
    shown = capsys.readouterr().out
    assert fastnorm.config()["isa"] in shown
    assert fastnorm.config()["version"] in shown


# --- numbers of threads -------------------------------------------------------------------


@needs_openmp
def test_the_number_that_was_set():
    for n in (1, 2, 7, np.int64(3), 1000):
        assert fastnorm.set_num_threads(n) is None
        assert fastnorm.get_num_threads() == n
        assert fastnorm.config()["num_threads"] == n


@pytest.mark.skipif(fastnorm.config()["openmp"], reason="built with OpenMP")
def test_there_is_one_thread_without_openmp():
    fastnorm.set_num_threads(3)
    assert fastnorm.get_num_threads() == 1


@needs_openmp
def test_the_number_is_the_whole_process_s():
    fastnorm.set_num_threads(1)
    thread = threading.Thread(target=fastnorm.set_num_threads, args=(3,))
    thread.start()
    thread.join()
    assert fastnorm.get_num_threads() == 3


def test_more_threads_than_work(rng):
    x = normal(rng, (3, 40_000))
    fastnorm.set_num_threads(1)
    expected = fastnorm.layer_norm(x)
    fastnorm.set_num_threads(100)
    for schedule in schedules():
        assert_same_bits(fastnorm.layer_norm(x), expected, schedule)


@needs_openmp
@pytest.mark.parametrize("n", [1, 3])
def test_omp_num_threads(n):
    script = "import fastnorm; print(fastnorm.get_num_threads())"
    assert output(script, OMP_NUM_THREADS=str(n)) == str(n)


@needs_openmp
def test_threadpoolctl():
    """Limits hold while they last, also over a larger number that was set."""
    script = """
        import fastnorm, threadpoolctl
        numbers = [fastnorm.get_num_threads()]
        with threadpoolctl.threadpool_limits(1):
            numbers.append(fastnorm.get_num_threads())
        with threadpoolctl.threadpool_limits(2, user_api="openmp"):
            numbers.append(fastnorm.get_num_threads())
        numbers.append(fastnorm.get_num_threads())
        fastnorm.set_num_threads(3)
        with threadpoolctl.threadpool_limits(1):
            numbers.append(fastnorm.get_num_threads())
        numbers.append(fastnorm.get_num_threads())
        print(*numbers)
    """
    assert output(script, OMP_NUM_THREADS="4") == "4 1 2 4 1 3"


@needs_openmp
def test_openmp_s_own_number_is_left_alone(rng):
    def of_openmp() -> list[int]:
        pools = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in pools if pool["user_api"] == "openmp"]

    x = normal(rng, LARGE)
    before = of_openmp()
    assert before
    fastnorm.set_num_threads(5)
    fastnorm.layer_norm(x)
    assert of_openmp() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_cpu_affinity():
    pin = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    for script in (
        f"import os; {pin}; import fastnorm; print(fastnorm.get_num_threads())",
        f"import os, fastnorm; {pin}; print(fastnorm.get_num_threads())",
    ):
        assert output(script) == "1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork():
    """A child has none of its parent's threads: it must not wait for them."""
    script = f"""
        import os, signal
        import numpy as np
        import fastnorm

        x = np.random.default_rng(0).standard_normal({LARGE}, dtype=np.float32)
        fastnorm.set_num_threads(2)
        threads = fastnorm.get_num_threads()
        expected = fastnorm.layer_norm(x)
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that hangs
            alone = fastnorm.get_num_threads() == 1
            same = fastnorm.layer_norm(x).tobytes() == expected.tobytes()
            os._exit(0 if alone and same else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert fastnorm.get_num_threads() == threads
        assert fastnorm.layer_norm(x).tobytes() == expected.tobytes()
    """
    # Python warns of forks in processes with threads, which is what this is about.
    assert output(script, "-W", "ignore::DeprecationWarning") == "0"


# --- tiers --------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", fastnorm.config()["isa_available"])
def test_fastnorm_isa(isa):
    assert output("import fastnorm; print(fastnorm.config()['isa'])", FASTNORM_ISA=isa) == isa


def test_fastnorm_isa_empty_means_the_best():
    best = fastnorm.config()["isa_available"][0]
    assert output("import fastnorm; print(fastnorm.config()['isa'])", FASTNORM_ISA="") == best
    assert output("import fastnorm; print(fastnorm.config()['isa'])") == best


def test_fastnorm_isa_that_is_not_there():
    names = {"x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64", "generic", "avx2"}
    for name in sorted(names - set(fastnorm.config()["isa_available"])):
        done = run("import fastnorm", FASTNORM_ISA=name)
        assert done.returncode != 0
        message = done.stderr.strip().splitlines()[-1]
        assert "ImportError" in message
        for word in ("FASTNORM_ISA", name, *fastnorm.config()["isa_available"]):
            assert word in message


# --- several Python threads ---------------------------------------------------------------


def test_calls_at_the_same_time(rng):
    """More callers than cores, each with threads of its own, all doing different work."""
    fastnorm.set_num_threads(2)
    calls = []
    for op in OPERATIONS:
        for shape in ((4, 6, 35), (16, 32, 300), (2, 130, 1500)):
            x = normal(rng, shape, mean=2)
            calls.append((op, x, op.arguments(x, rng)))
    expected = [op(x, **arguments) for op, x, arguments in calls]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            futures = [pool.submit(op, x, **arguments) for op, x, arguments in calls]
            for (op, *_), future, result in zip(calls, futures, expected, strict=True):
                assert_same_bits(future.result(), result, op.name)


def test_the_gil_is_released(rng):
    """Another Python thread gets to run during a call.

    No thread is asked to give up the interpreter for being slow, so the other one can run only
    when a call lets go. One call may be over before the other has woken, a hundred are not.
    """
    x = normal(rng, (1000, 4096))
    out = np.empty_like(x)
    fastnorm.set_num_threads(1)
    ticks, stop = 0, False

    def tick():
        nonlocal ticks
        while not stop:
            ticks += 1
            time.sleep(1e-5)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=tick)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        before = after = ticks
        for _ in range(100):
            before = ticks
            fastnorm.layer_norm(x, out=out)
            after = ticks
            if after > before:
                break
    finally:
        stop = True
        sys.setswitchinterval(interval)
        thread.join()
    assert after > before
