"""Files that are something else than their name says: what they are is said, with a command that mends them."""

import gzip
import io
import os
import re
import shutil
import subprocess
import tarfile
import zipfile

import pytest
from helpers.data_trees import FILES, assert_same, expected, load, write_tree

from rmaat_np.data import lookalike, text
from rmaat_np.errors import InputError

TEXTUAL = ("listops", "retrieval", "text", "pathfinder")


def tar_of(files, mode="w"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def zip_of(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def utf16(data):
    return data.decode("utf-8").encode("utf-16")


DISGUISES = {  # what a message calls it: how the content of a file becomes it
    "is compressed with gzip": lambda name, data: gzip.compress(data),
    "is a tar archive": lambda name, data: tar_of({name: data}),
    "is a .tar.gz archive": lambda name, data: tar_of({name: data}, "w:gz"),
    "is a zip archive": lambda name, data: zip_of({name: data}),
    "is text in UTF-16": lambda name, data: utf16(data),
    "is text in UTF-16, ": lambda name, data: data.decode("utf-8").encode("utf-16-le"),
    "begins with a byte order mark": lambda name, data: b"\xef\xbb\xbf" + data,
}


def named_file(task):
    """The file to disguise: one that is text, where the task has such."""
    return {"pathfinder": "curv_contour_length_14/metadata/1.npy", "text": "aclImdb/train/pos/3_9.txt"}.get(
        task, next(iter(FILES[task]))
    )


def command_in(message):
    return re.search(r"(?:unpack|convert|remove) it: (.*?)(?:;|$)", message)[1]


needs_links = pytest.mark.skipif(os.name == "nt", reason="makes symbolic links")


def run(command):
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=60)


def cases():
    for task in sorted(FILES):
        for what in DISGUISES:
            if task == "image" and ("UTF" in what or "byte order" in what):
                continue  # no text at all
            if task in ("text", "own") and "byte order" in what:
                continue  # part of the review, for LRA reads raw bytes; in one's own files it is passed over
            yield pytest.param(task, what, id=f"{task}: {what}")


@pytest.mark.parametrize(("task", "what"), [*cases()])
def test_the_command_in_the_message_mends_the_file(task, what, tmp_path):
    name = named_file(task)
    path = write_tree(tmp_path / "the data's", FILES[task]) / name
    path.write_bytes(DISGUISES[what](path.name, FILES[task][name]))
    with pytest.raises(InputError) as error:
        load(task, tmp_path / "the data's")
    message = str(error.value)
    assert message.startswith(f"{path}: {what.rstrip(', ')}; ") and "\n" not in message
    command = command_in(message)
    if shutil.which("iconv") and shutil.which("unzip"):  # a system of Unix's kind
        run(command)
        assert_same(load(task, tmp_path / "the data's"), expected(task))


@pytest.mark.parametrize("name", ["lra_release", "lra_release.gz", "lra_release.tar.gz", "lra_release.zip"])
@pytest.mark.parametrize("task", ["listops", "retrieval", "pathfinder"])
def test_a_release_that_is_still_packed(task, name, tmp_path):
    """LRA's lra_release.gz gunzips to a tar without an ending, which stands where its own folder must go."""
    inner = {
        f"lra_release/{'pathfinder32/' * (task == 'pathfinder')}{file}": data for file, data in FILES[task].items()
    }
    pack = {"lra_release": tar_of, "lra_release.zip": zip_of}.get(name, lambda files: tar_of(files, "w:gz"))
    write_tree(tmp_path, {name: pack(inner)})
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(InputError) as error:
            load(task, place)
        assert " archive; unpack it: " in str(error.value) and "\n" not in str(error.value)
    if shutil.which("iconv") and shutil.which("unzip"):
        run(command_in(str(error.value)))
        assert_same(load(task, tmp_path), expected(task))


@pytest.mark.parametrize(("task", "name"), [("text", "aclImdb_v1.tar"), ("image", "cifar-10-python.tar")])
def test_an_archive_that_a_browser_gunzipped(task, name, tmp_path):
    write_tree(tmp_path, {name: tar_of(FILES[task])})
    with pytest.raises(InputError, match=f"{name} is a tar archive; unpack it: tar -xf") as error:
        load(task, tmp_path)
    if shutil.which("iconv"):
        run(command_in(str(error.value)))
        assert_same(load(task, tmp_path), expected(task))


@pytest.mark.parametrize("task", ["listops", "retrieval"])
def test_one_file_that_is_still_packed(task, tmp_path):
    name = sorted(FILES[task])[-1]
    root = write_tree(tmp_path, FILES[task])
    (root / name).unlink()
    (root / f"{name}.gz").write_bytes(gzip.compress(FILES[task][name]))
    with pytest.raises(InputError, match="missing beside the others; .* is compressed with gzip; unpack it: gunzip"):
        load(task, root)


@pytest.mark.parametrize("task", ["listops", "retrieval", "pathfinder"])
def test_pages_and_pointers(task, tmp_path):
    path = write_tree(tmp_path, FILES[task]) / named_file(task)
    for content, what in (
        (b"\n<!DOCTYPE HTML>..", "is a page of HTML"),
        (b"version https://git-lfs.x", "Git LFS; fetch"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path}: .*{what}"):
            load(task, tmp_path)


def test_reviews_are_taken_as_they_are(tmp_path):
    """What a review may begin with is data: a byte order mark, HTML, words that hold a tar's magic."""
    reviews = {
        "1_9.txt": b"\xef\xbb\xbffine",
        "2_9.txt": b"<html>fine",
        "3_9.txt": b"m" * 256 + b"ustard and BZh",
        "4_9.txt": b"BZh",
    }
    for name, content in reviews.items():
        text._check_review(content, name)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"", None),
        (b"Source\tTarget\r\n", None),
        (b"\x1f\x8bnot really", "gzip"),
        (b"PK\x05\x06", "zip"),
        (b"\x00" * 512, None),
    ],
)
def test_kinds(start, kind):
    assert lookalike.kind_of(start) == kind


