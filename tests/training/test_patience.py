"""Runs that end before their last step, and runs that get another one."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers.runs import STEPS, arrays_of, assert_equal_runs, at_step, metrics_of, start

from rmaat_np.data import recall
from rmaat_np.errors import InputError
from rmaat_np.optim import learning_rate
from rmaat_np.training import loop, validation
from rmaat_np.training import run as runs
from rmaat_np.training.settings import TrainConfig

NOTHING = {"lr": 1e-12, "eval_every": 2}  # steps that bring nothing better


def result_of(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def validated(folder):
    return [row["step"] for row in metrics_of(folder) if "val_loss" in row]


@pytest.fixture
def no_better(monkeypatch):
    """Every validation is as good as the first one."""
    original = loop.evaluate

    def evaluate(*arguments):
        return original(*arguments) | {"accuracy": 0.5, "macro_f1": 0.5, "loss": 1.0}

    monkeypatch.setattr(loop, "evaluate", evaluate)


# patience


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_training_ends_after_so_many_validations_without_a_better_one(tmp_path, data, no_better, patience):
    lines = []
    run = start(tmp_path / "run", data, eval_every=2, patience=patience)
    result = loop.train(run, data, report=lines.append)
    ended = 2 + 2 * patience
    assert validated(run.folder) == list(range(2, ended + 1, 2))
    assert (result["steps"], result["best_step"], result["stopped_early"]) == (ended, 2, True)
    assert result == result_of(run.folder)
    assert lines[-1].endswith(f"; none of the last {patience} was better than step 2, so training ends")
    assert runs.load_run(run.folder).settings.train.steps == STEPS


def test_patience_begins_when_the_rows_have_grown(tmp_path, data, no_better):
    """Long rows, of which validation may be full, are read late."""
    run = start(tmp_path / "run", data, eval_every=1, patience=2, grow=0.5)
    assert loop.train(run, data)["steps"] == STEPS // 2 + 2


def test_a_better_one_in_between_begins_the_count_anew(tmp_path, data, monkeypatch):
    accuracies, original = iter([0.1, 0.1, 0.3, 0.2, 0.2, 0.9]), loop.evaluate

    def evaluate(params, cfg, split, *rest):
        found = original(params, cfg, split, *rest) | {"loss": 1.0}
        return found | {"accuracy": next(accuracies)} if split is data.val else found

    monkeypatch.setattr(loop, "evaluate", evaluate)
    result = loop.train(start(tmp_path / "run", data, eval_every=2, patience=2), data)
    assert (result["steps"], result["best_step"], result["stopped_early"]) == (10, 6, True)


def test_without_patience_a_run_goes_on_to_its_last_step(tmp_path, data, no_better):
    result = loop.train(start(tmp_path / "run", data, eval_every=1), data)
    assert (result["steps"], result["stopped_early"]) == (STEPS, False)


def test_patience_that_runs_out_at_the_last_step_ends_nothing_early(tmp_path, data, no_better):
    result = loop.train(start(tmp_path / "run", data, eval_every=4, patience=2), data)
    assert (result["steps"], result["stopped_early"]) == (STEPS, False)


def test_a_run_that_ended_early_does_not_train_on(tmp_path, data, no_better, monkeypatch):
    folder = tmp_path / "run"
    result = loop.train(start(folder, data, eval_every=2, patience=1), data)
    shutil.copytree(folder, tmp_path / "before")
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail("trained on"))
    assert loop.train(runs.load_run(folder), data) == result
    assert_equal_runs(folder, tmp_path / "before")


@pytest.mark.parametrize("step", [3, 5])
def test_the_count_outlives_a_kill(tmp_path, data, no_better, monkeypatch, step):
    options = {"eval_every": 2, "patience": 2}
    loop.train(start(tmp_path / "whole", data, **options), data)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        at_step(patch, step, lambda: 1 / 0)
        loop.train(start(tmp_path / "run", data, **options), data)
    loop.train(runs.load_run(tmp_path / "run"), data)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def test_patience_that_cannot_be():
    with pytest.raises(InputError, match="patience is -1, but it must be at least 0"):
        TrainConfig(patience=-1)


# what remains


@pytest.mark.parametrize(("step", "expected"), [(5, 15 * 2.0 + 4 * 7), (8, 12 * 2.0 + 3 * 7), (20, 0.0), (0, 5 * 7)])
def test_what_remains(step, expected):
    """Steps of 2 s, and validations of 7 s after steps 4, 8, 12, 16 and 20."""
    settings = TrainConfig(steps=20, eval_every=4)
    progress = runs.Progress(step=step, seconds=2.0 * step)
    assert validation.seconds_left(progress, settings, 7.0) == expected


def test_the_last_validation_counts_where_it_is_no_multiple():
    settings = TrainConfig(steps=10, eval_every=4)  # 4, 8, 10
    assert validation.seconds_left(runs.Progress(step=4, seconds=4.0), settings, 100.0) == 6 + 200
    assert validation.seconds_left(runs.Progress(step=8, seconds=8.0), settings, 100.0) == 2 + 100


def test_lines_of_metrics_say_how_long_they_took(whole):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(0 < row["seconds"] < 60 for row in rows)
    assert [row["remaining"] > 0 for row in rows if "val_loss" in row] == [True, True, False]
    total = sum(row["seconds"] for row in rows if "loss" in row)
    assert runs.load_run(whole).progress.seconds == pytest.approx(total)


def test_metrics_of_before_there_were_times(tmp_path, data, whole):
    """They are kept as they are, and the run goes on."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    old = "".join(json.dumps(row) + "\n" for row in metrics_of(whole))
    (folder / "metrics.jsonl").write_text(old, encoding="utf-8", newline="")
    warnings = []
    loop.train(runs.load_run(folder), data, warn=warnings.append)
    assert warnings == [] and (folder / "metrics.jsonl").read_text(encoding="utf-8") == old
    assert_equal_runs(folder, whole)


