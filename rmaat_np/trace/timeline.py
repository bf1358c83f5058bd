"""The picture of what is alive when: caches and memory tokens, segments across, events down."""

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..system.files import write_atomically
from .events import first_shard

TIMELINE_SIZE = (11, 8)  # inches
BEGIN = {"cache": ("forward", "replay"), "memory": ("store",)}
END = {"cache": ("drop",), "memory": ("release",)}


def spans(events, what: str) -> list[tuple[int, int, int]]:
    """When a segment's "cache", or its "memory" in the replay buffer, is alive.

    -> (segment, event that brings it, event that ends it), in the order of the ends
    """
    begun, found = {}, []
    for i, e in enumerate(events):
        if e["event"] in BEGIN[what]:
            begun[e["segment"]] = i
        elif e["event"] in END[what]:
            found.append((e["segment"], begun.pop(e["segment"]), i))
    return found


def draw_timeline(figure, recordings: dict) -> None:
    """Segments across, events down, what is alive when; below, the bytes held, all on the same scales.

    figure: an empty matplotlib figure, TIMELINE_SIZE inches; recordings: events by method, as from `record`; of each
    the first shard is drawn
    """
    shards = {method: first_shard(events) for method, events in recordings.items()}
    longest = max(map(len, shards.values()))
    most = max(e["caches"] + e["buffer"] for events in shards.values() for e in events)
    unit, size = ("MB", 1e6) if most >= 1e6 else ("kB", 1e3)
    axes = figure.subplots(2, len(shards), squeeze=False, height_ratios=(3, 1))
    for (method, events), axis, below in zip(shards.items(), *axes, strict=True):
        _draw_alive(axis, events)
        axis.set(title=method.upper(), xlabel="segment", ylabel="event, time runs down", ylim=(longest + 0.5, -0.5))
        held = np.array([e["caches"] + e["buffer"] for e in events]) / size
        below.step(range(len(events)), held, where="post", color="black")
        below.set(xlabel="event", ylabel=f"bytes held [{unit}]", xlim=(-0.5, longest), ylim=(0, most / size * 1.1))
        below.annotate(
            f"peak {held.max():,.1f} {unit}", (held.argmax(), held.max()), (3, 3), textcoords="offset points"
        )
        for a in (axis, below):
            a.spines[["top", "right"]].set_visible(False)
    key = {label: mark for axis in axes[0] for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(key.values(), key.keys(), loc="outside lower center", ncols=len(key), frameon=False)


def _draw_alive(axis, events):
    looks = {
        "cache": {"width": 0.78, "color": "#9ecae1", "edgecolor": "#08519c", "label": "cache"},
        "memory": {"width": 0.26, "color": "#fdd0a2", "edgecolor": "#a63603", "hatch": "///"},
    }
    looks["memory"]["label"] = "memory tokens in the replay buffer"
    for what, look in looks.items():
        alive = spans(events, what)
        if alive:
            segment, begin, end = np.array(alive).T
            axis.bar(segment + 1, end - begin, bottom=begin, linewidth=0.8, **look)
    marks = {"forward": ("v", "white"), "replay": ("D", "#fed976"), "backward": ("^", "black")}
    for kind, (marker, face) in marks.items():
        points = [(e["segment"] + 1, i) for i, e in enumerate(events) if e["event"] == kind]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color="black", markerfacecolor=face, label=kind)
    segments = max(e["segment"] for e in events) + 1
    axis.set_xlim(0.4, segments + 0.6)
    axis.set_xticks(range(1, segments + 1, -(-segments // 16)))


def write_timeline(path, recordings: dict) -> None:
    """Draw the timeline into a PNG file. Raises: InputError without matplotlib, or if it cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"matplotlib cannot be imported ({error}); pip install matplotlib") from None
    figure = Figure(figsize=TIMELINE_SIZE, layout="constrained")
    draw_timeline(figure, recordings)
    write_atomically(Path(path), lambda file: figure.savefig(file, format="png", dpi=120))