# rows


@pytest.mark.parametrize("end", [b"\n", b"\r\n\r\n", b" \n\n", b"\n\t\n  "])
@pytest.mark.parametrize("task", ["listops", "retrieval", "pathfinder"])
def test_blank_lines_at_the_end_are_no_rows(task, end, tmp_path):
    name = named_file(task)
    root = write_tree(tmp_path, FILES[task] | {name: FILES[task][name].rstrip(b"\n") + b"\n" + end})
    assert_same(load(task, root), expected(task))


def test_a_wrong_header_is_shown(tmp_path):
    name = named_file("listops")
    for line in (b"source\ttarget", b"Source,Target", b"Source Target", b"Source\tTarget\textra"):
        root = write_tree(tmp_path, FILES["listops"] | {name: line + b"\n7\t7\n"})
        with pytest.raises(InputError) as error:
            load("listops", root)
        assert f"line 1 is not the header Source<tab>Target, but {line!r}" in str(error.value)


# reasons without a number


@needs_links
@pytest.mark.parametrize("task", sorted(FILES))
def test_folders_that_cannot_be_looked_into(task, tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "circle", tmp_path / "file", tmp_path / ("x" * 5000), tmp_path / "absent"):
        with pytest.raises(InputError) as error:
            load(task, place)
        assert "[Errno" not in str(error.value) and ";" in str(error.value) and place.name[:50] in str(error.value)
    assert "there is no such folder" in str(error.value)


@needs_links
@pytest.mark.parametrize("task", sorted(FILES))
def test_files_whose_links_lead_nowhere(task, tmp_path):
    path = write_tree(tmp_path, FILES[task]) / named_file(task)
    for target in (path.name, "nowhere"):
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(InputError, match=re.escape(path.name)) as error:
            load(task, tmp_path)
        assert "[Errno" not in str(error.value) and ";" in str(error.value)
