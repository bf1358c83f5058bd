"""Astromorphic attention in linear time, softmax attention, and the quadratic-time reference of each.

All functions take the projections Q, K, V with their heads side by side. They return the heads joined in the same way.
The projections before and after attention belong to the block (`model.py`).

Symbols: B sequences; N rows, of which the first M are memory tokens; Nq <= N rows with a query; h heads of width m;
D = h m.
"""

from math import log, sqrt

from . import backend

# Lower bound of the normaliser C and of the sums over phi(k), which are 0 when every row is padding or phi underflows.
# The gradient divides by C squared: for q, k, v up to 1e4, 1e-10 overflowed in float32, 1e-8 did not. C comes below the
# bound only when all q, or all k, of a head are near -20.
SMALLEST = 1e-8


def split_heads(x, num_heads):
    """View (B, N, h m) as (B, h, N, m). Nothing is copied: matmul reads the strided view directly."""
    batch, length, width = x.shape
    return x.reshape(batch, length, num_heads, width // num_heads).swapaxes(1, 2)


def phi_forward(u):
    """phi(u) = elu(u) + 1 = exp(min(u, 0)) + max(u, 0), the feature map (Katharopoulos et al., arXiv:2006.16236).

    max(u, 0) is computed as u - min(u, 0), which is the same number for every finite u.
    Shapes: u (..., D) -> phi (..., D), > 0
    Cache: phi itself: phi'(u) = min(phi(u), 1).
    """
    if backend.kernels:
        return backend.kernels.phi_forward(u)
    xp = backend.xp
    low = xp.minimum(u, xp.zeros(u.shape[-1], dtype=u.dtype))  # NumPy takes half as long as with the scalar 0.0
    out = xp.exp(low)
    out += xp.subtract(u, low, out=low)
    return out, {"phi": out}


def phi_backward(dphi, cache):
    """Gradient of the feature map: dphi * min(phi, 1). Shapes: dphi (...) -> du (...)."""
    if backend.kernels:
        return backend.kernels.phi_backward(dphi, cache)
    phi = cache["phi"]
    du = backend.xp.minimum(phi, backend.xp.ones(phi.shape[-1], dtype=phi.dtype))
    du *= dphi
    return du


def _distance(length, dtype):
    """|i - j|. Shapes: -> (N, N)"""
    position = backend.xp.arange(length, dtype=dtype)
    return backend.xp.abs(position[:, None] - position)


def distance_decay(length, scale, dtype):
    """r_ij = exp(-|i - j| * scale): how a row's influence on an astrocyte falls off with distance (arXiv:2312.10925).

    Shapes: scale > 0: a number, or one for each head (h, 1, 1) -> (N, N), or for each head (h, N, N)
    """
    return backend.xp.exp(_distance(length, dtype) * -scale)


def relative_features_forward(w, scale):
    """phi(R), R = r Wrel: the positional part of H_astro. R depends on no sequence: it is computed once per step.

    Shapes: w (N, D), the parameter attn.rel.weight; scale > 0, the decay of r per row -> phi_r (N, D)
    Cache: r, and phi's cache.
    """
    decay = distance_decay(w.shape[0], scale, w.dtype)
    phi_r, phi_cache = phi_forward(decay @ w)
    return phi_r, {"decay": decay, "phi": phi_cache}


def relative_features_backward(dphi_r, cache):
    """Gradient of phi(r Wrel). r is symmetric, so r^T = r.

    Shapes: dphi_r (N, D), the sum over the batch and all segments -> dw (N, D)
    """
    return cache["decay"] @ phi_backward(dphi_r, cache["phi"])


def log_slopes(num_heads, scale):
    """ln of the decay per row of each head: scale * 2^(8 k / h) for k = 0 .. h - 1 (decided).

    The first head has the decay that all heads share otherwise, and each next one blurs less. The ratio of two
    neighbours is ALiBi's (Press et al., arXiv:2108.12409); scale = 1/256 gives exactly ALiBi's slopes.
    """
    return [log(scale) + 8 * k / num_heads * log(2) for k in range(num_heads)]


def head_relative_features_forward(w, log_decay):
    """phi(R) with a decay for each head: R = r Wrel in each head, r_ij = exp(-|i - j| * exp(log_decay)) (decided).

    The logarithm keeps a decay that is learned above 0.
    Shapes: w (N, D), the parameter attn.rel.weight; log_decay (h,), from `log_slopes` or the parameter
        attn.rel.log_decay -> phi_r (N, D)
    Cache: w, the decay per row, r of each head, and phi's cache.
    """
    xp = backend.xp
    scale = xp.exp(log_decay)
    decay = distance_decay(w.shape[0], scale[:, None, None], w.dtype)  # (h, N, N)
    R = xp.empty_like(w)
    xp.matmul(decay, _heads_of_rows(w, scale), out=_heads_of_rows(R, scale))
    phi_r, phi_cache = phi_forward(R)
    return phi_r, {"w": w, "scale": scale, "decay": decay, "phi": phi_cache}


def head_relative_features_backward(dphi_r, cache):
    """Gradient of phi(r Wrel) where every head has its r. Each of these is symmetric, so r^T = r.

    Shapes: dphi_r (N, D), the sum over the batch and all segments -> dw (N, D), dlog_decay (h,)
    """
    xp = backend.xp
    w, scale, decay = cache["w"], cache["scale"], cache["decay"]
    dR = phi_backward(dphi_r, cache["phi"])
    dR_heads, dw = _heads_of_rows(dR, scale), xp.empty_like(w)
    xp.matmul(decay, dR_heads, out=_heads_of_rows(dw, scale))
    ddecay = dR_heads @ _heads_of_rows(w, scale).swapaxes(1, 2)  # (h, N, N)
    ddecay *= decay  # r = exp(-|i - j| * scale), so dr/dscale = -|i - j| r
    ddecay *= _distance(w.shape[0], w.dtype)
    dscale = -ddecay.sum(axis=(1, 2))
    return dw, dscale * scale  # scale = exp(log_decay)


def _heads_of_rows(x, scale):
    """View (N, h m) as (h, N, m), for as many heads as there are scales (h,)."""
    return split_heads(x[None], scale.shape[0])[0]


def _head_indicator(num_heads, width, dtype):
    """E: 1 where a column belongs to a head, else 0. x @ E^T sums x inside each head. P @ E repeats P over a head.

    Shapes: -> (h, D)
    """
    xp = backend.xp
    head_of_column = xp.arange(width) // (width // num_heads)
    return (xp.arange(num_heads)[:, None] == head_of_column).astype(dtype)


def astromorphic_attention_forward(q, k, v, phi_r, mask, num_heads, *, alpha=1.0, use_feedback=True):
    """STP attention in write and read mode, O(N) per head (arXiv:2601.00426; 2312.10925).

    write: H_neuron = 1/m phi(K)^T V;  H_astro = 1/m phi(R)^T V;  H = H_neuron + H_astro;  g = (sum_t phi(k_t))^alpha
    read:  C = phi(Q) g;  P = 1 / C;  Y = (phi(Q) H) * P, one P per row (decided)
    H_neuron and H_astro are one product, (phi(K) + phi(R))^T V. The eight parameters are the symbols of the equations.

    Shapes: q (B, Nq, D); k, v (B, N, D); phi_r (N, D), or None without H_astro; mask (B, N, 1), 1 live and
        0 padding, or None when nothing is padded -> y (B, Nq, D)
    Cache: phi(Q), phi(K) before masking for its slope, phi(K) + phi(R), V after masking, H, G, P, Y.
    """
    if backend.kernels:
        options = {"alpha": alpha, "use_feedback": use_feedback}
        return backend.kernels.astromorphic_attention_forward(q, k, v, phi_r, mask, num_heads, **options)
    xp = backend.xp
    length, width = k.shape[1:]
    (phi_q, _), (phi_k, _) = phi_forward(q), phi_forward(k)
    cache = {"phi_k_unmasked": phi_k, "mask": mask, "astro": phi_r is not None, "alpha": alpha, "num_heads": num_heads}
    if mask is not None:
        phi_k, v = phi_k * mask, v * mask
    phi_k_plus_r = phi_k if phi_r is None else phi_k + phi_r
    H = split_heads(phi_k_plus_r, num_heads).swapaxes(2, 3) @ split_heads(v, num_heads)  # (B, h, m, m)
    H *= num_heads / width  # 1/m
    y = xp.empty(q.shape, dtype=q.dtype)
    xp.matmul(split_heads(phi_q, num_heads), H, out=split_heads(y, num_heads))
    cache |= {"phi_q": phi_q, "v": v, "phi_k_plus_r": phi_k_plus_r, "H": H, "y": y, "feedback": use_feedback}
    if use_feedback:
        E = _head_indicator(num_heads, width, q.dtype)
        total = xp.maximum(xp.ones((1, length), dtype=q.dtype) @ phi_k, SMALLEST)  # (B, 1, D)
        g = total if alpha == 1.0 else total**alpha
        G = g * E  # (B, h, D): the heads' g as the rows of a block-diagonal matrix
        C = phi_q @ G.swapaxes(1, 2)  # (B, Nq, h)
        P = 1.0 / xp.maximum(C, SMALLEST)
        y *= P @ E
        cache |= {"total": total, "G": G, "P": P}
    return y, cache


def astromorphic_attention_backward(dy, cache):
    """Gradient of STP attention: read mode first, then write mode.

    The gradient of H_astro is the part of dphi_k that is summed into dphi_r: phi(K) and phi(R) enter H as one sum.

    Shapes: dy (B, Nq, D) -> dq (B, Nq, D); dkv (B, N, 2D), dk and dv side by side; dphi_r (N, D), None without H_astro
    """
    if backend.kernels:
        return backend.kernels.astromorphic_attention_backward(dy, cache)
    xp = backend.xp
    phi_q, H, mask, num_heads = cache["phi_q"], cache["H"], cache["mask"], cache["num_heads"]
    batch, length, width = cache["v"].shape
    dphi_q, dphi_k = xp.empty_like(phi_q), xp.empty_like(cache["phi_k_unmasked"])
    dkv = xp.empty((batch, length, 2 * width), dtype=dy.dtype)
    dk, dv = dkv[:, :, :width], dkv[:, :, width:]

    dread = dy  # Y = read * P with read = phi(Q) H
    if cache["feedback"]:
        E = _head_indicator(num_heads, width, dy.dtype)
        dread = dy * (cache["P"] @ E)
    xp.matmul(split_heads(dread, num_heads), H.swapaxes(2, 3), out=split_heads(dphi_q, num_heads))
    dH = split_heads(phi_q, num_heads).swapaxes(2, 3) @ split_heads(dread, num_heads)
    dH *= num_heads / width  # H = 1/m (phi(K) + phi(R))^T V
    xp.matmul(split_heads(cache["v"], num_heads), dH.swapaxes(2, 3), out=split_heads(dphi_k, num_heads))
    xp.matmul(split_heads(cache["phi_k_plus_r"], num_heads), dH, out=split_heads(dv, num_heads))
    # so far dphi_k is the gradient of phi(K) + phi(R); phi(R) is the same for the whole batch
    dphi_r = dphi_k.sum(axis=0) if cache["astro"] else None
    if cache["feedback"]:
        # Y = read / C, so dC = -(dY . Y) / C inside each head
        dC = xp.einsum("bnhm,bnhm->bnh", *(x.reshape(x.shape[:2] + (num_heads, -1)) for x in (dy, cache["y"])))
        dC *= cache["P"]
        xp.negative(dC, out=dC)
        dphi_q += dC @ cache["G"]  # C = phi(Q) G^T
        dG = dC.swapaxes(1, 2) @ phi_q  # (B, h, D); only its diagonal blocks hold a g
        dg = (dG * E).sum(axis=1, keepdims=True)
        alpha = cache["alpha"]
        dphi_k += dg if alpha == 1.0 else dg * alpha * cache["total"] ** (alpha - 1.0)  # g = (sum_t phi(k_t))^alpha
    if mask is not None:
        dphi_k *= mask
        dv *= mask
    one = xp.ones(dk.shape[-1], dtype=dk.dtype)
    xp.minimum(cache["phi_k_unmasked"], one, out=dk)  # phi'(k), as in phi_backward, but written into dkv
    dk *= dphi_k
    return phi_backward(dphi_q, {"phi": phi_q}), dkv, dphi_r


def astromorphic_attention_quadratic(q, k, v, phi_r, mask, num_heads, *, alpha=1.0, use_feedback=True):
    """The same function from its Nq x N weights, for tests and for reading: without H, every query meets every key.

    y_i = P_i / m * sum_j phi(q_i) . (phi(k_j) + phi(r_j)) v_j,   P_i = 1 / (phi(q_i) . g)

    Parameters and shapes: as in astromorphic_attention_forward -> y (B, Nq, D)
    """
    xp = backend.xp
    live = xp.ones_like(k[:, None, :, :1]) if mask is None else mask[:, None]  # (B, 1, N, 1)
    phi_q, phi_k = (phi_forward(split_heads(x, num_heads))[0] for x in (q, k))
    phi_k = phi_k * live
    keys = phi_k if phi_r is None else phi_k + split_heads(phi_r[None], num_heads)
    weights = phi_q @ keys.swapaxes(2, 3) * live.swapaxes(2, 3) * (num_heads / q.shape[2])  # (B, h, Nq, N)
    if use_feedback:
        g = phi_k.sum(axis=2, keepdims=True) ** alpha
        weights = weights / (phi_q * g).sum(axis=3, keepdims=True)
    return (weights @ split_heads(v, num_heads)).swapaxes(1, 2).reshape(q.shape)


def softmax_attention_forward(q, k, v, mask, num_heads):
    """Y = softmax(Q K^T / sqrt(m)) V per head, O(N^2) (Vaswani et al., arXiv:1706.03762); padded keys get weight 0.

    Shapes: q (B, Nq, D); k, v (B, N, D); mask (B, N, 1) or None -> y (B, Nq, D)
    Cache: the weights, Nq x N per head: what linear attention does without.
    """
    xp = backend.xp
    weights = split_heads(q, num_heads) @ split_heads(k, num_heads).swapaxes(2, 3)  # (B, h, Nq, N)
    weights *= 1 / sqrt(q.shape[2] // num_heads)
    if mask is not None:
        weights += ((mask - 1.0) * 1e30)[:, None].swapaxes(2, 3)
    weights -= weights.max(axis=3, keepdims=True)
    xp.exp(weights, out=weights)
    weights /= weights.sum(axis=3, keepdims=True)
    y = xp.empty(q.shape, dtype=q.dtype)
    xp.matmul(weights, split_heads(v, num_heads), out=split_heads(y, num_heads))
    return y, {"q": q, "k": k, "v": v, "weights": weights, "y": y, "num_heads": num_heads}


def softmax_attention_backward(dy, cache):
    """Gradient of softmax attention; a softmax's is dS = W * (dW - sum_j W dW), and that sum equals dY . Y.

    Shapes: dy (B, Nq, D) -> dq (B, Nq, D), dkv (B, N, 2D) with dk and dv side by side
    """
    xp = backend.xp
    weights, num_heads = cache["weights"], cache["num_heads"]
    q, k, v, dy_heads = (split_heads(x, num_heads) for x in (cache["q"], cache["k"], cache["v"], dy))
    width = dy.shape[2]
    dq, dkv = xp.empty_like(dy), xp.empty(cache["k"].shape[:2] + (2 * width,), dtype=dy.dtype)
    dk, dv = dkv[:, :, :width], dkv[:, :, width:]
    xp.matmul(weights.swapaxes(2, 3), dy_heads, out=split_heads(dv, num_heads))
    dscores = dy_heads @ v.swapaxes(2, 3)
    dscores -= split_heads(dy * cache["y"], num_heads).sum(axis=3, keepdims=True)
    dscores *= weights
    dscores *= 1 / sqrt(width // num_heads)  # scores = Q K^T / sqrt(m)
    xp.matmul(dscores, k, out=split_heads(dq, num_heads))
    xp.matmul(dscores.swapaxes(2, 3), q, out=split_heads(dk, num_heads))
    return dq, dkv


def softmax_attention_quadratic(q, k, v, mask, num_heads):
    """The same function one query at a time, as the textbook writes it; for tests and for reading.

    y_i = sum_j exp(q_i . k_j / sqrt(m)) v_j / sum_j exp(q_i . k_j / sqrt(m)), j over the live rows only

    Shapes: as in softmax_attention_forward -> y (B, Nq, D)
    """
    xp = backend.xp
    live = xp.ones_like(k[:, None, :, 0]) if mask is None else mask.swapaxes(1, 2)  # (B, 1, N)
    y = xp.empty_like(q)
    q, k, v, y_heads = (split_heads(x, num_heads) for x in (q, k, v, y))
    for i in range(q.shape[2]):
        scores = xp.exp((q[:, :, i : i + 1] * k).sum(axis=3) / sqrt(q.shape[3])) * live  # (B, h, N)
        y_heads[:, :, i] = (scores[..., None] * v).sum(axis=2) / scores.sum(axis=2)[..., None]
    return y
