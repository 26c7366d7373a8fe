"""What runs, and on how many threads."""

from __future__ import annotations

from typing import Any

from . import _core


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call may use, for the whole process.

    Parameters
    ----------
    n : int
        1 or more. A limit set by ``threadpoolctl.threadpool_limits`` still holds.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not a positive integer.

    Notes
    -----
    Without this, calls use what OpenMP would (``OMP_NUM_THREADS``), but no more threads than the
    processors that the process may run on. Small arrays are always done by one thread. The number
    of threads never changes a bit of any result.

    Examples
    --------
    >>> import fastnorm
    >>> before = fastnorm.get_num_threads()
    >>> fastnorm.set_num_threads(1)
    >>> fastnorm.get_num_threads()
    1
    >>> fastnorm.set_num_threads(before)
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that a call may use now.

    Returns
    -------
    int
        1 in a build without OpenMP, and in a forked child process, whose copy of the OpenMP
        runtime has lost its threads.

    Examples
    --------
    >>> import fastnorm
    >>> fastnorm.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def config() -> dict[str, Any]:
    """What this installation is and uses.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction set in use, and ``isa_available``, those that this
        processor could use (``FASTNORM_ISA`` chooses one at import); ``openmp``, whether this build
        has threads; ``num_threads``, how many a call may use now; ``compiler``.

    Examples
    --------
    >>> import fastnorm
    >>> sorted(fastnorm.config())
    ['compiler', 'isa', 'isa_available', 'num_threads', 'openmp', 'version']
    """
    return {**_core.build(), "num_threads": _core.get_num_threads()}


def show_config() -> None:
    """Print `config`, a line for each entry."""
    for name, value in config().items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        print(f"{name + ':':<15}{shown}")
