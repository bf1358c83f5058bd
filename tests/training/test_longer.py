"""Test rows that are longer than those of training: what is read, told and written."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from helpers.runs import assert_equal_runs

import rmaat_np as rn
import run_lra
from rmaat_np.data import memory
from rmaat_np.training import loop
from rmaat_np.training import run as runs
from rmaat_np.training.longer import read_longer
from rmaat_np.training.settings import resolve

SIZES = {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_ff": 16, "segment_length": 8, "num_segments": 2}
SIZES |= {"num_memory": 2, "steps": 6, "eval_every": 3, "batch_size": 8, "warmup_steps": 2, "length": 16}
SIZES |= {"class_within": 8, "test_lengths": "40 8 1600"}
SHORT = SIZES | {"test_lengths": "40 8 80"}
COMMAND = ["--task", "memory", "--workers", "1"]
COMMAND += [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def rows():
    """Rows of 1 to 16 tokens, and longer test rows, 30 of each length."""
    data = memory.load("last", 8, length=16, rows=(100, 16, 16), test_lengths=SIZES["test_lengths"])
    return replace(data, longer={tokens: split.take(np.arange(30)) for tokens, split in data.longer.items()})


def start(folder, rows, **overrides):
    return runs.new_run(folder, resolve("memory", "quick", "rmaat", SIZES | overrides), rows)


def result_of(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def without_times(longer):
    kept = ("accuracy", "rows", "segments")
    return {tokens: {name: told[name] for name in kept} for tokens, told in longer.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, rows):
    """-> the folder of a finished run, what it reported, what its result says of the longer rows."""
    folder, lines = tmp_path_factory.mktemp("longer") / "run", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curve", lambda folder: None)
        patch.setattr(loop, "EVALUATION_BATCH", 12)
        result = loop.train(start(folder, rows), rows, report=lines.append, warn=lambda line: pytest.fail(line))
    assert result_of(folder) == result
    return folder, lines, result["longer"]


def test_the_best_checkpoint_is_read_on_every_longer_split(finished, rows):
    folder, lines, longer = finished
    params, cfg, _ = rn.load(folder)
    for tokens, split in rows.longer.items():
        told = longer[str(tokens)]
        longer_params, longer_cfg = rn.lengthen(params, cfg, max(2, tokens // 8))
        logits = rn.predict(longer_params, longer_cfg, split.batch(np.arange(len(split)))[0])
        accuracy = (logits.argmax(axis=1) == split.labels).mean()
        assert without_times(longer)[str(tokens)] == {
            "accuracy": accuracy,
            "rows": len(split),
            "segments": tokens // 8,
        }
        assert told["seconds"] >= 0
        length = f"{tokens // 8:,} segment{'s' if tokens > 8 else ''}, {tokens:,} tokens"
        place = lines.index(f"{length}: reading {len(split):,} rows")  # told before, for it may take minutes
        assert lines[place + 1] == f"{length}: accuracy {accuracy:.3f} of {len(split):,} rows"
    assert list(longer) == ["40", "8", "1600"] and len(lines) == 2 + 2 * 3


def test_a_task_without_longer_rows_says_nothing_of_them(tmp_path):
    plain = memory.load("last", 8, length=16, rows=(100, 16, 16))
    assert "longer" not in loop.train(start(tmp_path / "run", plain, test_lengths=""), plain)


def test_a_segment_embedding_is_warned_of_once(tmp_path, rows):
    warnings = []
    loop.train(start(tmp_path / "run", rows, segment_embedding=True), rows, warn=warnings.append)
    (line,) = warnings
    assert line.startswith("segments 3 to 200 take the row of embed.segment that segment 2 learned")


def test_a_stop_between_two_batches_of_longer_rows_loses_nothing(tmp_path, rows, finished, monkeypatch):
    asked = []
    run = start(tmp_path / "run", rows)
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted) as stop:
        patch.setattr(loop, "measurements", lambda *_: pytest.fail("was not stopped"))
        loop.train(run, rows, report=asked.append, should_stop=lambda: len(asked) == 3)  # after the first split's line
    assert stop.value.step == 6 and not (tmp_path / "run/result.json").exists()
    result = loop.train(runs.load_run(tmp_path / "run"), rows)
    assert without_times(result["longer"]) == without_times(finished[2])


@pytest.mark.parametrize("most", [1, 6_400, 16_001])
def test_a_batch_has_no_more_tokens_than_fit(rows, finished, monkeypatch, most):
    params, cfg, _ = rn.load(finished[0])
    shapes, original = [], loop._judge_batch

    def judge_batch(params, cfg, tokens, *rest):
        shapes.append(tokens.shape)
        return original(params, cfg, tokens, *rest)

    monkeypatch.setattr(loop, "_judge_batch", judge_batch)
    monkeypatch.setattr(loop, "EVALUATION_TOKENS", most)
    found = read_longer(params, cfg, rows, loop.evaluate, loop.ignore, loop.ignore)
    assert without_times(found) == without_times(finished[2])
    assert all(count == 1 or count * tokens <= most for count, tokens in shapes)
    assert sum(count for count, _ in shapes) == sum(map(len, rows.longer.values()))
    assert max(count for count, tokens in shapes if tokens == 1600) == max(1, min(12, most // 1600))


def test_reading_needs_no_memory_beside_the_tokens():
    """Of a row that is ten times as long: 4 bytes of a token in the batch, and truths about each."""
    cfg = rn.Config(27, 10, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=64, segment_embedding=False)
    params, peaks = rn.init_params(cfg), []
    for tokens in (10_000, 100_000):
        data = memory.load("one", rows=(1, 1, 1), test_lengths=str(tokens))
        data.longer[tokens] = data.longer[tokens].take(np.arange(4))
        tracemalloc.start()
        read_longer(params, cfg, data, loop.evaluate, loop.ignore, loop.ignore)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 8 * 4 * 90_000


def test_the_command_evaluates_and_resumes_longer_rows(tmp_path, capsys):
    out = tmp_path / "run"
    assert run_lra.main([*COMMAND, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "\n10 segments, 80 tokens: accuracy 0." in said
    longer = without_times(result_of(out)["longer"])
    assert run_lra.main(["--eval", str(out), "--workers", "1"]) == 0
    said, told = capsys.readouterr()
    assert without_times(json.loads(said)["longer"]) == longer and "10 segments, 80 tokens" in told
    assert run_lra.main(["--eval", str(out), "--workers", "1", "--set", "test_lengths=160"]) == 0  # of any length
    found = json.loads(capsys.readouterr().out)["longer"]
    assert list(found) == ["160"] and found["160"]["segments"] == 20
    assert run_lra.main(["--resume", str(out), "--workers", "1"]) == 0
    assert without_times(result_of(out)["longer"]) == longer


def test_a_comparison_shows_longer_rows_and_has_flat_ones(tmp_path):
    out = tmp_path / "both"
    assert run_lra.main([*COMMAND, "--compare", "rmaat,rmt", "--out", str(out)]) == 0
    rows = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert len(rows) == 2 and not any(isinstance(value, dict) for row in rows for value in row.values())
    for row in rows:
        longer = result_of(out / f"{row['variant']}-seed0")["longer"]
        assert [row[f"test_accuracy_at_{n}"] for n in (8, 40, 80)] == [longer[n]["accuracy"] for n in ("8", "40", "80")]
    assert "| 40 tokens, % | 8 tokens, % | 80 tokens, % |" in (out / "table.md").read_text(encoding="utf-8")


def test_runs_with_longer_rows_are_the_runs_without_them(tmp_path, rows, finished):
    """But for the result."""
    plain = memory.load("last", 8, length=16, rows=(100, 16, 16))
    loop.train(start(tmp_path / "run", plain), plain)
    whole = result_of(tmp_path / "run") | {"longer": finished[2]}
    (tmp_path / "run/result.json").write_text(json.dumps(whole), encoding="utf-8")
    assert_equal_runs(tmp_path / "run", finished[0])
