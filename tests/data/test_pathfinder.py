"""Pathfinder reader: both forms of the metadata, every folder layout, and damaged files named with their row."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from helpers.pathfinder_files import COUNT, LABELS, PIXELS, png, row, write_release

from rmaat_np.data import pathfinder
from rmaat_np.errors import InputError


def edit_row(folder, old, new):
    path = folder / "metadata" / "0.npy"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("form", ["text", "U", "S"])  # S: what NumPy under Python 2 wrote
def test_images_and_labels_arrive_in_splits_of_80_10_10(tmp_path, form):
    write_release(tmp_path / "pathfinder32", form)
    data = pathfinder.load(tmp_path)
    assert (data.task, data.vocab_size, data.num_classes, data.max_length) == ("pathfinder", 257, 2, 1024)
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 2, 2]
    found = {}
    for split in (data.train, data.val, data.test):
        assert split.tokens.dtype == np.uint16
        for i in range(len(split)):
            found[split.sequence(i).tobytes()] = split.labels[i]
    wanted = {(PIXELS[i].ravel() + np.uint16(1)).tobytes(): LABELS[i] for i in range(COUNT)}
    assert found == wanted


def test_seed_decides_the_splits(tmp_path):
    write_release(tmp_path / "pathfinder32")
    first, same, other = (pathfinder.load(tmp_path, seed=seed).test.tokens for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("parent", pathfinder.PARENTS)
def test_every_place_that_expected_lists(tmp_path, parent):
    write_release(tmp_path / parent, difficulty="curv_baseline")
    assert len(pathfinder.load(tmp_path, difficulty="easy").train) == 16
    with pytest.raises(InputError, match="no pathfinder32/curv_contour_length_14 here; unpack pathfinder32"):
        pathfinder.load(tmp_path)


def test_decode_draws_the_picture(tmp_path):
    pixels = np.zeros((32, 32), dtype=np.uint16)
    pixels[3, 5] = 255
    lines = pathfinder.decode(pixels.ravel() + 1).splitlines()
    assert len(lines) == 32 and lines[3] == " " * 5 + "@" + " " * 26 and lines[4] == " " * 32
    assert pathfinder.decode(pixels[:8].ravel() + 1).splitlines() == lines[:8]
    for size in (0, 31, 33 * 32):
        with pytest.raises(InputError, match=f"{size} tokens cannot be decoded"):
            pathfinder.decode(np.ones(size, dtype=np.uint16))


def test_empty_images_are_skipped_and_counted(tmp_path, capsys):
    folder = write_release(tmp_path / "pathfinder32")
    for i in (0, 7):
        (folder / "imgs" / "0" / f"sample_{i}.png").write_bytes(b"")
    data = pathfinder.load(tmp_path)
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 1, 1]
    assert capsys.readouterr().err == f"{folder}: skipped 2 empty image file(s) of 20\n"


def test_second_load_reads_the_store_until_an_image_changes(tmp_path, monkeypatch):
    folder = write_release(tmp_path / "pathfinder32")
    first = pathfinder.load(tmp_path, cache_dir=tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(pathfinder, "read_png", lambda *_: pytest.fail("read again"))
        again = pathfinder.load(tmp_path, cache_dir=tmp_path / "store")
    np.testing.assert_array_equal(first.train.tokens, again.train.tokens)
    path = folder / "imgs" / "0" / "sample_0.png"
    path.write_bytes(png(255 - PIXELS[0]))
    changed = pathfinder.load(tmp_path, cache_dir=tmp_path / "store")
    rows = [split.tokens.reshape(-1, 1024) for split in (changed.train, changed.val, changed.test)]
    assert (np.concatenate(rows) == 256 - PIXELS[0].ravel().astype(int)).all(axis=1).sum() == 1


def header_only(width, height):
    """A PNG that announces a size and has next to no data."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0")))
    chunk = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(PIXELS[0])[:200], "is damaged"),
        (png(PIXELS[0])[:60], "is damaged"),
        (png(PIXELS[0])[:20], "is no PNG of 32 x 32"),
        (b"GIF89a" + bytes(100), "is no PNG of 32 x 32"),
        (png(PIXELS[0][:31]), "is no PNG of 32 x 32"),
        (png(PIXELS[0], "RGB"), "is no PNG of 32 x 32 pixels in 8-bit grey"),
        (png(PIXELS[0], "1"), "is no PNG of 32 x 32 pixels in 8-bit grey"),
        (header_only(60_000, 60_000), "is no PNG of 32 x 32"),
        (header_only(32, 32), "is damaged"),
        (png(PIXELS[0]) + bytes(1 << 16), "is no PNG of 32 x 32"),
    ],
    ids=[
        "truncated",
        "header-left",
        "signature-left",
        "gif",
        "31-rows",
        "rgb",
        "1-bit",
        "bomb",
        "no-pixels",
        "too-long",
    ],
)
def test_unusable_images_are_named_with_their_row(tmp_path, content, message):
    folder = write_release(tmp_path / "pathfinder32")
    path = folder / "imgs" / "1" / "sample_2.png"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        pathfinder.load(tmp_path)
    assert str(error.value).startswith(f"{folder / 'metadata' / '1.npy'}: row 3: {path} {message}")
    assert str(error.value).endswith("; restore it or remove the row") and "\n" not in str(error.value)


