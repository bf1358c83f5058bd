"""Read a data set's files from its folder or straight from its .tar.gz; nothing is ever unpacked to disk."""

import gzip
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import InputError

MAX_FILE = 64 << 20  # bytes; a CIFAR-10 batch has 31 MB, aclImdb's largest file 41 MB
MAX_ARCHIVE = 1 << 30  # bytes after decompression; aclImdb_v1 and CIFAR-10 need less than half of it
BROKEN = (  # what reading a damaged .tar.gz can raise, absurd numbers in its headers included
    OSError, EOFError, zlib.error, tarfile.TarError, ValueError, LookupError, OverflowError, MemoryError,
    RecursionError, struct.error,
)  # fmt: skip


def locate(data_dir, tops: tuple[str, ...], remedy: str) -> Path:
    """Find the data set: the folder named like one of `tops`, or the .tar.gz that holds such a folder.

    data_dir: that folder, the .tar.gz itself, or the folder that contains either (a folder comes first)
    Raises: InputError when there is none, ending in `remedy`, or when several archives qualify.
    """
    path = Path(data_dir).absolute()
    if path.is_file() or (path.is_dir() and path.name in tops):
        return path
    for top in tops:
        if (path / top).is_dir():
            return path / top
    files = [archive for archive in sorted(path.glob("*.tar.gz")) if archive.is_file()]  # a pipe would never end
    archives = [archive for archive in files if _first_folder(archive) in tops]
    if len(archives) > 1:
        raise InputError(f"{path}: both {archives[0].name} and {archives[1].name} fit; name one of them instead")
    if not archives:
        raise InputError(f"{path}: neither a folder {' or '.join(tops)} here nor a .tar.gz of one; {remedy}")
    return archives[0]


def find_splits(data_dir: Path, folders: tuple[str, ...], names: list[str], remedy: str) -> list[Path]:
    """The files of these names, all from the first of the folders (below data_dir) that has any of them.

    Raises: InputError, ending in `remedy`, when none is there or only some are.
    """
    for folder in folders:
        files = [data_dir / folder / name for name in names]
        missing = [file for file in files if not file.is_file()]
        if not missing:
            return files
        if len(missing) < len(files):
            raise InputError(f"{missing[0]}: missing beside the others; {remedy}")
    raise InputError(f"{data_dir}: no {names[0]} here or in {folders[1]}; {remedy}")


def list_files(source: Path, wanted: re.Pattern) -> list[Path]:
    """The files that `read_files` would open: the wanted ones of a folder, sorted, or the archive itself."""
    if source.is_file():
        return [source]
    paths = (Path(folder, name) for folder, _, names in os.walk(source) for name in names)
    return sorted(path for path in paths if wanted.fullmatch(path.relative_to(source.parent).as_posix()))


def read_files(source: Path, wanted: re.Pattern) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, place, content) of every file whose name matches `wanted`.

    name: path from the top folder on, with slashes; place: what an error message should call the file
    Raises: InputError for a file over 64 MiB; for an archive that is damaged, unpacks to more than 1 GiB, or has a
    member with an absolute path, with "..", or that is neither a file nor a folder.
    """
    if source.is_file():
        yield from _read_archive(source, wanted)
        return
    for path in list_files(source, wanted):
        yield path.relative_to(source.parent).as_posix(), str(path), read_whole(path)


def read_whole(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file.

    Raises: InputError when it is none, cannot be read, or has more than limit bytes (64 MiB).
    """
    limit = MAX_FILE if limit is None else limit
    try:
        if not path.is_file():  # a pipe would never end
            raise InputError(f"{path}: is missing or no regular file; put the data set's own file there")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size <= limit else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); restore it") from None
    if size > limit:
        raise InputError(f"{path}: larger than {limit >> 20} MiB, so no file of this data set; replace it")
    return content


def _read_archive(archive, wanted):
    try:
        with _BoundedGzip(archive) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # tarfile would keep a header of 1 KB for each of 100,000 files
                _check_member(archive, member)
                name = PurePosixPath(member.name).as_posix()  # drops a leading "./"
                if member.isreg() and wanted.fullmatch(name):
                    yield name, f"{archive}: {name}", tar.extractfile(member).read()
            while stream.read(1 << 20):  # on to the end, where gzip keeps the checksum
                pass
    except InputError:
        raise
    except BROKEN as error:
        raise _broken(archive, error) from None


def _check_member(archive, member):
    path = PurePosixPath(member.name)
    fault = None
    if path.is_absolute() or ".." in path.parts:
        fault = "points outside the archive"
    elif not (member.isreg() or member.isdir()):
        fault = "is a link or a device"
    elif member.issparse():
        fault = "is sparse (it unpacks to more than it takes)"
    elif member.size > MAX_FILE:
        fault = f"is larger than {MAX_FILE >> 20} MiB"
    if fault:
        raise InputError(f"{archive}: member {member.name[:200]!r} {fault}; use the archive from the official site")


def _first_folder(archive) -> str | None:
    try:
        with _BoundedGzip(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            while (member := tar.next()) is not None:
                if parts := PurePosixPath(member.name).parts:
                    return parts[0]
    except InputError:
        raise
    except BROKEN as error:
        raise _broken(archive, error) from None
    return None


def _broken(archive, error) -> InputError:
    return InputError(f"{archive}: not a complete .tar.gz ({error}); download it again or remove it")


class _BoundedGzip(gzip.GzipFile):
    """Stops a decompression bomb wherever it sits, long headers included, which tarfile reads in one piece."""

    def read(self, size=-1):
        data = super().read(size)
        if self.tell() > MAX_ARCHIVE:
            raise InputError(f"{self.name}: unpacks to more than {MAX_ARCHIVE >> 20} MiB; use the official archive")
        return data
