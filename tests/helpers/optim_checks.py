"""AdamW written out, and steps of the optimiser held against it."""

import numpy as np

from rmaat_np.optim import adamw_init, adamw_step

SHAPES = {"embed.token": (5, 4), "blocks.0.mlp.in.weight": (4, 3), "blocks.0.mlp.in.bias": (3,), "out.norm.gain": (4,)}
SHAPES |= {"blocks.0.attn.rel.log_decay": (2,)}
DECAYED = "blocks.0.mlp.in.weight"
CLIPPING = {"never": 1e6, "always": 0.1, "sometimes": 3.0}


def arrays(seed, scale=1.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}


def gradients(step, dtype=np.float64):
    """Norms of about 0.6, 6 and 60 in turn, so that a limit of 3 is met by some and not by others."""
    return arrays(100 + step, (0.1, 1.0, 10.0)[step % 3], dtype)


def norm_of(grads):
    return np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values()))


def reference_step(params, grads, m, v, t, lr, weight_decay, clip_norm):
    """AdamW as its paper prints it, t = 1 for the first step; clipping with PyTorch's 1e-6 in the denominator."""
    scale = min(1.0, clip_norm / (norm_of(grads) + 1e-6))
    for name in params:
        g = scale * grads[name]
        m[name] = 0.9 * m[name] + 0.1 * g
        v[name] = 0.999 * v[name] + 0.001 * g**2
        m_hat = m[name] / (1 - 0.9**t)
        v_hat = v[name] / (1 - 0.999**t)
        decay = weight_decay if name == DECAYED else 0.0
        params[name] = params[name] - lr * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay * params[name])


def check_adamw(clip_norm, weight_decay):
    params, state = arrays(0), adamw_init(arrays(0))
    expected, m, v = arrays(0), *({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    clipped = 0
    for step in range(9):
        grads, lr = gradients(step), 0.1 / (step + 1)
        norm = adamw_step(params, grads, state, step, lr, weight_decay=weight_decay, clip_norm=clip_norm)
        reference_step(expected, grads, m, v, step + 1, lr, weight_decay, clip_norm)
        np.testing.assert_allclose(norm, norm_of(grads), rtol=1e-13)
        clipped += norm > clip_norm
        for name in SHAPES:
            np.testing.assert_allclose(params[name], expected[name], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(state["m"][name], m[name], rtol=1e-12, atol=1e-16)
            np.testing.assert_allclose(state["v"][name], v[name], rtol=1e-12, atol=1e-20)
    assert clipped == {"never": 0, "always": 9, "sometimes": 6}[next(k for k, c in CLIPPING.items() if c == clip_norm)]
