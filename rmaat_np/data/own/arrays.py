"""Sequences of one's own, from arrays and lists: they become a checked `Dataset` with a codec."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np

from ...errors import InputError, check_integer
from ..dataset import Dataset
from .encoding import Reading, make_dataset
from .row import Row
from .row_memory import documents_of, each_row


def dataset(train: tuple, validation: Any = 0.1, test: Any = 0.1, seed: int = 0, *, alphabet: str = "") -> Dataset:
    """Rows and labels of one's own as a `Dataset`, every row checked. Equal rows never fall into two splits.

    train: (X, y). X: a list or array of rows: texts, bytes, or lists or arrays of whole numbers from 1 on, for 0 is
        padding at the end of a row; for pairs of documents, two of them a row. y: a label a row, all of them texts,
        whole numbers (1.0 is 1) or truths. The classes are the labels of train, sorted; where those are "0" and
        another y has 0, or the reverse, that is the same class.
    validation, test: (X, y); or a share of the rows, above 0, that is drawn at random with `seed`, class by class
    alphabet: the symbols of which the texts are made, each once: symbol i becomes token i + 1. Empty: bytes are tokens.
    Raises: InputError that names the row as X[i], as its owner counts, for an empty row, for what is no token or no
        label, for a label that train lacks, and for equal rows in two given splits.
    """
    parts = {"train": train, "val": validation, "test": test}
    shares = {name: float(part) for name, part in parts.items() if name != "train" and _is_number(part)}
    given = {name: part for name, part in parts.items() if name not in shares}
    sources = {name: _rows_of(part, name, "" if len(given) == 1 else f"{name} ") for name, part in given.items()}
    return make_dataset(sources, Reading(alphabet), shares, check_integer("seed", seed, 0), lambda name: BytesIO())


def _is_number(part: Any) -> bool:
    return isinstance(part, (int, float, np.integer, np.floating)) and not isinstance(part, bool)


def _rows_of(part: Any, name: str, prefix: str) -> Iterator[Row]:
    """The rows of (X, y). Raises: InputError for what is no pair of rows and labels."""
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        what = f"a {type(part).__name__}" + (f" of {len(part)}" if isinstance(part, (tuple, list)) else "")
        if name == "train":
            raise InputError(f"train is {what}, but it must be a pair (X, y); did you mean dataset((X, y))?")
        parameter = "validation" if name == "val" else name
        raise InputError(f"{parameter} is {what}, but it must be a pair (X, y), or a share of the rows, as 0.1")
    rows, labels = (list(each_row(values, f"{prefix}{n}")) for values, n in zip(part, "Xy", strict=True))
    if len(rows) != len(labels):
        raise InputError(f"{prefix}X has {len(rows):,} rows, but {prefix}y has {len(labels):,}; give a label a row")
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        yield Row(f"{prefix}X[", i, documents_of(row, f"{prefix}X[{i}]"), label, "]")
