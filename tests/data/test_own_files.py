"""Sequences of one's own from files: the same dataset from every format, stored on the disk and mapped."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rmaat_np as rn
from rmaat_np.data.own import files
from rmaat_np.errors import InputError
from rmaat_np.training.inputs import fingerprint

WORDS = {name: [f'{name} "{i}",\t.' + "é\n" * (i % 4) for i in range(20)] for name in ("train", "val", "test")}
LABELS = ["10", "9"] * 10
FORMATS = ("tsv", "csv", "jsonl", "npz")


def write(path, words, labels, names=("label", "text")):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **{names[1]: np.array(words), names[0]: np.array(labels)})
    elif path.suffix == ".jsonl":
        lines = [json.dumps({names[1]: word, names[0]: label}) for word, label in zip(words, labels, strict=True)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([names, *zip(labels, words, strict=True)])


def write_all(folder, suffix, **options):
    for name, words in WORDS.items():
        write(folder / f"{name}.{suffix}", words, LABELS, **options)
    return folder


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_the_same_dataset_as_arrays(tmp_path, suffix):
    write_all(tmp_path, suffix)
    loaded = files.load(tmp_path, {})
    ours = rn.dataset(*((words, LABELS) for words in WORDS.values()))
    assert fingerprint(loaded) == fingerprint(ours) and loaded.codec.to_json() == ours.codec.to_json()
    assert (loaded.sizes, loaded.max_length) == (ours.sizes, ours.max_length)
    assert isinstance(loaded.train.tokens, np.memmap) and not isinstance(ours.train.tokens, np.memmap)


def test_formats_may_be_mixed_and_missing_splits_are_drawn_from_train(tmp_path):
    write(tmp_path / "train.csv", WORDS["train"], LABELS)
    write(tmp_path / "test.jsonl", WORDS["test"], LABELS)
    data = files.load(tmp_path, {})
    assert [len(split) for split in data.splits.values()] == [18, 2, 20]
    assert data.place("test", 0) == f"{tmp_path / 'test.jsonl'}: line 1"
    assert data.place("val", 0).startswith(f"{tmp_path / 'train.csv'}: line ")
    drawn = rn.dataset((WORDS["train"], LABELS), 0.1, (WORDS["test"], LABELS))
    assert fingerprint(drawn) == fingerprint(data)


def test_stored_tokens_are_used_again_and_made_anew_when_a_file_changes(tmp_path, monkeypatch):
    write_all(tmp_path, "tsv")
    first = fingerprint(files.load(tmp_path, {}))
    read, calls = files.read_rows, []
    monkeypatch.setattr(files, "read_rows", lambda *given, **options: calls.append(given) or read(*given, **options))
    assert fingerprint(files.load(tmp_path, {})) == first and not calls
    write(tmp_path / "test.tsv", [*WORDS["test"][:-1], "another"], LABELS)
    assert fingerprint(files.load(tmp_path, {})) != first and len(calls) == 3
    calls.clear()
    files.load(
        tmp_path, {"alphabet": "".join(sorted({c for words in WORDS.values() for w in [*words, "another"] for c in w}))}
    )
    assert len(calls) == 3  # another codec: stored apart
    (tmp_path / ".rmaat_cache").chmod(0o700)
    assert not [path for path in (tmp_path / ".rmaat_cache").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("damage", ["index", "tokens", "emptied"])
def test_a_damaged_store_is_made_anew(tmp_path, damage):
    write_all(tmp_path, "tsv")
    first = fingerprint(files.load(tmp_path, {}))
    (folder,) = (tmp_path / ".rmaat_cache").iterdir()
    if damage == "index":
        (folder / files.INDEX).write_bytes(b"PK\x03\x04 no more")
    elif damage == "tokens":
        os.truncate(folder / "train", 10)
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert fingerprint(files.load(tmp_path, {})) == first


def test_a_place_that_cannot_be_written_costs_the_store_and_nothing_else(tmp_path, capsys):
    write_all(tmp_path, "tsv")
    (tmp_path / "file").write_text("", encoding="utf-8")
    data = files.load(tmp_path, {}, tmp_path / "file")
    assert len(data.train) == 20 and not isinstance(data.train.tokens, np.memmap)
    assert "not stored" in capsys.readouterr().err


def test_a_wrong_row_leaves_nothing_behind(tmp_path):
    write_all(tmp_path, "tsv")
    with open(tmp_path / "test.tsv", "a", encoding="utf-8", newline="") as file:
        file.write("9\t\r\n")
    with pytest.raises(InputError, match=r"test\.tsv: line \d+ is empty; remove it"):
        files.load(tmp_path, {})
    assert [*(tmp_path / ".rmaat_cache").iterdir()] == []


KILLED = """
import os, signal, sys
from rmaat_np.data.own import files
files._write_index = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.load(sys.argv[1], {})
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(tmp_path):
    write_all(tmp_path, "tsv")
    store = tmp_path / ".rmaat_cache"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(rn.__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL
    (left,) = store.iterdir()
    name, _, process = left.name.rpartition(".")
    lives, elsewhere = store / f"{name}.{os.getppid()}", store / f".own-1-abc.not-this-machine.{process}"
    for folder in (lives, elsewhere, store / ".own-1-abc", store / f"{name}.x"):
        folder.mkdir()
    kept = {*store.iterdir()} - {left}
    files.load(tmp_path, {})
    assert {path for path in store.iterdir() if path.name.startswith(".")} == kept


def test_a_file_without_rows_is_named(tmp_path):
    write(tmp_path / "train.csv", [], [])
    with pytest.raises(InputError, match=r"train\.csv: has no rows; write one row a class at least"):
        files.load(tmp_path, {})
    write(tmp_path / "train.csv", WORDS["train"], LABELS)
    write(tmp_path / "val.csv", [], [])
    with pytest.raises(InputError, match=r"val\.csv: has no rows; write one at least, or remove the file"):
        files.load(tmp_path, {})


def test_files_of_two_formats_name_the_same_classes_and_hold_the_same_kind(tmp_path):
    write(tmp_path / "train.csv", WORDS["train"], LABELS)  # "10", "9"
    write(tmp_path / "val.jsonl", WORDS["val"], [*map(int, LABELS)])
    data = files.load(tmp_path, {})
    assert data.codec.classes.tolist() == ["9", "10"] and data.val.labels.tolist() == [1, 0] * 10
    np.savez(tmp_path / "test.npz", text=np.ones((20, 2), int), labels=[10, 9] * 10)
    with pytest.raises(InputError, match=r"test\.npz: row 1 holds token ids, but the rows before hold text"):
        files.load(tmp_path, {})


def test_rows_that_are_equal_since_they_were_cut(tmp_path):
    write(tmp_path / "train.csv", ["same beginning " + word for word in WORDS["train"]], LABELS)
    with pytest.raises(InputError, match="too few to divide, after 20 documents were cut to 4 tokens: a row"):
        files.load(tmp_path, {"cut": True, "max_length": 4})
    write(tmp_path / "train.csv", [str(i) + word for i, word in enumerate(WORDS["train"])], LABELS)
    write(tmp_path / "val.csv", ["0tram", "99"], LABELS[:2])
    with pytest.raises(InputError, match=r"in another split, after \d+ documents were cut to 3 tokens; of 1 such"):
        files.load(tmp_path, {"cut": True, "max_length": 3})


def test_wide_ids_and_pairs_are_stored_in_the_smallest_type(tmp_path):
    tokens = np.arange(1, 161).reshape(20, 2, 4)
    tokens[10:, 1, 3] = 70_000
    np.savez(tmp_path / "train.npz", tokens=tokens, labels=[0, 1] * 10)
    data = files.load(tmp_path, {})
    assert data.sizes == {"vocab_size": 70_001, "num_classes": 2, "pair": True}
    ours = rn.dataset((tokens, [0, 1] * 10), 0.1, 0.1)
    assert fingerprint(ours) == fingerprint(data)


def test_an_alphabet_and_other_columns(tmp_path):
    write(tmp_path / "train.tsv", ["AC" + "GT" * i for i in range(20)], LABELS, names=("family", "sequence"))
    options = {"text_column": "sequence", "label_column": "family", "alphabet": "ACGT"}
    data = files.load(tmp_path, options)
    assert data.vocab_size == 5 and data.codec.decode(data.train.sequence(0)).startswith("AC")
    with pytest.raises(InputError, match="no column 'text'.*--set text_column=NAME"):
        files.load(tmp_path, {})
    with pytest.raises(InputError, match=r"line 3 has 'T' at 4, which the alphabet lacks"):
        files.load(tmp_path, options | {"alphabet": "ACG"})


def test_long_rows_are_cut_only_when_asked_and_then_counted(tmp_path, capsys):
    write(tmp_path / "train.tsv", ["x" * (i + 1) + str(i) for i in range(20)], LABELS)
    whole = files.load(tmp_path, {"cut": False, "max_length": 10})
    assert whole.max_length == 22 and not capsys.readouterr().err
    for _ in range(2):  # read, and from the store
        cut = files.load(tmp_path, {"cut": True, "max_length": 18})
        assert cut.max_length == 18 and "4 documents are longer than 18 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([], "there is no train file; put a train.tsv"),
        (["val.tsv"], "there is no train file"),
        (["train.tsv", "train.csv"], "both train.tsv and train.csv are there; move one of them away"),
    ],
)
def test_which_files_there_are(tmp_path, present, message):
    for name in present:
        write(tmp_path / name, WORDS["train"], LABELS)
    with pytest.raises(InputError, match=message):
        files.load(tmp_path, {})
    with pytest.raises(InputError, match="there is no such folder"):
        files.load(tmp_path / "absent", {})


def test_one_sequence_in_two_files_names_both_lines(tmp_path):
    write(tmp_path / "train.csv", ["a", "b"], ["x", "y"])
    write(tmp_path / "val.csv", ["c", "b"], ["x", "y"])
    write(tmp_path / "test.csv", ["e", "f"], ["x", "y"])
    with pytest.raises(InputError, match=r"val\.csv: line 3 is the same sequence as .*train\.csv: line 3"):
        files.load(tmp_path, {})
