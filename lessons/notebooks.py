"""The lessons as notebooks that run from any folder inside a clone, with their pictures and, if wanted, their output.

pip install jupytext nbconvert ipykernel
python lessons/notebooks.py --out lessons/notebooks            # the text and the code
python lessons/notebooks.py --out lessons/notebooks --execute  # with what the code prints and draws
"""

import argparse
import base64
import os
import re
import sys
from pathlib import Path

try:
    import jupytext
    from nbformat.v4 import new_code_cell
except Exception as error:  # not installed, or a broken installation
    sys.exit(f"notebooks are made with jupytext: {error}; pip install jupytext nbconvert ipykernel")

LESSONS = Path(__file__).resolve().parent
FIND_CLONE = """# Finds the lessons, in this folder or one above it.
import sys
from pathlib import Path

for folder in (Path.cwd(), *Path.cwd().parents):
    if (folder / "lessons" / "show.py").exists():
        sys.path.insert(0, str(folder / "lessons"))
        break
else:
    raise SystemExit("no clone of rmaat_np is here or above: git clone it, pip install -r requirements.txt, work in it")
"""


def make_notebook(lesson: Path):
    """A lesson as a notebook: first a cell that finds the clone; pictures that its text shows are inside it."""
    notebook = jupytext.read(lesson)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for cell in notebook.cells:
        for picture in re.findall(r"!\[[^]]*\]\((pictures/[^)]+)\)", cell.source):
            data = base64.b64encode((lesson.parent / picture).read_bytes()).decode("ascii")
            cell.setdefault("attachments", {})[Path(picture).name] = {"image/png": data}
            cell.source = cell.source.replace(f"]({picture})", f"](attachment:{Path(picture).name})")
    notebook.cells.insert(1, new_code_cell(FIND_CLONE))
    return notebook


def execute(notebook) -> None:
    """Run all cells in the lessons' folder; what they print and draw is then in the notebook."""
    from nbconvert.preprocessors import ExecutePreprocessor

    for name in ("MPLBACKEND", "LESSON_PICTURES"):  # pictures belong into the notebook
        os.environ.pop(name, None)
    ExecutePreprocessor(timeout=600).preprocess(notebook, {"metadata": {"path": str(LESSONS)}})


def main(arguments: list[str] | None = None) -> int:
    """Write a notebook for every lesson, or for those named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="for example 07; all, if none is named")
    parser.add_argument("--out", type=Path, default=LESSONS / "notebooks", metavar="DIR", help="where to write them")
    parser.add_argument("--execute", action="store_true", help="run them, too")
    options = parser.parse_args(arguments)
    paths = sorted(LESSONS.glob("[0-9][0-9]_*.py"))
    if wrong := [name for name in options.lessons if name not in {path.stem[:2] for path in paths}]:
        parser.error(f"there is no lesson {wrong[0]}: they are {', '.join(path.stem[:2] for path in paths)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if options.lessons and path.stem[:2] not in options.lessons:
            continue
        notebook = make_notebook(path)
        if options.execute:
            execute(notebook)
        jupytext.write(notebook, options.out / f"{path.stem}.ipynb")
        print(f"notebook: {options.out / path.stem}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
