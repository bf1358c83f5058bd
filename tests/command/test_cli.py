"""The command: what it prints, its exit codes, and one line on stderr for everything that a user can get wrong."""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import needs
from helpers.calls import COMMAND, SCRIPT, TINY, assert_refused
from helpers.runs import disk_full_after, metrics_of

import rmaat_np
from rmaat_np import backend
from rmaat_np.command import actions, compare, signals
from rmaat_np.command.options import parse_arguments
from rmaat_np.data import recall
from rmaat_np.errors import InputError
from rmaat_np.system import machine
from rmaat_np.training import loop
from rmaat_np.training import run as runs
from rmaat_np.training.settings import MODELS


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, named `run` in the working folder."""
    return Path(shutil.copytree(finished, tmp_path / "run").name)


def result_of(folder):
    return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


# what works


def test_training_says_what_it_does_and_where_everything_is(call):
    code, out, err = call(*TINY, "--out", "runs/new", "--set", "retention=online")
    assert (code, err) == (0, "")
    assert {"config.json", "metrics.jsonl", "result.json", "best.npz", "last.npz"} <= set(os.listdir("runs/new"))
    assert 'retention="online"' in out and "steps=6" in out and "numpy" in out and "2 segments of 8 tokens" in out
    assert f"test accuracy {result_of('runs/new')['test_accuracy']:.3f}" in out
    assert "step 3: validation" in out and "step 6: validation" in out
    assert "--eval runs/new/best.npz" in out


def test_only_files_that_exist_are_listed(call):
    """The picture, which could not be drawn here, is not."""
    _, out, _ = call(*TINY, "--out", "run", "--steps", 1)
    assert "run/: config.json metrics.jsonl result.json best.npz last.npz\n" in out


@pytest.mark.parametrize("broken", [{"MPLBACKEND": "nonsense"}, {"MPLCONFIGDIR": "/proc/nowhere"}], ids=str)
def test_pictures_never_cost_a_result(start_process, monkeypatch, broken):
    for name, value in broken.items():
        monkeypatch.setenv(name, value)
    process = start_process(*TINY, "--out", "run")
    process.communicate(timeout=60)
    assert process.returncode == 0 and result_of("run")["steps"] == 6


def test_blas_gets_one_thread_before_numpy_is_imported():
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    code = f"import os, runpy; runpy.run_path({str(SCRIPT)!r}); print(*(os.environ[name] for name in {names}))"
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"MKL_NUM_THREADS": "3", "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "3", "1"], done.stderr


def test_commands_can_be_pasted_into_a_shell(call):
    _, out, _ = call(*TINY, "--out", "ein Lauf", "--steps", 1)
    (advice,) = [line for line in out.splitlines() if line.startswith(f"evaluate again: {COMMAND} ")]
    code, _, _ = call(*shlex.split(advice)[4:])
    assert code == 0


def test_command_to_go_on_with_names_what_the_checkpoint_does_not_hold(call, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr(loop, "train_step", stop)
    Path("my data").mkdir()
    where = ["--data-dir", "my data", "--cache-dir", "c", "--replay-budget", "2.0", "--accumulate", "3"]
    code, _, err = call(*TINY, "--out", "run", *where)
    words = shlex.split(err.partition("go on with: ")[2])
    assert code == 130 and words[2:] == ["--resume", "run", "--workers", "1", *where]


@pytest.mark.parametrize("device", ["pipe", pytest.param("/dev/full", marks=needs.full_device)])
def test_nobody_listens(finished, device):
    """A dead `tee` or a full disk behind stdout: the run goes on to its end, and says nothing more."""
    options = [*TINY, "--out", "run", "--set", "eval_every=1"]
    reader, writer = os.pipe() if device == "pipe" else (None, os.open(device, os.O_WRONLY))
    if reader is not None:
        os.close(reader)
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert result_of("run")["steps"] == 6


def test_metrics_that_are_lost(call, finished, run):
    (run / "metrics.jsonl").unlink()
    code, _, err = call("--resume", run)
    assert (
        code == 0
        and err == f"{run / 'metrics.jsonl'}: the lines of 6 steps are missing or damaged; going on without them\n"
    )


def test_best_checkpoint_alone(call, run):
    """Neither overwritten nor passed over in the advice."""
    (run / "last.npz").unlink()
    assert_refused(call("--resume", run), "last.npz: no such checkpoint", f"--resume {run / 'best.npz'}")
    assert_refused(call(*TINY, "--out", run), "already holds a run", f"--resume {run / 'best.npz'}")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains(call, model):
    code, _, err = call(*TINY, "--out", "run", "--model", model, "--steps", 2)
    assert (code, err) == (0, "")
    assert result_of("run")["model"] == model
    assert result_of("run")["method"] == MODELS[model].get("method", "amrb")


def test_runs_of_the_same_second_have_folders_of_their_own(call, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    for _ in range(3):
        code, out, err = call(*TINY, "--steps", 1)
        assert (code, err) == (0, "")
    assert f"--eval {Path('runs/recall-rmaat-now-3/best.npz')}" in out


def test_comparisons_of_the_same_second_have_folders_of_their_own(call, monkeypatch):
    """What is refused leaves none behind."""
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    arguments = [parse_arguments([*TINY, "--compare", names]) for names in ("rmaat,rmt+segment_length=3", "rmaat")]
    with pytest.raises(InputError):
        compare.plan(arguments[0])
    assert not Path("runs").exists()
    plans = [compare.plan(arguments[1]) for _ in range(2)]
    names = ["compare-recall-now", "compare-recall-now-2"]
    assert [plan.folder.name for plan in plans] == sorted(os.listdir("runs")) == names
    for plan in plans:
        assert plan.jobs[0].folder.parent == plan.folder and plan.command.endswith(f"--out {plan.folder}")


def test_default_folder_is_named_after_the_run(call):
    code, _, _ = call(*TINY, "--steps", 1)
    (folder,) = Path("runs").iterdir()
    assert code == 0 and folder.name.startswith("recall-rmaat-") and (folder / "result.json").exists()


def test_options_reach_the_run(call):
    options = ("--steps", 2, "--lr", 0.5, "--seed", 9, "--method", "bptt", "--preset", "quick", "--replay-budget", 1.5)
    assert call(*TINY, *options, "--out", "run")[0] == 0
    saved = runs.load_run("run").settings
    assert (saved.train.steps, saved.train.lr, saved.train.seed, saved.train.method) == (2, 0.5, 9, "bptt")
    assert (saved.train.batch_size, saved.preset, saved.fields["num_memory"]) == (8, "quick", 2)


@pytest.mark.parametrize(
    ("name", "which"),
    [("best.npz", "test_accuracy"), ("last.npz", "test_accuracy_last"), ("", "test_accuracy")],
    ids=["best", "last", "folder"],
)
def test_evaluation_repeats_the_result(call, finished, name, which):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    code, out, err = call("--eval", finished / name)
    assert code == 0 and "parameters" in err
    scores = json.loads(out)
    assert scores["test_accuracy"] == result_of(finished)[which]
    assert scores["checkpoint"] == str(finished / (name or "best.npz"))
    assert scores["step"] == (result_of(finished)["best_step"] if name != "last.npz" else 6)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_finished_run_can_be_resumed(call, run, finished):
    code, out, err = call("--resume", run)
    assert (code, err) == (0, "")
    assert result_of(run) == result_of(finished)
    assert (run / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_version(call):
    assert call("--version") == (0, f"run_lra.py {rmaat_np.__version__}\n", "")


def test_help(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    options = ("task", "preset", "model", "backend", "method", "steps", "batch-size", "lr", "seed", "data-dir", "out")
    headings = ("what to train:", "how to compute:", "where files are:", "other things to do:")
    assert [line for line in out.splitlines() if line in headings] == list(headings)
    assert all(f"--{option} " in out for option in (*options, "resume", "eval", "workers", "replay-budget", "set"))


def test_workers_where_the_system_has_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.default_workers() == 1


# interrupted, in a process of its own


@pytest.fixture
def start_process():
    """Start the command in a process of its own; those that still run at the end of the test are killed."""
    started = []

    def start_process(*arguments):
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        environment = {"MPLBACKEND": "Agg"} | os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return process

    yield start_process
    for process in started:
        with process:
            process.kill()


def wait_for(path, process):
    """Until the file is there."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


