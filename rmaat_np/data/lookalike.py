"""Say what a file is that is not what its name promises, with the command that mends it.

A browser, an editor or a half-finished download leaves such files: a tar without an ending, a zip that is called .tsv,
text that an editor saved as UTF-16, a page of HTML where an archive should be.
"""

import os
import shlex
import zlib
from collections.abc import Iterable
from pathlib import Path

START = 512  # bytes that are looked at
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\xfd7zXZ\x00": "xz",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\xef\xbb\xbf": "BOM",
    b"version https://git-lfs": "LFS",
}
_NAMES = {
    "gzip": "is compressed with gzip",
    "tar.gz": "is a .tar.gz archive",
    "tar": "is a tar archive",
    "zip": "is a zip archive",
    "bzip2": "is compressed with bzip2",
    "xz": "is compressed with xz",
    "UTF-32": "is text in UTF-32",
    "UTF-16": "is text in UTF-16",
    "BOM": "begins with a byte order mark",
    "HTML": "is a page of HTML, not the data",
    "LFS": "is only a pointer of Git LFS",
}
_PACKED = ("gzip", "tar.gz", "tar", "zip", "bzip2", "xz")


def kind_of(start: bytes) -> str | None:
    """What the first 512 bytes of a file tell: a key of the table above, or None when they tell nothing."""
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return "tar.gz" if kind == "gzip" and _is_tar(_decompressed(start)) else kind
    if _is_tar(start):
        return "tar"
    if start.startswith(b"BZh") and start[4:10] == b"1AY&SY":
        return "bzip2"
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "HTML"
    head = start[:16]
    if len(head) == 16 and (not any(head[::2]) and all(head[1::2]) or all(head[::2]) and not any(head[1::2])):
        return "UTF-16LE" if head[0] else "UTF-16BE"
    return None


def describe(path: str | Path, start: bytes) -> str | None:
    """What a file is and the command that mends it, "is a zip archive; unpack it: ..."; None when nothing is known.

    path: of the file; or what a message calls a member of an archive, for which there is no command
    """
    kind = kind_of(start)
    if kind is None:
        return None
    name = _NAMES["UTF-16" if kind.startswith("UTF-16") else kind]
    command = _command(Path(path), kind) if os.path.isfile(path) else None
    return f"{name}; {command}" if command else name


def packed_beside(folder: Path, words: Iterable[str]) -> str:
    """The packed files of a folder whose names begin like the data set, each with its command; "" if there are none."""
    found = []
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.lower().startswith(tuple(words)))
        for path in paths[:20]:
            if path.is_file() and kind_of(start := first_bytes(path)) in _PACKED:
                found.append(f"{path.name} {describe(path, start)}; ")
    except OSError:
        return ""
    return "".join(found[:2])


def first_bytes(path: Path) -> bytes:
    """The first 512 bytes of a regular file. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(START)


def _command(path: Path, kind: str) -> str | None:
    """What to type, with the file's name as it is now. A tar called like the folder in it must be renamed first."""
    here, folder, mended = (shlex.quote(str(p)) for p in (path, path.parent, f"{path}.new"))
    if kind in ("tar", "tar.gz", "zip"):
        packed = path
        if path.suffix not in (".tar", ".tgz", ".gz", ".zip"):
            packed = path.with_name(f"{path.name}.{kind}")
        rename = "" if packed == path else f"mv {here} {shlex.quote(str(packed))} && "
        unpack = "unzip {} -d {}" if kind == "zip" else "tar -xf {} -C {}"
        return f"unpack it: {rename}{unpack.format(shlex.quote(str(packed)), folder)}"
    if kind in ("gzip", "bzip2", "xz"):
        program = {"gzip": "gunzip", "bzip2": "bunzip2", "xz": "unxz"}[kind]
        if path.suffix in (".gz", ".bz2", ".xz"):
            return f"unpack it: {program} {here}"
        return f"unpack it: {program} < {here} > {mended} && mv {mended} {here}"
    if kind.startswith("UTF"):
        return f"convert it: iconv -f {kind} -t UTF-8 < {here} > {mended} && mv {mended} {here}"
    if kind == "BOM":
        return f"remove it: tail -c +4 < {here} > {mended} && mv {mended} {here}"
    return "fetch it: git lfs pull" if kind == "LFS" else None


def _is_tar(start: bytes) -> bool:
    return start[257:263] in (b"ustar\0", b"ustar ") and 0 in start[:257]


def _decompressed(start: bytes) -> bytes:
    """As much of a gzip file's content as its first bytes hold."""
    try:
        return zlib.decompressobj(wbits=31).decompress(start, START)
    except zlib.error:
        return b""
