"""LRA's image task: CIFAR-10 in grey, one pixel one token, row by row.

Data: Krizhevsky 2009, in its Python or its binary version, as folder or as archive. Of the five training batches a
tenth, drawn at random with a fixed seed, is held out for validation: 45,000 / 5,000 / 10,000 images.
"""

import functools
import re
from pathlib import Path

import numpy as np

from ..errors import InputError, check_integer
from ..system.terminal import warn
from .cifar_pickle import read_batch
from .dataset import Dataset, Split, check_split, hold_out
from .lookalike import START, describe
from .pixels import LENGTH, VOCAB_SIZE, decode
from .sources import Layout, list_files, locate, read_files
from .stored import STORE, AnyPath, stored_split

CLASSES = 10
REMEDY = "get cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html (--check-data shows the tree)"
EXPECTED = """\
image: CIFAR-10, Python or binary version, https://www.cs.toronto.edu/~kriz/cifar.html
  DATA_DIR/
    cifar-10-python.tar.gz         as downloaded (170 MB), or cifar-10-binary.tar.gz; no need to unpack it
  or
  DATA_DIR/
    cifar-10-batches-py/           or cifar-10-batches-bin/, with .bin after each name
      data_batch_1 ... data_batch_5
      test_batch
"""
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUT = Layout(
    tops=("cifar-10-batches-py", "cifar-10-batches-bin"),
    folders=("",),
    wanted=re.compile(r"cifar-10-batches-(py/(data_batch_[1-5]|test_batch)|bin/(data_batch_[1-5]|test_batch)\.bin)"),
    files=6,
    remedy=REMEDY,
    words=("cifar",),
)


def load(
    data_dir: AnyPath, *, max_length: int | None = None, seed: int = 0, cache_dir: AnyPath | None = None
) -> Dataset:
    """CIFAR-10 as sequences of 1,024 grey values + 1, ten classes.

    data_dir: folder that holds cifar-10-batches-py (or -bin) or its .tar.gz, that folder itself, or the .tar.gz
    max_length: at least 1,024; images are never cut; seed: of the held-out tenth
    Raises: InputError for missing or damaged files, and for a pickle that asks for anything but NumPy arrays.
    """
    if max_length is not None and check_integer("max_length", max_length, 1) < LENGTH:
        raise InputError(f"max_length {max_length}: an image has {LENGTH} tokens and is never cut; give that or more")
    seed = check_integer("seed", seed, 0)
    source = locate(data_dir, LAYOUT, warn)
    files = list_files(source, LAYOUT)
    store = Path(cache_dir or source.parent / STORE)
    splits = functools.cache(lambda: read_images(source))  # one pass over the archive for both
    train = stored_split(files, store, "image-train-1", lambda: splits()["train"])
    test = stored_split(files, store, "image-test-1", lambda: splits()["test"])
    train, val = hold_out(train, seed, source)
    return Dataset("image", VOCAB_SIZE, CLASSES, LENGTH, train, val, test, decode, as_text=False)


def read_images(source: Path) -> dict[str, Split]:
    """Both splits of CIFAR-10 in the order of the batch files."""
    batches = {}
    for name, place, content in read_files(source, LAYOUT):
        pixels, labels = _read_batch(name, place, content)
        batches[name.split("/")[1].removesuffix(".bin")] = grey(pixels), labels
    for name in (*TRAIN, "test_batch"):
        if name not in batches:
            raise InputError(f"{source}: {name} is missing; {REMEDY}")
    splits = {}
    for split, names in (("train", TRAIN), ("test", ("test_batch",))):
        tokens = np.concatenate([batches[name][0] for name in names])
        tokens += 1
        labels = np.concatenate([batches[name][1] for name in names]).astype(np.int64)
        offsets = np.arange(len(labels) + 1, dtype=np.int64) * LENGTH
        splits[split] = check_split(Split(tokens.ravel(), offsets, labels), split, source, CLASSES)
    return splits


def _read_batch(name: str, place: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """One batch file -> pixels (n, 3072) uint8, labels (n,) uint8, 0 .. 9."""
    try:
        pixels, labels = (_read_binary if name.endswith(".bin") else read_batch)(content)
    except InputError as error:
        raise InputError(f"{place}: {describe(place, content[:START]) or error}; {REMEDY}") from None
    bad = np.flatnonzero(labels >= CLASSES)
    if len(bad):
        raise InputError(f"{place}: image {bad[0] + 1} has label {labels[bad[0]]}, expected 0 to 9; {REMEDY}")
    return pixels, labels


def grey(pixels: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B, rounded half up: (n, 3072) uint8 -> (n, 1024) uint16, 0 .. 255."""
    luma = np.full((len(pixels), LENGTH), 500, dtype=np.int32)  # thousandths
    for i, weight in enumerate((299, 587, 114)):
        luma += np.multiply(pixels[:, i * LENGTH : (i + 1) * LENGTH], weight, dtype=np.int32)
    return (luma // 1000).astype(np.uint16)


def _read_binary(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The binary version: records of 1 label byte and 3,072 pixel bytes -> pixels (n, 3072), labels (n,) uint8.

    Raises: InputError for no whole number of records.
    """
    if not content or len(content) % (1 + 3 * LENGTH):
        raise InputError(f"{len(content)} bytes are no whole number of 3,073-byte records")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + 3 * LENGTH)
    return records[:, 1:], records[:, 0]
