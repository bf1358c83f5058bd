"""Attention: linear and softmax against their quadratic references, every gradient against central differences."""

import numpy as np
import pytest
from helpers.attention_pairs import PAIRS
from helpers.checks import CHECKS, normal

from rmaat_np import attention


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_pair(pair, check):
    check(pair)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("feedback", "alpha"), [(True, 1.0), (True, 0.5), (True, 2.0), (False, 1.0)])
@pytest.mark.parametrize("astro", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("queries", [20, 4])
def test_astromorphic_attention_equals_its_quadratic_reference(queries, masked, astro, feedback, alpha, heads):
    x, features, mask = inputs_of_reference(queries, masked)
    options = {"alpha": alpha, "use_feedback": feedback}
    y, _ = attention.astromorphic_attention_forward(*x, features if astro else None, mask, heads, **options)
    expected = attention.astromorphic_attention_quadratic(*x, features if astro else None, mask, heads, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-10)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("queries", [20, 4])
def test_softmax_attention_equals_its_quadratic_reference(queries, masked, heads):
    x, _, mask = inputs_of_reference(queries, masked)
    y, _ = attention.softmax_attention_forward(*x, mask, heads)
    np.testing.assert_allclose(y, attention.softmax_attention_quadratic(*x, mask, heads), rtol=1e-10)


def inputs_of_reference(queries, masked):
    """-> (q, k, v), features, mask: 3 sequences of 20 rows, width 12."""
    x = normal(q=(3, queries, 12), k=(3, 20, 12), v=(3, 20, 12), features=(20, 12))
    live = np.random.default_rng(5).random((3, 20, 1)) < 0.6
    live[:, 0] = True
    return (x["q"], x["k"], x["v"]), np.exp(x["features"]), live.astype(np.float64) if masked else None


@pytest.mark.parametrize("kind", ["astromorphic", "softmax"])
def test_masked_rows_have_no_influence_and_no_gradient(kind):
    (q, k, v), features, mask = inputs_of_reference(20, True)
    forward, backward = (getattr(attention, f"{kind}_attention_{way}") for way in ("forward", "backward"))
    rest = (features, mask, 3) if kind == "astromorphic" else (mask, 3)
    y, cache = forward(q, k, v, *rest)
    padding = np.where(mask == 0, 1e3, 0)
    np.testing.assert_array_equal(forward(q, k - padding, v + padding, *rest)[0], y)
    dkv = backward(np.ones_like(y), cache)[1]
    assert not (dkv * (mask == 0)).any() and (dkv * mask).any()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sequence_of_nothing_but_padding_reads_nothing(dtype, alpha):
    """It can only come up without memory tokens: C is 0 there, and so is what it divides."""
    (q, k, v), features, mask = inputs_of_reference(20, True)
    mask[1] = 0
    q, k, v, features, mask = (x.astype(dtype) for x in (q, k, v, features, mask))
    y, cache = attention.astromorphic_attention_forward(q, k, v, features, mask, 3, alpha=alpha)
    dq, dkv, dfeatures = attention.astromorphic_attention_backward(q, cache)
    assert not y[1].any() and not dq[1].any() and not dkv[1].any()
    assert all(np.isfinite(x).all() and x.any() for x in (y, dq, dkv, dfeatures))


def test_queries_whose_phi_underflows_read_nothing():
    x, features, _ = inputs_of_reference(20, False)
    q, k, v, features = (array.astype(np.float32) for array in (*x, features))
    q[0] = -1e4
    y, cache = attention.astromorphic_attention_forward(q, k, v, features, None, 3)
    grads = attention.astromorphic_attention_backward(np.ones_like(y), cache)
    assert not y[0].any() and not grads[0][0].any()
    assert all(np.isfinite(gradient).all() for gradient in grads)


def test_distance_decay():
    expected = [[np.exp(-abs(i - j) * 0.3) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(attention.distance_decay(4, 0.3, np.float64), expected, rtol=1e-14)


def test_the_slopes_of_heads_begin_at_the_scale_and_have_the_ratio_of_alibi():
    np.testing.assert_allclose(np.exp(attention.log_slopes(4, 0.05)), [0.05, 0.2, 0.8, 3.2], rtol=1e-14)
    alibi = [2 ** (-8 * k / 6) for k in range(1, 7)]  # as its paper prints them
    np.testing.assert_allclose(np.exp(attention.log_slopes(6, 1 / 256))[::-1], alibi, rtol=1e-14)


def test_each_head_has_the_features_of_its_own_decay():
    w, scales = normal(w=(7, 6))["w"], (0.05, 0.4, 2.0)
    features, _ = attention.head_relative_features_forward(w, np.log(scales))
    expected = [
        attention.relative_features_forward(w[:, 2 * h : 2 * h + 2], scale)[0] for h, scale in enumerate(scales)
    ]
    np.testing.assert_allclose(features, np.concatenate(expected, axis=1), rtol=1e-13)


@pytest.mark.parametrize("log_decay", [-80, -20, 0, 20, 80])
def test_the_ends_of_learned_decays_are_finite(log_decay):
    """From one row for all places to a row of its own for each."""
    w = normal(w=(7, 6))["w"].astype(np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        features, cache = attention.head_relative_features_forward(w, np.full(2, log_decay, np.float32))
        grads = attention.head_relative_features_backward(np.ones_like(w), cache)
    assert all(np.isfinite(x).all() and x.dtype == np.float32 for x in (features, *grads))
    R = w if log_decay > 0 else w.sum(axis=0) + np.zeros_like(w)
    if log_decay:
        np.testing.assert_allclose(features, attention.phi_forward(R)[0], rtol=1e-4)


def test_phi_is_elu_plus_one_and_finite_in_float32():
    u = np.array([-1e4, -100, -2, -1e-3, 0, 1e-3, 2, 100, 1e4], dtype=np.float32)
    out, cache = attention.phi_forward(u)
    np.testing.assert_allclose(out, [u + 1 if u > 0 else np.exp(u) for u in u], rtol=1e-6)
    slope = attention.phi_backward(np.ones_like(u), cache)
    np.testing.assert_allclose(slope, [1 if u > 0 else np.exp(u) for u in u], rtol=1e-6)
    assert out.dtype == slope.dtype == np.float32
