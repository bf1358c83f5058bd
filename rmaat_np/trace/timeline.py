"""The picture of what is alive when: caches and memory tokens, with the segments across and the events down."""

from pathlib import Path

import numpy as np

from ..system.pictures import draw_if_possible
from .events import TraceEvent, first_shard
from .words import LABELS

__all__ = ["TIMELINE_SIZE", "draw_timeline", "spans", "write_timeline"]

TIMELINE_SIZE = (11, 8)  # inches
BEGIN = {"cache": ("forward", "replay"), "memory": ("store",)}
_END = {"cache": ("drop",), "memory": ("release",)}
_BARS = {
    "cache": {"label": "cache", "width": 0.78, "color": "#9ecae1", "edgecolor": "#08519c"},
    "memory": {
        "label": "memory tokens in the replay buffer",
        "width": 0.26,
        "color": "#fdd0a2",
        "edgecolor": "#a63603",
        "hatch": "///",
    },
}
_MARKS = {"forward": ("v", "white"), "replay": ("D", "#fed976"), "backward": ("^", "black")}  # marker, face


def spans(events: list[TraceEvent], what: str) -> list[tuple[int, int, int]]:
    """When the "cache" of each segment is alive, or its "memory" in the replay buffer.

    -> (segment, event that brings it, event that ends it), in the order of the ends
    """
    begun: dict[int, int] = {}
    found = []
    for i, event in enumerate(events):
        if event.kind in BEGIN[what]:
            begun[event.segment] = i
        elif event.kind in _END[what]:
            found.append((event.segment, begun.pop(event.segment), i))
    return found


def draw_timeline(figure, recordings: dict[str, list[TraceEvent]]) -> None:
    """A column for each method: above what is alive when, below the bytes held. All columns have the same scales.

    figure: an empty matplotlib figure, TIMELINE_SIZE inches; recordings: events by method, drawn of the first shard
    """
    shards = {method: first_shard(events) for method, events in recordings.items()}
    longest = max(map(len, shards.values()))
    most = max(event.held for events in shards.values() for event in events)
    unit, size = ("MiB", 2**20) if most >= 2**20 else ("KiB", 2**10)
    axes = figure.subplots(2, len(shards), squeeze=False, height_ratios=(3, 1))
    for (method, events), above, below in zip(shards.items(), *axes, strict=True):
        _draw_alive(above, events)
        above.set(title=method.upper(), xlabel="segment", ylabel="event, time runs down", ylim=(longest + 0.5, -0.5))
        _draw_held(below, np.array([event.held for event in events]) / size, unit)
        below.set(xlabel="event", ylabel=f"bytes held [{unit}]", xlim=(-0.5, longest), ylim=(0, most / size * 1.1))
        for axis in (above, below):
            axis.spines[["top", "right"]].set_visible(False)
    named = {label: mark for axis in axes[0] for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=-(-len(named) // 2), frameon=False)


def _draw_alive(axis, events):
    """Bars from the event that brings a cache or a memory to the event that ends it; marks where a segment is run."""
    for what, look in _BARS.items():
        alive = spans(events, what)
        if alive:
            segment, begin, end = np.array(alive).T
            axis.bar(segment + 1, end - begin, bottom=begin, linewidth=0.8, **look)
    for kind, (marker, face) in _MARKS.items():
        points = [(event.segment + 1, i) for i, event in enumerate(events) if event.kind == kind]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color="black", markerfacecolor=face, label=LABELS[kind])
    for i in (i for i, event in enumerate(events) if event.kind == "turn"):
        axis.axhline(i, color="black", linestyle="--", linewidth=1, label=LABELS["turn"])
    segments = max(event.segment for event in events) + 1
    axis.set_xlim(0.4, segments + 0.6)
    axis.set_xticks(range(1, segments + 1, -(-segments // 16)))


def _draw_held(axis, held, unit):
    """The bytes held after each event, with the largest number written beside it."""
    axis.step(range(len(held)), held, where="post", color="black")
    axis.annotate(f"peak {held.max():,.1f} {unit}", (held.argmax(), held.max()), (3, 3), textcoords="offset points")


def write_timeline(path: Path, recordings: dict[str, list[TraceEvent]]) -> bool:
    """Draw the timeline into a PNG file. What prevents that is told in one line on stderr.

    recordings: events by method
    -> whether the file was written
    """
    return draw_if_possible(path, TIMELINE_SIZE, lambda figure: draw_timeline(figure, recordings))
