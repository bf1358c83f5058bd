"""What a long run needs of the command: a terminal that closes, a time limit, patience, more steps afterwards."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import needs
from helpers.calls import COMMAND, SCRIPT, TINY, assert_refused
from helpers.runs import assert_equal_runs, metrics_of

from rmaat_np.command import options
from rmaat_np.system.terminal import spoken_time
from rmaat_np.training import loop
from rmaat_np.training import run as runs

LONG = [*TINY, "--steps", "5000"]


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run").name)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only what the test says moves on: each step takes 10 s of it. -> what moves it on, by seconds"""
    now, original = [1000.0], loop.train_step

    def move(seconds):
        now[0] += seconds

    def train_step(*arguments):
        move(10)
        return original(*arguments)

    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(options, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return move


def wait_for_validation(process):
    deadline = time.monotonic() + 60
    while not Path("run/best.npz").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


# SIGHUP


@needs.signals
def test_hangup_saves_and_says_how_to_go_on():
    command = [sys.executable, str(SCRIPT), *LONG, "--out", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_validation(process)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=30)
    step = runs.load_run("run").progress.step
    assert process.returncode == 129 and 3 <= step < 5000
    assert err == f"stopped after step {step}, saved; go on with: {COMMAND} --resume run --workers 1\n"


@needs.signals
def test_a_terminal_that_is_closed(monkeypatch):
    """The run saves, although there is nothing left to write its lines and its progress bar to."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    command = [sys.executable, str(SCRIPT), *LONG, "--out", "run"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        wait_for_validation(process)
        os.close(ours)
        assert process.wait(30) == 129
    finally:
        process.kill()
        process.wait()
    last = runs.load_run("run").progress.step
    steps = [row["step"] for row in metrics_of("run") if "loss" in row]
    assert steps[-1] == last >= 3


@needs.signals
@pytest.mark.skipif(shutil.which("nohup") is None, reason="needs nohup")
def test_nohup_is_heeded():
    command = ["nohup", sys.executable, str(SCRIPT), *TINY, "--steps", "150", "--out", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_validation(process)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(Path("run/result.json").read_text(encoding="utf-8"))["steps"] == 150


# --stop-after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("8h", 28800), ("1d", 86400), ("1.5h", 5400), (" 2 h ", 7200)],
)
def test_times(text, seconds):
    assert options.duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0h", "-5", "8x", "h", "8hh", "nan", "inf", "1e3", "9" * 400, "\u0663h", "8h 30m"]
)
def test_what_is_no_time(call, text):
    assert_refused(call(*TINY, f"--stop-after={text}"), "argument --stop-after: ", "is no time; give one above 0, as")
    assert not Path("runs").exists()


@pytest.mark.parametrize("mode", [("--eval", "x"), ("--check-data",), ("--trace",)], ids=str)
def test_a_time_limit_is_for_training(call, mode):
    assert_refused(call(*TINY, "--stop-after", "8h", *mode), f"--stop-after goes without {mode[0]}")


def test_a_run_ends_when_its_time_is_up_and_goes_on(call, clock):
    """Bit for bit, as after a signal; each process has its own time."""
    options_of_both = [*TINY, "--steps", 10, "--set", "dropout=0.1"]
    code, out, err = call(*options_of_both, "--out", "run", "--stop-after", "35s")
    assert code == 0 and runs.load_run("run").progress.step == 4 and "test accuracy" not in out
    assert err == f"stopped after step 4, saved; go on with: {COMMAND} --resume run --workers 1\n"
    assert not Path("run/result.json").exists()
    assert call("--resume", "run", "--workers", 1, "--stop-after", "0.5m")[0] == 0
    assert runs.load_run("run").progress.step == 7
    assert call("--resume", "run", "--workers", 1, "--stop-after", "1d")[0] == 0
    assert call(*options_of_both, "--out", "whole")[0] == 0
    assert_equal_runs(Path("run"), Path("whole"))


@pytest.mark.parametrize(("name", "done"), [("check_dataset", 0), ("predict", 3)])
def test_the_time_includes_reading_and_validation(call, monkeypatch, clock, name, done):
    """It is up before the first step, or in the middle of the first validation."""
    original = getattr(loop, name)

    def slow(*arguments):
        clock(3600)
        return original(*arguments)

    monkeypatch.setattr(loop, name, slow)
    assert call(*TINY, "--out", "run", "--stop-after", "1h")[0] == 0
    assert runs.load_run("run").progress.step == done
    assert call("--resume", "run")[0] == 0


def test_a_comparison_ends_when_its_time_is_up_and_goes_on(call):
    """The comparing process asks its runs to save, and the command that it prints does the rest."""
    words = [*TINY, "--steps", "500000", "--compare", "rmaat", "--out", "compared", "--stop-after", "4s"]
    code, _, err = call(*words)
    assert code == 0 and "stopped, every run is saved; go on with: " in err
    assert err.splitlines()[-1].endswith("--compare rmaat --out compared --stop-after 4s")
    assert not Path("compared/rmaat-seed0/result.json").exists()


# patience, and what remains


def test_patience(call):
    code, out, _ = call(*TINY, "--steps", 60, "--out", "run", "--lr", "1e-9", "--patience", 2)
    result = json.loads(Path("run/result.json").read_text(encoding="utf-8"))
    assert code == 0 and result["stopped_early"] and result["steps"] < 60
    assert f"none of the last 2 was better than step {result['best_step']}, so training ends\n" in out
    assert runs.load_run("run").settings.train.patience == 2
    assert call("--resume", "run")[0] == 0
    assert json.loads(Path("run/result.json").read_text(encoding="utf-8")) == result
    assert_refused(call("--resume", "run", "--patience", 5), "patience is 2 in the checkpoint, not 5")
    assert_refused(call(*TINY, "--out", "new", "--patience", -1), "patience is -1", "at least 0")


def test_one_line_a_validation_without_a_terminal():
    """It says what remains; the last one has nothing to say of that."""
    command = [sys.executable, str(SCRIPT), *TINY, "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    pattern = r"step 3: validation loss \d\.\d{3}, accuracy \d\.\d{3}, about \d+ s left"
    assert len(lines) == 2 and re.fullmatch(pattern, lines[0])
    assert re.fullmatch(r"step 6: validation loss \d\.\d{3}, accuracy \d\.\d{3}", lines[1])
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (0.2, "1 s"), (45.4, "45 s"), (59.4, "59 s"), (59.6, "1 min"), (750, "12 min"), (3599, "1 h 0 min")]
    + [(4800, "1 h 20 min"), (86_399, "1 d 0 h"), (86_000, "23 h 53 min"), (183_600, "2 d 3 h"), (1e7, "115 d 18 h")],
)
def test_times_in_words(seconds, text):
    assert spoken_time(seconds) == text


# --resume RUN --steps N


def test_a_finished_run_gets_more_steps(call, run):
    code, out, err = call("--resume", run, "--steps", 9)
    assert (code, err) == (0, "")
    assert out.startswith(
        "run: 9 steps instead of 6; after step 6 the learning rate goes on as in a run of 9 steps, from 2.80e-04 "
        "instead of 2.80e-04\n"
    )
    saved = runs.load_run(run)
    assert saved.progress.step == saved.settings.train.steps == 9
    assert json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"] == 9
    assert call("--resume", run)[0] == 0


def test_the_rate_of_the_longer_run_is_said(call):
    assert call(*TINY, "--set", "warmup_steps=0", "--out", "run")[0] == 0
    _, out, _ = call("--resume", "run", "--steps", 12)
    assert "from 1.00e-03 instead of 0.00e+00\n" in out


def test_more_steps_by_set_are_the_same(call, run, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "other")
    assert call("--resume", run, "--steps", 9)[0] == call("--resume", "other", "--set", "steps=9")[0] == 0
    assert_equal_runs(Path("run"), Path("other"))


def test_an_extended_run_goes_on_without_the_option(call, run, clock):
    code, _, err = call("--resume", run, "--workers", 1, "--steps", 20, "--stop-after", "45s")
    assert code == 0 and err.endswith(f"{COMMAND} --resume run --workers 1\n")
    saved = runs.load_run(run)
    assert (saved.settings.train.steps, saved.progress.step) == (20, 11) and not (run / "result.json").exists()
    assert call("--resume", run)[0] == 0
    assert json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"] == 20


def test_fewer_steps_than_are_done(call, run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert_refused(call("--resume", run, "--steps", 5), "steps is 5, but the run has done 6")
    assert_refused(call("--resume", run, "--steps", 0), "steps is 0", "at least 1")
    assert_refused(call("--resume", run, "--steps", 9, "--lr", 0.5), "lr is 0.002 in the checkpoint, not 0.5")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