@needs.signals
def test_interrupted_process_goes_on_bit_for_bit(start_process):
    options = [*TINY, "--steps", 200, "--set", "eval_every=20", "--set", "dropout=0.1"]
    process, whole = start_process(*options, "--out", "run"), start_process(*options, "--out", "whole")
    wait_for(Path("run/best.npz"), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    step = runs.load_run("run").progress.step
    assert 20 <= step < 200
    assert err == f"stopped after step {step}, saved; go on with: {COMMAND} --resume run --workers 1\n"

    for going_on in (start_process("--resume", "run", "--workers", 1), whole):
        _, err = going_on.communicate(timeout=60)
        assert going_on.returncode == 0, err
    for name in ("last.npz", "best.npz"):
        with np.load(f"run/{name}") as ours, np.load(f"whole/{name}") as theirs:
            assert ours.files == theirs.files
            for key in set(ours.files) - {"meta"}:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")
    assert metrics_of("run") == metrics_of("whole")
    assert result_of("run")["test_accuracy"] == result_of("whole")["test_accuracy"]


def test_interrupted_before_training(call, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(actions, "load_dataset", stop)
    assert_refused(call(*TINY, "--out", "run"), "interrupted", code=130)


@needs.signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("resume", [False, True], ids=["new", "resumed"])
def test_signal_while_data_is_read(call, run, monkeypatch, number, resume):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    previous = signal.signal(number, signals.stop_at_once)  # SIGINT too: in the background it is ignored
    monkeypatch.setattr(actions, "load_dataset", lambda *_: os.kill(os.getpid(), number) or time.sleep(5))
    try:
        outcome = call(*(["--resume", run] if resume else [*TINY, "--out", "new"]))
    finally:
        signal.signal(number, previous)
    assert_refused(outcome, "interrupted", "nothing was changed", "the same command", code=128 + number)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before and not Path("new").exists()


@needs.signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_goes_back_to_the_last_checkpoint(call, monkeypatch, number):
    def stop_twice(*_):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(5)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_twice)
        code, _, err = call(*TINY, "--out", "run")
    assert code == 128 + number
    going_on = f"{COMMAND} --resume run --workers 1"
    assert err == f"stopped at once, back to the last checkpoint; go on with: {going_on}\n"
    assert call("--resume", "run")[0] == 0 and result_of("run")["steps"] == 6


@needs.signals
def test_sigterm_ends_the_process_with_its_state_saved(start_process):
    process = start_process(*TINY, "--steps", 5000, "--out", "run")
    wait_for(Path("run/best.npz"), process)
    process.terminate()
    _, err = process.communicate(timeout=30)
    step = runs.load_run("run").progress.step
    assert process.returncode == 143 and 3 <= step < 5000
    assert err == f"stopped after step {step}, saved; go on with: {COMMAND} --resume run --workers 1\n"


# resuming with options that contradict the run


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--lr", 0.5), ("lr is 0.002", "0.5")),
        (("--method", "bptt"), ("method is 'amrb'", "'bptt'")),
        (("--model", "rmt"), ("model is 'rmaat'", "'rmt'")),
        (("--task", "text"), ("task is 'recall'", "'text'")),
        (("--preset", "small"), ("preset is 'quick'", "'small'")),
        (("--set", "d_model=32"), ("d_model is 16", "32")),
        (("--set", "dropout=0.5"), ("dropout is 0.0", "0.5")),
        (("--set", "d_modl=32"), ("--set d_modl", "unknown", "d_model")),
        (("--set", "lr"), ("--set lr", "key=value")),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["--resume", "--eval"])
