"""Checkpoints and caches made to do harm: refused with one line, or every bit is as it was (hypothesis)."""

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.hostile import MIB, REFUSED, bounded, damaged, nothing_else, npy_header, read_or_refused, small_memory
from helpers.runs import start
from hypothesis import given
from hypothesis import strategies as st

from rmaat_np.data import recall
from rmaat_np.data.dataset import make_split
from rmaat_np.data.stored import stored_split
from rmaat_np.errors import InputError
from rmaat_np.system.files import read_npz
from rmaat_np.training import run as runs
from rmaat_np.training.checkpoint import FORMAT, load_checkpoint
from rmaat_np.training.settings import describe


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
            run = read_or_refused(lambda: runs.load_run(path), folder, runs.Run)
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
            run = read_or_refused(lambda: runs.load_run(path), folder, runs.Run)
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
            run = read_or_refused(lambda: runs.load_run(path), folder, runs.Run)
        refused.append(run is None)
        if run is not None:
            describe(run.settings)

    check()
    assert sum(refused) > len(refused) // 3


@pytest.mark.parametrize(
    "version", [0, FORMAT - 1, FORMAT + 1, FORMAT + 0.5, "two\nlines", None, True, [1], "9" * 99], ids=str
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
    lines = small_memory(REFUSED.format(call="runs.load_run(path)"), *paths).splitlines()
    assert len(lines) == len(paths) and not any(line.startswith("read") for line in lines)
    by_name = {path.stem: line for path, line in zip(paths, lines, strict=True)}
    assert "at most the file's own size is read" in by_name["deflated"]
    assert "at most the file's own size is read" in by_name["overlap"]


# the cache


def test_damaged_caches_are_made_anew():
    """The rows are always the reader's."""
    split = make_split([[1, 2], [3], [4, 5, 6]] * 5, np.arange(15) % 2)
    with tempfile.TemporaryDirectory() as folder:
        stored_split([], folder, "v1", lambda: split)
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
                back = stored_split([], folder, "v1", lambda: split)
        for field in ("offsets", "labels"):
            np.testing.assert_array_equal(getattr(back, field), getattr(split, field))

    check()
