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

    text2: the second document of a pair; where it is called "text2", it may be absent
    label: an array may also be called "labels" where this is "label"
    Where there is no text, jsonl and npz may have token ids, always named "tokens"; see `read_rows`.
    """

    text: str = "text"
    text2: str = "text2"
    label: str = "label"


@dataclass(frozen=True)
class Row:
    """One row of a file.

    place: what a message calls it, "train.tsv: line 17" or "train.npz: row 3"; of several lines, the first
    number: that line or row, counted from 1
    documents: one or two, all text or all token ids: 1-D arrays of integers >= 1, without padding. Either may be empty.
    label: as it is written; None where there is none
    """

    place: str
    number: int
    documents: tuple[str | np.ndarray, ...]
    label: str | int | bool | None


def or_error(make: Callable[..., Row], *arguments: Any) -> Row | InputError:
    try:
        return make(*arguments)
    except InputError as error:
        return error


def decoded(content: bytes, place: str) -> str:
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


def check_label(label: Any, labelled: bool, place: str) -> str | int | bool | None:
    """The label itself, or None for an odd one where none is asked for. Raises: InputError for an odd one."""
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
    remedy = "write text, a whole number (1, not 1.0), true or false"
    raise InputError(f"{place}: the label is {what}, which names no class; {remedy}")


def check_tokens(tokens: np.ndarray, place: str) -> np.ndarray:
    """The tokens themselves. Raises: InputError for ids below 1."""
    wrong = np.flatnonzero(tokens <= 0)
    if wrong.size:
        what = f"token {wrong[0] + 1} is {tokens[wrong[0]]}, but ids begin at 1, and 0 is padding at the end of a row"
        raise InputError(f"{place}: {what}; number the symbols from 1")
    return tokens


def absent(place: str, what: str, name: str, option: str, there: Any) -> InputError:
    names = ", ".join(f"{key!r:.40}" for key in list(there)[:20]) or "none"
    return InputError(f"{place} has no {what} {name!r}, but {names}; name yours with --set {option}_column=NAME")
