"""--compare: several models with the same data and steps, one table; what is finished is never done again."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

import run_lra
from rmaat_np.errors import InputError
from rmaat_np.training import compare, compare_table

SCRIPT = Path(run_lra.__file__)
FIELDS = ("d_model=16", "num_heads=2", "num_layers=1", "d_ff=16", "segment_length=8", "num_segments=2", "num_memory=2")
FIELDS += ("class_within=8", "length=16", "eval_every=5")
TINY = ["--task", "recall", "--workers", "2", "--steps", "10", "--batch-size", "8"]
TINY += [part for field in FIELDS for part in ("--set", field)]
VARIANTS = "rmaat,rmt+method=amrb"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a finished comparison: two variants, two seeds."""
    out = tmp_path_factory.mktemp("compared") / "out"
    assert run_lra.main([*TINY, "--compare", VARIANTS, "--seeds", "2", "--out", str(out)]) == 0
    return out


def row(variant, seed, accuracy, peak=2**20):
    """A finished run's row, as compare.rows_of makes it."""
    fixed = {"task": "recall", "preset": "quick", "steps": 10, "batch_size": 8, "majority_share": 0.1}
    fixed |= {"machine": "a machine", "runs_at_a_time": 1, "date": "2026-01-02", "command": "python run_lra.py"}
    measured = {"seconds_per_step": 0.02, "tokens_per_second": 1000, "peak_memory_bytes": peak, "parameters": 1234}
    return {"variant": variant, "seed": seed, "test_accuracy": accuracy} | fixed | measured


def test_one_row_for_each_variant_and_seed(compared):
    rows = json.loads((compared / "table.json").read_text())
    assert [(r["variant"], r["seed"]) for r in rows] == [
        ("rmaat", 0), ("rmt+method=amrb", 0), ("rmaat", 1), ("rmt+method=amrb", 1),
    ]  # fmt: skip
    for r in rows:
        assert r["method"] == "amrb" and r["steps"] == 10 and 0 <= r["test_accuracy"] <= 1
        assert r["seconds_per_step"] > 0 and r["tokens_per_second"] > 0 and r["parameters"] > 0
        assert r["peak_memory_bytes"] > r["peak_cache_bytes"] / 2 > 0
    text = (compared / "table.md").read_text()
    assert "| `rmaat` |" in text and "| `rmt+method=amrb` |" in text and "Not run" not in text
    assert (compared / "table.png").read_bytes().startswith(b"\x89PNG")


def test_a_compared_run_is_the_run_that_trains_alone(compared, tmp_path):
    arguments = [*TINY, "--workers", "1", "--model", "rmt", "--method", "amrb", "--seed", "1"]
    assert run_lra.main([*arguments, "--out", str(tmp_path / "alone")]) == 0
    alone = json.loads((tmp_path / "alone" / "result.json").read_text())
    together = json.loads((compared / "rmt+method=amrb-seed1" / "result.json").read_text())
    for name in ("test_accuracy", "val_accuracy", "best_step", "parameters", "steps"):
        assert alone[name] == together[name], name


def test_what_is_finished_is_not_done_again(compared):
    files = {path: path.stat().st_mtime_ns for path in compared.glob("*/result.json")}
    (compared / "rmaat-seed1" / "result.json").unlink()
    before = json.loads((compared / "table.json").read_text())
    assert run_lra.main([*TINY, "--compare", VARIANTS, "--seeds", "2", "--out", str(compared)]) == 0
    changed = [path.parent.name for path, time in files.items() if path.stat().st_mtime_ns != time]
    assert changed == ["rmaat-seed1"]
    after = json.loads((compared / "table.json").read_text())
    assert [r["test_accuracy"] for r in after] == [r["test_accuracy"] for r in before]


