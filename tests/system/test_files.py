"""Folders that nobody has yet, and locks with what the platform offers."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from rmaat_np.errors import InputError
from rmaat_np.system.files import make_numbered_folder, only_process, write_text


def test_a_folder_that_nobody_has_yet(tmp_path):
    """However many ask for it at once."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make_numbered_folder, [tmp_path / "runs" / "x"] * 8))
    assert {path.name for path in made} == {"x", *(f"x-{number}" for number in range(2, 9))}
    assert all(path.is_dir() for path in made)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be created"):
        make_numbered_folder(tmp_path / "file" / "x")


def test_names_that_no_text_can_hold_are_escaped(tmp_path):
    write_text(tmp_path / "table.md", "Zoë \udcff")
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == r"Zoë \udcff"


def without_fcntl(monkeypatch, locking=None):
    """As Windows with its msvcrt, or as a platform with neither."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    if locking:
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))


def test_a_lock_where_there_is_no_fcntl(tmp_path, monkeypatch):
    calls = []
    without_fcntl(monkeypatch, lambda *arguments: calls.append(arguments[1:]))
    with only_process(tmp_path):
        assert calls == [(2, 1)]


def test_a_lock_that_another_process_has_on_windows(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    without_fcntl(monkeypatch, refuse)
    with pytest.raises(InputError, match="another process trains in this folder"), only_process(tmp_path):
        pytest.fail("locked twice")


def test_no_lock_where_the_platform_has_none(tmp_path, monkeypatch):
    without_fcntl(monkeypatch)
    with only_process(tmp_path), only_process(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_two_locks_of_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    with only_process(tmp_path), pytest.raises(InputError, match="another process"), only_process(tmp_path):
        pytest.fail("locked twice")
    with only_process(tmp_path):
        pass
