"""Files are whole or absent, whatever the disk does; the error names path and remedy; the run goes on afterwards."""

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from helpers import needs
from helpers.calls import COMMAND
from helpers.runs import SIZES, assert_equal_runs, at_step, disk_full_after, start

import run_lra
from rmaat_np.data.dataset import make_split
from rmaat_np.data.stored import stored_split
from rmaat_np.errors import WriteError
from rmaat_np.training import loop, metrics
from rmaat_np.training import run as runs
from rmaat_np.training.metrics import append_metrics


def refused(folder, data) -> str:
    """Start the run, or go on with it; -> the message of the write that failed."""
    run = runs.load_run(folder) if (folder / "last.npz").exists() else start(folder, data)
    with pytest.raises(WriteError) as error:
        loop.train(run, data)
    message = str(error.value)
    assert message.startswith(str(folder)) and "cannot be written" in message and "\n" not in message
    return message


def go_on(folder, data):
    run = runs.load_run(folder) if (folder / "last.npz").exists() else start(folder, data)
    loop.train(run, data)


def assert_whole_files(folder):
    """Everything that is there can be read to its end."""
    for path in folder.iterdir():
        assert path.name in (".lock", *runs.FILES), "a temporary file is left"
        if path.suffix == ".npz":
            runs.load_run(path)
        elif path.suffix == ".jsonl":
            content = path.read_text(encoding="utf-8")
            assert content == "" or content.endswith("\n")
            [json.loads(line) for line in content.splitlines()]
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("room", [0, 1, 300, 900, 1100, 1300, 20_000, 40_000])
def test_no_file_may_grow(tmp_path, data, whole, room):
    folder = tmp_path / "run"
    with disk_full_after(room):
        assert "free space" in refused(folder, data)
    assert_whole_files(folder)
    go_on(folder, data)
    assert_equal_runs(folder, whole)


@pytest.mark.parametrize("room", [0, 6000])
@pytest.mark.parametrize("step", [1, 3, 5, 8, 12])
def test_disk_that_fills_up_under_way(tmp_path, data, whole, monkeypatch, step, room):
    """From that step on no file may grow past `room`: not even the metrics fit, or all but the next checkpoint."""
    folder = tmp_path / "run"
    with ExitStack() as stack, monkeypatch.context() as patch:
        at_step(patch, step, lambda: stack.enter_context(disk_full_after(room)))
        message = refused(folder, data)
    assert "free space" in message and ("metrics.jsonl" if room == 0 else "last.npz") in message
    assert_whole_files(folder)
    assert runs.load_run(folder).progress.step == max(saved for saved in (0, 5, 10) if saved < step)
    go_on(folder, data)
    assert_equal_runs(folder, whole)


def test_no_room_for_the_result(tmp_path, data, whole, monkeypatch):
    folder, finish = tmp_path / "run", loop.finish

    def without_room(*arguments):
        with disk_full_after(100):
            return finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish", without_room)
        assert "result.json" in refused(folder, data)
    assert not (folder / "result.json").exists()
    assert_whole_files(folder)
    go_on(folder, data)
    assert_equal_runs(folder, whole)


def test_no_room_for_the_picture(tmp_path, whole, capsys):
    """The old picture stays, and one line says why; a picture is never worth a run."""
    pytest.importorskip("matplotlib")
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    (tmp_path / "curve.png").write_bytes(b"the old one")
    with disk_full_after(5000):
        assert not metrics.draw_curve(tmp_path)
    error = capsys.readouterr().err
    assert "curve.png: cannot be written" in error and "free space" in error and error.count("\n") == 1
    assert (tmp_path / "curve.png").read_bytes() == b"the old one"
    assert sorted(os.listdir(tmp_path)) == ["curve.png", "metrics.jsonl"]


@pytest.mark.parametrize("room", [0, 300, 3000])
def test_no_room_for_the_cache(tmp_path, capsys, room):
    split = make_split([[1, 2, 3]] * 2000, np.arange(2000) % 2)
    with disk_full_after(room):
        assert len(stored_split([], tmp_path / "cache", "v1", lambda: split)) == 2000
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / "cache") in error and "free space" in error
    assert os.listdir(tmp_path / "cache") == []


