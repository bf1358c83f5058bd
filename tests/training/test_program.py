"""A model of one's own from Python: started, trained with Ctrl-C as the stop, loaded, shared."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import arrays_of, assert_equal_runs

import rmaat_np as rn
from rmaat_np.errors import InputError
from rmaat_np.system import machine
from rmaat_np.training import Execution, Interrupted, loop, program
from rmaat_np.training.checkpoint import save_checkpoint

SHAPE = {"d_model": 8, "num_heads": 2, "num_layers": 1, "d_ff": 8, "segment_length": 4, "num_segments": 3}
TRAIN = {"steps": 12, "batch_size": 4, "eval_every": 5, "warmup_steps": 2, "lr": 1e-2}
WORDS = [f"{i:05d}" + "xyz"[i % 3] for i in range(60)]
LABELS = [word[-1] for word in WORDS]


@pytest.fixture(scope="module")
def own():
    return rn.dataset((WORDS, LABELS), 0.2, 0.2)


def begin(folder, own, **train):
    return rn.new_run(folder, rn.Config(**own.sizes, **SHAPE, num_memory=2), own, **TRAIN | train)


def test_from_rows_to_answers(tmp_path, own, cut_for_workers):
    lines = []
    result = rn.train(begin(tmp_path / "run", own), own, workers=2, report=lines.append)
    assert result["steps"] == 12 and json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["task"] == "own"
    assert "each worker may keep caches of" in lines.pop(0) or machine.free_memory() is None
    assert len(lines) == 3 and lines[0].startswith("step 5: validation loss")
    params, cfg, codec = rn.load(tmp_path / "run")
    probabilities = rn.predict_proba(params, cfg, codec.encode(WORDS))
    assert set(codec.classes[probabilities.argmax(axis=1)]) <= {"x", "y", "z"}
    best, _, _ = rn.load(tmp_path / "run" / "best.npz")
    assert all(np.array_equal(params[name], best[name]) for name in params)  # of a run's folder, the best


def test_the_same_bits_as_the_loop_that_the_command_runs(tmp_path, own, cut_for_workers):
    rn.train(begin(tmp_path / "one", own), own, workers=2, replay_budget=0)
    loop.train(begin(tmp_path / "two", own), own, Execution(workers=2))
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_bits(tmp_path, own, monkeypatch):
    """The interrupt reaches the waiting thread, as Python's own handler would raise it there."""
    rn.train(begin(tmp_path / "whole", own), own, workers=1)
    run, waits = begin(tmp_path / "run", own), []

    def wait(futures, timeout):
        waits.append(timeout)
        while run.progress.step < 3:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(program, "wait", wait)
        with pytest.raises(Interrupted, match="saved in"):
            rn.train(run, own, workers=1)
    assert waits and 3 <= rn.load_run(tmp_path / "run").progress.step <= 12
    rn.train(rn.load_run(tmp_path / "run"), own, workers=1)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


