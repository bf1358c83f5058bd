"""The benchmark's tables and options, from rows that it would measure; no timing here."""

import json
import os
import sys
from pathlib import Path

import pytest

from rmaat_np.benchmark import __main__ as benchmark
from rmaat_np.benchmark import measure, tables

ROUNDS = [{"tokens_per_second": speed, "seconds": 1 / speed, "peak_bytes": 2**21} for speed in (90.0, 120.0, 100.0)]


def row(config, contender, speed, peak):
    """A row of one round."""
    return {"config": config, "contender": contender, "tokens_per_second": speed, "rounds": [speed], "peak_mib": peak}


ROWS = [row("small", "amrb", 1500, 20.0), row("small", "torch", 1000, 100.0), row("lra", "amrb", 900, 30.0)]
ROWS += [{"config": "lra", "contender": "torch", "error": "killed"}]


def test_medians_over_the_rounds():
    found = tables.summarise(ROUNDS)
    assert found["tokens_per_second"] == 100 and found["slowest"] == 90 and found["fastest"] == 120
    assert found["rounds"] == [90, 120, 100]
    assert found["peak_mib"] == 2.0 and found["seconds_per_step"] == 0.01


def test_an_error_of_any_round_is_the_result():
    assert tables.summarise([*ROUNDS, {"error": "out of memory"}]) == {"error": "out of memory"}


def test_targets_compare_speed_and_memory():
    checked = tables.check_targets(ROWS)
    assert [(r["config"], r["what"], r["speed"], r["memory"], r["met"]) for r in checked] == [
        ("small", "amrb / torch", 1.5, 0.2, False)
    ]
    good = [row("small", "amrb", 1710, 20.0), row("small", "torch", 1000, 100.0)]
    slow = [row("small", "amrb", 1690, 20.0), row("small", "torch", 1000, 100.0)]
    large = [row("small", "amrb", 1710, 26.0), row("small", "torch", 1000, 100.0)]
    assert tables.check_targets(good)[0]["met"]
    assert [tables.check_targets(rows)[0]["met"] for rows in (slow, large)] == [False, False]


def test_a_ratio_of_speeds_is_the_median_over_the_rounds_and_has_a_spread():
    """Within a round the machine is as busy for the one as for the other."""
    ours = row("small", "amrb", 200, 20.0) | {"rounds": [100, 200, 600]}
    theirs = row("small", "torch", 100, 100.0) | {"rounds": [100, 50, 200]}
    (checked,) = tables.check_targets([ours, theirs])
    assert checked["speed"] == 3.0 and checked["spread"] == [1.0, 4.0] and checked["met"]
    assert tables.target_table([checked]).splitlines()[2].endswith("| 3.00 (1.00 to 4.00) |")