def test_contradicting_options(call, finished, mode, options, fragments):
    assert_refused(call(mode, finished / "last.npz", *options), *fragments)


@pytest.mark.parametrize("mode", ["--resume", "--eval"])
def test_an_option_that_a_run_was_made_without(call, mode):
    words = ["--task", "pathfinder", "--workers", 1, "--steps", 1, "--batch-size", 2, "--set", "images=20"]
    words += ["--set", "height=8", "--set", "contour_length=2", "--set", "d_model=8", "--set", "num_layers=1"]
    assert call(*words, "--out", "small")[0] == 0
    assert_refused(call(mode, "small", "--set", "distractors=5"), "--set distractors: this run was made without it")


def test_an_evaluation_has_the_steps_of_its_checkpoint(call, finished):
    assert_refused(call("--eval", finished / "last.npz", "--steps", 99), "steps is 6", "99")


def test_agreeing_options_are_accepted(call, run):
    same = ("--lr", 0.002, "--task", "recall", "--model", "rmaat", "--set", "dropout=0.0", "--set", "alpha=1")
    assert call("--resume", run, *same)[0] == 0


def test_other_data_end_nothing_that_was_finished(call, run, finished, monkeypatch):
    monkeypatch.setattr(actions, "load_dataset", lambda *_: recall.load(8, 16, seed=1))
    assert_refused(call("--resume", run), "run: began with other data, in the train split checksum were ", "bring back")
    for path in finished.iterdir():
        assert (run / path.name).read_bytes() == path.read_bytes()


