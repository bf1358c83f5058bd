"""Attention: linear and softmax against their quadratic references, every gradient against central differences."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from checks import CFG, CHECKS, KEY, Pair, normal, on_device, pair_of, random_params

from rmaat_np import attention, model

MASK = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=bool)[:, :, None]
QKV = normal(q=(2, 5, 4), k=(2, 5, 4), v=(2, 5, 4), features=(5, 4))
FEATURES = np.abs(QKV.pop("features")) + 0.1  # phi is above 0


def split_gradients(dq, dkv, dfeatures=None):
    grads = {"q": dq, "k": dkv[:, :, :4], "v": dkv[:, :, 4:]}
    return grads if dfeatures is None else grads | {"features": dfeatures}


def astromorphic_pairs():
    """Every combination of mask, features, feedback and alpha; and once with queries of the memory rows only."""
    for masked, astro, feedback, alpha in product((True, False), (True, False), (True, False), (0.5, 1.0)):
        inputs = QKV | ({"features": FEATURES} if astro else {})
        options = {"mask": MASK if masked else None, "num_heads": 2, "alpha": alpha, "use_feedback": feedback}
        options |= {} if astro else {"features": None}
        name = f"astromorphic{' mask' * masked}{' astro' * astro}{' feedback' * feedback} alpha {alpha}"
        yield name, pair_of(attention, "astromorphic_attention", inputs, split_gradients, **options)
        if masked and astro and feedback:
            memory_rows = inputs | {"q": QKV["q"][:, :2]}
            pair = pair_of(attention, "astromorphic_attention", memory_rows, split_gradients, **options)
            yield f"{name}, 2 queries", pair


def softmax_pairs():
    for masked, queries in product((True, False), (5, 2)):
        inputs = QKV | {"q": QKV["q"][:, :queries]}
        options = {"mask": MASK if masked else None, "num_heads": 2}
        pair = pair_of(attention, "softmax_attention", inputs, split_gradients, **options)
        yield f"softmax{' mask' * masked}, {queries} queries", pair


def model_pair(op, part, queries, mask=MASK, key=None, **switches) -> Pair:
    """`attention_layer` or `block` of model.py: gradients of x, of the features and of the parameters."""
    cfg = replace(CFG, **switches)
    params = {name: p for name, p in random_params(cfg).items() if name.startswith(part) and "rel." not in name}
    name = "blocks.0.attn.rel.features"
    inputs = normal(x=(2, 5, 4)) | params | ({name: FEATURES} if cfg.astro else {})

    def forward(inputs):
        x = inputs["x"]
        cast_mask = None if mask is None else on_device(mask.astype(x.dtype))
        forward_of = getattr(model, f"{op}_forward")
        out, cache = forward_of(x, inputs, inputs.get(name), cfg, 0, cast_mask, on_device(key), queries)
        return (out,), cache

    def backward(douts, cache):
        dx, grads = getattr(model, f"{op}_backward")(*douts, cache, cfg, 0)
        return grads | {"x": dx}

    return Pair(inputs, forward, backward)


LAYER, BLOCK = ("attention_layer", "blocks.0.attn."), ("block", "blocks.0.")
PAIRS = {
    "phi": pair_of(attention, "phi", {"u": 2 * normal(u=(3, 7))["u"]}),
    "relative features": pair_of(attention, "relative_features", normal(w=(5, 4)), scale=0.3),
    **dict(astromorphic_pairs()),
    **dict(softmax_pairs()),
    "attention layer": model_pair(*LAYER, 5),
    "attention layer, 2 queries, dropout": model_pair(*LAYER, 2, key=KEY),
    "attention layer, no astro, no mask": model_pair(*LAYER, 5, mask=None, use_astro=False),
    "attention layer, softmax": model_pair(*LAYER, 5, attention="softmax"),
    "attention layer, softmax, 2 queries": model_pair(*LAYER, 2, attention="softmax"),
    "block pre": model_pair(*BLOCK, 5),
    "block pre, 2 queries, dropout": model_pair(*BLOCK, 2, key=KEY),
    "block post": model_pair(*BLOCK, 5, norm="post"),
    "block post, 2 queries, dropout": model_pair(*BLOCK, 2, key=KEY, norm="post"),
}


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


def test_phi_is_elu_plus_one_and_finite_in_float32():
    u = np.array([-1e4, -100, -2, -1e-3, 0, 1e-3, 2, 100, 1e4], dtype=np.float32)
    out, cache = attention.phi_forward(u)
    np.testing.assert_allclose(out, [u + 1 if u > 0 else np.exp(u) for u in u], rtol=1e-6)
    slope = attention.phi_backward(np.ones_like(u), cache)
    np.testing.assert_allclose(slope, [1 if u > 0 else np.exp(u) for u in u], rtol=1e-6)
    assert out.dtype == slope.dtype == np.float32
