"""What the lessons share: they find the package without installing it, and their pictures are shown or saved here."""

import os
import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot

if folder := os.environ.get("LESSON_PICTURES"):
    Path(folder).mkdir(parents=True, exist_ok=True)  # before an hour of computing, not after it
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
pyplot.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})


def show(figure, name: str) -> None:
    """Show a picture in a window or notebook; with LESSON_PICTURES=DIR in the environment write DIR/name.png."""
    folder = os.environ.get("LESSON_PICTURES")
    if folder:
        path = Path(folder) / f"{name}.png"
        figure.savefig(path, dpi=110)
        print(f"picture: {path}")
    elif matplotlib.get_backend().lower() == "agg":
        print(f"picture {name}: there is no display; LESSON_PICTURES=DIR writes it to a file")
    else:
        pyplot.show()
    pyplot.close(figure)