# wrong input: exit code 2 and one line, and no folder is made


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--set", "d_modl=32"), ("--set d_modl", "did you mean d_model")),
        (("--set", "d_model"), ("--set d_model", "key=value")),
        (("--set", "d_model=15"), ("d_model 15", "num_heads 2")),
        (("--set", "d_model=big"), ("d_model", "'big'", "whole number")),
        (("--set", "num_memory=0"), ("num_memory", 'pooling to "mean"')),
        (("--set", "segment_length=abc"), ("segment_length", "'abc'", "whole number")),
        (("--set", "segment_length=0"), ("segment_length", "at least 1")),
        (("--set", "weight_decay=inf"), ("weight_decay", "inf")),
        (("--steps", 0), ("steps", "at least 1")),
        (("--lr", 0), ("lr", "above 0")),
        (("--preset", "huge"), ("--preset huge", "quick")),
        (("--workers", 0), ("--workers 0", "at least 1")),
        (("--divide-optimiser",), ("--divide-optimiser goes with mpiexec",)),
        (("--accumulate", 0), ("--accumulate 0: must be at least 1",)),
        (("--accumulate", 2, "--trace"), ("--trace goes without --accumulate",)),
        (("--replay-budget", -1), ("--replay-budget -1", "from 0 to")),
        (("--replay-budget", "nan"), ("--replay-budget nan",)),
        (("--replay-budget", "inf"), ("--replay-budget inf",)),
        (("--replay-budget", "1e308"), ("--replay-budget 1e+308",)),
        (("--set", f"segment_length={10**22}"), ("segment_length", "that an array can have")),
        (("--set", "d_model=1000000000000"), ("allocate",)),
    ],
    ids=str,
)
def test_wrong_options(call, options, fragments):
    assert_refused(call(*TINY, "--out", "run", *options), *fragments)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--foo",), ("unrecognized arguments", "--foo")),
        (("--lr", "fast"), ("--lr", "'fast'")),
        (("--replay-budget", "much"), ("--replay-budget", "'much' is neither a number of MiB nor auto")),
        (("--task", "chess"), ("--task", "'chess'", "listops")),
        (("--model", "gpt"), ("--model", "'gpt'", "rmaat")),
        (("--backend", "jax"), ("--backend", "'jax'", "cupy")),
        (("--step", "5"), ("--step",)),
        (("--set",), ("--set", "expected one argument")),
        (("--resume", "a", "--out", "b"), ("--out", "--resume", "not allowed with")),
        (("--resume", "a", "--eval", "b"), ("--eval", "--resume", "not allowed with")),
        (("--eval", "a", "--out", "b"), ("--out", "--eval", "not allowed with")),
        (("--compare", ""), ("--compare", "is not MODEL")),
        (("--compare", "rmaat", "--detect-anomaly"), ("--compare", "--detect-anomaly")),
        (("--out", ""), ("--out", "is empty")),
        (("--preset", ""), ("--preset", "is empty")),
    ],
    ids=str,
)
def test_options_that_do_not_exist_or_do_not_go_together(call, options, fragments):
    assert_refused(call(*options), *fragments)


