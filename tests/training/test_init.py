"""`--set init=CHECKPOINT`: a run that starts from another one's parameters."""

import json

import numpy as np
import pytest

import run_lra
from rmaat_np.errors import InputError
from rmaat_np.training import loop
from rmaat_np.training import run as runs
from rmaat_np.training.checkpoint import load_checkpoint, save_checkpoint

FIELDS = ("d_model=16", "num_heads=2", "num_layers=1", "d_ff=16", "segment_length=8", "num_segments=2", "num_memory=2")
FIELDS += ("class_within=8", "length=16", "eval_every=5")
TINY = ["--task", "recall", "--workers", "1", "--steps", "5", "--batch-size", "8"]
TINY += [part for field in FIELDS for part in ("--set", field)]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("first") / "run"
    assert run_lra.main([*TINY, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_parameters_are_those_of_the_checkpoint(first, tmp_path, monkeypatch, dtype):
    started = {}
    step = loop.train_step

    def remember(run, *arguments):
        started.setdefault(run.progress.step, {name: array.copy() for name, array in run.params.items()})
        return step(run, *arguments)

    monkeypatch.setattr(loop, "train_step", remember)
    arguments = ["--set", f"init={first}", "--set", f"dtype={dtype}", "--seed", "7", "--out", str(tmp_path / "run")]
    assert run_lra.main([*TINY, *arguments]) == 0
    params, state, _ = load_checkpoint(first / "last.npz")
    assert np.any(state["m"]["head.weight"] != 0)
    for name, array in params.items():
        np.testing.assert_array_equal(started[0][name], array)
        assert started[0][name].dtype == dtype
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["settings"]["train"][
        "init"
    ] == str(first)


def test_a_model_of_more_segments_repeats_the_last_row(first, tmp_path):
    """As `lengthen` does; fewer segments are refused."""
    out = tmp_path / "run"
    longer = ["--set", f"init={first}", "--set", "num_segments=4", "--set", "length=32", "--set", "lr=1e-12"]
    assert run_lra.main([*TINY, *longer, "--set", "weight_decay=0", "--out", str(out)]) == 0
    before, after = (load_checkpoint(folder / "last.npz")[0] for folder in (first, out))
    rows = before["embed.segment"]
    expected = np.concatenate([rows, rows[-1:], rows[-1:]])
    np.testing.assert_allclose(after["embed.segment"], expected, atol=1e-9)
    shorter = ["--set", f"init={out}", "--out", str(tmp_path / "shorter")]
    assert run_lra.main([*TINY, *shorter]) == 2


def test_another_model_is_refused(first, tmp_path, capsys):
    arguments = ["--set", f"init={first}", "--set", "num_memory=3", "--out", str(tmp_path / "run")]
    assert run_lra.main([*TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert "init=" in error and "memory.init has shape (2, 16)" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    assert run_lra.main([*TINY, "--set", f"init={tmp_path / 'none.npz'}", "--out", str(tmp_path / "run")]) == 2
    assert "none.npz: no such checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("start", [-1, "x", 1.5, True, None], ids=repr)
def test_the_checkpoint_knows_what_it_started_from(first, tmp_path, start):
    """After its last step too; what cannot be a checksum is refused."""
    assert run_lra.main([*TINY, "--set", f"init={first}", "--out", str(tmp_path / "run")]) == 0
    run = runs.load_run(tmp_path / "run")
    assert run.start == runs.start_checksum(load_checkpoint(first / "last.npz")[0]) != 0
    assert runs.load_run(first).start == 0 and "start" not in runs.load_run(first).record()
    params, state, meta = load_checkpoint(tmp_path / "run" / "last.npz")
    save_checkpoint(tmp_path / "run" / "last.npz", params, state, meta | {"start": start})
    with pytest.raises(InputError, match=r"last\.npz: its settings are not readable \(start is"):
        runs.load_run(tmp_path / "run")
