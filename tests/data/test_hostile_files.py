"""Every reader on files made to do harm: one line of error or good data, and nothing else happens.

Property-based (hypothesis): random bytes, truncations, flipped, inserted and repeated bytes, inside archives too. An
audit hook sees what Python does meanwhile: nothing may be executed, and nothing written outside the test's folder.
"""

import gzip
import io
import os
import pickle
import struct
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from helpers import image_files, needs, pathfinder_files, text_files
from helpers.data_trees import FILES, write_tree
from helpers.hostile import MIB, REFUSED, bounded, damaged, nothing_else, npy_header, read_or_refused, small_memory
from hypothesis import given
from hypothesis import strategies as st

from rmaat_np.data import archive, image, listops, pathfinder, retrieval, sources, text
from rmaat_np.data.dataset import Dataset
from rmaat_np.errors import InputError


def test_the_audit_sees_harm(tmp_path):
    for harm in (lambda: os.mkdir(tmp_path / "outside"), lambda: open(tmp_path / "out", "w", encoding="utf-8").close()):
        with pytest.raises(AssertionError), nothing_else(tmp_path / "inside"):
            harm()
    with pytest.raises(AssertionError), nothing_else(tmp_path):
        os.system("true")


def changed_tree(draw, files: dict) -> dict:
    """One or two of the files damaged."""
    for name in draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2, unique=True)):
        files = files | {name: draw(damaged(files[name]))}
    return files


def saved(protocol):
    """A batch as Python 3 saves it: str keys, and labels as a list or as an array."""

    def encode(pixels, labels):
        return pickle.dumps({"data": pixels, "labels": labels if protocol % 4 else labels.tolist()}, protocol)

    return encode


TREES = {
    "listops": (listops.load, FILES["listops"]),
    "text": (text.load, FILES["text"]),
    "retrieval": (retrieval.load, FILES["retrieval"]),
    "image, pickles": (image.load, FILES["image"]),
    **{
        f"image, pickles of Python 3, protocol {n}": (image.load, image_files.tree("py", saved(n)))
        for n in (0, 2, 4, 5)
    },
    "image, binary": (image.load, image_files.tree("bin")),
    "pathfinder": (pathfinder.load, FILES["pathfinder"]),
}


@pytest.mark.parametrize("case", TREES)
def test_damaged_files(case):
    """At least some are refused, and where a damage cannot be seen, the data has the shape it should have."""
    load, files = TREES[case]
    outcomes = []

    @bounded
    @given(st.data())
    def check(data):
        with tempfile.TemporaryDirectory() as folder:
            root = write_tree(Path(folder), changed_tree(data.draw, files))
            dataset = read_or_refused(lambda: load(root), root)
        outcomes.append(dataset is None)
        if dataset is not None:
            for split in (dataset.train, dataset.val, dataset.test):
                tokens, labels = split.batch(range(len(split)))
                assert 0 <= tokens.min() <= tokens.max() < dataset.vocab_size
                assert 0 <= labels.min() <= labels.max() < dataset.num_classes

    with tempfile.TemporaryDirectory() as folder:  # whole, it is read
        assert isinstance(load(write_tree(Path(folder), files)), Dataset)
    check()
    assert sum(outcomes) > len(outcomes) // 5


