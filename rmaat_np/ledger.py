"""Counts the bytes of caches and memory tokens that a shard holds, and tells observers of each change.

The algorithms of `replay.py` call a `Ledger` at each event. They compute the same without it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import backend
from .segments import Shard


@dataclass(frozen=True)
class Event:
    """What an observer is told about a segment (0, 1, ...) of a shard.

    kind: "store": memory tokens went into the replay buffer; "release": they left it;
        "forward", "replay": a cache was built, in the first pass or again; "drop": it was given up;
        "backward": the gradient went back through the segment
    nbytes: size of those memory tokens or of that cache; caches, buffer: bytes that all of them hold afterwards
    array: the memory tokens; for "backward" the gradient of those that entered the segment; for "drop" None
    """

    kind: str
    segment: int
    shard: int
    nbytes: int
    caches: int
    buffer: int
    array: Any


class Ledger:
    """Counts the bytes that one shard's caches and replay buffer hold, and tells an observer of each change.

    caches, buffer: bytes held now; peak_caches, peak_buffer: the most so far
    """

    def __init__(self, shard: Shard, params: dict, observer: Callable[[Event], None] | None = None):
        self.caches = self.buffer = self.peak_caches = self.peak_buffer = 0
        self._shard, self._observer = shard.number, observer
        self._borrowed = [*params.values(), shard.tokens, shard.factors]
        self._held: dict[int, int] = {}  # bytes of the cache of each segment that has one
        self._sizes: dict[tuple, int] = {}  # of caches, by the shape of their segment: each is measured once only

    def store(self, segment: int, memory) -> None:
        """The memory tokens that enter a segment were put into the replay buffer."""
        self.buffer += memory.nbytes
        self.peak_buffer = max(self.peak_buffer, self.buffer)
        self._tell("store", segment, memory.nbytes, memory)

    def release(self, segment: int, memory) -> None:
        """The memory tokens of a segment left the replay buffer."""
        self.buffer -= memory.nbytes
        self._tell("release", segment, memory.nbytes, memory)

    def build(self, kind: str, segment: int, cache: dict, memory) -> None:
        """A segment's cache was built, in the first pass (kind "forward") or again (kind "replay").

        memory: of "forward" the tokens that the segment handed on, of "replay" those that it received
        """
        self._held[segment] = self._nbytes(cache)
        self.caches += self._held[segment]
        self.peak_caches = max(self.peak_caches, self.caches)
        self._tell(kind, segment, self._held[segment], memory)

    def go_back(self, segment: int, dmemory) -> None:
        """The gradient went back through a segment, to the memory tokens that had entered it."""
        self._tell("backward", segment, 0, dmemory)

    def drop(self, segment: int) -> None:
        """A segment's cache was given up."""
        nbytes = self._held.pop(segment)
        self.caches -= nbytes
        self._tell("drop", segment, nbytes, None)

    def _nbytes(self, cache: dict) -> int:
        segment = cache["segment"]
        shape = segment.tokens.shape, segment.num_continuing, segment.mask is None
        if shape not in self._sizes:
            self._sizes[shape] = cache_nbytes(cache, self._borrowed)
        return self._sizes[shape]

    def _tell(self, kind: str, segment: int, nbytes: int, array) -> None:
        if self._observer is not None:
            self._observer(Event(kind, segment, self._shard, nbytes, self.caches, self.buffer, array))


def cache_nbytes(cache: dict, borrowed: Iterable = ()) -> int:
    """Bytes that a cache keeps alive, views of one buffer counted once.

    borrowed: arrays that exist without the cache, such as parameters; they are not counted
    """
    found: list = []
    queue: list = [cache]
    while queue:
        entry = queue.pop()
        if isinstance(entry, dict):
            queue.extend(entry.values())
        elif isinstance(entry, list):
            queue.extend(entry)
        elif hasattr(entry, "nbytes"):
            found.append(entry)
    lives_anyway = {id(backend.owner_of(array)) for array in borrowed}
    owners = {id(owner): owner for owner in map(backend.owner_of, found)}
    return sum(owner.nbytes for key, owner in owners.items() if key not in lives_anyway)
