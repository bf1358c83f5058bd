"""Checkpoints: what is saved comes back bit for bit, damaged files are refused, and no write can lose the old one."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from helpers.runs import disk_full_after

from rmaat_np.config import Config
from rmaat_np.errors import InputError
from rmaat_np.optim import adamw_init
from rmaat_np.params import init_params
from rmaat_np.system.files import write_atomically
from rmaat_np.training import checkpoint
from rmaat_np.training.checkpoint import FORMAT, check_checkpoint, load_checkpoint, save_checkpoint

CFG = Config(vocab_size=5, num_classes=2, d_model=4, num_heads=2, num_layers=1, d_ff=3, segment_length=3, num_memory=2)
META = {"settings": {"lr": 0.1, "name": "Zoë"}, "progress": {"step": 7, "seconds": 1 / 3}, "big": 2**70}


def contents(seed=0, dtype="float32"):
    """Parameters and an AdamW state that is not zero."""
    params = init_params(CFG, seed, dtype)
    state = adamw_init(params)
    for moment, values in state.items():
        for name in values:
            values[name] = np.sqrt(np.abs(params[name])) if moment == "v" else params[name] / 3
    return params, state


def same(left: dict, right: dict) -> bool:
    """Equal names, dtypes and bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


@pytest.fixture
def saved(tmp_path):
    """A good checkpoint."""
    path = tmp_path / "last.npz"
    save_checkpoint(path, *contents(), META)
    return path


