"""Files that are whole or absent: atomic writes, .npz without pickle, a folder's lock."""

import errno
import io
import os
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError, write_error

_MAX_HEADER = 16_384  # bytes of an array's header; NumPy itself reads no more than 10,000
DAMAGED = (  # what reading a truncated, altered or foreign file raises
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, MemoryError, OverflowError, RuntimeError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) on a temporary binary file in the same folder, flush it to the disk, and rename it to path.

    Raises: WriteError naming the path and a remedy. The file that stood there before is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        with suppress(OSError):  # the folder itself may be what is wrong
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all. Undecodable bytes of file names become backslash escapes.

    Raises: WriteError naming the path and a remedy.
    """
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_npz(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as `np.savez` does, whole or not at all, without a copy of them in memory.

    NumPy 2.0's `savez` leaves its zip file open when writing to it fails, on a full disk for example.
    Raises: WriteError naming the path and a remedy.
    """

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    write_atomically(path, write)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file as `np.savez` writes it. Every checksum is verified.

    Memory is bounded by the file's size: compressed and overlapping members, as in a decompression bomb, are refused.
    Raises: InputError for those, for pipes and for devices; one of DAMAGED for damaged files.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: no regular file; name a .npz file that this program wrote")  # a pipe would never end
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members, size = archive.infolist(), os.fstat(file.fileno()).st_size
        unpacked = sum(member.file_size for member in members)
        if any(member.compress_type != zipfile.ZIP_STORED for member in members) or unpacked > size:
            raise InputError(
                f"{path}: unpacks to {unpacked:,} bytes from {size:,}, but at most the file's own size is read; "
                "use a file that this program wrote"
            )
        return {member.filename.removesuffix(".npy"): _read_member(archive, member) for member in members}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array. Its header must promise exactly the bytes that there are. Nothing is ever unpickled."""
    content, done = bytearray(member.file_size), 0
    with archive.open(member) as file:  # to its end, where zipfile compares the checksum
        while part := file.read(1 << 20):
            content[done : done + len(part)] = part
            done += len(part)
    header = io.BytesIO(content[:_MAX_HEADER])
    version = np.lib.format.read_magic(header)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran_order, dtype = read_header(header)
    start = header.tell()
    if dtype.hasobject or prod(shape) * dtype.itemsize != done - start:
        raise ValueError(f"{member.filename[:80]}: {shape} of {dtype} are not the {done - start} bytes that there are")
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")


def make_folder(folder: Path) -> None:
    """Create a run's folder, and those above it. Raises: InputError naming the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_created(folder, error) from None


def _not_created(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder}: cannot be created ({error.strerror}); choose another folder")


def make_numbered_folder(folder: Path) -> Path:
    """Create a folder that nobody has yet: this one, or the first free one of FOLDER-2, FOLDER-3, ... -> its path

    Raises: InputError naming the folder.
    """
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    make_folder(folder.parent)
    while True:
        path = next(names)
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise _not_created(path, error) from None


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Lock a run's folder inside a `with` block. The lock ends with the process, however that ends.

    On a platform with neither fcntl (Linux, macOS) nor msvcrt (Windows), nothing is locked.
    Raises: InputError if another process trains in the folder.
    """
    lock = folder / ".lock"
    try:
        file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), "rb")  # both ways: a pipe is no trap
    except OSError as error:
        if error.errno == errno.EACCES and os.access(folder, os.W_OK):
            raise InputError(
                f"{lock}: may be another user's ({error.strerror}); remove it, or choose another folder"
            ) from None
        raise write_error(lock, error) from None
    with file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):  # fcntl's answer, and msvcrt's
            raise InputError(
                f"{folder}: another process trains in this folder; wait for it or choose another folder"
            ) from None
        except OSError as error:
            raise InputError(f"{folder}: cannot be locked ({error.strerror}); choose one on a local disk") from None
        yield


def _lock(file: BinaryIO) -> None:
    """Lock an open file, or raise BlockingIOError or PermissionError if another process has it; OSError if none can."""
    try:
        import fcntl
    except ImportError:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
