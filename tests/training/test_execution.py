"""How a run is computed: what is refused, and what is set up."""

import numpy as np
import pytest
from helpers.runs import start

from rmaat_np import backend
from rmaat_np.data import recall
from rmaat_np.errors import InputError
from rmaat_np.training import execution, loop
from rmaat_np.training.execution import Execution, activate, with_budget
from rmaat_np.training.ranks import Ranks


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "jax"}, "backend is 'jax', but it must be one of numpy, cupy"),
        ({"workers": 0}, "workers is 0, but it must be at least 1"),
        ({"workers": 1.5}, "workers is 1.5, but it must be a whole number"),
        ({"replay_budget": -1}, "replay_budget is -1, but it must be at least 0"),
        ({"accumulate": 0}, "accumulate is 0, but it must be at least 1"),
        ({"tf32": True}, "tf32 is true, but backend numpy has no TF32"),
        ({"detect_anomaly": 1}, "detect_anomaly is 1, but it must be true or false"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(options, said):
    with pytest.raises(InputError) as error:
        Execution(**options)
    assert said in str(error.value)


def test_numpy_integers_become_pythons():
    assert type(Execution(workers=np.int64(2)).workers) is int


def test_tf32_is_for_float32():
    chosen = Execution(backend="cupy", tf32=True)
    chosen.check_dtype("float32")
    with pytest.raises(InputError, match="tf32 is true and dtype is float64"):
        chosen.check_dtype("float64")
    Execution().check_dtype("float64")


@pytest.mark.parametrize("tf32", [False, True])
def test_activation(monkeypatch, tf32):
    """The backend first: TF32 is a switch of CuPy's."""
    calls = []
    monkeypatch.setattr(backend, "use", calls.append)
    monkeypatch.setattr(backend, "allow_tf32", lambda: calls.append("tf32"))
    monkeypatch.setattr(execution, "keep_freed_memory", lambda: calls.append("memory"))
    activate(Execution(backend="cupy", tf32=tf32))
    assert calls == ["cupy", "memory"] + ["tf32"] * tf32


def test_an_execution_that_is_not_active_trains_nothing(tmp_path):
    """Before, a run that asked for cupy was trained with NumPy without a word."""
    data = recall.load(8, 16, rows=(8, 8, 8))
    with pytest.raises(InputError, match="execution has backend cupy, but numpy computes"):
        loop.train(start(tmp_path / "run", data), data, Execution(backend="cupy"))


class OneOfTwo(Ranks):
    """A rank with another one on its machine, which has less free memory."""

    size = on_this_machine = 2

    def gather(self, value):
        return [value, value - 7]


def test_an_automatic_budget_is_a_quarter_of_free_memory_shared_by_all_workers(monkeypatch):
    monkeypatch.setattr(execution, "free_memory", lambda: 8_000)
    monkeypatch.setattr(execution, "cores", lambda: 4)
    automatic = Execution(workers=2, auto_budget=True)
    assert with_budget(automatic) == Execution(workers=2, replay_budget=1000)
    assert with_budget(automatic, OneOfTwo()).replay_budget == 500 - 7
    on_a_card = Execution(backend="cupy", workers=2, auto_budget=True)
    assert with_budget(on_a_card, OneOfTwo()).replay_budget == 2000 - 7  # which computes one shard at a time
    assert with_budget(Execution(replay_budget=5)).replay_budget == 5
    assert with_budget(Execution(workers=64, auto_budget=True)).replay_budget == 500  # four of them compute at a time
    monkeypatch.setattr(execution, "free_memory", lambda: None)
    assert with_budget(automatic).replay_budget == 0
