"""How rows of one's own are read, checked, encoded and divided, one row at a time, in memory or on the disk."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import combinations
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from ..dataset import SPLITS, TOKEN_TYPES, Dataset, Split
from .codec import BYTES, Codec, encode_document, symbol_table
from .row import Row, plain_label

_PIECE = 1 << 20  # tokens that are copied at once
OpenFile = Callable[[str], BinaryIO]  # a new empty file of that name, to write and to read


class TokenFile:
    """Tokens end to end in a file, in the smallest type that holds them all."""

    def __init__(self, open_file: OpenFile, name: str):
        self.open_file, self.name = open_file, name
        self.file, self.dtype = open_file(name), np.dtype(TOKEN_TYPES[0])

    def append(self, tokens: np.ndarray) -> None:
        """Write more tokens. Shapes: (n,) integers"""
        largest = int(tokens.max())
        while largest > np.iinfo(self.dtype).max:
            self._widen(np.dtype(TOKEN_TYPES[TOKEN_TYPES.index(self.dtype.type) + 1]))
        self.file.write(tokens.astype(self.dtype, copy=False).tobytes())

    def _widen(self, dtype: np.dtype) -> None:
        old, narrow, self.dtype = self.file, self.dtype, dtype
        self.name += "+"
        self.file = self.open_file(self.name)
        old.seek(0)
        while content := old.read(_PIECE * narrow.itemsize):
            self.file.write(np.frombuffer(content, narrow).astype(dtype).tobytes())
        old.close()

    def array(self) -> np.ndarray:
        """All tokens, after the last one: mapped into memory from a file on the disk."""
        if isinstance(self.file, BytesIO):
            return np.frombuffer(self.file.getbuffer(), self.dtype)
        self.file.flush()
        tokens = np.memmap(self.file, self.dtype, mode="r")
        self.file.close()
        return tokens


@dataclass
class Part:
    """The rows of one source as far as they are read.

    prefix, suffix: what stands around its number in what a message calls a row
    first_label: of its first row; lengths: of every document; keys: 64 bits of a hash, equal for equal rows
    labels: in the order of first sight; numbers: of the rows, as their owner counts them
    """

    tokens: TokenFile
    prefix: str
    suffix: str
    documents: int
    first_label: Any
    lengths: array = field(default_factory=lambda: array("q"))
    keys: array = field(default_factory=lambda: array("Q"))
    labels: array = field(default_factory=lambda: array("q"))
    numbers: array = field(default_factory=lambda: array("q"))


class Reading:
    """What the rows of all sources have in common: the kind of their tokens, and the labels."""

    def __init__(self, alphabet: str = "", longest: int | None = None):
        """longest: documents are cut after so many tokens; None: they are not cut

        Raises: InputError for an alphabet with a symbol that is there twice.
        """
        self.alphabet, self.symbols, self.longest = alphabet, symbol_table(alphabet), longest
        self.kind, self.documents, self.largest, self.cut = "", 0, 0, 0
        self.labels: dict[Any, int] = {}

    def read(self, rows: Iterable[Row], name: str, tokens: TokenFile) -> Part:
        """Read a source to its end. Raises: InputError naming the first row that cannot be used."""
        part = None
        for row in rows:
            if part is None:
                part = Part(tokens, row.prefix, row.suffix, len(row.documents), _label_of(row))
            self._add(part, row)
        if part is None:
            remedy = "give at least one" + (", or a share of train" if name != "train" else "")
            raise InputError(f"the {name} split has no rows; {remedy}")
        return part

    def _add(self, part: Part, row: Row) -> None:
        kind = self._kind_of(row)
        self.kind, self.documents = self.kind or kind, self.documents or len(row.documents)
        if kind != self.kind:
            here, before = ("token ids", "text") if kind == "ids" else ("text", "token ids")
            raise InputError(f"{row.place} holds {here}, but the rows before hold {before}; make all of one kind")
        if len(row.documents) != self.documents:
            raise InputError(f"{row.place} has {len(row.documents)} document(s), but the first row {self.documents}")
        key = hashlib.blake2b(digest_size=8)
        for document in row.documents:
            tokens = encode_document(document, self.kind, self.symbols, row.place)
            if len(tokens) == 0:
                raise InputError(f"{row.place} is empty; remove it")
            self.cut += self.longest is not None and len(tokens) > self.longest
            tokens = tokens[: self.longest]
            self.largest = max(self.largest, int(tokens.max()))
            key.update(len(tokens).to_bytes(8, "little") + tokens.astype("<u4").tobytes())
            part.tokens.append(tokens)
            part.lengths.append(len(tokens))
        part.keys.append(int.from_bytes(key.digest(), "little"))
        part.labels.append(self._class_of(row, part.first_label))
        part.numbers.append(row.number)

    def _kind_of(self, row: Row) -> str:
        if not isinstance(row.documents[0], np.ndarray):
            return "symbols" if self.alphabet else "bytes"
        if self.alphabet:
            raise InputError(f"{row.place} is no text, but an alphabet is of texts; leave the alphabet out")
        return "ids"

    def _class_of(self, row: Row, first: Any) -> int:
        """The number of the row's label, in the order of first sight.

        Within a source all labels are of one type. In another source, as in a file of another format, "1" and 1 are the
        same class, and the first source says which of them its name is.
        first: the first label of the row's source
        """
        label, other = _label_of(row), first
        if type(label) is type(first):
            other = next(iter(self.labels), first)
            label = _in_type_of(other, label)
        if type(label) is not type(other):
            what = f"has label {label!r:.40}, others are like {other!r:.40}"
            raise InputError(f"{row.place} {what}; make all of one type")
        return self.labels.setdefault(label, len(self.labels))

    def after_cutting(self) -> str:
        """For a message about rows that may be equal for that reason only."""
        return f", after {self.cut:,} documents were cut to {self.longest:,} tokens" if self.cut else ""

    def codec(self, names: list) -> Codec:
        """The codec of what was read. names: of the classes"""
        sizes = {"bytes": BYTES, "symbols": len(self.alphabet) + 1, "ids": self.largest + 1}
        return Codec(self.kind, sizes[self.kind], np.array(names), self.documents == 2, self.alphabet)


def make_dataset(
    sources: Mapping[str, Iterable[Row]], reading: Reading, shares: dict[str, float], seed: int, open_file: OpenFile
) -> Dataset:
    """Read all sources, divide train where a split is missing, and check what the rows show only together.

    sources: of train, and of val and test where they are given; shares: of the rows of train, for the others
    Raises: InputError naming the row.
    """
    parts = {name: reading.read(rows, name, TokenFile(open_file, name)) for name, rows in sources.items()}
    if len(reading.labels) < 2:
        raise InputError(f"all rows have label {next(iter(reading.labels))!r:.40}; give rows of two classes or more")
    if shares:
        divided = _divided(parts["train"], shares, seed, open_file, reading)
        parts = divided | {n: part for n, part in parts.items() if n != "train"}
    names = _check_labels(parts, list(reading.labels))
    places = {name: place for place, name in enumerate(names)}
    splits = {name: _split(parts[name], [places[label] for label in reading.labels]) for name in SPLITS}
    _check_apart(parts, splits, reading)
    codec = reading.codec(names)
    origins = {name: (part.prefix, np.array(part.numbers), part.suffix) for name, part in parts.items()}
    return dataset_of(splits, codec, origins)


def dataset_of(splits: dict[str, Split], codec: Codec, origins: dict[str, tuple]) -> Dataset:
    """The Dataset of encoded splits. origins: as of `Dataset`"""
    longest = max(int(split.lengths().max()) for split in splits.values())
    train, val, test = (splits[name] for name in SPLITS)
    sizes = codec.vocab_size, len(codec.classes), longest
    return Dataset("own", *sizes, train, val, test, codec.decode, codec=codec, origins=origins)


def _label_of(row: Row) -> str | int | bool:
    """The row's label in a type of Python. Raises: InputError for what is no name of a class."""
    label = plain_label(row.label)
    if isinstance(label, bytes):
        label = label.decode("utf-8", "backslashreplace")
    if type(label) not in (str, int, bool) or label == "":
        raise InputError(f"{row.place} has label {label!r:.40}, but labels are texts, whole numbers or truths")
    if type(label) is int and not -(2**63) <= label < 2**63:
        raise InputError(f"{row.place} has label {label}, which has more than 64 bits; number the classes from 0")
    if type(label) is str and label.endswith("\0"):  # an array of names would cut it off
        raise InputError(f"{row.place} has label {label!r:.40}, which ends in a NUL byte; remove it")
    return label


