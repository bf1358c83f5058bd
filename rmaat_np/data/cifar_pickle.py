"""Read a batch of CIFAR-10 from its pickle without running anything that the pickle asks for.

Python 2 wrote the batches. Copies in circulation were saved again by Python 3, with other protocols, with str keys, or
with the labels as an array. All of these hold the same few opcodes and names. Every other name is refused.
"""

import io
import pickle
import pickletools

import numpy as np

from ..errors import InputError

WIDTH = 3 * 32 * 32  # bytes of an image: red, green, blue
_RECONSTRUCT = [("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")]
_FROM_BUFFER = [("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")]  # protocol 5


def read_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dict with `data` and `labels` -> pixels (n, 3072) uint8, labels (n,) uint8.

    Raises: InputError for a pickle that is damaged, asks for anything but NumPy arrays, or holds something else.
    """
    try:
        _check_memo(content)
        batch = _ArrayUnpickler(content).load()
        batch = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
        if "fine_labels" in batch:
            raise InputError("a batch of CIFAR-100, not of CIFAR-10")
        pixels, labels = _pixels(batch["data"]), _labels(batch["labels"])
    except InputError:
        raise
    except Exception as error:  # the opcodes of a damaged pickle can raise anything, MemoryError included
        raise InputError(f"damaged, or no CIFAR-10 batch ({error!r:.80})") from None
    if not len(pixels) == len(labels) > 0:
        raise InputError(f"{len(pixels)} images but {len(labels)} labels")
    return pixels, labels


def _check_memo(content: bytes) -> None:
    """Refuse a memo index beyond the file's size: the unpickler would make room for as many entries."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.endswith("PUT") and (argument or 0) > len(content):
            raise ValueError(f"memo index {argument}")


def _pixels(data: "_Inert") -> np.ndarray:
    shape, dtype, fortran_order, content = data.array()
    if dtype != "u1" or fortran_order or len(shape) != 2 or shape[1] != WIDTH:
        raise ValueError("data is no (n, 3072) array of uint8")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _labels(labels) -> np.ndarray:
    """A list or an array of integers as uint8. Raises: an error where a value is none, or is not 0 .. 255."""
    if isinstance(labels, _Inert):
        shape, dtype, _, content = labels.array()
        if len(shape) != 1 or dtype not in ("u1", "i1", "i2", "i4", "i8"):
            raise ValueError(f"labels are an array of {dtype!s:.20} with {len(shape)} axes")
        values = np.frombuffer(content, dtype=f"<{dtype}").reshape(shape)
        if ((values < 0) | (values > 255)).any():
            raise ValueError("a label outside 0 .. 255")
        return values.astype(np.uint8)
    return np.frombuffer(bytes(list(labels)), dtype=np.uint8)


class _Inert:
    """Stands in for NumPy's names while unpickling: keeps what the pickle says of an array, and does nothing."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state

    def array(self) -> tuple:
        """Shape, type such as "u1", whether columns come first, and the bytes of a pickled array."""
        _, shape, dtype, fortran_order, content = self.state
        return shape, dtype.type_name(), fortran_order, content

    def type_name(self) -> str:
        """Of a pickled dtype in little-endian order."""
        name, order = self.args[0], self.state[1]
        if order not in (b"|", b"<", "|", "<"):
            raise ValueError("an array in big-endian order")
        return name.decode("latin-1") if isinstance(name, bytes) else name


class _InertBuffer(_Inert):
    """Stands in for `numpy._frombuffer`, with which protocol 5 writes an array: buffer, dtype, shape, order."""

    def array(self) -> tuple:
        content, dtype, shape, order = self.args[:4]
        return shape, dtype.type_name(), order != "C", content


class _ArrayUnpickler(pickle.Unpickler):
    """Admits the names that a pickled array needs, under their old and new module, and runs none of them."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")  # the batches were written by Python 2
        self.encode = _Encode(len(content))

    def find_class(self, module, name):
        if (module == "numpy" and name in ("ndarray", "dtype")) or (module, name) in _RECONSTRUCT:
            return _Inert
        if (module, name) in _FROM_BUFFER:
            return _InertBuffer
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        raise InputError(f"the pickle asks for {f'{module}.{name}'[:80]!r}, not an array")


class _Encode:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes with protocols 0 to 2: str -> bytes."""

    def __init__(self, bytes_left: int):
        self.bytes_left = bytes_left  # never more than the file has, however often a pickle calls

    def __call__(self, text, encoding) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise ValueError("a call of _codecs.encode that makes no bytes")
        self.bytes_left -= len(text)
        if self.bytes_left < 0:
            raise ValueError("more bytes than the file has")
        return text.encode("latin-1")

    def __setstate__(self, state):
        raise ValueError("_codecs.encode has no state")
