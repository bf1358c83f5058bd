"""One training step as a list of events, and the events as lines and sentences.

The events are those that `loss_and_grads` reports to an observer; `ledger.Event` says what each one means.
"""

from dataclasses import dataclass

import numpy as np

from .. import backend
from ..config import Config
from ..step import loss_and_grads

__all__ = ["TraceEvent", "TracedStep", "event_lines", "explain", "first_shard", "same_gradients", "trace_step"]


@dataclass(frozen=True, eq=False)
class TraceEvent:
    """An event of a training step: a `ledger.Event` whose array is a copy on the host.

    kind, segment, shard, nbytes, caches, buffer: as of `ledger.Event`; caches and buffer are the bytes held afterwards
    array: memory tokens, or for "backward" their gradient (B, M, D); None for "drop"
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
    return event.kind, segment, shape, size, f"{event.caches:,}", f"{event.buffer:,}", norm


def explain(event: TraceEvent, last: int, gone_back: bool) -> str:
    """What happens at an event, and why.

    last: the last segment, counted from 0; gone_back: has the gradient gone back through the event's segment already
    """
    t, size = event.segment, _show_bytes(event.nbytes)
    norm = "" if event.norm is None else f"{event.norm:.3g}"
    match event.kind:
        case "store":
            return (
                f"The memory tokens that enter segment {t + 1} go into the replay buffer ({size}). "
                "These tokens and those of the segment suffice to run the segment again on the way back."
            )
        case "forward" if t < last:
            return (
                f"Segment {t + 1} is run. The intermediate results that its gradient will need form a cache of {size}. "
                f"Its memory tokens, norm {norm}, go on to segment {t + 2}."
            )
        case "forward":
            return (
                f"Segment {t + 1}, the last one, is run, and its cache takes {size}. Now the loss is known. "
                "The way back begins in this segment, so both methods still have its cache."
            )
        case "drop" if gone_back:
            return f"The cache of segment {t + 1} has done its work: {size} are free again."
        case "drop":
            return (
                f"The cache of segment {t + 1} is given up before the next one is built: {size} are free. "
                "AMRB will rebuild it from the stored memory tokens when the gradient comes back."
            )
        case "release":
            return (
                f"The way back reaches segment {t + 1}. "
                f"The memory tokens that entered this segment leave the replay buffer ({size})."
            )
        case "replay":
            return (
                f"Segment {t + 1} is run a second time, from the memory tokens just released. The cache of {size} "
                "comes out the same to the last bit, so the gradient will too."
            )
    goal = f"segment {t}" if t else "the learned memory tokens that every sequence starts from"
    return (
        f"The gradient goes back through segment {t + 1} with the help of the segment's cache. "
        f"What arrives at the memory tokens that entered the segment, norm {norm}, goes on to {goal}."
    )


def _show_bytes(count: int) -> str:
    """Bytes for people: 1 kB is 1,000 bytes."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} B"
