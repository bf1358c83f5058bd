"""What the machine tells about itself, and what is returned where it does not tell."""

import builtins
import os
import platform
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from rmaat_np import backend, processor
from rmaat_np.system import machine


def cpuinfo(monkeypatch, text):
    monkeypatch.setattr(machine, "read", lambda path: text if path == "/proc/cpuinfo" else None)


def test_the_description_is_one_line():
    told = machine.describe()
    assert "\n" not in told
    assert f"{machine.default_workers()} cores, Python {platform.python_version()}, NumPy {np.__version__}" in told


def test_the_processor_has_the_name_that_linux_gives(monkeypatch):
    cpuinfo(monkeypatch, "processor\t: 0\nmodel name\t: A Processor 3000\nmodel name\t: another core\n")
    assert machine.describe().startswith("A Processor 3000, ")


def test_a_processor_without_a_name_is_told_by_its_instruction_set(monkeypatch):
    cpuinfo(monkeypatch, "processor\t: 0\nBogoMIPS\t: 243.75\nCPU part\t: 0xd0c\n")  # as ARM has it
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine.describe().startswith("aarch64, ")
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert machine.describe().startswith("unknown processor, ")


def test_the_description_without_proc(without_proc):
    assert "cores" in machine.describe()


def test_the_description_without_pytorch(monkeypatch):
    def version(name):
        raise machine.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.metadata, "version", version)
    assert machine.describe().endswith("no PyTorch")


def test_a_card_that_cannot_be_asked_is_unknown():
    def refuse(device):
        raise RuntimeError("cudaErrorNoDevice")

    runtime = SimpleNamespace(getDeviceProperties=refuse)
    fake = SimpleNamespace(__version__="13.0", cuda=SimpleNamespace(runtime=runtime))
    with backend.using(fake):
        assert "unknown card, CuPy 13.0" in machine.describe()
        runtime.getDeviceProperties = lambda device: {"name": b"A Card"}
        assert "A Card, CuPy 13.0" in machine.describe()


def test_workers_where_the_system_has_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.default_workers() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.default_workers() == 1


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_peak_memory_of_a_block():
    size = 64 * 2**20
    with machine.PeakMemory() as memory:
        array = np.ones(size, dtype=np.uint8)
        inside = memory.peak
        del array
    peak = memory.peak
    assert all(0.9 * size < found < 2 * size for found in (inside, peak))
    later = np.ones(4 * size, dtype=np.uint8)
    assert memory.peak == peak, "what comes after the block does not count"
    del later
    with machine.PeakMemory() as memory:
        pass
    assert memory.peak < size / 2, "what came before the block does not count"


def test_peak_memory_is_none_where_the_system_does_not_tell(without_proc):
    with machine.PeakMemory() as memory:
        assert memory.peak is None
    assert memory.peak is None


def test_peak_memory_is_none_where_the_mark_cannot_be_reset(monkeypatch):
    real_open = builtins.open

    def refuse(path, *rest, **options):
        if path == "/proc/self/clear_refs":
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    with machine.PeakMemory() as memory:
        pass
    assert memory.peak is None, "the mark since the start of the process is not the block's"


def test_peak_memory_is_none_where_a_field_is_missing(monkeypatch):
    monkeypatch.setattr(machine, "read", lambda path: "Name:\tpython\n")
    with machine.PeakMemory() as memory:
        pass
    assert memory.peak is None


def test_an_error_in_the_block_comes_out():
    with pytest.raises(ZeroDivisionError), machine.PeakMemory():
        raise ZeroDivisionError


class FakeHook:
    """What CuPy's MemoryHook offers: it is told of allocations while it is entered."""

    active = None

    def __enter__(self):
        FakeHook.active = self

    def __exit__(self, *error):
        FakeHook.active = None


