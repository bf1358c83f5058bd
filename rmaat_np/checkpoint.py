"""Checkpoints: one .npz file of parameters, optimiser state and a JSON text; written whole or not at all, no pickle."""

import io
import json
import os
import zipfile
import zlib
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np

from . import backend
from .errors import InputError, write_error
from .params import check_params

FORMAT = 1
MAX_HEADER = 16_384  # bytes of an array's header; NumPy itself reads no more than 10,000
DAMAGED = (  # what reading a truncated, altered or foreign file raises
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, MemoryError, OverflowError, RuntimeError,
    SyntaxError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def write_atomically(path, write) -> None:
    """Call write(file) on a temporary binary file in the same folder, flush it to the disk, and rename it to path.

    Raises: WriteError naming the path and a remedy; the file that stood there before is then untouched.
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


def save_checkpoint(path, params: dict, state: dict, meta: dict) -> None:
    """Write parameters, AdamW state and what else a run needs to go on.

    meta: JSON values: the configuration, the step, the seed (data order and dropout are functions of seed and step).
    """
    arrays = {f"params/{name}": backend.to_host(array) for name, array in params.items()}
    for moment, values in state.items():
        arrays |= {f"{moment}/{name}": backend.to_host(array) for name, array in values.items()}
    text = json.dumps(meta | {"format": FORMAT})
    packed = io.BytesIO()  # not the file itself: NumPy 2.0 leaves its zip open when writing to it fails
    np.savez(packed, meta=np.array(text), **arrays)
    write_atomically(path, lambda file: file.write(packed.getbuffer()))


def read_npz(path) -> dict:
    """The arrays of an .npz as `np.savez` writes it, every checksum verified: memory is bounded by the file's size.

    Raises: InputError for pipes and devices, and for compressed or overlapping members (decompression bombs); one of
        DAMAGED for damaged files.
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


def _read_member(archive, member) -> np.ndarray:
    """One array, whose header must promise exactly the bytes that there are; nothing is ever unpickled."""
    content, done = bytearray(member.file_size), 0
    with archive.open(member) as file:  # to its end, where zipfile compares the checksum
        while part := file.read(1 << 20):
            content[done : done + len(part)] = part
            done += len(part)
    header = io.BytesIO(content[:MAX_HEADER])
    version = np.lib.format.read_magic(header)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran_order, dtype = read_header(header)
    start = header.tell()
    if dtype.hasobject or prod(shape) * dtype.itemsize != done - start:
        raise ValueError(f"{member.filename[:80]}: {shape} of {dtype} are not the {done - start} bytes that there are")
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")


def load_checkpoint(path) -> tuple[dict, dict, dict]:
    """Read a checkpoint back onto the active backend. -> params, AdamW state, meta.

    Raises: InputError for a file that is missing, damaged, no checkpoint, or of another format version.
    """
    path = Path(path)
    try:
        arrays = read_npz(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; name a .npz file that a run wrote, or its folder") from None
    except DAMAGED as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({error or type(error).__name__}); use another one of the run"
        ) from None
    try:
        meta = json.loads(arrays.pop("meta").item())
        version = meta["format"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise InputError(f"{path}: holds no checkpoint of this program; name a .npz file that a run wrote") from None
    if version != FORMAT or isinstance(version, bool):
        raise InputError(
            f"{path}: has checkpoint format {version!r:.40}, this program reads {FORMAT}; use the version that wrote it"
        )
    groups = {"params": {}, "m": {}, "v": {}}
    for name, array in arrays.items():
        group, _, key = name.partition("/")
        if group not in groups or not np.issubdtype(array.dtype, np.floating):
            raise InputError(f"{path}: {name[:80]} does not belong into a checkpoint; use another one of the run")
        groups[group][key] = array
    params = groups.pop("params")
    return _to_device(params), {moment: _to_device(values) for moment, values in groups.items()}, meta


def check_checkpoint(path, params: dict, state: dict, cfg, dtype: str) -> None:
    """Refuse arrays that do not fit the configuration or the dtype. Raises: InputError naming file and parameter."""
    for group, arrays in {"": params, **state}.items():
        where = f"{path} ({group})" if group else str(path)
        check_params(arrays, cfg, where)
        for name, array in arrays.items():
            if array.dtype != dtype:
                raise InputError(f"{where}: {name} is {array.dtype}, the run {dtype}; use another one of the run")


def _to_device(arrays):
    return {name: backend.to_device(array) for name, array in arrays.items()}
