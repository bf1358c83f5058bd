"""CIFAR-10 reader: the four layouts give the same tokens, and no pickle gets to run anything."""

import os
import pickle
import struct

import numpy as np
import pytest
from helpers.image_files import binary, images, python2_pickle, tree, write_archive, write_folder

from rmaat_np.data import image
from rmaat_np.data.cifar_pickle import read_batch
from rmaat_np.errors import InputError


def load_with(root, name, content, kind="py"):
    """Load a data set in which one file is replaced; returns the error's message."""
    write_folder(root, tree(kind) | {f"cifar-10-batches-{kind}/{name}": content})
    with pytest.raises(InputError) as error:
        image.load(root)
    assert not list(root.rglob("*.np*"))  # nothing stored of what was read before the fault
    message = str(error.value)
    assert "\n" not in message and f"cifar-10-batches-{kind}/{name}: " in message
    return message


def test_tokens_labels_and_splits(tmp_path):
    data = image.load(write_folder(tmp_path, tree("py")))
    assert [len(split) for split in (data.train, data.val, data.test)] == [9, 1, 2]
    assert (data.vocab_size, data.num_classes, data.max_length, data.pair) == (257, 10, 1024, False)
    pixels, labels = images(6)
    luma = pixels.reshape(2, 3, 1024).astype(float).transpose(0, 2, 1) @ [0.299, 0.587, 0.114]
    tokens, batch_labels = data.test.batch([0, 1])
    assert np.abs(tokens - 1 - luma).max() < 0.5 + 1e-9
    np.testing.assert_array_equal(batch_labels, labels)
    assert data.test.tokens.dtype == np.uint16
    held, kept = data.val.sequence(0).tolist(), [data.train.sequence(i).tolist() for i in range(9)]
    everything = [row.tolist() for i in range(1, 6) for row in image.grey(images(i)[0]) + np.uint16(1)]
    assert sorted([held, *kept]) == sorted(everything)


def test_grey_is_itu_r_601_rounded_half_up():
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 0, 1), (0, 0, 250)]
    pixels = np.repeat(np.array(colours, np.uint8), 1024, axis=1)
    assert image.grey(pixels)[:, 0].tolist() == [0, 255, 76, 150, 29, 0, 29]  # 28.5 becomes 29
    assert (image.grey(pixels) == image.grey(pixels)[:, :1]).all()


def test_all_layouts_give_the_same_dataset(tmp_path):
    write_folder(tmp_path / "a", tree("py") | {"cifar-10-batches-py/batches.meta": b"junk"})
    write_folder(tmp_path / "b", tree("bin"))
    (tmp_path / "c").mkdir()
    write_archive(tmp_path / "c" / "cifar-10-python.tar.gz", tree("py"))
    tar = write_archive(tmp_path / "cifar-10-binary.tar.gz", dict(reversed(tree("bin").items())))
    places = (tmp_path / "a", tmp_path / "a/cifar-10-batches-py", tmp_path / "b", tmp_path / "c", tar)
    first, *others = map(image.load, places)
    for other in others:
        for name in ("train", "val", "test"):
            for field in ("tokens", "labels", "offsets"):
                a, b = getattr(getattr(first, name), field), getattr(getattr(other, name), field)
                np.testing.assert_array_equal(a, b)
    assert sorted(os.listdir(tmp_path / "c")) == [".rmaat_cache", "cifar-10-python.tar.gz"]  # nothing unpacked


def test_second_load_comes_from_the_store(tmp_path, monkeypatch):
    write_archive(tmp_path / "cifar-10-python.tar.gz", tree("py"))
    first = image.load(tmp_path)
    monkeypatch.setattr(image, "read_images", None)
    np.testing.assert_array_equal(image.load(tmp_path).train.tokens, first.train.tokens)


@pytest.mark.parametrize("listed", [True, False], ids=["labels a list", "labels an array"])
@pytest.mark.parametrize("keys", [bytes, str])
@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_numpy_1_and_2(protocol, keys, listed):
    """Every protocol of Python 3, of which 3.14 writes 5 by default."""
    pixels, labels = images(0)
    saved = {"data": pixels, "labels": labels.tolist() if listed else labels, "filenames": ["a.png", "b.png"]}
    content = pickle.dumps({name if keys is str else name.encode(): value for name, value in saved.items()}, protocol)
    assert b"numpy._core." in content
    for module in (b"numpy.core.", b"numpy._core."):  # NumPy 1's name, and NumPy 2's
        named = content if protocol > 3 else content.replace(b"numpy._core.", module)
        for found, expected in zip(read_batch(named), (pixels, labels), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_other_batches_are_named():
    pixels, labels = images(0)
    for batch, message in (
        ({b"data": pixels, b"fine_labels": labels.tolist()}, "a batch of CIFAR-100, not of CIFAR-10"),
        ({b"data": pixels, b"labels": labels.astype(">i8")}, "an array in big-endian order"),
        ({b"data": pixels, b"labels": labels.astype(float)}, "labels are an array of f8 with 1 axes"),
        ({b"data": pixels, b"labels": labels + 256}, "a label outside 0 .. 255"),
        ({b"data": pixels, b"labels": list(labels)}, "asks for 'numpy._core.multiarray.scalar', not an array"),
    ):
        with pytest.raises(InputError, match=message):
            read_batch(pickle.dumps(batch, 4))


def test_bytes_are_made_once():
    """Of a string that is in the file once, a pickle could ask for bytes a million times."""
    encode = b"\x80\x02c_codecs\nencode\n"
    text = b"X\x00\x10\x00\x00" + b"x" * 4096 + b"q\x01X\x06\x00\x00\x00latin1q\x02\x86R"
    with pytest.raises(InputError, match="more bytes than the file has"):
        read_batch(encode + b"q\x00" + text + b"h\x00h\x01h\x02\x86R" * 50 + b".")
    for calls in (b"K\x05X\x06\x00\x00\x00latin1\x86R", b"X\x01\x00\x00\x00xX\x05\x00\x00\x00utf-8\x86R", b"}b"):
        with pytest.raises(InputError, match="_codecs.encode"):
            read_batch(encode + calls + b".")


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["bare", "in the data"])
def test_pickle_that_runs_something_is_refused(tmp_path, protocol, kind):
    marker = tmp_path / "ran"
    call = Call(os.mkdir, str(marker))
    evil = pickle.dumps(call if kind == "bare" else {b"data": call, b"labels": [0]}, protocol)
    message = load_with(tmp_path, "data_batch_3", evil)
    assert not marker.exists()
    assert f"asks for '{os.mkdir.__module__}.mkdir'" in message