def test_missing_image_is_named_with_its_row(tmp_path):
    folder = write_release(tmp_path / "pathfinder32")
    path = folder / "imgs" / "0" / "sample_4.png"
    path.unlink()
    with pytest.raises(InputError) as error:
        pathfinder.load(tmp_path)
    assert str(error.value).startswith(f"{folder / 'metadata' / '0.npy'}: row 5: {path} cannot be read")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (row(4), row(4).replace("4 0 1.0", "4 2 1.0").replace("4 1 1.0", "4 2 1.0"), "row 5 has label '2'"),
        (row(4), "imgs/0 sample_4.png 4", "row 5 has 3 fields"),
        (row(4), "", "row 5 has 0 fields"),
        ("imgs/0 sample_4.png", "imgs/.. secret.png", "row 5 names 'imgs/../secret.png'"),
        ("imgs/0 sample_4.png", "imgs/0 ../../../secret.png", "row 5 names"),
        ("imgs/0 sample_4.png", "/etc secret.png", "row 5 names '/etc/secret.png'"),
        ("imgs/0 sample_4.png", "imgs/0 /etc/secret.png", "row 5 names"),
        ("imgs/0 sample_4.png", "imgs/0 ..\\secret.png", "row 5 names"),
        ("imgs/0 sample_4.png", "imgs/0 secret.txt", "row 5 names"),
        ("imgs/0 sample_4.png", "../imgs/0 sample_4.png", "row 5 names"),
    ],
)
def test_unusable_rows_are_named(tmp_path, old, new, message):
    folder = write_release(tmp_path / "pathfinder32")
    (folder / "secret.png").write_bytes(png(PIXELS[0]))
    edit_row(folder, old, new)
    with pytest.raises(InputError) as error:
        pathfinder.load(tmp_path)
    assert str(error.value).startswith(f"{folder / 'metadata' / '0.npy'}: {message}") and "\n" not in str(error.value)


class Bomb:
    """Unpickling this would call pytest.fail."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


def npy_header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<U32", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [np.array([[Bomb()]]), np.zeros((3, 11)), np.array(["a b"]), None, b"", (10**12, 11)]
)
def test_arrays_that_are_no_table_of_text_are_refused(tmp_path, content):
    folder = write_release(tmp_path / "pathfinder32", "U")
    path = folder / "metadata" / "0.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif isinstance(content, tuple):
        path.write_bytes(npy_header(content))
    else:
        path.write_bytes(path.read_bytes()[:200] if content is None else b"\x93NUMPY" + content)
    with pytest.raises(InputError) as error:
        pathfinder.load(tmp_path)
    assert str(error.value).startswith(f"{path}: neither lines of text nor a NumPy table of text")
    assert "array.astype(str)" in str(error.value) and "\n" not in str(error.value)


def test_folders_without_files_and_options_are_named(tmp_path):
    with pytest.raises(InputError, match="difficulty 'extreme' is unknown; choose easy, intermediate, hard"):
        pathfinder.load(tmp_path, difficulty="extreme")
    folder = write_release(tmp_path / "pathfinder32")
    (folder / "metadata" / "1.npy").unlink()
    edit_row(folder, row(0) + "\n", "")
    with pytest.raises(InputError, match="9 images are too few"):
        pathfinder.load(tmp_path)
    (folder / "metadata" / "0.npy").unlink()
    with pytest.raises(InputError, match="metadata: no .npy files; unpack"):
        pathfinder.load(tmp_path)


def test_a_missing_pillow_is_named(tmp_path, monkeypatch):
    write_release(tmp_path / "pathfinder32")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match="needs Pillow"):
        pathfinder.load(tmp_path)
