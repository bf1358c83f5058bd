"""Fixtures of the tests of the command."""

import pytest
from helpers.calls import TINY

import run_lra
from rmaat_np.training import loop


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, and draw no pictures: that takes longer than these runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "draw_curve", lambda folder: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run; tests that write into it take a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curve", lambda folder: None)
        assert run_lra.main([*TINY, "--out", str(folder)]) == 0
    return folder
