"""--check-data: what was found, or what is missing."""

import os
import re

import pytest
from helpers.data_trees import FILES, expected, options_of, write_tree

import run_lra
from rmaat_np.data import listops, listops_generator, load_dataset, report, tasks
from rmaat_np.data.own.arrays import dataset
from rmaat_np.errors import InputError


def test_generated_listops_are_described_and_evaluated(tmp_path, capsys):
    assert run_lra.main(["--check-data", "--data-dir", str(tmp_path), "--set", "train_rows=50"]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path) in out and "train: 50 rows" in out and "val: 1,000 rows" in out and "evaluated again" in out
    assert "generated, no files are needed" in out and "  found " not in out
    shares = [line for line in out.splitlines() if "class shares" in line]
    assert len(shares) == 3 and all(len(line.split()) == 12 for line in shares)
    assert "train row 1, label" in out and "[M" in out


def test_drawn_data_need_no_files_even_where_an_option_is_wrong(tmp_path, capsys):
    words = ["--check-data", "--task", "pathfinder", "--set", "source=generated", "--set", "height=8"]
    assert run_lra.main([*words, "--data-dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "set contour_length to one of these" in err and "expected" not in err


def write_listops(tmp_path, val_target):
    """Three one-row files, -> their paths."""
    (tmp_path / "listops-1000").mkdir()
    files = [tmp_path / "listops-1000" / f"basic_{split}.tsv" for split in listops.SPLITS]
    for file in files:
        listops.write_tsv(file, [listops.encode("[MAX 1 2 ]")], [val_target if "val" in file.name else 2])
    return files


def test_generated_files_are_not_taken_for_lras_nor_the_reverse(tmp_path, monkeypatch, capsys):
    original = listops_generator.generate_lra
    monkeypatch.setattr(
        listops_generator, "generate_lra", lambda folder: original(folder, rows=(30, 6, 5), progress=False)
    )
    drawn = ["--check-data", "--preset", "small", "--set", "source=generated", "--data-dir", str(tmp_path)]
    assert run_lra.main(drawn) == 0
    assert "train: 30 rows" in capsys.readouterr().out
    assert run_lra.main(["--check-data", "--preset", "small", "--data-dir", str(tmp_path)]) == 2
    assert "no basic_train.tsv" in capsys.readouterr().err
    write_listops(tmp_path, val_target=2)
    assert run_lra.main(drawn) == 0
    out = capsys.readouterr().out
    assert "train: 30 rows" in out and f"  found {tmp_path / 'generated' / 'listops-1000' / 'basic_val.tsv'}" in out


def test_the_files_found_are_named_and_their_rows_shown(tmp_path, capsys):
    files = write_listops(tmp_path, val_target=2)
    assert run_lra.main(["--check-data", "--preset", "small", "--data-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("  found ")] == [f"  found {file}" for file in files]
    assert "test: 1 rows; lengths 4 4 4 4 4" in out and "train row 1, label 2:\n    [MAX 1 2 ]" in out


def test_folders_found_are_named(tmp_path):
    for task, name in (("text", "aclImdb"), ("image", "cifar-10-batches-py"), ("pathfinder", "curv_baseline")):
        (tmp_path / name).mkdir()
        assert tasks.TASKS[task].found({"difficulty": "easy"}, tmp_path) == [tmp_path / name]


def test_a_dataset_is_loaded_by_names_too(tmp_path):
    root = write_tree(tmp_path, FILES["text"])
    assert len(load_dataset("text", {}, str(root), str(tmp_path / "store")).test) == 4
    with pytest.raises(
        InputError, match="task 'imdb' is unknown; the tasks with a reader are listops, text, retrieval"
    ):
        load_dataset("imdb", {}, root)


@pytest.mark.parametrize("option", ["--resume", "--eval", "--out"])
def test_checking_data_goes_with_no_run(option, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_lra.main(["--check-data", option, str(tmp_path)])
    assert "not allowed with" in capsys.readouterr().err


def test_a_wrong_target_is_found(tmp_path, capsys):
    write_listops(tmp_path, val_target=3)
    assert run_lra.main(["--check-data", "--preset", "small", "--data-dir", str(tmp_path)]) == 2
    assert "val: row 1 has target 3, its value is 2" in capsys.readouterr().err


def test_missing_files_are_named_with_the_expected_tree(tmp_path, capsys):
    for task in ("text", "retrieval", "image", "pathfinder", "listops"):
        preset = ["--preset", "small"]
        assert run_lra.main(["--check-data", "--task", task, "--data-dir", str(tmp_path), *preset]) == 2
        error = capsys.readouterr().err
        assert str(tmp_path) in error and "expected:" in error and "https://" in error and "DATA_DIR" in error
    assert list(tmp_path.iterdir()) == []


def test_classes_of_ones_own_are_shown_by_their_names(tmp_path, capsys):
    rows = [f"row {i}\t{label}" for i, label in enumerate(["ham", "a\x1b" + "b" * 40, "ham", "ham"] * 10)]
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    assert run_lra.main(["--check-data", "--task", "own", "--data-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    cut = "a\\x1b" + "b" * 28 + "..."
    assert f"class shares {cut} 0.250, ham 0.750\n" in out
    assert "train row 1, label ham:\n" in out and f"train row 2, label {cut}:\n" in out


def test_of_many_classes_the_most_frequent_are_shown():
    labels = [*range(500)] + [499, 250] * 10
    X = [f"row {i}" for i in range(len(labels))]
    given = (X, labels)
    data = dataset(given, *(([f"{name} {x}" for x in X], labels) for name in ("val", "test")))
    line = next(line for line in report.report(data).splitlines() if "class shares" in line)
    shown = line.removeprefix("    class shares ").split(", ")
    assert shown[:2] == ["0 0.002", "1 0.002"] and shown[-4:-2] == ["250 0.021", "499 0.021"]
    assert shown[-2:] == ["and 480 more", "the rarest 498 0.002"] and len(line) < 500


def test_pictures_are_shown_whole(tmp_path, capsys):
    arguments = ["--check-data", "--task", "pathfinder", "--data-dir", str(tmp_path), "--set", "images=20"]
    assert run_lra.main(arguments) == 0
    out = capsys.readouterr().out
    assert "train: 16 rows; lengths 1024" in out and len(out.splitlines()) > 64


def test_control_characters_of_the_data_are_shown_as_escapes(tmp_path, capsys):
    """ESC and BEL of a review would reach the terminal, and the terminal would obey."""
    review = "caf\u00e9 \x1b[31m\x07 \x9b0m\u202e\r\nline\u2028two\x85\x00".encode()
    files = dict.fromkeys(FILES["text"], review)
    assert run_lra.main(["--check-data", "--task", "text", "--data-dir", str(write_tree(tmp_path, files))]) == 0
    out = capsys.readouterr().out
    assert "    caf\u00e9 \\x1b[31m\\x07 \\x9b0m\\u202e\\r\n    line\\u2028two\\x85\\x00\n" in out
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize("task", sorted(FILES))
def test_every_row_is_shown_printable(task):
    dataset = expected(task)
    assert all(line.isprintable() for line in report.report(dataset).split("\n"))


@pytest.mark.parametrize("task", sorted(FILES))
def test_folders_whose_names_are_no_utf_8(task, tmp_path, capsys):
    """They are read and their arrays are stored; what is said of them is printable."""
    root = write_tree(tmp_path / os.fsdecode(b"d\xff\x1b[31m"), FILES[task])
    for _ in range(2):
        load_dataset(task, options_of(task), root)
    err = capsys.readouterr().err
    assert all(line.isprintable() for line in err.splitlines())
    if tasks.TASKS[task].rows:  # it is said that these are not all rows
        assert err.count("\n") == 2 and "d\\udcff\\x1b[31m" in err
    stored = {"listops": 3, "retrieval": 3, "pathfinder": 1, "own": 1}.get(task, 2)
    assert len(list((root / ".rmaat_cache").iterdir())) == stored
    path = root / min(FILES[task], key=len)
    path.write_bytes(b"\xff" * 7)
    with pytest.raises(InputError, match=re.escape("d\\udcff\\x1b[31m")) as error:
        load_dataset(task, options_of(task), root)
    assert str(error.value).isprintable()


def test_generated_files_go_where_the_help_says(tmp_path, monkeypatch, capsys):
    """--cache-dir is for stored arrays; the .tsv files of source=generated are no such thing."""
    original = listops_generator.generate_lra
    monkeypatch.setattr(
        listops_generator, "generate_lra", lambda folder: original(folder, rows=(3, 1, 1), progress=False)
    )
    load_dataset("listops", {"source": "generated"}, tmp_path / "data", tmp_path / "store")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["generated"]
    assert all(path.suffix == ".npz" for path in (tmp_path / "store").iterdir())
    with pytest.raises(SystemExit):
        run_lra.main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "of arrays that are kept for the next run; default DATA_DIR/.rmaat_cache" in words
    assert "source=generated go to DATA_DIR/generated" in words
