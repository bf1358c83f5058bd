"""run_lra.py as one rank of an MPI job, with a fault on demand: `ranked_command.py RANK EVENT COUNT DELAY OPTIONS...`.

On that rank alone, at the COUNT-th EVENT: those of interrupted_run.py end the process by SIGKILL after DELAY seconds.
"raise", "exit" and "disk full" do what they say in the COUNT-th training step; "stop" is a SIGTERM to that rank alone.
"missing": mpi4py cannot be imported. "cards": --backend cupy gets the stand-in, with COUNT cards,
and NCCL if DELAY is 1. The evaluations have batches of 8 rows; the probe 64 rows.
"""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from helpers import cards, interrupted_run  # noqa: E402

import run_lra  # noqa: E402
from rmaat_np.command import actions  # noqa: E402
from rmaat_np.errors import WriteError  # noqa: E402
from rmaat_np.training import loop  # noqa: E402
from rmaat_np.training.ranks import launched  # noqa: E402


def fail(event: str):
    """Do in a training step what EVENT says."""
    if event == "raise":
        raise ZeroDivisionError("a mistake of this program")
    if event == "exit":
        sys.exit(3)
    if event == "disk full":
        raise WriteError("metrics.jsonl: cannot be written (No space left on device); free space")
    os.kill(os.getpid(), signal.SIGTERM)


def prepare(event: str, count: int, delay: str) -> None:
    """Plant the fault in this rank."""
    if event in interrupted_run.EVENTS:
        interrupted_run.plant(event, count, delay)
    elif event == "missing":
        sys.modules["mpi4py"] = None
    elif event == "cards":
        cards.install(count, nccl=delay == "1")
    elif event in ("raise", "exit", "disk full", "stop"):
        loop.train_step = interrupted_run.counted(loop.train_step, count, lambda *_: fail(event))


def main(rank: str, event: str, count: str, delay: str, *options: str) -> int:
    """Train, or meet the fault."""
    data = interrupted_run.dataset()
    actions.load_data = lambda chosen, arguments: data
    if rank in ("all", str(launched()[0])):
        prepare(event, int(count), delay)
    run_lra.handle_stops()
    return run_lra.main(list(options))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
