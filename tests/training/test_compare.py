"""--compare: several models with the same data and steps, one table; what is finished is never done again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import pytest
from helpers import needs
from helpers.calls import COMMAND

import run_lra
from rmaat_np.command import actions, options
from rmaat_np.command.compare import argv_of
from rmaat_np.errors import InputError
from rmaat_np.training import compare, compare_table, execution

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
    rows = json.loads((compared / "table.json").read_text(encoding="utf-8"))
    assert [(r["variant"], r["seed"]) for r in rows] == [
        ("rmaat", 0), ("rmt+method=amrb", 0), ("rmaat", 1), ("rmt+method=amrb", 1),
    ]  # fmt: skip
    for r in rows:
        assert r["method"] == "amrb" and r["steps"] == 10 and 0 <= r["test_accuracy"] <= 1
        assert r["seconds_per_step"] > 0 and r["tokens_per_second"] > 0 and r["parameters"] > 0
        assert not needs.MEASURES_MEMORY or r["peak_memory_bytes"] > r["peak_cache_bytes"] / 2 > 0
    text = (compared / "table.md").read_text(encoding="utf-8")
    assert "| `rmaat` |" in text and "| `rmt+method=amrb` |" in text and "Not run" not in text
    assert (compared / "table.png").read_bytes().startswith(b"\x89PNG")


def test_a_compared_run_is_the_run_that_trains_alone(compared, tmp_path):
    arguments = [*TINY, "--workers", "1", "--model", "rmt", "--method", "amrb", "--seed", "1"]
    assert run_lra.main([*arguments, "--out", str(tmp_path / "alone")]) == 0
    alone = json.loads((tmp_path / "alone" / "result.json").read_text(encoding="utf-8"))
    together = json.loads((compared / "rmt+method=amrb-seed1" / "result.json").read_text(encoding="utf-8"))
    for name in ("test_accuracy", "val_accuracy", "best_step", "parameters", "steps"):
        assert alone[name] == together[name], name


def test_what_is_finished_is_not_done_again(compared):
    files = {path: path.stat().st_mtime_ns for path in compared.glob("*/result.json")}
    (compared / "rmaat-seed1" / "result.json").unlink()
    before = json.loads((compared / "table.json").read_text(encoding="utf-8"))
    assert run_lra.main([*TINY, "--compare", VARIANTS, "--seeds", "2", "--out", str(compared)]) == 0
    changed = [path.parent.name for path, time in files.items() if path.stat().st_mtime_ns != time]
    assert changed == ["rmaat-seed1"]
    after = json.loads((compared / "table.json").read_text(encoding="utf-8"))
    assert [r["test_accuracy"] for r in after] == [r["test_accuracy"] for r in before]


def test_a_comparison_of_before_a_setting_existed_goes_on(compared, tmp_path):
    """config.json lacks the settings that are younger than it: they had what is now their default."""
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    for path in out.glob("*/config.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name in ("select", "class_weights", "patience"):
            del record["settings"]["train"][name]
        path.write_text(json.dumps(record), encoding="utf-8")
    assert run_lra.main([*TINY, "--compare", VARIANTS, "--seeds", "2", "--out", str(out)]) == 0
    with pytest.raises(InputError, match="belongs to a run with other settings"):
        compare.make_jobs(out, "recall", "quick", VARIANTS, 2, overrides_of_tiny() | {"patience": 3})


def overrides_of_tiny():
    return options.overrides_of(options.parse_arguments([*TINY, "--compare", VARIANTS]))


def test_rows_of_the_table_are_flat(compared):
    for r in json.loads((compared / "table.json").read_text(encoding="utf-8")):
        assert not [name for name, value in r.items() if isinstance(value, dict | list)]


@needs.signals
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
    assert f"go on with: {COMMAND} " in stderr.splitlines()[-1] and "Traceback" not in stderr
    assert (tmp_path / "out" / "rmaat-seed0" / "last.npz").exists()
    assert "Not run: rmaat-seed0 (not finished); " in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert run_lra.main([*arguments, str(tmp_path / "out")]) == 0
    assert run_lra.main([*arguments, str(tmp_path / "whole")]) == 0
    results = [
        json.loads((tmp_path / folder / "table.json").read_text(encoding="utf-8")) for folder in ("out", "whole")
    ]
    assert [r["test_accuracy"] for r in results[0]] == [r["test_accuracy"] for r in results[1]]


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, capsys):
    assert run_lra.main([*TINY, "--compare", "rmaat+lr=1e30,rmaat", "--out", str(tmp_path / "out")]) == 1
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
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
        (["--compare", "rmaat,rmt+patience=2"], "patience must be the same for all"),
        (["--compare", "rmaat,rmt+class_within=4"], "class_within must be the same for all"),
        (
            ["--compare", "rmaat,rmt+segment_length=3"],
            "--compare rmt+segment_length=3: recall, train split: row 1 is longer than",
        ),
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
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
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
    result = json.loads((compared / "rmaat-seed0" / "result.json").read_text(encoding="utf-8"))
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert job_in(tmp_path).result() == result
    (tmp_path / "result.json").write_text(json.dumps(result | damage), encoding="utf-8")
    with pytest.raises(InputError, match="result.json: is not readable; remove"):
        job_in(tmp_path).result()


def test_a_table_tells_how_each_run_was_made_not_how_it_was_written(compared):
    """Two at a time, although nothing is left to do for one at a time; and the day of the run, not of the file."""
    os.utime(compared / "rmaat-seed0" / "result.json", (0, 0))
    before = json.loads((compared / "table.json").read_text(encoding="utf-8"))
    arguments = [*TINY, "--workers", "1", "--compare", VARIANTS, "--seeds", "2", "--out", str(compared)]
    assert run_lra.main(arguments) == 0
    after = json.loads((compared / "table.json").read_text(encoding="utf-8"))
    assert [r["runs_at_a_time"] for r in after] == [2] * 4 and [r["date"] for r in after] == [r["date"] for r in before]


def test_the_command_line_of_a_run_gives_its_settings_back(tmp_path):
    """Whatever text is in them; and once there is a checkpoint, the run is resumed."""
    where = ["--data-dir", "my data", "--cache-dir", tmp_path, "--replay-budget", "1.5", "--workers", "3"]
    arguments = options.parse_arguments([*map(str, where), "--compare", "rmaat"])
    folder = tmp_path / "a b"
    for text in ("", "a b/c.npz", "quote ' and \"", "back\\slash", "line\nend", "Zoë"):
        overrides = {"init": text, "lr": 1e-05, "use_astro": False, "class_within": 7, "method": "bptt"}
        (job,) = compare.make_jobs(folder, "recall", "quick", "rmt", 1, overrides)
        argv = argv_of(job, arguments)
        assert argv[:2] == [sys.executable, str(SCRIPT)]
        run = options.parse_arguments(argv[2:])
        assert actions.chosen_settings(run) == job.settings and job.settings.train.init == text
        assert (run.out, run.data_dir, run.cache_dir) == (job.folder, Path("my data"), tmp_path)
        assert (run.workers, run.replay_budget, run.backend) == (1, 1.5, "numpy")
    job.folder.mkdir(parents=True)
    (job.folder / "last.npz").touch()
    run = options.parse_arguments(argv_of(job, arguments)[2:])
    assert run.replay_budget == 1.5
    assert (run.resume, run.out, run.set, run.data_dir) == (job.folder, None, [], Path("my data"))


def test_the_runs_of_a_comparison_keep_no_more_than_they_are_told(tmp_path, monkeypatch):
    """Its table compares memory. If the budget is automatic, the runs at a time share it."""
    monkeypatch.setattr(execution, "free_memory", lambda: 80 * 2**20)
    (job,) = compare.make_jobs(tmp_path, "recall", "quick", "rmt", 1, {})
    for given, budget in (([], 0), (["--replay-budget", "auto"], 5), (["--replay-budget", "3"], 3)):
        arguments = options.parse_arguments([*given, "--compare", "rmaat", "--workers", "4"])
        assert options.parse_arguments(argv_of(job, arguments)[2:]).replay_budget == budget


def test_memory_that_could_not_be_measured_costs_no_run(compared, tmp_path):
    """Its cell is a dash."""
    out = shutil.copytree(compared, tmp_path / "out")
    for path in out.glob("rmaat-seed*/result.json"):
        path.write_text(
            json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"peak_memory_bytes": None}), encoding="utf-8"
        )
    assert run_lra.main([*TINY, "--compare", VARIANTS, "--seeds", "2", "--out", str(out)]) == 0
    text = (out / "table.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| `rmaat` |"))
    assert line.split(" | ")[5] == "—" and "Not run" not in text


def test_a_comparison_of_an_older_program_stays_readable(compared, tmp_path):
    """Its results say themselves how many runs there were at a time."""
    out = shutil.copytree(compared, tmp_path / "out")
    for path in out.glob("*/result.json"):
        path.write_text(
            json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"runs_at_a_time": 7}), encoding="utf-8"
        )
    before = {path: path.read_bytes() for path in out.glob("*/result.json")}
    (out / "table.json").write_text("[]", encoding="utf-8")
    assert run_lra.main([*TINY, "--compare", VARIANTS, "--seeds", "2", "--out", str(out)]) == 0
    assert [r["runs_at_a_time"] for r in json.loads((out / "table.json").read_text(encoding="utf-8"))] == [7] * 4
    assert {path: path.read_bytes() for path in out.glob("*/result.json")} == before


@pytest.mark.parametrize("content", ["", "[1]", "{}", "[" * 100_000, '[{"variant": "rmaat"}]'], ids=lambda t: t[:20])
def test_a_damaged_table_is_written_anew(compared, tmp_path, content):
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "table.json").write_text(content, encoding="utf-8")
    assert run_lra.main([*TINY, "--compare", VARIANTS, "--seeds", "2", "--out", str(out)]) == 0
    assert len(json.loads((out / "table.json").read_text(encoding="utf-8"))) == 4


@needs.sessions
def test_a_run_of_a_comparison_is_a_session_of_its_own(tmp_path):
    """Ctrl-C in a terminal goes to the foreground's process group. stderr's last line says why a run failed."""
    (job,) = compare.make_jobs(tmp_path, "recall", "quick", "rmaat", 1, {})
    code = "import os, sys; print('noise' * 9999, file=sys.stderr); sys.exit(f'x.py: {os.getsid(0) == os.getpid()}')"
    assert compare.close(compare.start(job, [sys.executable, "-c", code])) == {job.name: "True"}
    silent = compare.start(job, [sys.executable, "-c", "raise SystemExit(7)"])
    assert compare.close(silent) == {job.name: "ended with exit code 7"}
    killed = "import os, sys; print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    assert compare.close(compare.start(job, [sys.executable, "-c", killed])) == {job.name: "ended with exit code -9"}


@pytest.mark.parametrize("console", [True, False])
def test_a_run_is_asked_to_stop_as_windows_can(monkeypatch, console):
    """Only CTRL_BREAK_EVENT reaches another process there, and only through a console."""
    sent = []

    def send_signal(number):
        if not console:
            raise OSError(6, "The handle is invalid")
        sent.append(number)

    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", "break", raising=False)
    compare.ask_to_stop(SimpleNamespace(send_signal=send_signal, terminate=lambda: sent.append("ended")))
    assert sent == (["break"] if console else ["ended"])


def test_progress_is_read_from_the_files(tmp_path):
    (job,) = compare.make_jobs(tmp_path, "recall", "quick", "rmaat", 1, {"steps": 10})
    assert job.steps_done() == 0
    job.folder.mkdir()
    lines = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.25}\n'
    (job.folder / "metrics.jsonl").write_bytes(lines + b'{"step": 3, "lo')
    assert job.steps_done() == 2
    (job.folder / "metrics.jsonl").write_bytes(lines * 1000 + b'{"step": 3, "val_loss": 2.0, "val_accuracy": 0.5}\n')
    assert job.steps_done() == 3
    (job.folder / "result.json").touch()
    assert job.steps_done() == 10


def test_a_table_whose_picture_cannot_be_drawn(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(compare_table, "_draw", broken)
    assert not compare_table.draw_table([row("a", 0, 0.5)], tmp_path / "table.png")
    assert capsys.readouterr().err == f"{tmp_path / 'table.png'} is not drawn: no font\n"


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
    assert len(json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))) == 2


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


def test_longer_rows_are_the_last_columns():
    rows = [row("a", seed, 0.5) | {"test_accuracy_at_8192": accuracy} for seed, accuracy in ((0, 0.2), (1, 0.4))]
    lines = compare_table.markdown_table([*rows, row("b", 0, 0.6)]).splitlines()
    assert lines[0].endswith("| parameters | 8,192 tokens, % |") and lines[1].count("|") == lines[0].count("|")
    assert lines[2].endswith("| 1,234 | 30.0 ± 14.1 |") and lines[3].endswith("| 1,234 | — |")
