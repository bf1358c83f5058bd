"""One training step as a list of events, and the events as lines.

The events are those that `loss_and_grads` reports to an observer; `ledger.Event` says what each one means. The trace
adds one to each shard: "turn", the turning point between the last segment's run and the way back.
"""

from dataclasses import dataclass, replace

import numpy as np

from .. import backend
from ..config import Config
from ..step import loss_and_grads

__all__ = ["TraceEvent", "TracedStep", "event_lines", "first_shard", "same_gradients", "trace_step"]


@dataclass(frozen=True, eq=False)
class TraceEvent:
    """An event of a training step: a `ledger.Event` whose array is a copy on the host, or the turning point.

    kind: as of `ledger.Event`, or "turn": all segments are read, the loss is known, the way back begins
    segment, shard, nbytes, caches, buffer: as of `ledger.Event`; caches and buffer are the bytes held afterwards
    array: memory tokens, or for "backward" their gradient (B, M, D); None for "drop" and "turn"
    norm: the square root of the sum of the array's squares, all sequences together; None without an array
    """

    kind: str
    segment: int
    shard: int
    nbytes: int
    caches: int
    buffer: int
    array: np.ndarray | None
    norm: float | None

    @property
    def held(self) -> int:
        """Bytes of caches and replay buffer after the event."""
        return self.caches + self.buffer


@dataclass(frozen=True, eq=False)
class TracedStep:
    """What a training step returned, and its events in their order. grads: by parameter name."""

    loss: float
    grads: dict
    stats: dict
    events: list[TraceEvent]


def trace_step(
    params: dict, cfg: Config, tokens, labels, method: str, seed: int | None = None, step: int | None = None
) -> TracedStep:
    """One training step by one worker, without the update. Arguments and errors as of `step.loss_and_grads`."""
    events: list[TraceEvent] = []

    def observe(event):
        array = None if event.array is None else np.array(backend.to_host(event.array))
        norm = None if array is None else float(np.sqrt(np.square(array, dtype=float).sum()))
        sizes = (int(event.nbytes), int(event.caches), int(event.buffer))
        if event.kind in ("release", "backward") and events[-1].kind == "forward":
            events.append(replace(events[-1], kind="turn", nbytes=0, array=None, norm=None))
        events.append(TraceEvent(event.kind, event.segment, event.shard, *sizes, array, norm))

    loss, grads, stats = loss_and_grads(params, cfg, tokens, labels, method, seed, step, observer=observe)
    return TracedStep(float(loss), grads, stats, events)


def first_shard(events: list[TraceEvent]) -> list[TraceEvent]:
    """The events of one shard. Every other shard goes through the same."""
    return [event for event in events if event.shard == 0]


def same_gradients(steps: dict[str, TracedStep]) -> bool:
    """Are the loss and all gradients of the methods equal to the last bit?"""
    first, *others = steps.values()
    return all(
        other.loss == first.loss and np.array_equal(backend.to_host(other.grads[name]), backend.to_host(grad))
        for other in others
        for name, grad in first.grads.items()
    )


def event_lines(events: list[TraceEvent]) -> list[str]:
    """A heading and a line for each event, one shard after the other; caches and buffer are bytes held afterwards."""
    heading = ("event", "segment", "array", "bytes", "caches", "buffer", "norm")
    rows = [heading, *map(_cells, events)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = {heading.index(name) for name in ("bytes", "caches", "buffer")}
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(event: TraceEvent) -> tuple[str, ...]:
    """The cells of an event's line, in the order of the heading."""
    segment = f"{event.segment + 1}" + (f" (shard {event.shard + 1})" if event.shard else "")
    sign = {"drop": "-", "release": "-", "backward": ""}.get(event.kind, "+")
    size = f"{sign}{event.nbytes:,}" if event.nbytes else ""
    shape = norm = ""
    if event.array is not None:
        shape = str(event.array.shape)
        norm = f"{'gradient' if event.kind == 'backward' else 'memory'} {event.norm:.4g}"
        if len(event.array) == 0:
            norm = "every sequence ends here"
    if event.kind == "turn":
        norm = "the loss is known"
    return event.kind, segment, shape, size, f"{event.caches:,}", f"{event.buffer:,}", norm
