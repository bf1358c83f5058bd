"""LRA's Pathfinder task: do both discs lie on the same dashed curve? One pixel one token, row by row.

Data: pathfinder32 of LRA's release, which has no splits. LRA cuts it 80/10/10. Here the images are shuffled with a
fixed seed before the cut, so another seed gives another test set. `pathfinder_generator` needs no release.
"""

import io
import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import InputError, check_integer
from ..system.terminal import progress_bar, warn
from .dataset import Dataset, Split, check_split
from .lookalike import START, describe
from .pixels import LENGTH, SIZE, VOCAB_SIZE, decode
from .sources import list_folder, not_found, read_error, read_whole
from .stored import STORE, AnyPath, stored_split

FOLDERS = {"easy": "curv_baseline", "intermediate": "curv_contour_length_9", "hard": "curv_contour_length_14"}
REMEDY = "unpack pathfinder32 of LRA's release, https://github.com/google-research/long-range-arena (see --check-data)"
EXPECTED = """\
pathfinder: LRA's release (lra_release.gz, 7.7 GB), https://github.com/google-research/long-range-arena
  DATA_DIR/                        or lra_release/, lra_release/lra_release/ in it
    pathfinder32/                  or DATA_DIR is this folder
      curv_baseline/               easy
      curv_contour_length_9/       intermediate
      curv_contour_length_14/      hard, the one that LRA reports
        metadata/<b>.npy           lines of text (or a NumPy array of text): imgs/<b> sample_<n>.png <n> <label> ...
        imgs/<b>/sample_<n>.png    32 x 32 pixels, 8-bit grey
  or no files at all: --set source=generated draws the images
"""
PARENTS = ("", "pathfinder32", "lra_release/pathfinder32", "lra_release/lra_release/pathfinder32")
_METADATA = re.compile(r"[\w-]+\.npy", re.ASCII)  # neither "._0.npy" nor "0 copy.npy"
_IMAGE = re.compile(r"imgs/(?!\.)[\w.-]+/(?!\.)[\w.-]+\.png", re.ASCII)  # admits neither "..", nor an absolute path
_PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + SIZE.to_bytes(4) * 2 + b"\x08\0"  # 32 x 32, 8 bits, grey
_MAX_IMAGE = 1 << 16  # bytes; 32 x 32 grey pixels need about 500
_MAX_METADATA = 64 << 20  # bytes; the release's files have some 40 KB


def load(data_dir: AnyPath, *, difficulty: str = "hard", seed: int = 0, cache_dir: AnyPath | None = None) -> Dataset:
    """LRA's Pathfinder32 of one difficulty, grey values + 1, split 80/10/10 by a permutation drawn from the seed.

    data_dir: pathfinder32 or a folder above it, as EXPECTED lists
    Empty image files (the release has one) are skipped; when files are read anew, stderr says how many.
    Raises: InputError for missing or damaged files, naming the metadata file and row, and when Pillow is missing.
    """
    seed = check_integer("seed", seed, 0)
    folder = find_folder(Path(data_dir), difficulty)
    metadata = _list_metadata(folder)
    if not metadata:
        raise InputError(f"{folder / 'metadata'}: no .npy files; {REMEDY}")
    sources = metadata + _list_images(folder)
    store = Path(cache_dir or Path(data_dir) / STORE)
    split = stored_split(sources, store, f"pathfinder-{difficulty}-1", lambda: read_images(folder, metadata))
    if len(split) < 10:
        raise InputError(f"{folder}: {len(split)} images are too few for splits of 80/10/10; give at least 10")
    order = np.random.default_rng(seed).permutation(len(split))
    train, val, test = divide(split, order)
    return Dataset("pathfinder", VOCAB_SIZE, 2, LENGTH, train, val, test, decode, as_text=False)


def find_folder(data_dir: Path, difficulty: str) -> Path:
    """The folder of one difficulty under data_dir: the first that has metadata, else the first of that name."""
    if difficulty not in FOLDERS:
        raise InputError(f"difficulty {difficulty!r} is unknown; choose {', '.join(FOLDERS)}")
    folders = [data_dir / parent / FOLDERS[difficulty] for parent in PARENTS]
    found = [folder for folder in folders if os.path.isdir(folder)]
    if not found:
        what = f"no pathfinder32/{FOLDERS[difficulty]} here"
        raise not_found(data_dir, PARENTS, what, ("lra_release", "pathfinder"), REMEDY)
    return next((folder for folder in found if len(found) > 1 and _list_metadata(folder)), found[0])


def _list_metadata(folder: Path) -> list[Path]:
    """The metadata files of a difficulty's folder, sorted; hidden and foreign ones are left alone."""
    return [folder / "metadata" / name for name in list_folder(folder / "metadata") if _METADATA.fullmatch(name)]


