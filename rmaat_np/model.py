"""The model: block, segment and head, each as a forward/backward pair. What a segment sees, and what it passes on."""

from . import backend
from .attention import (
    astromorphic_attention_backward,
    astromorphic_attention_forward,
    softmax_attention_backward,
    softmax_attention_forward,
)
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
from .memory import memory_update_backward, memory_update_forward


def attention_layer_forward(x, params, features, cfg, layer, mask, key, queries):
    """A(x) for the first `queries` rows: project to q, k, v, attend, project back, drop out.

    Shapes: x (B, N, D); features (N, D) or None; mask (B, N, 1) or None -> out (B, queries, D)
    """
    name, D = f"blocks.{layer}.attn", cfg.d_model
    w, b = params[f"{name}.qkv.weight"], params[f"{name}.qkv.bias"]  # columns q, k, v
    q, q_cache = linear_forward(x[:, :queries], w[:, :D], b[:D])
    kv, kv_cache = linear_forward(x, w[:, D:], b[D:])
    k, v = kv[:, :, :D], kv[:, :, D:]
    if cfg.attention == "softmax":
        y, attention_cache = softmax_attention_forward(q, k, v, mask, cfg.num_heads)
    else:
        options = {"alpha": cfg.alpha, "use_feedback": cfg.use_feedback}
        y, attention_cache = astromorphic_attention_forward(q, k, v, features, mask, cfg.num_heads, **options)
    out, out_cache = linear_forward(y, params[f"{name}.out.weight"], params[f"{name}.out.bias"])
    out, dropout_cache = dropout_forward(out, key, layer, "attention")
    return out, {"q": q_cache, "kv": kv_cache, "attention": attention_cache, "out": out_cache, "dropout": dropout_cache}


def attention_layer_backward(dout, cache, cfg, layer):
    """Gradient of A(x). Shapes: dout (B, queries, D) -> dx (B, N, D), grads: a dict with the parameters' names."""
    xp, name, grads = backend.xp, f"blocks.{layer}.attn", {}
    dout = dropout_backward(dout, cache["dropout"])
    dy, grads[f"{name}.out.weight"], grads[f"{name}.out.bias"] = linear_backward(dout, cache["out"])
    if cfg.attention == "softmax":
        dq, dkv = softmax_attention_backward(dy, cache["attention"])
    else:
        dq, dkv, dfeatures = astromorphic_attention_backward(dy, cache["attention"])
        if dfeatures is not None:
            grads[f"{name}.rel.features"] = dfeatures
    dx_q, dw_q, db_q = linear_backward(dq, cache["q"])
    dx, dw_kv, db_kv = linear_backward(dkv, cache["kv"])
    dx[:, : dx_q.shape[1]] += dx_q  # x feeds both projections
    grads[f"{name}.qkv.weight"] = xp.concatenate([dw_q, dw_kv], axis=1)
    grads[f"{name}.qkv.bias"] = xp.concatenate([db_q, db_kv])
    return dx, grads


def mlp_forward(x, params, layer, key):
    """W2 gelu(W1 x), dropped out. Shapes: x (B, N, D) -> out (B, N, D), (B, N, F) inside."""
    name = f"blocks.{layer}.mlp"
    hidden, in_cache = linear_forward(x, params[f"{name}.in.weight"], params[f"{name}.in.bias"])
    active, gelu_cache = gelu_forward(hidden)
    out, out_cache = linear_forward(active, params[f"{name}.out.weight"], params[f"{name}.out.bias"])
    out, dropout_cache = dropout_forward(out, key, layer, "feed_forward")
    return out, {"in": in_cache, "gelu": gelu_cache, "out": out_cache, "dropout": dropout_cache}


def mlp_backward(dout, cache, layer):
    """Gradient of the feed-forward layer. Shapes: dout (B, N, D) -> dx (B, N, D), grads by name."""
    name, grads = f"blocks.{layer}.mlp", {}
    dout = dropout_backward(dout, cache["dropout"])
    dactive, grads[f"{name}.out.weight"], grads[f"{name}.out.bias"] = linear_backward(dout, cache["out"])
    dhidden = gelu_backward(dactive, cache["gelu"])
    dx, grads[f"{name}.in.weight"], grads[f"{name}.in.bias"] = linear_backward(dhidden, cache["in"])
    return dx, grads


