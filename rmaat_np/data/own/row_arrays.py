"""The rows of .npz files, as `np.savez` and `np.savez_compressed` write them.

The arrays are read side by side, a row at a time, and never unpickled: a compressed file of any size needs no memory.
"""

import io
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from ...errors import InputError
from ...system.files import DAMAGED
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

MAX_REORDERED = 256 << 20  # bytes of an array in Fortran order, whose rows do not stand one after the other


class _Array(NamedTuple):
    """An array of an .npz file, which is read once, from its beginning to its end."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    file: IO[bytes]


def read_arrays(file: BinaryIO, path: Path, columns: Columns, labelled: bool) -> Iterator[Row | InputError]:
    """The rows of an .npz file; see `rows.read_rows`."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            documents, rows = _open_documents(archive, path, columns, names)
            labels = _open_labels(archive, path, columns, names, labelled, rows)
            for number, row in enumerate(documents, start=1):
                label = _take(labels, 1)[0].item() if labels else None
                yield or_error(_row_of_arrays, row, label, f"{path}: row ", number, labelled)
    except (InputError, OSError):
        raise
    except DAMAGED as error:
        what = str(error)[:200] or type(error).__name__
        raise InputError(f"{path}: is damaged or no .npz file ({what}); save it anew with np.savez") from None


def _open_documents(
    archive: zipfile.ZipFile, path: Path, columns: Columns, names: list[str]
) -> tuple[Iterator[tuple | InputError], int]:
    """The documents of each row, and the number of rows."""
    chosen = columns.of_documents(names)
    if chosen[0] not in names:
        raise absent(f"{path}:", "array 'tokens' and no array", columns.text, "text", names)
    if chosen[1] not in names and columns.text2 != Columns.text2:
        raise absent(f"{path}:", "array", columns.text2, "text2", names)
    kinds = "iuUS" if chosen[0] == columns.text else "iu"
    arrays = [_open(archive, path, name, kinds) for name in chosen if name in names]
    check_alike((array.dtype.kind in "US" for array in arrays), chosen, str(path))
    if arrays[0].dtype.kind in "iu":
        lengths = _open(archive, path, "lengths", "iu") if "lengths" in names else None
        return _rows_of_ids(arrays, lengths, path)
    shapes = [array.shape for array in arrays]
    if len(shapes[0]) != 1 or shapes[0] != shapes[-1]:
        raise InputError(f"{path}: text has shapes {shapes}, expected (n,) each; save one text a row")
    rows = shapes[0][0]
    return (tuple(_take(array, 1)[0].item() for array in arrays) for _ in range(rows)), rows


def _rows_of_ids(arrays: list[_Array], lengths: _Array | None, path: Path) -> tuple[Iterator[tuple | InputError], int]:
    """The documents of each row, and the number of rows. arrays: of both documents, or one for each"""
    shapes = [array.shape for array in arrays]
    if len(shapes) == 1:
        shape = shapes[0][:-1] or (lengths.shape if lengths else ())  # of the documents
        fits = len(shape) == 1 or len(shape) == 2 and shape[1] == 2
        expected = "(n, L), or one dimension with lengths (n,); for pairs (n, 2, L), and (n, 2)"
    else:
        shape = (*shapes[0][:1], 2)
        fits = [len(each) for each in shapes] == [2, 2] and shapes[0][0] == shapes[1][0]
        expected = "(n, L) each; they may have lengths (n, 2)"
    if not fits or lengths and lengths.shape != shape:
        what = ", ".join(f"{array.name} has shape {array.shape}" for array in arrays)
        raise InputError(f"{path}: {what}, lengths {lengths.shape if lengths else 'is not there'}; save {expected}")
    if lengths is None and shape[0] and not any(map(prod, shapes)):  # a few bytes that promise any number of rows
        raise InputError(f"{path}: {arrays[0].name} has shape {shapes[0]}, so every row is empty; save the ids")
    if lengths is None or len(shapes[0]) > 1:
        return _padded_rows(arrays, lengths, path), shape[0]
    return _joined_rows(arrays[0], lengths, path), shape[0]


def _open_labels(
    archive: zipfile.ZipFile, path: Path, columns: Columns, names: list[str], labelled: bool, rows: int
) -> _Array | None:
    """The array of the labels; None where it is absent or odd, and none is asked for."""
    name = columns.label
    if name not in names and name == Columns.label:
        name = "labels" if "labels" in names else name
    try:
        if name not in names:
            raise absent(f"{path}:", "array", name, "label", names)
        labels = _open(archive, path, name, "iubfUS")
        if labels.shape != (rows,):
            raise InputError(f"{path}: {name!r} has shape {labels.shape}, expected {(rows,)}; save one label a row")
    except InputError:
        if labelled:
            raise
        return None
    return labels


