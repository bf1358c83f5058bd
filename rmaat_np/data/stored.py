"""Keep what a reader made of its files in one .npz, so that the next run starts at once."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ..system.files import read_npz, write_npz
from ..system.terminal import warn
from .dataset import Split

AnyPath = str | os.PathLike[str]
STORE = ".rmaat_cache"  # the folder for it in the folder of the data, unless the caller names another


def stored_split(sources: list[Path], folder: AnyPath, version: str, read: Callable[[], Split]) -> Split:
    """The split that read() makes of `sources`, taken from folder while their paths, sizes and times are the same.

    version: names the reader, its format and every option that changes the result; it is part of the file's name
    Stored arrays that are damaged or out of date are made anew. If they cannot be written, stderr says so.
    """
    paths = [Path(source).absolute() for source in sources]
    path = Path(folder) / f"{version}-{digest(paths)[:16]}.npz"
    # Before reading: if a source changes meanwhile, the arrays made of it count as out of date.
    key = digest([size_and_time(source) for source in paths])
    split = _load(path, key)
    if split is None:
        split = read()
        _save(path, key, split)
    return split


def digest(values: Iterable) -> str:
    """A name for values: SHA-256 of their texts."""
    return hashlib.sha256("\n".join(map(str, values)).encode("utf-8", "surrogateescape")).hexdigest()


def size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and time in ns of a source. A dangling link has none: the reader names it if it needs it."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _load(path: Path, key: str) -> Split | None:
    try:
        arrays = read_npz(path)
        if arrays["key"].item() != key:
            return None
        return Split(arrays["tokens"], arrays["offsets"], arrays["labels"], arrays["documents"].item())
    except Exception:  # a damaged .npz can raise nearly anything; whatever it is, the sources are read again
        return None


def _save(path: Path, key: str, split: Split) -> None:
    arrays = {"key": np.array(key), "tokens": split.tokens, "offsets": split.offsets, "labels": split.labels}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, arrays | {"documents": np.array(split.documents)})
    except Exception as error:  # a full disk makes zipfile raise more than OSError; the split is whole all the same
        warn(f"{path}: not stored ({str(error) or type(error).__name__}); the next run reads the data again")
