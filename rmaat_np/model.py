"""The model: block, segment and head, each as a forward/backward pair. What a segment sees, and what it hands on.

A block's functions get the parameters of their block alone, under names without the prefix `blocks.{i}.`, and return
gradients under the same names. `segment_forward` cuts the prefix off, `segment_backward` puts it back.
"""

from dataclasses import replace

from . import backend
from .attention import (
    astromorphic_attention_backward,
    astromorphic_attention_forward,
    softmax_attention_backward,
    softmax_attention_forward,
)
from .config import Config
from .dropout import dropout_backward, dropout_forward
from .layers import (
    embedding_backward,
    embedding_forward,
    gelu_backward,
    gelu_forward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_forward,
    relu_backward,
    relu_forward,
    sum_rows,
)
from .memory import gated_update_backward, gated_update_forward, memory_update_backward, memory_update_forward
from .params import block_params
from .segments import Segment


def attention_layer_forward(x, params: dict, phi_r, cfg: Config, mask, dropout_key, num_queries: int):
    """A(x) for the first `num_queries` rows: project to q, k, v, attend, project back, drop out.

    Shapes: x (B, N, D); params: of one block; phi_r (N, D) or None; mask (B, N, 1) or None -> out (B, num_queries, D)
    Cache: those of its five operations.
    """
    D = cfg.d_model
    w, b = params["attn.qkv.weight"], params["attn.qkv.bias"]  # columns q, k, v
    q, q_cache = linear_forward(x[:, :num_queries], w[:, :D], b[:D])
    kv, kv_cache = linear_forward(x, w[:, D:], b[D:])
    k, v = kv[:, :, :D], kv[:, :, D:]
    cache = {"q": q_cache, "kv": kv_cache}
    if cfg.attention == "softmax":
        y, cache["softmax"] = softmax_attention_forward(q, k, v, mask, cfg.num_heads)
    else:
        options = {"alpha": cfg.alpha, "use_feedback": cfg.use_feedback}
        y, cache["astromorphic"] = astromorphic_attention_forward(q, k, v, phi_r, mask, cfg.num_heads, **options)
    out, cache["out"] = linear_forward(y, params["attn.out.weight"], params["attn.out.bias"])
    out, cache["dropout"] = dropout_forward(out, dropout_key, "attention")
    return out, cache


def attention_layer_backward(dout, cache):
    """Gradient of A(x).

    Shapes: dout (B, num_queries, D) -> dx (B, N, D); grads by name; dphi_r (N, D), or None without H_astro
    """
    xp, grads, dphi_r = backend.xp, {}, None
    dout = dropout_backward(dout, cache["dropout"])
    dy, grads["attn.out.weight"], grads["attn.out.bias"] = linear_backward(dout, cache["out"])
    if "softmax" in cache:
        dq, dkv = softmax_attention_backward(dy, cache["softmax"])
    else:
        dq, dkv, dphi_r = astromorphic_attention_backward(dy, cache["astromorphic"])
    dx_q, dw_q, db_q = linear_backward(dq, cache["q"])
    dx, dw_kv, db_kv = linear_backward(dkv, cache["kv"])
    dx[:, : dx_q.shape[1]] += dx_q  # x feeds both projections
    grads["attn.qkv.weight"] = xp.concatenate([dw_q, dw_kv], axis=1)
    grads["attn.qkv.bias"] = xp.concatenate([db_q, db_kv])
    return dx, grads, dphi_r


def mlp_forward(x, params: dict, dropout_key):
    """W2 gelu(W1 x), dropped out. Shapes: x (B, N, D); params: of one block -> out (B, N, D), (B, N, F) inside."""
    hidden, in_cache = linear_forward(x, params["mlp.in.weight"], params["mlp.in.bias"])
    active, gelu_cache = gelu_forward(hidden)
    out, out_cache = linear_forward(active, params["mlp.out.weight"], params["mlp.out.bias"])
    out, dropout_cache = dropout_forward(out, dropout_key, "feed_forward")
    return out, {"in": in_cache, "gelu": gelu_cache, "out": out_cache, "dropout": dropout_cache}


