"""Divergence: which number stopped being finite first, and which operation made it so."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from linecache import getline
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..errors import InputError
from .run import Run

PACKAGE = str(Path(backend.__file__).parent)
_PIECES = ("forward", "replay", "backward")  # the events that end a piece of computing; see `ledger.Event`


@dataclass(eq=False)
class Diverged(Exception):
    """The loss, a gradient or the state of a run is no longer finite. The run stopped before it was saved.

    step: 1 for the first; loss, gradient_norm: of that step, None where not known; first: what was not finite first;
    operation: "file.py:line: source, place", or None where it was not looked for or not found; checkpoint: the file
    with the state before the step, or None; state: where the run's state is, as half a sentence; repeatable: True if
    the step, repeated from the checkpoint, can tell the operation; False if the update before it was the cause.
    """

    step: int
    loss: float | None
    gradient_norm: float | None
    first: str
    operation: str | None
    checkpoint: Path | None
    state: str
    repeatable: bool

    def __str__(self) -> str:
        numbers = {"loss": self.loss, "gradient norm": self.gradient_norm}
        known = ", ".join(f"{name} {number}" for name, number in numbers.items() if number is not None)
        parts = [known] if known else []
        parts.append(f"the first that is not finite: {self.first}")
        parts += [f"the operation: {self.operation}"] if self.operation else []
        return f"step {self.step}: " + "; ".join([*parts, self.state])


def first_not_finite(arrays: Mapping[str, Any]) -> str | None:
    """The name of the first floating-point array that is not finite. Other values are passed over."""
    for name, array in arrays.items():
        if getattr(getattr(array, "dtype", None), "kind", "") == "f" and not backend.xp.isfinite(array).all():
            return name
    return None


def diverged(run: Run, row: dict, grads: dict, compute: Callable | None) -> Diverged:
    """Save the state before a step, and say where the step's numbers stopped being finite.

    row: the step's line of metrics; grads: its gradients; compute: its loss_and_grads as a function of the options, to
    name the operation; None: it is not to be named
    """
    repeatable = True
    if (name := first_not_finite(run.params)) is not None:
        first, repeatable = f"parameter {name}, after the update before", False
    elif (name := first_not_finite(grads)) is not None:
        first = f"the gradient of {name}"
    else:
        first = "the norm itself, of finite gradients" if np.isfinite(row["loss"]) else "the loss"
    operation = None
    if compute is not None and repeatable and backend.name == "numpy":  # CuPy sets no floating-point flags
        operation = find_operation(compute)
    path: Path | None = run.folder / "diverged.npz"
    state = f"the state before this step is in {path}"
    try:
        run.save("diverged.npz")
    except InputError as error:
        path, state = None, f"the state before this step is lost ({error})"
    return Diverged(row["step"], row["loss"], row["grad_norm"], first, operation, path, state, repeatable)


def find_operation(compute: Callable) -> str | None:
    """Repeat a step with NumPy, and name the first operation that overflows, divides by zero or has no result.

    compute: loss_and_grads as a function of its options
    -> "file.py:line: source, place"; None if no operation sets a floating-point flag
    """
    lines: list[str] = []
    pieces: list[str] = []

    def note_operation(kind: str, flag: int) -> None:  # NumPy calls this in the middle of the operation
        frame = sys._getframe(1)
        while frame.f_back is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back  # NumPy's own Python code
        path, number = frame.f_code.co_filename, frame.f_lineno
        if not lines:
            lines.append(f"{Path(path).name}:{number}: {getline(path, number).strip()}")

    def note_piece(event) -> None:
        if lines and not pieces and event.kind in _PIECES:
            pieces.append(f", {event.kind} of segment {event.segment + 1}, shard {event.shard + 1}")

    with np.errstate(over="call", invalid="call", divide="call", call=note_operation):
        compute(workers=1, observer=note_piece)
    return "".join([*lines, *pieces]) or None
