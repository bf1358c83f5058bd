"""A tiny run that is killed at a chosen moment: `python tests/interrupted_run.py FOLDER EVENT COUNT DELAY`.

EVENT: what is counted: "step", "evaluation" (a batch of one), "write" (a file is written, not yet on the disk),
"rename" (it is, under its temporary name), "append" (a line of metrics). At the COUNT-th one the process kills itself
with SIGKILL: after DELAY seconds, or with DELAY "half" when half of what is written has reached the file.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from rmaat_np.data import recall  # noqa: E402
from rmaat_np.system import files  # noqa: E402
from rmaat_np.training import loop, metrics  # noqa: E402
from rmaat_np.training import run as runs  # noqa: E402
from rmaat_np.training.settings import resolve  # noqa: E402

SIZES = {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_ff": 16, "segment_length": 8, "num_segments": 2}
SIZES |= {"class_within": 8, "length": 16, "num_memory": 2, "dropout": 0.1}
SIZES |= {"steps": 20, "batch_size": 8, "eval_every": 6, "warmup_steps": 4, "lr": 0.005}
EVENTS = {"step": 20, "evaluation": 28, "write": 11, "rename": 11, "append": 24}  # in the whole run


def dataset():
    """The recall probe, 64 / 32 / 48 rows; evaluated in batches of 8, so that there is something to interrupt."""
    loop.EVALUATION_BATCH = 8
    loop.draw_curve = lambda folder: None  # takes longer than the run
    return recall.load(8, 16, seed=0, rows=(64, 32, 48))


def start(path):
    """A new run in a folder that holds none."""
    return runs.new_run(path, resolve("recall", "quick", "rmaat", SIZES), dataset())


def counted(original, count: int, act):
    """The function, but its count-th call begins with act(*arguments)."""
    calls = 0

    def function(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == count:
            act(*arguments)
        return original(*arguments, **options)

    return function


def kill(delay: str, file: int | None = None):
    """Kill this process: now, after a delay, or when the file is cut to a half."""
    if delay == "half":
        os.truncate(file, os.fstat(file).st_size // 2)
    elif float(delay) > 0:
        threading.Thread(target=lambda: (time.sleep(float(delay)), kill("0"))).start()
        return
    os.kill(os.getpid(), signal.SIGKILL)


def append_half(path, row, sync=False):
    """Half a line of metrics, then the end."""
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "los')
    kill("0")


def patch_os(**functions):
    """Replace functions of `os` for whole files only, not for the lines that are added to metrics.jsonl."""
    files.os = SimpleNamespace(**vars(os) | functions)


def main(path: str, event: str, count: str, delay: str) -> None:
    """Train, and die of it."""
    data, run = dataset(), start(path)
    plant(event, int(count), delay)
    loop.train(run, data)


def plant(event: str, number: int, delay: str) -> None:
    """Let this process die at the event of that number."""
    if event == "step":
        loop.train_step = counted(loop.train_step, number, lambda *_: kill(delay))
    elif event == "evaluation":
        loop.predict = counted(loop.predict, number, lambda *_: kill(delay))
    elif event == "write":
        patch_os(fsync=counted(os.fsync, number, lambda file: kill(delay, file)))
    elif event == "rename":
        patch_os(replace=counted(os.replace, number, lambda *_: kill("0")))
    else:
        act = append_half if delay == "half" else lambda *_: kill(delay)
        loop.append_metrics = counted(metrics.append_metrics, number, act)


if __name__ == "__main__":
    main(*sys.argv[1:])
