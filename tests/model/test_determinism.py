"""The same bits from the same seed and workers; and how far another number of workers may lead away from them."""

import numpy as np
import pytest

from rmaat_np.config import Config
from rmaat_np.data import recall
from rmaat_np.data.batches import BatchOrder
from rmaat_np.optim import adamw_init, adamw_step, learning_rate
from rmaat_np.params import init_params
from rmaat_np.step import loss_and_grads

CFG = Config(vocab_size=recall.VOCAB_SIZE, num_classes=10, d_model=16, num_heads=2, num_layers=2, d_ff=16,
             segment_length=8, num_segments=2, num_memory=2, dropout=0.1)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return recall.load(8, 16, rows=(400, 1, 1)).train


def trained(data, workers, dtype, steps=100):
    """The parameters after so many steps of batch 24, in the order and with the schedule of a run."""
    params = init_params(CFG, 0, dtype)
    state, order = adamw_init(params), BatchOrder(data.lengths(), 24, 0)
    for step in range(steps):
        _, grads, _ = loss_and_grads(params, CFG, *data.batch(order.rows(step)), "amrb", 0, step, workers)
        adamw_step(params, grads, state, step, learning_rate(step, 200, 2e-3, 20))
    return params


@pytest.mark.parametrize("workers", [1, 3])
def test_same_workers_same_bits(data, workers, cut_for_workers):
    first, second = (trained(data, workers, "float32") for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize("workers", [2, 3])
def test_other_workers_within_a_millionth_after_100_steps(data, workers, cut_for_workers):
    """In float64. The batch is cut elsewhere, so sums are rounded otherwise; for float32 see tests/README.md."""
    one, other = trained(data, 1, "float64"), trained(data, workers, "float64")
    assert max(np.abs(one[name] - other[name]).max() for name in one) < 1e-6
    assert any(one[name].tobytes() != other[name].tobytes() for name in one), "the cut is the same: this shows nothing"


def test_other_workers_same_bits_where_the_cache_decides_the_cut():
    """Rows this long are cut for the cache, and not for the workers; float32."""
    cfg = Config(vocab_size=9, num_classes=3, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=1024)
    rng = np.random.default_rng(0)
    tokens, labels = rng.integers(1, 9, (8, 1500)), rng.integers(0, 3, 8)
    one, many = (loss_and_grads(init_params(cfg), cfg, tokens, labels, workers=workers)[1] for workers in (1, 4))
    assert all(one[name].tobytes() == many[name].tobytes() for name in one)