def mlp_backward(dout, cache):
    """Gradient of the feed-forward layer. Shapes: dout (B, N, D) -> dx (B, N, D), grads by name."""
    grads = {}
    dout = dropout_backward(dout, cache["dropout"])
    dactive, grads["mlp.out.weight"], grads["mlp.out.bias"] = linear_backward(dout, cache["out"])
    dhidden = gelu_backward(dactive, cache["gelu"])
    dx, grads["mlp.in.weight"], grads["mlp.in.bias"] = linear_backward(dhidden, cache["in"])
    return dx, grads


def block_forward(x, params: dict, phi_r, cfg: Config, mask, dropout_key, num_queries: int):
    """One block. pre: x += A(LN1(x)); x += MLP(LN2(x)).  post: x = LN1(x + A(x)); x = LN2(x + MLP(x)) (decided: pre).

    Only the first `num_queries` rows are computed: all N, or just the memory tokens where nothing reads the others.
    Shapes: x (B, N, D); params: of this block; phi_r (N, D) or None; mask (B, N, 1) or None -> (B, num_queries, D)
    Cache: those of its operations, and whether the norms come first.
    """
    norm1, norm2 = ((params[f"{name}.gain"], params[f"{name}.bias"]) for name in ("norm1", "norm2"))
    cache = {"pre": cfg.norm == "pre"}
    inside = params, phi_r, cfg, mask, dropout_key, num_queries
    if cfg.norm == "pre":
        normed, cache["norm1"] = layer_norm_forward(x, *norm1)
        out, cache["attention"] = attention_layer_forward(normed, *inside)
        out += x[:, :num_queries]  # `out` is the layer's fresh array: the residual sum needs no other
        normed, cache["norm2"] = layer_norm_forward(out, *norm2)
        x, cache["mlp"] = mlp_forward(normed, params, dropout_key)
        x += out
    else:
        out, cache["attention"] = attention_layer_forward(x, *inside)
        out += x[:, :num_queries]
        normed, cache["norm1"] = layer_norm_forward(out, *norm1)
        out, cache["mlp"] = mlp_forward(normed, params, dropout_key)
        out += normed
        x, cache["norm2"] = layer_norm_forward(out, *norm2)
    return x, cache


def block_backward(dx, cache):
    """Gradient of one block: a residual sum sends its gradient both ways.

    Shapes: dx (B, num_queries, D) -> dx (B, N, D); grads by name; dphi_r (N, D), or None without H_astro
    """
    grads, num_queries = {}, dx.shape[1]
    if cache["pre"]:
        dnormed, mlp_grads = mlp_backward(dx, cache["mlp"])
        dsum, grads["norm2.gain"], grads["norm2.bias"] = layer_norm_backward(dnormed, cache["norm2"])
        dsum += dx
        dnormed, attention_grads, dphi_r = attention_layer_backward(dsum, cache["attention"])
        dx, grads["norm1.gain"], grads["norm1.bias"] = layer_norm_backward(dnormed, cache["norm1"])
    else:
        dsum, grads["norm2.gain"], grads["norm2.bias"] = layer_norm_backward(dx, cache["norm2"])
        dnormed, mlp_grads = mlp_backward(dsum, cache["mlp"])
        dnormed += dsum
        dsum, grads["norm1.gain"], grads["norm1.bias"] = layer_norm_backward(dnormed, cache["norm1"])
        dx, attention_grads, dphi_r = attention_layer_backward(dsum, cache["attention"])
    dx[:, :num_queries] += dsum
    return dx, grads | attention_grads | mlp_grads, dphi_r


