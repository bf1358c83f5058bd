"""Pictures as PNG files: drawn without touching the caller's matplotlib, and never worth a result.

`Figure` and its Agg canvas need no window and no `matplotlib.use`, so a training run in a notebook leaves the
notebook's own plots as they are.
"""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import InputError
from .files import write_atomically
from .terminal import warn

__all__ = ["draw_if_possible", "new_figure", "save_figure"]

_DPI = 120


def new_figure(width: float, height: float):
    """An empty matplotlib figure that belongs to no window. width, height in inches.

    Raises: InputError with the reason if matplotlib cannot be imported.
    """
    try:
        figure_class = _import_figure()
    except Exception as error:  # a broken installation can raise anything
        raise InputError(f"matplotlib cannot be imported ({error}); pip install matplotlib") from None
    return figure_class(figsize=(width, height), layout="constrained")


def _import_figure():
    """matplotlib's Figure class, whatever MPLBACKEND says: a name that matplotlib does not know fails its import."""
    first = "matplotlib" not in sys.modules
    named = os.environ.pop("MPLBACKEND", None) if first else None
    try:
        import matplotlib
        from matplotlib.figure import Figure
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with suppress(ValueError):  # what the import would have done: the caller's own plots go by it
            matplotlib.rcParams["backend"] = named
    return Figure


def save_figure(figure, path: Path) -> None:
    """Write a figure to a PNG file, whole or not at all. Raises: WriteError naming the file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    write_atomically(path, lambda file: file.write(image.getbuffer()))


def draw_if_possible(path: Path, size: tuple[float, float], draw: Callable) -> bool:
    """Draw a picture that is nice to have. Whatever goes wrong costs one line on stderr, never a result.

    size: width and height in inches; draw: a function of the empty figure
    -> whether the file was written
    """
    try:
        figure = new_figure(*size)
        draw(figure)
        save_figure(figure, path)
    except Exception as error:  # a missing font, a broken installation, a full disk: all the same to the result
        reason = " ".join(str(error).split()) or type(error).__name__
        warn(f"{path} is not drawn: {reason}")
        return False
    return True
