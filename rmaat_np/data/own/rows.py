"""Read a user's own rows: .tsv and .csv (RFC 4180), .jsonl, .npz, and plain lines for a prediction.

One row is read at a time, so memory does not grow with the file. A row that cannot be used is handed on as an
InputError in its place, and the rows after it are read all the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import BinaryIO

from ...errors import InputError
from ..lookalike import START, describe, kind_of
from ..sources import read_error
from .row import MAX_RECORD, Columns, Row, decode_field, or_error
from .row_arrays import read_arrays
from .row_text import read_jsonl, read_line, read_table, too_long

BOM = b"\xef\xbb\xbf"


def read_rows(path: Path, columns: Columns, *, labelled: bool = True) -> Iterator[Row | InputError]:
    """Yield the rows of a .tsv, .csv, .jsonl or .npz file in order; an unusable row as an InputError that names it.

    tsv, csv: a header, then rows; fields in quotes as RFC 4180 has them; UTF-8, with or without a byte order mark
    jsonl: an object a line; text, or a list of token ids, whose zeros at the end are padding; other keys are left alone
    npz: arrays of n rows: text of type U or S; or token ids, padded with 0 on the right (n, L), or end to end with
        `lengths` (n,), which padded ones may have too. Pairs of ids: (n, 2, L) and (n, 2), or two padded arrays. Other
        arrays are left alone.
    labelled: False where labels may be absent; one that cannot be used is None then
    Raises: InputError, with the first row, for a file that cannot be used at all; of a damaged .npz it may come later.
    """
    path = Path(path)
    readers = {".tsv": read_table, ".csv": read_table, ".jsonl": read_jsonl, ".npz": read_arrays}
    reader = readers.get(path.suffix.lower())
    if len({*astuple(columns)}) < 3:
        raise InputError(f"{path}: two of its columns have one name in {columns}; name three different ones")
    with _file_of_rows(path) as file:
        if reader is None:
            raise InputError(f"{path}: ends in {path.suffix!r}; rows are read from {', '.join(readers)}")
        yield from reader(file, path, columns, labelled)


def read_lines_of_text(file: BinaryIO, name: str, *, pair: bool = False) -> Iterator[Row | InputError]:
    """Yield a row as soon as its line is there, from a file or a pipe: one document a line, without its line end.

    name: what messages call the file; pair: two documents a line, separated by a tab
    Raises: InputError for a packed file, for UTF-16, and for a file that cannot be read any further.
    """
    number = 0
    try:
        while line := read_line(file):
            number += 1
            if number == 1:
                if kind_of(line[:START]) not in (None, "BOM", "HTML"):  # a document may begin like a page
                    raise InputError(f"{name}: {describe(name, line[:START])}")
                if not (line := line.removeprefix(BOM)):
                    return
            yield or_error(_row_of_line, line, f"{name}: line ", number, pair)
    except OSError as error:
        raise read_error(f"{name}:", error, "restore it") from None


def _row_of_line(line: bytes, prefix: str, number: int, pair: bool) -> Row:
    place = f"{prefix}{number}"
    if len(line) > MAX_RECORD:
        raise too_long(place)
    documents = [line.removesuffix(b"\n").removesuffix(b"\r")]
    if pair:
        documents = documents[0].split(b"\t")
        if len(documents) != 2:
            tabs = len(documents) - 1
            raise InputError(f"{place} has {tabs} tabs; a pair is two documents with one tab between them")
    return Row(prefix, number, tuple(decode_field(document, place) for document in documents), None)


@contextmanager
def _file_of_rows(path: Path) -> Iterator[BinaryIO]:
    """The file, behind its byte order mark.

    Raises: InputError for what is no regular file, cannot be read, or is not what its name says.
    """
    try:
        if not path.is_file():  # a pipe has no second reading, and would never end
            raise InputError(f"{path}: is missing or no regular file; put a file of rows there")
        with path.open("rb") as file:
            start = file.read(START)
            fine = ("zip",) if path.suffix.lower() == ".npz" else ("BOM",)
            if (what := describe(path, start)) and kind_of(start) not in fine:
                raise InputError(f"{path}: {what}")
            file.seek(len(BOM) if start.startswith(BOM) else 0)
            yield file
    except OSError as error:
        raise read_error(f"{path}:", error, "restore it") from None
