"""The processor's rounding mode and treatment of subnormals, as a host application may set them."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import mmap
import platform
from collections.abc import Callable, Iterator

import pytest

# For each machine: code that loads the control register from where its argument points to, code
# that stores it there, the bits that are settings, and those that make subnormals zero.
MACHINES = {
    "x86_64": (
        bytes.fromhex("0fae17 c3"),  # ldmxcsr (%rdi); ret
        bytes.fromhex("0fae1f c3"),  # stmxcsr (%rdi); ret
        0xFFC0,
        0x8040,
    ),
    "aarch64": (
        bytes.fromhex("010040b9 01441bd5 c0035fd6"),  # ldr w1, [x0]; msr fpcr, x1; ret
        bytes.fromhex("01443bd5 010000b9 c0035fd6"),  # mrs x1, fpcr; str w1, [x0]; ret
        0xFFFFFFFF,
        0x01080000,
    ),
}
ROUNDING = {
    "x86_64": {"downwards": 0x400, "upwards": 0x800, "towards zero": 0xC00},
    "aarch64": {"downwards": 0x800000, "upwards": 0x400000, "towards zero": 0xC00000},
}
MACHINE = platform.machine()
CHANGES = ("downwards", "upwards", "towards zero", "subnormals flushed")


class Environment:
    """The settings of the thread that calls."""

    def __init__(self) -> None:
        if MACHINE not in MACHINES:
            pytest.skip(f"the control register of {MACHINE} is not known here")
        self.library = ctypes.CDLL(ctypes.util.find_library("m"))
        load, store, self.mask, self.flush = MACHINES[MACHINE]
        try:
            self.memory = mmap.mmap(
                -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            )
        except OSError as error:
            pytest.skip(f"this system allows no memory for own machine code: {error}")
        self.memory.write(load.ljust(64, b"\0") + store)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.load = self.function(address)
        self.store = self.function(address + 64)

    @staticmethod
    def function(address: int) -> Callable[[ctypes.c_uint32], None]:
        call = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(address)
        return lambda word: call(ctypes.byref(word))

    def settings(self) -> tuple[int, int]:
        """The rounding mode as the C library has it, and the control register's settings."""
        word = ctypes.c_uint32()
        self.store(word)
        return self.library.fegetround(), word.value & self.mask

    @contextlib.contextmanager
    def changed(self, name: str) -> Iterator[None]:
        """One setting changed; it is as it was afterwards."""
        before = ctypes.c_uint32()
        self.store(before)
        rounding = self.library.fegetround()
        try:
            if name in ROUNDING[MACHINE]:
                assert self.library.fesetround(ROUNDING[MACHINE][name]) == 0
            else:
                self.load(ctypes.c_uint32(before.value | self.flush))
            yield
        finally:
            self.library.fesetround(rounding)
            self.load(before)
