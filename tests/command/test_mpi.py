"""The command under mpiexec: one run of several processes, in one folder, with one stream of lines, and one end."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import interrupted_run, mpi, needs, ranked_command
from helpers.calls import SCRIPT, TINY
from helpers.runs import arrays_of, assert_equal_runs
from helpers.twin import twin

from rmaat_np.command import options
from rmaat_np.training import loop
from rmaat_np.training import run as runs
from rmaat_np.training.execution import Execution
from rmaat_np.training.ranks import Ranks

FAULTY = Path(ranked_command.__file__)
RUN = ["--task", "recall", "--workers", 1]
RUN += [word for key, value in interrupted_run.SIZES.items() for word in ("--set", f"{key}={value}")]
NO_FAULT = ("none", "none", 1, 0)
ENDLESS = ["--set", "steps=1000000", "--set", "eval_every=1000000"]


def job(out, *fault, ranks=2, more=()):
    """A run of the tiny probe with a fault. -> exit code, stdout, stderr"""
    return mpi.run(ranks, FAULTY, *(fault or NO_FAULT), *RUN, "--out", out, *more)


def go_on(out, ranks=2):
    """As a user would: --resume, or where there is no checkpoint yet, the same command again."""
    if not (out / "last.npz").exists():
        return job(out, ranks=ranks)
    return mpi.run(ranks, FAULTY, *NO_FAULT, "--workers", 1, "--resume", out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the twin's run: two ranks in one process, which nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EVALUATION_BATCH", "draw_curve", "loss_and_grads"):
            patch.setattr(loop, name, getattr(loop, name))  # to be put back
        data, run = interrupted_run.dataset(), interrupted_run.start(folder)
        loop.loss_and_grads = lambda *arguments, share, **options: twin(2, *arguments, **options)
        loop.train(run, data, Execution(auto_budget=True))  # as the command does by default
    return folder


def one_line(err: str) -> str:
    """What this program said: all but the lines of MPICH itself. It must be one."""
    (line,) = [line for line in err.splitlines() if line.startswith("run_lra.py")]
    assert "Traceback" not in err
    return line


# one run


def test_two_ranks_write_the_run_of_their_twin(tmp_path, whole):
    code, out, err = job(tmp_path / "run")
    assert (code, err) == (0, "")
    assert_equal_runs(tmp_path / "run", whole)
    assert sorted(os.listdir(tmp_path / "run")) == sorted(os.listdir(whole)), "one folder, as one process writes it"
    assert len(re.findall("^task recall", out, re.MULTILINE)) == 1 == len(re.findall("^test accuracy", out, re.M))
    assert "2 ranks, each with 1 worker" in out


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_divided_optimiser_changes_no_bit(tmp_path, ranks):
    """Nor does a stop under way: a checkpoint holds the whole state, and any other job goes on with it."""
    expected, out = tmp_path / "whole", tmp_path / "divided"
    assert job(expected, ranks=ranks)[0] == 0
    code, _, err = job(out, 1, "stop", 7, 0, ranks=ranks, more=["--divide-optimiser"])
    assert code == 143 and err.rstrip().endswith("--divide-optimiser")
    words = ["--workers", 1, "--resume", out, "--divide-optimiser"]
    code, _, err = mpi.run(ranks, FAULTY, 0, "stop", 5, 0, *words)
    assert code == 143, err
    assert go_on(out, ranks)[0] == 0
    assert_equal_runs(out, expected)


def test_metrics_of_evaluations_are_those_of_one_process(tmp_path, whole):
    """The ranks evaluate whole batches, and add them as one process does."""
    code, out, err = mpi.run(3, FAULTY, *NO_FAULT, "--workers", 1, "--eval", whole / "best.npz")
    assert code == 0, err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "EVALUATION_BATCH", 8)
        patch.setattr(loop, "draw_curve", None)
        run = runs.load_run(whole / "best.npz")
        expected = loop.evaluate(run.params, run.cfg, interrupted_run.dataset().test)
    (line,) = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert (line["test_loss"], line["test_accuracy"]) == (expected["loss"], expected["accuracy"])


@pytest.mark.slow
def test_listops_as_one_process_would(tmp_path):
    """The card's command: one folder, the same files, and the same lines but for time and number of ranks."""
    words = [SCRIPT, "--steps", 20, "--cache-dir", tmp_path / "cache"]
    code, out, err = mpi.run(2, *words, "--out", tmp_path / "two")
    assert (code, err) == (0, "")
    code, alone, err = mpi.run(1, *words, "--workers", 2, "--out", tmp_path / "one")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "two")) == sorted(os.listdir(tmp_path / "one"))
    assert len(out.splitlines()) == len(alone.splitlines())
    rows = [(tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for name in ("two", "one")]
    for ours, theirs in zip(*[[json.loads(line) for line in lines] for lines in rows], strict=True):
        times = {"seconds": 0, "remaining": 0}
        assert ours | times == pytest.approx(theirs | times, rel=1e-4)


# faults


@needs.sigkill
@pytest.mark.parametrize(
    ("rank", "event"),
    [
        pytest.param(0, "step", marks=pytest.mark.slow),
        (1, "step"),
        pytest.param(1, "evaluation", marks=pytest.mark.slow),
        (0, "write"),
    ],
)
def test_a_killed_rank_ends_all_and_the_run_goes_on(tmp_path, whole, rank, event):
    begun = time.monotonic()
    code, _, _ = job(tmp_path / "run", rank, event, 4, "half" if event == "write" else 0)
    assert code != 0 and time.monotonic() - begun < 30
    code, _, err = go_on(tmp_path / "run")
    assert (code, err) == (0, "")
    assert_equal_runs(tmp_path / "run", whole)


def moments() -> list:
    """10 moments drawn at random, of either rank: (rank, event, count, delay in seconds)."""
    rng, drawn = np.random.default_rng(4), []
    for event in ["step"] * 5 + ["evaluation"] * 3 + ["write", "append"]:
        rank = 0 if event in ("write", "append") else int(rng.integers(2))
        most = 10 if event == "evaluation" else interrupted_run.EVENTS[event]  # each rank has half of the batches
        drawn.append((rank, event, int(rng.integers(1, most + 1)), f"{rng.uniform(0, 2e-3):.6f}"))
    return drawn


@needs.sigkill
@pytest.mark.slow
@pytest.mark.parametrize("moment", moments(), ids=lambda moment: "-".join(map(str, moment)))
def test_sigkill_of_a_rank_at_10_random_moments(tmp_path, whole, moment):
    assert job(tmp_path / "run", *moment)[0] != 0
    code, _, err = go_on(tmp_path / "run")
    assert (code, err) == (0, "")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("event", "code", "said"),
    [("raise", 1, "ZeroDivisionError: a mistake of this program"), ("exit", 3, ""), ("disk full", 2, "free space")],
)
def test_a_rank_that_fails_ends_all_within_10_seconds(tmp_path, rank, event, code, said):
    begun = time.monotonic()
    found, _, err = job(tmp_path / "run", rank, event, 5, 0)
    assert found == code and time.monotonic() - begun < 10
    assert said in err
    if event == "disk full":
        assert f"rank {rank} of 2: metrics.jsonl: cannot be written" in one_line(err)
        assert "mpiexec -n 2" in err and "--resume" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_while_a_failed_rank_waits_for_the_others(tmp_path, rank, number):
    """The others are in the middle of a sum: nothing but force ends them, and the reason is told all the same."""
    running, metrics = mpi.start(2, FAULTY, rank, "raise", 5, 0, *RUN, "--out", tmp_path), tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while (not metrics.exists() or metrics.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.4)
    running.send_signal(number)
    code, _, err = mpi.finish(running, 20)
    assert code == 1 and f"rank {rank} of 2: ZeroDivisionError" in err


