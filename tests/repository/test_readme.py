"""What the pages say of the repository is so: length, links, paths, anchors, functions, commands, and the code."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from rmaat_np.command import actions, options
from rmaat_np.training import compare, curriculum

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "tests" / "README.md", ROOT / "lessons" / "results" / "README.md"]
PAGES += sorted((ROOT / "lessons").glob("*.md"))
TOP = {path.name for path in ROOT.iterdir()} - {"runs", "data", ".venv"}  # the last are made by commands
SOURCES = {".py", ".md", ".cu", ".toml"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def parts(page: Path) -> tuple[str, list[tuple[str, str]]]:
    """A page's prose, and its fenced blocks as (language, text)."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
    return fence.sub("", text), fence.findall(text)


def code(page: Path) -> list[str]:
    """What stands between single backticks in a page's prose, and the lines of its commands."""
    prose, blocks = parts(page)
    commands = [line.split(" #")[0] for language, text in blocks if language == "sh" for line in text.splitlines()]
    return re.findall(r"`([^`\n]+)`", prose) + commands


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", parts(page)[0], re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_length():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []


def test_the_start_stands_near_the_top():
    lines = README.read_text(encoding="utf-8").splitlines()
    start = [number for number, line in enumerate(lines, start=1) if line.startswith(("git clone", "python3 -m venv"))]
    assert len(start) == 3 and max(start) <= 40


@each_page
def test_links_and_anchors(page):
    links = re.findall(r"\]\(([^)\s]+)\)", parts(page)[0])
    assert links or page.name != "README.md"
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_paths(page):
    """A path is a word of code that begins with a name of the top folder, or ends as our sources do."""
    folders = (page.parent, ROOT, ROOT / "rmaat_np")
    words = {word for text in code(page) for word in text.split() if re.fullmatch(r"[\w./-][\w./*-]*", word)}
    named = {word for word in words if word.split("/")[0] in TOP or Path(word).suffix in SOURCES}
    assert {word for word in named if not any(any(folder.glob(word.rstrip("/"))) for folder in folders)} == set()


@each_page
def test_commands_are_accepted(page):
    for text in code(page):
        if text.startswith("python run_lra.py") and "[" not in text:
            accept(shlex.split(text.replace("$model", "rmaat"))[2:])


def accept(words: list[str]) -> None:
    """Read the options as the command does, up to the settings of every run. Raises: what is wrong with them."""
    arguments = options.parse_arguments(words)
    options.check(arguments)
    if arguments.compare is not None:
        place = arguments.task or "listops", arguments.preset or "quick", options.overrides_of(arguments)
        for variant in compare.parse_variants(arguments.compare):
            compare.resolve_variant(variant, *place)
    elif arguments.curriculum is not None:
        file = ROOT / arguments.curriculum
        curriculum.read_stages(file, arguments.task or "listops", overrides=options.overrides_of(arguments))
    elif arguments.resume is None and arguments.eval is None and arguments.predict is None:
        actions.chosen_settings(arguments)


def test_equations_lead_to_functions():
    table = parts(README)[0].split("## From equation to function")[1].split("\n## ")[0]
    names = re.findall(r"`(\w+)\.(\w+)`", table)
    assert len(names) > 10
    for module, function in names:
        assert callable(getattr(importlib.import_module(f"rmaat_np.{module}"), function))


def test_the_code_prints_what_the_page_says():
    blocks = parts(README)[1]
    place, _ = [i for i, (language, _) in enumerate(blocks) if language == "python"]
    command = [sys.executable, "-c", blocks[place][1]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == blocks[place + 1][1]


def test_the_code_for_own_data_answers_what_the_page_says(tmp_path):
    _, source = [text for language, text in parts(README)[1] if language == "python"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(r"^print\(.*#  ?(.*)$", source, re.M)
    assert done.stdout.strip() == said and (tmp_path / "mine.npz").exists()


@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="its pdb refuses the options of a script")
def test_the_debugger_stops_where_the_page_says():
    (line,) = re.findall(r"^python (-m pdb .*)$", README.read_text(encoding="utf-8"), re.M)
    command, keys = [sys.executable, *shlex.split(line)], "p shard.num_segments\nq\n"
    done = subprocess.run(command, cwd=ROOT, input=keys, capture_output=True, encoding="utf-8", timeout=300)
    assert "amrb()" in done.stdout and re.search(r"\(Pdb\) [1-8]$", done.stdout, re.M), done.stdout + done.stderr