def _open(archive: zipfile.ZipFile, path: Path, name: str, kinds: str) -> _Array:
    """Open an array whose dtype is one of these kinds. Its header must promise exactly the bytes that there are.

    Raises: InputError for another dtype or too long rows; one of DAMAGED for a damaged file. Nothing is ever unpickled.
    """
    member = archive.getinfo(f"{name}.npy")
    file = archive.open(member)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # at most 64 KiB of header, enough for any plain array
        raise ValueError(f"{name} is in version {version} of the .npy format, expected (1, 0)")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in kinds:
        what = f"{path}: {name!r} is an array of {'Python objects' if dtype.hasobject else dtype}"
        remedy = "save whole numbers, or text as np.array(texts, dtype=str); rows of several lengths end to end"
        raise InputError(f"{what}, which cannot be used; {remedy}, with lengths")
    size, row = prod(shape) * dtype.itemsize, prod(shape[1:]) * dtype.itemsize
    if min(shape, default=0) < 0 or size != member.file_size - file.tell():
        raise ValueError(f"{shape} of {dtype} are not the bytes of {name}")
    if row > MAX_RECORD:
        raise InputError(
            f"{path}: {name!r} has {row >> 20} MiB a row, more than {MAX_RECORD >> 20}; use a smaller dtype"
        )
    if not (fortran_order and len(shape) > 1):
        return _Array(name, shape, dtype, file)
    if size > MAX_REORDERED:
        raise InputError(f"{path}: {name!r} is stored column by column; save np.ascontiguousarray({name})")
    whole = np.frombuffer(file.read(size), dtype).reshape(shape, order="F")
    return _Array(name, shape, dtype, io.BytesIO(whole.tobytes()))


def _take(array: _Array, count: int) -> np.ndarray:
    """The next values of an array, (count,), in the machine's byte order.

    Raises: one of DAMAGED if there are none; with the last ones, if the checksum is wrong.
    """
    content = array.file.read(count * array.dtype.itemsize)
    values = np.frombuffer(content, array.dtype).astype(array.dtype.newbyteorder("="), copy=False)
    if len(values) != count:
        raise EOFError(f"{array.name} ends early")
    if array.dtype.kind == "U" and (values.view(np.uint32) > 0x10FFFF).any():
        raise ValueError(f"{array.name} holds what is no character")
    return values


def _padded_rows(arrays: list[_Array], lengths: _Array | None, path: Path) -> Iterator[tuple | InputError]:
    """The documents of each row of tokens (n, L) or (n, 2, L), or of two (n, L), without their padding."""
    for number in range(1, arrays[0].shape[0] + 1):
        padded = [
            document
            for array in arrays
            for document in _take(array, prod(array.shape[1:])).reshape(prod(array.shape[1:-1]), array.shape[-1])
        ]
        if lengths is None:
            yield tuple(map(without_padding, padded))
            continue
        ends = _take(lengths, len(padded)).tolist()
        if all(0 <= end <= len(document) for document, end in zip(padded, ends, strict=True)):
            yield tuple(document[:end] for document, end in zip(padded, ends, strict=True))
        else:
            room = " and ".join(str(array.shape[-1]) for array in arrays)
            yield InputError(f"{path}: row {number} has lengths {ends}, but room for {room} tokens; mend its lengths")


def _joined_rows(tokens: _Array, lengths: _Array, path: Path) -> Iterator[tuple | InputError]:
    """The documents of each row of tokens that stand end to end.

    Raises: InputError for lengths that are not those of the tokens, since no row after them would be right.
    """
    left = tokens.shape[0]
    for number in range(1, lengths.shape[0] + 1):
        sizes = _take(lengths, prod(lengths.shape[1:])).tolist()
        left -= sum(sizes)
        if min(sizes) < 0 or left < 0 or sum(sizes) * tokens.dtype.itemsize > MAX_RECORD:
            what = f"{path}: row {number} has lengths {sizes}, which are negative, too large, or more than there are"
            raise InputError(f"{what} tokens; mend lengths")
        yield tuple(_take(tokens, size) for size in sizes)
    if left:
        raise InputError(f"{path}: {tokens.name} holds {left} more than lengths adds up to; mend lengths")


def _row_of_arrays(row: tuple | InputError, label: Any, prefix: str, number: int, labelled: bool) -> Row:
    place = f"{prefix}{number}"
    if isinstance(row, InputError):
        raise row
    documents = tuple(_document(document, place) for document in row)
    if isinstance(label, bytes):
        label = decode_field(label, place) if labelled else label.decode("utf-8", "surrogateescape")
    return Row(prefix, number, documents, check_label(label, labelled, place))


def _document(document: np.ndarray | str | bytes, place: str) -> str | np.ndarray:
    if isinstance(document, np.ndarray):
        return check_ids(document, place)
    return decode_field(document, place) if isinstance(document, bytes) else check_text(document, place)