def test_ranks_with_other_options_are_refused(tmp_path):
    """One of them would never come to what the others wait for."""
    train = [sys.executable, SCRIPT, *RUN, "--out", tmp_path / "run"]
    code, _, err = mpi.run([train, [sys.executable, SCRIPT, "--help"]], limit=60)
    assert (
        code == 2
        and "word 1 of the command line is '--help', on rank 0 it is '--task'" in err
        and not (tmp_path / "run").exists()
    )


def test_the_command_that_evaluates_again_does(tmp_path):
    more = ["--divide-optimiser", "--accumulate", 2]
    code, out, err = mpi.run(2, SCRIPT, *RUN, "--out", tmp_path / "run", *more)
    assert (code, err) == (0, "")
    again = re.search(r"evaluate again: (.*)", out)[1]
    done = subprocess.run(again, shell=True, capture_output=True, encoding="utf-8", cwd=mpi.ROOT, timeout=120)
    assert done.returncode == 0 and "test_accuracy" in done.stdout, done.stderr


def test_srun_without_mpi_is_refused():
    environment = mpi.environment(SLURM_STEP_NUM_TASKS=4, SLURM_PROCID=1)
    command = [sys.executable, str(SCRIPT), *map(str, RUN)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=60)
    assert done.returncode == 2 and "srun started 4 processes that do not know of each other" in done.stderr


