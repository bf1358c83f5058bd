"""Every pair of attention.py, the attention layer and the block, with inputs to differentiate them at."""

from dataclasses import replace
from itertools import product

import numpy as np
from helpers.checks import CFG, KEY, Pair, normal, on_device, pair_of, random_params

from rmaat_np import attention, model
from rmaat_np.params import block_params

MASK = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=bool)[:, :, None]
QKV = normal(q=(2, 5, 4), k=(2, 5, 4), v=(2, 5, 4), phi_r=(5, 4))
PHI_R = np.abs(QKV.pop("phi_r")) + 0.1  # phi is above 0


def split_gradients(dq, dkv, dphi_r=None):
    grads = {"q": dq, "k": dkv[:, :, :4], "v": dkv[:, :, 4:]}
    return grads if dphi_r is None else grads | {"phi_r": dphi_r}


def astromorphic_pairs():
    """Every combination of mask, phi(R), feedback and alpha; and once with queries of the memory rows only."""
    for masked, astro, feedback, alpha in product((True, False), (True, False), (True, False), (0.5, 1.0)):
        inputs = QKV | ({"phi_r": PHI_R} if astro else {})
        options = {"mask": MASK if masked else None, "num_heads": 2, "alpha": alpha, "use_feedback": feedback}
        options |= {} if astro else {"phi_r": None}
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


def model_pair(op, part, num_queries, mask=MASK, dropout_key=None, **switches) -> Pair:
    """`attention_layer` or `block` of model.py: gradients of x, of phi(R) and of the parameters."""
    cfg = replace(CFG, **switches)
    block = block_params(random_params(cfg), 0)
    params = {name: p for name, p in block.items() if name.startswith(part) and "rel." not in name}
    inputs = normal(x=(2, 5, 4)) | params | ({"phi_r": PHI_R} if cfg.astro else {})

    def forward(inputs):
        x = inputs["x"]
        cast_mask = None if mask is None else on_device(mask.astype(x.dtype))
        forward_of = getattr(model, f"{op}_forward")
        out, cache = forward_of(x, inputs, inputs.get("phi_r"), cfg, cast_mask, on_device(dropout_key), num_queries)
        return (out,), cache

    def backward(douts, cache):
        dx, grads, dphi_r = getattr(model, f"{op}_backward")(*douts, cache)
        return grads | {"x": dx} | ({} if dphi_r is None else {"phi_r": dphi_r})

    return Pair(inputs, forward, backward)


LAYER, BLOCK = ("attention_layer", "attn."), ("block", "")
PAIRS = {
    "phi": pair_of(attention, "phi", {"u": 2 * normal(u=(3, 7))["u"]}),
    "relative features": pair_of(attention, "relative_features", normal(w=(5, 4)), scale=0.3),
    "relative features of heads": pair_of(attention, "head_relative_features", normal(w=(5, 6), log_decay=(3,))),
    **dict(astromorphic_pairs()),
    **dict(softmax_pairs()),
    "attention layer": model_pair(*LAYER, 5),
    "attention layer, 2 queries, dropout": model_pair(*LAYER, 2, dropout_key=KEY),
    "attention layer, no astro, no mask": model_pair(*LAYER, 5, mask=None, use_astro=False),
    "attention layer, softmax": model_pair(*LAYER, 5, attention="softmax"),
    "attention layer, softmax, 2 queries": model_pair(*LAYER, 2, attention="softmax"),
    "block pre": model_pair(*BLOCK, 5),
    "block pre, 2 queries, dropout": model_pair(*BLOCK, 2, dropout_key=KEY),
    "block post": model_pair(*BLOCK, 5, norm="post"),
    "block post, 2 queries, dropout": model_pair(*BLOCK, 2, dropout_key=KEY, norm="post"),
}