def test_interrupted_and_gone_on_with(tmp_path):
    arguments = [*TINY, "--steps", "400", "--set", "eval_every=200", "--compare", "rmaat,at", "--out"]
    command = [sys.executable, SCRIPT, *arguments, tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out" / "rmaat-seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "go on with: python run_lra.py" in stderr.splitlines()[-1] and "Traceback" not in stderr
    assert (tmp_path / "out" / "rmaat-seed0" / "last.npz").exists()
    assert "Not run: " in (tmp_path / "out" / "table.md").read_text()
    assert run_lra.main([*arguments, str(tmp_path / "out")]) == 0
    assert run_lra.main([*arguments, str(tmp_path / "whole")]) == 0
    results = [json.loads((tmp_path / folder / "table.json").read_text()) for folder in ("out", "whole")]
    assert [r["test_accuracy"] for r in results[0]] == [r["test_accuracy"] for r in results[1]]


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, capsys):
    assert run_lra.main([*TINY, "--compare", "rmaat+lr=1e30,rmaat", "--out", str(tmp_path / "out")]) == 1
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Not run: rmaat+lr=1e30-seed0 (step " in text and "| `rmaat` |" in text
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--compare", "rmaat,,rmt"], "'' is not MODEL"),
        (["--compare", "rmaat,rmaat"], "rmaat is there twice"),
        (["--compare", "../rmaat"], "is not MODEL"),
        (["--compare", "rmaaat"], "--model rmaaat: unknown"),
        (["--compare", "rmaat+retention=no"], "retention"),
        (["--compare", "rmaat+seed=3"], "--compare rmaat+seed=3: seed must be the same for all"),
        (["--compare", "rmaat+steps=20,rmt"], "--compare rmaat+steps=20: steps must be the same for all"),
        (["--compare", "rmaat,rmt+class_within=4"], "class_within must be the same for all"),
        (["--compare", "rmaat,rmt+segment_length=3"], "--compare rmt+segment_length=3: recall has rows of up to 16"),
        (["--compare", "rmaat,rmt+init=nowhere.npz"], "--compare rmt+init=nowhere.npz: nowhere.npz: "),
        (["--compare", "rmaat+"], "--compare rmaat+: "),
        (["--compare", "rmaat", "--seeds", "0"], "--seeds 0"),
        (["--compare", "rmaat", "--set", "seed=x"], "seed"),
        (["--compare", "rmaat", "--model", "rmt"], "--model"),
        (["--compare", "rmaat", "--resume", "runs/x"], "--resume"),
        (["--seeds", "2"], "--compare"),
    ],
)
def test_wrong_options_are_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_lra.main([*TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_settings_is_refused(compared, capsys):
    arguments = [*TINY, "--steps", "11", "--compare", "rmaat", "--out", str(compared)]
    assert run_lra.main(arguments) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_comparison_is_not_resumed_as_a_run(compared, capsys):
    assert run_lra.main(["--resume", str(compared)]) == 2
    assert "a comparison, not a run" in capsys.readouterr().err
    assert run_lra.main([*TINY, "--out", str(compared)]) == 2
    assert "holds a comparison" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ['{"test_acc', "5", "null", "[" * 100_000, '{"peak_memory_bytes": 1}'], ids=lambda t: t[:20]
)
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match="result.json: is not readable; remove"):
        job_in(tmp_path).result()


def job_in(folder):
    """A job whose folder is the given one."""
    (job,) = compare.make_jobs(folder, "recall", "quick", "rmaat", 1, {})
    return replace(job, folder=folder)


@pytest.mark.parametrize(
    "damage",
    [
        {"peak_memory_bytes": "x"}, {"test_accuracy": 17}, {"test_accuracy": None}, {"steps": True},
        {"seconds_per_step": float("nan")}, {"parameters": -5}, {"machine": 3}, {"seconds": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_result_of_wrong_values_is_damaged(compared, tmp_path, damage):
    result = json.loads((compared / "rmaat-seed0" / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert job_in(tmp_path).result() == result
    (tmp_path / "result.json").write_text(json.dumps(result | damage))
    with pytest.raises(InputError, match="result.json: is not readable; remove"):
        job_in(tmp_path).result()


def test_a_table_tells_how_each_run_was_made_not_how_it_was_written(compared):
    """Two at a time, although nothing is left to do for one at a time; and the day of the run, not of the file."""
    os.utime(compared / "rmaat-seed0" / "result.json", (0, 0))
    before = json.loads((compared / "table.json").read_text())
    arguments = [*TINY, "--workers", "1", "--compare", VARIANTS, "--seeds", "2", "--out", str(compared)]
    assert run_lra.main(arguments) == 0
    after = json.loads((compared / "table.json").read_text())
    assert [r["runs_at_a_time"] for r in after] == [2] * 4 and [r["date"] for r in after] == [r["date"] for r in before]


def test_a_comparison_does_not_go_into_a_runs_folder(tmp_path, capsys):
    (tmp_path / "last.npz").write_bytes(b"")
    assert run_lra.main([*TINY, "--compare", "rmaat", "--out", str(tmp_path)]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_nobody_at_the_other_end_of_stdout_ends_no_comparison(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, SCRIPT, *TINY, "--compare", "rmaat,rmt", "--out", tmp_path / "out"]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert process.returncode == 0 and process.stderr == ""
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())) == 2


def test_table_of_rows():
    rows = [row("a", 0, 0.50), row("a", 1, 0.54, peak=3 * 2**20), row("b", 0, 0.51), row("b", 1, 0.51, peak=None)]
    lines = compare_table.markdown_table(rows).splitlines()
    assert lines[2] == "| `a` | **52.0 ± 2.8** | 2 | 20 | 1,000 | 3 | 1,234 |"
    assert lines[3] == "| `b` | 51.0 ± 0.0 | 2 | 20 | 1,000 | 1 | 1,234 |"
    text = compare_table.markdown(rows, {"c-seed0": "not yet"})
    assert text.endswith("Not run: c-seed0 (not yet)\n") and "majority class 10.0 %" in text
    assert mean(r["test_accuracy"] for r in compare_table.by_variant(rows)["a"]) == 0.52
    tie = compare_table.markdown_table([row("a", 0, 0.5001), row("b", 0, 0.5002), row("c", 0, 0.40)]).splitlines()
    assert "**50.0**" in tie[2] and "**50.0**" in tie[3] and "**" not in tie[4]
    assert "**" not in compare_table.markdown_table([row("a", 0, 0.50)])
