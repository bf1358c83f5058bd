"""The slides: one page that needs nothing else, every picture of a lesson on it, and keys that move it."""

import base64
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.browser import find_browser, open_browser

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "lessons" / "slides.py"
PICTURES = ROOT / "lessons" / "pictures"
spec = importlib.util.spec_from_file_location("slides", SCRIPT)
slides = importlib.util.module_from_spec(spec)
spec.loader.exec_module(slides)


def make(folder):
    command = [sys.executable, SCRIPT, "--out", folder / "slides.html"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder / "slides.html"


def test_every_picture_of_a_lesson_is_a_slide_in_the_lessons_order():
    shown = [name for name, _ in slides.SLIDES]
    assert shown[0] == "rmaat" and [name[:2] for name in shown[1:]] == sorted(name[:2] for name in shown[1:])
    assert sorted(shown[1:]) == sorted(path.stem for path in PICTURES.glob("[0-9][0-9]_*.png"))
    for _, sentence in slides.SLIDES:
        assert sentence.endswith(".") and len(sentence) <= 110 and not re.search(r"[.!?] [A-Z]|`", sentence)


def test_every_picture_that_the_teacher_is_told_to_show_is_a_slide():
    """`01_…_threshold` is one slide, `01_…` are all of lesson 01, `…_cost` is of the lesson named before it."""
    shown, named, lesson = [name for name, _ in slides.SLIDES], [], ""
    text = (ROOT / "lessons" / "TEACHING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:\d\d_|…_)[\w…]+)`", text):
        lesson = name[:2] if name[:2].isdigit() else lesson
        pattern = (f"{lesson}_{name}" if name.startswith("…") else name).replace("…", r"\w+")
        found = [slide for slide in shown if re.fullmatch(pattern, slide)]
        assert len(found) == 1 or (found and name.endswith("…")), f"{name} in TEACHING.md is {len(found)} slides"
        named.append(name)
    assert {"01_…_threshold", "03_…", "07_replay_lives", "…_cost"} <= set(named)
    page = slides.make_page()
    for name in shown:
        assert page.count(f'<section id="{name}">') == 1 and page.count(f"&middot; {name} &middot;") == 1


def test_the_page_holds_its_pictures_and_asks_for_nothing_else(tmp_path):
    page = make(tmp_path).read_text(encoding="utf-8")
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert pictures == [(PICTURES / f"{name}.png").read_bytes() for name, _ in slides.SLIDES]
    assert not re.search(r"https?:|<link|<iframe|@import|url\(", page) and page.count("src=") == len(pictures)
    assert page.count("<section ") == page.count("<h1>") == page.count(" alt=") == len(slides.SLIDES)


def test_a_missing_picture_and_a_folder_that_is_not_there_are_one_line(tmp_path, monkeypatch, capsys):
    assert slides.main(["--out", str(tmp_path / "no" / "slides.html")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(slides, "make_page", lambda: (tmp_path / "gone.png").read_bytes())
    assert slides.main(["--out", str(tmp_path / "slides.html")]) == 1
    assert "gone.png" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
def test_a_browser_moves_with_the_keys_and_every_slide_fits(tmp_path):
    shown = "[...document.querySelectorAll('section')].flatMap((s, i) => s.offsetHeight ? [i] : []).join()"
    fits = "(() => { const h = document.querySelector('.shown h1').getBoundingClientRect(), "
    fits += "p = document.querySelector('.shown img').getBoundingClientRect(); "
    fits += "return h.top >= 0 && p.top >= h.bottom && p.bottom <= innerHeight && p.height > innerHeight / 2; })()"
    with open_browser(tmp_path / "profile") as tab:
        tab.open(make(tmp_path), width=1280, height=720)
        for at in range(len(slides.SLIDES)):
            assert tab.evaluate(shown) == str(at) and tab.evaluate(fits)
            tab.press("ArrowRight")
        tab.press("ArrowLeft")
        assert tab.evaluate(shown) == str(len(slides.SLIDES) - 2)
        tab.press("Home")
        assert tab.evaluate(shown) == "0"
        tab.press(" ")
        assert tab.evaluate(shown) == "1"
        names = [name for name, _ in slides.SLIDES]
        for place, at in (("07_replay_lives", names.index("07_replay_lives")), ("7", 6), ("rmaat", 0), ("nothing", 0)):
            tab.evaluate(f"location.hash = '{place}'")
            deadline = time.monotonic() + 10
            while tab.evaluate(shown) != str(at) or tab.evaluate("location.hash") != f"#{at + 1}":
                assert time.monotonic() < deadline, f"#{place} is not slide {at + 1}"
        assert tab.problems == []
