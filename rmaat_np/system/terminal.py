"""The terminal: one line of error, lines that nobody must read, the progress bar."""

import argparse
import os
import sys
from contextlib import suppress

from ..errors import InputError


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


def progress_bar(**numbers):
    """A tqdm bar of steps; shows nothing where stderr is no terminal."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise InputError(f"tqdm cannot be imported ({error}); pip install tqdm") from None
    return tqdm(disable=None, unit="step", mininterval=0.5, **numbers)
