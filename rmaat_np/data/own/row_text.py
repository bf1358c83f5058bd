"""The rows of .tsv, .csv and .jsonl files.

Python's csv module is not used: its limit of 128 KiB a field can only be raised for the whole process.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from .row import (
    MAX_RECORD,
    Columns,
    Row,
    absent,
    check_alike,
    check_ids,
    check_label,
    check_text,
    decode_field,
    or_error,
    without_padding,
)

_TWICE = "put the whole field in quotes and write each quote inside it twice"


def read_line(file: BinaryIO) -> bytes:
    """The next line with its line end; b"" at the end of the file. Of a line over MAX_RECORD the rest is skipped."""
    line = part = file.readline(MAX_RECORD + 1)
    if len(line) > MAX_RECORD:
        while part and not part.endswith(b"\n"):
            part = file.readline(1 << 20)
    return line


def too_long(place: str) -> InputError:
    """The error for a row of more than MAX_RECORD bytes."""
    return InputError(f"{place} is longer than {MAX_RECORD >> 20} MiB; end each row with a line feed")


def read_table(file: BinaryIO, path: Path, columns: Columns, labelled: bool) -> Iterator[Row | InputError]:
    """The rows of a .tsv or .csv file, opened behind its byte order mark; see `rows.read_rows`."""
    delimiter = b"\t" if path.suffix.lower() == ".tsv" else b","
    start = file.tell()
    separated_by = _foreign_separator(read_line(file), delimiter)
    file.seek(start)
    records = _records(file, path, delimiter)
    _, first = next(records, (1, InputError(f"{path}: is empty; begin it with a line that names the columns")))
    try:
        header, places = _read_header(first, columns, labelled, f"{path}: line 1")
    except InputError:
        if separated_by:
            raise InputError(f"{path}: line 1: its columns seem to be separated by {separated_by}") from None
        raise
    for number, fields in records:
        yield or_error(_row_of_fields, fields, f"{path}: line ", number, places, len(header), labelled)


def _foreign_separator(line: bytes, delimiter: bytes) -> str:
    """What seems to separate the columns of a first line that holds no delimiter, with the remedy; or nothing."""
    if delimiter in line:
        return ""
    ours, other, its_file = ("tabs", b",", ".csv") if delimiter == b"\t" else ("commas", b"\t", ".tsv")
    for separator in (other, b";", b"|"):
        if separator in line:
            found = "tabs" if separator == b"\t" else repr(separator.decode())
            return f"{found}; write {ours}" + (f", or name the file {its_file}" if separator == other else "")
    return ""


def _read_header(
    first: list[bytes] | InputError, columns: Columns, labelled: bool, place: str
) -> tuple[list[str], dict[str, int]]:
    """The names of the columns, and the place of each that is used, by the option that names it.

    Raises: InputError for one that is absent, or there twice.
    """
    if isinstance(first, InputError):
        raise first
    header = [decode_field(field, place) for field in first]
    used = {"text": columns.text}
    if columns.text2 in header or columns.text2 != Columns.text2:
        used["text2"] = columns.text2
    if columns.label in header or labelled:
        used["label"] = columns.label
    for option, name in used.items():
        if name not in header:
            raise absent(place, "column", name, option, header)
        if header.count(name) > 1:
            raise InputError(f"{place} names column {name!r} twice; rename one of them")
    return header, {option: header.index(name) for option, name in used.items()}


def _row_of_fields(
    fields: list[bytes] | InputError, prefix: str, number: int, places: dict[str, int], width: int, labelled: bool
) -> Row:
    """places: the number of the column, by the option that names it"""
    place = f"{prefix}{number}"
    if isinstance(fields, InputError):
        raise fields
    if len(fields) != width:
        remedy = "put a text that holds separators in quotes, or mend the row"
        raise InputError(f"{place} has {len(fields)} columns, but the header has {width}; {remedy}")
    documents = tuple(decode_field(fields[places[option]], place) for option in ("text", "text2") if option in places)
    label: str | None = None
    if labelled:
        label = decode_field(fields[places["label"]], place)
    elif "label" in places:
        label = fields[places["label"]].decode("utf-8", "surrogateescape")  # an odd one becomes None
    return Row(prefix, number, documents, check_label(label, labelled, place))


def _records(
    file: BinaryIO, path: Path, delimiter: bytes | None
) -> Iterator[tuple[int, list[bytes]] | tuple[int, InputError]]:
    """Yield (number of the first line, fields or what is wrong). Blank lines at the end of the file are no records.

    delimiter: None where a line is one field, and quotes mean nothing
    """
    number = blank = 0  # blank: the first blank line since the last record
    while line := read_line(file):
        number += 1
        content = line.rstrip(b"\r\n") if delimiter else line.strip()
        if not content:
            blank = blank or number
            continue
        if blank:
            yield blank, InputError(f"{path}: line {blank} is blank, but rows follow; remove it")
            blank = 0
        if len(line) > MAX_RECORD:
            yield number, too_long(f"{path}: line {number}")
        elif delimiter is None or b'"' not in line:
            yield number, content.split(delimiter) if delimiter else [content]
        else:
            after = file.tell()
            try:
                fields, more = _split_quoted(file, line, delimiter, path, number)
            except InputError as error:
                file.seek(after)  # a lost quote costs its own line, not all that it took for its field
                yield number, error
            else:
                yield number, fields
                number += more


def _split_quoted(file: BinaryIO, line: bytes, delimiter: bytes, path: Path, number: int) -> tuple[list[bytes], int]:
    """The fields of a record of which this is the first line, and how many more lines it has.

    Raises: InputError for a quote that is not closed within MAX_RECORD, naming its line, and for text behind a quote.
    """
    record, more, at = bytearray(line), 0, 0
    fields: list[bytes] = []
    while True:  # a field begins at `at`
        if not record.startswith(b'"', at):
            end = record.find(delimiter, at)
            if end < 0:
                return [*fields, bytes(record[at:]).rstrip(b"\r\n")], more
            fields.append(bytes(record[at:end]))
            at = end + 1
            continue
        start, search = at, at + 1
        while (end := record.find(b'"', search)) < 0 or record.startswith(b'"', end + 1):
            search = end + 2
            if end < 0:  # the field goes on in the next line
                search = len(record)
                record += (line := read_line(file))
                more += 1
                if not line or len(record) > MAX_RECORD:
                    opened = number + record.count(b"\n", 0, start)
                    raise InputError(f"{path}: line {opened} opens a quote that nothing closes; close it, or {_TWICE}")
        fields.append(bytes(record[start + 1 : end]).replace(b'""', b'"'))
        at = end + 2
        if not record.startswith(delimiter, end + 1):
            if record[end + 1 :].strip(b"\r\n"):
                opened = number + record.count(b"\n", 0, start)
                what = f"line {opened} opens a quote that line {number + more} closes before more text"
                raise InputError(f"{path}: {what}; {_TWICE}")
            return fields, more


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises: ValueError for a key that stands in it twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_only_once)


def read_jsonl(file: BinaryIO, path: Path, columns: Columns, labelled: bool) -> Iterator[Row | InputError]:
    """The rows of a .jsonl file; see `rows.read_rows`. The first good one decides what the others hold."""
    first: Row | None = None
    for number, line in _records(file, path, None):
        row = or_error(_row_of_json, line, f"{path}: line ", number, columns, labelled)
        if isinstance(row, Row):
            first = first or row
            if _form(row) != _form(first):
                row = InputError(f"{row.place} has {_form(row)}, but line {first.number} has {_form(first)}; mend one")
        yield row


def _form(row: Row) -> str:
    kind = "text" if isinstance(row.documents[0], str) else "tokens"
    return f"{kind} of {len(row.documents)} {'document' if len(row.documents) == 1 else 'documents'}"


def _row_of_json(line: list[bytes] | InputError, prefix: str, number: int, columns: Columns, labelled: bool) -> Row:
    place = f"{prefix}{number}"
    if isinstance(line, InputError):
        raise line
    text = decode_field(line[0], place)
    try:
        values = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        what = f"is not JSON from character {error.colno} on ({error.msg})"
        raise InputError(f"{place} {what}; write one object a line") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a key twice, a number of 4,301 digits, deep nesting
        raise InputError(f"{place} cannot be read as JSON ({error}); mend or remove it") from None
    if not isinstance(values, dict):
        raise InputError(f"{place} holds no JSON object but a {type(values).__name__}; write one object a line")
    keys = columns.of_documents(values)
    if keys[0] not in values:
        raise absent(place, "key 'tokens' and no key", columns.text, "text", values)
    if keys[1] not in values and columns.text2 != Columns.text2:
        raise absent(place, "key", columns.text2, "text2", values)
    if labelled and columns.label not in values:
        raise absent(place, "key", columns.label, "label", values)
    text_too = keys[0] == columns.text
    documents = tuple(_json_document(values[key], key, text_too, place) for key in keys if key in values)
    check_alike(map(type, documents), keys, place)
    return Row(prefix, number, documents, check_label(values.get(columns.label), labelled, place))


def _json_document(value: Any, key: str, text_too: bool, place: str) -> str | np.ndarray:
    """Token ids, without the zeros at their end, or text where that may be too."""
    if text_too and isinstance(value, str):
        return check_text(value, place)
    if not isinstance(value, list) or not {*map(type, value)} <= {int}:
        what = "neither text nor a list of whole numbers" if text_too else "not a list of whole numbers"
        raise InputError(f"{place}: {key!r} is {what}; write text in quotes, and token ids as [5, 3, ...]")
    try:
        return check_ids(without_padding(np.array(value, dtype=np.int64)), place)
    except OverflowError:
        raise InputError(f"{place}: {key!r} holds an id of more than 64 bits; number the symbols from 1") from None
