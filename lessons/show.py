"""What the lessons share: they find the package without installing it, and headings and pictures come out here."""

import builtins
import os
import sys
from pathlib import Path

import numpy as np

if sys.version_info < (3, 11):  # noqa: UP036 (instead of a traceback from deep inside)
    sys.exit("the lessons need Python 3.11 or newer; this is " + sys.version.split()[0])

UNKNOWN = None  # the name in MPLBACKEND, if matplotlib knows no such backend
wanted = os.environ.pop("MPLBACKEND", None)  # hidden, or a wrong name would end matplotlib's import
try:
    import matplotlib

    if wanted:
        os.environ["MPLBACKEND"] = wanted
        try:
            matplotlib.rcParams["backend"] = wanted  # what matplotlib itself does on import
        except ValueError:
            UNKNOWN = wanted
            matplotlib.rcParams["backend"] = "agg"
    from matplotlib import pyplot
except Exception as error:  # not installed, or a broken installation, which can raise anything
    sys.exit("the lessons draw with matplotlib, which cannot be imported: " + " ".join(str(error).split()))

__all__ = ["heading", "pyplot", "show", "your_turn"]

NO_WINDOW = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # matplotlib's backends that only write files
OUT = Path(__file__).resolve().parent / "out"  # for pictures that no window can show


def heading(text: str) -> None:
    """Print the heading of a part, so that the lines of a lesson that runs as a script can be told apart."""
    print(f"\n== {text} ==")


def why_no_window() -> str | None:
    """The reason why a picture cannot be shown here, or None where it can."""
    if UNKNOWN:
        return f"matplotlib has no backend {UNKNOWN}, which MPLBACKEND names"
    if "inline" in matplotlib.get_backend() and not hasattr(builtins, "get_ipython") and "ipykernel" not in sys.modules:
        return f"the backend {matplotlib.get_backend()} shows pictures in notebooks only"
    try:
        pyplot.switch_backend(matplotlib.get_backend())  # as the first figure would
    except ImportError as error:  # MPLBACKEND names a module that is not there
        pyplot.switch_backend("agg")
        if "headless" in str(error):  # it needs a window
            return "there is no display"
        return f"matplotlib cannot load the backend {os.environ.get('MPLBACKEND')}: {error}"
    if matplotlib.get_backend().lower() not in NO_WINDOW:
        return None
    if (backend := os.environ.get("MPLBACKEND", "")).lower() in NO_WINDOW:
        return f"MPLBACKEND is {backend}"
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    return "matplotlib opens no window: tkinter or Qt is missing, or the display does not open"


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
    """Show a picture in a window or notebook; without a window, write lessons/out/name.png and say why.

    With LESSON_PICTURES=DIR in the environment, DIR/name.png is written instead. A picture that can be neither shown
    nor written costs one line. The lesson goes on.
    """
    folder, why = os.environ.get("LESSON_PICTURES"), reason
    if not (folder or why):
        try:
            pyplot.show()
        except Exception as error:
            why = f"matplotlib cannot show it: {error}"
    if folder or why:
        path = Path(folder) / f"{name}.png" if folder else OUT / f"{name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=110)
            print(f"picture: {path}" if folder else f"picture: {path} (not shown: {why})")
        except Exception as error:
            print(f"picture {path} cannot be written: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
    pyplot.close(figure)


if folder := os.environ.get("LESSON_PICTURES"):
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)  # before an hour of computing, not after it
    except OSError as error:
        sys.exit(f"LESSON_PICTURES is {folder}, which cannot be made: {error.strerror or error}")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
reason = why_no_window()
pyplot.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
