"""Several processes train one model: their sums, to the last bit those of the ranks one after another."""

from pathlib import Path

import numpy as np
import pytest
from helpers import mpi, ranked_steps, strict_device
from helpers.checks import CFG, CONFIGS, ragged_batch, random_params
from helpers.runs import arrays_of, start
from helpers.twin import twin

from rmaat_np import Config, backend, init_params
from rmaat_np.errors import InputError
from rmaat_np.step import loss_and_grads
from rmaat_np.training import loop, ranks
from rmaat_np.training.checkpoint import save_checkpoint
from rmaat_np.training.execution import Execution
from rmaat_np.training.ranks import ALONE, Ranks, check_alike, launched
from rmaat_np.training.run import load_run

SCRIPT = Path(ranked_steps.__file__)


@pytest.mark.parametrize("size", [2, 4])
def test_every_case_has_the_bits_of_its_twin(size):
    """Three times each. With 2 and 3 ranks an Allreduce has the order of the ranks too: only 4 show a wrong one."""
    code, out, err = mpi.run(size, "-m", "mpi4py", SCRIPT)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{size} ranks: {name}" for name in ranked_steps.CASES]


def step_of(cfg=CFG, **options):
    return loss_and_grads(random_params(cfg, "float32"), cfg, *ragged_batch(cfg), **options)


def twin_of(size, cfg=CFG, **options):
    return twin(size, random_params(cfg, "float32"), cfg, *ragged_batch(cfg), **options)


def test_as_many_shards_as_ranks_give_the_bits_of_as_many_workers(cut_for_workers):
    ours, theirs = ranked_steps.bits(twin_of(2)), ranked_steps.bits(step_of(workers=2))
    assert ours == theirs


@pytest.mark.parametrize("name", ["default", "order by astrocytes alone"])
@pytest.mark.parametrize(("size", "accumulate"), [(1, 2), (3, 1), (2, 4), (9, 1)])
def test_other_divisions_differ_by_rounding_alone(size, accumulate, name):
    loss, grads, stats = twin_of(size, CONFIGS[name], accumulate=accumulate)
    expected_loss, expected, expected_stats = step_of(CONFIGS[name])
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
    "divided", [{"x": 1}, {"ranks": 2}, {"ranks": 0, "workers": 1, "accumulate": 1}, {"ranks": "2"}], ids=str
)
def test_a_checkpoint_with_an_impossible_division_is_refused(tmp_path, data, divided):
    run = start(tmp_path / "run", data)
    run.divided = divided
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


@pytest.mark.parametrize("device", [False, True], ids=["numpy", "stand-in"])
def test_parts_one_after_another_need_less_memory(device, cut_for_workers):
    """And change nothing but the rounding: with as many shards as workers had, they give the very bits."""
    cfg = Config(**ranked_steps.SIZES)
    module = (strict_device.module, "cupy") if device else (np, "numpy")
    with backend.using(*module):
        arguments = (init_params(cfg), cfg, *ranked_steps.batch(cfg, 16))
        whole, parts = (loss_and_grads(*arguments, accumulate=count, seed=1, step=2) for count in (1, 4))
        assert parts[2]["peak_cache_bytes"] < 0.4 * whole[2]["peak_cache_bytes"]
        assert parts[2]["accuracy"] == whole[2]["accuracy"]
        for name in whole[1]:
            ours, theirs = (backend.to_host(found[1][name]) for found in (parts, whole))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6, err_msg=name)
        if not device:
            assert ranked_steps.bits(parts) == ranked_steps.bits(loss_and_grads(*arguments, workers=4, seed=1, step=2))


def test_a_run_in_parts(tmp_path, data, whole):
    """Its checkpoint remembers; going on without the parts is said."""
    run = start(tmp_path / "run", data)
    with pytest.raises(loop.Interrupted):
        loop.train(run, data, Execution(accumulate=2), should_stop=lambda: run.progress.step == 7)
    back, said = load_run(run.folder), []
    assert back.divided == {"ranks": 1, "workers": 1, "accumulate": 2}
    loop.train(back, data, warn=said.append)
    assert said == [
        f"{run.folder}: was computed with ranks 1, workers 1, accumulate 2, "
        "goes on with ranks 1, workers 1, accumulate 1; equal but for rounding"
    ]
    ours, theirs = arrays_of(run.folder / "last.npz"), arrays_of(whole / "last.npz")
    for name in (name for name in theirs if name.startswith("params/")):
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-4, err_msg=name)
