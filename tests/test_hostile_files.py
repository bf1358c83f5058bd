"""Every reader and checkpoints, on files made to do harm: one line of error or good data, and nothing else happens.

Property-based (hypothesis): random bytes, truncations, flipped, inserted and repeated bytes, inside archives too. An
audit hook sees what Python does meanwhile: nothing may be executed, and nothing written outside the test's folder.
"""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import test_data_image
import test_data_pathfinder
import test_data_text
from test_train import start

from rmaat_np import train
from rmaat_np.checkpoint import FORMAT, load_checkpoint, read_npz
from rmaat_np.data import archive, image, listops, pathfinder, recall, retrieval, text
from rmaat_np.data.cache import cached_split
from rmaat_np.data.dataset import Dataset, make_split
from rmaat_np.errors import InputError
from rmaat_np.settings import describe

hypothesis = pytest.importorskip("hypothesis")
pytest.importorskip("PIL")
from hypothesis import Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

MIB = 2**20
NO_SHRINKING = (Phase.explicit, Phase.generate)  # it takes minutes, and the bytes of the first failure say enough
bounded = settings(max_examples=40, derandomize=True, deadline=None, database=None, phases=NO_SHRINKING)
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
watched = {"folder": None, "seen": []}


def audit(event, arguments):
    """Note what leaves the folder. Audit hooks stay for good, so this one rests while no folder is watched."""
    folder = watched["folder"]
    if folder is None:
        return
    if event in EXECUTES:
        watched["seen"].append((event, str(arguments)[:200]))
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in CHANGES) and not str(arguments[0]).startswith(str(folder)):
        watched["seen"].append((event, str(arguments)[:200]))


sys.addaudithook(audit)


@contextmanager
def nothing_else(folder):
    """Within it nothing is executed, and nothing written but below the folder."""
    watched.update(folder=folder, seen=[])
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        watched["folder"], sys.dont_write_bytecode = None, before
    assert watched["seen"] == []


def test_the_audit_sees_harm(tmp_path):
    for harm in (lambda: os.mkdir(tmp_path / "outside"), lambda: open(tmp_path / "out", "w").close()):
        with pytest.raises(AssertionError), nothing_else(tmp_path / "inside"):
            harm()
    with pytest.raises(AssertionError), nothing_else(tmp_path):
        os.system("true")


def read_or_refused(load, folder, allowed=Dataset):
    """The result of load(), which may be of that type; or None for an InputError of one printable line."""
    tracemalloc.start()
    try:
        with nothing_else(folder):
            result = load()
        assert isinstance(result, allowed)
        return result
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 1500
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * MIB, "the files have a few kB"


@st.composite
def damaged(draw, content: bytes):
    """The content, wrong in one of the ways that disks, networks and people know."""
    kind = draw(st.sampled_from(["noise", "cut", "flip", "insert", "repeat", "number"]))
    place = draw(st.integers(0, len(content) - 1))
    end = min(len(content), place + draw(st.integers(1, 64)))
    if kind == "noise":
        return content[: draw(st.integers(0, 16))] + draw(st.binary(max_size=300))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 8))):
            changed[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if kind == "number":  # what a length or a count is read from
        number = draw(st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"99999999", b"-1", b"\x00" * 8]))
        return content[:place] + number + content[place + len(number) :]
    inserted = draw(st.binary(max_size=40)) if kind == "insert" else content[place:end] * draw(st.integers(2, 50))
    return content[:place] + inserted + content[place:]


def changed_tree(draw, files: dict) -> dict:
    """One or two of the files damaged."""
    for name in draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2, unique=True)):
        files = files | {name: draw(damaged(files[name]))}
    return files


def write_tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


EXPRESSIONS = b"Source\tTarget\r\n( ( [MAX 1 ) 2 ) ]\t2\r\n7\t7\n7\t7\n"
LISTOPS = {f"basic_{name}.tsv": EXPRESSIONS for name in listops.SPLITS}
PAIRS = {f"new_aan_pairs.{name}.tsv": b"1.0\ta\tb\tone\ttwo\n0.0\tc\td\tthree\tfour\n" for name in retrieval.SPLITS}


def release() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        test_data_pathfinder.write_release(root, "U")
        (root / test_data_pathfinder.pathfinder.FOLDERS["hard"] / "metadata" / "1.npy").write_bytes(
            "\n".join(map(test_data_pathfinder.row, range(10, 20))).encode()
        )
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*") if path.is_file()}