def test_rows_longer_than_the_model_reads(call, monkeypatch):
    monkeypatch.setattr(actions, "load_dataset", lambda *_: recall.load(8, 24, rows=(8, 8, 8)))
    outcome = call(*TINY, "--out", "run")
    assert_refused(outcome, "row 1 is longer than the model", "num_segments * segment_length is 16", "raise one")
    assert not Path("run").exists()


def test_folder_that_holds_a_run(call, run, finished):
    assert_refused(call(*TINY, "--out", run), "run: already holds a run", "--resume run", "--out")
    for path in finished.iterdir():
        assert (run / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["taken", "taken/below", "n" * 300])
def test_folders_that_cannot_be_made(call, name):
    Path("taken").write_text("a file", encoding="utf-8")
    assert_refused(call(*TINY, "--out", name), name)


@pytest.mark.parametrize("mode", ["--resume", "--eval"])
def test_missing_checkpoints(call, mode):
    Path("empty").mkdir()
    for name in ("nothing", "nothing.npz", "no/last.npz", "empty", "n" * 300):
        assert_refused(call(mode, name), name)


@pytest.mark.parametrize("mode", ["--resume", "--eval"])
@pytest.mark.parametrize("size", [0, 10, 1000, -1000, -1])
def test_truncated_checkpoints(call, run, mode, size):
    path = run / ("last.npz" if mode == "--resume" else "best.npz")  # which the folder stands for
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(call(mode, path), path, "not a readable checkpoint")
    assert_refused(call(mode, run), path, "not a readable checkpoint")


@pytest.mark.parametrize("mode", ["--resume", "--eval"])
def test_files_that_are_no_checkpoints(call, run, mode):
    np.savez("foreign.npz", x=np.ones(3))
    np.save("array.npy", np.ones(3))
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.npz")
    for path in ("foreign.npz", "array.npy", "pipe.npz", run / "metrics.jsonl", run / "config.json"):
        assert_refused(call(mode, path), path)


def test_evaluation_of_parameters_that_are_not_finite(call, run):
    arrays = dict(np.load(run / "best.npz"))
    np.savez(run / "best.npz", **arrays | {"params/embed.token": np.nan * arrays["params/embed.token"]})
    code, out, err = call("--eval", run / "best.npz")
    assert (code, out) == (2, "") and "best.npz: test loss is nan; use an earlier checkpoint" in err.splitlines()[-1]


def test_folder_that_another_process_trains_in(run, start_process):
    with loop.only_process(run):
        process = start_process("--resume", run)
        out, err = process.communicate(timeout=60)
    assert_refused((process.returncode, out, err), "run: another process trains in this folder", "another folder")


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_folder_whose_files_cannot_be_opened(call, run, name):
    (run / name).unlink()
    (run / name).mkdir()
    assert_refused(call("--resume", run), run / name)


@pytest.mark.parametrize("room", [0, 2000, 10_000])
def test_full_disk(call, room):
    """Nothing fits; config.json and the first lines fit; all but a checkpoint fits."""
    with disk_full_after(room):
        outcome = call(*TINY, "--steps", 60, "--set", "eval_every=30", "--out", "run")
    assert_refused(outcome, "File too large")
    assert set(os.listdir("run")) <= {".lock", "config.json", "metrics.jsonl"}


def test_divergence(call):
    """One line, and none of NumPy's warnings, which would be errors here."""
    options = ("--lr", 1e30, "--set", "warmup_steps=0", "--out", "run")
    assert_refused(call(*TINY, *options), "loss", "--lr", code=1)


