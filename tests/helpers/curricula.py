"""Two tiny stages of the recall probe, for the tests of --curriculum."""

from pathlib import Path

import pytest

from rmaat_np.command import options
from rmaat_np.command.actions import load_data
from rmaat_np.training import loop
from rmaat_np.training import run as runs

from .runs import assert_equal_runs

FIELDS = ("d_model=16", "num_heads=2", "num_layers=1", "d_ff=16", "segment_length=8", "num_memory=2", "class_within=8")
FIELDS += ("batch_size=8", "eval_every=3", "warmup_steps=2", "dropout=0.1")
TINY = ["--task", "recall", "--workers", "1", *(part for field in FIELDS for part in ("--set", field))]
FIRST = "[[stage]]\nsteps = 6\nlength = 16\nnum_segments = 2\nlr = 0.01\n"
SECOND = "[[stage]]\nsteps = 7\nlength = 32\nnum_segments = 4\n"
FILE = FIRST + SECOND
STAGES = ("1-stage", "2-stage")


def words(text=FILE, out="out"):
    """The command of a curriculum in the working folder."""
    Path("lengths.toml").write_text(text, encoding="utf-8")
    return [*TINY, "--curriculum", "lengths.toml", "--out", out]


def assert_equal_curricula(left, right):
    for name in STAGES:
        assert_equal_runs(Path(left) / name, Path(right) / name)


def extend_first_stage(steps, finish=True):
    """As `--resume out/1-stage --steps N` does, which may be stopped at once."""
    run = runs.load_run("out/1-stage")
    data = load_data(run.settings, options.parse_arguments(TINY))
    runs.extend(run, steps)
    if finish:
        loop.train(run, data)
        return
    with pytest.raises(loop.Interrupted):
        loop.train(run, data, should_stop=lambda: True)
