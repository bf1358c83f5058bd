"""Lessons as notebooks: percent format in, .ipynb out. `python -m rmaat_np.notebooks --out DIR [lesson ...]`

A lesson is a script whose cells begin with `# %%` (code) or `# %% [markdown]` (comment lines). A notebook made from it
begins with one more cell, which does what Python does for a script: name the file and find what lies beside it.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from .checkpoint import write_atomically
from .errors import InputError

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
MARKER = re.compile(r"# %%(?P<title>[^\[]*)(?P<kind>\[.*\])?\s*")


def split_cells(source: str, name: str) -> list[tuple[str, str]]:
    """Cut a script in percent format into cells: ("markdown" | "code", text); what stands before the first is code.

    Raises: InputError naming file and line for another kind of cell, and for code in a markdown cell.
    """
    cells = [("code", [])]
    for number, line in enumerate(source.splitlines(), start=1):
        marker = MARKER.fullmatch(line)
        if marker and marker["kind"] not in (None, "[markdown]"):
            raise InputError(f"{name}: line {number}: cells are # %% or # %% [markdown], not {marker['kind']}")
        if marker:
            cells.append(("markdown" if marker["kind"] else "code", []))
            line = f"# {marker['title'].strip()}" if marker["title"].strip() else ""
        if cells[-1][0] == "markdown":
            if line and not re.match(r"#( |$)", line):
                raise InputError(f"{name}: line {number}: a markdown cell holds comments only; begin code with # %%")
            line = line[2:]
        cells[-1][1].append(line)
    joined = [(kind, "\n".join(lines).strip("\n")) for kind, lines in cells]
    return [(kind, text) for kind, text in joined if text]


def make_notebook(path) -> dict:
    """A lesson as a notebook, nbformat 4.5. Raises: InputError if it can't be read, or as `split_cells`."""
    path = Path(path).resolve()
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name a lesson, a Python file with # %% cells") from None
    cells = split_cells(source, str(path))
    if not any(MARKER.fullmatch(line) for line in source.splitlines()):
        raise InputError(f"{path}: holds no cell; name a lesson, a Python file with # %% cells")
    as_script = f"# Made from {path.name}: change that file, then make the notebook again.\nimport sys\n\n"
    as_script += f"__file__ = {str(path)!r}\nsys.path.insert(0, {str(path.parent)!r})"
    return {
        "cells": [_cell(number, *cell) for number, cell in enumerate([("code", as_script), *cells])],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(number, kind, text):
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


def write_notebooks(lessons, folder) -> list[str]:
    """Write a notebook for each lesson, and say what became of it; a file that stands there is never overwritten.

    Raises: InputError, before anything is written, if a notebook stands there and differs: it may hold someone's work.
    """
    made = {}
    for lesson in lessons:
        text = json.dumps(make_notebook(lesson), indent=1, ensure_ascii=False) + "\n"
        made[Path(folder) / f"{Path(lesson).stem}.ipynb"] = text.encode()
    kept = [path for path, content in made.items() if path.exists() and path.read_bytes() == content]
    for path in made:
        if path.exists() and path not in kept:
            raise InputError(f"{path}: exists and was changed; move it away, or choose another --out")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be created ({error.strerror}); choose another folder") from None
    for path, content in made.items():
        if path not in kept:
            write_atomically(path, lambda file, content=content: file.write(content))
    return [f"{path}: {'was there already' if path in kept else 'written'}" for path in made]


def main(argv=None) -> int:
    """Parse and write; bad input ends as one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m rmaat_np.notebooks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the notebooks go")
    parser.add_argument("lessons", nargs="*", type=Path, metavar="lesson", help="files; default: every lesson")
    arguments = parser.parse_args(argv)
    try:
        lessons = arguments.lessons or sorted(LESSONS.glob("[0-9][0-9]_*.py"))
        if not lessons:
            raise InputError(f"{LESSONS}: holds no lessons; name the files, or run this in a clone of the repository")
        print("\n".join(write_notebooks(lessons, arguments.out)))
    except (InputError, OSError) as error:
        print(f"rmaat_np.notebooks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
