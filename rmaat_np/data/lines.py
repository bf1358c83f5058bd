"""Read a file of rows line by line: the part that ListOps and retrieval share."""

from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .lookalike import START, describe
from .sources import read_error


def read_lines(path: Path, longest: int, remedy: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) without line ends, LF or CRLF. Blank lines at the end of the file are no rows.

    longest: bytes of a line; keeps a file without line ends from being read in one piece
    Raises: InputError naming the line. Of a file that is packed, in UTF-16 or a web page, it says what the file is.
    """
    try:
        with path.open("rb") as file:
            if what := describe(path, file.read(START)):
                raise InputError(f"{path}: {what}; {remedy}")
            file.seek(0)
            blank = 0  # the first line of those since the last row
            for number, line in enumerate(iter(lambda: file.readline(longest), b""), start=1):
                if len(line) == longest:
                    fault = f"is longer than {longest >> 20} MiB"
                    raise InputError(f"{path}: line {number} {fault}; end each row with a line feed")
                if not line.strip():
                    blank = blank or number
                    continue
                if blank:
                    raise InputError(f"{path}: line {blank} is blank, but rows follow; remove it")
                yield number, line.rstrip(b"\r\n")
    except OSError as error:
        raise read_error(f"{path}:", error, remedy) from None
