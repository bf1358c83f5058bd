"""A machine with cards, for the ranks of an MPI job: the stand-in for CuPy, and one for NCCL that sums by MPI."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
from helpers import strict_device

from rmaat_np import backend
from rmaat_np.training.ranks import launched


def card(number: int):
    """On one machine, that of a rank has the rank's number."""
    assert number == launched()[0]
    return SimpleNamespace(use=lambda: None)


class Cupy:
    """The stand-in, and of `cupy.cuda` what chooses a card."""

    __version__ = "stand-in"

    def __init__(self, count: int):
        self.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: count), Device=card)

    def __getattr__(self, name):
        return getattr(strict_device.module, name)


class NCCLBackend:
    """Called as CuPy's class is; it takes device arrays only. Its sums have the reverse order of the ranks."""

    def __init__(self, n_devices, rank, host="127.0.0.1", port=13333, use_mpi=False):
        from mpi4py import MPI

        assert use_mpi and (n_devices, rank) == (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank)
        self.comm = MPI.COMM_WORLD

    def all_reduce(self, in_array, out_array, op="sum", stream=None):
        """out_array becomes the sum of all in_arrays."""
        assert isinstance(in_array, strict_device.StrictArray) and op == "sum"
        parts = self.comm.allgather(in_array.get())[::-1]
        total = parts[0].copy()
        for part in parts[1:]:
            total += part
        out_array[...] = strict_device.module.asarray(np.asarray(total))


def module(name: str, **contents) -> None:
    """Put a module of that name where imports find it."""
    made = ModuleType(name)
    made.__dict__.update(contents)
    sys.modules[name] = made


def install(count: int, *, nccl: bool) -> None:
    """Let --backend cupy find a machine with so many cards."""
    hook = type("MemoryHook", (), {"__enter__": lambda self: self, "__exit__": lambda self, *error: None})
    module("cupy.cuda", nccl=SimpleNamespace(available=nccl), MemoryHook=hook)
    module("cupy", cuda=sys.modules["cupy.cuda"])
    module("cupyx")
    module("cupyx.distributed", NCCLBackend=NCCLBackend)

    def use(name: str):
        backend.xp, backend.name, backend.kernels = Cupy(count), name, None
        return backend.xp

    backend.use = use
