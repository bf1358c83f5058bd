"""Training whose first steps read short rows."""

import pytest
from helpers.runs import STEPS, assert_equal_runs, at_step, metrics_of, start

from rmaat_np.data import memory
from rmaat_np.training import loop
from rmaat_np.training import run as runs


@pytest.fixture(scope="module")
def rows():
    """The memory probe, with rows of 1 to 16 tokens."""
    return memory.load("last", length=16, rows=(400, 16, 16))


def longest_read(monkeypatch, run, data):
    """Train to the end. -> the tokens of the longest row of every step"""
    longest, original = [], loop.train_step

    def train_step(run, tokens, *rest):
        longest.append(tokens.shape[1])
        return original(run, tokens, *rest)

    monkeypatch.setattr(loop, "train_step", train_step)
    loop.train(run, data)
    return longest


def test_rows_grow_in_the_share_of_the_steps_that_is_asked_for(tmp_path, rows, monkeypatch):
    longest = longest_read(monkeypatch, start(tmp_path / "run", rows, grow=0.75), rows)
    limits = [1 + 15 * (step + 1) / 9 for step in range(9)]
    assert len(longest) == STEPS and all(tokens <= limit for tokens, limit in zip(longest, limits, strict=False))


def test_without_growth_all_rows_are_read_from_the_start(tmp_path, rows):
    for name, options in (("plain", {}), ("zero", {"grow": 0.0}), ("grown", {"grow": 0.5})):
        loop.train(start(tmp_path / name, rows, **options), rows)
    assert metrics_of(tmp_path / "plain") == metrics_of(tmp_path / "zero") != metrics_of(tmp_path / "grown")


@pytest.mark.parametrize("step", [1, 5, 9, 11])
def test_a_run_that_is_stopped_while_it_grows_goes_on_bit_for_bit(tmp_path, rows, monkeypatch, step):
    loop.train(start(tmp_path / "whole", rows, grow=0.75), rows)
    stop = []
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        at_step(patch, step, lambda: stop.append(True))
        loop.train(start(tmp_path / "run", rows, grow=0.75), rows, should_stop=lambda: bool(stop))
    loop.train(runs.load_run(tmp_path / "run"), rows)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def test_with_another_number_of_steps_the_growth_follows_it(tmp_path, rows, monkeypatch):
    folder = tmp_path / "run"
    loop.train(start(folder, rows, grow=0.75), rows)
    run = runs.load_run(folder)
    runs.extend(run, 100)
    longest = longest_read(monkeypatch, run, rows)
    assert max(longest[:20]) <= 1 + 15 * 32 / 75, "after step 12 of 100 the rows are short again"
