"""The memory update and the segment in every situation, with inputs to differentiate them at."""

from dataclasses import replace

import numpy as np
from helpers.checks import CFG, KEY, Pair, normal, on_device, pair_of, random_params

from rmaat_np import backend, memory, model, replay
from rmaat_np.plasticity import RETENTION_MODES
from rmaat_np.segments import Segment

FACTOR = np.array([0.25, 1.0, 0.6])[:, None, None]
PRIOR = np.array([0.25, 0.9, 0.6])[:, None, None]
PADDED = [[1, 0, 2], [3, 4, 0], [2, 5, 6]]
WHOLE = [[1, 1, 2], [3, 4, 1], [2, 5, 6]]
SHORT = [[1, 0], [3, 4], [2, 5]]


def segment_pair(tokens, num_continuing, dropout_key=None, t=1, **switches) -> Pair:
    """A segment: gradients of the memory that it got, of phi(R) of each layer, and of every parameter that it reads."""
    cfg, tokens = replace(CFG, **switches), np.array(tokens)
    batch, M = len(tokens), cfg.num_memory
    unread = ("head.", "memory.init", "attn.rel.")
    params = {name: p for name, p in random_params(cfg).items() if not any(part in name for part in unread)}
    names = [f"phi_r {layer}" for layer in range(cfg.num_layers)] if cfg.astro else []
    rng = np.random.default_rng(6)
    phi_r = {name: rng.random((M + cfg.segment_length, cfg.d_model)) for name in names}
    factor = PRIOR if cfg.retention == "learned" else FACTOR
    mask = np.concatenate([np.ones((batch, M)), tokens != 0], axis=1)[:, :, None]

    def forward(inputs):
        dtype = inputs["memory"].dtype
        segment = Segment(
            index=t,
            tokens=on_device(tokens),
            mask=None if mask.all() else on_device(mask.astype(dtype)),
            factor=on_device(factor[:num_continuing].astype(dtype)),
            num_continuing=num_continuing,
            dropout_key=on_device(dropout_key),
        )
        layers_phi_r = [inputs[name] for name in names]
        *outs, cache = model.segment_forward(inputs, layers_phi_r, cfg, segment, inputs["memory"])
        return tuple(outs), cache

    def backward(douts, cache):
        xp = backend.xp
        dmemory, segment_grads, dphi_r = model.segment_backward(*douts, cache)
        zeros = {name: xp.zeros(p.shape, dtype=dmemory.dtype) for name, p in (params | phi_r).items()}
        grads = replay.Gradients({name: zeros[name] for name in params}, [zeros[name] for name in names])
        replay.add_segment_grads(grads, segment_grads, dphi_r, t)
        return grads.params | dict(zip(names, grads.phi_r, strict=True)) | {"memory": dmemory}

    return Pair(params | phi_r | normal(memory=(batch, M, cfg.d_model)), forward, backward)


MEMORIES = normal(memory=(3, 2, 4), written=(3, 2, 4))
UPDATES = {
    mode: pair_of(memory, "memory_update", MEMORIES, factor=FACTOR, mode=mode)
    for mode in RETENTION_MODES
    if mode != "learned"
}
GATED = pair_of(memory, "gated_update", MEMORIES | normal(w=(8, 1), b=(1,)), prior=PRIOR)
PAIRS = {
    **{f"update {mode}": pair for mode, pair in UPDATES.items()},
    "update learned": GATED,
    **{f"segment {mode}": segment_pair(PADDED, 2, retention=mode) for mode in RETENTION_MODES},
    "segment, all go on": segment_pair(WHOLE, 3),
    "segment, none goes on": segment_pair(PADDED, 0),
    "segment, learned, none goes on": segment_pair(PADDED, 0, retention="learned"),
    "segment, learned, mean, dropout": segment_pair(PADDED[:2], 1, KEY, retention="learned", pooling="mean"),
    "segment, short": segment_pair(SHORT, 1),
    "segment, one sequence": segment_pair(PADDED[:1], 0, t=0),
    "segment, post, dropout": segment_pair(PADDED[:2], 1, KEY, norm="post"),
    "segment, softmax": segment_pair(PADDED, 2, attention="softmax"),
    "segment, no segment embedding": segment_pair(PADDED, 2, segment_embedding=False),
    "segment, no position embedding": segment_pair(PADDED, 2, position_embedding=False),
    "segment, neither": segment_pair(PADDED, 2, position_embedding=False, segment_embedding=False),
    "segment, mean": segment_pair(PADDED, 2, pooling="mean"),
    "segment, mean, short, dropout": segment_pair(SHORT[:2], 1, KEY, pooling="mean"),
    "segment, mean, nothing padded": segment_pair(WHOLE, 2, pooling="mean"),
    "segment, no memory": segment_pair(PADDED, 2, pooling="mean", num_memory=0),
}