def block_forward(x, params, features, cfg, layer, mask, key, queries):
    """One block. pre: x += A(LN1(x)); x += MLP(LN2(x)).  post: x = LN1(x + A(x)); x = LN2(x + MLP(x)) (decided: pre).

    Only the first `queries` rows are computed: all N, or just the memory tokens where nothing reads the others.
    Shapes: x (B, N, D) -> (B, queries, D)
    """
    norm1 = params[f"blocks.{layer}.norm1.gain"], params[f"blocks.{layer}.norm1.bias"]
    norm2 = params[f"blocks.{layer}.norm2.gain"], params[f"blocks.{layer}.norm2.bias"]
    if cfg.norm == "pre":
        normed, norm1_cache = layer_norm_forward(x, *norm1)
        out, attention_cache = attention_layer_forward(normed, params, features, cfg, layer, mask, key, queries)
        out += x[:, :queries]  # `out` is the layer's fresh array: the residual sum needs no other
        normed, norm2_cache = layer_norm_forward(out, *norm2)
        x, mlp_cache = mlp_forward(normed, params, layer, key)
        x += out
    else:
        out, attention_cache = attention_layer_forward(x, params, features, cfg, layer, mask, key, queries)
        out += x[:, :queries]
        normed, norm1_cache = layer_norm_forward(out, *norm1)
        out, mlp_cache = mlp_forward(normed, params, layer, key)
        out += normed
        x, norm2_cache = layer_norm_forward(out, *norm2)
    return x, {"norm1": norm1_cache, "attention": attention_cache, "norm2": norm2_cache, "mlp": mlp_cache}


def block_backward(dx, cache, cfg, layer):
    """Gradient of one block: a residual sum sends its gradient both ways.

    Shapes: dx (B, queries, D) -> dx (B, N, D), grads by name
    """
    norm1, norm2, grads = f"blocks.{layer}.norm1", f"blocks.{layer}.norm2", {}
    queries = dx.shape[1]
    if cfg.norm == "pre":
        dnormed, mlp_grads = mlp_backward(dx, cache["mlp"], layer)
        dsum, grads[f"{norm2}.gain"], grads[f"{norm2}.bias"] = layer_norm_backward(dnormed, cache["norm2"])
        dsum += dx
        dnormed, attention_grads = attention_layer_backward(dsum, cache["attention"], cfg, layer)
        dx, grads[f"{norm1}.gain"], grads[f"{norm1}.bias"] = layer_norm_backward(dnormed, cache["norm1"])
    else:
        dsum, grads[f"{norm2}.gain"], grads[f"{norm2}.bias"] = layer_norm_backward(dx, cache["norm2"])
        dnormed, mlp_grads = mlp_backward(dsum, cache["mlp"], layer)
        dnormed += dsum
        dsum, grads[f"{norm1}.gain"], grads[f"{norm1}.bias"] = layer_norm_backward(dnormed, cache["norm1"])
        dx, attention_grads = attention_layer_backward(dsum, cache["attention"], cfg, layer)
    dx[:, :queries] += dsum
    return dx, grads | attention_grads | mlp_grads


