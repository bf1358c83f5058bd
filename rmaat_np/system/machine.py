"""This machine: its processor and cores, and the memory that a computation needs.

A measurement is never a precondition. What a platform does not tell is None, and nothing here raises for it.
"""

import platform
import re
from contextlib import suppress
from importlib import metadata
from typing import Any

import numpy as np

from .. import backend
from ..processor import control_groups, cores, keep_freed_memory, read

__all__ = ["PeakMemory", "default_workers", "describe", "describe_blas", "free_memory", "keep_freed_memory"]


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


def describe_blas() -> str:
    """The library of NumPy's matrix products, and the processor whose kernels it chose where threadpoolctl tells it."""
    try:
        from threadpoolctl import threadpool_info

        (found,) = [info for info in threadpool_info() if info["user_api"] == "blas" and "numpy" in info["filepath"]]
        return f"{found['internal_api']} {found['version']}, kernels for {found.get('architecture', 'any processor')}"
    except Exception:  # not installed, or a broken installation, which can raise anything; or NumPy has another library
        built: Any = np.show_config(mode="dicts")
        blas = built.get("Build Dependencies", {}).get("blas", {})
        return f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()


def default_workers() -> int:
    """The number of cores that this process may use, at least 1: the number of workers, where none is named."""
    return cores()


def free_memory() -> int | None:
    """Bytes that can still be had: with CuPy on the card, else of the system and of this process's control groups.

    None where the platform does not tell; of systems, only Linux does.
    """
    if backend.name == "cupy":
        return _free_on_card()
    available = re.search(r"^MemAvailable:\s+(\d+) kB", read("/proc/meminfo") or "", re.MULTILINE)
    return max(0, min([int(available[1]) * 1024, *_left_in_groups()])) if available else None


def _left_in_groups() -> list[int]:
    """What each control group with a limit has left. File pages that it has not used lately count as free."""
    left = []
    for folder, version in control_groups("memory"):
        names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        limit, used = (read(f"{folder}/memory.{name}") or "" for name in names)
        pages = re.search(r"^(?:total_)?inactive_file (\d+)", read(f"{folder}/memory.stat") or "", re.MULTILINE)
        with suppress(ValueError):  # "max", or a file that is not there: no limit
            left.append(int(limit) - int(used) + (int(pages[1]) if pages else 0))
    return left


def _free_on_card() -> int | None:
    """What the driver has left, and what CuPy's pool holds and does not use."""
    xp = backend.xp
    try:
        return xp.cuda.runtime.memGetInfo()[0] + xp.get_default_memory_pool().free_bytes()
    except Exception:  # the driver's own errors, which CuPy alone can name
        return None


def _processor() -> str:
    """The processor's name; of a processor that tells none, as most ARM ones, the instruction set."""
    named = re.search(r"^model name\s*: (.+)", read("/proc/cpuinfo") or "", re.MULTILINE)
    return (named[1] if named else platform.processor() or platform.machine()) or "unknown processor"


def _card() -> str:
    """The name of the CUDA card that CuPy uses."""
    try:
        return backend.xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception:  # the driver's own errors, which CuPy alone can name
        return "unknown card"


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
    found = re.search(rf"{field}:\s+(\d+) kB", read("/proc/self/status") or "")
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
