"""The recall probe: one class token somewhere in the first segment, noise afterwards. Does the memory carry it?

With the readout from the memory tokens only, the answer must travel through every memory update to the last segment.
It is no Long Range Arena task; it takes minutes where those take hours, and it isolates what the recurrence is for.
"""

import numpy as np

from .dataset import Dataset, Split

CLASSES = 10
NOISE = 16  # ids 1 .. 10 are the classes, 11 .. 26 noise, 0 padding
VOCAB_SIZE = 1 + CLASSES + NOISE


def load(segment_length: int, num_segments: int, seed: int = 0, rows=(20_000, 500, 1_000)) -> Dataset:
    """Draw the probe: sequences of num_segments * segment_length tokens, the class token within the first segment.

    rows: of train, val and test
    """
    rng = np.random.default_rng([seed, segment_length, num_segments])
    splits = (_draw(rng, count, segment_length, num_segments * segment_length) for count in rows)
    return Dataset("recall", VOCAB_SIZE, CLASSES, num_segments * segment_length, *splits, decode)


def decode(tokens) -> str:
    """Class tokens as digits, noise as letters."""
    return "".join(chr(ord("0") + t - 1) if t <= CLASSES else chr(ord("a") + t - CLASSES - 1) for t in map(int, tokens))


def _draw(rng, count, first, length) -> Split:
    tokens = rng.integers(1 + CLASSES, VOCAB_SIZE, (count, length), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count)
    tokens[np.arange(count), rng.integers(0, first, count)] = labels + 1
    return Split(tokens.ravel(), np.arange(count + 1, dtype=np.int64) * length, labels)
