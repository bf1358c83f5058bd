"""IMDb reader and the archive reading under it: same rows from folder and .tar.gz, one clear line for each fault."""

import gzip
import os
import tarfile

import numpy as np
import pytest
from helpers.text_files import IGNORED, REVIEWS, write_archive

from rmaat_np.data import archive, text
from rmaat_np.data.dataset import hold_out
from rmaat_np.errors import InputError


def write_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def rows(split):
    return [(text.decode(split.sequence(i)), int(split.labels[i])) for i in range(len(split))]


def assert_same(a, b):
    for name in ("train", "val", "test"):
        for field in ("tokens", "offsets", "labels"):
            np.testing.assert_array_equal(getattr(getattr(a, name), field), getattr(getattr(b, name), field))


def test_rows_labels_and_tokens(tmp_path):
    data = text.load(write_folder(tmp_path, REVIEWS | IGNORED))
    # by label, then by file name: "0_1" < "10_1" < "2_1"
    assert rows(data.test) == [("No.", 0), ("\x00 never\n", 0), ("no", 0), ("yes", 1)]
    np.testing.assert_array_equal(data.test.sequence(1), np.frombuffer(b"\x00 never\n", np.uint8) + 1)
    assert data.train.tokens.dtype == np.uint8
    assert (data.task, data.vocab_size, data.num_classes, data.max_length, data.pair) == ("text", 257, 2, 4000, False)
    tokens, labels = data.test.batch([3, 0])
    assert tokens.tolist() == [[b + 1 for b in b"yes"], [b + 1 for b in b"No."]] and labels.tolist() == [1, 0]


def test_a_tenth_of_train_is_held_out(tmp_path):
    write_folder(tmp_path, REVIEWS)
    data, again, other = (text.load(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert (len(data.train), len(data.val)) == (18, 2)
    everything = {(content.decode(), int("/pos/" in name)) for name, content in REVIEWS.items() if "train" in name}
    assert set(rows(data.train)) | set(rows(data.val)) == everything
    assert_same(data, again)
    assert rows(other.val) != rows(data.val)


def test_folder_and_archive_give_the_same_rows(tmp_path):
    folder = write_folder(tmp_path / "a", REVIEWS | IGNORED)
    shuffled = dict(reversed((REVIEWS | IGNORED).items()))
    (tmp_path / "b").mkdir()
    tar = write_archive(tmp_path / "b" / "any name.tar.gz", {f"./{name}": body for name, body in shuffled.items()})
    write_archive(tmp_path / "b" / "another.tar.gz", {"something/else": b""})
    expected = text.load(folder)
    for place in (folder / "aclImdb", tar, tmp_path / "b"):
        assert_same(expected, text.load(place))
    # nothing was unpacked
    assert sorted(os.listdir(tmp_path / "b")) == [".rmaat_cache", "another.tar.gz", "any name.tar.gz"]


def test_second_load_comes_from_the_store(tmp_path, monkeypatch):
    first = text.load(write_folder(tmp_path / "data", REVIEWS), cache_dir=tmp_path / "store")
    monkeypatch.setattr(text, "read_reviews", None)
    assert_same(first, text.load(tmp_path / "data", cache_dir=tmp_path / "store"))
    assert os.listdir(tmp_path / "data") == ["aclImdb"]


def test_reads_again_after_a_review_changed(tmp_path):
    write_folder(tmp_path, REVIEWS)
    assert rows(text.load(tmp_path).test)[3] == ("yes", 1)
    (tmp_path / "aclImdb/test/pos/0_10.txt").write_bytes(b"changed")
    assert rows(text.load(tmp_path).test)[3] == ("changed", 1)


def test_cut_at_max_length_inside_a_character(tmp_path):
    data = text.load(write_folder(tmp_path, REVIEWS), max_length=4)
    assert data.max_length == data.train.lengths().max() == 4
    assert {row for row, label in rows(data.train) if label} == {"caf\ufffd"}
    assert text.load(tmp_path).train.lengths().max() == len(
        "caf\u00e9, fine 1".encode()
    )  # not the arrays stored for the other


def test_decode_drops_padding():
    assert text.decode(np.array([105, 106, 0, 0], dtype=np.int32)) == "hi"


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "the text is empty"), (b"ok \xe9", "byte 4 of the text is not UTF-8")]
)
@pytest.mark.parametrize("write", ["folder", "archive"])
def test_bad_review_is_named(tmp_path, content, message, write):
    files = REVIEWS | {"aclImdb/test/pos/7_8.txt": content}
    source = write_folder(tmp_path, files) if write == "folder" else write_archive(tmp_path / "x.tar.gz", files)
    with pytest.raises(InputError, match=rf"aclImdb/test/pos/7_8\.txt: {message}"):
        text.load(source)
    assert not list(tmp_path.rglob("*.np*"))  # nothing stored of the half that was fine


