"""What a step holds in memory, counted as it comes and goes, and told to an observer."""

from collections.abc import Callable
from dataclasses import dataclass

from . import backend

SHARED = ("w", "gain", "tokens", "factor")  # cache entries that point into parameters or the shard: nothing extra


@dataclass(frozen=True)
class Event:
    """What an observer is told about a segment (0, 1, ...) of a shard, and what that changed.

    kind: "store" memory tokens in the replay buffer, "release" them from it; "forward" or "replay" built a cache,
    "drop" gave it up; "backward" went through it. nbytes: of that memory or cache; caches, buffer: bytes that all of
    them hold afterwards; array: the memory tokens, for "backward" the gradient of those that entered the segment.
    """

    kind: str
    segment: int
    shard: int
    nbytes: int
    caches: int
    buffer: int
    array: object


class Ledger:
    """Counts the bytes that one shard's caches and replay buffer hold, and tells the observer of each change."""

    def __init__(self, shard: int, observer: Callable[[Event], None] | None):
        self.shard, self.observer = shard, observer
        self.caches = self.buffer = self.peak_caches = self.peak_buffer = 0
        self.sizes = {}  # of caches, by the shape of their segment: measuring one takes as long as a small product

    def cache_nbytes(self, cache) -> int:
        """`cache_nbytes`, measured once for each shape of segment."""
        segment = cache["segment"]
        shape = segment.tokens.shape, segment.going_on, segment.mask is None
        if shape not in self.sizes:
            self.sizes[shape] = cache_nbytes(cache)
        return self.sizes[shape]

    def note(self, kind: str, segment: int, nbytes: int, array=None) -> None:
        """Book an event, and report it."""
        self.caches += {"forward": nbytes, "replay": nbytes, "drop": -nbytes}.get(kind, 0)
        self.buffer += {"store": nbytes, "release": -nbytes}.get(kind, 0)
        self.peak_caches = max(self.peak_caches, self.caches)
        self.peak_buffer = max(self.peak_buffer, self.buffer)
        if self.observer is not None:
            self.observer(Event(kind, segment, self.shard, nbytes, self.caches, self.buffer, array))


def cache_nbytes(cache) -> int:
    """Bytes that a segment's cache keeps alive; parameters and tokens, which live anyway, are not counted."""
    found, queue = [], [cache]
    while queue:
        entry = queue.pop()
        if isinstance(entry, dict):
            queue.extend(value for name, value in entry.items() if name not in SHARED)
        elif isinstance(entry, list):
            queue.extend(entry)
        elif hasattr(entry, "nbytes"):
            found.append(entry)
    return backend.nbytes_of(found)
