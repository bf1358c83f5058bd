"""LRA's image task: CIFAR-10 in grey, one pixel one token, row by row.

Data: Krizhevsky 2009, in its Python or its binary version, as folder or as archive. Of the five training batches a
tenth, drawn at random with a fixed seed, is held out for validation: 45,000 / 5,000 / 10,000 images.
"""

import io
import pickle
import pickletools
import re
from functools import cache
from pathlib import Path

import numpy as np

from ..errors import InputError
from .archive import list_files, locate, read_files
from .cache import cached_split
from .dataset import Dataset, Split, check_split
from .text import hold_out

VOCAB_SIZE = 257  # a grey value 0 .. 255, + 1; 0 is padding
LENGTH = 32 * 32
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
TOPS = ("cifar-10-batches-py", "cifar-10-batches-bin")
BATCH = re.compile(r"cifar-10-batches-(?:py|bin)/(data_batch_[1-5]|test_batch)(?:\.bin)?")
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
SHADES = np.array(list(" .:-=+*#%@"))  # dark to bright


def load(data_dir, *, max_length=None, seed=0, cache_dir=None) -> Dataset:
    """CIFAR-10 as sequences of 1,024 grey values + 1, ten classes.

    data_dir: folder that holds cifar-10-batches-py (or -bin) or its .tar.gz, that folder itself, or the .tar.gz
    max_length: at least 1,024; images are never cut; seed: of the held-out tenth
    Raises: InputError for missing or damaged files, and for a pickle that asks for anything but NumPy arrays.
    """
    if max_length is not None and max_length < LENGTH:
        raise InputError(f"max_length {max_length}: an image has {LENGTH} tokens and is never cut; give that or more")
    source = locate(data_dir, TOPS, REMEDY)
    files = list_files(source, BATCH)
    cache_dir = Path(cache_dir or source.parent / ".rmaat_cache")
    splits = cache(lambda: read_images(source))
    train = cached_split(files, cache_dir, "image-train-1", lambda: splits()["train"])
    test = cached_split(files, cache_dir, "image-test-1", lambda: splits()["test"])
    train, val = hold_out(train, seed, source)
    return Dataset("image", VOCAB_SIZE, CLASSES, LENGTH, train, val, test, decode)


def read_images(source: Path) -> dict[str, Split]:
    """Both splits of CIFAR-10 in the order of the batch files."""
    batches = {}
    for name, place, content in read_files(source, BATCH):
        pixels, labels = (read_binary if name.endswith(".bin") else read_pickle)(content, place)
        bad = np.flatnonzero(labels >= CLASSES)
        if len(bad):
            raise InputError(f"{place}: image {bad[0] + 1} has label {labels[bad[0]]}, expected 0 to 9; {REMEDY}")
        batches[BATCH.fullmatch(name)[1]] = grey(pixels), labels
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


def grey(pixels: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B, rounded half up: (n, 3072) uint8 -> (n, 1024) uint16, 0 .. 255."""
    luma = np.full((len(pixels), LENGTH), 500, dtype=np.int32)  # thousandths
    for i, weight in enumerate((299, 587, 114)):
        luma += np.multiply(pixels[:, i * LENGTH : (i + 1) * LENGTH], weight, dtype=np.int32)
    return (luma // 1000).astype(np.uint16)


def read_binary(content: bytes, place: str) -> tuple[np.ndarray, np.ndarray]:
    """The binary version: records of 1 label byte and 3,072 pixel bytes -> pixels (n, 3072), labels (n,) uint8."""
    if not content or len(content) % (1 + 3 * LENGTH):
        raise InputError(f"{place}: {len(content)} bytes are no whole number of 3,073-byte records; {REMEDY}")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + 3 * LENGTH)
    return records[:, 1:], records[:, 0]


def read_pickle(content: bytes, place: str) -> tuple[np.ndarray, np.ndarray]:
    """The Python version: a pickled dict with `data` and `labels` -> pixels (n, 3072) uint8, labels (n,) uint8."""
    try:
        _check_memo(content)
        batch = _ArrayUnpickler(io.BytesIO(content), place).load()
        pixels, labels = _pixels(batch[b"data"]), bytes(list(batch[b"labels"]))  # bytes: 0 .. 255 only
    except InputError:
        raise
    except Exception as error:  # the opcodes of a damaged pickle can raise anything, MemoryError included
        raise InputError(f"{place}: damaged, or no CIFAR-10 batch ({error!r:.80}); {REMEDY}") from None
    if not len(pixels) == len(labels) > 0:
        raise InputError(f"{place}: {len(pixels)} images but {len(labels)} labels; {REMEDY}")
    return pixels, np.frombuffer(labels, dtype=np.uint8)


def _check_memo(content: bytes) -> None:
    """Refuse a memo index beyond the file's size: the unpickler would make room for as many entries."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.endswith("PUT") and argument > len(content):
            raise ValueError(f"memo index {argument}")


def _pixels(array: "_Inert") -> np.ndarray:
    _, shape, dtype, fortran_order, content = array.state
    if dtype.args[0] not in (b"u1", "u1") or fortran_order or len(shape) != 2 or shape[1] != 3 * LENGTH:
        raise ValueError("data is no (n, 3072) array of uint8")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


class _Inert:
    """Stands in for NumPy's names while unpickling: keeps what the pickle says of an array, and does nothing."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class _ArrayUnpickler(pickle.Unpickler):
    """Admits the three names that a pickled array needs, under their old and new module, and runs none of them."""

    def __init__(self, file, place):
        super().__init__(file, encoding="bytes")  # the batches were written by Python 2
        self.place = place

    def find_class(self, module, name):
        array_modules = ("numpy.core.multiarray", "numpy._core.multiarray")
        if (module == "numpy" and name in ("ndarray", "dtype")) or (module in array_modules and name == "_reconstruct"):
            return _Inert
        raise InputError(f"{self.place}: the pickle asks for {f'{module}.{name}'[:80]!r}, not an array; {REMEDY}")


def decode(tokens) -> str:
    """The picture as 32 lines of 32 characters, from ' ' (black) to '@' (white)."""
    shades = (np.asarray(tokens, dtype=np.int64).reshape(32, 32) - 1) * len(SHADES) // 256
    return "\n".join("".join(row) for row in SHADES[shades])
