"""The model's diagram: drawn without a window, no label over another or over its box, small enough for a page."""

import importlib.util
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "lessons" / "diagram.py"
PICTURE = ROOT / "lessons" / "pictures" / "rmaat.png"


@pytest.fixture(scope="module")
def axis():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("diagram", SCRIPT)
    diagram = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diagram)
    figure = diagram.draw_model()
    figure.draw_without_rendering()
    return figure.axes[0]


def test_labels_keep_apart_and_inside(axis):
    sheet, boxes = axis.get_window_extent(), [patch.get_window_extent() for patch in axis.patches]
    labels = [(text.get_text(), text.get_window_extent()) for text in axis.texts if text.get_text()]
    assert len(labels) > 30
    for (name, one), (other_name, other) in combinations(labels, 2):
        assert not one.overlaps(other), f"{name!r} over {other_name!r}"
    for name, label in labels:
        assert sheet.x0 < label.x0 and label.x1 < sheet.x1 and sheet.y0 < label.y0 and label.y1 < sheet.y1, name
        for box in boxes:  # a label is inside a box or outside of it, never across its edge
            inside = box.x0 < label.x0 and label.x1 < box.x1 and box.y0 < label.y0 and label.y1 < box.y1
            assert inside or not label.overlaps(box), f"{name!r} crosses the edge of a box"


def test_the_gradient_of_a_memory_goes_through_the_segment_and_past_it(axis):
    said = [text.get_text() for text in axis.texts]
    assert said.count("RF of it") == said.count("1 − RF of it") == said.count("1 − RF of it stays") == 2
    assert [f"gradient of\nmemory {t}" in said for t in (1, 2, 3)] == [True] * 3
    assert "memory 3\nstored, but\nnot needed" in said


def test_the_script_writes_the_picture_that_lies_there(tmp_path):
    """Drawn anew in a copy, since fonts may differ: the same size in pixels, and under 200 kB."""
    pytest.importorskip("matplotlib")
    (tmp_path / "pictures").mkdir()
    copy = tmp_path / SCRIPT.name
    copy.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run([sys.executable, copy], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn = (tmp_path / "pictures" / "rmaat.png").read_bytes()
    assert drawn[:24] == PICTURE.read_bytes()[:24]  # the PNG header ends with width and height
    assert PICTURE.stat().st_size < 200_000
