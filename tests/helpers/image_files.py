"""CIFAR-10 as files, two images a batch."""

import io
import struct
import tarfile

import numpy as np

from rmaat_np.data import image

NAMES = (*image.TRAIN, "test_batch")


def images(batch, count=2):
    rng = np.random.default_rng(batch)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count)


def python2_pickle(pixels, labels):
    """The opcodes that Python 2's cPickle wrote for a batch, protocol 2: byte strings are str there."""

    def string(content):
        return b"T" + struct.pack("<i", len(content)) + content

    def integer(value):
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + string(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string(b"|") + b"NNN" + integer(-1) + integer(-1) + b"K\x00tb"
    shape = b"".join(map(integer, pixels.shape)) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89" + string(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + string(b"labels") + listed + string(b"data") + array + state + b"u."


def binary(pixels, labels):
    return np.column_stack([np.asarray(labels, np.uint8), pixels]).tobytes()


def tree(kind, encode=None):
    """File name -> content of a whole data set, two images a batch."""
    encode, suffix = (encode or python2_pickle, "") if kind == "py" else (binary, ".bin")
    return {f"cifar-10-batches-{kind}/{name}{suffix}": encode(*images(i)) for i, name in enumerate(NAMES, start=1)}


def write_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