def _list_images(folder: Path) -> list[Path]:
    """Every image file of a difficulty's folder, sorted, whether or not the metadata list it.

    A batch that cannot be opened is left out. If the metadata list an image of it, reading that image says why.
    """
    images = []
    for batch in list_folder(folder / "imgs"):
        if _IMAGE.fullmatch(f"imgs/{batch}/x.png"):
            with suppress(InputError):
                names = list_folder(folder / "imgs" / batch)
                images += [folder / "imgs" / batch / name for name in names if _IMAGE.fullmatch(f"imgs/{batch}/{name}")]
    return sorted(images)


def divide(split: Split, order: np.ndarray) -> list[Split]:
    """Cut rows, in the given order, into 80 % train, 10 % val, 10 % test; within a split they keep the file order."""
    tenth = len(split) // 10
    tokens = split.tokens.reshape(len(split), -1)
    parts = map(np.sort, np.split(order, [len(split) - 2 * tenth, len(split) - tenth]))
    return [Split(tokens[rows].ravel(), split.offsets[: len(rows) + 1], split.labels[rows]) for rows in parts]


def read_images(folder: Path, metadata: list[Path]) -> Split:
    """Every image that the metadata files list, in their order."""
    rows = [(f"{file}: row {i}", *row) for file in metadata for i, row in enumerate(_read_metadata(file), start=1)]
    pixels, labels, empty = [], [], 0
    for place, image, label in progress_bar(rows, unit="image", label="reading images"):
        content = _read_file(folder / image, place)
        if content:
            pixels.append(read_png(content, f"{place}: {folder / image}"))
            labels.append(label)
        empty += not content
    if empty:
        warn(f"{folder}: skipped {empty} empty image file(s) of {len(rows)}")
    tokens = np.array(pixels, dtype=np.uint16).ravel() + np.uint16(1)
    split = Split(tokens, np.arange(len(labels) + 1, dtype=np.int64) * LENGTH, np.array(labels, dtype=np.int64))
    return check_split(split, "whole", folder, 2)


def _read_metadata(file: Path) -> list[tuple[str, int]]:
    """The rows of one metadata file as (path of the image below its difficulty's folder, label)."""
    content = read_whole(file, _MAX_METADATA)
    if content.startswith(b"\x93NUMPY"):
        table = _read_array(content, file)
    elif what := describe(file, content[:START]):
        raise InputError(f"{file}: {what}; {REMEDY}")
    else:  # blank lines at the end are no rows
        table = [line.split() for line in content.decode("utf-8", errors="replace").rstrip().splitlines()]
    return [_parse_row(row, f"{file}: row {i}") for i, row in enumerate(table, start=1)]


def _parse_row(row: list[str], place: str) -> tuple[str, int]:
    if len(row) < 4:
        expected = "expected imgs/<b> <name>.png <n> <label> ..."
        raise InputError(f"{place} has {len(row)} fields, {expected}, but it is {' '.join(row)[:40]!r}")
    image = f"{row[0]}/{row[1]}"
    if not _IMAGE.fullmatch(image):
        raise InputError(f"{place} names {image[:80]!r}, expected imgs/<b>/<name>.png; mend or remove it")
    if row[3] not in ("0", "1"):
        raise InputError(f"{place} has label {row[3][:20]!r}, expected 0 or 1; mend or remove it")
    return image, int(row[3])


def _read_array(content: bytes, file: Path) -> list[list[str]]:
    """The rows of a true .npy file of text; nothing is ever unpickled."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.dtype.kind not in "SU" or array.ndim != 2 or array.nbytes == 0:  # a billion empty rows need no bytes
            raise ValueError(f"an array of {array.dtype} with {array.ndim} axes")
        return array.astype(str).tolist()
    except Exception as error:  # the header of a damaged file can raise anything, MemoryError included
        problem = f"neither lines of text nor a NumPy table of text ({error!r:.80})"
        raise InputError(f"{file}: {problem}; save it with array.astype(str), or {REMEDY}") from None


def _read_file(path: Path, place: str) -> bytes:
    """The bytes of one image file; `place` names the metadata row that lists it."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{place}: {path} is no regular file; restore it or remove the row")
        with path.open("rb") as file:
            return file.read(_MAX_IMAGE + 1)
    except OSError as error:
        raise read_error(f"{place}: {path}", error, "restore it or remove the row") from None


def read_png(content: bytes, place: str) -> np.ndarray:
    """One image, decoded only if its header announces 32 x 32 grey pixels: (1024,) uint8."""
    try:
        from PIL import Image
    except Exception as error:  # not installed, or a broken installation, which can raise anything
        reason = f"which cannot be imported ({error})"
        raise InputError(f"reading Pathfinder's images needs Pillow, {reason}; pip install pillow") from None
    if not content.startswith(_PNG_HEADER) or len(content) > _MAX_IMAGE:
        if what := describe(place, content[:START]):
            raise InputError(f"{place} {what}; restore it or remove the row")
        raise InputError(f"{place} is no PNG of 32 x 32 pixels in 8-bit grey; restore it or remove the row")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return np.asarray(image).reshape(LENGTH)
    except Exception as error:  # a damaged PNG can raise anything from SyntaxError to struct.error
        raise InputError(f"{place} is damaged ({error!r:.80}); restore it or remove the row") from None
