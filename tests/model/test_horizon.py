"""The factors of longer sequences that training shows: what they are, and what they depend on."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.checks import CFG, CONFIGS, check_same, ragged_batch, random_params, run_step

import rmaat_np as rn
from rmaat_np import segments
from rmaat_np.plasticity import RETENTION_MODES, retention_factors

GATED = replace(CFG, retention="learned", retention_horizon=64)


def drawn(total, cfg=GATED, count=400):
    """The factors of sequences of T segments, one of each of so many steps: (count, T)."""
    return np.array([segments.sequence_factors(total, cfg, (0, step), 3) for step in range(count)])


def places_among(factors, horizon, mode):
    """t - 1 of each factor in the table of that many segments; None if one of them is not there."""
    table = retention_factors(horizon, mode)
    places = [int(np.argmin(np.abs(table - factor))) for factor in factors]
    return places if np.array_equal(table[places], factors) else None


@pytest.mark.parametrize("mode", ["integrate", "learned", "scale"])
def test_factors_are_those_of_one_longer_sequence_in_rising_order(mode):
    cfg, horizons, firsts = replace(GATED, retention=mode), [], 0
    own = retention_factors(5, mode)
    for factors in drawn(5, cfg):
        if np.array_equal(factors, own):
            horizons.append(0)
            continue
        found = {H: places for H in (8, 16, 32, 64) if (places := places_among(factors, H, mode)) is not None}
        assert found, f"{factors} are of no table"
        horizon, places = found.popitem()
        assert places == sorted(set(places))
        horizons.append(horizon)
        firsts += places[0] == 0
    counts = {H: horizons.count(H) for H in (0, 8, 16, 32, 64)}
    assert 0.23 < counts.pop(0) / 400 < 0.37  # 0.3, and 3 standard deviations
    assert all(40 < count < 105 for count in counts.values())  # 70
    assert 0.5 < firsts / (400 - horizons.count(0)) < 0.8  # half of them, and those that are drawn with the place 1


@pytest.mark.parametrize(("total", "horizons"), [(1, 7), (2, 6), (33, 1), (64, 0)])
def test_a_longer_sequence_has_a_power_of_two_segments_up_to_the_horizon(total, horizons):
    """Of 64 among 64 there is one choice, the sequence's own factors."""
    firsts = {round(float(factors[0]), 12) for factors in drawn(total) if factors[0] != retention_factors(total)[0]}
    assert (len(firsts) > 0) == (horizons > 0)


@pytest.mark.parametrize("total", [65, 100])
def test_sequences_beyond_the_horizon_have_their_own_factors(total):
    np.testing.assert_array_equal(drawn(total, count=20), np.tile(retention_factors(total, "learned"), (20, 1)))


def test_factors_depend_on_seed_step_and_place_and_on_nothing_else():
    names = [((0, 1), 2), ((1, 0), 2), ((0, 2), 1), ((0, 1), 3), ((5, 1), 2), ((0, 7), 2)]
    first = [segments.sequence_factors(6, GATED, *name).tolist() for name in names]
    assert first == [segments.sequence_factors(6, GATED, *name).tolist() for name in names]
    assert len({tuple(factors) for factors in first}) > 3


@pytest.mark.parametrize("name", ["horizon", "horizon pair"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_each_sequence_has_the_factors_of_its_place_in_the_batch(name, size):
    """In whichever shard it is."""
    cfg = CONFIGS[name]
    tokens, labels = ragged_batch(cfg)
    sequences = segments.check_tokens(tokens, cfg)
    totals = -(-segments.sequence_lengths(sequences) // cfg.segment_length)
    seen = set()
    for shard in segments.cut_shards(sequences, labels, cfg, np.float64, size, step_key=(3, 5)):
        for b, place in enumerate(shard.rows.tolist()):
            total = totals[place]
            expected = segments.sequence_factors(int(total), cfg, (3, 5), place)
            np.testing.assert_array_equal(shard.factors[:total, b], expected)
            seen.add(place)
    assert seen == set(range(len(sequences)))


@pytest.mark.parametrize("mode", sorted(RETENTION_MODES))
def test_the_horizon_acts_in_training_alone_and_not_without_factors(mode):
    plain = replace(CFG, retention=mode)
    cfg, params, batch = replace(plain, retention_horizon=64), random_params(plain), ragged_batch(plain)
    check_same(rn.predict(params, cfg, batch[0]), rn.predict(params, plain, batch[0]))
    for names in ({}, {"seed": 1}, {"step": 1}):
        check_same(rn.loss_and_grads(params, cfg, *batch, **names), rn.loss_and_grads(params, plain, *batch))
    losses = {float(rn.loss_and_grads(params, cfg, *batch, seed=3, step=step)[0]) for step in range(4)}
    assert len(losses) == 1 if mode == "none" else len(losses) > 1


def test_without_a_horizon_seed_and_step_change_nothing():
    params = random_params(CFG)
    check_same(run_step(CFG, params=params), rn.loss_and_grads(params, CFG, *ragged_batch(CFG)))


def test_factors_that_are_kept_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        segments._long_factors(8, "integrate")[0] = 1.0
