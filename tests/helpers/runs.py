"""Tiny runs of the recall probe, and what the tests of training ask of a run."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rmaat_np.command.signals import stop_requests
from rmaat_np.training import loop
from rmaat_np.training import run as runs
from rmaat_np.training.settings import resolve

STEPS = 12
SIZES = {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_ff": 16, "segment_length": 8, "num_segments": 2}
SIZES |= {"class_within": 8, "length": 16}
SIZES |= {"num_memory": 2, "dropout": 0.1, "steps": STEPS, "batch_size": 8, "eval_every": 5, "warmup_steps": 4}


TIMES = {"seconds", "remaining"}  # in a line of metrics
MEASURED = {"seconds": 0, "tokens_per_second": 0, "seconds_per_step": 0, "peak_memory_bytes": 0}  # differ each time
MEASURED |= {"replay_budget_bytes": 0}  # differs with the memory that is free


def start(folder, data, **overrides):
    return runs.new_run(folder, resolve("recall", "quick", "rmaat", SIZES | overrides), data)


def arrays_of(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "meta"}


def metrics_of(folder):
    """The lines of a run's metrics, without what the clock says: all else is the same in every run of the same bits."""
    rows = map(json.loads, (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_equal_runs(left, right):
    """Checkpoints bit for bit, metrics line for line, and the result, all but for the timing."""
    for name in ("last.npz", "best.npz"):
        ours, theirs = arrays_of(left / name), arrays_of(right / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")
    assert metrics_of(left) == metrics_of(right)
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) | MEASURED for folder in (left, right)]
    assert results[0] == results[1]


def at_step(monkeypatch, step, act):
    """Call act() in the middle of a training step, 1 for the first."""
    original = loop.train_step

    def train_step(run, *args):
        row = original(run, *args)
        if row["step"] == step:
            act()
        return row

    monkeypatch.setattr(loop, "train_step", train_step)


def train_until_signal(run, data):
    """Train as the command does: a signal asks to stop. -> the signals that came; Interrupted must have been raised"""
    with stop_requests() as received, pytest.raises(loop.Interrupted) as stop:
        loop.train(run, data, should_stop=lambda: bool(received))
    assert (stop.value.step, stop.value.folder) == (run.progress.step, run.folder)
    return received


@contextmanager
def disk_full_after(nbytes: int):
    """No file may grow past `nbytes`: the kernel refuses the write as it would on a full disk. Else the test skips."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