@pytest.mark.parametrize("missing", ["train/neg", "test/pos"])
def test_missing_folder_is_named(tmp_path, missing):
    files = {name: body for name, body in REVIEWS.items() if missing not in name}
    with pytest.raises(InputError, match=f"no reviews in aclImdb/{missing}; get aclImdb_v1.tar.gz"):
        text.load(write_folder(tmp_path, files))


@pytest.mark.parametrize("place", [".", "absent"])
def test_missing_data_set_says_where_to_get_it(tmp_path, place):
    with pytest.raises(InputError, match="neither a folder aclImdb here nor a .tar.gz of one; get aclImdb_v1") as error:
        text.load(tmp_path / place)
    assert "\n" not in str(error.value)
    assert "aclImdb_v1.tar.gz" in text.EXPECTED


def test_one_training_row_cannot_be_divided(tmp_path):
    row = text.byte_split(bytearray(b"a"), [1], [0])
    with pytest.raises(InputError, match="here: one training row is too few"):
        hold_out(row, 0, "here")


def test_two_archives_are_ambiguous(tmp_path):
    for name in ("a.tar.gz", "b.tar.gz"):
        write_archive(tmp_path / name, REVIEWS)
    with pytest.raises(InputError, match=r"both a\.tar\.gz and b\.tar\.gz fit"):
        text.load(tmp_path)


def hostile(kind):
    member = tarfile.TarInfo("aclImdb/train/pos/evil.txt")
    if kind in ("symlink", "hard link"):
        member.type, member.linkname = (tarfile.SYMTYPE if kind == "symlink" else tarfile.LNKTYPE), "/etc/passwd"
    elif kind == "device":
        member.type = tarfile.CHRTYPE
    else:
        member.name = {"absolute": "/aclImdb/train/pos/evil.txt", "parent": "aclImdb/../../evil.txt"}[kind]
    return member


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("symlink", "is a link or a device"),
        ("hard link", "is a link or a device"),
        ("device", "is a link or a device"),
        ("absolute", "points outside the archive"),
        ("parent", "points outside the archive"),
    ],
)
def test_unsafe_member_is_refused(tmp_path, kind, fault):
    member = hostile(kind)
    path = write_archive(tmp_path / "evil.tar.gz", REVIEWS, [member])
    with pytest.raises(InputError, match=rf"evil\.tar\.gz: member '{member.name}' {fault}"):
        text.load(tmp_path)
    assert os.listdir(tmp_path) == [path.name]


def test_size_limits(tmp_path, monkeypatch):
    write_archive(tmp_path / "big.tar.gz", REVIEWS | {"aclImdb/big": bytes(3 << 20)})
    monkeypatch.setattr(archive, "MAX_FILE", 2 << 20)
    with pytest.raises(InputError, match="member 'aclImdb/big' is larger than 2 MiB"):
        text.load(tmp_path)
    monkeypatch.setattr(archive, "MAX_FILE", 4 << 20)
    monkeypatch.setattr(archive, "MAX_ARCHIVE", 2 << 20)
    with pytest.raises(InputError, match=r"big\.tar\.gz: unpacks to more than 2 MiB"):
        text.load(tmp_path)
    write_folder(tmp_path, REVIEWS | {"aclImdb/train/pos/5_5.txt": b"a" * (5 << 20)})
    with pytest.raises(InputError, match=r"5_5\.txt: larger than 4 MiB"):
        text.load(tmp_path)


def test_bomb_in_a_header_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE", 2 << 20)
    header = tarfile.TarInfo("aclImdb/x")
    header.type, header.size = tarfile.XHDTYPE, (8 << 30) - 1
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(8 << 20))
    with pytest.raises(InputError, match=r"bomb\.tar\.gz: unpacks to more than 2 MiB"):
        text.load(tmp_path / "bomb.tar.gz")


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.5, 0.999])
def test_truncated_archive(tmp_path, cut):
    path = write_archive(tmp_path / "cut.tar.gz", REVIEWS | {"aclImdb/noise": np.random.default_rng(0).bytes(100_000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(InputError, match=r"cut\.tar\.gz: not a complete \.tar\.gz"):
        text.load(path)


def lengthen(whole):
    return gzip.compress(gzip.decompress(whole) + bytes(4 << 20))  # the tar ends well before the gzip stream


DAMAGES = {
    "no archive": lambda whole: b"this is no archive",
    "beginning": lambda whole: whole[:20] + b"\xff" * 20 + whole[40:],
    "past the tar": lambda whole: lengthen(whole) + gzip.compress(b"")[:10] + b"\xff" * 20,
    "checksum": lambda whole: lengthen(whole)[:-8] + b"\x00" * 4 + lengthen(whole)[-4:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_archive(tmp_path, damage):
    path = write_archive(tmp_path / "x.tar.gz", REVIEWS)
    path.write_bytes(damage(path.read_bytes()))
    for place in (path, tmp_path):
        with pytest.raises(InputError, match=r"x\.tar\.gz: not a complete \.tar\.gz"):
            text.load(place)
