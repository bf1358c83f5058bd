"""Jobs of several ranks, and the model of more: from rows that it would measure, and one tiny job."""

import json

import pytest
from helpers import mpi, needs

from rmaat_np.benchmark import __main__ as benchmark
from rmaat_np.benchmark import measure, ranks
from rmaat_np.benchmark.ranks import Link, fit, model_rows


def row(config, count, seconds, nbytes=4_000_000, **more):
    found = {"config": config, "ranks": count, "workers": 2 // count, "batch": 8, "seconds": seconds}
    found |= {"tokens_per_second": 100 / seconds, "bytes": nbytes * (count > 1), "waiting": 0.0, "transfer": 0.001}
    return found | {"parameters": 1_000_000} | more


LINK = Link(latency=2e-5, per_byte=1e-9)
ROWS = [row("wide", 1, 1.0), row("wide", 2, 1.1, messages=[[n, LINK.seconds(2, n)] for n in ranks.MESSAGES])]


@pytest.mark.parametrize("count", [2, 4])
def test_the_fit_finds_the_link_that_made_the_messages(count):
    found = fit([[n, LINK.seconds(count, n)] for n in ranks.MESSAGES], count)
    assert (found.latency, found.per_byte) == pytest.approx((LINK.latency, LINK.per_byte))


def test_the_model_of_more_ranks():
    link, modelled = model_rows(ROWS)
    wide, large = modelled
    assert wide["config"] == "wide" and large["config"] == "100 M parameters"
    assert wide["growing"][0] == pytest.approx(1 / (1 + link.seconds(2, 4e6)))
    assert wide["fixed"][0] == pytest.approx(1 / (0.5 + link.seconds(2, 4e6)) / 2)
    assert all(a > b for a, b in zip(wide["growing"], wide["growing"][1:], strict=False))
    assert wide["fixed"][-1] < 8 / 1024, "8 rows keep 8 ranks busy"
    assert large["growing"][0] == pytest.approx(100 / (100 + link.seconds(2, 4e8)))


def test_the_tables_have_a_line_for_each_job_and_each_size():
    link, modelled = model_rows(ROWS)
    measured = ranks.ranks_table(ROWS, link).splitlines()
    assert len(measured) == 4 and measured[3].startswith(
        "| wide | 2 x 1 | 91 | 0.91 | 1100 | 4,000 | 1.00 | 0.1 % | 4.04"
    )
    lines = ranks.efficiency_table(modelled).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| wide, growing batch", "| wide, 8 rows", "| 100 M parameters, growing batch", "| 100 M parameters, 8 rows",
    ]  # fmt: skip


def test_a_tiny_job_is_measured_and_drawn(tmp_path, capfd):
    """Two real ranks; the numbers themselves are nobody's promise."""
    mpi.mpiexec()
    picture, file = tmp_path / "ranks.png", tmp_path / "ranks.json"
    words = ["--ranks", "1", "2", "--configs", "small", "--rounds", "1", "--steps", "1", "--threads", "2"]
    assert benchmark.main([*words, "--json", str(file), "--picture", str(picture)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert [(r["ranks"], r["workers"]) for r in found["rows"]] == [(1, 2), (2, 1)]
    batch, cfg = measure.configuration("small")
    assert found["rows"][1]["bytes"] == 4 * (found["rows"][1]["parameters"] + 2), "what travels: all gradients once"
    assert found["link"]["per_byte"] > 0 and "100 M parameters" in capfd.readouterr().out
    assert picture.exists() or not pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ranks", "0", "2"], "--ranks 0 2: name numbers from 1"),
        (["--ranks", "1"], "--ranks 1: name numbers from 1, one of them above 1"),
        (["--ranks", "2", "2"], "--ranks 2 2: names one twice"),
        (["--picture", "x.png"], "--picture goes with --ranks"),
        (["--ranks", "2", "--backend", "cupy"], "--ranks measures NumPy"),
    ],
    ids=str,
)
def test_wrong_options_are_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.parse_arguments(words)
    assert stop.value.code == 2 and said in capsys.readouterr().err


@needs.signals  # a POSIX script takes the launcher's place
def test_a_job_that_fails_is_one_line(tmp_path, monkeypatch):
    launcher = tmp_path / "mpiexec"
    launcher.write_text("#!/bin/sh\necho no ranks today >&2\nexit 3\n", encoding="utf-8")
    launcher.chmod(0o755)
    monkeypatch.setattr(ranks, "mpiexec", lambda: "/nowhere/mpiexec")
    with pytest.raises(ranks.InputError, match="/nowhere/mpiexec: cannot be started .* pip install mpi4py mpich"):
        ranks.compare_ranks(["small"], [2], 1, measure.Conditions(2))
    monkeypatch.setattr(ranks, "mpiexec", lambda: str(launcher))
    with pytest.raises(ranks.InputError, match="small with 2 ranks: no ranks today"):
        ranks.compare_ranks(["small"], [2], 1, measure.Conditions(2))
