"""The benchmark's tables, from rows that it would measure; no timing here."""

import json
from argparse import Namespace

import pytest

from rmaat_np.benchmark import __main__ as benchmark
from rmaat_np.benchmark import tables
from rmaat_np.system import machine

ROUNDS = [{"tokens_per_second": speed, "seconds": 1 / speed, "peak_bytes": 2**21} for speed in (90.0, 120.0, 100.0)]


def row(config, contender, speed, peak):
    return {"config": config, "contender": contender, "tokens_per_second": speed, "peak_mib": peak}


ROWS = [row("small", "amrb", 1500, 20.0), row("small", "torch", 1000, 100.0), row("lra", "amrb", 900, 30.0)]
ROWS += [{"config": "lra", "contender": "torch", "error": "killed"}]


def test_medians_over_the_rounds():
    found = tables.summarise(ROUNDS)
    assert found["tokens_per_second"] == 100 and found["slowest"] == 90 and found["fastest"] == 120
    assert found["peak_mib"] == 2.0 and found["seconds_per_step"] == 0.01


def test_an_error_of_any_round_is_the_result():
    assert tables.summarise([*ROUNDS, {"error": "out of memory"}]) == {"error": "out of memory"}


def test_targets_compare_speed_and_memory():
    checked = tables.check_targets(ROWS)
    assert [(r["config"], r["what"], r["speed"], r["memory"], r["met"]) for r in checked] == [
        ("small", "amrb / torch", 1.5, 0.2, True)
    ]
    slow = [row("small", "amrb", 990, 20.0), row("small", "torch", 1000, 100.0)]
    large = [row("small", "amrb", 1500, 26.0), row("small", "torch", 1000, 100.0)]
    assert [tables.check_targets(rows)[0]["met"] for rows in (slow, large)] == [False, False]


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
        "| speed, amrb / torch | at least 1.0 | 1.50 |",
        "| memory, amrb / torch | at most 0.25 | 0.20 |",
    ]


def test_a_measurement_in_a_process_of_its_own():
    options = Namespace(threads=1, steps=2, seconds=5, backend="numpy", dtype="float32", tf32=False, replay_budget=0)
    found = benchmark.in_own_process("measure", "amrb", "long:1024", options)
    assert found["seconds"] > 0 and found["peak_bytes"] > 2**20 and json.dumps(found)


def test_the_machine_is_named():
    assert "NumPy" in machine.machine() and "cores" in machine.machine()


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
