"""LRA's text task: sentiment of IMDb reviews, one byte one token.

Data: Maas et al. 2011, as folders or as the original archive. LRA has no validation split, so 10 % of the training
reviews, drawn at random with a fixed seed, are held out. `train/unsup` is not read.
"""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, check_integer
from ..system.terminal import warn
from .dataset import Dataset, Split, check_split, check_tokens, hold_out
from .lookalike import START, describe, kind_of
from .sources import Layout, list_files, locate, read_files
from .stored import STORE, AnyPath, stored_split

VOCAB_SIZE = 257  # a byte + 1; 0 is padding
MAX_LENGTH = 4000  # LRA's cut
REMEDY = "get aclImdb_v1.tar.gz from https://ai.stanford.edu/~amaas/data/sentiment/ (--check-data shows the tree)"
EXPECTED = """\
text: the Large Movie Review Dataset v1.0, https://ai.stanford.edu/~amaas/data/sentiment/
  DATA_DIR/
    aclImdb_v1.tar.gz              as downloaded (84 MB), no need to unpack it
  or
  DATA_DIR/
    aclImdb/
      train/neg/<id>_<rating>.txt  12,500 reviews
      train/pos/<id>_<rating>.txt  12,500 reviews
      test/neg/<id>_<rating>.txt   12,500 reviews
      test/pos/<id>_<rating>.txt   12,500 reviews
"""
_SENTIMENTS = ("neg", "pos")  # the position is the label
LAYOUT = Layout(
    tops=("aclImdb",),
    folders=tuple(f"{split}/{sentiment}" for split in ("train", "test") for sentiment in _SENTIMENTS),
    wanted=re.compile(r"aclImdb/(train|test)/(neg|pos)/[0-9]+_[0-9]+\.txt"),
    files=50_000,
    remedy=REMEDY,
    words=("aclimdb", "imdb"),
)


def load(
    data_dir: AnyPath, *, max_length: int | None = None, seed: int = 0, cache_dir: AnyPath | None = None
) -> Dataset:
    """IMDb as 22,500 / 2,500 / 25,000 reviews, negative 0 and positive 1, cut at max_length bytes (4,000 by default).

    data_dir: folder that holds aclImdb or its .tar.gz, aclImdb itself, or the .tar.gz
    seed: of the held-out tenth
    Raises: InputError for missing files, an empty review, or text that is not UTF-8, naming the file.
    """
    max_length = check_integer("max_length", MAX_LENGTH if max_length is None else max_length, 1)
    seed = check_integer("seed", seed, 0)
    source = locate(data_dir, LAYOUT, warn)
    files = list_files(source, LAYOUT)
    store = Path(cache_dir or source.parent / STORE)
    splits = functools.cache(lambda: read_reviews(source, max_length))  # one pass over the archive for both
    train = stored_split(files, store, f"text-train-{max_length}-1", lambda: splits()["train"])
    test = stored_split(files, store, f"text-test-{max_length}-1", lambda: splits()["test"])
    train, val = hold_out(train, seed, source)
    return Dataset("text", VOCAB_SIZE, 2, max_length, train, val, test, decode)


def read_reviews(source: Path, max_length: int) -> dict[str, Split]:
    """Both splits of IMDb in order of label, then file name, whatever the order on disk or in the archive."""
    reviews: dict[tuple[str, int], dict[str, bytes]] = {
        (split, label): {} for split in ("train", "test") for label in (0, 1)
    }
    for name, place, content in read_files(source, LAYOUT):
        _, split, sentiment, _ = name.split("/")
        _check_review(content, place)
        reviews[split, _SENTIMENTS.index(sentiment)][name] = content[:max_length]
    for (split, label), found in reviews.items():
        if not found:
            raise InputError(f"{source}: no reviews in aclImdb/{split}/{_SENTIMENTS[label]}; {REMEDY}")
    splits = {}
    for split in ("train", "test"):
        rows = [(text, label) for label in (0, 1) for _, text in sorted(reviews[split, label].items())]
        texts, labels = zip(*rows, strict=True)
        splits[split] = check_split(byte_split(bytearray().join(texts), map(len, texts), labels), split, source, 2)
    return splits


def _check_review(content: bytes, place: str) -> None:
    """Refuse a packed file, whose bytes may happen to be UTF-8, then what `check_text` refuses."""
    if kind_of(content[:START]) not in (None, "BOM", "HTML"):  # a review may begin with either
        raise InputError(f"{place}: {describe(place, content[:START])}")
    check_text(content, place)


def check_text(text: bytes, place: str) -> None:
    """Refuse an empty text or one that is not UTF-8; `place` names the file, and the line where there is one."""
    if not text:
        raise InputError(f"{place}: the text is empty; remove it")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: byte {error.start + 1} of the text is not UTF-8; convert or remove it") from None


def byte_split(texts: bytearray, lengths: Iterable[int], labels: Iterable[int], documents: int = 1) -> Split:
    """Turn UTF-8 texts, end to end, into tokens without copying them: the split takes over the bytearray.

    Raises: InputError for a byte 0xFF, which UTF-8 never holds: byte + 1 would wrap to the padding.
    """
    if (place := texts.find(0xFF)) >= 0:
        raise InputError(f"byte {place + 1} of the texts is 0xFF, which is not UTF-8; convert or remove it")
    tokens = np.frombuffer(texts, dtype=np.uint8)
    tokens += 1
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return Split(tokens, offsets, np.array([*labels], dtype=np.int64), documents)


def decode(tokens: ArrayLike) -> str:
    """The text of one row; padding is dropped, and bytes cut off in the middle of a character show as U+FFFD."""
    tokens = check_tokens(tokens, VOCAB_SIZE)
    return (tokens[tokens > 0] - 1).astype(np.uint8).tobytes().decode("utf-8", errors="replace")
