"""A number that is not finite: the step, the first array and its segment are named, and the state is kept."""

import json
import os
import signal
import sys

import numpy as np
import pytest
from helpers.runs import SIZES, arrays_of, assert_equal_runs, at_step, start

import run_lra
from rmaat_np import backend
from rmaat_np.config import Config
from rmaat_np.params import init_params
from rmaat_np.step import loss_and_grads
from rmaat_np.training import loop
from rmaat_np.training import run as runs
from rmaat_np.training.anomaly import find_anomaly, find_operation, first_not_finite

CFG = Config(
    vocab_size=9, num_classes=3, d_model=8, num_heads=2, d_ff=6, segment_length=4, num_segments=3, num_memory=2
)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def computing(name=None, factor=1.0, method="amrb", workers=1):
    """A step with one parameter multiplied, or filled where it is 0. -> a function without arguments"""
    params = init_params(CFG)
    if name is not None:
        params[name] = (params[name] if params[name].any() else params[name] + 1) * np.float32(factor)
    tokens = np.random.default_rng(0).integers(1, 9, (4, 12))
    tokens[0, 1:] = 0  # this row is read out after segment 1
    return lambda: loss_and_grads(params, CFG, tokens, np.array([0, 1, 2, 0]), method, workers=workers)


def hooks():
    return sys.getprofile(), sys.gettrace(), backend.xp


@pytest.mark.parametrize("method", ["amrb", "bptt"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "factor", "found", "operation"),
    [
        (
            "blocks.0.attn.qkv.weight",
            1e38,
            "H of astromorphic_attention_forward, segment 1, layer 0",
            ("attention.py:", "H = split_heads(phi_k_plus_r, num_heads).swapaxes(2, 3) @ split_heads(v, num_heads)"),
        ),
        (
            "blocks.1.mlp.in.weight",
            1e25,
            "dx of gelu_backward, segment 3, layer 1",
            ("layers.py:", "slope = x_part * x_part"),
        ),
        (
            "memory.norm.bias",
            2.5e38,
            "readout of segment_forward, segment ",  # 1; with two shards 3, the first shard's only readout
            ("model.py:", "readout = written[going:].mean(axis=1)"),
        ),
    ],
    ids=["forward", "backward", "between"],
)
def test_first_array_and_operation(name, factor, found, operation, method, workers):
    """The factors overflow float32 in one line each; the last of the segments is the first to go backward."""
    before, compute = hooks(), computing(name, factor, method, workers)
    anomaly = find_anomaly(compute)
    assert str(anomaly).startswith(found) and str(anomaly).endswith(", shard 0")
    assert all(fragment in find_operation(compute, anomaly) for fragment in operation)
    assert hooks() == before


@pytest.mark.parametrize("method", ["amrb", "bptt"])
def test_a_healthy_step_has_none(method):
    assert find_anomaly(computing(method=method, workers=2)) is None


def test_hooks_are_taken_away_after_an_error():
    before = hooks()
    with pytest.raises(ZeroDivisionError):
        find_anomaly(lambda: 1 / 0)
    assert hooks() == before


def test_first_not_finite():
    arrays = {"a": np.ones(2), "i": np.array([1]), "none": None, "b": np.array([1, np.inf]), "c": np.array(np.nan)}
    assert first_not_finite(arrays) == "b"
    assert first_not_finite({"a": np.float32(1)}) is None


def broken_before(monkeypatch, step, name="blocks.0.attn.qkv.weight", factor=1e38):
    """Multiply a parameter before a step."""
    original = loop.train_step

    def train_step(run, *arguments):
        if run.progress.step + 1 == step:
            run.params[name] *= np.float32(factor)
        return original(run, *arguments)

    monkeypatch.setattr(loop, "train_step", train_step)


