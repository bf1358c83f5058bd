"""SIGKILL at any moment: the run goes on from its folder, and ends as if nothing had happened, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import interrupted_run, needs
from helpers.runs import MEASURED, metrics_of

from rmaat_np.training import loop
from rmaat_np.training import run as runs

SCRIPT = Path(interrupted_run.__file__)
pytestmark = needs.sigkill


def moments() -> list:
    """20 moments drawn at random over training, evaluation and writing: (event, count, delay in seconds)."""
    rng, drawn = np.random.default_rng(6), []
    for event in ["step"] * 6 + ["evaluation"] * 5 + ["write"] * 4 + ["rename"] * 2 + ["append"] * 3:
        count = int(rng.integers(1, interrupted_run.EVENTS[event] + 1))
        delay = f"{rng.uniform(0, 2e-3):.6f}"  # a step or a batch of an evaluation takes about as long
        if event in ("write", "append"):
            delay = ["0", "half"][rng.integers(2)]
        drawn.append((event, count, delay))
    return drawn


@pytest.fixture(scope="module")
def patched():
    """What the script replaces in this process too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "EVALUATION_BATCH", 8)
        patch.setattr(loop, "draw_curve", lambda folder: None)
        yield interrupted_run.dataset()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, patched):
    """The folder of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    loop.train(interrupted_run.start(folder), patched)
    return folder


def ended_by_sigkill(folder, event, count, delay):
    command = [sys.executable, str(SCRIPT), str(folder), event, str(count), delay]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120)
    return done.returncode == -signal.SIGKILL or pytest.fail(f"{done.returncode} {done.stderr.decode()}")


def go_on(folder, data):
    """As a user would: --resume, or where there is no checkpoint yet, the same command again."""
    run = runs.load_run(folder) if (folder / "last.npz").exists() else interrupted_run.start(folder)
    loop.train(run, data)


def assert_equal_runs(ours, theirs):
    """The same files; parameters, optimiser state and metrics bit for bit; the result but for its timing."""
    assert set(os.listdir(ours)) == set(os.listdir(theirs)), "nothing half-written is left"
    for name in ("last.npz", "best.npz"):
        with np.load(ours / name) as left, np.load(theirs / name) as right:
            assert left.files == right.files
            for key in set(left.files) - {"meta"}:
                assert left[key].tobytes() == right[key].tobytes(), f"{name} {key}"
    assert metrics_of(ours) == metrics_of(theirs)
    assert (ours / "config.json").read_bytes() == (theirs / "config.json").read_bytes()
    left, right = (
        json.loads((folder / "result.json").read_text(encoding="utf-8")) | MEASURED for folder in (ours, theirs)
    )
    assert left == right


def killed_and_resumed(tmp_path, patched, whole, moment):
    folder = tmp_path / "run"
    ended_by_sigkill(folder, *moment)
    go_on(folder, patched)
    assert_equal_runs(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", moments(), ids=lambda moment: "-".join(map(str, moment)))
def test_sigkill_at_20_random_moments(tmp_path, patched, whole, moment):
    killed_and_resumed(tmp_path, patched, whole, moment)


@pytest.mark.parametrize(
    "moment",
    [("step", 15, "0.001"), ("evaluation", 6, "0.0005"), ("write", 4, "half")],
    ids=["training", "evaluation", "writing"],
)
def test_sigkill(tmp_path, patched, whole, moment):
    killed_and_resumed(tmp_path, patched, whole, moment)


def test_sigkill_before_the_first_checkpoint(tmp_path, patched, whole):
    """There is nothing to go on with, --resume says so, and the same command starts again."""
    folder = tmp_path / "run"
    ended_by_sigkill(folder, "write", 1, "half")
    with pytest.raises(loop.InputError, match="the run saved none yet, start it with --out"):
        runs.load_run(folder)
    go_on(folder, patched)
    assert_equal_runs(folder, whole)


def rename_of_the_last_best(folder) -> int:
    """Which rename of a run brings its last best.npz: three to begin with, then each validation's last and best."""
    best, count, found = (-1.0, 0.0), 3, 0
    for row in map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if "val_accuracy" in row:
            count += 1
            score = row["val_accuracy"], -row["val_loss"]  # of two as accurate, the lower loss is better
            if score > best:
                best, count, found = score, count + 1, count + 1
    return found


def test_sigkill_between_the_two_checkpoints_of_a_validation(tmp_path, patched, whole):
    """last.npz names a best step that best.npz has not yet, and no later one will hide that; it is made up for."""
    folder, best_step = tmp_path / "run", runs.load_run(whole).progress.best_step
    ended_by_sigkill(folder, "rename", rename_of_the_last_best(whole), "0")
    assert runs.load_run(folder).progress.step == runs.load_run(folder).progress.best_step == best_step
    best = folder / "best.npz"
    assert not best.exists() or runs.load_run(best).progress.step < best_step
    go_on(folder, patched)
    assert_equal_runs(folder, whole)


def test_killed_again_and_again(tmp_path, patched, whole):
    """While it makes up for the last kill, too."""
    folder = tmp_path / "run"
    ended_by_sigkill(folder, "step", 8, "0")
    for name in (".last.npz.77", ".metrics.jsonl.78"):
        (folder / name).write_bytes(b"half")
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'7\n[1]\n{"step": "x"}\n\xff\x00\n' + b"[" * 100_000 + b'\n{"step": 7, "lo')
    go_on(folder, patched)
    assert_equal_runs(folder, whole)