@pytest.mark.parametrize(
    "name", [b"builtins\neval", b"numpy\nload", b"numpy\nfromfile", b"numpy.core.multiarray\nfromfile", b"os\nsystem"]
)
def test_other_names_of_numpy_are_refused(name):
    with pytest.raises(InputError, match=f"^the pickle asks for '{name.decode().replace(chr(10), '.')}'"):
        read_batch(b"\x80\x02c" + name + b"\nK\x00\x85R.")


def test_arrays_of_other_shape_or_type(tmp_path):
    pixels, _ = images(1)

    def dump(data, labels=(3, 5)):
        return pickle.dumps({b"data": data, b"labels": labels}, 4)

    for data in (
        pixels[:, :-1].copy(),
        pixels.astype(np.uint16),
        pixels.astype(np.int8),
        pixels[..., None],
        pixels.astype(object),
        pixels.reshape(2, 3, 1024),
        np.asfortranarray(pixels),
        pixels.tolist(),
        None,
    ):
        assert "damaged, or no CIFAR-10 batch" in load_with(tmp_path, "data_batch_2", dump(data))
    for bad in ([0, -1], [0, 256], [0, 1.0], [0, None], 2, None):
        assert "damaged, or no CIFAR-10 batch" in load_with(tmp_path, "test_batch", dump(pixels, bad))
    assert "image 2 has label 10, expected 0 to 9" in load_with(tmp_path, "test_batch", dump(pixels, [0, 10]))
    assert "2 images but 1 labels" in load_with(tmp_path, "test_batch", dump(pixels, [0]))
    assert "0 images but 0 labels" in load_with(tmp_path, "test_batch", dump(pixels[:0], []))
    assert "KeyError" in load_with(tmp_path, "test_batch", pickle.dumps({b"data": pixels}, 4))


@pytest.mark.parametrize("cut", [0, 1, 30, 60, 120, 3000, -1])
def test_truncated_pickle(tmp_path, cut):
    assert "damaged, or no CIFAR-10 batch" in load_with(tmp_path, "data_batch_5", python2_pickle(*images(5))[:cut])


def test_shape_that_promises_more_than_there_is():
    content = python2_pickle(*images(0)).replace(struct.pack("<i", 3072) + b"\x86", struct.pack("<i", 3071) + b"\x86")
    with pytest.raises(InputError, match="damaged, or no CIFAR-10 batch"):
        read_batch(content)
    content = python2_pickle(*images(0)).replace(b"J\x02\x00\x00\x00J", b"J\x00\x00\x00\x7fJ")
    with pytest.raises(InputError, match="cannot reshape array"):
        read_batch(content)


def test_random_damage_gives_input_errors_only():
    whole = python2_pickle(*images(0))
    header = len(whole) - 2 * 3072
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        content = bytearray(whole)
        for at in rng.integers(0, header, 3):
            content[at] = rng.integers(256)
        try:
            read_batch(bytes(content))
        except InputError:
            refused += 1
    assert refused > 1500


def test_damaged_binary_version(tmp_path):
    whole = binary(*images(2))
    assert "6145 bytes are no whole number of 3,073-byte" in load_with(tmp_path, "data_batch_2.bin", whole[:-1], "bin")
    assert "0 bytes are no whole number" in load_with(tmp_path, "data_batch_2.bin", b"", "bin")
    bad = b"\x00" + whole[1:3073] + b"\x0b" + whole[3074:]
    assert "image 2 has label 11, expected 0 to 9" in load_with(tmp_path, "data_batch_2.bin", bad, "bin")


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="neither a folder cifar-10-batches-py or cifar-10-batches-bin here") as error:
        image.load(tmp_path)
    assert "get cifar-10-python.tar.gz from" in str(error.value)
    write_folder(tmp_path, tree("bin"))
    (tmp_path / "cifar-10-batches-bin/data_batch_4.bin").unlink()
    with pytest.raises(InputError, match="cifar-10-batches-bin: data_batch_4 is missing"):
        image.load(tmp_path)


def test_images_are_never_cut(tmp_path):
    write_folder(tmp_path, tree("py"))
    with pytest.raises(InputError, match="max_length 1000: an image has 1024 tokens"):
        image.load(tmp_path, max_length=1000)
    assert image.load(tmp_path, max_length=2048).max_length == 1024


def test_decode_draws_the_picture():
    picture = image.decode(np.repeat([1, 128, 256], [512, 480, 32])).split("\n")
    assert picture == [" " * 32] * 16 + ["=" * 32] * 15 + ["@" * 32]
