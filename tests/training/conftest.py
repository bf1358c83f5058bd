"""Fixtures of the tests of training."""

import pytest
from helpers.runs import start

from rmaat_np.data import recall
from rmaat_np.training import loop


@pytest.fixture(scope="module")
def data():
    """The recall probe, 64 / 32 / 48 rows."""
    return recall.load(8, 16, seed=0, rows=(64, 32, 48))


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Drawing takes longer than these runs; and batches of 12 rows, so that an evaluation has several."""
    monkeypatch.setattr(loop, "draw_curve", lambda folder: None)
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curve", lambda folder: None)
        patch.setattr(loop, "EVALUATION_BATCH", 12)
        loop.train(start(folder, data), data)
    return folder
