"""metrics.jsonl, a line for every step and every validation, and its picture curve.png.

A line holds the seconds that its step or validation took; that of a validation also those that remain, as estimated.
Lines of runs that an older program began have neither.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import InputError, write_error
from ..system.files import write_atomically
from ..system.pictures import draw_if_possible

_CURVE_SIZE = (9, 3.2)  # inches
_TAIL = 4096  # bytes at the end of metrics.jsonl that hold at least one whole line


def trim_metrics(path: Path, step: int) -> int:
    """Drop the lines of later steps, and a line that a kill cut off. Those steps are computed again, to the same bits.

    -> how many of the steps up to this one have a line with a loss
    Raises: InputError if the path is no regular file.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no regular file; remove it")
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = [(line, _parse_row(line)) for line in lines]
    kept = [(line, row) for line, row in rows if row is not None and row["step"] <= step]
    write_atomically(path, lambda file: file.write(b"".join(line + b"\n" for line, _ in kept)))
    return len({row["step"] for _, row in kept if "loss" in row})


def append_metrics(path: Path, row: dict, sync: bool = False) -> None:
    """Append a line, whole or not at all. sync: bring it, and all lines before it, to the disk.

    Raises: WriteError naming the file and a remedy.
    """
    size = None
    try:
        with open(path, "ab") as file:
            size = file.tell()
            file.write(json.dumps(row).encode("utf-8") + b"\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        if size is not None:
            with suppress(OSError):
                os.truncate(path, size)
        raise write_error(path, error) from None


def last_step(path: Path) -> int:
    """The step of the last whole line; 0 where there is none. Another process may be writing the file."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    return next((row["step"] for row in map(_parse_row, reversed(lines)) if row is not None), 0)


def _parse_row(line: bytes) -> dict | None:
    """A line of metrics: a step, and numbers. None if it is damaged."""
    try:
        row = json.loads(line)
        numbers = [value for value in row.values() if type(value) in (int, float)]
        return row if type(row["step"]) is int and len(numbers) == len(row) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def draw_curve(folder: Path) -> bool:
    """Draw loss and accuracy over the steps into curve.png of a run's folder. -> whether the file was written."""

    def draw(figure) -> None:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
        _draw(figure, [json.loads(line) for line in text.splitlines()])

    return draw_if_possible(folder / "curve.png", _CURVE_SIZE, draw)


def _draw(figure, rows: Iterable[dict]) -> None:
    """Loss on the left, accuracy on the right, training and validation in both."""
    steps = [row for row in rows if "loss" in row]
    validations = [row for row in rows if "val_loss" in row]
    window = max(1, len(steps) // 100)
    for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        numbers = (np.array([row[key] for row in steps]) for key in ("step", name))
        train = [running_mean(values, window) for values in numbers]
        axis.plot(*train, color="0.6", label=f"train, mean of {window} steps")
        val = [[row[key] for row in validations] for key in ("step", f"val_{name}")]
        axis.plot(*val, "o-", color="C0", markersize=3, label="validation")
        axis.set_xlabel("step")
        axis.set_ylabel(name)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means of consecutive groups of `window` values, without the rest at the end. Shapes: (n,) -> (n // window,)."""
    count = len(values) // window
    return values[: count * window].reshape(count, window).mean(axis=1)