def packed(files, mode="w") -> bytes:
    """An uncompressed tar."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode, format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.pax_headers = {"comment": "x" * 10}
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


@pytest.mark.parametrize("outer", [True, False], ids=["the gzip", "the tar in it"])
@pytest.mark.parametrize("case", ["text", "image, pickles", "image, binary"])
def test_damaged_archives(case, outer):
    load, files = TREES[case]
    tar = packed(files)
    outcomes = []

    @bounded
    @given(st.data())
    def check(data):
        content = data.draw(damaged(gzip.compress(tar, 1))) if outer else gzip.compress(data.draw(damaged(tar)), 1)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "data.tar.gz").write_bytes(content)
            outcomes.append(read_or_refused(lambda: load(root), root) is None)

    check()
    assert sum(outcomes) > len(outcomes) // 5


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside", "aclImdb/../../out", "aclImdb/train/pos/../../../../out.txt", "C:\\x\\..\\y"]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_path_tricks_in_archives(tmp_path, name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    root = tmp_path / "root"
    root.mkdir()
    text_files.write_archive(root / "a.tar.gz", text_files.REVIEWS, [member])
    found = read_or_refused(lambda: text.load(root), root)
    assert found is None or (kind == tarfile.REGTYPE and "\\" in name), "harmless here: a plain name on this system"
    assert os.listdir(tmp_path) == ["root"] and set(os.listdir(root)) <= {"a.tar.gz", ".rmaat_cache"}


def test_sparse_members_are_refused(tmp_path):
    """A few bytes that unpack to as much as a header likes to say, without counting as read."""
    sparse = tarfile.TarInfo("aclImdb/train/pos/7_9.txt")
    sparse.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(60 * MIB)}
    sparse.pax_headers |= {"GNU.sparse.map": f"{60 * MIB - 1},1"}
    sparse.size = 1
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sparse, io.BytesIO(b"x"))
    with pytest.raises(InputError, match="is sparse"):
        list(sources.read_files(tmp_path / "a.tar.gz", text.LAYOUT))


@needs.pipes
@pytest.mark.parametrize("place", ["aclImdb/train/pos/77_9.txt", "cifar-10-batches-bin/test_batch.bin"])
def test_pipes_and_devices_are_refused(tmp_path, place):
    """A pipe would wait for ever, /dev/zero would fill the memory."""
    load, case = (text.load, "text") if "aclImdb" in place else (image.load, "image, binary")
    for name, make in {"pipe": os.mkfifo, "device": lambda path: os.symlink("/dev/zero", path)}.items():
        root = write_tree(tmp_path / name, TREES[case][1])
        (root / place).unlink(missing_ok=True)
        make(root / place)
        with pytest.raises(InputError, match="no regular file"):
            load(root)


# decompression bombs: the limit is in the message


def test_gzip_bomb(tmp_path, monkeypatch):
    """Zeros, as one member that says so, and behind the last member. The true limits are 64 MiB and 1 GiB."""
    monkeypatch.setattr(archive, "MAX_ARCHIVE", 8 * MIB)
    monkeypatch.setattr(archive, "MAX_FILE", 4 * MIB)
    member = tarfile.TarInfo("aclImdb/train/pos/7_9.txt")
    member.size = 5 * MIB
    header = member.tobuf()
    whole = packed(text_files.REVIEWS)
    for content, limit in ((header + bytes(6 * MIB), "4 MiB"), (whole + bytes(99 * MIB), "8 MiB")):
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content, 1))
        tracemalloc.start()
        with pytest.raises(InputError, match=limit):
            text.load(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 32 * MIB


def test_bombs_in_the_readers_files(tmp_path):
    """A pickle's memo index of 4 billion; a table of a billion empty rows; a PNG of zeros."""
    good = image_files.python2_pickle(*image_files.images(1))
    assert good.startswith(b"\x80\x02}")
    files = image_files.tree("py")
    files["cifar-10-batches-py/data_batch_1"] = good[:3] + b"r\xff\xff\xff\xfe" + good[3:]
    write_tree(tmp_path / "memo", files)
    for name, opcode in (("bytes", b"\x8e"), ("bytearray", b"\x96"), ("text", b"\x8d")):
        huge = b"\x80\x05" + opcode + struct.pack("<Q", 1 << 40) + b"x"
        write_tree(tmp_path / name, files | {"cifar-10-batches-py/data_batch_1": huge})
    paths = sorted(path for path in tmp_path.iterdir())
    lines = small_memory(REFUSED.format(call="image.load(path)"), *paths).splitlines()
    assert len(lines) == 4 and all("data_batch_1: damaged" in line for line in lines)

    tables = [("|S0", (10**9, 4)), ("<U0", (10**9, 4)), ("<U1", (10**9, 0)), ("<U5", (10**12, 4))]
    for i, (descr, shape) in enumerate(tables):
        folder = tmp_path / "pathfinder" / str(i)
        pathfinder_files.write_release(folder)
        header = npy_header("<U1", (1,)).replace(b"'<U1'", repr(descr).encode()).replace(b"(1,)", repr(shape).encode())
        length = len(header) - 10
        content = header[:8] + struct.pack("<H", length) + header[10:]
        (folder / pathfinder.FOLDERS["hard"] / "metadata" / "0.npy").write_bytes(content)
    paths = sorted((tmp_path / "pathfinder").iterdir())
    lines = small_memory(REFUSED.format(call="pathfinder.load(Path(path))"), *paths).splitlines()
    assert len(lines) == len(tables) and all("neither lines of text nor a NumPy table" in line for line in lines)


def test_messages_show_terminal_codes_escaped():
    assert str(InputError("a\x1b[31m\nb\u202e\udcff é")) == "a\\x1b[31m\\nb\\u202e\\udcff é"
