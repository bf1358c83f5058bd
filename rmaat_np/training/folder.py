"""A run's folder on disk: signals that ask it to stop, and the lines of metrics.jsonl."""

import json
import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, write_error
from ..system.files import write_atomically

FILES = ("config.json", "metrics.jsonl", "last.npz", "best.npz", "diverged.npz", "result.json", "curve.png")


@contextmanager
def stop_requests():
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one raises KeyboardInterrupt(number)."""
    received = []

    def remember(number, frame):
        if received:
            raise KeyboardInterrupt(number)
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had not finished writing; for the process that holds the folder."""
    for name in FILES:
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def trim_metrics(path: Path, step: int) -> int:
    """Drop the lines of later steps, and what a kill cut off: they are computed again, and come out the same.

    -> how many of the steps before have a line with a loss. Raises: InputError if the path is no regular file.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no regular file; remove it")
    rows = [(line, _row(line)) for line in (path.read_bytes().splitlines() if path.exists() else [])]
    kept = [(line, row) for line, row in rows if row is not None and row["step"] <= step]
    write_atomically(path, lambda file: file.write(b"".join(line + b"\n" for line, _ in kept)))
    return len({row["step"] for _, row in kept if "loss" in row})


def append_metrics(path: Path, row: dict, sync: bool = False) -> None:
    """Append a line, whole or not at all; sync: bring it, and all before it, to the disk.

    Raises: WriteError naming the file and a remedy.
    """
    size = None
    try:
        with open(path, "ab") as file:
            size = file.tell()
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        if size is not None:
            with suppress(OSError):
                os.truncate(path, size)
        raise write_error(path, error) from None


def _row(line: bytes) -> dict | None:
    """A line of metrics, or None if it is damaged: a step, and numbers."""
    try:
        row = json.loads(line)
        numbers = [value for value in row.values() if type(value) in (int, float)]
        return row if type(row["step"]) is int and len(numbers) == len(row) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
