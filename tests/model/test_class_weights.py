"""The loss with a weight for each class: a weighted sum over the rows, and its gradient by both methods."""

import numpy as np
import pytest
from helpers.checks import (
    CFG,
    CONFIGS,
    check_methods_equal,
    check_model,
    check_same,
    check_shards,
    leaves,
    ragged_batch,
    random_params,
    run_step,
)

import rmaat_np as rn
from rmaat_np.errors import InputError

WEIGHTS = [0.5, 0.0, 3.0]
NAMES = ["default", "softmax", "mean", "pair", "dropout"]


def test_loss_is_the_weighted_sum_over_rows_divided_by_their_number():
    """Not by the sum of their weights: parts of a batch, each divided by the rows of the whole, add up."""
    params, (tokens, labels) = random_params(CFG), ragged_batch(CFG)
    rows = [rn.loss_and_grads(params, CFG, tokens[b : b + 1], labels[b : b + 1])[0] for b in range(len(labels))]
    loss, _, stats = rn.loss_and_grads(params, CFG, tokens, labels, class_weights=WEIGHTS)
    weights = np.array(WEIGHTS)[labels]
    assert len(set(weights)) > 1
    np.testing.assert_allclose(loss, (weights * rows).sum() / len(labels), rtol=1e-12)
    assert stats == rn.loss_and_grads(params, CFG, tokens, labels)[2], "the accuracy counts rows, whatever they weigh"


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    check_model(CONFIGS[name], class_weights=WEIGHTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_methods_are_equal_bit_for_bit(name, dtype):
    check_methods_equal(CONFIGS[name], dtype, class_weights=WEIGHTS)


@pytest.mark.parametrize("name", NAMES)
def test_shards_add_up(name):
    check_shards(CONFIGS[name], 2, class_weights=WEIGHTS)


def test_without_weights_nothing_is_multiplied():
    """Weights of 1 change no bit either."""
    check_same(run_step(CFG), run_step(CFG, class_weights=None))
    check_same(run_step(CFG), run_step(CFG, class_weights=np.ones(CFG.num_classes)))


def test_dtype_stays_that_of_the_parameters():
    loss, grads, _ = run_step(CFG, params=random_params(CFG, "float32"), class_weights=np.array(WEIGHTS))
    assert {leaf.dtype for leaf in leaves([loss, grads])} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"of shape \(2,\), but they must be numbers of shape \(3,\)"),
        (1.0, r"of shape \(\)"),
        (["a", "b", "c"], "must be numbers"),
        ([1.0, -1.0, 1.0], "class 1 has -1.0"),
        ([1.0, 1.0, float("nan")], "class 2 has nan"),
        ([float("inf"), 1.0, 1.0], "class 0 has inf"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        run_step(CFG, class_weights=weights)
