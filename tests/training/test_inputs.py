"""Data: every split fits the model before the first step, and a run goes on with those that it began with only."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.runs import assert_equal_runs, at_step, start

from rmaat_np.config import Config
from rmaat_np.data import recall
from rmaat_np.data.dataset import Split, make_split
from rmaat_np.data.own.arrays import dataset
from rmaat_np.errors import InputError
from rmaat_np.training import inputs, loop
from rmaat_np.training import run as runs
from rmaat_np.training.checkpoint import load_checkpoint, save_checkpoint

ROW = np.arange(1, 17)


def rows_of(count=20, *, label=0, row=ROW, documents=1):
    """A split whose eighth row is the given one."""
    pieces = [ROW] * 7 * documents + [row] * documents + [ROW] * (count - 8) * documents
    return make_split(pieces, [0] * 7 + [label] + [0] * (count - 8), documents=documents)


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (rows_of(label=10), "row 8 has label 10, expected 0 to 9"),
        (rows_of(label=-1), "row 8 has label -1"),
        (
            rows_of(row=np.arange(1, 18)),
            "row 8 is longer than the model: num_segments * segment_length is 16, which 1 of the 20 rows",
        ),
        (rows_of(row=np.array([1, 27])), "row 8 has a token that is not from 1 to 26"),
        (rows_of(row=np.array([], int)), "row 8 of the "),
        (Split(np.arange(16, dtype=np.uint8), np.array([0, 16]), np.array([0])), "row 1 has a token that is not from"),
        (make_split([], []), "split has no rows"),
        (rows_of(documents=2), "a row has 2 document(s), but the model reads 1"),
    ],
    ids=["label", "negative label", "length", "id", "empty row", "padding", "no rows", "pairs"],
)
def test_a_split_that_does_not_fit_is_refused_before_the_first_step(tmp_path, data, monkeypatch, name, wrong, said):
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail("computed before it was refused"))
    run = start(tmp_path / "run", data)
    with pytest.raises(InputError) as error:
        loop.train(run, replace(data, **{name: wrong}))
    assert said in str(error.value) and str(error.value).startswith(f"recall, {name} split: ")
    assert list(run.folder.iterdir()) == []


def other(data, name):
    """The same, but for one token or one label of a split."""
    split = getattr(data, name)
    tokens, labels = split.tokens.copy(), split.labels.copy()
    tokens[5] = tokens[5] % 26 + 1
    labels[3] = (labels[3] + 1) % 10
    return [
        (replace(data, **{name: Split(tokens, split.offsets, split.labels)}), "checksum"),
        (replace(data, **{name: Split(split.tokens, split.offsets, labels)}), "checksum"),
        (replace(data, **{name: split.take(np.arange(len(split) - 1))}), "rows"),
    ]


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_run_goes_on_with_its_own_data_only(tmp_path, data, whole, monkeypatch, name):
    """A finished one, whose result stays, and one that was stopped."""
    folder = tmp_path / "run"
    stop = []
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        at_step(patch, 7, lambda: stop.append(True))
        loop.train(start(folder, data), data, should_stop=lambda: bool(stop))
    for place in (folder, whole):
        before = {path: path.read_bytes() for path in place.iterdir()}
        for changed, part in other(data, name):
            with pytest.raises(InputError, match=f"began with other data, in the {name} split {part} were .* are "):
                loop.train(runs.load_run(place), changed)
        assert {path: path.read_bytes() for path in place.iterdir()} == before
    loop.train(runs.load_run(folder), recall.load(8, 16, seed=0, rows=(64, 32, 48)))
    assert_equal_runs(folder, whole)


def test_an_older_checkpoint_goes_on_with_any_data(tmp_path, data, whole):
    """It tells of none; from then on it does."""
    params, state, meta = load_checkpoint(whole / "last.npz")
    assert meta["data"] == inputs.fingerprint(data) == runs.load_run(whole / "best.npz").data
    for name in ("last.npz", "best.npz"):
        params, state, meta = load_checkpoint(whole / name)
        del meta["data"], meta["format"]
        (tmp_path / "run").mkdir(exist_ok=True)
        save_checkpoint(tmp_path / "run" / name, params, state, meta)
    run = runs.load_run(tmp_path / "run")
    assert run.data == {} and "data" not in run.record()
    loop.train(run, data)
    assert run.data == inputs.fingerprint(data)


PART = {"rows": 1, "tokens": 2, "checksum": 3}


@pytest.mark.parametrize(
    "record",
    [None, [], "x", {"train": PART}, dict.fromkeys(("train", "val", "test")),
     dict.fromkeys(("train", "val", "test"), PART | {"rows": "1"}),
     dict.fromkeys(("train", "val", "test"), {"rows": 1})],
    ids=json.dumps,
)  # fmt: skip
def test_a_checkpoint_that_tells_nonsense_of_its_data(tmp_path, whole, record):
    params, state, meta = load_checkpoint(whole / "last.npz")
    save_checkpoint(tmp_path / "c.npz", params, state, meta | {"data": record})
    with pytest.raises(InputError, match="c.npz: its settings are not readable .*data"):
        runs.load_run(tmp_path / "c.npz")


def test_ids_below_those_that_the_model_knows_are_fine_and_others_are_refused():
    X, y = [[1, 2], [5, 3, 1], [2, 2], [4, 5]], [0, 1, 0, 1]
    known = dataset((X, y), 0.25, 0.25)
    cfg = Config(**known.sizes, segment_length=4, num_segments=1)
    fewer = dataset(([[1], [2, 1], [2], [1, 1]], y), 0.25, 0.25)
    inputs.check_codec(known.codec, fewer, "run")
    inputs.check_dataset(fewer, cfg)
    more = dataset(([*X[:3], [7]], y), ([[6]], [0]), ([[3]], [1]))
    with pytest.raises(InputError, match="run: began with vocab_size 6, but the data have 8; "):
        inputs.check_codec(known.codec, more, "run")
    with pytest.raises(InputError, match=r"train X\[3\] has a token that is not from 1 to 5; "):
        inputs.check_dataset(more, cfg)
    for other in (dataset((["a", "b", "c", "d"], y), 0.25, 0.25), dataset((X, [0, 2, 0, 2]), 0.25, 0.25)):
        with pytest.raises(InputError, match="run: began with "):
            inputs.check_codec(known.codec, other, "run")


def test_a_fingerprint_is_the_same_on_every_machine():
    split = make_split([[1, 2, 3], [4]], [0, 1])
    expected = {"rows": 2, "tokens": 4, "checksum": 1696587907}
    assert inputs._of_split(split) == expected
    swapped = Split(split.tokens, split.offsets, split.labels)
    object.__setattr__(swapped, "labels", split.labels.astype(">i8"))
    assert inputs._of_split(swapped) == expected
