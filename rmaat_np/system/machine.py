"""This machine: its processor and cores, and the memory that a computation needs.

A measurement is never a precondition. What a platform does not tell is None, and nothing here raises for it.
"""

import math
import os
import platform
import re
from contextlib import suppress
from importlib import metadata
from pathlib import PurePosixPath

import numpy as np

from .. import backend

__all__ = ["PeakMemory", "default_workers", "describe", "keep_freed_memory"]


def describe() -> str:
    """Processor, cores, card (with CuPy) and versions in one line, as the caption of a table."""
    try:
        torch = f"PyTorch {metadata.version('torch')}"
    except (ImportError, KeyError):  # not installed, or installed without a version
        torch = "no PyTorch"
    parts = [_processor(), f"{default_workers()} cores"]
    if backend.name == "cupy":
        parts += [_card(), f"CuPy {backend.xp.__version__}"]
    return ", ".join([*parts, f"Python {platform.python_version()}", f"NumPy {np.__version__}", torch])


def default_workers() -> int:
    """The number of cores that this process may use, at least 1.

    A container often may run on every core of its host, for a part of the time only: 64 threads on a quota of 2 cores
    were four times slower than 2 threads. So the smaller one of affinity and quota counts.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # absent from macOS
        with suppress(OSError):
            cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def _quotas() -> list[float]:
    """Cores that the control groups of this process grant it (Linux): of its group, and of all groups around it."""
    groups = re.findall(r"^\d+:(.*?):(/.*)$", _read("/proc/self/cgroup") or "0::/", re.MULTILINE)
    quotas = []
    for controllers, name in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = PurePosixPath("/sys/fs/cgroup", "cpu" if controllers else "")
        inner = top / name.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            if controllers:  # version 1
                numbers = [_read(f"{folder}/cpu.cfs_{part}_us") or "" for part in ("quota", "period")]
            else:
                numbers = (_read(f"{folder}/cpu.max") or "max 1").split()
            with suppress(ValueError, ZeroDivisionError):  # "max", or a file that is not there: no quota
                quotas.append(int(numbers[0]) / int(numbers[1]))
    return [quota for quota in quotas if quota > 0]  # version 1 writes -1 for none


def _processor() -> str:
    """The processor's name; of a processor that tells none, as most ARM ones, the instruction set."""
    named = re.search(r"^model name\s*: (.+)", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return (named[1] if named else platform.processor() or platform.machine()) or "unknown processor"


def _card() -> str:
    """The name of the CUDA card that CuPy uses."""
    try:
        return backend.xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception:  # the driver's own errors, which CuPy alone can name
        return "unknown card"


def _read(path: str) -> str | None:
    """The text of a file of the system; None where there is no such file, or no right to read it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


class PeakMemory:
    """`with PeakMemory() as memory: ...`: the most bytes that the block held at once, above those held at its start.

    device: count CuPy's live allocations of this thread; otherwise the resident memory of the process, on Linux.
    peak: bytes; inside the block up to now, afterwards of the block; None where the platform does not tell.
    Host blocks must not be nested: the kernel keeps one mark for a process, and a block's start resets it.
    """

    def __init__(self, device: bool = False):
        self._meter: _DeviceMeter | _HostMeter = _DeviceMeter() if device else _HostMeter()
        self._running = False
        self._result: int | None = None

    @property
    def peak(self) -> int | None:
        """The most bytes since the start of the block."""
        return self._meter.peak() if self._running else self._result

    def __enter__(self) -> "PeakMemory":
        self._meter.start()
        self._running = True
        return self

    def __exit__(self, *error) -> None:
        self._result, self._running = self.peak, False
        self._meter.stop()


class _HostMeter:
    """Resident memory of the process, as Linux counts it in /proc."""

    def start(self) -> None:
        self.idle = None
        with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")  # resets VmHWM, the largest resident memory so far
            file.flush()
            self.idle = _status_bytes("VmRSS")

    def peak(self) -> int | None:
        highest = _status_bytes("VmHWM")
        return None if self.idle is None or highest is None else max(0, highest - self.idle)

    def stop(self) -> None:
        """Nothing was changed that would have to be undone."""


def _status_bytes(field: str) -> int | None:
    """A field of /proc/self/status, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", _read("/proc/self/status") or "")
    return int(found[1]) * 1024 if found else None


class _DeviceMeter:
    """Sum of the live allocations of CuPy's memory pool."""

    def start(self) -> None:
        self.alive = self.highest = 0
        self.hook = self._make_hook()
        if self.hook is not None:
            self.hook.__enter__()

    def _make_hook(self):
        """CuPy's hook into its pool, or None without CuPy."""
        try:
            import cupy
        except Exception:  # not installed, or a broken installation, which can raise anything
            return None
        meter = self

        class Hook(cupy.cuda.MemoryHook):
            name = "PeakMemory"

            def malloc_postprocess(self, *, mem_size, **_):
                meter.alive += mem_size
                meter.highest = max(meter.highest, meter.alive)

            def free_postprocess(self, *, mem_size, **_):
                meter.alive -= mem_size

        return Hook()

    def peak(self) -> int | None:
        return None if self.hook is None else self.highest

    def stop(self) -> None:
        if self.hook is not None:
            self.hook.__exit__(None, None, None)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next array instead of handing it back to the kernel page by page.

    A training step frees and allocates the same sizes again and again; fresh pages cost it 20 % on a CPU. For a program
    to call once at its start. With another C library nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # the M_* constants of malloc.h
    try:
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, AttributeError, OSError, TypeError):  # also a Python that was built without ctypes
        return
    mallopt(mmap_threshold, 32 * 2**20)  # glibc's largest: 32 MiB
    mallopt(trim_threshold, 2**31 - 1)
