"""The terminal: the one place that prints, and that makes progress bars."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from ..errors import InputError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, without a page of usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists all options\n")


def show(text: str) -> None:
    """Print a result that was asked for. Raises: BrokenPipeError when nobody reads it any more."""
    print(text)


def tell(line: str, write: Callable[[str], object] = print) -> None:
    """Print a line of news. A closed pipe, or a full disk behind stdout, must not end a run: then nobody is told."""
    try:
        write(line)
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(line: str) -> None:
    """Print a line on stderr. Nothing is raised where stderr is closed."""
    with suppress(OSError):
        print(line, file=sys.stderr)


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str = "step",
    label: str | None = None,
):
    """A tqdm bar, silent where stderr is no terminal: one iterates over it, or calls its `update`.

    iterable: what to iterate over, or None; total: updates in all, by default the iterable's length; initial: updates
    that were made before; unit: what one update is; label: text before the bar
    Raises: InputError with the remedy where tqdm is missing.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise InputError(f"tqdm cannot be imported ({error}); pip install tqdm") from None
    return tqdm(iterable, total=total, initial=initial, unit=unit, desc=label, disable=None, mininterval=0.5)
