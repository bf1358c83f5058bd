"""The one exception that means "the input is wrong", as opposed to a bug in this package."""

import errno
import operator
from pathlib import Path
from typing import Any


def escaped(text: str) -> str:
    """The text on one line: control characters, line ends and undecodable bytes as backslash escapes; letters stay."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """A file, row, option or field that cannot be used; the message is one line and names the remedy.

    `run_lra.py` prints it and exits with code 2, without a traceback. What a hostile file put into the message, line
    ends and terminal codes, is shown escaped.
    """

    def __init__(self, message: str):
        super().__init__(escaped(message))


def check_integer(name: str, value: Any, least: int) -> int:
    """The value as an int. Raises: InputError naming it, unless it is a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.40}, but it must be a whole number, at least {least}")
    return number


class WriteError(InputError):
    """A file that could not be written; what stood there before is as it was."""


def write_error(path: Path, error: OSError) -> WriteError:
    """The WriteError for a path: the reason, and the remedy that fits it."""
    remedy = {
        errno.ENOENT: f"bring the folder {path.parent} back",
        errno.EACCES: f"make {path.parent} writable",
        errno.EROFS: f"make {path.parent} writable",
        errno.EISDIR: "there is a folder of that name",
    }.get(error.errno or 0, "free space")
    return WriteError(f"{path}: cannot be written ({error.strerror or error}); {remedy}, or choose another folder")
