"""Several processes train one model: the one file that knows MPI. `mpiexec -n 4 python run_lra.py ...`

MPI calls a process a rank. Every rank holds all the parameters and computes its own shards of every batch.
"""

import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..errors import InputError
from ..step import WHOLE_BATCH, Share

_LAUNCHERS = (  # what each launcher calls a process's rank, and their number
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, `srun --mpi=pmi2`
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),  # `srun --mpi=pmix`
)
_SRUN = "SLURM_STEP_NUM_TASKS"  # how many processes srun started, with MPI or without
_FLUSH = 0.3  # seconds that a launcher gets to pass on what was said, before all is ended
_PACKAGE = Path(__file__).parents[1]


class Ranks:
    """One process that trains alone: what `MpiRanks` does with several is done with one.

    rank 0 .. size - 1; local: the rank among those of this machine; on_this_machine: how many those are
    way: how the sums of cards travel, in words; empty without cards
    """

    rank = local = 0
    size = on_this_machine = 1
    share: Share = WHOLE_BATCH
    way = ""

    def take_card(self) -> None:
        """Let this rank compute on a card of its own, if cards compute."""

    def gather(self, value: Any) -> list:
        """The small values of all ranks, in their order."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0."""
        return value

    def own(self, arrays: dict) -> dict:
        """This rank's part of every array, to be changed in place: it updates that part of the parameters alone."""
        return arrays

    def complete(self, params: dict) -> None:
        """Bring the parts that the other ranks updated into the parameters."""

    def whole(self, parts: dict, params: dict) -> dict:
        """The arrays of which every rank has its own part, on rank 0; they are shaped as params."""
        return parts

    def leave(self, code: int, say: Callable[[], object]) -> int:
        """End the work. -> the exit code of all ranks

        code: this rank's, 0 if all went well; say: tells why it is another one. A single rank does.
        """
        if code:
            say()
        return code

    def any(self, flag: bool) -> bool:
        """Is it true on some rank?"""
        return any(self.gather(flag))

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What make() returns on rank 0. Raises: the InputError that it raises there, on every rank."""
        value, error = None, None
        if self.rank == 0:
            try:
                value = make()
            except InputError as found:
                error = found
        value, error = self.broadcast((value, error))
        if error is not None:
            raise error
        return value

    def first_alone(self, make: Callable[[], Any]) -> Any:
        """Each rank's own make(): rank 0's before the others begin, so that it fills what they share. Raises as it."""
        mine = []
        self.from_first(lambda: mine.append(make()))
        return mine[0] if mine else make()


ALONE = Ranks()


class MpiRanks(Ranks):
    """The ranks of an MPI job. All of them make the same calls in the same order."""

    def __init__(self, comm, split_type: int):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self._leaving = comm.Dup()  # its messages never meet those of a rank that is still at work
        machine = comm.Split_type(split_type)
        self.local, self.on_this_machine = machine.Get_rank(), machine.Get_size()
        self.share = Share(self.rank, self.size, self.sum)
        self.nccl: Any = None

    def take_card(self) -> None:
        """Let this rank compute on a card of its own, if cards compute, and use NCCL if all ranks can.

        Raises: InputError on all ranks, if there are not enough cards on a machine or if NCCL cannot begin.
        """
        if backend.name == "numpy":
            return
        cuda = backend.xp.cuda
        cards = cuda.runtime.getDeviceCount()
        if any(self.gather(self.on_this_machine > cards)):
            raise InputError(f"{self.on_this_machine} ranks on a machine with {cards} cards; start one rank for a card")
        cuda.Device(self.local).use()
        usable, reason = _usable_nccl()
        reasons = [found for found in self.gather(reason) if found]
        if reasons:
            self.way = f"sums of gradients go through host buffers and MPI: {reasons[0]}"
            return
        try:
            self.nccl = usable(self.size, self.rank, use_mpi=True)
        except Exception as error:  # NCCL's own errors, which CuPy alone can name
            raise InputError(f"NCCL cannot begin ({error}); look after the driver, or use --backend numpy") from None
        self.way = "sums of gradients go from card to card by NCCL, in an order of its own"

    def sum(self, flat):
        """The sum of the ranks' arrays, added in the order of the ranks: the same bits in every run, with every MPI.

        Each rank adds one slice of all arrays. `Allreduce` would choose the order of the sum by itself.
        NCCL, where cards have it, keeps an order of its own. Else arrays on a card go through the host: the MPI
        libraries of the package index know no CUDA.
        Shapes: (n,) -> (n,), where arrays live
        """
        if self.nccl is not None:
            total = backend.xp.empty_like(flat)
            self.nccl.all_reduce(flat, total)
            return total
        flat = backend.to_host(flat)
        parts = np.zeros((self.size, -(-flat.size // self.size)), dtype=flat.dtype)
        parts.reshape(-1)[: flat.size] = flat
        received = np.empty_like(parts)
        self.comm.Alltoall(parts, received)
        total = received[0]
        for part in received[1:]:
            total += part
        self.comm.Allgather(total, parts)
        return backend.to_device(parts.reshape(-1)[: flat.size])

    def own(self, arrays: dict) -> dict:
        """This rank's part of every array, none of them empty. Shapes: (...) -> flat views of 1 / size of it"""
        return self._parts(arrays, self.rank)

    def _parts(self, arrays: dict, rank: int) -> dict:
        parts = {}
        for name, array in arrays.items():
            begin, end = (array.size * place // self.size for place in (rank, rank + 1))
            if begin < end:
                parts[name] = array.reshape(-1)[begin:end]
        return parts

    def complete(self, params: dict) -> None:
        """Bring the parts that the other ranks updated into the parameters, in one message."""
        parts = [self._parts(params, rank) for rank in range(self.size)]
        counts = [sum(part.size for part in own.values()) for own in parts]
        mine = backend.to_host(backend.xp.concatenate(list(parts[self.rank].values())))
        flat = np.empty(sum(counts), dtype=mine.dtype)
        self.comm.Allgatherv(mine, (flat, counts))
        flat, start = backend.to_device(flat), 0
        for part in (part for own in parts for part in own.values()):
            part[...] = flat[start : start + part.size]
            start += part.size

    def whole(self, parts: dict, params: dict) -> dict:
        """The arrays of which every rank has its own part, on rank 0; on the others their own parts as they are."""
        found = self.comm.gather({name: backend.to_host(part) for name, part in parts.items()})
        if found is None:
            return parts
        joined = {name: np.concatenate([own[name] for own in found if name in own]) for name in params}
        return {name: backend.to_device(array.reshape(params[name].shape)) for name, array in joined.items()}

    def gather(self, value: Any) -> list:
        """The small values of all ranks, in their order."""
        return self.comm.allgather(value)

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0."""
        return self.comm.bcast(value)

    def leave(self, code: int, say: Callable[[], object]) -> int:
        """End the work on all ranks: together if they all come here, else by force. -> the exit code of all ranks

        Without that, the others would wait for ever for a rank that failed.
        """
        codes = np.zeros(self.size, dtype=np.int32)
        request = self._leaving.Iallgather(np.array([code], dtype=np.int32), codes)
        deadline = time.monotonic() + (patience(self.rank) + 1 if code else float("inf"))
        while not request.Test():
            if time.monotonic() > deadline:
                say()
                end_all(code)
            time.sleep(0.01)
        failed = np.flatnonzero(codes)
        if failed.size and failed[0] == self.rank:
            say()
        return int(codes[failed[0]]) if failed.size else 0


def launched() -> tuple[int, int]:
    """This process's rank and their number, as the launcher tells them; 0 and 1 without one, or if it tells neither."""
    for rank, size in _LAUNCHERS:
        numbers = os.environ.get(rank, ""), os.environ.get(size, "1")
        if all(number.isdecimal() for number in numbers):
            return int(numbers[0]), int(numbers[1])
    return 0, 1


def patience(rank: int) -> float:
    """Seconds that a rank which failed leaves to those before it, so that one of them speaks and not all: 0 .. 4."""
    return min(0.5 * rank, 4.0)


def wait_for_rank_0() -> None:
    """Let rank 0 say first what is wrong, even if it started late. The launcher may end this process meanwhile."""
    rank, _ = launched()
    if rank > 0:
        time.sleep(3 + patience(rank))


def give_up(code: int) -> None:
    """Ask MPICH's launcher to end all that it started: it would wait for a process that ended before it began MPI.

    Other launchers end the others when a process ends with an error.
    """
    _let_speak()
    with suppress(KeyError, ValueError, OSError):
        request = f"cmd=init pmi_version=1 pmi_subversion=1\ncmd=abort exitcode={code}\n"
        os.write(int(os.environ["PMI_FD"]), request.encode())


def end_all(code: int) -> None:
    """End all processes of the job at once, whatever they do, with this exit code."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        _let_speak()
        mpi.COMM_WORLD.Abort(code)
    give_up(code)
    os._exit(code)


def _let_speak() -> None:
    """Give the launcher time to pass on what was said."""
    sys.stderr.flush()
    time.sleep(_FLUSH)


def mpiexec() -> str:
    """The launcher beside this Python, which belongs to its mpi4py; just its name, if the path leads to it."""
    beside, found = Path(sys.executable).with_name("mpiexec"), shutil.which("mpiexec")
    return str(beside) if beside.exists() and (found is None or not beside.samefile(found)) else "mpiexec"


def join() -> Ranks:
    """The ranks that a launcher started, or `ALONE`. MPI is imported, and thereby begun, only if there are several.

    Raises: InputError if mpi4py is missing, or belongs to another MPI than the launcher.
    """
    rank, size = launched()
    if size == 1:
        if int(os.environ.get(_SRUN, "1")) > 1:
            raise InputError(
                f"srun started {os.environ[_SRUN]} processes that do not know of each other; use srun --mpi=pmi2 or "
                "--mpi=pmix, or start one"
            )
        return ALONE
    try:
        from mpi4py import MPI
    except Exception as error:  # not installed, or without its MPI library, which can raise anything
        raise InputError(
            f"a launcher started {size} processes, but mpi4py cannot be imported ({error}); "
            "pip install mpi4py mpich, or start one process without the launcher"
        ) from None
    if MPI.COMM_WORLD.Get_size() != size:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise InputError(
            f"a launcher started {size} processes, but mpi4py sees {MPI.COMM_WORLD.Get_size()} of them, for it uses "
            f"another MPI ({library}); use the mpiexec of that MPI, which pip puts beside python"
        )
    return MpiRanks(MPI.COMM_WORLD, MPI.COMM_TYPE_SHARED)


def _usable_nccl() -> tuple[Any, str]:
    """CuPy's class for NCCL, and the empty string; or None, and why there is none."""
    # Sums that the switch makes differ from call to call (github.com/NVIDIA/nccl, issue 1497).
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    try:
        from cupy.cuda import nccl
        from cupyx.distributed import NCCLBackend
    except Exception as error:  # not installed, or a broken installation, which can raise anything
        return None, f"CuPy's NCCL cannot be imported ({error})"
    return (NCCLBackend, "") if nccl.available else (None, "this CuPy was built without NCCL")


def check_alike(ranks: Ranks, mine: dict) -> None:
    """Refuse ranks that would not compute one and the same run. Raises: InputError on all of them, naming what differs.

    mine: by its name what must be the same on all, beside the package's code and NumPy
    """
    found = {"the code of rmaat_np": _checksum(), "NumPy": np.__version__} | mine
    first, *others = ranks.gather(found)
    for rank, theirs in enumerate(others, 1):
        for name in first | theirs:
            if first.get(name) != theirs.get(name):
                raise InputError(
                    f"rank {rank}: {name} is {theirs.get(name)!r}, on rank 0 it is {first.get(name)!r}; "
                    "give all ranks the same"
                )


def _checksum() -> str:
    """Of all files of the package that decide a result."""
    paths = sorted(path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".cu", ".toml"))
    return f"{zlib.crc32(b''.join(path.read_bytes() for path in paths)):08x}"
