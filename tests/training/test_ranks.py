"""Several processes train one model: their sums, to the last bit those of the ranks one after another."""

from pathlib import Path

import numpy as np
import pytest
from helpers import mpi, ranked_steps
from helpers.checks import CFG, ragged_batch, random_params
from helpers.runs import start
from helpers.twin import twin

from rmaat_np.errors import InputError
from rmaat_np.step import loss_and_grads
from rmaat_np.training import ranks
from rmaat_np.training.checkpoint import save_checkpoint
from rmaat_np.training.ranks import ALONE, Ranks, check_alike, launched
from rmaat_np.training.run import load_run

SCRIPT = Path(ranked_steps.__file__)


@pytest.mark.parametrize("size", [2, 4])
def test_every_case_has_the_bits_of_its_twin(size):
    """Three times each. With 2 and 3 ranks an Allreduce has the order of the ranks too: only 4 show a wrong one."""
    code, out, err = mpi.run(size, "-m", "mpi4py", SCRIPT)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{size} ranks: {name}" for name in ranked_steps.CASES]


def step_of(**options):
    return loss_and_grads(random_params(CFG, "float32"), CFG, *ragged_batch(CFG), **options)


def twin_of(size, **options):
    return twin(size, random_params(CFG, "float32"), CFG, *ragged_batch(CFG), **options)


def test_as_many_shards_as_ranks_give_the_bits_of_as_many_workers():
    ours, theirs = ranked_steps.bits(twin_of(2)), ranked_steps.bits(step_of(workers=2))
    assert ours == theirs


@pytest.mark.parametrize(("size", "accumulate"), [(1, 2), (3, 1), (2, 4), (9, 1)])
def test_other_divisions_differ_by_rounding_alone(size, accumulate):
    loss, grads, stats = twin_of(size, accumulate=accumulate)
    expected_loss, expected, expected_stats = step_of()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert stats["accuracy"] == expected_stats["accuracy"]
    for name, gradient in expected.items():
        assert grads[name].dtype == gradient.dtype
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_one_process_is_a_rank_alone():
    assert ALONE.gather("x") == ["x"] and ALONE.broadcast("x") == "x" and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.first_alone(lambda: 3) == ALONE.from_first(lambda: 3) == 3
    said = []
    assert ALONE.leave(0, lambda: said.append(1)) == 0 and said == []
    assert ALONE.leave(2, lambda: said.append(1)) == 2 and said == [1]


@pytest.mark.parametrize(
    "divided", [[], {"ranks": 2}, {"ranks": 0, "workers": 1, "accumulate": 1}, {"ranks": "2"}], ids=str
)
def test_a_checkpoint_with_an_impossible_division_is_refused(tmp_path, data, divided):
    run = start(tmp_path / "run", data)
    run.divided = divided or {"x": 1}
    save_checkpoint(run.folder / "last.npz", run.params, run.state, run.record())
    with pytest.raises(InputError, match="its settings are not readable"):
        load_run(run.folder)


def test_ranks_that_are_not_alike_are_refused_with_what_differs():
    class Others(Ranks):
        def gather(self, value):
            return [value, value, value | {"NumPy": "1.0"}]

    with pytest.raises(InputError, match="rank 2: NumPy is '1.0', on rank 0 it is '.*'; give all ranks the same"):
        check_alike(Others(), {"data": 3})


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "3", "PMI_SIZE": "8"}, (3, 8)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"}, (1, 2)),
        ({"PMIX_RANK": "5", "SLURM_STEP_NUM_TASKS": "6"}, (5, 6)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
    ],
    ids=str,
)
def test_what_a_launcher_tells(monkeypatch, environment, found):
    for pair in ranks._LAUNCHERS:
        for name in pair:
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() == found