PROGRAM = """
import signal
import rmaat_np as rn
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts a job with & leaves it ignored
words = [f"{i:05d}" + "xyz"[i % 3] for i in range(60)]
data = rn.dataset((words, [word[-1] for word in words]), 0.2, 0.2)
cfg = rn.Config(**data.sizes, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=4, num_segments=3)
run = rn.new_run("run", cfg, data, steps=1_000_000)
print("begun", flush=True)
rn.train(run, data)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send a process Ctrl-C alone")
def test_sigint_to_a_program_saves(tmp_path):
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"begun\n"
        deadline = time.monotonic() + 60
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert b"Interrupted: stopped after step" in errors.splitlines()[-1]
    assert rn.load_run(tmp_path / "run").progress.step > 0


def test_a_debugger_gets_the_loop_in_its_own_thread(tmp_path, own, monkeypatch):
    threads = []
    monkeypatch.setattr(loop, "train", lambda *_, **__: threads.append(threading.current_thread()) or {})
    run = begin(tmp_path / "run", own)
    rn.train(run, own)
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        rn.train(run, own)
    finally:
        sys.settrace(before)
    assert threads[0] is not threading.current_thread() and threads[1] is threading.current_thread()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "stepz: unknown; did you mean steps"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": "high"}, "lr is 'high'"),
    ],
)
def test_a_wrong_keyword_of_new_run(tmp_path, own, change, message):
    with pytest.raises(InputError, match=message):
        begin(tmp_path / "run", own, **change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, r"num_classes is 4, but own has 3 classes; make the Config with \*\*"),
        ({"pair": True}, r"a row has 1 document\(s\), but the model reads 2"),
        (
            {"num_segments": 1},
            r"X\[\d+\] is longer than the model: .* is 4, which 36 of the 36 rows of train exceed, with up to 6 tokens",
        ),
        ({"vocab_size": 100}, r"X\[\d+\] has a token that is not from 1 to 99"),
    ],
)
def test_a_model_that_does_not_fit_the_data(tmp_path, own, change, message):
    cfg = replace(rn.Config(**own.sizes, **SHAPE, num_memory=2), **change)
    with pytest.raises(InputError, match=message):
        rn.new_run(tmp_path / "run", cfg, own)
    assert not (tmp_path / "run").exists()


def test_other_classes_are_refused_though_the_numbers_are_the_same(tmp_path, own):
    run = begin(tmp_path / "run", own)
    other = rn.dataset((WORDS, [label.upper() for label in LABELS]), 0.2, 0.2)
    with pytest.raises(InputError, match=r"began with classes \['x', 'y', 'z'\], but the data have \['X', 'Y', 'Z'\]"):
        rn.train(run, other)


# what is shared


@pytest.fixture(scope="module")
def model(own):
    cfg = rn.Config(**own.sizes, **SHAPE, num_memory=2)
    return rn.init_params(cfg, seed=5), cfg, own.codec


def test_save_and_load(tmp_path, model, own):
    params, cfg, codec = model
    rn.save(tmp_path / "model.npz", params, cfg, codec)
    loaded, loaded_cfg, loaded_codec = rn.load(tmp_path / "model.npz")
    assert loaded_cfg == cfg and loaded_codec.to_json() == codec.to_json()
    assert loaded.keys() == params.keys() and all(np.array_equal(loaded[name], params[name]) for name in params)
    with np.load(tmp_path / "model.npz") as file:  # without pickle, by NumPy alone
        np.testing.assert_array_equal(file["params/head.weight"], params["head.weight"])
    rn.save(tmp_path / "bare.npz", params, cfg)
    assert rn.load(tmp_path / "bare.npz")[2] is None


def test_a_shared_model_is_a_third_of_a_checkpoint_and_a_start_for_fine_tuning(tmp_path, own):
    run = begin(tmp_path / "run", own)
    run.save("last.npz")
    rn.save(tmp_path / "model.npz", *rn.load(tmp_path / "run"))
    shared, whole = (arrays_of(path) for path in (tmp_path / "model.npz", tmp_path / "run" / "last.npz"))
    assert 3 * sum(array.nbytes for array in shared.values()) == sum(array.nbytes for array in whole.values())
    tuned = begin(tmp_path / "tuned", own, init=str(tmp_path / "model.npz"))
    assert all(np.array_equal(tuned.params[name], run.params[name]) for name in run.params)


def test_a_shared_model_is_no_run(tmp_path, model):
    rn.save(tmp_path / "model.npz", *model)
    with pytest.raises(InputError, match="a model without its run, as rn.save writes it"):
        rn.load_run(tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["a", "b", "c", "d"]}, "the codec has num_classes 4, but the configuration 3"),
        ({"pair": True}, "the codec has pair True, but the configuration False"),
        ({"kind": "ids", "vocab_size": 1000}, "the codec has 1000 ids, but vocab_size is 257"),
    ],
)
def test_the_codec_of_another_model(tmp_path, model, change, message):
    params, cfg, codec = model
    other = rn.Codec.from_json(codec.to_json() | change)
    with pytest.raises(InputError, match=message):
        rn.save(tmp_path / "model.npz", params, cfg, other)
    save_checkpoint(tmp_path / "model.npz", params, {}, {"config": cfg.__dict__, "codec": other.to_json()})
    with pytest.raises(InputError, match=f"model.npz: .*{message}"):
        rn.load(tmp_path / "model.npz")
    with pytest.raises(InputError, match="codec is a str, but it must be a Codec"):
        rn.save(tmp_path / "other.npz", params, cfg, "bytes")


def test_arguments_in_the_wrong_order(tmp_path, own, model):
    params, cfg, _ = model
    with pytest.raises(InputError, match="the model of a run is a tuple, but it must be a Config"):
        rn.new_run(tmp_path / "run", (WORDS, LABELS), own)
    with pytest.raises(InputError, match="train takes a Run and its Dataset, not a PosixPath"):
        rn.train(tmp_path / "run", own)
    with pytest.raises(InputError, match="X is a int, but it must be a list or array of rows"):
        rn.predict_proba(params, cfg, 5)


def test_damaged_metrics_are_told_as_a_warning(tmp_path, own):
    run = begin(tmp_path / "run", own, steps=6)
    rn.train(run, own, workers=1)
    (tmp_path / "run" / "metrics.jsonl").write_text("", encoding="utf-8")
    with pytest.warns(UserWarning, match="the lines of 6 steps are missing or damaged"):
        rn.train(rn.load_run(tmp_path / "run"), own, workers=1)


def test_what_cannot_be_saved_or_loaded(tmp_path, model):
    params, cfg, codec = model
    with pytest.raises(InputError, match="lacks parameter head.bias"):
        rn.save(tmp_path / "model.npz", {k: v for k, v in params.items() if k != "head.bias"}, cfg, codec)
    with pytest.raises(InputError, match="no such checkpoint"):
        rn.load(tmp_path / "absent.npz")
    with pytest.raises(InputError, match="no such checkpoint"):
        rn.load(tmp_path)  # an empty folder
    assert not (tmp_path / "model.npz").exists()


def test_a_codec_that_does_not_fit_is_refused_on_loading(tmp_path, model):
    params, cfg, codec = model
    meta = {"config": cfg.__dict__, "codec": codec.to_json() | {"kind": "words"}}
    save_checkpoint(tmp_path / "model.npz", params, {}, meta)
    with pytest.raises(InputError, match="model.npz: its configuration is not readable .*kind is 'words'"):
        rn.load(tmp_path / "model.npz")
