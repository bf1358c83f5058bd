"""Every lesson runs as a script and holds its own asserts; and each has the form that the syllabus promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
ONE_PAGE = LESSONS[0]  # all of the model without the package: its picture is drawn by diagram.py
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


def test_the_model_on_one_page_takes_200_lines_and_numpy_alone():
    text = ONE_PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200 and text.count("Predict, then run") >= 2
    before, after = text.split("\nimport show ")
    assert re.findall(r"^\s*(?:import|from) .*", before, flags=re.M) == ["import numpy as np"]
    assert "rn." not in before and after.count("import ") == 1


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
    assert len(LESSONS) == 11
    for path in LESSONS:
        assert f"[{path.stem}]({path.name})" in syllabus
    for name in re.findall(r"`(rmaat_np/[\w/]+\.py)`", syllabus):
        assert (ROOT / name).exists(), name


def test_the_pictures_are_small():
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "lessons" / "pictures").glob("*.png"))
