"""The processor that NumPy computes on: the cores that this process may use, and memory that is used again.

What a platform does not tell is unknown, and nothing here raises for it.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

from . import backend

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # the M_* constants of malloc.h
# Bytes of freed memory that a process may keep after a block of `freed_memory_kept`. It is as much as glibc comes to
# keep by itself: twice its largest threshold for arrays that get pages of their own.
KEPT = 2 * 32 * 2**20
_keepers = 0  # how many blocks of `freed_memory_kept` are running, in all threads
_base: float | None = None  # `_idle_bytes` when free memory was last given back: programs, libraries, Python's own
_lock = Lock()


def cores() -> int:
    """The number of cores that this process may use, at least 1.

    A container often may run on every core of its host, for a part of the time only: 64 threads on a quota of 2 cores
    were four times slower than 2 threads. So the smaller one of affinity and quota counts.
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # absent from macOS
        with suppress(OSError):
            count = len(os.sched_getaffinity(0))
    return max(1, min([count, *map(math.ceil, _quotas())]))


def _quotas() -> list[float]:
    """Cores that the control groups of this process grant it."""
    quotas = []
    for folder, version in control_groups("cpu"):
        if version == 1:
            numbers = [read(f"{folder}/cpu.cfs_{part}_us") or "" for part in ("quota", "period")]
        else:
            numbers = (read(f"{folder}/cpu.max") or "max 1").split()
        with suppress(ValueError, ZeroDivisionError):  # "max", or a file that is not there: no quota
            quotas.append(int(numbers[0]) / int(numbers[1]))
    return [quota for quota in quotas if quota > 0]  # version 1 writes -1 for none


def control_groups(controller: str) -> Iterator[tuple[PurePosixPath, int]]:
    """The folders of this process's control group and of all groups around it (Linux), each with its version, 1 or 2.

    controller: what the groups limit, "cpu" or "memory"
    """
    for controllers, name in re.findall(r"^\d+:(.*?):(/.*)$", read("/proc/self/cgroup") or "0::/", re.MULTILINE):
        if controllers and controller not in controllers.split(","):
            continue
        top = PurePosixPath("/sys/fs/cgroup", controller if controllers else "")
        inner = top / name.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            yield folder, 1 if controllers else 2


def read(path: str) -> str | None:
    """The text of a file of the system; None where there is no such file, or no right to read it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the `with` block, new arrays take the memory of freed ones, and no fresh pages from the kernel.

    A training step frees and allocates the same sizes again and again, and fresh pages cost it 10 to 60 %. At the end
    of the outermost block, if more than KEPT bytes are free, all that is free goes back to the system; so it does after
    the first block of all. This is a setting of glibc: with another C library, and with CuPy, nothing happens.

    `loss_and_grads` and `predict` are such blocks. A program may put a loop around them into one, so that large models
    too give nothing back between two calls.
    """
    if backend.name != "numpy":
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        _end_block()


def keep_freed_memory() -> None:
    """As a block of `freed_memory_kept` that does not end: for a program to call once at its start."""
    global _keepers
    with _lock:
        _keepers += 1
        if _keepers == 1 and (libc := _glibc()):
            libc.mallopt(_MMAP_THRESHOLD, KEPT // 2)
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Give all that is free back to the system now, also inside of blocks: for measurements."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _end_block() -> None:
    global _base, _keepers
    with _lock:
        _keepers -= 1
        if _keepers == 0 and (libc := _glibc()):
            libc.mallopt(_TRIM_THRESHOLD, KEPT)
            idle = _idle_bytes(libc)
            if idle is None or _base is None or idle - _base > KEPT:
                libc.malloc_trim(0)
                _base = _idle_bytes(libc)


@cache
def _glibc() -> Any:
    """The C library of this process if it is glibc, else None."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
            return None
        if hasattr(libc, "mallinfo2"):
            sizes = [(f"size{i}", ctypes.c_size_t) for i in range(10)]
            libc.mallinfo2.restype = type("mallinfo2", (ctypes.Structure,), {"_fields_": sizes})
        return libc
    except (ImportError, OSError, TypeError):  # also a Python that was built without ctypes
        return None


def _idle_bytes(libc) -> float | None:
    """What this process holds in memory and no array uses; None before glibc 2.33, and where /proc is not there.

    The C library's own count of free bytes will not do: it goes on counting those that were given back.
    """
    held = (read("/proc/self/statm") or "").split()
    if not hasattr(libc, "mallinfo2") or len(held) < 2:
        return None
    told = libc.mallinfo2()  # the fields `hblkhd` and `uordblks`: arrays with pages of their own, and all others
    return int(held[1]) * os.sysconf("SC_PAGE_SIZE") - told.size4 - told.size7