def _in_type_of(other: Any, label: Any) -> Any:
    """A whole number as the text that it is, or the reverse, where another label is such; else the label itself."""
    if type(other) is str and type(label) is int:
        return str(label)
    return int(label) if type(other) is int and type(label) is str and _is_whole(label) else label


def _place(part: Part, i: int) -> str:
    return f"{part.prefix}{part.numbers[i]}{part.suffix}"


def _split(part: Part, classes: list[int]) -> Split:
    """A part as arrays. classes: of each label, in the order of first sight"""
    offsets = np.cumsum([0, *part.lengths], dtype=np.int64)
    return Split(part.tokens.array(), offsets, np.array(classes, dtype=np.int64)[part.labels], part.documents)


def _check_labels(parts: dict[str, Part], labels: list) -> list:
    """The classes, sorted. Raises: InputError naming the first row of a class that train lacks."""
    known = set(parts["train"].labels)
    for part in parts.values():
        unknown = np.isin(part.labels, [*known], invert=True)
        if unknown.any():
            row = int(np.argmax(unknown))
            label = labels[part.labels[row]]
            raise InputError(f"{_place(part, row)} has label {label!r:.40}, which no row of train has; move rows there")
    names = [label for i, label in enumerate(labels) if i in known]
    whole = all(type(name) is not str or _is_whole(name) for name in names)
    return sorted(names, key=int if whole else None)  # as text, 10 would come before 2


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii() and str(int(text)) == text if len(text) < 20 else False


