"""--check-data: what was found, or what is missing."""

import run_lra
from rmaat_np.data import listops


def test_generated_listops_are_described_and_evaluated(tmp_path, capsys):
    assert run_lra.main(["--check-data", "--data-dir", str(tmp_path), "--set", "train_rows=50"]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path) in out and "train: 50 rows" in out and "val: 1,000 rows" in out and "evaluated again" in out
    shares = [line for line in out.splitlines() if "class shares" in line]
    assert len(shares) == 3 and all(len(line.split()) == 12 for line in shares)
    assert "train row 1, label" in out and "[M" in out


def test_a_wrong_target_is_found(tmp_path, capsys):
    folder = tmp_path / "listops-1000"
    folder.mkdir()
    for split in listops.SPLITS:
        listops.write_tsv(folder / f"basic_{split}.tsv", [listops.encode("[MAX 1 2 ]")], [3 if split == "val" else 2])
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
