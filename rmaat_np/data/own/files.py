"""Sequences of one's own, from files: train, and where they are there val and test, as .tsv, .csv, .jsonl or .npz.

The tokens are stored end to end on the disk and mapped into memory, so that they may be larger than it. The next run
finds them there.
"""

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, WriteError
from ...system.files import read_npz, write_npz
from ...system.terminal import warn
from ..dataset import SPLITS, Dataset, Split
from ..lookalike import packed_beside
from ..sources import list_folder
from ..stored import STORE, AnyPath, digest, size_and_time
from .codec import Codec
from .encoding import OpenFile, Reading, dataset_of, make_dataset
from .row import Columns, Row
from .rows import read_rows

SUFFIXES = (".tsv", ".csv", ".jsonl", ".npz")
SHARE = 0.1  # of the rows of train, for each split that has no file
REMEDY = "put a train.tsv, .csv, .jsonl or .npz there (--check-data shows what is read)"
EXPECTED = """\
own: your own sequences
  DATA_DIR/
    train.tsv      or .csv, .jsonl, .npz
    val.tsv        the same; without it, a tenth of train is drawn
    test.tsv       the same
  .tsv, .csv: a first line with the columns label and text, and text2 for pairs of documents; UTF-8, RFC 4180 quotes
  .jsonl: an object a line, with label and text, and text2 for pairs; or with token ids, lists of whole numbers from 1
  .npz: labels and text, and text2 for pairs; or token ids, (n, length), or end to end with lengths (n,)
  token ids are named text or tokens (text2 or tokens2); zeros at the end of a row are padding
  other names, for text and for ids, by --set text_column=NAME, text2_column=NAME, label_column=NAME
  the labels of a file are of one type: text, whole numbers (1.0 is 1) or truths; "1" in one file is 1 in another
  the bytes of a text are its tokens; --set alphabet=ACGT makes symbol i token i + 1
"""
OPTIONS: dict[str, type] = {
    "text_column": str,
    "text2_column": str,
    "label_column": str,
    "alphabet": str,
    "cut": bool,
    "max_length": int,
}
_VERSION = 1  # of what is stored
INDEX = "index.npz"


def find_files(data_dir: AnyPath) -> dict[str, Path]:
    """The file of each split; val and test may have none. Raises: InputError for no train, or two files of a split."""
    folder = Path(data_dir)
    found: dict[str, Path] = {}
    there = list_folder(folder)
    for name in SPLITS:
        names = [file for suffix in SUFFIXES if (file := f"{name}{suffix}") in there]
        if len(names) > 1:
            raise InputError(f"{folder}: both {names[0]} and {names[1]} are there; move one of them away")
        if names:
            found[name] = folder / names[0]
    if "train" not in found:
        what = "there is no train file" if os.path.isdir(folder) else "there is no such folder"
        raise InputError(f"{folder}: {what}; {packed_beside(folder, SPLITS)}{REMEDY}")
    return found


def load(data_dir: AnyPath, options: dict[str, Any], cache_dir: AnyPath | None = None) -> Dataset:
    """The files of a folder as a `Dataset`. Splits without a file are drawn from train, with seed 0.

    options: of OPTIONS; with cut, documents are cut after max_length tokens, and stderr says how many
    cache_dir: of the stored tokens, by default data_dir/.rmaat_cache. If nothing can be written there, stderr says so,
        and the tokens are held in memory.
    Raises: InputError naming file and line.
    """
    files = find_files(data_dir)
    columns = Columns(*(options.get(f"{name}_column", name) for name in ("text", "text2", "label")))
    alphabet, longest = options.get("alphabet", ""), options.get("max_length") if options.get("cut") else None
    how = digest([columns, repr(alphabet), longest, *(path.absolute() for path in files.values())])[:16]
    key = digest(size_and_time(path) for path in files.values())[:16]  # before reading: so a later change shows
    folder = Path(cache_dir or Path(data_dir) / STORE) / f"own-{_VERSION}-{how}"
    dataset, cut = _stored(folder, key) or (None, 0)
    if dataset is None:
        reading = Reading(alphabet, longest)
        try:
            dataset = _store(folder, key, files, columns, reading)
        except (OSError, WriteError) as error:
            warn(f"{folder}: not stored ({error}); the tokens are held in memory, and the next run reads the files")
            reading = Reading(alphabet, longest)
            dataset = _read(files, columns, reading, lambda name: BytesIO())
        cut = reading.cut
    if cut:
        warn(f"{data_dir}: {cut:,} documents are longer than {longest:,} tokens, the rest of them is cut off")
    return dataset


