"""Keep what a reader made of its files in one .npz, so that the next run starts at once."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..system.files import read_npz, write_atomically
from .dataset import Split


def cached_split(sources: list[Path], cache_dir, version: str, read: Callable[[], Split]) -> Split:
    """The split that read() makes of `sources`, taken from cache_dir while their paths, sizes and times are the same.

    version: names the reader, its format and every option that changes the result; it is part of the file's name
    A cache that is damaged or out of date is made anew; if it can't be written, a warning goes to stderr.
    """
    paths = [Path(source).absolute() for source in sources]
    path = Path(cache_dir) / f"{version}-{_digest(paths)[:16]}.npz"
    # Before reading: if a source changes meanwhile, the cache written from it counts as out of date.
    key = _digest([(status.st_size, status.st_mtime_ns) for status in map(Path.stat, paths)])
    split = _load(path, key)
    if split is None:
        split = read()
        _save(path, key, split)
    return split


def _digest(values) -> str:
    return hashlib.sha256("\n".join(map(str, values)).encode("utf-8", "surrogateescape")).hexdigest()


def _load(path, key) -> Split | None:
    try:
        arrays = read_npz(path)
        if arrays["key"].item() != key:
            return None
        return _checked(Split(arrays["tokens"], arrays["offsets"], arrays["labels"], arrays["documents"].item()))
    except Exception:  # a damaged .npz can raise nearly anything; whatever it is, the sources are read again
        return None


def _checked(split) -> Split:
    """Refuse arrays that are no split. Raises: ValueError."""
    tokens, offsets, labels = split.tokens, split.offsets, split.labels
    if (
        (tokens.dtype not in (np.uint8, np.uint16) or offsets.dtype != np.int64 or labels.dtype != np.int64)
        or (not tokens.ndim == offsets.ndim == labels.ndim == 1 or split.documents not in (1, 2))
        or (len(offsets) != len(labels) * split.documents + 1 or offsets[0] != 0 or offsets[-1] != len(tokens))
        or (np.diff(offsets) < 0).any()
    ):
        raise ValueError("no split")
    return split


def _save(path, key, split) -> None:
    arrays = {"tokens": split.tokens, "offsets": split.offsets, "labels": split.labels, "documents": split.documents}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, key=np.array(key), **arrays))
    except (OSError, InputError) as error:
        print(f"warning: no cache, the next run reads the data again: {error}", file=sys.stderr)