def segment_forward(params, features, cfg, segment, memory):
    """Read one segment together with the memory tokens; return the memory for the next one and what is read out.

        x = [memory ; E[tokens] + Pos + Seg[t]];  blocks
        written = LN_mem(x[:M]);  memory_next = update(memory, written)

    A sequence whose last segment this is ends here: it has no memory_next, and with pooling "memory" it is read out.

    Shapes: features: per layer (M + L, D) or None; segment: a `Segment` of B live sequences, of which the first
        `going_on` go on; memory (B, M, D) -> memory_next (going_on, M, D); readout: with pooling "memory" the mean over
        the written memory tokens (B - going_on, D), with "mean" the sum over the live token outputs (B, D)
    """
    xp = backend.xp
    M, going_on = cfg.num_memory, segment.going_on
    length = segment.tokens.shape[1]
    embedded, token_cache = embedding_forward(segment.tokens, params["embed.token"])
    embedded += params["embed.position"][:length]
    if cfg.segment_embedding:
        embedded += params["embed.segment"][segment.index]
    embedded, dropout_cache = dropout_forward(embedded, segment.dropout, 0, "embedding")
    x = xp.concatenate([memory, embedded], axis=1)  # (B, M + n, D)
    cache = {"cfg": cfg, "segment": segment, "token": token_cache, "dropout": dropout_cache, "blocks": []}
    for layer in range(cfg.num_layers):
        # with pooling "memory" nothing reads the last block's token rows: a quarter to a third of the work is not done
        queries = M if cfg.pooling == "memory" and layer == cfg.num_layers - 1 else M + length
        layer_features = features[layer][: M + length] if cfg.astro else None
        x, block_cache = block_forward(x, params, layer_features, cfg, layer, segment.mask, segment.dropout, queries)
        cache["blocks"].append(block_cache)

    written, memory_next = memory, memory[:going_on]
    if M:
        written, cache["memory_norm"] = layer_norm_forward(
            x[:, :M], params["memory.norm.gain"], params["memory.norm.bias"]
        )
        memory_next, cache["update"] = memory_update_forward(
            memory[:going_on], written[:going_on], segment.factor, cfg.retention
        )
    if cfg.pooling == "memory":
        readout = written[going_on:].mean(axis=1)
    else:
        out, cache["out_norm"] = layer_norm_forward(x[:, M:], params["out.norm.gain"], params["out.norm.bias"])
        readout = (out if segment.mask is None else out * segment.mask[:, M:]).sum(axis=1)
    return memory_next, readout, cache


def segment_backward(dmemory_next, dreadout, cache):
    """Gradient of one segment: from the memory it passed on and its readout back to the memory that it got.

    Shapes: dmemory_next (going_on, M, D), dreadout as the readout -> dmemory (B, M, D), grads by name: position and
        features have as many rows as the segment has, `embed.segment` is the one row of this segment
    """
    xp = backend.xp
    cfg, segment, grads = cache["cfg"], cache["segment"], {}
    M, going_on = cfg.num_memory, segment.going_on
    batch, length = segment.tokens.shape
    queries = M if cfg.pooling == "memory" else M + length
    dx = xp.zeros((batch, queries, cfg.d_model), dtype=dreadout.dtype)
    dmemory_kept = None
    if M:
        dwritten = xp.zeros((batch, M, cfg.d_model), dtype=dreadout.dtype)
        dmemory_kept, dwritten[:going_on] = memory_update_backward(dmemory_next, cache["update"])
        if cfg.pooling == "memory":
            dwritten[going_on:] = dreadout[:, None] / M  # the mean over M tokens
        dx[:, :M], grads["memory.norm.gain"], grads["memory.norm.bias"] = layer_norm_backward(
            dwritten, cache["memory_norm"]
        )
    if cfg.pooling == "mean":
        dout = xp.broadcast_to(dreadout[:, None], (batch, length, cfg.d_model))  # the sum over tokens
        dout = dout * 1.0 if segment.mask is None else dout * segment.mask[:, M:]
        dx[:, M:], grads["out.norm.gain"], grads["out.norm.bias"] = layer_norm_backward(dout, cache["out_norm"])

    for layer in reversed(range(cfg.num_layers)):
        dx, block_grads = block_backward(dx, cache["blocks"][layer], cfg, layer)
        grads |= block_grads
    dmemory, dembedded = dx[:, :M], dropout_backward(dx[:, M:], cache["dropout"])
    if dmemory_kept is not None:
        dmemory[:going_on] += dmemory_kept  # the path around the segment, memory_next = memory + ...
    grads["embed.token"] = embedding_backward(dembedded, cache["token"])
    grads["embed.position"] = dembedded.sum(axis=0)
    if cfg.segment_embedding:
        grads["embed.segment"] = sum_rows(grads["embed.position"])
    return dmemory, grads


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
