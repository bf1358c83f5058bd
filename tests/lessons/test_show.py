"""A lesson's picture is shown or written; where there is no window, one line says why and the lesson goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a process each, which imports matplotlib
LESSONS = Path(__file__).parents[2] / "lessons"
CODE = """
import sys
from show import pyplot, show
figure, axis = pyplot.subplots()
axis.plot([1, 2])
show(figure, "name")
print(len(pyplot.get_fignums()), pyplot.get_backend())
"""
PNG = b"\x89PNG"


def run(tmp_path, code=CODE, **environment):
    """Run code beside a copy of show.py, whose folder `out` is then tmp_path / "out"."""
    shutil.copy(LESSONS / "show.py", tmp_path)
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND", "LESSON_PICTURES")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=inherited | {"PYTHONPATH": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_picture_is_written(tmp_path):
    code, out, err = run(tmp_path, LESSON_PICTURES="new/folder")
    assert (code, err) == (0, "") and out[0] == "picture: new/folder/name.png"
    assert (tmp_path / "new/folder/name.png").read_bytes().startswith(PNG) and not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a window without DISPLAY")
def test_without_a_display_the_picture_is_saved_and_one_line_says_why(tmp_path):
    code, out, err = run(tmp_path)
    assert (code, err) == (0, "")
    assert out[0] == f"picture: {tmp_path.resolve() / 'out/name.png'} (not shown: there is no display)"
    assert out[1].startswith("0 ") and (tmp_path / "out/name.png").read_bytes().startswith(PNG)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a window without DISPLAY")
def test_a_display_that_does_not_open_is_not_called_missing(tmp_path):
    code, out, err = run(tmp_path, DISPLAY=":987")
    assert code == 0 and "there is no display" not in out[0] and "the display does not open" in out[0]
    assert (tmp_path / "out/name.png").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a window without DISPLAY")
def test_a_backend_that_needs_a_display_does_not_hide_that_there_is_none(tmp_path):
    code, out, err = run(tmp_path, MPLBACKEND="TkAgg")
    assert code == 0 and out[0].endswith("(not shown: there is no display)") and (tmp_path / "out/name.png").exists()


def test_a_backend_that_cannot_be_loaded_is_named(tmp_path):
    code, out, err = run(tmp_path, MPLBACKEND="module://missing")
    assert code == 0 and "not shown: matplotlib cannot load the backend module://missing: No module named" in out[0]
    assert out[-1].lower() == "0 agg" and (tmp_path / "out/name.png").exists()


@pytest.mark.parametrize("backend", ["Agg", "svg"])
def test_a_backend_without_windows_is_named(tmp_path, backend):
    code, out, err = run(tmp_path, MPLBACKEND=backend)
    assert (code, err) == (0, "")
    assert out[0].endswith(f"(not shown: MPLBACKEND is {backend})") and out[1].lower() == f"0 {backend.lower()}"


def test_a_window_that_fails_costs_one_line(tmp_path):
    broken = "import show as module\nmodule.reason = None\n"
    broken += "pyplot.show = lambda: 1 / 0\n"
    code, out, err = run(tmp_path, CODE.replace("figure, axis", broken + "figure, axis"), MPLBACKEND="Agg")
    assert code == 0 and out[0].endswith("(not shown: matplotlib cannot show it: division by zero)")


def test_a_picture_that_cannot_be_written_costs_one_line(tmp_path):
    code = CODE.replace(
        "from show import pyplot, show", "from show import pyplot, show\nimport os; os.rmdir('f'); open('f', 'w')"
    )
    code, out, err = run(tmp_path, code, LESSON_PICTURES="f")
    assert code == 0 and err.startswith("picture f/name.png cannot be written") and err.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, out, err = run(tmp_path, LESSON_PICTURES="file/folder")
    assert code == 1 and err.startswith("LESSON_PICTURES is file/folder") and err.count("\n") == 1


@pytest.mark.parametrize("backend", ["nonsense", "module://matplotlib_inline.backend_inline"])
def test_a_backend_that_can_show_nothing_here_ends_no_lesson(tmp_path, backend):
    code, out, err = run(tmp_path, MPLBACKEND=backend)
    assert code == 0 and "not shown: " in out[0] and backend in out[0] and (tmp_path / "out/name.png").exists()


def test_a_missing_matplotlib_is_one_line(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no such build')", encoding="utf-8")
    code, out, err = run(tmp_path, "from show import show")
    assert code == 1 and err.count("\n") == 1 and "no such build" in err


def test_a_heading_stands_apart(tmp_path):
    code, out, err = run(tmp_path, "import show\nshow.heading('The way back')", MPLBACKEND="Agg")
    assert (code, out, err) == (0, ["", "== The way back =="], "")


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
