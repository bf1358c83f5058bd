"""Find a data set's files: one way to walk and match for every reader.

What does not belong to the data set decides nothing. Hidden files and foreign names are left alone. An archive that
cannot be read is named only when nothing else fits. A half-extracted folder is passed over if the archive beside it has
more of the files.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from . import archive
from .lookalike import describe, first_bytes, packed_beside
from .stored import AnyPath


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie, in a folder and in an archive alike.

    tops: names that the data set's own folder may have
    folders: the folders below it that hold its files; "" is the folder itself
    wanted: matches the path of a file from the data set's folder on, with slashes; all other files are left alone
    files: how many wanted files the whole data set has
    remedy: where to get it, for the end of a message
    words: how the names of its downloads begin, in small letters
    """

    tops: tuple[str, ...]
    folders: tuple[str, ...]
    wanted: re.Pattern
    files: int
    remedy: str
    words: tuple[str, ...]


def locate(data_dir: AnyPath, layout: Layout, tell: Callable[[str], None] | None = None) -> Path:
    """Find the data set: its folder, or the .tar.gz that holds such a folder.

    data_dir: that folder, the .tar.gz itself, or the folder that contains either. A folder comes before an archive,
        unless the folder lacks files and the archive has more.
    tell: called with one line when such a folder is passed over
    Raises: InputError when there is none, or when several archives qualify.
    """
    path = Path(data_dir).absolute()
    if os.path.isfile(path):
        return path
    folders, closed = _folders(path, layout)
    whole = [folder for folder, count in folders.items() if count >= layout.files]
    if whole:
        return whole[0]
    archives, broken = _archives(path, layout)
    best = max(folders, key=lambda folder: folders[folder], default=None)
    if best and (most := folders[best]):
        for packed in archives:
            if (count := _count(packed, layout)) > most:
                if tell:
                    tell(f"{best}: only {most:,} of {layout.files:,} files; {packed.name} is read, which has {count:,}")
                return packed
        if broken and tell:
            tell(f"{best}: only {most:,} of {layout.files:,} files are there, and {broken[0]}")
        return best
    if len(archives) > 1:
        raise InputError(f"{path}: both {archives[0].name} and {archives[1].name} fit; name one of them instead")
    if archives:
        return archives[0]
    if closed:
        raise closed[0]
    if best and not broken:
        return best  # the reader says which of its files are missing
    raise _nothing_fits(path, layout, broken)


def _folders(path: Path, layout: Layout) -> tuple[dict[Path, int], list[InputError]]:
    """The folders that could be the data set, each with its number of wanted files; errors of the others."""
    candidates = [path] if path.name in layout.tops else []
    candidates += [path / top for top in layout.tops]
    counts, closed = {}, []
    for folder in candidates:
        if os.path.isdir(folder):
            try:
                counts[folder] = len(list_files(folder, layout))
            except InputError as error:
                closed.append(error)
    return counts, closed


def _archives(path: Path, layout: Layout) -> tuple[list[Path], list[InputError]]:
    """The archives in a folder that hold the data set, and the errors of those that cannot be read."""
    fitting, broken = [], []
    for name in list_folder(path):
        packed = path / name
        if name.endswith(".tar.gz") and os.path.isfile(packed):  # a pipe would never end
            try:
                if archive.holds_folder(packed, layout.tops):
                    fitting.append(packed)
            except InputError as error:
                broken.append(error)
    if len(fitting) > 1:  # an archive may hold a folder of that name and none of its files
        fitting = [packed for packed in fitting if _count(packed, layout)] or fitting
    return fitting, broken


def _count(packed: Path, layout: Layout) -> int:
    try:
        return archive.count_members(packed, layout.wanted)
    except InputError:
        return 0


def _nothing_fits(path: Path, layout: Layout, broken: list[InputError]) -> InputError:
    message = f"{_place(path)} neither a folder {' or '.join(layout.tops)} here nor a .tar.gz of one; "
    message += "".join(f"{str(error)[:500]}; " for error in broken[:2]) or packed_beside(path, layout.words)
    return InputError(f"{message}{layout.remedy}")


