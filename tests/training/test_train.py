"""A run and its folder: what is written, and that an interrupted run goes on bit for bit as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from helpers import needs
from helpers.runs import SIZES, STEPS, arrays_of, assert_equal_runs, at_step, metrics_of, start, train_until_signal

from rmaat_np.data.batches import BatchOrder
from rmaat_np.errors import InputError
from rmaat_np.optim import learning_rate
from rmaat_np.step import predict
from rmaat_np.system import machine
from rmaat_np.training import execution, loop, metrics, scores, validation
from rmaat_np.training import run as runs
from rmaat_np.training.checkpoint import save_checkpoint
from rmaat_np.training.execution import Execution

# what a run writes


def test_files(whole):
    assert set(os.listdir(whole)) - {".lock"} == {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "best.npz",
        "last.npz",
    }


def test_metrics(whole):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps, validations = ([row for row in rows if key in row] for key in ("loss", "val_loss"))
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["step"] for row in validations] == [5, 10, 12]
    assert len(rows) == len(steps) + len(validations)
    for row in steps:
        assert row.keys() == {"step", "loss", "accuracy", "grad_norm", "lr", "seconds"}
        assert row["lr"] == learning_rate(row["step"] - 1, STEPS, 2e-3, 4)
        assert 0 < row["loss"] < 10 and row["grad_norm"] > 0 and row["accuracy"] * 8 in range(9)
    for row in validations:
        assert row.keys() == {"step", "val_loss", "val_accuracy", "val_macro_f1", "seconds", "remaining"}
        assert row["val_accuracy"] * 32 in range(33) and 0 <= row["val_macro_f1"] <= 1


def test_config_record(whole, data):
    record = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    run = runs.load_run(whole)
    assert record["config"] == asdict(run.cfg)
    assert {**record["config"], **record["settings"]["train"], **record["settings"]["data"]}.items() >= SIZES.items()
    assert record["settings"] == json.loads(json.dumps(run.settings.to_json()))
    assert (record["config"]["vocab_size"], record["config"]["num_classes"]) == (data.vocab_size, data.num_classes)
    assert record["parameters"] == sum(array.size for array in run.params.values())


def test_result(whole, data):
    result = json.loads((whole / "result.json").read_text(encoding="utf-8"))
    last, best = runs.load_run(whole), runs.load_run(whole / "best.npz")
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    top = max((row for row in rows if "val_loss" in row), key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    tested = loop.evaluate(best.params, best.cfg, data.test)
    assert result.pop("seconds") >= 0 and result.pop("tokens_per_second") > 0 and result.pop("peak_cache_bytes") > 0
    assert result.pop("seconds_per_step") > 0 and result.pop("replay_budget_bytes") == 0
    peak = result.pop("peak_memory_bytes")
    assert peak >= 0 if needs.MEASURES_MEMORY else peak is None
    assert result.pop("machine") == machine.describe() and re.fullmatch(r"\d{4}-\d\d-\d\d", result.pop("date"))
    assert result == {
        "task": "recall",
        "model": "rmaat",
        "method": "amrb",
        "test_accuracy": tested["accuracy"],
        "test_accuracy_last": loop.evaluate(last.params, last.cfg, data.test)["accuracy"],
        "val_accuracy": top["val_accuracy"],
        "best_step": top["step"],
        "majority_share": np.bincount(data.test.labels).max() / 48,
        "steps": STEPS,
        "stopped_early": False,
        "parameters": sum(array.size for array in last.params.values()),
        "seed": 0,
        "test": scores.judge(tested["predictions"], range(data.num_classes)),
    }
    assert best.progress.step == result["best_step"] and last.progress.step == STEPS
    assert last.progress.tokens == STEPS * 8 * 16


def test_train_returns_the_result(tmp_path, data):
    result = loop.train(start(tmp_path / "run", data, steps=1), data)
    assert result == json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))


# validations, each of (accuracy, macro-F1, loss), and which of them is the best by each score
VALIDATIONS = {
    ((0.1, 0.1, 3.0), (0.5, 0.2, 2.0), (0.3, 0.3, 1.0), (0.5, 0.2, 2.0)): {"accuracy": 2, "macro_f1": 3, "loss": 3},
    ((0.5, 0.1, 3.0), (0.5, 0.1, 2.0), (0.5, 0.1, 2.5), (0.4, 0.1, 1.0)): {"accuracy": 2, "macro_f1": 4, "loss": 4},
    ((0.0, 0.0, 9.0), (0.0, 0.0, 9.0), (0.0, 0.0, 9.5), (0.0, 0.0, 9.5)): {"accuracy": 1, "macro_f1": 1, "loss": 1},
}


@pytest.mark.parametrize("select", ["accuracy", "macro_f1", "loss"])
@pytest.mark.parametrize(("found", "expected"), VALIDATIONS.items(), ids=["highest", "ties", "nothing learned"])
def test_best_is_chosen_by_the_selected_score_and_ties_by_the_loss(
    tmp_path, data, monkeypatch, found, expected, select
):
    """Of those that are equal in both, the first one is kept."""
    told, best_step = iter(found), expected[select]
    original, run = loop.evaluate, start(tmp_path / "run", data, steps=4, eval_every=1, lr=0.1, select=select)

    def evaluate(params, cfg, split, workers, should_stop, ranks):
        scores = original(params, cfg, split, workers)
        chosen = dict(zip(("accuracy", "macro_f1", "loss"), next(told), strict=True)) if split is data.val else {}
        return scores | chosen

    monkeypatch.setattr(loop, "evaluate", evaluate)
    result = loop.train(run, data)
    assert (result["val_accuracy"], result["best_step"]) == (found[best_step - 1][0], best_step)
    best = runs.load_run(run.folder / "best.npz")
    progress = best.progress
    assert progress.step == best_step
    assert (progress.best_accuracy, progress.best_macro_f1, progress.best_loss) == found[best_step - 1]
    assert result["test_accuracy"] == original(best.params, best.cfg, data.test)["accuracy"]
    assert result["test_accuracy_last"] == original(run.params, run.cfg, data.test)["accuracy"]
    assert best_step == 4 or result["test_accuracy"] != result["test_accuracy_last"]


def test_every_step_has_its_own_batch_and_dropout(tmp_path, data, monkeypatch):
    calls, original = [], loop.loss_and_grads

    def loss_and_grads(params, cfg, tokens, labels, method, seed, step, *args, **options):
        calls.append((tokens, labels, seed, step))
        return original(params, cfg, tokens, labels, method, seed, step, *args, **options)

    monkeypatch.setattr(loop, "loss_and_grads", loss_and_grads)
    loop.train(start(tmp_path / "run", data, seed=3), data)
    order = BatchOrder(data.train.lengths(), 8, seed=3)
    assert [call[2:] for call in calls] == [(3, step) for step in range(STEPS)]
    for step, (tokens, labels, *_) in enumerate(calls):
        for ours, theirs in zip((tokens, labels), data.train.batch(order.rows(step)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_evaluation_is_a_mean_over_rows(whole, data, monkeypatch):
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 7)
    run = runs.load_run(whole)
    losses, hits = [], []
    for row in range(len(data.test)):
        tokens, labels = data.test.batch([row])
        logits = predict(run.params, run.cfg, tokens)[0].astype(np.float64)
        losses.append(np.log(np.exp(logits).sum()) - logits[labels[0]])
        hits.append(logits.argmax() == labels[0])
    scores = loop.evaluate(run.params, run.cfg, data.test)
    assert scores["accuracy"] == np.mean(hits)
    assert scores["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


# going on


@needs.signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 5, 7, 11, STEPS])
def test_interrupted_run_goes_on(tmp_path, data, whole, monkeypatch, step, number):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), number))
        assert train_until_signal(start(folder, data), data) == [number]
    assert runs.load_run(folder).progress.step == step
    assert not (folder / "result.json").exists()
    loop.train(runs.load_run(folder), data)
    assert_equal_runs(folder, whole)


@needs.signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("batch", "step"), [(1, 5), (3, 5), (5, 10), (9, STEPS), (11, STEPS), (15, STEPS)], ids=str)
def test_signal_during_an_evaluation(tmp_path, data, whole, monkeypatch, batch, step, number):
    """It is stopped at the next batch: in the first or second validation, the last one, or in either test."""
    folder, predictions, original = tmp_path / "run", [], loop.predict

    def predict(*arguments):
        predictions.append(None)
        if len(predictions) == batch:
            os.kill(os.getpid(), number)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "predict", predict)  # 3 times a validation, 4 times a test
        assert train_until_signal(start(folder, data), data) == [number]
    assert runs.load_run(folder).progress.step == step and not (folder / "result.json").exists()
    loop.train(runs.load_run(folder), data)
    assert_equal_runs(folder, whole)


YOUNGER = {"progress": ("best_macro_f1", "best_loss", "stale"), "train": ("select", "class_weights", "patience")}


def as_before(meta):
    """The record of a checkpoint as the program wrote it before there were scores beside the accuracy."""
    for part, names in YOUNGER.items():
        for name in names:
            del (meta["progress"] if part == "progress" else meta["settings"]["train"])[name]
    return meta


@pytest.mark.parametrize("steps_done", [5, 10, STEPS])
def test_checkpoint_from_before_there_were_other_scores(tmp_path, data, whole, monkeypatch, steps_done):
    """It is loaded and goes on to the same bits; its best one stays where a later one is only as accurate."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        if steps_done < STEPS:
            at_step(patch, steps_done + 1, lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                loop.train(start(folder, data), data)
        else:
            loop.train(start(folder, data), data)
    for name in ("last.npz", "best.npz"):
        run = runs.load_run(folder / name)
        assert name == "best.npz" or run.progress.step == steps_done
        save_checkpoint(folder / name, run.params, run.state, as_before(json.loads(json.dumps(run.record()))))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    before = runs.load_run(folder)
    assert (before.progress.best_loss, before.progress.best_macro_f1) == (-1.0, -1.0)
    assert (before.settings.train.select, before.settings.train.class_weights) == ("accuracy", "none")
    loop.train(before, data)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8")) == config
    for key, array in arrays_of(folder / "last.npz").items():
        np.testing.assert_array_equal(array, arrays_of(whole / "last.npz")[key], err_msg=key)


def test_a_tie_with_a_best_whose_loss_is_unknown(data):
    known = runs.Progress(5, 5, best_accuracy=0.5, best_step=5, best_macro_f1=0.4, best_loss=2.0)
    older = runs.Progress(5, 5, best_accuracy=0.5, best_step=5)
    tie, higher = ({"accuracy": accuracy, "macro_f1": 0.4, "loss": 1.0} for accuracy in (0.5, 0.6))
    assert [validation.is_better(tie, progress, "accuracy") for progress in (known, older)] == [True, False]
    assert [validation.is_better(higher, progress, "accuracy") for progress in (known, older)] == [True, True]


def test_checkpoint_from_before_validations_were_counted(tmp_path, data, whole):
    """It was always saved after the validation of its step, which is not done twice."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    run = runs.load_run(folder)
    meta = {"settings": run.settings.to_json(), "config": asdict(run.cfg), "progress": asdict(run.progress)}
    del meta["progress"]["validated"]
    save_checkpoint(folder / "last.npz", run.params, run.state, meta)
    loop.train(runs.load_run(folder), data)
    assert_equal_runs(folder, whole)


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": float("nan")}, {"seconds": -1.0}, {"tokens": -5}, {"best_accuracy": float("inf")}, {"best_step": -1}]
    + [{"best_macro_f1": 1.5}, {"best_loss": -2.0}, {"best_loss": float("nan")}]
    + [{"step": STEPS + 1}, {"step": 2.5}, {"peak_cache_bytes": -1}],
    ids=str,
)
def test_progress_that_cannot_be(tmp_path, whole, wrong):
    run = runs.load_run(whole)
    meta = {"settings": run.settings.to_json(), "config": asdict(run.cfg), "progress": asdict(run.progress) | wrong}
    save_checkpoint(tmp_path / "last.npz", run.params, run.state, meta)
    with pytest.raises(InputError, match="last.npz: "):
        runs.load_run(tmp_path)


def test_best_checkpoint_of_another_step(tmp_path, data, monkeypatch):
    folder = tmp_path / "run"
    loop.train(start(folder, data, eval_every=4), data)
    run = runs.load_run(folder)
    run.progress.best_step = 8
    run.save("last.npz")
    run.progress.step = run.progress.validated = run.progress.best_step = 4
    run.save("best.npz")
    with pytest.raises(InputError, match="best.npz: is of step 4, the best was step 8"):
        loop.train(runs.load_run(folder), data)


def test_killed_run_goes_on_from_its_last_checkpoint(tmp_path, data, whole, monkeypatch):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        at_step(patch, 9, kill)
        with pytest.raises(Killed):
            loop.train(start(tmp_path / "run", data), data)
    assert runs.load_run(tmp_path / "run").progress.step == 5
    loop.train(runs.load_run(tmp_path / "run"), data)
    assert_equal_runs(tmp_path / "run", whole)


def test_going_back_to_an_earlier_checkpoint(tmp_path, data, whole, monkeypatch):
    """The later steps' lines go, and so does a line that a kill cut off."""
    earlier, folder = tmp_path / "earlier", tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 8, lambda: shutil.copytree(folder, earlier))
        loop.train(start(folder, data), data)
    assert runs.load_run(earlier).progress.step == 5
    with open(earlier / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 8, "val_loss": 1.0}\n{"step": 3, "lo')
    loop.train(runs.load_run(earlier), data)
    assert_equal_runs(earlier, whole)


def test_finished_run_stays_as_it_is(tmp_path, data, whole):
    shutil.copytree(whole, tmp_path / "run")
    result = loop.train(runs.load_run(tmp_path / "run"), data)
    assert result == json.loads((whole / "result.json").read_text(encoding="utf-8"))
    assert_equal_runs(tmp_path / "run", whole)


def test_best_checkpoint_that_is_missing_is_missed_at_once(tmp_path, data, whole, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/best.npz").unlink()
    monkeypatch.setattr(loop, "evaluate", lambda *_: pytest.fail("computed before it was missed"))
    run = runs.load_run(tmp_path / "run")
    run.progress.best_step = 10  # the last step's could be made from last.npz
    with pytest.raises(InputError, match="best.npz"):
        loop.train(run, data)


def test_training_takes_no_signal_handler(tmp_path, data, monkeypatch):
    """Before, in the middle of a step, and afterwards the caller's handlers are in place."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before, during = [signal.getsignal(number) for number in numbers], []
    at_step(monkeypatch, 1, lambda: during.extend(signal.getsignal(number) for number in numbers))
    loop.train(start(tmp_path / "run", data, steps=1), data)
    assert during == before == [signal.getsignal(number) for number in numbers]


def test_training_in_a_thread(tmp_path, data, whole, capfd):
    """Any thread will do, and nothing is printed."""
    results = []
    thread = threading.Thread(target=lambda: results.append(loop.train(start(tmp_path / "run", data), data)))
    thread.start()
    thread.join(120)
    assert len(results) == 1 and results[0]["steps"] == STEPS
    assert_equal_runs(tmp_path / "run", whole)
    assert capfd.readouterr() == ("", "")


def test_no_thread_is_left_behind(tmp_path, data, monkeypatch):
    """An error keeps the frames of the loop alive, as a notebook does; the thread that reads ahead must not wait there.

    The garbage collector would end it at any moment, and hang where that is inside another executor.
    """
    before = threading.active_count()
    at_step(monkeypatch, 3, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:
        loop.train(start(tmp_path / "run", data), data)
    assert kept.value.__traceback__ is not None and threading.active_count() == before


def test_should_stop_is_asked_once_a_step_and_between_batches(tmp_path, data, monkeypatch):
    """Steps 1 to 12, and 3 batches for each of 3 validations, 4 for each of 2 tests; a last time before the test."""
    asked = []
    loop.train(start(tmp_path / "run", data), data, should_stop=lambda: asked.append(None))
    assert len(asked) == STEPS + 1 + 3 * 3 + 2 * 4


def test_what_the_caller_is_told(tmp_path, data):
    steps, lines, warnings = [], [], []
    run = start(tmp_path / "run", data)
    loop.train(run, data, on_step=steps.append, report=lines.append, warn=warnings.append)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == [row for row in rows if "loss" in row] and warnings == []
    assert [line.partition(":")[0] for line in lines] == ["step 5", "step 10", "step 12"]
    assert all(re.search(r"validation loss \d\.\d{3}, accuracy \d\.\d{3}", line) for line in lines)
    assert [line[line.index("accuracy") + 14 :] for line in lines] == [", about 1 s left"] * 2 + [""]
    (run.folder / "metrics.jsonl").unlink()
    loop.train(runs.load_run(run.folder), data, warn=warnings.append)
    assert len(warnings) == 1 and "the lines of 12 steps are missing" in warnings[0]


def test_interruption_of_an_evaluation_alone(whole, data):
    run = runs.load_run(whole)
    with pytest.raises(loop.Interrupted) as stop:
        loop.evaluate(run.params, run.cfg, data.test, should_stop=lambda: True)
    assert (stop.value.step, stop.value.folder, str(stop.value)) == (None, None, "stopped")


def test_measurements_that_are_impossible_cost_no_result(tmp_path, data, whole, monkeypatch):
    """As where /proc is missing."""
    monkeypatch.setattr(machine, "_status_bytes", lambda field: None)
    assert loop.train(start(tmp_path / "run", data), data)["peak_memory_bytes"] is None
    assert_equal_runs(tmp_path / "run", whole)


def test_picture_that_cannot_be_drawn_costs_one_line(tmp_path, data, whole, monkeypatch, capfd):
    def broken(*_):
        raise RuntimeError("the font is gone")

    monkeypatch.setattr(loop, "draw_curve", metrics.draw_curve)
    monkeypatch.setattr(metrics, "_draw", broken)
    loop.train(start(tmp_path / "run", data), data)
    assert capfd.readouterr().err == f"{tmp_path / 'run' / 'curve.png'} is not drawn: the font is gone\n"
    assert not (tmp_path / "run" / "curve.png").exists()
    assert_equal_runs(tmp_path / "run", whole)


# equal runs


@pytest.mark.parametrize(
    ("overrides", "options"),
    [({}, {}), ({"method": "bptt"}, {}), ({}, {"replay_budget": 2**30}), ({}, {"auto_budget": True})],
    ids=["again", "bptt", "replay budget", "automatic budget"],
)
def test_runs_that_are_equal_bit_for_bit(tmp_path, data, whole, overrides, options):
    loop.train(start(tmp_path / "run", data, **overrides), data, Execution(**options))
    for key, array in arrays_of(tmp_path / "run/last.npz").items():
        np.testing.assert_array_equal(array, arrays_of(whole / "last.npz")[key], err_msg=key)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def test_an_automatic_budget_is_told_saved_and_spent(tmp_path, data, whole, monkeypatch):
    """Of memory for one more cache, one more is kept. BPTT, and a model of one segment, have nothing to replay."""
    monkeypatch.setattr(execution, "free_memory", lambda: 4 * 2**20)
    lines, automatic = [], Execution(auto_budget=True)
    result = loop.train(start(tmp_path / "run", data), data, automatic, report=lines.append)
    assert lines[0].startswith("each worker may keep caches of 1 MiB, ") and "1/4 of the free memory" in lines[0]
    assert result["replay_budget_bytes"] == 2**20
    before = json.loads((whole / "result.json").read_text(encoding="utf-8"))
    assert before["replay_budget_bytes"] == 0 and result["peak_cache_bytes"] > before["peak_cache_bytes"]
    for name, changes in {"bptt": {"method": "bptt"}, "one": {"num_segments": 1, "segment_length": 16}}.items():
        lines.clear()
        result = loop.train(start(tmp_path / name, data, **changes), data, automatic, report=lines.append)
        assert result["replay_budget_bytes"] == 0 and lines[0].startswith("step ")


def test_two_workers_are_deterministic(tmp_path, data, whole, cut_for_workers):
    for name in ("one", "two"):
        loop.train(start(tmp_path / name, data), data, Execution(workers=2))
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    losses = [
        [
            row["loss"]
            for row in map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
            if "loss" in row
        ]
        for folder in (tmp_path / "one", whole)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_float64_stays_float64(tmp_path, data):
    loop.train(start(tmp_path / "run", data, steps=2, dtype="float64"), data)
    assert {array.dtype for array in arrays_of(tmp_path / "run/last.npz").values()} == {np.dtype("float64")}


# what is refused


def test_folder_that_holds_a_run(data, whole):
    before = (whole / "config.json").read_bytes()
    with pytest.raises(InputError, match="already holds a run.*--resume.*--out"):
        start(whole, data, seed=1)
    assert (whole / "config.json").read_bytes() == before


def test_second_process_in_a_folder(tmp_path, data, whole, monkeypatch):
    """It is refused, and nothing of the first one's is touched."""
    folder, messages = tmp_path / "run", []
    second = start(folder, data, seed=1)  # started at the same time: the folder was empty

    def intrude():
        with pytest.raises(InputError) as error:
            loop.train(second, data)
        messages.append(str(error.value))

    with monkeypatch.context() as patch:
        at_step(patch, 3, intrude)
        loop.train(start(folder, data), data)
    assert len(messages) == 1 and str(folder) in messages[0] and "another process" in messages[0]
    intrude()  # the first one has ended, and the second still takes the folder for empty
    assert "already holds a run" in messages[1]
    assert_equal_runs(folder, whole)
    assert (folder / "config.json").read_bytes() == (whole / "config.json").read_bytes()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence(tmp_path, data):
    run = start(tmp_path / "run", data, lr=1e30, warmup_steps=0, eval_every=1)
    with pytest.raises(loop.Diverged) as error:
        loop.train(run, data)
    message = str(error.value)
    assert message.startswith(f"step {error.value.step}: ") and "nan" in message and "\n" not in message
    assert "--" not in message and "run_lra" not in message, "advice on commands is the command's"
    assert not (tmp_path / "run/result.json").exists()


# the picture


def test_curve(whole, tmp_path):
    pytest.importorskip("matplotlib")
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    assert metrics.draw_curve(tmp_path)
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_no_matplotlib_no_curve(whole, tmp_path, monkeypatch, capsys):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    assert not metrics.draw_curve(tmp_path)
    error = capsys.readouterr().err
    assert "curve.png" in error and "pip install matplotlib" in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_running_mean():
    np.testing.assert_array_equal(metrics.running_mean(np.arange(7.0), 3), [1.0, 4.0])
    np.testing.assert_array_equal(metrics.running_mean(np.arange(3.0), 1), [0.0, 1.0, 2.0])