def segment_forward(params: dict, phi_r: list, cfg: Config, segment: Segment, memory):
    """Read one segment together with the memory tokens; return the memory for the next one and what is read out.

        x = [memory ; E[tokens] + Pos + Seg[t]];  blocks  (Pos and Seg can be switched off)
        written = LN_mem(x[:M]);  memory_next = update(memory, written)

    A sequence whose last segment this is ends here: it has no memory_next. With pooling "memory" it is read out here.

    Shapes: phi_r: for each layer (M + L, D), empty without H_astro; memory (B, M, D)
        -> memory_next (num_continuing, M, D); readout: with pooling "memory" the mean over the written memory tokens
        (B - num_continuing, D), with "mean" the sum over the live token outputs (B, D)
    Cache: those of its operations, the segment and the configuration.
    """
    x, cache = _embed(params, cfg, segment, memory)
    cache |= {"cfg": cfg, "segment": segment, "blocks": []}
    M, N = cfg.num_memory, x.shape[1]
    for layer in range(cfg.num_layers):
        # with pooling "memory" nothing reads the last block's token rows: a quarter to a third of the work is not done
        num_queries = M if cfg.pooling == "memory" and layer == cfg.num_layers - 1 else N
        layer_phi_r = phi_r[layer][:N] if cfg.astro else None
        dropout_key = replace(segment.dropout_key, layer=layer) if segment.dropout_key else None
        block = block_params(params, layer)
        x, block_cache = block_forward(x, block, layer_phi_r, cfg, segment.mask, dropout_key, num_queries)
        cache["blocks"].append(block_cache)

    going = segment.num_continuing
    written, memory_next = memory, memory[:going]
    if M:
        norm = params["memory.norm.gain"], params["memory.norm.bias"]
        written, cache["memory_norm"] = layer_norm_forward(x[:, :M], *norm)
        kept, taken = memory[:going], written[:going]
        if cfg.retention == "learned":
            gate = params["memory.gate.weight"], params["memory.gate.bias"]
            memory_next, cache["update"] = gated_update_forward(kept, taken, *gate, prior=segment.factor)
        else:
            memory_next, cache["update"] = memory_update_forward(kept, taken, segment.factor, cfg.retention)
    if cfg.pooling == "memory":
        readout = written[going:].mean(axis=1)
    else:
        out, cache["out_norm"] = layer_norm_forward(x[:, M:], params["out.norm.gain"], params["out.norm.bias"])
        readout = (out if segment.mask is None else out * segment.mask[:, M:]).sum(axis=1)
    return memory_next, readout, cache


def segment_backward(dmemory_next, dreadout, cache):
    """Gradient of one segment: from the memory it handed on and its readout back to the memory that it got.

    Shapes: dmemory_next (num_continuing, M, D), dreadout as the readout -> dmemory (B, M, D); grads by name, of which
        `embed.position` has as many rows as the segment has tokens, and `embed.segment` is the one row of this segment
        (either is absent where it is switched off);
        dphi_r: for each layer (M + n, D), empty without H_astro
    """
    cfg, segment = cache["cfg"], cache["segment"]
    M = cfg.num_memory
    dphi_r: list = []
    dx, dmemory_kept, grads = _readout_backward(dmemory_next, dreadout, cache)
    for layer in reversed(range(cfg.num_layers)):
        dx, block_grads, layer_dphi_r = block_backward(dx, cache["blocks"][layer])
        grads |= {f"blocks.{layer}.{name}": gradient for name, gradient in block_grads.items()}
        if layer_dphi_r is not None:
            dphi_r.insert(0, layer_dphi_r)
    dmemory, dembedded = dx[:, :M], dropout_backward(dx[:, M:], cache["dropout"])
    if dmemory_kept is not None:
        dmemory[: segment.num_continuing] += dmemory_kept  # the path around the segment, memory_next = memory + ...
    grads["embed.token"] = embedding_backward(dembedded, cache["token"])
    dplaces = dembedded.sum(axis=0)
    if cfg.position_embedding:
        grads["embed.position"] = dplaces
    if cfg.segment_embedding:
        grads["embed.segment"] = sum_rows(dplaces)
    return dmemory, grads, dphi_r


def _embed(params, cfg, segment, memory):
    """x = [memory ; E[tokens] + Pos + Seg[t]]. Shapes: memory (B, M, D) -> x (B, M + n, D), the first cache entries."""
    embedded, token_cache = embedding_forward(segment.tokens, params["embed.token"])
    if cfg.position_embedding:
        embedded += params["embed.position"][: segment.tokens.shape[1]]
    if cfg.segment_embedding:
        embedded += params["embed.segment"][segment.index]
    embedded, dropout_cache = dropout_forward(embedded, segment.dropout_key, "embedding")
    x = backend.xp.concatenate([memory, embedded], axis=1)
    return x, {"token": token_cache, "dropout": dropout_cache}


