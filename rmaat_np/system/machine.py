"""This machine: its processor and cores, and how much memory a process needs."""

import ctypes
import os
import platform
import re
from pathlib import Path

import numpy as np

from .. import backend


def host_memory():
    """Generator: start counting, then the largest resident set since, above its size at the start (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    idle = _status_bytes("VmRSS")
    yield
    yield _status_bytes("VmHWM") - idle


def _status_bytes(field):
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def device_memory(contender):
    """Generator: start counting, then the largest sum of live device allocations since, above the start."""
    if contender.startswith("torch"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        idle = torch.cuda.memory_allocated()
        yield
        yield torch.cuda.max_memory_allocated() - idle
        return
    with PeakMemory() as memory:
        yield
        yield memory.peak


def machine() -> str:
    """Processor, cores and versions, and the card if CuPy is used, as the tables' caption."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    try:
        from importlib.metadata import version

        torch = f", PyTorch {version('torch')}"
    except ImportError:
        torch = ", no PyTorch"
    name, cores = cpu[1] if cpu else platform.processor(), len(os.sched_getaffinity(0))
    card = ""
    if backend.name == "cupy":
        card = backend.xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
        card = f", {card}, CuPy {backend.xp.__version__}"
    return f"{name}, {cores} cores{card}, Python {platform.python_version()}, NumPy {np.__version__}{torch}"


def default_workers() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class PeakMemory:
    """`with PeakMemory() as memory: ...`; then memory.peak is the most bytes alive at once since the start."""

    def __init__(self):
        import cupy

        outer = self
        self.alive = self.peak = 0

        class Hook(cupy.cuda.MemoryHook):
            name = "PeakMemory"

            def malloc_postprocess(self, *, mem_size, **_):
                outer.alive += mem_size
                outer.peak = max(outer.peak, outer.alive)

            def free_postprocess(self, *, mem_size, **_):
                outer.alive -= mem_size

        self._hook = Hook()

    def __enter__(self):
        self._hook.__enter__()
        return self

    def __exit__(self, *error):
        self._hook.__exit__(*error)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next array instead of handing it back to the kernel page by page.

    A training step frees and allocates the same sizes again and again; fresh pages cost it 20 % on a CPU. For programs
    to call once at their start; does nothing where the C library is another one.
    """
    trim_threshold, mmap_threshold = -1, -3  # the M_* constants of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, 32 * 2**20)  # glibc's largest: 32 MiB
    mallopt(trim_threshold, 2**31 - 1)
