"""Training steps of an MPI job beside those of its twin: `mpiexec -n 4 python -m mpi4py tests/helpers/ranked_steps.py`.

Every rank compares all bits of loss, gradients and accuracy. Rank 0 prints a line for every case.
"""

import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
from helpers import strict_device  # noqa: E402
from helpers.twin import twin  # noqa: E402

from rmaat_np import Config, backend, init_params, segments  # noqa: E402
from rmaat_np.optim import adamw_init, adamw_step  # noqa: E402
from rmaat_np.step import loss_and_grads  # noqa: E402
from rmaat_np.training.ranks import join  # noqa: E402

SIZES = {"vocab_size": 11, "num_classes": 3, "d_model": 8, "num_heads": 2, "num_layers": 2, "d_ff": 12}
SIZES |= {"segment_length": 4, "num_segments": 3, "num_memory": 2, "dropout": 0.2}
CASES = {
    "amrb": {},
    "bptt": {"method": "bptt"},
    "replay budget": {"replay_budget": 3000},
    "pairs": {"pair": True},
    "softmax attention": {"attention": "softmax"},
    "learned decays": {"position_decay": "learned"},
    "no position embedding": {"position_decay": "heads", "position_embedding": False},
    "mean over all tokens": {"pooling": "mean", "num_memory": 0},
    "rows fewer than ranks": {"rows": 2},
    "one row": {"rows": 1},
    "two workers": {"workers": 2},
    "three parts one after another": {"accumulate": 3},
    "float64": {"dtype": "float64"},
    "factors of longer sequences": {"retention": "learned", "retention_horizon": 64},
    "weights of classes": {"class_weights": [0.5, 1.0, 2.0]},
    "on the device": {"device": True},
    "on the device, in two parts": {"device": True, "accumulate": 2},
}
OPTIONS = ("method", "replay_budget", "workers", "accumulate", "class_weights")


def batch(cfg: Config, rows: int):
    """Ragged rows, the longest of them full. Shapes: -> tokens (rows, n) or (rows, 2, n), labels (rows)"""
    rng = np.random.default_rng(3)
    shape = (rows, 2, cfg.max_length) if cfg.pair else (rows, cfg.max_length)
    tokens = rng.integers(1, cfg.vocab_size, shape)
    lengths = rng.integers(1, cfg.max_length + 1, shape[:-1])
    lengths.flat[0] = cfg.max_length
    tokens[np.arange(cfg.max_length) >= lengths[..., None]] = 0
    return tokens, rng.integers(0, cfg.num_classes, rows)


def bits(result) -> list[bytes]:
    """Loss, accuracy and every gradient."""
    loss, grads, stats = result
    arrays = [loss, *grads.values(), stats["accuracy"]]
    return [np.asarray(backend.to_host(array)).tobytes() for array in arrays]


def compare(ranks, case: dict) -> None:
    """One case. An AssertionError ends the job: `-m mpi4py` sees to that."""
    cfg = Config(**SIZES | {key: value for key, value in case.items() if hasattr(Config, key)})
    tokens, labels = batch(cfg, case.get("rows", 13))
    params = init_params(cfg, dtype=case.get("dtype", "float32"))
    arguments = (params, cfg, tokens, labels)
    options = {"seed": 1, "step": 5} | {key: case[key] for key in OPTIONS if key in case}
    expected = bits(twin(ranks.size, *arguments, **options))
    for _ in range(3):
        assert bits(loss_and_grads(*arguments, **options, share=ranks.share)) == expected


def check_parts(ranks) -> None:
    """AdamW on the ranks' own parts: the parameters of the whole update on every rank, the state on rank 0."""
    params = init_params(Config(**SIZES))
    grads = {name: array * 0.1 for name, array in params.items()}
    expected, state = {name: array.copy() for name, array in params.items()}, adamw_init(params)
    parts = {moment: {name: x.copy() for name, x in ranks.own(values).items()} for moment, values in state.items()}
    held = sum(array.size for array in parts["m"].values())
    assert held <= sum(array.size // ranks.size + 1 for array in params.values())
    for step in range(3):
        norm = adamw_step(expected, grads, state, step, 0.01)
        adamw_step(ranks.own(params), ranks.own(grads), parts, step, 0.01, norm=norm)
        ranks.complete(params)
    whole = {moment: ranks.whole(values, params) for moment, values in parts.items()}
    for name, array in params.items():
        assert backend.to_host(array).tobytes() == backend.to_host(expected[name]).tobytes()
        for moment in ("m", "v") if ranks.rank == 0 else ():
            found = backend.to_host(whole[moment][name])
            np.testing.assert_array_equal(found, backend.to_host(state[moment][name]))


def main() -> None:
    """All cases."""
    ranks = join()
    segments.LEAST_ROWS_PER_SHARD = 0  # or no batch here would be cut for two workers
    for name, case in CASES.items():
        module = (strict_device.module, "cupy") if case.get("device") else (np, "numpy")
        with backend.using(*module):
            compare(ranks, case)
        if ranks.rank == 0:
            print(f"{ranks.size} ranks: {name}")
    with backend.using(strict_device.module):
        check_parts(ranks)
    check_parts(ranks)
    sums = [np.random.default_rng(rank).standard_normal(1001).astype("float32") for rank in range(ranks.size)]
    assert ranks.sum(sums[ranks.rank]).tobytes() == list(itertools.accumulate(sums))[-1].tobytes()


if __name__ == "__main__":
    main()