def test_divergence_is_told_once_and_kept(tmp_path):
    code, _, err = mpi.run(2, FAULTY, *NO_FAULT, *RUN, "--set", "lr=1e30", "--set", "warmup_steps=0", "--out", tmp_path)
    assert code == 1, err
    assert "the first that is not finite" in one_line(err)
    assert (tmp_path / "diverged.npz").exists()
    words = ["--resume", tmp_path / "diverged.npz", "--workers", 1, "--detect-anomaly"]
    code, _, err = mpi.run(2, FAULTY, *NO_FAULT, *words)
    assert code == 1 and "the first that is not finite" in one_line(err)


def test_no_room_for_a_checkpoint(tmp_path):
    """All ranks learn of it, and end in peace: no line of MPI's."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.npz").mkdir()
    code, _, err = job(tmp_path / "run")
    assert code == 2 and err.count("\n") == 1 and "already holds a run" in one_line(err)


# stops


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


@needs.signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_mpiexec_saves_first(tmp_path, number):
    out = tmp_path / "run"
    started = mpi.start(2, SCRIPT, *RUN, *ENDLESS, "--out", out)
    deadline = time.monotonic() + 60
    while lines_of(out / "metrics.jsonl") < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(number)
    code, _, err = mpi.finish(started, 30)
    assert code == 128 + number, err
    step = runs.load_run(out).progress.step
    assert step == lines_of(out / "metrics.jsonl") >= 5
    assert err.count("stopped after step") == 1 and f"stopped after step {step}, saved; go on with: " in err
    again = shlex.split(err.split("go on with: ")[1].splitlines()[0])
    assert Path(again[0]).name == "mpiexec" and again[1:3] == ["-n", "2"]
    assert again[again.index("--resume") + 1] == str(out)


def test_a_stop_of_one_rank_stops_all_after_the_same_step(tmp_path, whole):
    code, _, err = job(tmp_path / "run", 1, "stop", 7, 0)
    assert code == 143 and "stopped after step 7, saved" in err
    code, _, err = go_on(tmp_path / "run")
    assert (code, err) == (0, "")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_within_rounding_and_says_so(tmp_path, whole, before, after):
    out = tmp_path / "run"
    assert job(out, 0, "stop", 7, 0, ranks=before)[0] == 143
    code, _, err = go_on(out, ranks=after)
    assert code == 0
    assert err == (
        f"{out}: was computed with ranks {before}, workers 1, accumulate 1, goes on with ranks {after}, workers 1, "
        "accumulate 1; equal but for rounding\n"
    )
    ours, theirs = arrays_of(out / "last.npz"), arrays_of(whole / "last.npz")
    for name in (name for name in theirs if name.startswith("params/")):
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-4, err_msg=name)


# cards


@pytest.mark.parametrize(
    ("nccl", "said"),
    [
        (0, "sums of gradients go through host buffers and MPI: this CuPy was built without NCCL"),
        (1, "sums of gradients go from card to card by NCCL, in an order of its own"),
    ],
)
def test_each_rank_computes_on_its_own_card(tmp_path, nccl, said):
    """On the stand-in for CuPy: the whole path, and which way the sums take is said."""
    out = tmp_path / "run"
    code, told, err = job(out, "all", "cards", 3, nccl, ranks=3, more=["--backend", "cupy", "--divide-optimiser"])
    assert (code, err) == (0, "")
    assert said in told and "backend cupy, 3 ranks" in told
    assert job(tmp_path / "host", ranks=3)[0] == 0
    ours, theirs = arrays_of(out / "last.npz"), arrays_of(tmp_path / "host" / "last.npz")
    for name in (name for name in theirs if name.startswith("params/")):
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-4, err_msg=name)


def test_more_ranks_than_cards_are_refused(tmp_path):
    code, _, err = job(tmp_path / "run", "all", "cards", 1, 0, more=["--backend", "cupy"])
    assert code == 2 and "2 ranks on a machine with 1 cards; start one rank for a card" in one_line(err)


# refusals


def test_a_wrong_option_is_told_once(tmp_path):
    code, out, err = mpi.run(2, SCRIPT, *RUN, "--set", "d_model=-1", "--out", tmp_path / "run")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "d_model" in err
    assert not (tmp_path / "run").exists()


def test_ranks_with_other_settings_are_refused(tmp_path):
    own = [[sys.executable, SCRIPT, *TINY, "--out", tmp_path / "run", *more] for more in ([], ["--lr", 0.5])]
    code, _, err = mpi.run(own)
    assert code == 2 and err.count("\n") == 1
    assert "of the command line is '--lr', on rank 0 it is None; give all ranks the same" in err
    assert not (tmp_path / "run").exists()


def test_ranks_with_other_data_are_refused(tmp_path):
    code, _, err = job(tmp_path / "run", 1, "data", 1, 0)
    assert code == 2 and "rank 1: data.train.checksum is" in one_line(err)
    assert not (tmp_path / "run").exists()


def test_by_default_the_ranks_of_a_machine_share_its_cores(monkeypatch):
    class OneOfThree(Ranks):
        on_this_machine = 3

    monkeypatch.setattr(options, "default_workers", lambda: 8)
    assert options.parse_arguments([], OneOfThree()).workers == 2
    assert options.parse_arguments([]).workers == 8
    monkeypatch.setattr(options, "default_workers", lambda: 2)
    assert options.parse_arguments([], OneOfThree()).workers == 1


@pytest.mark.parametrize("words", [["--trace"], ["--check-data"], ["--curriculum", "x.toml"]], ids=" ".join)
def test_what_one_process_does_is_refused(words):
    code, _, err = mpi.run(2, SCRIPT, *words)
    assert code == 2 and err.count("\n") == 1 and f"{words[0]} goes without mpiexec" in err


@pytest.mark.parametrize("rank", ["all", "1"])
def test_without_mpi4py_there_are_not_several_trainings(tmp_path, rank):
    code, out, err = job(tmp_path / "run", rank, "missing", 1, 0)
    assert (code, out) == (2, "")
    assert "a launcher started 2 processes, but mpi4py cannot be imported" in one_line(err)
    assert "pip install mpi4py mpich" in err and not (tmp_path / "run").exists()


def test_a_launcher_of_another_mpi_is_refused(tmp_path):
    """It starts the process with names that this MPI does not know: the process sees itself alone."""
    other = mpi.environment(OMPI_COMM_WORLD_SIZE=2, OMPI_COMM_WORLD_RANK=0)
    mpi.mpiexec()
    command = [sys.executable, str(SCRIPT), *TINY, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=other, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "mpi4py sees 1 of them, for it uses another MPI (MPICH" in one_line(done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("alone", [[], ["mpiexec", "-n", "1"]], ids=["no launcher", "one rank"])
def test_alone_nothing_imports_mpi(alone):
    code = "import sys, run_lra; run_lra.main(['--check-data']); print('mpi4py' in sys.modules)"
    command = [mpi.mpiexec() if word == "mpiexec" else word for word in alone] + [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=mpi.ROOT, env=mpi.environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
