"""Layers and the head: each value against its formula written out, each gradient against central differences."""

import math
import tracemalloc

import numpy as np
import pytest
from helpers.checks import CHECKS, normal
from helpers.layers_pairs import LABELS, PAIRS, TOKENS

from rmaat_np import layers


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


@pytest.mark.parametrize("V", [layers.ONE_HOT_LIMIT, layers.ONE_HOT_LIMIT + 1, 3000])
def test_the_gradient_of_small_and_large_tables_is_the_same(V):
    rng = np.random.default_rng(0)
    tokens, dout = rng.integers(1, V, (5, 80)), rng.standard_normal((5, 80, 3))
    expected = np.zeros((V, 3))
    np.add.at(expected, tokens, dout)
    _, cache = layers.embedding_forward(tokens, np.zeros((V, 3)))
    np.testing.assert_allclose(layers.embedding_backward(dout, cache), expected, rtol=1e-12, atol=1e-13)


def test_a_table_of_a_hundred_thousand_rows_needs_no_matrix_of_all_tokens():
    """With a one-hot matrix, 4,096 tokens and 100,000 rows would be 1.6 GB."""
    tokens, dout = np.arange(4096).reshape(32, 128), np.ones((32, 128, 8), dtype=np.float32)
    _, cache = layers.embedding_forward(tokens, np.zeros((100_000, 8), dtype=np.float32))
    tracemalloc.start()
    try:
        layers.embedding_backward(dout, cache)
        assert tracemalloc.get_traced_memory()[1] < 4 * 100_000 * 8 * 4  # a few times the table itself
    finally:
        tracemalloc.stop()