def _check_apart(parts: dict[str, Part], splits: dict[str, Split], reading: Reading) -> None:
    """Raises: InputError naming the first row that is in two splits."""
    for one, other in combinations(SPLITS, 2):
        _, first, second = np.intersect1d(parts[one].keys, parts[other].keys, return_indices=True)
        for i, j in zip(first, second, strict=True):
            documents = range(parts[one].documents)
            if all(np.array_equal(splits[one].sequence(i, d), splits[other].sequence(j, d)) for d in documents):
                same = f"{_place(parts[other], j)} is the same sequence as {_place(parts[one], i)}, in another split"
                remedy = "remove one each, or give one table, which is divided here"
                raise InputError(f"{same}{reading.after_cutting()}; of {len(first):,} such sequences {remedy}")


def _divided(
    whole: Part, shares: dict[str, float], seed: int, open_file: OpenFile, reading: Reading
) -> dict[str, Part]:
    """The rows of train, divided. -> a part for train, and for each share"""
    why = reading.after_cutting()
    which = divide(np.array(whole.keys), np.array(whole.labels), [*shares.values()], seed, why)
    tokens, offsets = whole.tokens.array(), np.cumsum([0, *whole.lengths], dtype=np.int64)
    divided = {}
    for number, name in enumerate(["train", *shares]):
        part = Part(
            TokenFile(open_file, f"{name}-divided"), whole.prefix, whole.suffix, whole.documents, whole.first_label
        )
        for i in np.flatnonzero(which == number):
            for d in range(i * whole.documents, (i + 1) * whole.documents):
                part.tokens.append(tokens[offsets[d] : offsets[d + 1]])
                part.lengths.append(whole.lengths[d])
            part.keys.append(whole.keys[i])
            part.labels.append(whole.labels[i])
            part.numbers.append(whole.numbers[i])
        divided[name] = part
    return divided


def divide(keys: np.ndarray, labels: np.ndarray, shares: list[float], seed: int, why: str = "") -> np.ndarray:
    """Draw the split of every row: each class is divided alike, rows with equal keys stay together.

    Every class keeps a row in split 0, so that a class of one row can be learned.
    why: said beside the number of different rows where they are too few
    Shapes: keys, labels (n,), shares of split 1, or of 1 and 2 -> (n,) numbers of splits
    Raises: InputError for shares that are not above 0 and below 1 together, or too few different rows.
    """
    if not all(share > 0 for share in shares) or not sum(shares) < 1:
        raise InputError(f"shares {shares} of the rows: each must be above 0, and all together below 1")
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first[order]], kind="stable")]
    candidates = order[1:][np.diff(labels[first[order]]) == 0]  # all but the first of each class
    counts = [max(1, round(share * len(first))) for share in shares]
    if sum(counts) > len(candidates):
        left, wanted = len(candidates), sum(counts)
        raise InputError(
            f"{len(first):,} different rows are too few to divide{why}: a row of each class stays in train, "
            f"{len(first) - left:,} here, which leaves {left:,} of the {wanted:,} to be drawn; give more, or all three "
            "splits"
        )
    # The candidates are sorted by class, so that evenly spread places among them fall into each class in proportion to
    # its rows. That is stratification, without a number of rows to be rounded for every class.
    picked = candidates[_spread(sum(counts), len(candidates))]
    split = np.zeros(len(first), dtype=np.int64)
    split[picked] = 1
    if len(counts) == 2:  # what is picked is still sorted by class, so that split 2 takes its part in the same way
        split[picked[_spread(counts[1], len(picked))]] = 2
    return split[group]


def _spread(count: int, among: int) -> np.ndarray:
    """So many places, evenly spread among 0 .. among - 1."""
    return (2 * np.arange(count) + 1) * among // (2 * count)