def refusal(path, load=load_checkpoint) -> str:
    """The message that refuses a file, known to be one line that names it."""
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def write_npz(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    return path


def meta_array(**changes):
    return np.array(json.dumps({"format": FORMAT} | changes))


# round trip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_is_bit_for_bit(tmp_path, dtype):
    params, state = contents(dtype=dtype)
    params["memory.init"][0, :3] = [np.nan, -0.0, np.finfo(dtype).smallest_subnormal]
    save_checkpoint(tmp_path / "c.npz", params, state, META)
    back, back_state, meta = load_checkpoint(tmp_path / "c.npz")
    assert same(params, back) and state.keys() == back_state.keys()
    assert all(same(state[moment], back_state[moment]) for moment in state)
    assert meta == META | {"format": FORMAT}
    check_checkpoint(tmp_path / "c.npz", back, back_state, CFG, dtype)


def test_saving_changes_nothing(tmp_path):
    params, state = contents()
    meta = dict(META)
    save_checkpoint(tmp_path / "c.npz", params, state, meta)
    assert same(params, contents()[0]) and meta == META and list(state) == ["m", "v"]


def test_file_holds_the_documented_arrays_and_no_pickle(saved):
    params, _ = contents()
    with np.load(saved, allow_pickle=False) as file:
        expected = {"meta"} | {f"{group}/{name}" for group in ("params", "m", "v") for name in params}
        assert set(file.files) == expected
        assert not any(file[name].dtype.hasobject for name in file.files)


def test_saving_replaces_the_old_file(saved):
    save_checkpoint(saved, *contents(seed=1), {"progress": 2})
    params, _, meta = load_checkpoint(saved)
    assert same(params, contents(seed=1)[0]) and meta["progress"] == 2
    assert os.listdir(saved.parent) == ["last.npz"]


# damaged and foreign files


def test_missing_file(tmp_path):
    assert "no such checkpoint" in refusal(tmp_path / "nothing.npz")
    assert "no such checkpoint" in refusal(tmp_path / "no_folder" / "last.npz")


def test_folder(tmp_path):
    assert "not a readable checkpoint" in refusal(tmp_path)


def test_truncated_anywhere(saved):
    whole = saved.read_bytes()
    for size in {*range(0, len(whole), 97), 1, 3, 4, 21, 22, len(whole) - 22, len(whole) - 1}:
        saved.write_bytes(whole[:size])
        assert "not a readable checkpoint" in refusal(saved)


def test_flipped_bytes_are_found_or_harmless(saved):
    """zip guards every array by a checksum, and the configuration says which arrays there must be."""
    whole, rng = saved.read_bytes(), np.random.default_rng(0)
    good, refused = load_checkpoint(saved), 0
    for place in rng.choice(len(whole), 200, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        saved.write_bytes(damaged)
        try:
            params, state, meta = load_checkpoint(saved)
            check_checkpoint(saved, params, state, CFG, "float32")
        except InputError as error:
            assert str(saved) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert same(params, good[0]) and all(same(state[k], good[1][k]) for k in "mv") and meta == good[2]
    assert refused > 100


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\x01\x00", b"\x80\x04"])
def test_random_bytes(tmp_path, start):
    rng, path = np.random.default_rng(1), tmp_path / "noise.npz"
    for size in (0, 1, 18, 22, 100, 5000):
        path.write_bytes(start + rng.bytes(size))
        refusal(path)


def test_version_of_another_program(saved):
    params, state = contents()
    arrays = {f"params/{name}": array for name, array in params.items()}
    message = refusal(write_npz(saved, meta=meta_array(format=FORMAT + 1), **arrays))
    assert f"format {FORMAT + 1}" in message and f"reads {FORMAT}" in message


@pytest.mark.parametrize(
    "meta",
    [None, "", "not JSON", "[1]", "7", "{}", "[" * 100_000, np.zeros(3)],
    ids=["none", "empty", "text", "list", "number", "no version", "deep", "array"],
)
def test_foreign_npz(tmp_path, meta):
    arrays = {"x": np.ones(3)} | ({} if meta is None else {"meta": np.asarray(meta)})
    assert "no checkpoint of this program" in refusal(write_npz(tmp_path / "foreign.npz", **arrays))


def test_foreign_npy(tmp_path):
    np.save(tmp_path / "array.npy", np.ones(3))
    assert "not a readable checkpoint" in refusal(tmp_path / "array.npy")


def test_zip_without_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr("readme.txt", "hello")
        file.writestr("meta", json.dumps({"format": FORMAT}))
    refusal(tmp_path / "other.npz")


def test_header_that_asks_for_more_memory_than_there_is(tmp_path):
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file:
        file.writestr("meta.npy", header.getvalue())
    assert "not a readable checkpoint" in refusal(tmp_path / "huge.npz")


@pytest.mark.parametrize("name", ["x", "other/x", "state/m/x"])
def test_arrays_that_do_not_belong(tmp_path, name):
    path = write_npz(tmp_path / "c.npz", meta=meta_array(), **{name: np.ones(2)})
    assert f"{name} does not belong" in refusal(path)


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", "U3", "M8[s]"])
def test_arrays_that_are_not_real_numbers(tmp_path, dtype):
    path = write_npz(tmp_path / "c.npz", meta=meta_array(), **{"params/x": np.zeros(2, dtype)})
    assert "params/x does not belong" in refusal(path)


class Bomb:
    """Unpickling it creates the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_loaded(tmp_path):
    loaded = tmp_path / "loaded"
    bomb = np.array([Bomb(loaded)], dtype=object)
    files = [
        write_npz(tmp_path / "meta.npz", meta=bomb),
        write_npz(tmp_path / "params.npz", meta=meta_array(), **{"params/x": bomb}),
        tmp_path / "bare.npz",
        tmp_path / "array.npz",
    ]
    files[2].write_bytes(pickle.dumps(Bomb(loaded)))
    with open(files[3], "wb") as file:
        np.save(file, bomb)
    for path in files:
        assert "not a readable checkpoint" in refusal(path)
        assert not loaded.exists()
    pickle.loads(files[2].read_bytes())
    assert loaded.exists(), "the pickles are harmless, so this test proves nothing"


# arrays that do not fit the configuration


def checked(path):
    params, state, _ = load_checkpoint(path)
    check_checkpoint(path, params, state, CFG, "float32")


@pytest.mark.parametrize("group", ["params", "m", "v"])
@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4"])
def test_arrays_of_another_type(tmp_path, group, dtype):
    params, state = contents()
    target = {"params": params, **state}[group]
    target["memory.init"] = target["memory.init"].astype(dtype)
    save_checkpoint(tmp_path / "c.npz", params, state, META)
    with pytest.raises(InputError, match=r"c\.npz.*: memory\.init is .*, the run float32; use another one of the run"):
        checked(tmp_path / "c.npz")


@pytest.mark.parametrize("group", ["params", "m", "v"])
@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "transposed"])
def test_arrays_that_do_not_fit(tmp_path, group, change):
    params, state = contents()
    target = {"params": params, **state}[group]
    name = "blocks.0.mlp.in.weight"
    if change == "missing":
        del target[name]
    elif change == "surplus":
        name = "blocks.1.mlp.in.weight"
        target[name] = np.zeros((4, 3), np.float32)
    else:
        target[name] = target[name].T if change == "transposed" else np.zeros((4, 4), np.float32)
    save_checkpoint(tmp_path / "c.npz", params, state, META)
    message = refusal(tmp_path / "c.npz", checked)
    assert name in message
    assert group == "params" or f"({group})" in message
    if change == "transposed":
        assert "(3, 4)" in message and "(4, 3)" in message


def test_state_that_is_not_there(tmp_path):
    save_checkpoint(tmp_path / "c.npz", contents()[0], {}, META)
    assert "(m) lacks parameter" in refusal(tmp_path / "c.npz", checked)


# writing


def assert_kept(path, whole, error):
    """The old file is as it was, nothing lies beside it, and the message names it and a remedy."""
    assert path.read_bytes() == whole
    assert os.listdir(path.parent) == [path.name]
    message = str(error.value)
    assert message.startswith(f"{path}: cannot be written") and "free space" in message and "\n" not in message


@pytest.mark.parametrize("room", [0, 1, 100, 1000, 4000])
def test_full_disk_keeps_the_old_file(saved, room):
    whole = saved.read_bytes()
    assert len(whole) > 2 * room
    with pytest.raises(InputError) as error, disk_full_after(room):
        save_checkpoint(saved, *contents(seed=1), META)
    assert_kept(saved, whole, error)
    assert "File too large" in str(error.value)


def test_full_disk_at_every_stage(saved):
    whole = saved.read_bytes()
    for room in range(0, len(whole), 641):
        with pytest.raises(InputError) as error, disk_full_after(room):
            save_checkpoint(saved, *contents(seed=1), META)
        assert_kept(saved, whole, error)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_system_calls_keep_the_old_file(saved, monkeypatch, call):
    def fail(*_):
        raise OSError(28, "No space left on device")

    whole = saved.read_bytes()
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError) as error:
        save_checkpoint(saved, *contents(seed=1), META)
    assert_kept(saved, whole, error)
    assert "No space left on device" in str(error.value)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupted_writing_keeps_the_old_file(saved, stop):
    def write(file):
        file.write(b"half")
        raise stop

    whole = saved.read_bytes()
    with pytest.raises(stop):
        write_atomically(saved, write)
    assert saved.read_bytes() == whole and os.listdir(saved.parent) == ["last.npz"]


def test_file_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append(os.fstat(number).st_size) or fsync(number))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    write_atomically(tmp_path / "file", lambda file: file.write(b"x" * 123))  # less than a buffer
    assert calls == [123, "replace"]


@pytest.mark.parametrize("name", ["is_a_file/new", "no_folder/new", "n" * 300])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "is_a_file").write_bytes(b"kept")
    with pytest.raises(InputError) as error:
        write_atomically(tmp_path / name, lambda file: file.write(b"x"))
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / "is_a_file").read_bytes() == b"kept" and os.listdir(tmp_path) == ["is_a_file"]


def test_checkpoint_of_another_user(tmp_path, monkeypatch):
    """One line that says what to do, without the system's [Errno 13]."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint, "read_npz", refuse)
    with pytest.raises(InputError) as error:
        checkpoint.load_checkpoint(tmp_path / "c.npz")
    assert str(error.value) == f"{tmp_path / 'c.npz'}: not a readable checkpoint (Permission denied); make it readable"
