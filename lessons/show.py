"""What the lessons share: they find the package without installing it, and their pictures are shown or saved here."""

import os
import sys
from pathlib import Path

import numpy as np

try:
    import matplotlib
    from matplotlib import pyplot
except (ImportError, ValueError) as error:  # ValueError: MPLBACKEND names no backend
    sys.exit(f"the lessons draw with matplotlib, which cannot be imported: {error}")

__all__ = ["heading", "show", "your_turn"]

NO_WINDOW = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # matplotlib's backends that only write files

if folder := os.environ.get("LESSON_PICTURES"):
    Path(folder).mkdir(parents=True, exist_ok=True)  # before an hour of computing, not after it
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
pyplot.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})


def heading(text: str) -> None:
    """Print the title of a section above its output: as a script, a lesson shows the output and not the text."""
    print(f"\n== {text} ==")


def your_turn(answer, right, hint: str):
    """Say whether the reader's answer is right, and return the right one: in any case the lesson goes on with it.

    answer: None while the blank is empty; hint: the likely mistakes, printed after any other answer than the right one
    """
    if answer is None:
        print("your turn: the blank is still empty; the lesson goes on with the right value")
    elif np.shape(answer) != np.shape(right):
        print(f"your turn: not yet. Its shape is {np.shape(answer)}, and should be {np.shape(right)}. {hint}")
    elif np.allclose(answer, right):
        print("your turn: right")
    else:
        print(f"your turn: not yet. {hint}")
    return right


def show(figure, name: str) -> None:
    """Show a picture in a window or notebook; with LESSON_PICTURES=DIR in the environment write DIR/name.png instead.

    A picture that can be neither shown nor written costs one line; the lesson goes on.
    """
    folder, backend = os.environ.get("LESSON_PICTURES"), matplotlib.get_backend().lower()
    if folder:
        path = Path(folder) / f"{name}.png"
        try:
            figure.savefig(path, dpi=110)
            print(f"picture: {path}")
        except OSError as error:
            print(f"picture {path} cannot be written: {error.strerror or error}", file=sys.stderr)
    elif backend in NO_WINDOW:
        why = f"MPLBACKEND is {os.environ['MPLBACKEND']}" if os.environ.get("MPLBACKEND") else "there is no display"
        print(f"picture {name} is not shown: {why}; LESSON_PICTURES=DIR writes it to a file")
    else:
        pyplot.show()
    pyplot.close(figure)
