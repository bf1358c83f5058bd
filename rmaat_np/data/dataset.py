"""What every task reader returns: ragged token sequences, labels, and padded batches cut from them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..errors import InputError

if TYPE_CHECKING:
    from .own.codec import Codec

SPLITS = ("train", "val", "test")
TOKEN_TYPES = (np.uint8, np.uint16, np.uint32)


@dataclass(frozen=True)
class Split:
    """One split of a task, all sequences end to end in one array.

    Shapes:
        tokens:  (total,) uint8, uint16 or uint32, values >= 1; 0 is kept for padding
        offsets: (n * documents + 1,) int64; sequence i is tokens[offsets[i]:offsets[i + 1]]
        labels:  (n,) int64, 0 .. num_classes - 1
        documents: 1, or 2 when a row is a pair of documents
    Raises: InputError for arrays of other types or of lengths that do not go together. `make_split` converts.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    documents: int = 1

    def __post_init__(self):
        tokens, offsets, labels = self.tokens, self.offsets, self.labels
        if tokens.dtype not in TOKEN_TYPES or offsets.dtype != np.int64 or labels.dtype != np.int64:
            types = f"{tokens.dtype}, {offsets.dtype}, {labels.dtype}"
            raise InputError(
                f"Split: tokens, offsets, labels are {types}; they must be uint8, uint16 or uint32, int64, int64"
            )
        if not tokens.ndim == offsets.ndim == labels.ndim == 1 or self.documents not in (1, 2):
            raise InputError("Split: the three arrays must have one axis each, and documents must be 1 or 2")
        if (
            len(offsets) != len(labels) * self.documents + 1
            or (offsets[0] != 0 or offsets[-1] != len(tokens))
            or (offsets[1:] < offsets[:-1]).any()
        ):
            raise InputError("Split: offsets must rise from 0 to the number of tokens, one more than there are texts")

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> np.ndarray:
        """Length of each row in tokens, (n,); of a pair, its longer document."""
        return np.diff(self.offsets).reshape(len(self), self.documents).max(axis=1)

    def sequence(self, row: int, document: int = 0) -> np.ndarray:
        """The tokens of one row, without padding: (length,)."""
        i = row * self.documents + document
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def batch(self, rows: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Pad the named rows to the longest of them.

        Shapes: rows (B,), 0 .. n - 1 -> tokens (B, n) int32, or (B, 2, n) for pairs; labels (B,) int64
        Raises: InputError for no rows, or for a row that is not there.
        """
        rows = self._checked(rows)
        if len(rows) == 0:
            raise InputError("a batch of no rows; name at least one")
        pieces = [self.sequence(r, d) for r in rows for d in range(self.documents)]
        padded: np.ndarray = np.zeros((len(pieces), max(map(len, pieces))), dtype=np.int32)
        for i, piece in enumerate(pieces):
            padded[i, : len(piece)] = piece
        if self.documents > 1:
            padded = padded.reshape(len(rows), self.documents, -1)
        return padded, self.labels[rows]

    def take(self, rows: ArrayLike) -> "Split":
        """The named rows as a split of their own (used to hold out a validation set)."""
        rows = self._checked(rows)
        pieces = [self.sequence(r, d) for r in rows for d in range(self.documents)]
        return make_split(pieces, self.labels[rows], self.tokens.dtype, self.documents)

    def _checked(self, rows) -> np.ndarray:
        """Row numbers as an array. A negative number would give an empty sequence beside another row's label."""
        rows = np.asarray(rows)
        if rows.size == 0:
            return rows.astype(np.int64)
        if rows.dtype.kind not in "iu" or rows.ndim != 1 or rows.min() < 0 or rows.max() >= len(self):
            raise InputError(f"rows must be a list of integers from 0 to {len(self) - 1}")
        return rows


def make_split(
    sequences: Iterable[ArrayLike], labels: ArrayLike, dtype: DTypeLike = np.uint8, documents: int = 1
) -> Split:
    """Join a list of 1-D token arrays (for pairs: both documents of a row, one after the other).

    dtype: np.uint8, np.uint16 or np.uint32; tokens are integers from 1 to its largest value, for 0 is padding
    Raises: InputError naming the row whose tokens or label do not fit. Nothing is ever wrapped or cut off.
    """
    dtype = np.dtype(dtype)
    if dtype not in TOKEN_TYPES:
        raise InputError(f"make_split: dtype is {dtype}; it must be uint8, uint16 or uint32")
    pieces = [_as_tokens(piece, dtype, i // documents) for i, piece in enumerate(sequences)]
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype)
    if tokens.size and tokens.min() == 0:
        i = int(np.searchsorted(offsets, np.argmin(tokens), side="right")) - 1
        raise InputError(f"row {i // documents + 1} has token 0, which is padding; tokens begin at 1")
    labels = _as_labels(labels)
    if len(labels) * documents != len(pieces):
        raise InputError(f"{len(pieces)} sequences for {len(labels)} labels; give {documents} for each label")
    return Split(tokens, offsets, labels, documents)


def _as_tokens(piece, dtype: np.dtype, row: int) -> np.ndarray:
    """One sequence in the split's type. Raises: InputError naming the row and the first value that does not fit."""
    if isinstance(piece, np.ndarray) and piece.dtype == dtype and piece.ndim == 1:
        return piece
    values = np.asarray(piece)
    if values.ndim != 1:
        raise InputError(f"row {row + 1} has {values.ndim} axes; a sequence is one list of tokens")
    if values.size == 0:
        return values.astype(dtype)
    largest = np.iinfo(dtype).max
    if values.dtype.kind not in "iu":
        raise InputError(f"row {row + 1} has token {values[0]!s:.40} of type {values.dtype}; tokens are integers")
    wrong = (values < 0) | (values > largest)
    if wrong.any():
        value = values[np.argmax(wrong)]
        raise InputError(f"row {row + 1} has token {value}, but {dtype} holds 1 to {largest}; give another dtype")
    return values.astype(dtype)


def _as_labels(labels) -> np.ndarray:
    """Labels as int64. Raises: InputError naming the first one that is no integer of 64 bits."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise InputError(f"labels have {values.ndim} axes; give one integer a row")
    if values.size == 0:
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise InputError(f"row 1 has label {values[0]!s:.40} of type {values.dtype}; labels are integers")
    if values.dtype.kind == "u" and (too_large := values > np.iinfo(np.int64).max).any():
        row = int(np.argmax(too_large))
        raise InputError(f"row {row + 1} has label {values[row]}, which is no class")
    return values.astype(np.int64)


@dataclass(frozen=True)
class Dataset:
    """A task: its vocabulary, its splits, and how to show a row to a person.

    vocab_size: ids, the padding token 0 among them
    max_length: tokens of the longest row that the task admits
    decode: turns the tokens of one row back into text
    as_text: False when that text is a picture, which is shown whole
    codec: of data of one's own: how rows become tokens, and what the classes are called
    origins: of data of one's own: what its owner calls the rows of each split: the text before a row's number, the
        numbers (n,), the text behind; see `place`
    longer: further test splits, by the tokens of each of their rows, which may be more than max_length
    """

    task: str
    vocab_size: int
    num_classes: int
    max_length: int
    train: Split
    val: Split
    test: Split
    decode: Callable[[np.ndarray], str]
    as_text: bool = True
    codec: "Codec | None" = None
    origins: dict[str, tuple[str, np.ndarray, str]] | None = None
    longer: dict[int, Split] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int | bool]:
        """What the data decide of a `Config`: vocab_size, num_classes and pair."""
        return {"vocab_size": self.vocab_size, "num_classes": self.num_classes, "pair": self.pair}

    def place(self, name: str, row: int) -> str:
        """What a message calls a row of a split, counted from 0."""
        if self.origins is None:
            return f"{self.task}, {name} split: row {row + 1}"
        before, numbers, behind = self.origins[name]
        return f"{before}{numbers[row]}{behind}"

    @property
    def pair(self) -> bool:
        """True when a row is two documents."""
        return self.train.documents == 2

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order of SPLITS."""
        return {name: getattr(self, name) for name in SPLITS}


def check_split(split: Split, name: str, source: object, num_classes: int) -> Split:
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


def hold_out(split: Split, seed: int, source: object) -> tuple[Split, Split]:
    """Divide a training split at random into nine tenths to train on and one tenth to validate on.

    source: names the data set in the message
    Raises: InputError for fewer than two rows.
    """
    if len(split) < 2:
        raise InputError(f"{source}: one training row is too few to hold out a validation set; give at least two")
    order = np.random.default_rng(seed).permutation(len(split))
    count = max(1, len(split) // 10)
    return split.take(np.sort(order[count:])), split.take(np.sort(order[:count]))


def check_tokens(tokens: ArrayLike, vocab_size: int) -> np.ndarray:
    """Token ids to decode, as int64. Raises: InputError naming the first that is no id of the task."""
    values = np.asarray(tokens)
    if values.size == 0:
        return values.astype(np.int64)
    wrong = np.ones(values.shape, bool) if values.dtype.kind not in "iu" else (values < 0) | (values >= vocab_size)
    if wrong.any():
        raise InputError(f"token {values[wrong][0]!s:.40} cannot be decoded; ids are integers, 0 to {vocab_size - 1}")
    return values.astype(np.int64)
