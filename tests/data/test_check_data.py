"""--check-data: what was found, or what is missing."""

import pytest

import run_lra
from rmaat_np.data import listops, listops_generator, tasks


def test_generated_listops_are_described_and_evaluated(tmp_path, capsys):
    assert run_lra.main(["--check-data", "--data-dir", str(tmp_path), "--set", "train_rows=50"]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path) in out and "train: 50 rows" in out and "val: 1,000 rows" in out and "evaluated again" in out
    assert "generated, no files are needed" in out and "  found " not in out
    shares = [line for line in out.splitlines() if "class shares" in line]
    assert len(shares) == 3 and all(len(line.split()) == 12 for line in shares)
    assert "train row 1, label" in out and "[M" in out


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


def test_pictures_are_shown_whole(tmp_path, capsys):
    arguments = ["--check-data", "--task", "pathfinder", "--data-dir", str(tmp_path), "--set", "images=20"]
    assert run_lra.main(arguments) == 0
    out = capsys.readouterr().out
    assert "train: 16 rows; lengths 1024" in out and len(out.splitlines()) > 64
