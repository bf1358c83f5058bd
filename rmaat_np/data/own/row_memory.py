"""The rows of lists and arrays in memory, of NumPy, pandas, PyTorch and others: the one door by which they come in."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...errors import InputError

_ROW = "a row is a text, bytes, or a list or array of whole numbers"


def each_row(rows: Any, name: str) -> Iterable:
    """Something to iterate over row by row. Raises: InputError with the remedy for what has no rows."""
    if isinstance(rows, (str, bytes, dict, set, frozenset)) or hasattr(rows, "columns"):
        what = "a table" if hasattr(rows, "columns") else f"a {type(rows).__name__}"
        raise InputError(f"{name} is {what}, but it must be a list or array of rows; give one column, or [row]")
    if hasattr(rows, "__array__"):  # of NumPy, and what other libraries make of their columns and tensors
        rows = to_array(rows, name)
    try:
        return iter(rows)
    except TypeError:
        raise InputError(f"{name} is a {type(rows).__name__}, but it must be a list or array of rows") from None


def to_array(values: Any, name: str) -> np.ndarray:
    """What is like an array as one of NumPy.

    Raises: InputError that begins with `name`, also for a masked array, whose mask would be lost.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array, whose mask would be lost; fill it, for example .filled(0)")
    try:
        return np.asarray(values)
    except Exception as error:  # what foreign arrays raise, as a tensor on a GPU does, can be anything
        raise InputError(f"{name} cannot become a NumPy array ({str(error)[:80]}); convert it first") from None


def documents_of(row: Any, place: str) -> tuple[str | bytes | np.ndarray, ...]:
    """The documents of one row: two where the row is a list, tuple or array of two texts or lists, else one.

    Raises: InputError that begins with `place`, for what cannot be a row.
    """
    if hasattr(row, "__array__") and not isinstance(row, (str, bytes)):
        row = _as_array(row, place)
    if not isinstance(row, (list, tuple, np.ndarray)) or len(row) == 0:
        return (_document(row, place),)
    if len(row) == 2 and all(_is_text(part) or _is_list(part) for part in row):
        return tuple(_document(part, place) for part in row)
    if _is_text(row[0]):
        remedy = 'join it to one text, " ".join(row), or number the words from 1'
        raise InputError(f"{place} is a list of {len(row)} texts, but {_ROW}; {remedy}")
    if _is_list(row[0]):
        raise InputError(f"{place} is a list of {len(row)} lists, but a row is one document, or a pair of two")
    return (_document(row, place),)


def _is_text(part: Any) -> bool:
    return isinstance(part, (str, bytes, bytearray, memoryview))


def _is_list(part: Any) -> bool:
    return part.ndim > 0 if hasattr(part, "ndim") else hasattr(part, "__len__")


def _document(part: Any, place: str) -> str | bytes | np.ndarray:
    """One document: text, bytes, or an array of one axis or more. A memoryview is bytes, whatever it shows."""
    if isinstance(part, str):
        return part
    return bytes(part) if _is_text(part) else _as_array(part, place)


def _as_array(part: Any, place: str) -> np.ndarray:
    values = to_array(part, place)
    if values.ndim == 0:  # what NumPy makes of a number, a set, a dict, a sparse matrix
        remedy = "; a sparse matrix becomes an array by .toarray()" if hasattr(part, "toarray") else ""
        raise InputError(f"{place} is a {type(part).__name__}, but {_ROW}{remedy}")
    return values
