"""LRA's retrieval task: does one ACL paper cite the other? Two documents a row, one byte one token.

The texts of LRA's release are stored as Python writes bytes (b'...', in ASCII). LRA feeds them as they stand, and so
does this reader.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, check_integer
from . import text
from .dataset import Dataset, Split, check_split
from .lines import read_lines
from .sources import find_splits
from .stored import STORE, AnyPath, stored_split

VOCAB_SIZE = text.VOCAB_SIZE
MAX_LENGTH = 4000  # LRA's cut, of each document
MAX_LINE = 64 << 20  # bytes; keeps a file without line ends from being read in one piece
REMEDY = "unpack tsv_data of LRA's release, https://github.com/google-research/long-range-arena (see --check-data)"
EXPECTED = """\
retrieval: LRA's release (lra_release.gz, 7.7 GB), https://github.com/google-research/long-range-arena
  DATA_DIR/                        or its tsv_data/, lra_release/tsv_data/, lra_release/lra_release/tsv_data/
    new_aan_pairs.train.tsv        147,086 pairs
    new_aan_pairs.eval.tsv         18,090 pairs
    new_aan_pairs.test.tsv         17,437 pairs
  a line: label (0.0 or 1.0), id, id, text, text; separated by tabs, no header, no quoting
"""
FOLDERS = ("", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data")
SPLITS = ("train", "eval", "test")


def load(data_dir: AnyPath, *, max_length: int | None = None, cache_dir: AnyPath | None = None) -> Dataset:
    """LRA's AAN pairs with the release's own splits, each document cut at max_length bytes (4,000 by default).

    data_dir: the folder of the three files, or one above it as EXPECTED lists
    Memory: one byte a token, so the full training split takes 1.2 GB.
    Raises: InputError for a missing file or a bad line, naming file and line.
    """
    max_length = check_integer("max_length", MAX_LENGTH if max_length is None else max_length, 1)
    files = find_files(Path(data_dir))
    store = Path(cache_dir or Path(data_dir) / STORE)
    train, val, test = (
        stored_split([path], store, f"retrieval-{max_length}-1", partial(read_pairs, path, max_length))
        for path in files
    )
    return Dataset("retrieval", VOCAB_SIZE, 2, max_length, train, val, test, decode)


def find_files(data_dir: Path) -> list[Path]:
    """The train, eval and test file, all from the first folder that has them."""
    names = [f"new_aan_pairs.{split}.tsv" for split in SPLITS]
    return find_splits(data_dir, FOLDERS, names, ("lra_release", "tsv_data", "new_aan_pairs"), REMEDY)


def read_pairs(path: Path, max_length: int) -> Split:
    """Read one file line by line; only the first max_length bytes of each document are kept in memory."""
    texts, lengths, labels = bytearray(), [], []
    for number, line in read_lines(path, MAX_LINE, REMEDY):
        label, *documents = _parse_line(line, f"{path}: line {number}")
        labels.append(label)
        for document in documents:
            texts += document[:max_length]
            lengths.append(min(len(document), max_length))
    return check_split(text.byte_split(texts, lengths, labels, documents=2), path.name, path, 2)


def _parse_line(line: bytes, place: str) -> tuple[int, bytes, bytes]:
    """Label and both documents of one line. Raises: InputError that starts with `place`."""
    columns = line.split(b"\t")
    if len(columns) != 5:
        expected = f"expected label, id, id, text, text, but it begins with {line[:40]!r}"
        raise InputError(f"{place} has {len(columns)} columns, {expected}; mend or remove it")
    try:
        label = float(columns[0])
    except ValueError:
        label = np.nan
    if label not in (0, 1):
        raise InputError(f"{place} has label {columns[0][:40]!r}, expected 0.0 or 1.0; mend or remove it")
    for document in columns[3:]:
        text.check_text(document, place)
    return int(label), columns[3], columns[4]


def decode(tokens: ArrayLike) -> str:
    """The text of one document, (n,), or of both, (2, n), with a blank line between them."""
    return "\n\n".join(text.decode(document) for document in np.atleast_2d(tokens))
