"""Every lesson runs as a script and holds its own asserts; and each has the form that the syllabus promises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
ONE_PAGE = LESSONS[0]  # all of the model without the package: its picture is drawn by diagram.py
NOTEBOOKS = ROOT / "lessons" / "notebooks.py"
SECONDS = 60  # of processor time: what other programs on the machine do must not matter


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_as_a_script(path, tmp_path):
    resource = pytest.importorskip("resource")
    environment = os.environ | {"MPLBACKEND": "Agg", "LESSON_PICTURES": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    pictures = {picture.name for picture in tmp_path.glob("*.png")}
    assert bool(pictures) == (path != ONE_PAGE) and all(name.startswith(path.stem) for name in pictures)
    assert pictures <= {picture.name for picture in (ROOT / "lessons" / "pictures").glob("*.png")}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_form_of_a_lesson(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 250
    assert lines[0] == "# %% [markdown]" and re.match(rf"# # {path.stem[:2]} \w", lines[1])
    assert "# **The question: " in text and "# Read beside this: " in text and "can go wrong" in text
    last_cell = re.split(r"^# %%.*$", text, flags=re.M)[-1]
    assert "\nassert " in last_cell or "\n    assert " in last_cell


@pytest.mark.parametrize("path", LESSONS[1:], ids=lambda path: path.stem)
def test_a_lesson_asks_and_leaves_a_line_to_write(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("Predict, then run") >= 2
    assert len(re.findall(r"^\w+ = None  # your turn: .+", text, flags=re.M)) == 1
    assert len(re.findall(r"\byour_turn\(", text)) == 1
    first_cell = text.split("\n# %%\n")[1]
    sections = len(re.findall(r"^# ## (?!What can go wrong)", text, flags=re.M))
    assert "heading" in first_cell and text.count("\nheading(") >= sections - 1


@pytest.mark.slow
def test_a_lesson_runs_as_a_notebook(tmp_path):
    """Made in another folder, executed, and without a path of this machine in it."""
    for name in ("jupytext", "nbconvert", "ipykernel"):
        pytest.importorskip(name)
    command = [sys.executable, NOTEBOOKS, "00", "01", "--out", tmp_path / "notebooks", "--execute"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in LESSONS[:2]:
        text = (tmp_path / "notebooks" / f"{path.stem}.ipynb").read_text(encoding="utf-8")
        assert str(ROOT) not in text and str(tmp_path) not in text
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in cells)
        assert "image/png" in text  # lesson 00 shows the diagram, lesson 01 draws


def test_a_notebook_finds_the_clone_or_says_what_to_install(tmp_path):
    cell = re.search(r'FIND_CLONE = """(.*?)"""', NOTEBOOKS.read_text(encoding="utf-8"), flags=re.S)[1]
    (tmp_path / "clone" / "lessons").mkdir(parents=True)
    (tmp_path / "clone" / "lessons" / "show.py").write_text("", encoding="utf-8")
    inside = tmp_path / "clone" / "my" / "notes"
    inside.mkdir(parents=True)
    for folder, found in ((inside, True), (tmp_path / "clone" / "lessons", True), (tmp_path, False)):
        command = [sys.executable, "-c", cell + "\nprint(sys.path[0])"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if found:
            assert Path(done.stdout.strip()).samefile(tmp_path / "clone" / "lessons")
        else:
            assert done.returncode == 1 and done.stderr.count("\n") == 1 and "git clone" in done.stderr


def test_the_model_on_one_page_takes_200_lines_and_numpy_alone():
    text = ONE_PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200 and text.count("Predict, then run") >= 2
    before, after = text.split("\nimport show ")
    assert re.findall(r"^\s*(?:import|from) .*", before, flags=re.M) == ["import numpy as np"]
    assert "rn." not in before and after.count("import ") == 1


@pytest.mark.slow
def test_a_wrong_line_on_the_one_page_is_caught(tmp_path):
    """One mistake of each kind: an operation, an equation of attention, the way between segments, a wrong replay."""
    text = ONE_PAGE.read_text(encoding="utf-8")
    mistakes = {
        "dphi_k = v @ dH.T / D + dg": "dphi_k = v @ dH.T / D",
        "return dx[:M] + (1 - RF[t]) * dmemory_next": "return dx[:M]",
        'segment_forward(t, kept[f"memory {t + 1}"], params)': "segment_forward(t, memory, params)",
        "0.2304138": "0.2404138",
    }
    (tmp_path / "show.py").write_text((ONE_PAGE.parent / "show.py").read_text(encoding="utf-8"), encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "Agg", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for right, wrong in mistakes.items():
        assert text.count(right) == 1
        lesson = tmp_path / ONE_PAGE.name
        lesson.write_text(text.replace(right, wrong), encoding="utf-8")
        done = subprocess.run([sys.executable, lesson], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "AssertionError" in done.stderr, (wrong, done.stderr[-500:])


def test_the_syllabus_names_every_lesson():
    syllabus = (ROOT / "lessons" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\d\d_\w+)\]\((\d\d_\w+\.py)\) \|", syllabus, flags=re.M)
    assert listed == [(path.stem, path.name) for path in LESSONS] and len(LESSONS) == 14
    for name in re.findall(r"`(rmaat_np/[\w/]+\.py)`", syllabus):
        assert (ROOT / name).exists(), name


def test_the_exercises_table_names_every_exercise():
    listed = re.findall(
        r"^\| (\d\d[ab]?) `(\w+)` \|", (ROOT / "lessons/README.md").read_text(encoding="utf-8"), flags=re.M
    )
    checks = (ROOT / "lessons/exercises/test_exercises.py").read_text(encoding="utf-8")
    assert listed == re.findall(r"^def test_(\d\d[ab]?)_(\w+)", checks, flags=re.M)


def test_teaching_points_to_what_is_there():
    """At most 200 lines; three misreadings a lesson, each shown under a heading that the lesson has."""
    text = (ROOT / "lessons" / "TEACHING.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    misreadings = text.partition("## Three misreadings a lesson")[2]
    rows = re.findall(r"^\| (?:(\d\d) )?\| .* \| (.*) \|$", misreadings, flags=re.M)
    assert [number for number, _ in rows] == [part for path in LESSONS for part in (path.stem[:2], "", "")]
    for i, (_, where) in enumerate(rows):
        lesson = LESSONS[i // 3].read_text(encoding="utf-8")
        for heading in re.findall(r"\*([^*]+)\*", where):
            assert f"# ## {heading}" in lesson, f"{LESSONS[i // 3].stem} has no heading {heading!r}"
    slides = (ROOT / "lessons" / "slides.py").read_text(encoding="utf-8")
    for slide in re.findall(r"`(\d\d_\w+)`", text):
        assert f'"{slide}"' in slides, slide


def test_the_pictures_are_small():
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "lessons" / "pictures").glob("*.png"))
