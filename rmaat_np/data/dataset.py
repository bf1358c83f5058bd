"""What every task reader returns: ragged token sequences, labels, and padded batches cut from them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Split:
    """One split of a task, all sequences end to end in one array.

    Shapes:
        tokens:  (total,) uint8 or uint16, values >= 1; 0 is kept for padding
        offsets: (n * documents + 1,) int64; sequence i is tokens[offsets[i]:offsets[i + 1]]
        labels:  (n,) int64, 0 .. num_classes - 1
        documents: 1, or 2 when a row is a pair of documents
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    documents: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> np.ndarray:
        """Length of each row in tokens, (n,); of a pair, its longer document."""
        return np.diff(self.offsets).reshape(len(self), self.documents).max(axis=1)

    def sequence(self, row: int, document: int = 0) -> np.ndarray:
        """The tokens of one row, without padding: (length,)."""
        i = row * self.documents + document
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def batch(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """Pad the named rows to the longest of them.

        Shapes: rows (B,) -> tokens (B, n) int32, or (B, 2, n) for pairs; labels (B,) int64
        """
        rows = np.asarray(rows)
        pieces = [self.sequence(r, d) for r in rows for d in range(self.documents)]
        padded = np.zeros((len(pieces), max(map(len, pieces))), dtype=np.int32)
        for i, piece in enumerate(pieces):
            padded[i, : len(piece)] = piece
        if self.documents > 1:
            padded = padded.reshape(len(rows), self.documents, -1)
        return padded, self.labels[rows]

    def take(self, rows) -> "Split":
        """The named rows as a split of their own (used to hold out a validation set)."""
        pieces = [self.sequence(r, d) for r in rows for d in range(self.documents)]
        return make_split(pieces, self.labels[np.asarray(rows)], self.tokens.dtype, self.documents)


def make_split(sequences, labels, dtype=np.uint8, documents: int = 1) -> Split:
    """Join a list of 1-D token arrays (for pairs: both documents of a row, one after the other)."""
    lengths = [len(s) for s in sequences]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.empty(int(offsets[-1]), dtype=dtype)
    for start, sequence in zip(offsets, sequences, strict=False):
        tokens[start : start + len(sequence)] = sequence
    return Split(tokens, offsets, np.asarray(labels, dtype=np.int64), documents)


@dataclass(frozen=True)
class Dataset:
    """A task: its vocabulary, its splits, and how to show a row to a person.

    vocab_size counts the padding token 0; max_length is the longest row that the task admits, in tokens;
    decode turns one row's tokens back into text.
    """

    task: str
    vocab_size: int
    num_classes: int
    max_length: int
    train: Split
    val: Split
    test: Split
    decode: Callable[[np.ndarray], str]

    @property
    def pair(self) -> bool:
        """True when a row is two documents."""
        return self.train.documents == 2


def check_split(split: Split, name: str, source, num_classes: int) -> Split:
    """Refuse an empty split, an empty sequence, or a label that no class has; returns the split.

    Raises: InputError naming the source.
    """
    if len(split) == 0:
        raise InputError(f"{source}: the {name} split has no rows; give a file with at least one")
    if np.diff(split.offsets).min() == 0:
        row = int(np.argmin(np.diff(split.offsets))) // split.documents
        raise InputError(f"{source}: row {row + 1} of the {name} split is empty; remove it")
    bad = (split.labels < 0) | (split.labels >= num_classes)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{source}: row {row + 1} has label {split.labels[row]}, expected 0 to {num_classes - 1}")
    return split