@pytest.mark.parametrize(("cupy", "remedy"), [(None, "pip install cupy"), (ModuleType("cupy"), "nvidia-smi")])
def test_cupy_cannot_be_used(call, monkeypatch, cupy, remedy):
    """It is not installed, or it finds no device."""
    if cupy is not None:
        cupy.is_available = lambda: False
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert_refused(call(*TINY, "--out", "run", "--backend", "cupy"), "backend cupy", remedy)
    assert not Path("run").exists()


def test_tf32_is_refused_where_there_is_none(call, monkeypatch):
    assert_refused(call(*TINY, "--out", "run", "--tf32"), "--tf32", "--backend cupy")
    monkeypatch.setattr(backend, "use", lambda name: None)  # as if CuPy were usable
    options = ("--out", "run", "--backend", "cupy", "--tf32", "--dtype", "float64")
    assert_refused(call(*TINY, *options), "tf32", "float64")
    assert not Path("run").exists()


def test_dtype(call):
    code, said, _ = call(*TINY, "--out", "run", "--dtype", "float64")
    assert code == 0 and "float64, backend numpy" in said
    assert json.loads(Path("run/config.json").read_text(encoding="utf-8"))["settings"]["train"]["dtype"] == "float64"


def test_task_that_this_program_does_not_know(call, run):
    """Its checkpoint can be read, but not its data."""
    loaded = runs.load_run(run)
    loaded.settings = replace(loaded.settings, task="mine", preset="own", model="other")
    for name in ("last.npz", "best.npz"):
        loaded.save(name)
    for mode in ("--resume", "--eval"):
        assert_refused(call(mode, run), "task 'mine' is unknown", "recall")


def test_preset_and_model_that_this_program_does_not_know_any_more(call, run, finished):
    for name in ("last.npz", "best.npz"):
        loaded = runs.load_run(run / name)
        loaded.settings = replace(loaded.settings, preset="old", model="older")
        loaded.save(name)
    code, out, _ = call("--eval", run / "best.npz")
    assert code == 0 and json.loads(out)["test_accuracy"] == result_of(finished)["test_accuracy"]
    assert call("--resume", run)[0] == 0


@pytest.mark.parametrize("more", [(), ("--check-data",), ("--trace",), ("--compare", "rmaat")], ids=str)
def test_data_folder_that_is_not_there(call, more):
    """Of drawn data, too."""
    assert_refused(call(*TINY, *more, "--data-dir", "dat"), "--data-dir dat: there is no such folder")
    assert os.listdir() == []


KEPT = ", and kept in it for the next run"


@pytest.mark.parametrize(("task", "kept"), [("recall", ""), ("memory", ""), ("listops", KEPT), ("pathfinder", KEPT)])
def test_data_folder_from_which_nothing_is_read(capsys, monkeypatch, task, kept):
    monkeypatch.setattr(actions, "load_dataset", lambda *_: None)
    Path("dat").mkdir()
    arguments = parse_arguments(["--task", task, "--data-dir", "dat"])
    actions.load_data(actions.chosen_settings(arguments), arguments)
    said = f"--data-dir dat: the data of {task} are drawn{kept}; no files of yours are read\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "run/x"),
            "run/x: Permission denied; make it accessible to this user",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "xx"), "xx: File name too long; choose a shorter name"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free space"),
        (OSError("odd\nerror"), r"odd\nerror"),
        (MemoryError(), "memory is exhausted; lower the batch size, or the sizes of the model"),
    ],
    ids=str,
)
def test_errors_of_the_system_name_file_and_remedy(call, monkeypatch, error, line):
    def fail(*_):
        raise error

    monkeypatch.setattr(actions, "load_dataset", fail)
    assert call(*TINY, "--out", "run") == (2, "", f"run_lra.py: {line}\n")


def test_a_lock_of_another_user(call, run, monkeypatch):
    original = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert_refused(call("--resume", run), f"{run / '.lock'}: may be another user's", "remove it, or choose another")


def test_without_tqdm_there_is_no_bar_and_nothing_else_is_missing(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    code, out, errors = call(*TINY, "--out", "run")
    assert (code, errors) == (0, "") and "validation loss" in out and "test accuracy" in out