def _read(files: dict[str, Path], columns: Columns, reading: Reading, open_file: OpenFile) -> Dataset:
    sources = {name: _rows(path, columns, name) for name, path in files.items()}
    return make_dataset(sources, reading, {name: SHARE for name in SPLITS if name not in files}, 0, open_file)


def _rows(path: Path, columns: Columns, name: str) -> Iterator[Row]:
    """The rows of the file of a split. Raises: InputError for the first that is wrong, and where there is none."""
    row = None
    for row in read_rows(path, columns):
        if isinstance(row, InputError):
            raise row
        yield row
    if row is None:
        remedy = "write one row a class at least" if name == "train" else "write one at least, or remove the file"
        raise InputError(f"{path}: has no rows; {remedy}")


def _store(folder: Path, key: str, files: dict[str, Path], columns: Columns, reading: Reading) -> Dataset:
    """Read the files into a new folder beside `folder`, which it then becomes. -> the dataset from there"""
    making = folder.with_name(f".{folder.name}.{platform.node()}.{os.getpid()}")
    making.mkdir(parents=True)
    try:
        _remove_leftovers(folder.parent)
        with ExitStack() as opened:
            made = _read(files, columns, reading, lambda name: opened.enter_context(open(making / name, "w+b")))
        _write_index(making, key, made, reading.cut)
        del made  # the files must be closed before the folder is renamed
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    dataset, _ = _stored(folder, key) or (None, 0)
    if dataset is None:
        raise OSError("what was written cannot be read back")
    return dataset


def _remove_leftovers(store: Path) -> None:
    """Remove what processes of this machine left behind that were killed while they stored: .own-X.MACHINE.PROCESS."""
    for path in store.glob(".own-*"):
        machine, _, process = path.name[1:].partition(".")[2].rpartition(".")
        if machine == platform.node() and process.isdecimal() and not _lives(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _lives(process: int) -> bool:
    """True where that is not known: on Windows, where signal 0 is Ctrl-C."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _write_index(folder: Path, key: str, dataset: Dataset, cut: int) -> None:
    """Write what belongs to the token files, and remove those that were only needed on the way."""
    assert dataset.codec is not None and dataset.origins is not None
    meta: dict[str, Any] = {"key": key, "cut": cut, "codec": dataset.codec.to_json(), "splits": {}}
    arrays: dict[str, np.ndarray] = {}
    for name, split in dataset.splits.items():
        prefix, numbers, suffix = dataset.origins[name]
        assert isinstance(split.tokens, np.memmap)
        meta["splits"][name] = [Path(str(split.tokens.filename)).name, split.tokens.dtype.name, prefix, suffix]
        arrays |= {f"{name}/offsets": split.offsets, f"{name}/labels": split.labels, f"{name}/numbers": numbers}
    write_npz(folder / INDEX, {"meta": np.array(json.dumps(meta)), **arrays})
    used = {INDEX, *(file for file, *_ in meta["splits"].values())}
    for path in folder.iterdir():
        if path.name not in used:
            path.unlink()


def _stored(folder: Path, key: str) -> tuple[Dataset, int] | None:
    """The dataset of a stored folder, and how many documents were cut; None if it is of other files, or damaged."""
    try:
        arrays = read_npz(folder / INDEX)
        meta = json.loads(arrays["meta"].item())
        if meta["key"] != key:
            return None
        codec, splits, origins = Codec.from_json(meta["codec"]), {}, {}
        for name, (file, dtype, prefix, suffix) in meta["splits"].items():
            tokens = np.memmap(folder / Path(file).name, dtype, mode="r")
            splits[name] = Split(tokens, arrays[f"{name}/offsets"], arrays[f"{name}/labels"], 1 + codec.pair)
            origins[name] = prefix, arrays[f"{name}/numbers"], suffix
        return dataset_of(splits, codec, origins), meta["cut"]
    except Exception:  # what damaged files raise can be nearly anything; whatever it is, the sources are read again
        return None