@needs.full_device
def test_line_of_metrics_that_meets_a_full_device(tmp_path, data, whole, monkeypatch):
    """/dev/full refuses every write, as a full disk does."""
    folder = tmp_path / "run"

    def fill():
        (folder / "metrics.jsonl").rename(tmp_path / "kept")
        (folder / "metrics.jsonl").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        at_step(patch, 7, fill)
        message = refused(folder, data)
    assert "metrics.jsonl: cannot be written (No space left on device)" in message
    (tmp_path / "kept").replace(folder / "metrics.jsonl")
    assert_whole_files(folder)
    go_on(folder, data)
    assert_equal_runs(folder, whole)


def test_half_a_line_of_metrics_is_taken_back(tmp_path):
    """A disk with room for some of a line's bytes."""
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"step": 1, "loss": 2.5})
    whole_line = path.read_bytes()
    with disk_full_after(len(whole_line) + 7), pytest.raises(WriteError, match="metrics.jsonl: cannot be written"):
        append_metrics(path, {"step": 2, "loss": 2.25})
    assert path.read_bytes() == whole_line


@pytest.mark.parametrize("step", [3, 5, 7, 12])
def test_folder_that_vanishes_and_comes_back(tmp_path, data, whole, monkeypatch, step):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: folder.rename(elsewhere))
        message = refused(folder, data)
    assert f"bring the folder {folder} back" in message
    elsewhere.rename(folder)
    assert_whole_files(folder)
    go_on(folder, data)
    assert_equal_runs(folder, whole)


def test_folder_that_is_deleted(tmp_path, data, monkeypatch):
    """Nothing is left to save; the run ends with the reason."""
    folder = tmp_path / "run"
    at_step(monkeypatch, 7, lambda: shutil.rmtree(folder))
    assert f"bring the folder {folder} back" in refused(folder, data)
    assert not folder.exists()


def test_read_only_folder(tmp_path, data, whole):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("root may write into any folder")
    try:
        for name in os.listdir(folder):
            (folder / name).chmod(0o444)
        with pytest.raises(WriteError, match=f"make {folder} writable"):
            loop.train(runs.load_run(folder), data)
    finally:
        folder.chmod(0o755)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 320 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not mounted("-t", "tmpfs", "-o", "size=320k", "tmpfs", disk):
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    while disk.is_mount():
        subprocess.run(["umount", "-l", disk], check=True)


def mounted(*options) -> bool:
    return bool(shutil.which("mount")) and subprocess.run(["mount", *options], capture_output=True).returncode == 0


@pytest.mark.parametrize("step", [0, 3, 6, 11])
def test_full_file_system(small_disk, data, whole, monkeypatch, step):
    disk, folder = small_disk, small_disk / "run"

    def fill():
        with open(disk / "ballast", "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 1024):
                    pass
            except OSError:
                pass

    with monkeypatch.context() as patch:
        at_step(patch, step, fill)
        if step == 0:
            fill()
        assert "No space left on device" in (message := refused(folder, data)) and "free space" in message
    assert_whole_files(folder)
    (disk / "ballast").unlink()
    go_on(folder, data)
    assert_equal_runs(folder, whole)


def test_read_only_file_system(small_disk, data, whole, monkeypatch):
    disk, folder = small_disk, small_disk / "run"

    def forbid_writing():
        assert mounted("--bind", disk, disk) and mounted("-o", "remount,bind,ro", disk)

    with monkeypatch.context() as patch:
        at_step(patch, 7, forbid_writing)
        message = refused(folder, data)
    assert "Read-only file system" in message and f"make {folder} writable" in message
    with pytest.raises(WriteError, match=".lock: cannot be written.*Read-only"):
        loop.train(runs.load_run(folder), data)
    subprocess.run(["umount", disk], check=True)
    go_on(folder, data)
    assert_equal_runs(folder, whole)


def test_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "draw_curve", lambda folder: None)
    folder = tmp_path / "run"
    with ExitStack() as stack, monkeypatch.context() as patch:
        at_step(patch, 7, lambda: stack.enter_context(disk_full_after(0)))
        settings = [part for key, value in SIZES.items() for part in ("--set", f"{key}={value}")]
        assert run_lra.main(["--task", "recall", "--workers", "1", "--out", str(folder), *settings]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"run_lra.py: {folder}/metrics.jsonl: cannot be written (File too large); free space")
    assert error.endswith(f"; then go on with: {COMMAND} --resume {folder} --workers 1\n") and error.count("\n") == 1
    assert run_lra.main(["--resume", str(folder), "--workers", "1"]) == 0
