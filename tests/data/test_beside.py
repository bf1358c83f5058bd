"""What lies beside the data decides nothing: each reader finds the same rows among hidden, foreign and broken files."""

import gzip
import io
import os
import tarfile
from contextlib import suppress
from dataclasses import replace

import pytest
from helpers import image_files
from helpers.data_trees import ARCHIVED, FILES, assert_same, expected, load, options_of, write_tree

from rmaat_np.data import TASKS, load_dataset, text
from rmaat_np.data.sources import locate
from rmaat_np.errors import InputError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="makes symbolic links")
TASKS_OF_FILES = sorted(FILES)


def archive_of(files, first=()):
    """A .tar.gz of the files, with others before them."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in [*first, *files.items()]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def clutter(root, files):
    """What macOS, Windows, a browser and a file manager leave in the folders of a data set, and above them."""
    folders = {root} | {parent for name in files for parent in (root / name).parents if root in parent.parents}
    for folder in folders:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "README.txt", "notes.md", "9_9 copy.txt", "0 copy.npy"):
            (folder / name).write_bytes(b"\xff\x00junk")
        for name in [name for name in os.listdir(folder) if not name.startswith(".")]:
            (folder / f"._{name}").write_bytes(b"\x00\x05\x16\x07")
        (folder / "._empty.txt").mkdir()
        (folder / "gone").symlink_to("nowhere")
        (folder / "circle").symlink_to("circle")
        with suppress(OSError):  # macOS admits UTF-8 only
            (folder / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    broken = {
        "lra_release.tar.gz": b"<!DOCTYPE html>404",
        "empty.tar.gz": b"",
        "cut.tar.gz": b"\x1f\x8b",
    }
    for name, content in broken.items():
        (root / name).write_bytes(content)
    (root / "other.tar.gz").write_bytes(archive_of({"other/file": b"1"}))
    (root / "a folder.tar.gz").mkdir()
    (root / "circle.tar.gz").symlink_to("circle.tar.gz")
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "pipe.tar.gz")


@pytest.mark.parametrize("task", TASKS_OF_FILES)
def test_clutter_in_every_folder(task, tmp_path):
    root = write_tree(tmp_path / "data", FILES[task])
    clutter(root, FILES[task])
    assert_same(load(task, root), expected(task))
    assert TASKS[task].found({"difficulty": "hard"}, root)


@pytest.mark.parametrize("task", ARCHIVED)
def test_clutter_around_an_archive(task, tmp_path):
    (tmp_path / "the data.tar.gz").write_bytes(archive_of(FILES[task]))
    (tmp_path / "._the data.tar.gz").write_bytes(archive_of(FILES[task]))  # whole, as a hidden copy may be
    clutter(tmp_path, {})
    assert_same(load(task, tmp_path), expected(task))


@pytest.mark.parametrize("task", ARCHIVED)
def test_archives_that_do_not_begin_with_their_folder(task, tmp_path):
    top = next(iter(FILES[task])).split("/")[0]
    for i, first in enumerate((f"./._{top}", "README.md", f"{top}/._x", "._README", "other/LICENSE")):
        packed = archive_of({f"./{name}": data for name, data in FILES[task].items()}, first=[(first, b"\xff")])
        write_tree(tmp_path / str(i), {"data.tar.gz": packed})
        assert_same(load(task, tmp_path / str(i)), expected(task))


@pytest.mark.parametrize("task", ARCHIVED)
def test_a_folder_of_that_name_without_its_files(task, tmp_path):
    top = next(iter(FILES[task])).split("/")[0]
    (tmp_path / top).mkdir()
    (tmp_path / "weights.tar.gz").write_bytes(archive_of({f"{top}/weights.bin": b"1"}))
    (tmp_path / "z.tar.gz").write_bytes(archive_of(FILES[task]))
    assert_same(load(task, tmp_path), expected(task))


@pytest.mark.parametrize("task", ARCHIVED)
def test_what_cannot_be_opened_is_named_only_if_nothing_fits(task, tmp_path):
    (tmp_path / "lra_release.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"lra_release\.tar\.gz: not a complete \.tar\.gz: it is a page of HTML"):
        load(task, tmp_path)
    write_tree(tmp_path, FILES[task])
    assert_same(load(task, tmp_path), expected(task))


@pytest.mark.parametrize("task", TASKS_OF_FILES)
def test_folders_that_are_links(task, tmp_path):
    root = write_tree(tmp_path / "data", FILES[task])
    folders = {parent for name in FILES[task] for parent in (root / name).parents if root in parent.parents}
    for i, folder in enumerate(sorted(folders, key=lambda folder: -len(folder.parts))):  # the deepest first
        folder.rename(tmp_path / f"moved {i}")
        folder.symlink_to(tmp_path / f"moved {i}")
    assert_same(load(task, root), expected(task))


@pytest.mark.parametrize("task", TASKS_OF_FILES)
def test_folders_that_cannot_be_opened_are_named(task, tmp_path):
    """Or a split would silently be smaller. A link that leads to itself is closed to root, too."""
    names = {parent.as_posix() for name in FILES[task] for parent in (tmp_path / name).relative_to(tmp_path).parents}
    for i, name in enumerate(sorted(names - {"."})):
        root = write_tree(tmp_path / str(i), FILES[task])
        (root / name).rename(tmp_path / f"moved {i}")
        (root / name).symlink_to((root / name).name)
        with pytest.raises(InputError) as error:
            load(task, root)
        assert "[Errno" not in str(error.value)
        if "/" in name or task in ("listops", "retrieval"):  # a data set's own folder may be another of that name
            assert str(root / name) in str(error.value) and "cannot be read" in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
@pytest.mark.parametrize("task", TASKS_OF_FILES)
def test_folders_without_permission_are_named(task, tmp_path):
    root = write_tree(tmp_path, FILES[task])
    folder = (root / next(iter(FILES[task]))).parent
    folder.chmod(0)
    try:
        with pytest.raises(InputError, match="Permission denied.*make it readable"):
            load(task, root)
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("task", ARCHIVED)
def test_a_half_extracted_folder_loses_to_the_archive(task, tmp_path, capsys):
    half = dict(list(FILES[task].items())[: len(FILES[task]) // 2])
    root = write_tree(tmp_path, half | {"data.tar.gz": archive_of(FILES[task])})
    assert_same(load(task, root), expected(task))
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"only {len(half)} of" in line and "data.tar.gz is read" in line
    assert TASKS[task].found({}, root) == [root / "data.tar.gz"]
    write_tree(tmp_path, FILES[task])  # now it has as much
    assert_same(load(task, root), expected(task))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("task", ARCHIVED)
def test_a_half_extracted_folder_stays_if_the_archive_is_broken(task, tmp_path):
    root = write_tree(tmp_path, FILES[task] | {"data.tar.gz": archive_of(FILES[task])[:-9]})
    assert_same(load(task, root), expected(task))


@pytest.mark.parametrize("task", ["listops", "retrieval", "pathfinder"])
def test_a_half_extracted_folder_loses_to_a_whole_one(task, tmp_path):
    root = write_tree(tmp_path / "lra_release", FILES[task])
    if task == "pathfinder":
        root.joinpath("curv_contour_length_14").rename(tmp_path / "moved")
        root.joinpath("pathfinder32").mkdir()
        (tmp_path / "moved").rename(root / "pathfinder32" / "curv_contour_length_14")
        (tmp_path / "curv_contour_length_14" / "imgs").mkdir(parents=True)
    else:
        name = next(iter(FILES[task]))
        write_tree(tmp_path, {name: FILES[task][name]})
    assert_same(load(task, tmp_path), expected(task))


def test_the_whole_of_two_versions_is_read(tmp_path):
    root = write_tree(tmp_path, dict(list(image_files.tree("py").items())[:4]) | image_files.tree("bin"))
    assert_same(load("image", root), expected("image"))


def test_binary_batches_in_the_pickles_folder_are_foreign(tmp_path):
    """The .bin would otherwise take the place of the pickle of the same name."""
    other = {
        name.replace("-bin/", "-py/"): data
        for name, data in image_files.tree("bin", None).items()
        if name.endswith("1.bin")
    }
    assert len(other) == 1
    name, data = other.popitem()
    root = write_tree(tmp_path, FILES["image"] | {name: bytes(len(data))})
    assert_same(load("image", root), expected("image"))


@pytest.mark.parametrize("task", [task for task in TASKS_OF_FILES if TASKS[task].rows])
def test_counts_that_are_not_the_whole_data_sets_are_said(task, tmp_path, capsys):
    root = write_tree(tmp_path, FILES[task])
    options = options_of(task)
    for _ in range(2):  # read, then taken from the stored arrays
        dataset = load_dataset(task, options, root)
        out, err = capsys.readouterr()
        train, whole = len(dataset.train), TASKS[task].rows[0]
        assert out == "" and err.count("\n") == 1
        assert f"not the whole data set of task {task}: {train:,} of {whole:,} train, " in err


@pytest.mark.parametrize("task", TASKS_OF_FILES)
def test_of_a_whole_data_set_nothing_is_said(task, tmp_path, capsys, monkeypatch):
    root, here = write_tree(tmp_path, FILES[task]), expected(task)
    rows = (len(here.train), len(here.val), len(here.test))
    monkeypatch.setitem(TASKS, task, replace(TASKS[task], rows=rows))
    load_dataset(task, options_of(task), root)
    assert capsys.readouterr() == ("", "")


def test_drawn_data_is_whole_by_definition(tmp_path, capsys):
    load_dataset("pathfinder", {"source": "generated", "difficulty": "easy", "images": 20}, tmp_path)
    load_dataset("recall", {"length": 8, "class_within": 8}, tmp_path)
    assert capsys.readouterr() == ("", "")


def test_damage_behind_the_first_folder_is_still_found(tmp_path):
    whole = gzip.decompress(archive_of(FILES["text"]))
    (tmp_path / "data.tar.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(InputError, match=r"data\.tar\.gz: not a complete \.tar\.gz"):
        load("text", tmp_path)


def test_a_broken_archive_beside_an_incomplete_folder_is_named(tmp_path):
    """Before, the user was told to download again what lies there."""
    reviews = {name: content for name, content in FILES["text"].items() if "/test/" not in name}
    root = write_tree(tmp_path, reviews)
    (root / "aclImdb_v1.tar.gz").write_bytes(b"\x1f\x8b\x08\0broken")
    told = []
    locate(root, text.LAYOUT, told.append)
    assert len(told) == 1 and "aclImdb_v1.tar.gz" in told[0]
