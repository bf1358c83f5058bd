"""The terminal: one line of error, lines that nobody must read, the progress bar."""

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from ..errors import InputError, escaped


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line, instead of below a page of usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help lists all options\n")


def tell(line: str, report=print) -> None:
    """Print a line. A pipe that was closed, or a full disk behind stdout, must not end a run: then nobody is told."""
    try:
        report(line)
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(line: str) -> None:
    """Say on stderr, in one line, what no result depends on. A stderr that is closed or full costs nothing."""
    if sys.stderr is not None:  # print would turn to stdout
        with suppress(OSError, ValueError):
            print(escaped(line), file=sys.stderr, flush=True)


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str = "step",
    label: str | None = None,
):
    """A tqdm bar; shows nothing where stderr is no terminal. Raises: InputError if tqdm cannot be imported."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise InputError(f"tqdm cannot be imported ({error}); pip install tqdm") from None
    return tqdm(iterable, desc=label, total=total, initial=initial, unit=unit, disable=None, mininterval=0.5)
