"""What the lessons share: they find the package without installing it, and their pictures are shown or saved here."""

import os
import sys
from pathlib import Path

try:
    import matplotlib
    from matplotlib import pyplot
except (ImportError, ValueError) as error:  # ValueError: MPLBACKEND names no backend
    sys.exit(f"the lessons draw with matplotlib, which cannot be imported: {error}")

__all__ = ["show"]

NO_WINDOW = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # matplotlib's backends that only write files

if folder := os.environ.get("LESSON_PICTURES"):
    Path(folder).mkdir(parents=True, exist_ok=True)  # before an hour of computing, not after it
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
pyplot.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})


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
