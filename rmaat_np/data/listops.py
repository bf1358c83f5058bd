"""LRA's ListOps: nested MIN, MAX, MED and SM over digits; the class is the value. Vocabulary, reader and writer.

Source: Nangia and Bowman 2018 (arXiv:1804.06028), with the sizes of LRA (arXiv:2011.04006).
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, check_integer
from ..system.files import write_atomically
from .dataset import Dataset, Split, check_split, check_tokens
from .lines import read_lines
from .sources import find_splits
from .stored import STORE, AnyPath, stored_split

# Fixed, never gathered from data: a model that is loaded again must find the same ids.
NAMES = ("", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")  # id 0 is padding, digit d is d + 1
MIN, MAX, MED, SM, CLOSE = range(11, 16)
VOCAB_SIZE = len(NAMES)
CLASSES = 10
MAX_LENGTH = 2000  # LRA's, without parentheses
SPLITS = ("train", "val", "test")
FOLDERS = ("", "listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")
# The folder below DATA_DIR that source=generated writes: drawn files and LRA's own are never taken for each other.
GENERATED = "generated"
REMEDY = (
    "unpack listops-1000 of LRA's release, or generate it with rmaat_np.data.listops_generator.generate_lra(DATA_DIR)"
)
EXPECTED = """\
listops: LRA's release (lra_release.gz, 7.7 GB), https://github.com/google-research/long-range-arena
  DATA_DIR/                        or its listops-1000/, lra_release/listops-1000/, or one lra_release/ deeper
    basic_train.tsv                96,000 rows
    basic_val.tsv                  2,000 rows
    basic_test.tsv                 2,000 rows
  a line: expression, value; separated by a tab, with the header Source, Target
  or no files at all: --set source=generated draws such files, into DATA_DIR/generated
