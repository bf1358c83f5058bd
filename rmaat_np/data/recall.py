"""The recall probe: one class token somewhere in the first segment, noise afterwards. Does the memory carry it?

With the readout from the memory tokens only, the answer must travel through every memory update to the last segment.
The probe is no Long Range Arena task. It takes minutes where those take hours. It tests the recurrence alone.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, check_integer
from .dataset import Dataset, Split, check_tokens

CLASSES = 10
_NOISE = 16  # ids 1 .. 10 are the classes, 11 .. 26 noise, 0 padding
VOCAB_SIZE = 1 + CLASSES + _NOISE


def load(
    class_within: int = 32, length: int = 128, seed: int = 0, rows: Sequence[int] = (20_000, 500, 1_000)
) -> Dataset:
    """Draw the probe: sequences of `length` tokens, the class token among the first `class_within` of them.

    rows: of train, val and test
    Raises: InputError if class_within exceeds length, or for a number below 1.
    """
    seed, class_within = check_integer("seed", seed, 0), check_integer("class_within", class_within, 1)
    length, rows = check_integer("length", length, 1), [check_integer("rows", count, 1) for count in rows]
    if class_within > length:
        raise InputError(f"class_within {class_within} exceeds length {length}; change one of them")
    rng = np.random.default_rng([seed, class_within, length])
    train, val, test = (_draw(rng, count, class_within, length) for count in rows)
    return Dataset("recall", VOCAB_SIZE, CLASSES, length, train, val, test, decode)


def decode(tokens: ArrayLike) -> str:
    """Class tokens as digits, noise as letters; padding is dropped."""
    return "".join("_0123456789abcdefghijklmnop"[token] for token in check_tokens(tokens, VOCAB_SIZE) if token)


def _draw(rng, count, first, length) -> Split:
    tokens = rng.integers(1 + CLASSES, VOCAB_SIZE, (count, length), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count)
    tokens[np.arange(count), rng.integers(0, first, count)] = labels + 1
    return Split(tokens.ravel(), np.arange(count + 1, dtype=np.int64) * length, labels)
