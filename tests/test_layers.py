"""Layers and the head: each value against its formula written out, each gradient against central differences."""

import math

import numpy as np
import pytest
from checks import CFG, CHECKS, CONFIGS, KEY, Pair, normal, on_device, pair_of, random_params

from rmaat_np import dropout, layers, model

TOKENS = np.array([[1, 4, 1], [0, 1, 2]])  # 1 three times, 3 never
LABELS = np.array([2, 0, 2, 1])


def mlp_pair(key):
    """The feed-forward layer: gradients of x and of its parameters."""
    params = {name: p for name, p in random_params(CFG).items() if name.startswith("blocks.1.mlp.")}

    def backward(douts, cache):
        dx, grads = model.mlp_backward(*douts, cache, 1)
        return grads | {"x": dx}

    def forward(inputs):
        out, cache = model.mlp_forward(inputs["x"], inputs, 1, on_device(key))
        return (out,), cache

    return Pair(normal(x=(2, 3, 4)) | params, forward, backward)


def head_pair(cfg):
    """The head: gradients of z and of its parameters."""
    params = {name: p for name, p in random_params(cfg).items() if name.startswith("head.")}

    def backward(douts, cache):
        dz, grads = model.head_backward(*douts, cache)
        return grads | {"z": dz}

    def forward(inputs):
        out, cache = model.head_forward(inputs["z"], inputs, cfg)
        return (out,), cache

    return Pair(normal(z=(6, 4)) | params, forward, backward)


PAIRS = {
    "linear": pair_of(layers, "linear", normal(x=(2, 3, 4), w=(4, 5), b=(5,))),
    "layer norm": pair_of(layers, "layer_norm", normal(x=(2, 3, 4), gain=(4,), bias=(4,))),
    "gelu": pair_of(layers, "gelu", {"x": 2 * normal(x=(3, 7))["x"]}),
    "relu": pair_of(layers, "relu", normal(x=(3, 7))),
    "embedding": pair_of(layers, "embedding", normal(table=(5, 4)), tokens=TOKENS),
    "softmax cross-entropy": pair_of(layers, "softmax_cross_entropy", normal(logits=(4, 3)), labels=LABELS, weight=0.3),
    "dropout": pair_of(dropout, "dropout", normal(x=(2, 3, 5)), key=KEY, layer=1, site="attention"),
    "no dropout": pair_of(dropout, "dropout", normal(x=(2, 3, 5)), key=None, layer=1, site="attention"),
    "pair features": pair_of(model, "pair_features", normal(z=(6, 4))),
    "mlp": mlp_pair(None),
    "mlp with dropout": mlp_pair(KEY),
    "head": head_pair(CFG),
    "head of pairs": head_pair(CONFIGS["pair"]),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_pair(pair, check):
    check(pair)


def layer_norm(x, gain, bias):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return gain * (x - mean) / np.sqrt(variance + 1e-5) + bias


def cross_entropy(logits):
    return 0.3 * sum(np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, LABELS, strict=True))


def compared(z):
    return np.stack([np.concatenate([a, b, a * b, a - b]) for a, b in z.reshape(-1, 2, z.shape[-1])])


FORMULAS = {
    "linear": lambda x, w, b: np.einsum("abd,de->abe", x, w) + b,
    "layer norm": layer_norm,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.where(x > 0, x, 0),
    "embedding": lambda table: np.stack([[table[i] for i in row] for row in TOKENS]),
    "softmax cross-entropy": cross_entropy,
    "no dropout": lambda x: x,
    "pair features": compared,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_value(name):
    pair = PAIRS[name]
    (out,), _ = pair.forward(pair.inputs)
    np.testing.assert_allclose(out, FORMULAS[name](**pair.inputs), rtol=1e-12, atol=1e-15)


def test_sum_rows():
    x = normal(x=(2, 3, 4))["x"]
    np.testing.assert_allclose(layers.sum_rows(x), x.sum(axis=(0, 1)), rtol=1e-12)


def test_cross_entropy_of_large_logits_is_finite():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=np.float32)
    loss, cache = layers.softmax_cross_entropy_forward(logits, np.array([0, 0]), 0.5)
    assert loss == 1e4
    np.testing.assert_array_equal(layers.softmax_cross_entropy_backward(1.0, cache), [[0, 0, 0], [-0.5, 0.5, 0]])


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e4])
def test_layer_norm_and_gelu_are_finite_at_any_scale(scale):
    """Rows of equal numbers too, whose variance is 0."""
    x = np.concatenate([normal(x=(3, 8))["x"], np.ones((1, 8))]).astype(np.float32) * np.float32(scale)
    one, zero = np.ones(8, dtype=np.float32), np.zeros(8, dtype=np.float32)
    for forward, backward, inputs in (
        (layers.layer_norm_forward, layers.layer_norm_backward, (x, one, zero)),
        (layers.gelu_forward, layers.gelu_backward, (x,)),
    ):
        out, cache = forward(*inputs)
        grads = backward(np.ones_like(out), cache)
        assert np.isfinite(out).all()
        assert all(np.isfinite(g).all() for g in (grads if isinstance(grads, tuple) else (grads,)))


@pytest.mark.parametrize("shape", [(3, 70_000), (700, 300), (2, 5)])
def test_gelu_in_blocks_is_gelu(shape):
    """The plain twin of the blocked passes: the formula, on several blocks, on wide rows, and on one block."""
    rng = np.random.default_rng(0)
    x, dout = rng.standard_normal(shape), rng.standard_normal(shape)
    slope = math.sqrt(2 / math.pi)
    t = np.tanh(slope * (x + 0.044715 * x**3))
    out, cache = layers.gelu_forward(x)
    np.testing.assert_allclose(out, x / 2 * (1 + t), rtol=1e-12, atol=1e-15)
    expected = (1 + t) / 2 + x / 2 * (1 - t**2) * slope * (1 + 3 * 0.044715 * x**2)
    np.testing.assert_allclose(layers.gelu_backward(dout, cache), dout * expected, rtol=1e-11, atol=1e-14)
