"""A lesson's picture is written or shown; where neither is possible, one line says why and the lesson goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LESSONS = Path(__file__).parents[2] / "lessons"
CODE = """
import sys
from matplotlib import pyplot
from show import show
figure, axis = pyplot.subplots()
axis.plot([1, 2])
show(figure, "name")
print(len(pyplot.get_fignums()), pyplot.get_backend())
"""


def run(tmp_path, code=CODE, **environment):
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND", "LESSON_PICTURES")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=inherited | {"PYTHONPATH": str(LESSONS)} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_picture_is_written(tmp_path):
    code, out, err = run(tmp_path, LESSON_PICTURES="new/folder")
    assert (code, err) == (0, "") and out[0] == "picture: new/folder/name.png"
    assert (tmp_path / "new/folder/name.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a window without DISPLAY")
def test_without_a_display_one_line_says_so(tmp_path):
    code, out, err = run(tmp_path)
    assert (code, err) == (0, "")
    assert out[0].startswith("picture name is not shown: there is no display; LESSON_PICTURES=DIR")
    assert out[1].startswith("0 ")


@pytest.mark.parametrize("backend", ["Agg", "svg"])
def test_a_backend_without_windows_is_named(tmp_path, backend):
    code, out, err = run(tmp_path, MPLBACKEND=backend)
    assert (code, err) == (0, "")
    assert f"MPLBACKEND is {backend}; LESSON_PICTURES=DIR" in out[0] and out[1].lower() == f"0 {backend.lower()}"


def test_a_picture_that_cannot_be_written_costs_one_line(tmp_path):
    code = CODE.replace("from show import show", "from show import show\nimport os; os.rmdir('folder')")
    code, out, err = run(tmp_path, code, LESSON_PICTURES="folder")
    assert code == 0 and err.startswith("picture folder/name.png cannot be written") and err.count("\n") == 1


def test_a_missing_matplotlib_is_one_line(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no such build')", encoding="utf-8")
    code, out, err = run(tmp_path, "from show import show", PYTHONPATH=os.pathsep.join([str(tmp_path), str(LESSONS)]))
    assert code == 1 and err.count("\n") == 1 and "no such build" in err
    code, out, err = run(tmp_path / "..", "from show import show", MPLBACKEND="nonsense")
    assert code == 1 and err.count("\n") == 1 and "nonsense" in err


BLANK = """
import numpy as np
from show import heading, your_turn
heading("How close?")
print(your_turn(ANSWER, np.array([1.0, 2.0]), "Did you divide by 2 h?"))
"""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("None", "the blank is still empty"),
        ("[1, 2 + 1e-9]", "right"),
        ("[1, 2.1]", "not yet. Did you divide by 2 h?"),
        ("[1, np.nan]", "not yet. Did"),
        ("2.0", "not yet. Its shape is (), and should be (2,). Did you divide by 2 h?"),
    ],
)
def test_a_blank_is_checked_at_once_and_the_lesson_goes_on(tmp_path, answer, said):
    code, out, err = run(tmp_path, BLANK.replace("ANSWER", answer), MPLBACKEND="Agg")
    assert (code, err) == (0, "") and out[:2] == ["", "== How close? =="]
    assert out[2].startswith(f"your turn: {said}") and out[3] == "[1. 2.]"
