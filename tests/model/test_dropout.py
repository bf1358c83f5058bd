"""Dropout: the masks' scale, their independence, and that they depend on nothing but their key."""

import numpy as np
import pytest
from helpers.checks import CFG, CONFIGS, KEY, check_masks, check_same, mask_of, ragged_batch, random_params, run_step
from helpers.dropout_checks import PART, check_scale_and_mean

import rmaat_np as rn
from rmaat_np import dropout, segments, step


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_are_independent(rate):
    check_masks(rate)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_size_begins_the_same_mask(size):
    np.testing.assert_array_equal(mask_of(PART, 0.5, size), mask_of(PART, 0.5, 64)[:, :size])


def test_a_mask_is_the_same_each_time_and_in_each_batch():
    """Whatever other sequences are computed with it, and in whatever order."""
    rows = np.array([4, 0, 9, 2], dtype=np.uint32)
    key = dropout.DropoutKey(0.4, 1, 2, 3, rows, 1)
    together = dropout.dropout_mask(key, "feed_forward", (4, 5, 6), np.float64)
    for row, mask in zip(rows, together, strict=True):
        alone = dropout.DropoutKey(0.4, 1, 2, 3, np.array([row], dtype=np.uint32), 1)
        check_same(dropout.dropout_mask(alone, "feed_forward", (1, 5, 6), np.float64), mask[None])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_masks_do_not_depend_on_the_shards(size):
    """Each sequence meets the masks of its place in the batch, in whichever shard it is."""
    cfg = CONFIGS["dropout post pair"]
    tokens, labels = ragged_batch(cfg)
    sequences = segments.check_tokens(tokens, cfg)

    def masks(size):
        found = {}
        for shard in segments.cut_shards(sequences, labels, cfg, np.float64, size, step_key=(3, 5)):
            for t in range(shard.num_segments):
                key = shard.segment(t).dropout_key
                mask = dropout.dropout_mask(key, "embedding", (len(key.rows), 6), np.float64)
                found |= {(int(row), t): values.tolist() for row, values in zip(key.rows, mask, strict=True)}
        return found

    lengths = segments.sequence_lengths(sequences)
    assert set(masks(size)) == {(b, t) for b, n in enumerate(lengths) for t in range(-(-n // cfg.segment_length))}
    assert masks(size) == masks(len(labels))


def test_rate_0_is_the_identity():
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    out, cache = dropout.dropout_forward(x, None, "embedding")
    assert out is x and dropout.dropout_backward(x, cache) is x
    key = dropout.DropoutKey(0.0, 1, 2, 3, KEY.rows)
    check_same(dropout.dropout_forward(x, key, "embedding")[0], x)
    params = random_params(CFG)
    check_same(run_step(CFG, params=params), rn.loss_and_grads(params, CFG, *ragged_batch(CFG)))


def test_dropout_acts_only_with_a_seed_and_a_step():
    cfg, batch = CONFIGS["dropout"], ragged_batch(CFG)
    params = random_params(cfg)
    plain = rn.loss_and_grads(params, CFG, *batch)
    for names in ({}, {"seed": 1}, {"step": 1}):
        check_same(rn.loss_and_grads(params, cfg, *batch, **names), plain)
    losses = {float(rn.loss_and_grads(params, cfg, *batch, seed=a, step=b)[0]) for a in (0, 1) for b in (0, 1)}
    assert len(losses) == 4 and float(plain[0]) not in losses
    check_same(rn.predict(params, cfg, batch[0]), rn.predict(params, CFG, batch[0]))


def test_backward_makes_the_mask_of_forward():
    x = np.ones((2, 3, 4))
    out, cache = dropout.dropout_forward(x, KEY, "attention")
    np.testing.assert_array_equal(dropout.dropout_backward(x, cache), out)
    assert not any(isinstance(value, np.ndarray) for value in cache.values())


def test_every_site_of_every_layer_drops_out(monkeypatch):
    seen = set()
    original = dropout.dropout_mask

    def recorded(key, site, shape, dtype):
        seen.add((key.segment, key.layer, site))
        return original(key, site, shape, dtype)

    monkeypatch.setattr(dropout, "dropout_mask", recorded)
    cfg = CONFIGS["dropout"]
    run_step(cfg, step.METHODS[0])
    inside = {(t, layer, site) for t in range(3) for layer in range(2) for site in ("attention", "feed_forward")}
    assert seen == inside | {(t, 0, "embedding") for t in range(3)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_scale_and_mean(rate, dtype):
    check_scale_and_mean(rate, dtype)
