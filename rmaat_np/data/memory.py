"""The memory probes: class tokens among noise, and the question which one came, or which one came last.

kind    class tokens                                         what the memory must do
`one`   one, among the first `class_within` tokens           keep it through all noise that follows
`last`  one to three, at random places; the last is asked    keep it, and give it up when a new one comes

The rows differ in length, so that a model learns what does not depend on the number of segments. It can then be read on
far longer rows than it was trained on. The tokens are those of `recall.py`, whose rows are all of one length.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import InputError, check_integer
from .dataset import Dataset, Split
from .recall import CLASSES, VOCAB_SIZE, decode

KINDS = ("one", "last")
MOST = 3  # class tokens in a row of kind `last`


def load(
    kind: str = "last",
    class_within: int = 32,
    shortest: int = 1,
    length: int = 512,
    seed: int = 0,
    rows: Sequence[int] = (40_000, 500, 1_000),
) -> Dataset:
    """Draw the probe: rows of `shortest` to `length` tokens, every length as likely as the others.

    kind: one of KINDS; class_within: of kind "one"; rows: of train, val and test
    Raises: InputError for an unknown kind, if shortest exceeds length, or for a number below 1.
    """
    seed, class_within = check_integer("seed", seed, 0), check_integer("class_within", class_within, 1)
    shortest, length = check_integer("shortest", shortest, 1), check_integer("length", length, 1)
    rows = [check_integer("rows", count, 1) for count in rows]
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}, but it must be one of {', '.join(KINDS)}")
    if shortest > length:
        raise InputError(f"shortest {shortest} exceeds length {length}; change one of them")
    rng = np.random.default_rng([seed, KINDS.index(kind), class_within, shortest, length])
    train, val, test = (_draw(rng, count, kind, class_within, shortest, length) for count in rows)
    return Dataset("memory", VOCAB_SIZE, CLASSES, length, train, val, test, decode)


def _draw(rng, count, kind, class_within, shortest, length) -> Split:
    lengths = rng.integers(shortest, length + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(1 + CLASSES, VOCAB_SIZE, offsets[-1], dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count)
    if kind == "one":
        last = rng.integers(0, np.minimum(class_within, lengths))
    else:
        places = rng.integers(0, lengths[:, None], (count, MOST))
        used = np.arange(MOST) < rng.integers(1, MOST + 1, (count, 1))
        tokens[(offsets[:-1, None] + places)[used]] = rng.integers(1, 1 + CLASSES, used.sum())
        last = np.where(used, places, -1).max(axis=1)
    tokens[offsets[:-1] + last] = labels + 1
    return Split(tokens, offsets, labels)
