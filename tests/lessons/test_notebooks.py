"""Notebooks made from lessons: their structure, that they compute what the script computes, and what is refused."""

import contextlib
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from rmaat_np import notebooks

LESSON = '''"""A docstring before the first cell."""

# %% [markdown]
# # A title
#
# - $x^2$, and a backslash: `\\n`

# %%
import beside

x = beside.SEVEN


def square(y):
    # a comment, not a cell

    return y * y


# %% What follows
print(square(x), __file__ == beside.LESSON)
# %%
# %% [markdown]
# Umlauts: äöü
# %%
assert x == 7
'''
CELLS = [
    ("code", '"""A docstring before the first cell."""'),
    ("markdown", "# A title\n\n- $x^2$, and a backslash: `\\n`"),
    ("code", "import beside\n\nx = beside.SEVEN\n\n\ndef square(y):\n    # a comment, not a cell\n\n    return y * y"),
    ("code", "# What follows\nprint(square(x), __file__ == beside.LESSON)"),
    ("markdown", "Umlauts: äöü"),
    ("code", "assert x == 7"),
]


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A lesson that imports a module beside it, which is forgotten afterwards."""
    path = tmp_path / "lessons" / "01_tiny.py"
    path.parent.mkdir()
    path.write_text(LESSON, encoding="utf-8")
    (path.parent / "beside.py").write_text(f"SEVEN = 7\nLESSON = {str(path)!r}\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield path
    sys.modules.pop("beside", None)


def read_back(folder, name="01_tiny"):
    return json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))


def sources(notebook):
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def printed_by(run):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run()
    return out.getvalue()


def test_cells_are_those_of_the_lesson(lesson, tmp_path):
    notebooks.write_notebooks([lesson], tmp_path / "out")
    (kind, first), *rest = sources(read_back(tmp_path / "out"))
    assert rest == CELLS
    assert kind == "code" and f"__file__ = {str(lesson)!r}" in first


def test_structure_is_nbformat_4_5(lesson, tmp_path):
    notebooks.write_notebooks([lesson], tmp_path)
    notebook = read_back(tmp_path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    for cell in notebook["cells"]:
        outputs = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | outputs
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_nbformat_finds_nothing_wrong(lesson, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    notebooks.write_notebooks([lesson], tmp_path)
    nbformat.validate(nbformat.read(tmp_path / "01_tiny.ipynb", as_version=nbformat.NO_CONVERT))


def test_the_code_cells_compute_what_the_script_computes(lesson, tmp_path):
    notebooks.write_notebooks([lesson], tmp_path)
    namespace = {}

    def run_cells():
        for kind, text in sources(read_back(tmp_path)):
            if kind == "code":
                exec(text, namespace)

    assert printed_by(run_cells) == "49 True\n"
    assert printed_by(lambda: runpy.run_path(str(lesson))) == "49 True\n"
    assert namespace["x"] == 7


def test_a_notebook_is_never_overwritten(lesson, tmp_path, capsys):
    arguments = ["--out", str(tmp_path), str(lesson)]
    assert [notebooks.main(arguments), notebooks.main(arguments)] == [0, 0]
    path = tmp_path / "01_tiny.ipynb"
    assert capsys.readouterr().out == f"{path}: written\n{path}: was there already\n"
    path.write_text("a student's work")
    (lesson.parent / "02_other.py").write_text("# %%\nx = 1\n")
    assert notebooks.main([*arguments, str(lesson.parent / "02_other.py")]) == 2
    assert path.read_text() == "a student's work" and not (tmp_path / "02_other.ipynb").exists()
    assert capsys.readouterr().err == (
        f"rmaat_np.notebooks: {path}: exists and was changed; move it away, or choose another --out\n"
    )


REFUSED = {
    "raw cell": ("# %%\nx = 1\n# %% [raw]\n", "line 3: cells are # %% or # %% [markdown], not [raw]"),
    "code in markdown": ("# %% [markdown]\n# text\nx = 1\n", "line 3: a markdown cell holds comments only"),
    "no cells": ("x = 1\n", "holds no cell"),
    "not text": (b"\xff\xfe", "cannot be read"),
    "missing": (None, "cannot be read"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_lessons_are_one_line_and_exit_code_2(content, message, tmp_path, capsys):
    path = tmp_path / "lesson.py"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert notebooks.main(["--out", str(tmp_path / "out"), str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rmaat_np.notebooks: {path}: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(lesson, tmp_path, capsys):
    assert notebooks.main(["--out", str(lesson / "out"), str(lesson)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rmaat_np.notebooks: --out {lesson / 'out'}: cannot be created") and error.count("\n") == 1


def test_every_lesson_of_the_repository_becomes_a_notebook(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rmaat_np.notebooks", "--out", str(tmp_path)],
        cwd=Path(notebooks.__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    lessons = [path.stem for path in sorted(notebooks.LESSONS.glob("[0-9][0-9]_*.py"))]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{tmp_path / name}.ipynb: written" for name in lessons]
    for name in lessons:
        assert [kind for kind, _ in sources(read_back(tmp_path, name))].count("markdown") >= 3
