"""A number that is not finite: step, gradient and, if asked for, operation are named, and the state is kept."""

import json
import shlex
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers.calls import COMMAND
from helpers.runs import SIZES, STEPS, arrays_of, assert_equal_runs, at_step, start

import run_lra
from rmaat_np import backend
from rmaat_np.command import actions, options
from rmaat_np.config import Config
from rmaat_np.params import init_params
from rmaat_np.step import loss_and_grads
from rmaat_np.system import machine
from rmaat_np.training import divergence, loop
from rmaat_np.training import run as runs
from rmaat_np.training.divergence import find_operation, first_not_finite
from rmaat_np.training.execution import Execution

CFG = Config(
    vocab_size=9, num_classes=3, d_model=8, num_heads=2, d_ff=6, segment_length=4, num_segments=3, num_memory=2
)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def computing(factors=None, method="amrb", **switches):
    """A step with parameters multiplied, or filled where they are 0. -> loss_and_grads as a function of its options"""
    cfg = replace(CFG, **switches)
    params = init_params(cfg)
    for name, factor in (factors or {}).items():
        params[name] = (params[name] if params[name].any() else params[name] + 1) * np.float32(factor)
    tokens = np.random.default_rng(0).integers(1, 9, (4, 12))
    tokens[0, 1:] = 0  # this row is read out after segment 1
    return partial(loss_and_grads, params, cfg, tokens, np.array([0, 1, 2, 0]), method, 0, 0)


OUT = [f"blocks.{layer}.{name}.out.weight" for layer in (0, 1) for name in ("attn", "mlp")]
SILENT = dict.fromkeys(["memory.init", *OUT], 0)  # what is read out is 0 then, so that only a gradient can be large


@pytest.mark.parametrize("method", ["amrb", "bptt"])
@pytest.mark.parametrize(
    ("factors", "operation", "where"),
    [
        ({"blocks.0.attn.qkv.weight": 1e38}, ("attention.py:", "H = ", " @ "), "forward of segment 1"),
        ({"blocks.1.mlp.in.weight": 1e25}, ("layers.py:", "s = x_rows * x_rows"), "forward of segment 1"),
        ({"memory.norm.bias": 2.5e38}, ("model.py:", "readout = ", ".mean(axis=1)"), "forward of segment 1"),
        ({"head.weight": 3e38}, ("layers.py:", " @ w"), "backward of segment 3"),
        (SILENT | {"head.weight": 3e37}, ("layers.py:", "dx *= rstd"), "backward of segment 3"),
    ],
    ids=["attention", "gelu", "readout", "head", "backward"],
)
def test_first_operation(factors, operation, where, method):
    """The factors overflow float32 in one line each. The last of the segments is the first to go backward."""
    found = find_operation(computing(factors, method))
    assert found.endswith(f", {where}, shard 1")
    assert all(fragment in found for fragment in operation), found


def test_operation_in_a_later_segment():
    """Its embedding alone is infinite."""
    step = computing()
    step.args[0]["embed.segment"][1] = np.inf
    assert find_operation(step).endswith(", forward of segment 2, shard 1")


@pytest.mark.parametrize("method", ["amrb", "bptt"])
@pytest.mark.parametrize(
    "switches",
    [{}, {"attention": "softmax"}, {"use_astro": False}, {"norm": "post", "dropout": 0.3}, {"retention": "online"}]
    + [{"pooling": "mean", "num_memory": 0}, {"alpha": 0.5, "use_feedback": False}],
    ids=str,
)
def test_a_healthy_step_has_none(method, switches):
    assert find_operation(computing(method=method, **switches)) is None


def test_how_numpy_treats_errors_is_as_before():
    before = np.geterr(), np.geterrcall()
    find_operation(computing({"memory.norm.bias": 2.5e38}))
    with pytest.raises(ZeroDivisionError):
        find_operation(lambda **_: 1 / 0)
    assert (np.geterr(), np.geterrcall()) == before


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
    assert (error.value.step, error.value.operation) == (7, None)
    assert np.isnan(error.value.loss) and np.isnan(error.value.gradient_norm)
    assert error.value.checkpoint == folder / "diverged.npz"
    assert str(error.value) == (
        f"step 7: loss nan, gradient norm nan; the first that is not finite: the gradient of embed.token; "
        f"the state before this step is in {folder / 'diverged.npz'}"
    )
    saved = runs.load_run(folder / "diverged.npz")
    assert saved.progress.step == 6
    states[0]["blocks.0.attn.qkv.weight"] *= np.float32(1e38)
    for name, array in states[0].items():
        np.testing.assert_array_equal(saved.params[name], array)
    assert all(np.isfinite(array).all() for moment in saved.state.values() for array in moment.values())
    assert all(np.isfinite(array).all() for array in arrays_of(folder / "last.npz").values())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]

    assert runs.load_run(folder).progress.step == 5
    loop.train(runs.load_run(folder), data)
    (folder / "diverged.npz").unlink()
    assert_equal_runs(folder, whole)