def _readout_backward(dmemory_next, dreadout, cache):
    """Back through the readout, the memory update and the norms before them.

    Shapes: -> dx, of the last block's output (B, rows that it computed, D); dmemory_kept (num_continuing, M, D) or
        None: what goes around the segment to the memory that it got; grads by name
    """
    xp, cfg, segment, grads = backend.xp, cache["cfg"], cache["segment"], {}
    M, going = cfg.num_memory, segment.num_continuing
    batch, length = segment.tokens.shape
    num_queries = M if cfg.pooling == "memory" else M + length
    dx = xp.zeros((batch, num_queries, cfg.d_model), dtype=dreadout.dtype)
    dmemory_kept = None
    if M:
        dwritten = xp.zeros((batch, M, cfg.d_model), dtype=dreadout.dtype)
        if cfg.retention == "learned":
            dmemory_kept, dwritten[:going], *gate_grads = gated_update_backward(dmemory_next, cache["update"])
            grads["memory.gate.weight"], grads["memory.gate.bias"] = gate_grads
        else:
            dmemory_kept, dwritten[:going] = memory_update_backward(dmemory_next, cache["update"])
        if cfg.pooling == "memory":
            dwritten[going:] = dreadout[:, None] / M  # the mean over M tokens
        norm_grads = layer_norm_backward(dwritten, cache["memory_norm"])
        dx[:, :M], grads["memory.norm.gain"], grads["memory.norm.bias"] = norm_grads
    if cfg.pooling == "mean":
        dout = xp.broadcast_to(dreadout[:, None], (batch, length, cfg.d_model))  # the sum over tokens
        dout = dout * 1.0 if segment.mask is None else dout * segment.mask[:, M:]
        dx[:, M:], grads["out.norm.gain"], grads["out.norm.bias"] = layer_norm_backward(dout, cache["out_norm"])
    return dx, dmemory_kept, grads


def pair_features_forward(z):
    """[z1, z2, z1 * z2, z1 - z2]: how the two documents of a row are compared (Long Range Arena, arXiv:2011.04006).

    Shapes: z (2B, D), both documents of a row one after the other -> (B, 4D)
    """
    z1, z2 = z[0::2], z[1::2]
    return backend.xp.concatenate([z1, z2, z1 * z2, z1 - z2], axis=1), {"z": z}


def pair_features_backward(dout, cache):
    """Gradient of the four-part comparison. Shapes: dout (B, 4D) -> dz (2B, D)."""
    z = cache["z"]
    dz, width = backend.xp.empty_like(z), z.shape[1]
    d1, d2, dproduct, ddifference = (dout[:, i * width : (i + 1) * width] for i in range(4))
    dz[0::2] = d1 + dproduct * z[1::2] + ddifference
    dz[1::2] = d2 + dproduct * z[0::2] - ddifference
    return dz


def head_forward(z, params, cfg):
    """Logits = z W + b; for pairs, of relu([z1, z2, z1 * z2, z1 - z2] Wh + bh).

    Shapes: z (B, D), for pairs (2B, D) -> logits (B, C)
    """
    cache = {}
    if cfg.pair:
        z, cache["pair"] = pair_features_forward(z)
        z, cache["hidden"] = linear_forward(z, params["head.hidden.weight"], params["head.hidden.bias"])
        z, cache["relu"] = relu_forward(z)
    logits, cache["logits"] = linear_forward(z, params["head.weight"], params["head.bias"])
    return logits, cache


def head_backward(dlogits, cache):
    """Gradient of the head. Shapes: dlogits (B, C) -> dz as z, grads by name."""
    grads = {}
    dz, grads["head.weight"], grads["head.bias"] = linear_backward(dlogits, cache["logits"])
    if "pair" in cache:
        dz = relu_backward(dz, cache["relu"])
        dz, grads["head.hidden.weight"], grads["head.hidden.bias"] = linear_backward(dz, cache["hidden"])
        dz = pair_features_backward(dz, cache["pair"])
    return dz, grads