# other last steps


def extended(folder, steps):
    run = runs.load_run(folder)
    runs.extend(run, steps)
    return run


def test_a_finished_run_goes_on(tmp_path, data, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    result = loop.train(extended(folder, 20), data)
    assert (result["steps"], result["stopped_early"]) == (20, False) and result == result_of(folder)
    rows = metrics_of(folder)
    before = metrics_of(whole)
    assert rows[: len(before)] == before and validated(folder) == [5, 10, 12, 15, 20]
    rates = [row["lr"] for row in rows if "loss" in row]
    assert rates[STEPS:] == [learning_rate(step, 20, 2e-3, 4) for step in range(STEPS, 20)]
    assert min(rates[STEPS : STEPS + 3]) > rates[STEPS - 1], "the schedule takes up where the longer one stands"
    run = runs.load_run(folder)
    assert run.settings.train.steps == 20 and run.progress.step == 20
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["settings"] == run.settings.to_json()


@pytest.mark.parametrize("kill_at", [13, 17, 20])
def test_an_extended_run_that_is_killed_goes_on_by_itself(tmp_path, data, whole, monkeypatch, kill_at):
    """Its files hold the new number of steps from the start, and no result of the shorter run."""
    for name in ("run", "unbroken"):
        shutil.copytree(whole, tmp_path / name)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        at_step(patch, kill_at, lambda: 1 / 0)
        loop.train(extended(tmp_path / "run", 20), data)
    assert not (tmp_path / "run/result.json").exists()
    assert runs.load_run(tmp_path / "run").settings.train.steps == 20
    loop.train(runs.load_run(tmp_path / "run"), data)
    loop.train(extended(tmp_path / "unbroken", 20), data)
    assert_equal_runs(tmp_path / "run", tmp_path / "unbroken")


def test_an_interrupted_run_can_be_longer_or_shorter(tmp_path, data, monkeypatch):
    for name, steps in (("longer", 15), ("shorter", 9), ("here", 7)):
        folder, stop = tmp_path / name, []
        with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
            at_step(patch, 7, lambda stop=stop: stop.append(True))
            loop.train(start(folder, data), data, should_stop=lambda stop=stop: bool(stop))
        result = loop.train(extended(folder, steps), data)
        assert result["steps"] == steps and validated(folder)[-1] == steps


def test_fewer_steps_than_are_done_are_refused(whole):
    run = runs.load_run(whole)
    with pytest.raises(InputError, match="steps is 11, but the run has done 12"):
        runs.extend(run, 11)
    for wrong in ("x", 0, 2.5):
        with pytest.raises(InputError, match="steps is"):
            runs.extend(run, wrong)
    assert run.settings.train.steps == STEPS


def test_other_data_cost_the_finished_run_nothing(tmp_path, data, whole):
    """Extended, too: its result and its checkpoint stay as they are."""
    before = {path: path.read_bytes() for path in whole.iterdir()}
    other = recall.load(8, 16, seed=1, rows=(64, 32, 48))
    with pytest.raises(InputError, match="began with other data"):
        loop.train(extended(whole, 20), other)
    with pytest.raises(InputError, match="already holds a run"):
        loop.train(replace(runs.load_run(whole), progress=runs.Progress(), data={}), other)
    assert {path: path.read_bytes() for path in whole.iterdir()} == before


def test_a_run_that_ended_early_goes_on_when_it_gets_more_steps(tmp_path, data, no_better):
    """The patience begins anew."""
    folder = tmp_path / "run"
    assert loop.train(start(folder, data, eval_every=2, patience=2), data)["steps"] == 6
    result = loop.train(extended(folder, 30), data)
    assert (result["steps"], result["stopped_early"]) == (10, True)


def test_the_same_bits_as_a_run_of_that_length_from_the_step_where_the_schedules_agree(tmp_path, data, monkeypatch):
    """During the warm-up the rate does not depend on the length."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        at_step(patch, 4, lambda: 1 / 0)
        loop.train(start(folder, data, eval_every=3), data)
    loop.train(extended(folder, 15), data)
    loop.train(start(tmp_path / "whole", data, eval_every=3, steps=15), data)
    for key, array in arrays_of(folder / "last.npz").items():
        np.testing.assert_array_equal(array, arrays_of(tmp_path / "whole/last.npz")[key], err_msg=key)
