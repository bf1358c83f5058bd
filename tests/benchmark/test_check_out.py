"""The check-out of a machine: complete on the CPU with little of everything, and a report whatever goes wrong."""

import json
from types import SimpleNamespace

import pytest

from rmaat_np import backend
from rmaat_np.benchmark import __main__ as benchmark
from rmaat_np.benchmark import check_out as checking
from rmaat_np.benchmark import measure
from rmaat_np.benchmark.check_out import Effort, check_out, full_effort
from rmaat_np.errors import InputError

TRAINING = ("--task", "recall", "--workers", "1", "--steps", "4", "--batch-size", "8", "--set", "eval_every=2")
LITTLE = Effort(300, ("long:512", "long:1024"), 2048, TRAINING, ("-m", "gpu", "--collect-only"), steps=1)
SECTIONS = ["device", "kernels", "bits", "numpy", "tests", "speed", "queue", "long", "training", "compiled", "tf32"]


def fake_process(work, contender, config, conditions, limit):
    return {"tokens_per_second": 100.0, "seconds": 0.1, "peak_bytes": 2**21}


@pytest.fixture
def no_card(monkeypatch):
    """A machine with a card is checked out by its own command, not by this test."""
    monkeypatch.setattr(checking, "_choose_backend", lambda: "no card here")


@pytest.mark.slow
def test_it_is_complete_on_a_cpu(tmp_path, no_card):
    found = check_out(tmp_path / "out", benchmark.in_own_process, torch=False, effort=LITTLE)
    assert list(found) == SECTIONS and not any("failed" in part for part in found.values())
    assert found["device"]["backend"] == "numpy" and found["device"]["no card"] == "no card here"
    assert found["bits"] == dict.fromkeys(LITTLE.configs, {"AMRB equals BPTT": True, "AMRB repeats": True})
    assert [row["contender"] for row in found["speed"]] == 2 * ["amrb", "amrb-library", "bptt"]
    assert all(row["tokens_per_second"] > 0 for row in [*found["speed"], found["long"]])
    assert found["training"]["steps"] == 4 and 0 <= found["training"]["test_accuracy"] <= 1
    assert found["tests"]["exit code"] in (0, 5)  # without CuPy pytest finds none
    assert found["compiled"] == {"not run": "PyTorch is not installed"} and found["tf32"] == {"not run": "no card"}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"report.md", "report.json", "speed.png", "listops", "listops_curve.png"}
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")).keys() == found.keys()
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert all(f"## {name}\n" in page for name in SECTIONS) and "| long:512 | amrb | False |" in page
    assert "![speed.png](speed.png)" in page and "![listops_curve.png](listops_curve.png)" in page
    with pytest.raises(InputError, match="already holds a check-out"):  # whose training would be taken for its own
        check_out(tmp_path / "out", None, torch=False, effort=LITTLE)


def test_a_page_shows_no_picture_that_is_not_there(tmp_path, no_card):
    check_out(tmp_path, None, torch=False, effort=Effort(0, LITTLE.configs, 2048, TRAINING, ()))
    assert "![" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_what_found_no_time_is_a_row(tmp_path):
    work = checking.CheckOut(tmp_path, Effort(0, ("small",), 2048, TRAINING, ()), None, torch=True)
    rows = checking._measure_all(work, ["torch-compile"])
    assert rows == [{"config": "small", "contender": "torch-compile", "tf32": False, "error": "no time was left"}]


def test_what_fails_is_a_line_of_the_report(tmp_path, no_card, monkeypatch):
    def broken(*_):
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(checking, "_compare_methods", broken)
    monkeypatch.setattr(checking, "_train", broken)
    monkeypatch.setattr(checking, "_TESTS", tmp_path / "no tests")
    found = check_out(tmp_path / "out", fake_process, torch=True, effort=LITTLE)
    assert found["bits"] == found["training"] == {"failed": "RuntimeError: the driver is gone"}
    assert "installed without its tests" in found["tests"]["not run"]
    assert [row["contender"] for row in found["compiled"]] == 2 * ["torch-compile"]
    assert "- failed: RuntimeError: the driver is gone" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_without_time_nothing_is_begun(tmp_path, no_card):
    effort = Effort(0, LITTLE.configs, 2048, TRAINING, ())
    found = check_out(tmp_path / "out", None, torch=True, effort=effort)
    assert list(found) == SECTIONS and all(part == {"not run": "no time was left"} for part in found.values())


def test_the_whole_of_it_measures_the_preset_of_width_512():
    _, cfg = measure.configuration(full_effort().configs[-1])
    assert (cfg.d_model, cfg.dropout) == (512, 0.0) and full_effort().seconds < 600


def test_a_configuration_may_name_its_rows():
    rows, cfg = measure.configuration("lra:256")
    assert rows == 256 and cfg == measure.configuration("lra")[1] and measure.configuration("lra")[0] == 32


def test_a_card_is_measured_with_tf32_too_and_without_what_it_has_not(tmp_path, monkeypatch):
    asked = []

    def process(work, contender, config, conditions, limit):
        asked.append((contender, config, conditions.tf32))
        return fake_process(work, contender, config, conditions, limit)

    monkeypatch.setattr(checking, "_choose_backend", lambda: "")
    monkeypatch.setattr(backend, "name", "cupy")  # what only a card can do fails, and is a line of the report
    monkeypatch.setattr(checking, "_run", lambda *_: {"code": 0, "output": ""})
    found = check_out(tmp_path / "out", process, torch=True)
    assert [row["tf32"] for row in found["tf32"]] == 15 * [True] and not any(row["tf32"] for row in found["speed"])
    assert {contender for contender, _, _ in asked} == {"amrb", "bptt", "torch", "torch-compile"}
    assert ("amrb", "lra:256", True) in asked


def test_a_process_that_takes_too_long_is_ended():
    conditions = measure.Conditions(threads=1)
    found = benchmark.in_own_process("measure", "amrb", "long:1024", conditions, limit=0.01)
    assert found == {"error": "took longer than 0 s"}


def test_the_command_says_where_the_report_is(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(benchmark, "check_out", lambda *arguments: asked.append(arguments))
    assert benchmark.main(["--check-out", str(tmp_path)]) == 0
    assert asked[0][0] == tmp_path and f"{tmp_path}/report.md" in capsys.readouterr().out


def test_without_a_card_numpy_computes_and_the_report_says_why(monkeypatch):
    def refuse(name):
        if name == "cupy":
            raise backend.BackendError("backend cupy: no device")

    monkeypatch.setattr(backend, "use", refuse)
    assert checking._choose_backend() == "backend cupy: no device"


def test_launches_are_counted(monkeypatch):
    """Whatever is launched, and the module is as it was."""
    done = []
    kernels = SimpleNamespace(launch=lambda name, *_, **__: done.append(name))
    launch = kernels.launch
    monkeypatch.setattr(backend, "kernels", kernels)
    with checking._counted_launches() as names:
        kernels.launch("phi_forward", "float32", 3, width=1)
        kernels.launch("adamw", "float32", 3)
    assert names == done == ["phi_forward", "adamw"] and kernels.launch is launch