def test_peak_memory_of_the_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(MemoryHook=FakeHook)))
    with machine.PeakMemory(device=True) as memory:
        hook = FakeHook.active
        hook.malloc_postprocess(device_id=0, size=60, mem_size=100, mem_ptr=1, pmem_id=1)
        hook.malloc_postprocess(device_id=0, size=60, mem_size=50, mem_ptr=2, pmem_id=2)
        hook.free_postprocess(device_id=0, mem_size=100, mem_ptr=1, pmem_id=1)
        hook.malloc_postprocess(device_id=0, size=60, mem_size=70, mem_ptr=3, pmem_id=3)
        assert memory.peak == 150
    assert memory.peak == 150 and FakeHook.active is None


def test_peak_memory_of_a_device_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with machine.PeakMemory(device=True) as memory:
        pass
    assert memory.peak is None


GROUPS = {
    "version 2": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "version 2, of a group around": (
        {
            "/proc/self/cgroup": "0::/a/b\n",
            "/sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        },
        2,
    ),
    "version 2, half a core": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "version 1": (
        {
            "/proc/self/cgroup": "3:memory:/x\n2:cpu,cpuacct:/x\n",
            "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "300000\n",
            "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "version 1, no quota": (
        {
            "/proc/self/cgroup": "2:cpu,cpuacct:/\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        64,
    ),
    "no quota": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
    "nonsense": ({"/proc/self/cgroup": "?", "/sys/fs/cgroup/cpu.max": "a lot\n"}, 64),
    "nothing": ({}, 64),
}


@pytest.mark.parametrize(("files", "cores"), GROUPS.values(), ids=GROUPS)
def test_workers_are_as_many_as_the_quota_grants(files, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(processor, "read", files.get)
    assert machine.default_workers() == cores


MEMINFO = {"/proc/meminfo": "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:   4000 kB\n"}
ROOM = {
    "no group": ({}, 4000 * 1024),
    "version 2": (
        {
            "/proc/self/cgroup": "0::/a\n",
            "/sys/fs/cgroup/a/memory.max": "2000000\n",
            "/sys/fs/cgroup/a/memory.current": "1500000\n",
            "/sys/fs/cgroup/a/memory.stat": "anon 900000\ninactive_file 300000\n",
        },
        800_000,
    ),
    "version 2, a group around it": (
        {
            "/proc/self/cgroup": "0::/a/b\n",
            "/sys/fs/cgroup/a/memory.max": "1000\n",
            "/sys/fs/cgroup/a/memory.current": "400\n",
            "/sys/fs/cgroup/a/b/memory.max": "max\n",
            "/sys/fs/cgroup/a/b/memory.current": "300\n",
        },
        600,
    ),
    "version 1": (
        {
            "/proc/self/cgroup": "4:memory:/x\n2:cpu:/x\n",
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1000000\n",
            "/sys/fs/cgroup/memory/x/memory.usage_in_bytes": "700000\n",
            "/sys/fs/cgroup/memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 1\n",
        },
        300_001,
    ),
    "full": (
        {"/sys/fs/cgroup/memory.max": "1000\n", "/sys/fs/cgroup/memory.current": "2000\n"},
        0,
    ),
    "nonsense": ({"/sys/fs/cgroup/memory.max": "a lot\n", "/sys/fs/cgroup/memory.current": "7\n"}, 4000 * 1024),
}


@pytest.mark.parametrize(("files", "left"), ROOM.values(), ids=ROOM)
def test_free_memory_is_what_the_system_and_the_groups_leave(files, left, monkeypatch):
    for module in (machine, processor):
        monkeypatch.setattr(module, "read", (MEMINFO | files).get)
    assert machine.free_memory() == left


def test_free_memory_is_none_where_the_system_does_not_tell(without_proc):
    assert machine.free_memory() is None


def test_free_memory_of_a_card_is_the_drivers_and_the_pools():
    def refuse():
        raise RuntimeError("cudaErrorNoDevice")

    runtime = SimpleNamespace(memGetInfo=lambda: (1000, 5000))
    pool = SimpleNamespace(free_bytes=lambda: 30)
    with backend.using(SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), get_default_memory_pool=lambda: pool)):
        assert machine.free_memory() == 1030
        runtime.memGetInfo = refuse
        assert machine.free_memory() is None
