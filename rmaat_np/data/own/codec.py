"""A codec: how rows of one's own become token ids, and how class numbers become names again."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...errors import InputError
from ..dataset import check_tokens
from .row import without_padding
from .row_memory import documents_of, each_row, to_array

KINDS = ("bytes", "symbols", "ids")
LARGEST = 2**24  # of ids: each has a row in the model, whether it is used or not
BYTES = 257  # ids of kind "bytes": byte b is token b + 1


@dataclass(frozen=True, eq=False)
class Codec:
    """What a model of one's own reads and answers, in plain values. A checkpoint holds it as JSON.

    kind: "bytes": text, in UTF-8, or bytes, of which byte b is token b + 1; "symbols": text, of which symbol i of the
        alphabet is token i + 1; "ids": whole numbers from 1 on, which are tokens as they are
    vocab_size: ids, the padding id 0 among them
    classes: (C,) names of the classes, in the order of their numbers; text, whole numbers or truths
    pair: True when a row is two documents; alphabet: the symbols of kind "symbols", each once
    Raises: InputError naming the field that cannot be.
    """

    kind: str
    vocab_size: int
    classes: np.ndarray
    pair: bool = False
    alphabet: str = ""
    _symbols: tuple[np.ndarray, np.ndarray] = field(
        init=False, repr=False
    )  # code points in rising order, and the token of each

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"codec: kind is {self.kind!r:.40}, but it must be one of {', '.join(KINDS)}")
        classes = to_array(self.classes, "codec: classes")
        if classes.ndim != 1 or len(classes) < 2 or classes.dtype.kind not in "iubU":
            raise InputError("codec: classes must be at least two names, all text, whole numbers or truths")
        if len(set(classes.tolist())) != len(classes):
            raise InputError("codec: a class is named twice")
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "_symbols", symbol_table(self.alphabet))
        sizes = {"bytes": BYTES, "symbols": len(self.alphabet) + 1, "ids": self.vocab_size}
        if type(self.vocab_size) is not int or self.vocab_size != sizes[self.kind] or self.vocab_size < 2:
            raise InputError(f"codec: vocab_size is {self.vocab_size!r:.40}, which does not fit kind {self.kind}")
        if (self.kind == "symbols") != bool(self.alphabet) or type(self.pair) is not bool:
            raise InputError("codec: an alphabet goes with kind symbols, and pair is true or false")

    def encode(self, rows: Iterable) -> list:
        """Rows as token ids, for `predict_proba`.

        rows: of the kind that the model was trained on: texts, bytes, or lists or arrays of whole numbers; for pairs,
            two of them each
        Shapes: -> a list of (length,) integer arrays; for pairs, of tuples of two
        Raises: InputError naming the row as X[i] for what is empty or no token of this codec.
        """
        encoded = []
        for i, row in enumerate(each_row(rows, "X")):
            documents = documents_of(row, f"X[{i}]")
            if len(documents) != 1 + self.pair:
                wanted = "two documents" if self.pair else "one document"
                raise InputError(f"X[{i}] has {len(documents)} document(s), but this codec reads {wanted} a row")
            tokens = self.encode_row(documents, f"X[{i}]")
            encoded.append(tokens if self.pair else tokens[0])
        return encoded

    def encode_row(self, documents: Sequence[str | bytes | np.ndarray], place: str) -> tuple[np.ndarray, ...]:
        """The tokens of each document of one row. Raises: InputError that begins with `place`."""
        pieces = tuple(encode_document(document, self.kind, self._symbols, place) for document in documents)
        for piece in pieces:
            if len(piece) == 0:
                raise InputError(f"{place} is empty; remove it")
            if piece.max() >= self.vocab_size:
                raise InputError(f"{place} has token {piece.max()}, but the model knows 1 to {self.vocab_size - 1}")
        return pieces

    def decode(self, tokens: ArrayLike) -> str:
        """The text of one row; ids are shown as numbers. Padding is dropped.

        Raises: InputError naming the first that is no token of this codec.
        """
        ids = check_tokens(to_array(tokens, "tokens"), self.vocab_size)
        ids = ids[ids > 0]
        if self.kind == "bytes":
            return (ids - 1).astype(np.uint8).tobytes().decode("utf-8", errors="replace")
        if self.kind == "symbols":
            return "".join(self.alphabet[i - 1] for i in ids)
        return " ".join(map(str, ids))

    def to_json(self) -> dict:
        """As plain values."""
        plain = {"kind": self.kind, "vocab_size": self.vocab_size, "classes": self.classes.tolist()}
        return plain | {"pair": self.pair, "alphabet": self.alphabet}

    @staticmethod
    def from_json(values: Any) -> "Codec":
        """The reverse of to_json. Raises: InputError for anything else."""
        try:
            classes = values["classes"]
            if not isinstance(classes, list) or len({type(name) for name in classes}) != 1:
                raise InputError("codec: classes must be a list of names of one type")
            return Codec(values["kind"], values["vocab_size"], np.array(classes), values["pair"], values["alphabet"])
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(f"codec is {values!r:.80}, which is no codec ({error!r:.80})") from None


def symbol_table(alphabet: Any) -> tuple[np.ndarray, np.ndarray]:
    """Code points of an alphabet in rising order, and the token of each.

    Raises: InputError for a symbol that is there twice, and for what is no text.
    """
    if not isinstance(alphabet, str):
        raise InputError(f"alphabet is {alphabet!r:.40}, but it must be text, each symbol once")
    if len(set(alphabet)) < len(alphabet):
        symbol = Counter(alphabet).most_common(1)[0][0]
        raise InputError(f"alphabet: {symbol!r} is there twice; name each symbol once")
    points = _code_points(alphabet, "alphabet")
    order = np.argsort(points)
    return points[order], (order + 1).astype(np.uint32)


def encode_document(
    document: str | bytes | np.ndarray, kind: str, symbols: tuple[np.ndarray, np.ndarray], place: str
) -> np.ndarray:
    """One document as token ids, which may be none.

    symbols: of `symbol_table`, for kind "symbols"
    Shapes: -> (length,) uint8, or uint16 for bytes with 0xFF, uint32 for symbols and ids
    Raises: InputError that begins with `place`.
    """
    if kind == "ids":
        return _encode_ids(document, place)
    if isinstance(document, np.ndarray):
        raise InputError(f"{place} holds token ids, but the model reads text; give text or bytes")
    if kind == "symbols":
        return _encode_symbols(_text_of(document, place), *symbols, place)
    if isinstance(document, str):
        try:
            document = document.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{place} holds {document[error.start]!a}, which UTF-8 cannot; remove it") from None
    content = np.frombuffer(document, dtype=np.uint8)
    return content.astype(np.uint16) + np.uint16(1) if b"\xff" in document else content + np.uint8(1)


def _text_of(document: str | bytes, place: str) -> str:
    if isinstance(document, str):
        return document
    try:
        return document.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: byte {error.start + 1} of the text is not UTF-8; convert it") from None


def _code_points(text: str, place: str) -> np.ndarray:
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        raise InputError(f"{place} holds {text[error.start]!a}, which is no character; remove it") from None


def _encode_symbols(text: str, points: np.ndarray, tokens: np.ndarray, place: str) -> np.ndarray:
    found = _code_points(text, place)
    where = np.minimum(np.searchsorted(points, found), len(points) - 1)
    unknown = points[where] != found
    if unknown.any():
        at = int(np.argmax(unknown))
        remedy = """ in quotes, as in --set 'alphabet="AC "'""" if text[at].isspace() else ""  # spaces around it go
        raise InputError(f"{place} has {text[at]!r} at {at + 1}, which the alphabet lacks; add it{remedy}")
    return tokens[where]


def _encode_ids(document: str | bytes | np.ndarray, place: str) -> np.ndarray:
    """Whole numbers from 1 to LARGEST. The zeros at the end of a padded row are dropped."""
    if not isinstance(document, np.ndarray):
        raise InputError(f"{place} is text, but the model reads whole numbers; give a list of token ids")
    if document.ndim != 1:
        raise InputError(f"{place} has {document.ndim} axes, but a row is one list of token ids")
    if document.size == 0:
        return np.empty(0, np.uint32)
    if document.dtype.kind not in "iu":
        remedy = "convert them, .astype(int)" if document.dtype.kind == "f" else "number them from 1"
        what = f"{document[0]!s:.40} of type {document.dtype}"
        raise InputError(f"{place} has {what}, but tokens are whole numbers; {remedy}")
    values = without_padding(document)
    wrong = (values < 1) | (values > LARGEST)
    if wrong.any():
        value = values[np.argmax(wrong)]
        reason = (
            "which is padding; add 1 to every id"
            if value == 0
            else f"but ids are 1 to {LARGEST:,}; number them without gaps"
        )
        raise InputError(f"{place} has token {value}, {reason}")
    return values.astype(np.uint32)
