"""A trained model at work: rows of any lengths, and a model for longer rows."""

import numpy as np
import pytest

import rmaat_np as rn
from rmaat_np.errors import InputError

CFG = rn.Config(20, 3, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=4, num_segments=3, num_memory=2)
PARAMS = rn.init_params(CFG, seed=1, dtype="float64")
RNG = np.random.default_rng(0)
ROWS = [RNG.integers(1, 20, length) for length in RNG.integers(1, 13, 300)]


def alone(params, cfg, row):
    logits = rn.predict(params, cfg, np.asarray(row)[None])[0]
    return np.exp(logits) / np.exp(logits).sum()


def test_each_row_is_answered_as_if_it_were_alone():
    found = rn.predict_proba(PARAMS, CFG, ROWS, workers=2)
    assert found.shape == (300, 3) and found.dtype == np.float64
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found, [alone(PARAMS, CFG, row) for row in ROWS], rtol=1e-10)


def test_padded_rows_lists_and_pairs():
    padded = np.array([[3, 4, 0, 0], [5, 6, 7, 0]])
    lists = rn.predict_proba(PARAMS, CFG, [[3, 4], [5, 6, 7]])
    np.testing.assert_array_equal(rn.predict_proba(PARAMS, CFG, padded), lists)
    cfg = rn.Config(20, 3, d_model=8, num_heads=2, d_ff=8, segment_length=4, num_segments=3, num_memory=2, pair=True)
    params = rn.init_params(cfg, dtype="float64")
    found = rn.predict_proba(params, cfg, [([3, 4], [5]), ([1], [2, 3, 4, 5, 6])])
    expected = rn.predict(
        params, cfg, np.array([[[3, 4, 0, 0, 0], [5, 0, 0, 0, 0]], [[1, 0, 0, 0, 0], [2, 3, 4, 5, 6]]])
    )
    np.testing.assert_allclose(np.log(found[:, :1] / found), expected[:, :1] - expected, rtol=1e-8)
    assert rn.predict_proba(PARAMS, CFG, []).shape == (0, 3)


def test_large_logits_do_not_overflow():
    params = PARAMS | {"head.bias": np.array([1e4, 0, -1e4])}
    np.testing.assert_array_equal(rn.predict_proba(params, CFG, [[1]]), [[1, 0, 0]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r"X\[1\] has 0 tokens, but the model reads 1 to 12"),
        ([0, 0], r"X\[1\] has 0 tokens"),
        ([1] * 13, r"X\[1\] has 13 tokens, .*; cut it, or `lengthen` the model"),
        ([1, 20], r"X\[1\] has an id outside 0 to 19"),
        ([1, -1], r"X\[1\] has an id outside"),
        ([1.5], r"X\[1\] is float64 of shape"),
        ([[1]], r"X\[1\] is int64 of shape \(1, 1\)"),
    ],
)
def test_a_wrong_row_is_named(row, message):
    with pytest.raises(InputError, match=message):
        rn.predict_proba(PARAMS, CFG, [[1], row])


def test_lengthen_keeps_all_it_can_and_says_what_it_repeats():
    with pytest.warns(UserWarning, match="segments 4 to 5 take the row of embed.segment that segment 3 learned"):
        params, cfg = rn.lengthen(PARAMS, CFG, num_segments=5)
    assert cfg.max_length == 20 and CFG.num_segments == 3
    for name, array in PARAMS.items():
        np.testing.assert_array_equal(params[name][: len(array)], array)
    np.testing.assert_array_equal(params["embed.segment"][3:], np.repeat(PARAMS["embed.segment"][-1:], 2, axis=0))
    np.testing.assert_array_equal(
        rn.predict_proba(params, cfg, ROWS[:5]), rn.predict_proba(PARAMS, CFG, ROWS[:5])
    )  # as long as before: the same answers
    assert rn.predict_proba(params, cfg, [[1] * 20]).shape == (1, 3)


def test_without_segment_embedding_nothing_is_repeated(recwarn):
    cfg = rn.Config(20, 3, d_model=8, num_heads=2, d_ff=8, num_segments=3, segment_embedding=False)
    params, longer = rn.lengthen(rn.init_params(cfg), cfg, 1000)
    assert longer.num_segments == 1000 and "embed.segment" not in params and not recwarn.list
    assert rn.lengthen(PARAMS, CFG, 3)[1] == CFG and not recwarn.list


@pytest.mark.parametrize("number", [2, 0, 3.5, "4", True])
def test_a_model_is_never_shortened(number):
    with pytest.raises(InputError, match="num_segments is"):
        rn.lengthen(PARAMS, CFG, number)
