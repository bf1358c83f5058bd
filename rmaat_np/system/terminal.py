"""The terminal: the one place that prints, and that makes progress bars.

Everything that is written is written: a character that the terminal cannot show appears as a backslash escape. A stream
that was closed before the program began (None in Python) is written to by nobody.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn, TextIO

from ..errors import WriteError, escaped


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, without a page of usage above it."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2 and one line."""
        complain(f"{self.prog}: {escaped(message)}; --help lists all options")
        self.exit(2)

    def print_help(self, file=None) -> None:
        """Print the help, on any stream, as every other result that was asked for."""
        show(self.format_help().rstrip("\n"))


def show(text: str) -> None:
    """Print a result that was asked for.

    Raises: BrokenPipeError when nobody reads it any more; WriteError when stdout takes it no more, as on a full disk.
    """
    try:
        _print(text, sys.stdout)
    except BrokenPipeError:
        _silence_stdout()
        raise
    except OSError as error:
        _silence_stdout()
        raise WriteError(
            f"stdout: cannot be written ({error.strerror or error}); free space, or send it elsewhere"
        ) from None


def tell(line: str, write: Callable[[str], object] | None = None) -> None:
    """Print a line of news. A closed pipe, or a full disk behind stdout, must not end a run: then nobody is told.

    write: takes the line in place of `print`, as a progress bar's own `write` does
    """
    if sys.stdout is None:
        return
    try:
        if write is None:
            _print(line, sys.stdout)
        else:
            write(showable(line, sys.stdout))
        sys.stdout.flush()
    except OSError:
        _silence_stdout()


def _silence_stdout() -> None:
    """Let nothing more reach a stdout that failed, so that Python's last flush does not fail once more."""
    with suppress(OSError, ValueError):  # ValueError: it is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """Print on stderr. Nothing is raised where stderr is closed or full."""
    with suppress(OSError, ValueError):
        _print(text, sys.stderr)


def warn(line: str) -> None:
    """Say on stderr, in one line, what no result depends on. Control characters of foreign names are escaped."""
    complain(escaped(line))


def _print(text: str, stream: TextIO | None) -> None:
    if stream is not None:  # print would turn to stdout
        print(showable(text, stream), file=stream, flush=True)


def showable(text: str, stream: TextIO | None) -> str:
    """The text, with backslash escapes for control characters, and for those that the stream's encoding lacks."""
    text = "".join(c if c in "\n\t" or c.isprintable() else escaped(c) for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding, "replace")


def spoken_time(seconds: float) -> str:
    """A time that is still to go by, rounded to what one plans by: "45 s", "12 min", "1 h 20 min", "2 d 3 h"."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


class NoBar:
    """What stands in for a progress bar where tqdm is missing: it shows nothing."""

    def __init__(self, iterable: Iterable | None, n: int):
        self.iterable, self.n = iterable, n

    def __iter__(self):
        return iter(self.iterable or ())

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        """There is nothing to close."""

    def update(self, n: int = 1) -> None:
        """Count, and show nothing."""
        self.n += n

    def set_postfix(self, **values) -> None:
        """Show nothing."""

    def close(self) -> None:
        """There is nothing to close."""


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str = "step",
    label: str | None = None,
):
    """A tqdm bar, silent where stderr is closed or no terminal: one iterates over it, or calls its `update`.

    iterable: what to iterate over, or None; total: updates in all, by default the iterable's length; initial: updates
    that were made before; unit: what one update is; label: text before the bar
    Where tqdm is missing or broken there is no bar, and nothing else is missing.
    """
    try:
        from tqdm.auto import tqdm
    except Exception:  # a broken installation can raise anything
        return NoBar(iterable, initial)
    silent = True if sys.stderr is None else None  # None: where it is no terminal
    return tqdm(iterable, total=total, initial=initial, unit=unit, desc=label, disable=silent, mininterval=0.5)


def write_above_bars(line: str) -> None:
    """Print a line on stdout without tearing a progress bar on stderr apart."""
    bars = sys.modules.get("tqdm.std")
    (bars.tqdm.write if bars else print)(line)