def test_divergence_in_a_run(tmp_path, data, whole, monkeypatch):
    """The state is the one before the step, last.npz is healthy, and the run can go on from there."""
    folder, states = tmp_path / "run", []
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: states.append({k: v.copy() for k, v in run.params.items()}))
        broken_before(patch, 7)
        run = start(folder, data)
        with pytest.raises(loop.Diverged) as error:
            loop.train(run, data)
    message = str(error.value)
    assert message.startswith("step 7: loss nan, gradient norm nan; ") and "\n" not in message
    assert "first that is not finite: H of astromorphic_attention_forward, segment 1, layer 0, shard 0" in message
    assert f"python run_lra.py --resume {folder / 'diverged.npz'} --detect-anomaly names the operation" in message
    saved = runs.load_run(folder / "diverged.npz")
    assert saved.progress.step == 6
    states[0]["blocks.0.attn.qkv.weight"] *= np.float32(1e38)
    for name, array in states[0].items():
        np.testing.assert_array_equal(saved.params[name], array)
    assert all(np.isfinite(array).all() for moment in saved.state.values() for array in moment.values())
    assert all(np.isfinite(array).all() for array in arrays_of(folder / "last.npz").values())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]

    assert runs.load_run(folder).progress.step == 5
    loop.train(runs.load_run(folder), data)
    (folder / "diverged.npz").unlink()
    assert_equal_runs(folder, whole)


def test_command_names_the_operation(tmp_path, monkeypatch, capsys):
    """Either from the start or afterwards, from the state that was saved."""
    monkeypatch.chdir(tmp_path)
    fields = [part for key, value in SIZES.items() for part in ("--set", f"{key}={value}")]
    with monkeypatch.context() as patch:
        broken_before(patch, 2)
        assert run_lra.main(["--task", "recall", "--workers", "1", "--out", "run", *fields]) == 1
        first = capsys.readouterr().err
        assert run_lra.main(["--task", "recall", "--workers", "1", "--out", "r", "--detect-anomaly", *fields]) == 1
        at_once = capsys.readouterr().err
    assert "the operation" in first and "attention.py" not in first
    assert run_lra.main(["--resume", "run/diverged.npz", "--workers", "1", "--detect-anomaly"]) == 1
    for message in (at_once, capsys.readouterr().err):
        assert message.startswith("run_lra.py: step 2: loss nan") and message.count("\n") == 1
        assert "the operation: attention.py:" in message and "@ split_heads(v, num_heads)" in message
    assert run_lra.main(["--eval", "run/diverged.npz", "--workers", "1"]) == 2


def test_norm_is_the_only_thing_that_overflows(tmp_path, data, monkeypatch):
    original = loop.loss_and_grads

    def large(*arguments, **options):
        loss, grads, stats = original(*arguments, **options)
        return loss, {name: gradient * np.float32(1e20) for name, gradient in grads.items()}, stats

    monkeypatch.setattr(loop, "loss_and_grads", large)
    with pytest.raises(loop.Diverged, match="the norm itself, of finite gradients"):
        loop.train(start(tmp_path / "run", data), data)


def test_update_that_overflows_is_never_saved_as_last(tmp_path, data, monkeypatch):
    """Loss and gradients of the step are finite, but what it makes of the parameters is not."""
    folder, original = tmp_path / "run", loop.adamw_step

    def overflow(params, *arguments, **options):
        original(params, *arguments, **options)
        if run.progress.step == 9:
            params["head.bias"][0] = np.inf

    monkeypatch.setattr(loop, "adamw_step", overflow)
    run = start(folder, data)
    with pytest.raises(loop.Diverged, match="step 10: head.bias is not finite after the update"):
        loop.train(run, data)
    assert runs.load_run(folder).progress.step == 5

    run = runs.load_run(folder)
    at_step(monkeypatch, 10, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(loop.Diverged, match="head.bias is not finite after the update"):
        loop.train(run, data)
    assert runs.load_run(folder).progress.step == 5


def test_parameter_that_was_not_finite_before(tmp_path, data, monkeypatch):
    broken_before(monkeypatch, 3, "embed.token", np.inf)
    with pytest.raises(loop.Diverged, match="step 3: .*: parameter embed.token, after the update before"):
        loop.train(start(tmp_path / "run", data), data)


def test_state_that_cannot_be_saved(tmp_path, data, monkeypatch):
    folder = tmp_path / "run"
    broken_before(monkeypatch, 3)
    at_step(monkeypatch, 2, lambda: (folder / "diverged.npz").mkdir())
    with pytest.raises(loop.Diverged, match="segment 1.*the state before this step is lost .*diverged.npz"):
        loop.train(start(folder, data), data)


def test_nothing_is_watched_while_all_is_well(tmp_path, data, whole, monkeypatch):
    monkeypatch.setattr(loop, "find_anomaly", lambda *_: pytest.fail("looked for without need"))
    monkeypatch.setattr(sys, "setprofile", lambda *_: pytest.fail("watched without need"))
    loop.train(start(tmp_path / "run", data), data, detect_anomaly=True)
    assert_equal_runs(tmp_path / "run", whole)