def _place(path) -> str:
    return f"{path}:" if os.path.exists(path) else f"{path}: there is no such folder, so"


def find_splits(
    data_dir: Path, folders: tuple[str, ...], names: list[str], words: tuple[str, ...], remedy: str
) -> list[Path]:
    """The files of these names, all from the first of the folders (below data_dir) that has every one of them.

    words: how the names of archives begin that could hold them, in small letters
    Raises: InputError when none is there or only some are.
    """
    partial = None
    for folder in folders:
        files = [data_dir / folder / name for name in names]
        missing = [file for file in files if not os.path.isfile(file)]
        if not missing:
            return files
        if len(missing) < len(files) and partial is None:
            partial = missing[0]
    if partial is not None:
        packed = packed_beside(partial.parent, (partial.name.lower(),))
        raise InputError(f"{partial}: missing beside the others; {packed}{remedy}")
    raise not_found(data_dir, folders, f"no {names[0]} here or in {folders[1]}", words, remedy)


def not_found(data_dir: Path, folders: tuple[str, ...], what: str, words: tuple[str, ...], remedy: str) -> InputError:
    """The InputError for a data set that is in none of the folders below data_dir, with the reason if one shows."""
    return InputError(f"{_place(data_dir)} {what}; {_reason(data_dir, folders, words)}{remedy}")


def _reason(data_dir: Path, folders: tuple[str, ...], words: tuple[str, ...]) -> str:
    """Why nothing was found, as the middle of a message; "" if no reason shows.

    Raises: InputError for a folder that cannot be opened.
    """
    if os.path.isfile(data_dir):  # a release that was not unpacked
        try:
            what = describe(data_dir, first_bytes(data_dir))
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
        return f"it {what or 'is a file, not a folder'}; "
    for folder in folders:
        list_folder(data_dir / folder)
    return packed_beside(data_dir, words)


def list_folder(folder: Path) -> list[str]:
    """The names in a folder, sorted, without the hidden ones; none if there is no such folder.

    Raises: InputError for a folder that cannot be opened.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise read_error(f"{folder}:", error, "mend it") from None
    return sorted(name for name in names if not name.startswith("."))


def list_files(source: Path, layout: Layout) -> list[Path]:
    """The files that `read_files` would open: the wanted ones of a folder, sorted, or the archive itself.

    Raises: InputError for a folder of the data set that cannot be opened.
    """
    if os.path.isfile(source):
        return [source]
    found = []
    for folder in layout.folders:
        names = list_folder(source / folder)
        top = "/".join(part for part in (source.name, folder) if part)
        found += [source / folder / name for name in names if layout.wanted.fullmatch(f"{top}/{name}")]
    return sorted(found)


def read_files(source: Path, layout: Layout) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, place, content) of every wanted file.

    name: path from the data set's folder on, with slashes; place: what an error message should call the file
    Raises: InputError for a file over 64 MiB; for an archive as `read_archive` does.
    """
    if os.path.isfile(source):
        yield from archive.read_archive(source, layout.wanted)
        return
    for path in list_files(source, layout):
        yield path.relative_to(source.parent).as_posix(), str(path), read_whole(path)


def read_whole(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file.

    Raises: InputError when it is none, cannot be read, or has more than limit bytes (64 MiB).
    """
    limit = archive.MAX_FILE if limit is None else limit
    try:
        if not path.is_file():  # a pipe would never end
            raise InputError(f"{path}: is missing or no regular file; put the data set's own file there")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size <= limit else b""
    except OSError as error:
        raise read_error(f"{path}:", error, "restore it") from None
    if size > limit:
        raise InputError(f"{path}: larger than {limit >> 20} MiB, so no file of this data set; replace it")
    return content


def read_error(place: str, error: OSError, remedy: str) -> InputError:
    """The InputError for a file or folder that cannot be read, with the remedy that fits the reason.

    place: the message's beginning, which names the file or folder
    """
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = "make it readable"
    elif error.errno == errno.ELOOP:
        remedy = "its links lead in a circle, mend them"
    elif error.errno == errno.EIO:
        remedy = "the disk fails, copy the file anew"
    return InputError(f"{place} cannot be read ({error.strerror or error}); {remedy}")
