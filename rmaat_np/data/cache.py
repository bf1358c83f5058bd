"""Keep what a reader made of its files in one .npz, so that the next run starts at once."""

import hashlib
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..checkpoint import write_atomically
from ..errors import InputError
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
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # np.load alone may stop before it comes to a member's checksum
                return None
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            return Split(arrays["tokens"], arrays["offsets"], arrays["labels"], int(arrays["documents"]))
    except Exception:  # a damaged .npz can raise nearly anything; whatever it is, the sources are read again
        return None


def _save(path, key, split) -> None:
    arrays = {"tokens": split.tokens, "offsets": split.offsets, "labels": split.labels, "documents": split.documents}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, key=np.array(key), **arrays))
    except (OSError, InputError) as error:
        print(f"warning: no cache, the next run reads the data again: {error}", file=sys.stderr)
