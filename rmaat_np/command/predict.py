"""--predict: a line of JSON for every row of a file or a pipe. It holds one batch at a time."""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..config import Config, convert_value
from ..data.own.codec import Codec
from ..data.own.files import SUFFIXES
from ..data.own.row import Columns, Row
from ..data.own.rows import read_lines_of_text, read_rows
from ..errors import InputError
from ..inference import ROWS_AT_ONCE, predict_proba
from ..system.terminal import complain, show
from ..training.checkpoint import read_model
from ..training.execution import activate
from . import options


def predict(arguments: argparse.Namespace) -> int:
    """Print label and probability of every row. -> 0, or 1 if a row could not be read; that one is told on stderr."""
    activate(options.execution_of(arguments))
    params, cfg, codec, meta = read_model(arguments.predict)
    if codec is None:
        raise InputError(f"{arguments.predict}: is no model of task own, so that it cannot say what text is to it")
    how = _reading(arguments, meta)
    wrong = False
    rows = _tokens_of(_rows(arguments.input, codec, how), codec, cfg, how["cut"])
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        good = []
        for row in batch:
            if isinstance(row, InputError):
                wrong = True
                complain(f"{options.program()}: {row}")
            else:
                good.append(row)
        tokens = [tokens if cfg.pair else tokens[0] for _, tokens in good]
        probabilities = predict_proba(params, cfg, tokens, arguments.workers)
        lines = [
            _answer(number, p, codec, arguments.scores) for (number, _), p in zip(good, probabilities, strict=True)
        ]
        if lines:
            show("\n".join(lines))
    return int(wrong)


def _reading(arguments: argparse.Namespace, meta: dict) -> dict[str, Any]:
    """How rows are read: as in the training, but for what the options say. Raises: InputError for other options."""
    known: dict[str, Any] = {"text_column": "text", "text2_column": "text2", "cut": False}
    saved = meta.get("settings", {}).get("data", {})
    how = known | {name: value for name, value in saved.items() if name in known}
    for name, value in options.overrides_of(arguments).items():
        if name not in known:
            raise InputError(f"--predict goes without {name}; there are --set {', '.join(known)}")
        how[name] = convert_value(name, value, type(known[name]))
    for name in ("task", "preset", "model", "detect_anomaly"):
        if getattr(arguments, name):
            raise InputError(f"--predict goes without {options.option(name)}; the run says that itself")
    return how


def _answer(number: int, probabilities: np.ndarray, codec: Codec, scores: bool) -> str:
    """A row's line. scores: with the probabilities of all classes"""
    best, classes = int(probabilities.argmax()), codec.classes.tolist()
    answer = {"line": number, "label": classes[best], "probability": round(float(probabilities[best]), 6)}
    if scores:
        answer["scores"] = {str(name): round(float(p), 6) for name, p in zip(classes, probabilities, strict=True)}
    return json.dumps(answer, ensure_ascii=False)


def _rows(source: Path, codec: Codec, how: dict) -> Iterator[Row | InputError]:
    """The rows of a file such as those of the training; every other one, and a pipe, is one document a line."""
    if source.suffix.lower() in SUFFIXES:
        columns = Columns(how["text_column"], how["text2_column"])
        yield from read_rows(source, columns, labelled=False)
    elif str(source) == "-":
        yield from read_lines_of_text(sys.stdin.buffer, "stdin", pair=codec.pair)
    else:
        with _opened(source) as file:
            yield from read_lines_of_text(file, str(source), pair=codec.pair)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"--input {path}: cannot be read ({error.strerror}); name a file, or - for a pipe") from None


def _tokens_of(
    rows: Iterator[Row | InputError], codec: Codec, cfg: Config, cut: bool
) -> Iterator[tuple[int, tuple] | InputError]:
    """The number and the tokens of every row, or what is wrong with it. cut: shorten what the model cannot read"""
    for row in rows:
        if isinstance(row, InputError):
            yield row
            continue
        try:
            if len(row.documents) != 1 + codec.pair:
                found, wanted = len(row.documents), 1 + codec.pair
                raise InputError(f"{row.place} has {found} document(s), but the model reads {wanted} in a row")
            documents = [_as_ids(d, row.place) if codec.kind == "ids" else d for d in row.documents]
            tokens = codec.encode_row(documents, row.place)
            if cut:
                tokens = tuple(piece[: cfg.max_length] for piece in tokens)
            if (longest := max(map(len, tokens))) > cfg.max_length:
                remedy = "cut it, --set cut=true does so, or use `lengthen`"
                raise InputError(
                    f"{row.place} has {longest:,} tokens, but the model reads {cfg.max_length:,}; {remedy}"
                )
            yield row.number, tokens
        except InputError as error:
            yield error


def _as_ids(document: Any, place: str) -> Any:
    """Token ids in a line of text, separated by spaces. Raises: InputError for other text."""
    if not isinstance(document, str):
        return document
    try:
        return np.array(document.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise InputError(
            f"{place} is {document!r:.40}, but this model reads whole numbers, separated by spaces"
        ) from None
