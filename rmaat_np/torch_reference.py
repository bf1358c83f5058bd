"""The same model written plainly in PyTorch, gradients by autograd: the oracle of tests and the peer of the benchmark.

Nothing of the package's arithmetic is used but the retention factors. PyTorch is no dependency: only `benchmark.py`
and a test that skips without it import this file. Dropout is left out.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint as run_checkpointed

from .plasticity import retention_factors


def to_torch(params: dict, requires_grad: bool = True, device: str = "cpu") -> dict:
    """The flat dict of host arrays as leaf tensors on a device."""
    tensors = {name: torch.tensor(array, device=device) for name, array in params.items()}
    return {name: tensor.requires_grad_(requires_grad) for name, tensor in tensors.items()}


def relative_features(params, cfg, layer):
    """phi(R), R = r Wrel, in heads. Shapes: -> (h, M + L, m)."""
    w = params[f"blocks.{layer}.attn.rel.weight"]
    place = torch.arange(len(w), device=w.device)
    decay = torch.exp(-(place[:, None] - place).abs().to(w.dtype) * cfg.position_scale)
    return (F.elu(decay @ w) + 1).view(len(w), cfg.num_heads, -1).transpose(0, 1)


def attention(x, params, cfg, layer, features, mask):
    """Astromorphic or softmax attention with its projections. Shapes: x (B, N, D), mask (B, N) bool or None."""
    name, (B, N, D), h = f"blocks.{layer}.attn", x.shape, cfg.num_heads
    qkv = F.linear(x, params[f"{name}.qkv.weight"].T, params[f"{name}.qkv.bias"])
    q, k, v = qkv.view(B, N, 3, h, D // h).permute(2, 0, 3, 1, 4)
    if cfg.attention == "softmax":
        y = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
    else:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if mask is not None:
            k, v = k * mask[:, None, :, None], v * mask[:, None, :, None]
        keys = k if features is None else k + features[:, :N]
        y = q @ (keys.transpose(2, 3) @ v / (D // h))
        if cfg.use_feedback:
            g = k.sum(dim=2, keepdim=True) ** cfg.alpha if cfg.alpha != 1 else k.sum(dim=2, keepdim=True)
            y = y / (q @ g.transpose(2, 3))
    y = y.transpose(1, 2).reshape(B, N, D)
    return F.linear(y, params[f"{name}.out.weight"].T, params[f"{name}.out.bias"])


def norm(x, params, name):
    """Layer norm with the parameters of that name."""
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.gain"], params[f"{name}.bias"], eps=1e-5)


def block(x, params, cfg, layer, features, mask):
    """One pre- or post-norm block. Shapes: x (B, N, D) -> (B, N, D)."""
    name = f"blocks.{layer}"

    def mlp(x):
        hidden = F.linear(x, params[f"{name}.mlp.in.weight"].T, params[f"{name}.mlp.in.bias"])
        active = F.gelu(hidden, approximate="tanh")
        return F.linear(active, params[f"{name}.mlp.out.weight"].T, params[f"{name}.mlp.out.bias"])

    if cfg.norm == "pre":
        x = x + attention(norm(x, params, f"{name}.norm1"), params, cfg, layer, features, mask)
        return x + mlp(norm(x, params, f"{name}.norm2"))
    x = norm(x + attention(x, params, cfg, layer, features, mask), params, f"{name}.norm1")
    return norm(x + mlp(x), params, f"{name}.norm2")


def segment(memory, tokens, t, params, cfg, features, mask):
    """Read segment t. Shapes: memory (B, M, D), tokens (B, n) -> written memory (B, M, D), sum of outputs (B, D)."""
    M, n = cfg.num_memory, tokens.shape[1]
    x = F.embedding(tokens, params["embed.token"]) + params["embed.position"][:n]
    if cfg.segment_embedding:
        x = x + params["embed.segment"][t]
    x = torch.cat([memory, x], dim=1)
    for layer in range(cfg.num_layers):
        x = block(x, params, cfg, layer, features[layer], mask)
    written = norm(x[:, :M], params, "memory.norm") if M else memory
    if cfg.pooling == "memory":
        return written, None
    out = norm(x[:, M:], params, "out.norm")
    return written, (out if mask is None else out * mask[:, M:, None]).sum(dim=1)


def encode(params, cfg, tokens, checkpoint: bool = False):
    """All segments with the memory handed on. Shapes: tokens (B, n) -> z (B, D)."""
    L, M = cfg.segment_length, cfg.num_memory
    live = tokens != 0
    lengths = (live * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).amax(dim=1)
    totals = (-(-lengths // L)).tolist()
    dtype = params["embed.token"].dtype
    factors = np.zeros((len(totals), max(totals)))
    for b, total in enumerate(totals):
        factors[b, :total] = retention_factors(total, cfg.retention)
    factors = torch.tensor(factors, dtype=dtype, device=tokens.device)[:, :, None, None]
    totals = torch.tensor(totals, device=tokens.device)
    features = [relative_features(params, cfg, i) if cfg.astro else None for i in range(cfg.num_layers)]
    memory = torch.zeros(len(tokens), 0, cfg.d_model, dtype=dtype, device=tokens.device)
    if M:
        memory = params["memory.init"].expand(len(tokens), -1, -1)
    ragged = bool((lengths < tokens.shape[1]).any() or not live.all())
    z = torch.zeros(len(tokens), cfg.d_model, dtype=dtype, device=tokens.device)
    for t in range(factors.shape[1]):
        part = tokens[:, t * L : (t + 1) * L]
        mask = None
        if ragged:
            mask = torch.cat([torch.ones(len(tokens), M, dtype=torch.bool, device=tokens.device), part != 0], dim=1)
            mask[:, :1] |= (totals <= t)[:, None]  # an ended sequence is computed and not used: keep it finite
        arguments = (memory, part, t, params, cfg, features, mask)
        if checkpoint:
            written, summed = run_checkpointed(segment, *arguments, use_reentrant=False)
        else:
            written, summed = segment(*arguments)
        if cfg.retention in ("integrate", "online"):
            updated = memory + factors[:, t] * (written - memory)
        else:
            updated = factors[:, t] * written if cfg.retention == "scale" else written
        going_on = (t < totals)[:, None]
        if cfg.pooling == "memory":
            z = torch.where((totals == t + 1)[:, None], written.mean(dim=1), z) if ragged else written.mean(dim=1)
        else:
            z = torch.where(going_on, z + summed, z) if ragged else z + summed
        memory = torch.where(going_on[:, :, None], updated, memory) if ragged else updated
    return z / live.sum(dim=1, keepdim=True) if cfg.pooling == "mean" else z


def logits(params, cfg, tokens, checkpoint: bool = False):
    """Class scores. Shapes: tokens (B, n), for pairs (B, 2, n) -> (B, C)."""
    if cfg.dropout:
        raise ValueError("the PyTorch reference has no dropout; set dropout to 0")
    z = encode(params, cfg, tokens.reshape(-1, tokens.shape[-1]), checkpoint)
    if cfg.pair:
        a, b = z[0::2], z[1::2]
        z = torch.cat([a, b, a * b, a - b], dim=1)
        z = torch.relu(F.linear(z, params["head.hidden.weight"].T, params["head.hidden.bias"]))
    return F.linear(z, params["head.weight"].T, params["head.bias"])


def loss(params, cfg, tokens, labels, checkpoint: bool = False):
    """Mean cross-entropy, for autograd."""
    return F.cross_entropy(logits(params, cfg, tokens, checkpoint), labels)