TREES = {
    "listops": (listops.load, LISTOPS),
    "text": (text.load, test_data_text.REVIEWS),
    "retrieval": (retrieval.load, PAIRS),
    "image, pickles": (image.load, test_data_image.tree("py")),
    "image, pickles of Python 3": (
        image.load,
        test_data_image.tree("py", lambda pixels, labels: pickle.dumps({b"data": pixels, b"labels": labels.tolist()})),
    ),
    "image, binary": (image.load, test_data_image.tree("bin")),
    "pathfinder": (pathfinder.load, release()),
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
    test_data_text.write_archive(root / "a.tar.gz", test_data_text.REVIEWS, [member])
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
        list(text.read_files(tmp_path / "a.tar.gz", text.REVIEW))


@pytest.mark.parametrize("place", ["aclImdb/train/pos/pipe_9.txt", "cifar-10-batches-bin/test_batch.bin"])
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
    whole = packed(test_data_text.REVIEWS)
    for content, limit in ((header + bytes(6 * MIB), "4 MiB"), (whole + bytes(99 * MIB), "8 MiB")):
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content, 1))
        tracemalloc.start()
        with pytest.raises(InputError, match=limit):
            text.load(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 32 * MIB


def small_memory(code: str, *arguments) -> str:
    """Run Python with at most 400 MiB of address space above what it needs to start. -> stdout"""
    limit = (
        "import resource; used = int(open('/proc/self/statm').read().split()[0]) * 4096;"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)\n"
    )
    prepare = "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
    prepare += "from rmaat_np.errors import InputError\nfrom rmaat_np import train\n"
    prepare += "from rmaat_np.data import image, pathfinder, text\n"
    command = [sys.executable, "-c", prepare + limit + code, str(Path(train.__file__).parents[1]), *map(str, arguments)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


REFUSED = """
for path in sys.argv[2:]:
    try:
        {call}
        print("read", path)
    except InputError as error:
        print(error)
"""


def npy_header(descr, shape) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def test_npz_bombs(tmp_path):
    """A member that deflates 1000 to 1, members that overlap, and headers that promise what is not there."""
    meta = npy_header("<U2", ()) + "{}".encode("utf-32-le")
    zeros = npy_header("<f4", (150 * MIB,)) + bytes(600 * MIB)
    with zipfile.ZipFile(tmp_path / "deflated.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("meta.npy", meta)
        file.writestr("params/x.npy", zeros)
    del zeros
    block = npy_header("<f4", (5 * MIB,)) + bytes(20 * MIB)
    with zipfile.ZipFile(tmp_path / "overlap.npz", "w") as file:
        file.writestr("meta.npy", meta)
        file.writestr("params/x.npy", block)
        for i in range(200):  # directory entries of one and the same member
            twin = zipfile.ZipInfo(f"params/x{i}.npy")
            first = file.getinfo("params/x.npy")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            file.filelist.append(twin)
    for name, shape in (("huge", (10**15,)), ("large", (10**9,)), ("negative", (-5,))):
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as file:
            file.writestr("meta.npy", meta)
            file.writestr("params/x.npy", npy_header("<f4", shape) + bytes(100))
    paths = sorted(tmp_path.glob("*.npz"))
    lines = small_memory(REFUSED.format(call="train.load_run(path)"), *paths).splitlines()
    assert len(lines) == len(paths) and not any(line.startswith("read") for line in lines)
    by_name = {path.stem: line for path, line in zip(paths, lines, strict=True)}
    assert "at most the file's own size is read" in by_name["deflated"]
    assert "at most the file's own size is read" in by_name["overlap"]


def test_bombs_in_the_readers_files(tmp_path):
    """A pickle's memo index of 4 billion; a table of a billion empty rows; a PNG of zeros."""
    good = test_data_image.python2_pickle(*test_data_image.images(1))
    assert good.startswith(b"\x80\x02}")
    files = test_data_image.tree("py")
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
        test_data_pathfinder.write_release(folder)
        header = npy_header("<U1", (1,)).replace(b"'<U1'", repr(descr).encode()).replace(b"(1,)", repr(shape).encode())
        length = len(header) - 10
        content = header[:8] + struct.pack("<H", length) + header[10:]
        (folder / pathfinder.FOLDERS["hard"] / "metadata" / "0.npy").write_bytes(content)
    paths = sorted((tmp_path / "pathfinder").iterdir())
    lines = small_memory(REFUSED.format(call="pathfinder.load(Path(path))"), *paths).splitlines()
    assert len(lines) == len(tables) and all("neither lines of text nor a NumPy table" in line for line in lines)


# checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of a checkpoint, and its meta."""
    folder = tmp_path_factory.mktemp("hostile")
    run = start(folder / "run", recall.load(8, 16, rows=(8, 8, 8)))
    run.save("last.npz")
    path = folder / "run" / "last.npz"
    return path.read_bytes(), read_npz(path)


def test_damaged_checkpoints(checkpoint):
    """Refused, or every bit is as it was."""
    content, arrays = checkpoint
    outcomes = []

    @bounded
    @given(damaged(content))
    def check(data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "last.npz"
            path.write_bytes(data)
            run = read_or_refused(lambda: train.load_run(path), folder, train.Run)
        outcomes.append(run is None)
        if run is not None:
            assert all(run.params[name].tobytes() == arrays[f"params/{name}"].tobytes() for name in run.params)

    check()
    assert sum(outcomes) > len(outcomes) // 2


names = st.sampled_from(["params/head.bias", "params/embed.token", "m/head.bias", "v/x", "x", "../x", "params/../../x"])
dtypes = st.sampled_from(["<f4", ">f4", "<f2", "<f8", "<i4", "|b1", "<c8", "<U3", "|S4", "<M8[s]", "|V4", "|O"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def test_wrong_shapes_dtypes_and_names(checkpoint):
    content, good = checkpoint

    @bounded
    @given(names, dtypes, st.lists(st.integers(0, 30), max_size=3))
    def check(name, dtype, shape):
        array = np.array([{}], dtype=object) if dtype == "|O" else np.zeros(shape, dtype)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "last.npz"
            np.savez(path, **good | {name: array})
            run = read_or_refused(lambda: train.load_run(path), folder, train.Run)
        fits = name in good and array.shape == good[name].shape and array.dtype == good[name].dtype
        assert (run is not None) == fits

    check()


def test_any_json_as_meta(checkpoint):
    """One value of the settings, the configuration or the progress is replaced, or the whole text."""
    _, good = checkpoint
    meta = json.loads(good["meta"].item())
    refused = []

    @bounded
    @given(st.data())
    def check(data):
        changed = json.loads(json.dumps(meta))
        inner, key = changed, data.draw(st.sampled_from(sorted(changed)))
        while isinstance(inner[key], dict) and inner[key] and data.draw(st.integers(0, 3)):
            inner, key = inner[key], data.draw(st.sampled_from(sorted(inner[key])))
        inner[data.draw(st.sampled_from([key, key, key, "new\n\x1b[31m"]))] = data.draw(json_values)
        text = data.draw(st.sampled_from([json.dumps(changed)] * 9 + ["[" * 10_000, "1" * 10_000, '{"format": 1}']))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "last.npz"
            np.savez(path, **good | {"meta": np.array(text)})
            run = read_or_refused(lambda: train.load_run(path), folder, train.Run)
        refused.append(run is None)
        if run is not None:
            describe(run.settings)

    check()
    assert sum(refused) > len(refused) // 3


@pytest.mark.parametrize(
    "version", [0, FORMAT - 1, FORMAT + 1, FORMAT + 0.5, "two\nlines", None, [1], "9" * 99], ids=str
)
def test_other_format_versions(tmp_path, checkpoint, version):
    """Older, newer, and nonsense: which one it is, which one is read, and what to do."""
    _, good = checkpoint
    meta = json.loads(good["meta"].item()) | {"format": version}
    np.savez(tmp_path / "c.npz", **good | {"meta": np.array(json.dumps(meta))})
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path / "c.npz")
    message = str(error.value)
    assert message.isprintable() and len(message) < 400
    assert f"has checkpoint format {version!r:.40}, this program reads {FORMAT}; use the version that" in message


# the cache


def test_damaged_caches_are_made_anew():
    """The rows are always the reader's."""
    split = make_split([[1, 2], [3], [4, 5, 6]] * 5, np.arange(15) % 2)
    with tempfile.TemporaryDirectory() as folder:
        cached_split([], folder, "v1", lambda: split)
        (path,) = Path(folder).iterdir()
        name, content, arrays = path.name, path.read_bytes(), read_npz(path)

    @bounded
    @given(st.data())
    def check(data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            if data.draw(st.booleans()):
                path.write_bytes(data.draw(damaged(content)))
            else:
                key = data.draw(st.sampled_from(["tokens", "offsets", "labels", "documents"]))
                shape = data.draw(st.lists(st.integers(0, 20), max_size=2))
                array = np.zeros(shape, data.draw(dtypes.filter("|O".__ne__)))
                np.savez(path, **arrays | {key: array})
            with nothing_else(folder):
                back = cached_split([], folder, "v1", lambda: split)
        for field in ("offsets", "labels"):
            np.testing.assert_array_equal(getattr(back, field), getattr(split, field))

    check()


def test_messages_show_terminal_codes_escaped():
    assert str(InputError("a\x1b[31m\nb\u202e\udcff é")) == "a\\x1b[31m\\nb\\u202e\\udcff é"