def test_a_quarter_of_the_memory_has_a_replay_budget_of_its_configuration(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(benchmark, "measure", lambda contender, batch, cfg, conditions: asked.append(conditions))
    for contender in ("amrb-quarter", "amrb"):
        request = {"work": "measure", "contender": contender, "config": "lra", "conditions": {"threads": 2}}
        benchmark._do_request(request)
    assert [conditions.replay_budget for conditions in asked] == [measure.QUARTERS["lra"], 0] and asked[0].threads == 2
    assert set(measure.QUARTERS) == set(measure.CONFIGS)
    with pytest.raises(SystemExit) as stop:
        benchmark.parse_arguments(["--long", "long.png", "--contenders", "amrb-quarter"])
    assert stop.value.code == 2 and "--contenders amrb-quarter" in capsys.readouterr().err


def test_the_compiler_begins_with_nothing_on_the_disk(monkeypatch):
    """What an earlier benchmark compiled would hide how long the compiler takes."""
    folders = []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/kept")

    def process(*request):
        if request[0] == "measure":
            folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return fake_process(*request)

    monkeypatch.setattr(benchmark, "in_own_process", process)
    monkeypatch.setattr(benchmark, "torch_is_installed", lambda: True)
    assert benchmark.main(["--configs", "small", "--rounds", "2", "--contenders", "torch-compile"]) == 0
    assert "/kept" not in folders and len(set(folders)) == 1 and not Path(folders[0]).exists()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/kept"


def test_speed_table_has_a_column_for_each_contender():
    assert tables.speed_table(ROWS).splitlines() == [
        "|  |  | amrb | torch |",
        "|---|---|---|---|",
        "| small | tokens/s | 1,500 | 1,000 |",
        "|  | peak MiB | 20 | 100 |",
        "| lra | tokens/s | 900 | killed |",
        "|  | peak MiB | 30 |  |",
    ]


def test_target_table_has_a_line_for_each_target():
    assert tables.target_table(tables.check_targets(ROWS)).splitlines()[2:] == [
        "| speed, amrb / torch | at least 1.7 | 1.50 (1.50 to 1.50) |",
        "| memory, amrb / torch | at most 0.25 | 0.20 |",
    ]


def test_configurations_have_targets_of_their_own():
    rows = [row(config, name, speed, 10.0) for config in ("small", "lra", "wide") for name, speed in
            (("amrb-library", 1350), ("torch", 1000), ("torch-compile", 1200))]  # fmt: skip
    one, two = (" | ".join([f"{ratio} ({ratio} to {ratio})"] * 3) for ratio in ("1.35", "1.12"))
    assert tables.target_table(tables.check_targets(rows)).splitlines() == [
        "|  | target | small | lra | wide |",
        "|---|---|---|---|---|",
        f"| speed, amrb-library / torch | at least 1.7, 1.45, 1.3 | {one} |",
        "| memory, amrb-library / torch | at most 0.25 | 1.00 | 1.00 | 1.00 |",
        f"| speed, amrb-library / torch-compile | at least 1.3, 1.1 | {two} |",
        "| memory, amrb-library / torch-compile |  | 1.00 | 1.00 | 1.00 |",
    ]


def test_only_the_first_round_tells_how_long_compiling_takes():
    rounds = [result | {"compile_seconds": seconds} for result, seconds in zip(ROUNDS, (61.23, 9, 8), strict=True)]
    assert tables.summarise(rounds)["compile_seconds"] == 61.2 and "compile_seconds" not in tables.summarise(ROUNDS)


def test_a_library_call_keeps_no_memory_from_step_to_step(monkeypatch):
    calls = []
    monkeypatch.setattr(measure, "keep_freed_memory", lambda: calls.append(1))
    batch, cfg = measure.configuration("long:1024")
    for contender, count in (("amrb-library", 0), ("amrb", 1)):
        measure.measure(contender, batch, cfg, measure.Conditions(threads=1, steps=1))
        assert len(calls) == count


def test_the_compiler_works_before_the_clock_starts(monkeypatch):
    """And before memory is measured."""
    steps, batch_and_cfg = [], measure.configuration("long:1024")
    monkeypatch.setattr(measure, "_make_step", lambda *_: lambda number: steps.append(number) or 0.0)
    monkeypatch.setattr(measure, "give_back_freed_memory", lambda: steps.append("give back"))
    found = measure.measure("torch-compile", *batch_and_cfg, measure.Conditions(threads=1, steps=2))
    assert steps == [0, "give back", 0, 1, 2] and found["compile_seconds"] >= 0


def test_a_memory_that_is_not_told_is_a_dash():
    found = tables.summarise([ROUNDS[0] | {"peak_bytes": None}, *ROUNDS])
    assert found["peak_mib"] is None and found["tokens_per_second"] == 95
    rows = [row("small", "amrb", 1500, None), row("small", "torch", 1000, None)]
    assert tables.speed_table(rows).splitlines()[3] == "|  | peak MiB | — | — |"
    checked = tables.check_targets(rows)
    assert checked[0]["memory"] is None and not checked[0]["met"]
    assert tables.target_table(checked).splitlines()[3] == "| memory, amrb / torch | at most 0.25 |  |"
    assert tables.long_table([row("long:1024", "amrb", 2 * 10**5, None)]).splitlines()[2] == "| 1,024 | —, 5.0 µs |"


def test_a_measurement_in_a_process_of_its_own():
    conditions = measure.Conditions(threads=1, steps=2, seconds=5)
    found = benchmark.in_own_process("measure", "amrb", "long:1024", conditions)
    assert found["seconds"] > 0 and json.dumps(found)
    assert found["peak_bytes"] is None or found["peak_bytes"] > 2**20


def test_a_measurement_without_proc(without_proc):
    batch, cfg = measure.configuration("long:1024")
    found = measure.measure("amrb", batch, cfg, measure.Conditions(threads=1, steps=1))
    assert found["seconds"] > 0 and found["peak_bytes"] is None


def test_an_error_of_a_process_is_one_line():
    found = benchmark.in_own_process("measure", "amrb", "long:1024", measure.Conditions(threads=0))
    assert found["error"].startswith("rmaat_np.benchmark: workers") and "\n" not in found["error"]


def fake_process(work, contender, config, conditions):
    """Stands for `in_own_process`: nothing is measured."""
    return {"gradients": 1e-15} if work == "agreement" else dict(ROUNDS[0])


def test_the_command_prints_tables_and_writes_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "in_own_process", fake_process)
    monkeypatch.setattr(benchmark, "torch_is_installed", lambda: True)
    path = tmp_path / "rows.json"
    assert benchmark.main(["--configs", "small", "--rounds", "2", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "| small | tokens/s | 90 |" in out and "speed, amrb / torch | at least 1.7 | 1.00" in out
    assert "keep all freed memory from step to step: amrb, amrb-quarter, bptt, torch, torch-compile, " in out
    assert "keep up to 64 MiB of freed memory from step to step: amrb-library\n" in out
    assert "gradients from PyTorch's" in out
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [found["contender"] for found in written["rows"]] == list(tables.CONTENDERS)
    assert [found["keeps_freed_memory"] for found in written["rows"]] == ["all", "up to 64 MiB of", *["all"] * 7]
    assert set(written) == {"machine", "blas", "threads", "backend", "dtype", "tf32", "rows", "agreement"}


def test_without_pytorch_the_package_is_measured_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "in_own_process", fake_process)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert benchmark.main(["--configs", "small", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("PyTorch is not installed") == 1
    assert (
        "|  |  | amrb | amrb-library | amrb-quarter | bptt |" in out and "gradients" not in out and "target" not in out
    )


def test_pytorch_that_is_asked_for_but_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "in_own_process", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--contenders", "amrb", "torch-skip"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "--contenders torch-skip" in error and "pip install torch" in error


def test_long_sequences_are_drawn_and_a_contender_that_failed_is_left_out(tmp_path, monkeypatch, capsys):
    asked = []

    def process(work, contender, config, conditions):
        asked.append((contender, config))
        return {"error": "killed"} if contender == "bptt" else dict(ROUNDS[0])

    monkeypatch.setattr(benchmark, "in_own_process", process)
    monkeypatch.setattr(benchmark, "LONG_LENGTHS", [1024, 2048])
    picture = tmp_path / "long.png"
    assert benchmark.main(["--long", str(picture), "--contenders", "amrb", "bptt"]) == 0
    assert asked == [("amrb", "long:1024"), ("bptt", "long:1024"), ("amrb", "long:2048")]
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "| long:1024 | bptt | killed |  |" in out and out.index("long:2048") < out.index("| tokens | amrb | bptt |")


def test_a_picture_that_cannot_be_drawn_costs_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(benchmark, "in_own_process", fake_process)
    picture, rows = tmp_path / "long.png", tmp_path / "rows.json"
    assert benchmark.main(["--long", str(picture), "--contenders", "amrb", "--json", str(rows)]) == 0
    out, err = capsys.readouterr()
    assert "| tokens | amrb |" in out and err.startswith(f"{picture} is not drawn: ") and err.count("\n") == 1
    assert not picture.exists() and rows.exists()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "in_own_process", fake_process)

    def refuse(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    path = tmp_path / "rows.json"
    assert benchmark.main(["--configs", "small", "--contenders", "amrb", "--json", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "| small |" in out and err.splitlines()[-1].startswith(f"rmaat_np.benchmark: {path}: cannot be written")


def test_long_table_leaves_out_what_was_not_measured():
    rows = [row("long:1024", name, 2 * 10**5, 3.5) for name in ("amrb", "bptt")] + [row("long:2048", "amrb", 10**5, 4)]
    assert tables.long_table(rows).splitlines()[2:] == [
        "| 1,024 | 3.5 MiB, 5.0 µs | 3.5 MiB, 5.0 µs |",
        "| 2,048 | 4 MiB, 10.0 µs |  |",
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["--rounds", "0"],
        ["--contenders", "amrb", "amrb"],
        ["--steps", "0"],
        ["--threads", "-1"],
        ["--seconds", "nan"],
        ["--replay-budget", "-1"],
    ]
    + [["--json", "nowhere/x.json"], ["--long", "nowhere/x.png"], ["--json", "."], ["--configs", "tiny"], ["--tf32"]],
    ids=" ".join,
)
def test_wrong_options_are_one_line_before_anything_is_measured(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "in_own_process", None)
    with pytest.raises(SystemExit) as stop:
        benchmark.main(options)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert options[0].lstrip("-") in error or options[-1] in error


def test_ctrl_c_is_one_line_and_keeps_the_finished_configurations(tmp_path, monkeypatch, capsys):
    def process(work, contender, config, conditions):
        if config == "lra":
            raise KeyboardInterrupt
        return fake_process(work, contender, config, conditions)

    monkeypatch.setattr(benchmark, "in_own_process", process)
    path = tmp_path / "rows.json"
    words = ["--configs", "small", "lra", "--contenders", "amrb", "--json", str(path)]
    assert benchmark.main(words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"rmaat_np.benchmark: stopped; {path} holds what was finished"
    assert [row["config"] for row in json.loads(path.read_text(encoding="utf-8"))["rows"]] == ["small"]
    assert benchmark.main(["--configs", "lra", "--contenders", "amrb"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "rmaat_np.benchmark: stopped; nothing was finished"


@pytest.mark.parametrize("words", [["--check-out", ""], ["--json", ""], ["--check-out", "out", "--rounds", "7"]])
def test_options_that_say_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.parse_arguments(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and words[-2] in error
