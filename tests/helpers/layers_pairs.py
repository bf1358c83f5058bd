"""Every pair of layers.py, dropout.py and of the head, with inputs to differentiate it at."""

import numpy as np
from helpers.checks import CFG, CONFIGS, KEY, Pair, normal, on_device, pair_of, random_params

from rmaat_np import dropout, layers, model
from rmaat_np.params import block_params

TOKENS = np.array([[1, 4, 1], [0, 1, 2]])  # 1 three times, 3 never
LAST = layers.ONE_HOT_LIMIT + 1
MANY_TOKENS = np.array([[LAST, 4, 1, 4], [0, LAST, 2, 4]])  # of a table that is summed by sorting
LABELS = np.array([2, 0, 2, 1])


def mlp_pair(dropout_key):
    """The feed-forward layer: gradients of x and of its parameters."""
    params = {name: p for name, p in block_params(random_params(CFG), 1).items() if name.startswith("mlp.")}

    def backward(douts, cache):
        dx, grads = model.mlp_backward(*douts, cache)
        return grads | {"x": dx}

    def forward(inputs):
        out, cache = model.mlp_forward(inputs["x"], inputs, on_device(dropout_key))
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
    "embedding, large table": pair_of(
        layers, "embedding", normal(table=(layers.ONE_HOT_LIMIT + 2, 2)), tokens=MANY_TOKENS
    ),
    "softmax cross-entropy": pair_of(layers, "softmax_cross_entropy", normal(logits=(4, 3)), labels=LABELS, weight=0.3),
    "softmax cross-entropy, weighted": pair_of(
        layers,
        "softmax_cross_entropy",
        normal(logits=(4, 3)),
        labels=LABELS,
        weight=0.3,
        row_weights=np.array([0.5, 0.0, 2.0, 3.0]),
    ),
    "dropout": pair_of(dropout, "dropout", normal(x=(2, 3, 5)), dropout_key=KEY, site="attention"),
    "no dropout": pair_of(dropout, "dropout", normal(x=(2, 3, 5)), dropout_key=None, site="attention"),
    "pair features": pair_of(model, "pair_features", normal(z=(6, 4))),
    "mlp": mlp_pair(None),
    "mlp with dropout": mlp_pair(KEY),
    "head": head_pair(CFG),
    "head of pairs": head_pair(CONFIGS["pair"]),
}
