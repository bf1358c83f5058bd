"""Start MPI jobs as a user does, and never leave one behind."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 120  # seconds: a job that hangs is ended, and its test fails


def mpiexec() -> str:
    """The launcher that belongs to this Python's mpi4py: beside it, else on the path. Without one the test skips."""
    pytest.importorskip("mpi4py")  # never mpi4py.MPI: that would make pytest itself an MPI process
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    return found or pytest.skip("needs mpiexec, for example pip install mpich")


def environment(**more) -> dict:
    """One BLAS thread, as run_lra.py sets it; and Open MPI's leave to run as root with more ranks than cores."""
    given = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    given |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    given |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    return os.environ | given | {name: str(value) for name, value in more.items()}


def start(ranks: int | list, *words, **options) -> subprocess.Popen:
    """`mpiexec -n ranks python words...` ranks: their number, or for each rank its own words"""
    if isinstance(ranks, int):
        command = [mpiexec(), "-n", str(ranks), sys.executable, *map(str, words)]
    else:
        command = [mpiexec()]
        for own in ranks:
            command += [":"] * (len(command) > 1) + ["-n", "1", *map(str, own)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.Popen(command, **pipes, **({"env": environment(), "cwd": ROOT} | options))


def finish(job: subprocess.Popen, limit: float = LIMIT) -> tuple[int, str, str]:
    """Wait for a job. -> exit code, stdout, stderr. One that does not end is ended, ranks and all."""
    try:
        out, err = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(job)
        pytest.fail(f"the job did not end within {limit} s")
    return job.returncode, out, err


def end(job: subprocess.Popen) -> None:
    """End a job that may hang. Two signals: mpiexec hands on the first, for which a rank may wait to save."""
    for stop in (job.terminate, job.terminate, job.kill):
        stop()
        with suppress(subprocess.TimeoutExpired):
            job.communicate(timeout=5)
            return


def run(ranks: int | list, *words, limit: float = LIMIT, **options) -> tuple[int, str, str]:
    """Start a job, and wait for it. -> exit code, stdout, stderr"""
    return finish(start(ranks, *words, **options), limit)