"""
_HEADER = b"Source\tTarget"
MAX_LINE = 16 << 20  # bytes; keeps a file without line ends from being read in one piece
_OPERATIONS = {  # on sorted arguments; MED cuts the mean of the two middle ones to an integer
    MIN: lambda x: x[0],
    MAX: lambda x: x[-1],
    MED: lambda x: (x[(len(x) - 1) // 2] + x[len(x) // 2]) // 2,
    SM: lambda x: sum(x) % 10,
}
_IDS = {name.encode(): i for i, name in enumerate(NAMES) if name}
_BLANK_PARENTHESES = bytes.maketrans(b"()", b"  ")


def encode(source: str | bytes) -> np.ndarray:
    """Token ids of an expression, with or without parentheses, which are dropped: (n,) uint8.

    Raises: InputError for an unknown token.
    """
    if isinstance(source, str):
        source = source.encode("utf-8", "backslashreplace")
    return np.frombuffer(_encode(source), dtype=np.uint8)


def decode(tokens: ArrayLike) -> str:
    """The expression without parentheses; padding is dropped."""
    return " ".join(NAMES[token] for token in check_tokens(tokens, VOCAB_SIZE).tolist() if token)


def evaluate(tokens: ArrayLike) -> int:
    """The value of an expression, 0..9: MED is the median cut to an integer, SM the sum modulo 10.

    Shapes: tokens (n,), without padding
    Raises: InputError for a malformed expression.
    """
    arguments, outer = [], []  # of the innermost open operator; the operators around it, with their arguments so far
    for place, token in enumerate(np.asarray(tokens).tolist(), start=1):
        if 1 <= token < MIN:
            arguments.append(token - 1)
        elif MIN <= token < CLOSE:
            outer.append((token, arguments))
            arguments = []
        elif token == CLOSE and outer and arguments:
            operator, before = outer.pop()
            before.append(_OPERATIONS[operator](sorted(arguments)))
            arguments = before
        else:
            raise InputError(f"malformed expression, token {place} (id {token}) fits nowhere; mend it")
    if outer or len(arguments) != 1:
        raise InputError(f"malformed expression, {len(outer)} brackets open, {len(arguments)} values; mend it")
    return arguments[0]


def check_targets(split: Split, source: object = "listops") -> None:
    """Evaluate every row. Raises: InputError naming the first row whose label is not its value, or is malformed."""
    for row in range(len(split)):
        try:
            value = evaluate(split.sequence(row))
        except InputError as error:
            raise InputError(f"{source}: row {row + 1}: {error}") from None
        if value != split.labels[row]:
            raise InputError(f"{source}: row {row + 1} has target {split.labels[row]}, its value is {value}; mend it")


def load(data_dir: AnyPath, *, max_length: int | None = None, cache_dir: AnyPath | None = None) -> Dataset:
    """LRA's own three files; rows are never cut, one longer than max_length tokens (2,000 by default) is an error.

    data_dir: the folder of the three files, or one above it as EXPECTED lists
    Raises: InputError for a missing file or a bad line, naming file and line.
    """
    max_length = check_integer("max_length", MAX_LENGTH if max_length is None else max_length, 1)
    files = find_files(Path(data_dir))
    store = Path(cache_dir or Path(data_dir) / STORE)
    train, val, test = (
        stored_split([path], store, f"listops-{max_length}-1", partial(read_tsv, path, max_length)) for path in files
    )
    return Dataset("listops", VOCAB_SIZE, CLASSES, max_length, train, val, test, decode)


def find_files(data_dir: Path) -> list[Path]:
    """The train, val and test file, all from the first folder that has them."""
    names = [f"basic_{split}.tsv" for split in SPLITS]
    return find_splits(data_dir, FOLDERS, names, ("lra_release", "listops", "basic_"), REMEDY)


def read_tsv(path: AnyPath, max_length: int | None = None) -> Split:
    """Read LRA's two-column file line by line, with CRLF or LF ends; one byte a token stays in memory.

    max_length: tokens without parentheses; None admits any length
    Raises: InputError naming file and line for whatever is not a header, then expressions with a target 0..9.
    """
    path = Path(path)
    tokens, lengths, labels = bytearray(), [], []
    lines = read_lines(path, MAX_LINE, REMEDY)
    number, line = next(lines, (1, b""))
    if line != _HEADER:
        raise InputError(f"{path}: line {number} is not the header Source<tab>Target, but {line[:60]!r}; {REMEDY}")
    for number, line in lines:
        row, label = _parse_line(line, max_length, f"{path}: line {number}")
        tokens += row
        lengths.append(len(row))
        labels.append(label)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    split = Split(np.frombuffer(tokens, dtype=np.uint8), offsets, np.array(labels, dtype=np.int64))
    return check_split(split, path.stem, path, CLASSES)


def write_tsv(path: AnyPath, sequences: Iterable[ArrayLike], labels: Iterable[int]) -> None:
    """Write LRA's two-column file, byte for byte as its csv.writer does, whole or not at all.

    sequences: well-formed expressions, (n,) token ids each; labels: their values
    """

    def write(file):
        file.write(_HEADER + b"\r\n")
        for tokens, label in zip(sequences, labels, strict=True):
            file.write(b"%b\t%d\r\n" % (to_source(tokens).encode(), label))

    write_atomically(path, write)


def to_source(tokens: ArrayLike) -> str:
    """An expression as LRA prints it: a chain of binary applications, "( ( ( [MAX 1 ) 2 ) ] )".

    Shapes: tokens (n,), n >= 1, well-formed
    """
    tokens = np.asarray(tokens)
    opens, closes = (tokens >= MIN) & (tokens < CLOSE), tokens == CLOSE
    level = np.cumsum(opens) - opens - np.cumsum(closes) + closes
    # Level by level, the arguments of each operator and its "]" stand side by side, in the order of the operators:
    # the distance from "]" to "]" is how many applications the operator begins.
    order = np.argsort(level, kind="stable")
    begins = np.zeros(len(tokens), dtype=np.int64)
    begins[order[opens[order]]] = np.diff(np.flatnonzero(closes[order]), prepend=0)
    ends = np.where(opens, 0, 1 + closes)  # an argument ends one; "]" ends its own, and as an argument its operator's
    pieces = zip(begins.tolist(), tokens.tolist(), ends.tolist(), strict=True)
    return " ".join(["( " * begin + NAMES[token] + " )" * end for begin, token, end in pieces]).removesuffix(" )")


def _encode(source: bytes) -> bytes:
    try:
        return bytes(map(_IDS.__getitem__, source.translate(_BLANK_PARENTHESES).split()))
    except KeyError as error:
        raise InputError(f"unknown token {error.args[0][:40]!r}, expected one of {' '.join(NAMES[1:])}") from None


def _parse_line(line: bytes, max_length: int | None, place: str) -> tuple[bytes, int]:
    columns = line.split(b"\t")
    if len(columns) != 2:
        raise InputError(f"{place} has {len(columns)} columns, expected Source and Target; mend or remove it")
    try:
        tokens = _encode(columns[0])
    except InputError as error:
        raise InputError(f"{place}: {error}; mend or remove it") from None
    if not tokens:
        raise InputError(f"{place} has an empty source; mend or remove it")
    if max_length is not None and len(tokens) > max_length:
        raise InputError(f"{place} has {len(tokens)} tokens, more than max_length {max_length}; raise it")
    if len(columns[1]) != 1 or not columns[1].isdigit():
        raise InputError(f"{place} has target {columns[1][:40]!r}, expected 0 to 9; mend or remove it")
    return tokens, int(columns[1])
