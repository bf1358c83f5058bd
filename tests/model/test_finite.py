"""float32 stays finite at the ends of its inputs: large q, k, v, no live row, no memory, one segment, row or token."""

from itertools import product

import numpy as np
import pytest

from rmaat_np.attention import (
    astromorphic_attention_backward,
    astromorphic_attention_forward,
    phi_backward,
    phi_forward,
    softmax_attention_backward,
    softmax_attention_forward,
)
from rmaat_np.config import Config
from rmaat_np.optim import adamw_init, adamw_step
from rmaat_np.params import init_params
from rmaat_np.step import loss_and_grads, predict

LEVELS = (-1e4, -104, -88, -50, -20, 0, 20, 1e4)


def finite(*arrays) -> bool:
    return all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays if array is not None)


def test_phi_up_to_ten_thousand():
    u = np.concatenate([-np.geomspace(1e-10, 1e4, 500), [0.0], np.geomspace(1e-10, 1e4, 500)]).astype(np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        out, cache = phi_forward(u)
        slope = phi_backward(np.ones_like(u), cache)
    assert finite(out, slope) and out.min() >= 0 and slope.max() == 1
    np.testing.assert_allclose(out[u > 0], u[u > 0] + 1, rtol=1e-6)
    np.testing.assert_allclose(out[u <= 0], np.exp(u[u <= 0].astype(np.float64)), rtol=1e-5, atol=1e-44)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("padding", ["none", "some", "every row"])
@pytest.mark.parametrize("astro", [True, False], ids=["astro", "plain"])
def test_attention_where_phi_vanishes_or_grows(astro, padding):
    """Every query at one level, every key at another: sums over phi come to 0, or to 1e4 times the rows."""
    rng = np.random.default_rng(0)
    B, N, D, heads = 2, 12, 8, 2
    noise = rng.standard_normal((4, B, N, D)).astype(np.float32)
    mask = np.ones((B, N, 1), np.float32)
    mask[:, {"none": N, "some": 5, "every row": 0}[padding] :] = 0
    for q_level, k_level, v_scale, alpha in product(LEVELS, LEVELS, (1, 1e4), (0.5, 1.0, 4.0)):
        q, k, v = (np.float32(x) for x in (q_level + noise[0], k_level + noise[1], v_scale * noise[2]))
        features = phi_forward(np.float32(v_scale) * noise[3, 0])[0] if astro else None
        y, cache = astromorphic_attention_forward(q, k, v, features, mask, heads, alpha=alpha)
        where = f"q {q_level}, k {k_level}, v {v_scale}, alpha {alpha}"
        assert finite(y, *astromorphic_attention_backward(noise[3], cache)), where
    for q_level, k_level in product(LEVELS, LEVELS):
        q, k = np.float32(q_level + noise[0]), np.float32(k_level + noise[1])
        y, cache = softmax_attention_forward(q, k, noise[2], mask, heads)
        assert finite(y, *softmax_attention_backward(noise[3], cache)), f"softmax, q {q_level}, k {k_level}"


SHAPES = {
    "as usual": ({}, (3, 12)),
    "M = 0": ({"num_memory": 0, "pooling": "mean"}, (3, 12)),
    "M = 0, T = 1": ({"num_memory": 0, "pooling": "mean", "num_segments": 1}, (3, 4)),
    "T = 1": ({"num_segments": 1}, (3, 4)),
    "a batch of one": ({}, (1, 12)),
    "lengths of one": ({}, (3, 1)),
    "one row of one token": ({}, (1, 1)),
    "segments of one token": ({"segment_length": 1}, (3, 3)),
    "all sizes 1": ({"d_model": 1, "num_heads": 1, "d_ff": 1, "segment_length": 1, "num_memory": 1}, (1, 1)),
    "padded segments": ({}, "hole"),
    "padded segments, M = 0": ({"num_memory": 0, "pooling": "mean"}, "hole"),
    "pairs": ({"pair": True}, (3, 2, 12)),
    "pairs of lengths of one": ({"pair": True}, (1, 2, 1)),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("attention", ["astromorphic", "softmax"])
@pytest.mark.parametrize("case", SHAPES)
def test_training_at_the_smallest_shapes(case, attention):
    """Three steps of either method at each retention, and the same gradients from both."""
    changes, shape = SHAPES[case]
    rng = np.random.default_rng(1)
    if shape == "hole":  # segments 2 of 3 hold nothing but padding: row 0's, and in the other batch every row's
        tokens = rng.integers(1, 9, (3, 12))
        tokens[:, 4:8] = 0
    else:
        tokens = rng.integers(1, 9, shape)
    labels = rng.integers(0, 3, len(tokens))
    for norm, retention in (
        ("pre", "integrate"),
        ("post", "scale"),
        ("pre", "none"),
        ("pre", "online"),
        ("pre", "learned"),
    ):
        sizes = {"d_model": 8, "num_heads": 2, "d_ff": 6, "segment_length": 4, "num_segments": 3, "num_memory": 2}
        options = {"attention": attention, "norm": norm, "retention": retention, "dropout": 0.1}
        cfg = Config(vocab_size=9, num_classes=3, **sizes | options | changes)
        params = init_params(cfg)
        state = adamw_init(params)
        for step in range(3):
            loss, grads, _ = loss_and_grads(params, cfg, tokens, labels, "amrb", 0, step)
            assert finite(loss, *grads.values())
            _, same, _ = loss_and_grads(params, cfg, tokens, labels, "bptt", 0, step)
            assert all(np.array_equal(grads[name], same[name]) for name in grads)
            adamw_step(params, grads, state, step, 0.01)
        assert finite(*params.values(), predict(params, cfg, tokens))


def test_gradients_of_large_activations():
    """Embeddings of the size 1e4, and keys so far below zero that phi(K) is 0: a whole step is finite."""
    cfg = Config(vocab_size=9, num_classes=3, d_model=8, num_heads=2, d_ff=6, segment_length=4, num_memory=2)
    tokens, labels = np.random.default_rng(2).integers(1, 9, (3, 12)), np.array([0, 1, 2])
    for name, value in (("embed.token", 1e4), ("blocks.0.attn.qkv.bias", -1e4), ("blocks.0.attn.rel.weight", 1e4)):
        params = init_params(cfg)
        params[name] = np.sign(params[name] + 0.5).astype(np.float32) * np.float32(value)
        loss, grads, _ = loss_and_grads(params, cfg, tokens, labels)
        assert finite(loss, *grads.values()), name
