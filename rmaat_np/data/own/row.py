"""A row of a user's own data: one or two documents and a label, and what is refused wherever a row comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError

MAX_RECORD = 64 << 20  # bytes of a row; keeps a file without line ends, or a lost quote, from being read in one piece


@dataclass(frozen=True)
class Columns:
    """Names of columns (tsv, csv), of keys (jsonl) or of arrays (npz).

    text: the documents, whatever they are: text, or in jsonl and npz token ids. Where it is absent there, token ids may
        also be called "tokens", and "tokens2" the second ones of a pair.
    text2: the second document of a pair; where it is called "text2", it may be absent
    label: an array may also be called "labels" where this is "label"
    """

    text: str = "text"
    text2: str = "text2"
    label: str = "label"

    def of_documents(self, there: Any) -> tuple[str, str]:
        """The names of the first and the second document, where these keys or arrays are there."""
        first = "tokens" if self.text not in there and "tokens" in there else self.text
        return first, "tokens2" if first == "tokens" and self.text2 == Columns.text2 else self.text2


@dataclass(frozen=True)
class Row:
    """One row of a file, or of lists and arrays.

    prefix, number, suffix: what a message calls it, in three parts: "train.tsv: line ", 17, ""; or "X[", 16, "]"
    number: as its owner counts: lines and rows of files from 1, of several lines the first; rows in memory from 0
    documents: one or two; each is text, bytes (only in memory) or token ids, a 1-D array. Either may be empty. Ids from
        files are at least 1, without padding; those from memory are checked when they are encoded.
    label: as it is written; None where there is none. One from memory can be anything until it is read.
    """

    prefix: str
    number: int
    documents: tuple[str | bytes | np.ndarray, ...]
    label: Any
    suffix: str = ""

    @property
    def place(self) -> str:
        """What a message calls the row: "train.tsv: line 17", "X[16]"."""
        return f"{self.prefix}{self.number}{self.suffix}"


def or_error(make: Callable[..., Row], *arguments: Any) -> Row | InputError:
    """The row that make(*arguments) returns, or the InputError that it raises: the rows behind it stay readable."""
    try:
        return make(*arguments)
    except InputError as error:
        return error


def decode_field(content: bytes, place: str) -> str:
    """Bytes of a file as text. Raises: InputError that begins with `place` for what is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"byte {error.start + 1} of {content[:40]!r}"
        raise InputError(f"{place}: {what} is not UTF-8; convert the file to it, or mend the row") from None


def check_text(text: str, place: str) -> str:
    """The text itself. Raises: InputError for half a surrogate pair, which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"character {error.start + 1} of the text is {text[error.start]!a}, half a surrogate pair"
        raise InputError(f"{place}: {what}; mend or remove it") from None
    return text


def plain_label(label: Any) -> Any:
    """NumPy's values as Python's, and 1.0 as 1: so other programs write whole numbers beside missing ones."""
    label = label.item() if isinstance(label, np.generic) else label
    return int(label) if type(label) is float and label.is_integer() else label


def check_label(label: Any, labelled: bool, place: str) -> str | int | bool | None:
    """The label itself, or None for an odd one where none is asked for. Raises: InputError for an odd one."""
    label = plain_label(label)
    if isinstance(label, str | int) and label != "":
        try:
            return check_text(label, place) if isinstance(label, str) else label
        except InputError:
            if labelled:
                raise
            return None
    if not labelled:
        return None
    what = repr(label) if label is None or isinstance(label, str | float) else f"a {type(label).__name__}"
    raise InputError(f"{place}: the label is {what}, which names no class; write text, a whole number, true or false")


def without_padding(tokens: np.ndarray) -> np.ndarray:
    """Token ids up to the last one that is not 0. Shapes: (n,) -> (m,), m <= n"""
    there = np.flatnonzero(tokens)
    return tokens[: there[-1] + 1 if there.size else 0]


def check_ids(tokens: np.ndarray, place: str) -> np.ndarray:
    """The tokens themselves. Raises: InputError for ids below 1."""
    wrong = np.flatnonzero(tokens <= 0)
    if wrong.size:
        what = f"token {wrong[0] + 1} is {tokens[wrong[0]]}, but ids begin at 1, and 0 is padding at the end of a row"
        raise InputError(f"{place}: {what}; number the symbols from 1")
    return tokens


def check_alike(documents: Any, names: tuple[str, str], place: str) -> None:
    """Raises: InputError where one of a row's documents, or of their arrays, is text and the other token ids."""
    if len({*documents}) > 1:
        raise InputError(
            f"{place}: one of {names[0]!r} and {names[1]!r} is text, the other token ids; write both alike"
        )


def absent(place: str, what: str, name: str, option: str, there: Any) -> InputError:
    """The error for a column, key or array that is missing, with the names of those that are there."""
    names = ", ".join(f"{key!r:.40}" for key in list(there)[:20]) or "none"
    return InputError(f"{place} has no {what} {name!r}, but {names}; name yours with --set {option}_column=NAME")
