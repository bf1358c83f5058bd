"""Read a data set straight from its .tar.gz: nothing is ever unpacked to disk, and nothing is trusted."""

import gzip
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import InputError
from .lookalike import describe, first_bytes

MAX_FILE = 64 << 20  # bytes; a CIFAR-10 batch has 31 MB, aclImdb's largest file 41 MB
MAX_ARCHIVE = 1 << 30  # bytes after decompression; aclImdb_v1 and CIFAR-10 need less than half of it
# A data set's folder shows among these first members, before any large one. A README or macOS's "._" files come first.
FIRST_MEMBERS, FIRST_SIZE = 100, 1 << 20
_BROKEN = (  # what reading a damaged .tar.gz can raise, absurd numbers in its headers included
    OSError, EOFError, zlib.error, tarfile.TarError, ValueError, LookupError, OverflowError, MemoryError,
    RecursionError, struct.error,
)  # fmt: skip


def read_archive(archive: Path, wanted: re.Pattern) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, place, content) of every member whose name matches `wanted`, in the order of the archive.

    name: path in the archive, without a leading "./"; place: what an error message should call the member
    Raises: InputError for an archive that is damaged, unpacks to more than 1 GiB, or has a member over 64 MiB, with an
        absolute path, with "..", or that is neither a file nor a folder.
    """
    for tar, member, name in _members(archive):
        _check_member(archive, member)
        if member.isreg() and wanted.fullmatch(name) and (file := tar.extractfile(member)):
            yield name, f"{archive}: {name}", file.read()


def count_members(archive: Path, wanted: re.Pattern) -> int:
    """How many files of the archive match `wanted`. Raises: InputError for a damaged archive."""
    return sum(member.isreg() and bool(wanted.fullmatch(name)) for _, member, name in _members(archive))


def holds_folder(archive: Path, tops: tuple[str, ...]) -> bool:
    """Whether one of the folders `tops` shows among the first 100 members, and before one over 1 MiB.

    Raises: InputError for an archive that is damaged there.
    """
    for count, (_, member, name) in enumerate(_members(archive), start=1):
        if name.split("/")[0] in tops:
            return True
        if count == FIRST_MEMBERS or member.size > FIRST_SIZE:
            break
    return False


def _members(archive: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, str]]:
    """Every member with its name, while the tar stands at the member's content; then the checksum behind them all."""
    try:
        with _BoundedGzip(archive) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as tar:
            while (member := tar.next()) is not None:
                # tarfile would keep a header of 1 KB for each of 100,000 files
                tar.members.clear()  # type: ignore[attr-defined]
                yield tar, member, PurePosixPath(member.name).as_posix()
            while stream.read(1 << 20):  # on to the end, where gzip keeps the checksum
                pass
    except InputError:
        raise
    except _BROKEN as error:
        raise _broken(archive, error) from None


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
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


def _broken(archive: Path, error: BaseException) -> InputError:
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"{archive}: cannot be read ({error.strerror}); make it readable, or move it away")
    try:
        what = describe(archive, first_bytes(archive))
    except OSError:
        what = None
    if what and not what.startswith(("is a .tar.gz", "is compressed with gzip")):
        return InputError(f"{archive}: not a complete .tar.gz: it {what}; download it again or remove it")
    return InputError(f"{archive}: not a complete .tar.gz ({error}); download it again or remove it")


class _BoundedGzip(gzip.GzipFile):
    """Limits what an archive may unpack to. Long headers count, too: tarfile reads one in a single piece."""

    def read(self, size=-1):
        data = super().read(size)
        if self.tell() > MAX_ARCHIVE:
            raise InputError(f"{self.name}: unpacks to more than {MAX_ARCHIVE >> 20} MiB; use the official archive")
        return data
