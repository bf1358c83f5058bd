"""Every pair of the model, and some in shapes that only kernels could get wrong."""

import numpy as np
from helpers import attention_pairs, layers_pairs, memory_pairs
from helpers.checks import normal, pair_of

from rmaat_np import attention, layers

WIDE = normal(
    q=(3, 37, 80), k=(3, 70, 80), v=(3, 70, 80)
)  # more rows, and more columns of a head, than lanes of a warp
MASK = (np.random.default_rng(0).random((3, 70, 1)) > 0.3).astype(float)
PAIRS = layers_pairs.PAIRS | attention_pairs.PAIRS | memory_pairs.PAIRS
PAIRS |= {
    "layer norm of 33": pair_of(layers, "layer_norm", normal(x=(5, 9, 33), gain=(33,), bias=(33,))),
    "layer norm of 100": pair_of(layers, "layer_norm", normal(x=(7, 100), gain=(100,), bias=(100,))),
    "wide attention": pair_of(
        attention,
        "astromorphic_attention",
        WIDE | {"phi_r": np.random.default_rng(1).random((70, 80))},
        lambda dq, dkv, dphi_r: {"q": dq, "k": dkv[:, :, :80], "v": dkv[:, :, 80:], "phi_r": dphi_r},
        mask=MASK,
        num_heads=2,
        alpha=0.7,
    ),
}