def test_command_names_the_operation(tmp_path, monkeypatch, capsys):
    """Either from the start or afterwards, from the state that was saved, by the command that is printed."""
    monkeypatch.chdir(tmp_path)
    fields = [part for key, value in SIZES.items() for part in ("--set", f"{key}={value}")]
    with monkeypatch.context() as patch:
        broken_before(patch, 2)
        assert run_lra.main(["--task", "recall", "--workers", "1", "--out", "a run", *fields]) == 1
        first = capsys.readouterr().err
        assert run_lra.main(["--task", "recall", "--workers", "1", "--out", "r", "--detect-anomaly", *fields]) == 1
        at_once = capsys.readouterr().err
    assert first.startswith("run_lra.py: step 2: loss nan") and first.count("\n") == 1 and "attention.py" not in first
    assert first.endswith(" names the operation; start again with a lower --lr or clip_norm\n")
    words = shlex.split(first.partition(f"; {COMMAND} ")[2].partition(" names the operation")[0])
    assert words == ["--resume", "a run/diverged.npz", "--workers", "1", "--detect-anomaly"]
    assert run_lra.main(words) == 1
    for message in (at_once, capsys.readouterr().err):
        assert message.startswith("run_lra.py: step 2: loss nan") and message.count("\n") == 1
        assert "the operation: attention.py:" in message and "H = " in message and "names the operation" not in message
        assert ", forward of segment 1, shard 1; " in message
    assert run_lra.main(["--eval", "a run/diverged.npz", "--workers", "1"]) == 2


def test_with_cupy_the_operation_is_not_looked_for(tmp_path, data, monkeypatch):
    """CuPy has no floating-point flags; the command says to use NumPy."""
    monkeypatch.setattr(backend, "name", "cupy")
    monkeypatch.setattr(divergence, "find_operation", lambda _: pytest.fail("looked for without flags"))
    monkeypatch.setattr(machine.PeakMemory, "__init__", lambda self, device: self.__dict__.update(_meter=NoMeter()))
    monkeypatch.chdir(tmp_path)
    broken_before(monkeypatch, 2)
    with pytest.raises(loop.Diverged) as error:
        loop.train(start(tmp_path / "run", data), data, Execution(backend="cupy", detect_anomaly=True))
    assert error.value.operation is None and error.value.checkpoint is not None
    where = ["--backend", "cupy", "--tf32", "--workers", "1", "--detect-anomaly"]
    message = actions.explain(error.value, options.parse_arguments(where))
    command = f"{COMMAND} --resume {tmp_path}/run/diverged.npz --workers 1 --detect-anomaly"
    assert f"{command} names the operation (which needs --backend numpy)" in message


class NoMeter:
    """Stands for the meter of a device that is not there."""

    def start(self):
        pass

    def peak(self):
        return None

    def stop(self):
        pass


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
    with pytest.raises(loop.Diverged, match="step 10: the first that is not finite: head.bias, after the update"):
        loop.train(run, data)
    assert runs.load_run(folder).progress.step == 5

    run = runs.load_run(folder)
    with pytest.raises(loop.Diverged, match="first that is not finite: head.bias, after the update; last.npz holds"):
        loop.train(run, data, should_stop=lambda: run.progress.step == 10)
    assert runs.load_run(folder).progress.step == 5


def test_parameter_that_was_not_finite_before(tmp_path, data, monkeypatch):
    broken_before(monkeypatch, 3, "embed.token", np.inf)
    monkeypatch.setattr(divergence, "find_operation", lambda _: pytest.fail("no operation of this step did it"))
    with pytest.raises(loop.Diverged, match="step 3: .*: parameter embed.token, after the update before") as error:
        loop.train(start(tmp_path / "run", data), data, Execution(detect_anomaly=True))
    assert not error.value.repeatable and error.value.checkpoint is not None
    assert actions.explain(error.value, options.parse_arguments([])).count("--") == 1, "only a lower --lr helps"


def test_state_that_cannot_be_saved(tmp_path, data, monkeypatch):
    folder = tmp_path / "run"
    broken_before(monkeypatch, 3)
    at_step(monkeypatch, 2, lambda: (folder / "diverged.npz").mkdir())
    with pytest.raises(loop.Diverged, match="segment 1.*the state before this step is lost .*diverged.npz") as error:
        loop.train(start(folder, data), data, Execution(detect_anomaly=True))
    assert error.value.checkpoint is None


def test_nothing_is_watched_while_all_is_well(tmp_path, data, whole, monkeypatch):
    monkeypatch.setattr(loop, "diverged", lambda *_: pytest.fail("looked for without need"))
    monkeypatch.setattr(divergence, "find_operation", lambda _: pytest.fail("repeated without need"))
    observers, original = [], loop.loss_and_grads

    def loss_and_grads(*arguments, **options):
        observers.append(options.get("observer"))
        return original(*arguments, **options)

    monkeypatch.setattr(loop, "loss_and_grads", loss_and_grads)
    loop.train(start(tmp_path / "run", data), data, Execution(detect_anomaly=True))
    assert observers == [None] * STEPS
    assert_equal_runs(tmp_path / "run", whole)
