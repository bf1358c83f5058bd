"""Stored splits: made once, out of date when a source changes, never trusted when damaged."""

import io
import os
import sys

import numpy as np
import pytest

from rmaat_np.data.dataset import make_split
from rmaat_np.data.stored import stored_split

SPLIT = make_split([[1, 2, 3], [4], [5, 6], [7]], [1, 0], documents=2)
OTHER = make_split([[9], [9]], [0, 1])


class Reader:
    """Counts how often it is asked, and gives what it is told to."""

    def __init__(self, split):
        self.split, self.calls = split, 0

    def __call__(self):
        self.calls += 1
        return self.split


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.tsv"
    path.write_bytes(b"12345")
    return path


def assert_same(a, b):
    assert a.documents == b.documents
    for name in ("tokens", "offsets", "labels"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def stored(folder):
    (path,) = folder.iterdir()  # and no temporary file beside it
    return path


def test_reads_once(tmp_path, source):
    read = Reader(SPLIT)
    for _ in range(2):
        assert_same(stored_split([source], tmp_path / "a" / "b", "v1", read), SPLIT)
    assert read.calls == 1
    assert stored(tmp_path / "a" / "b").name.startswith("v1-")


def test_without_sources_the_version_is_the_key(tmp_path):
    stored_split([], tmp_path, "seed-0", Reader(SPLIT))
    assert_same(stored_split([], tmp_path, "seed-0", Reader(OTHER)), SPLIT)
    assert_same(stored_split([], tmp_path, "seed-1", Reader(OTHER)), OTHER)


def change_size(source):
    status = source.stat()
    source.write_bytes(b"123456")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_time(source):
    status = source.stat()
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))


@pytest.mark.parametrize("change", [change_size, change_time])
def test_a_changed_source_is_read_again_in_place_of_the_old(tmp_path, source, change):
    store = tmp_path / "store"
    stored_split([source], store, "v1", Reader(SPLIT))
    change(source)
    assert_same(stored_split([source], store, "v1", Reader(OTHER)), OTHER)
    assert_same(stored_split([source], store, "v1", Reader(SPLIT)), OTHER)
    stored(store)


def test_versions_paths_and_lists_of_sources_are_kept_apart(tmp_path, source):
    twin = tmp_path / "twin.tsv"
    twin.write_bytes(source.read_bytes())
    os.utime(twin, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    read = Reader(SPLIT)
    for sources, version in (([source], "v1"), ([source], "v2"), ([twin], "v1"), ([source, twin], "v1"), ([], "v1")):
        stored_split(sources, tmp_path / "store", version, read)
    assert read.calls == 5


def test_a_source_that_changes_while_it_is_read_is_read_again(tmp_path, source):
    def read():
        change_size(source)
        return SPLIT

    stored_split([source], tmp_path / "store", "v1", read)
    assert_same(stored_split([source], tmp_path / "store", "v1", Reader(OTHER)), OTHER)


def test_no_damage_goes_unnoticed(tmp_path):
    stored_split([], tmp_path, "v1", Reader(SPLIT))
    path = stored(tmp_path)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    for place in range(0, len(whole), 7):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        assert_same(stored_split([], tmp_path, "v1", Reader(SPLIT)), SPLIT)


def test_a_long_array_whose_header_names_fewer_elements(tmp_path):
    split = make_split([[5]] * 30_000, np.arange(30_000) % 3)
    stored_split([], tmp_path, "v1", Reader(split))
    path = stored(tmp_path)
    whole = path.read_bytes()
    assert whole.count(b"(30000,)") == 2
    path.write_bytes(whole.replace(b"(30000,)", b"(20000,)"))
    assert_same(stored_split([], tmp_path, "v1", Reader(split)), split)


def test_a_truncated_file_is_made_anew(tmp_path):
    stored_split([], tmp_path, "v1", Reader(SPLIT))
    path = stored(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    read = Reader(SPLIT)
    stored_split([], tmp_path, "v1", read)
    stored_split([], tmp_path, "v1", read)
    assert read.calls == 1 and len(path.read_bytes()) == len(whole)


def test_pickles_are_never_loaded(tmp_path):
    class Mine:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    stored_split([], tmp_path / "store", "v1", Reader(SPLIT))
    path = stored(tmp_path / "store")
    with np.load(path) as arrays:
        hostile = dict(arrays) | {"labels": np.array([Mine(), Mine()])}
    np.savez(path, **hostile)
    assert_same(stored_split([], tmp_path / "store", "v1", Reader(SPLIT)), SPLIT)
    assert not (tmp_path / "harm").exists()


def test_a_folder_that_cannot_be_written_only_warns(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_same(stored_split([], place, "v1", Reader(SPLIT)), SPLIT)
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and str(tmp_path / "file") in err


def test_a_write_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_same(stored_split([], tmp_path / "store", "v1", Reader(SPLIT)), SPLIT)
    assert "No space left on device" in capsys.readouterr().err
    assert not any((tmp_path / "store").iterdir())


@pytest.mark.parametrize("error", [ValueError("Can't close the ZIP file"), RuntimeError("x"), MemoryError()])
def test_whatever_the_write_raises_the_split_is_there(tmp_path, capsys, monkeypatch, error):
    """A full disk, seen through a zip file."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    assert_same(stored_split([], tmp_path / "store", "v1", Reader(SPLIT)), SPLIT)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "not stored" in err and f"({str(error) or 'MemoryError'})" in err
    assert not any((tmp_path / "store").iterdir())


@pytest.mark.parametrize("stderr", [None, "closed", "full"])
def test_a_warning_that_nobody_can_hear_costs_nothing(tmp_path, monkeypatch, capsys, stderr):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("", encoding="utf-8")
    stream = io.StringIO() if stderr else None
    if stderr == "closed":
        stream.close()
    elif stderr == "full":
        stream.write = full
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert_same(stored_split([], tmp_path / "file", "v1", Reader(SPLIT)), SPLIT)
    assert capsys.readouterr().out == ""


def test_a_source_that_is_gone_is_left_to_the_reader(tmp_path):
    (tmp_path / "gone").symlink_to("nowhere")
    for _ in range(2):
        assert_same(stored_split([tmp_path / "gone"], tmp_path / "store", "v1", Reader(SPLIT)), SPLIT)


def test_errors_of_the_reader_pass_and_nothing_is_kept(tmp_path):
    def read():
        raise RuntimeError("bad row")

    with pytest.raises(RuntimeError, match="bad row"):
        stored_split([], tmp_path, "v1", read)
    assert not any(tmp_path.iterdir())
