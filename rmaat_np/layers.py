"""The common operations of the model, each as a forward/backward pair.

Every pair follows one pattern: `out, cache = op_forward(...)` and `op_backward(dout, cache)`. The backward function
returns the gradients in the order of the forward arguments. An operation writes only into arrays that it made itself.
"""

from math import pi, prod, sqrt

from . import backend

GELU_SLOPE = sqrt(2 / pi)
GELU_CUBIC = 0.044715
EPS = 1e-5
# The gradient of a table with more rows is summed by sorting. Sorting was faster above 64 rows (width 64) to 200 rows
# (width 512); at 50,257 rows it took 1.4 ms instead of 270. The limit is above the 257 ids of bytes and pixels: runs on
# them that an earlier version began go on to the same bits.
ONE_HOT_LIMIT = 512


def flatten_rows(x):
    """View (..., D) as (R, D): one 2-D product is faster than a stack of small ones."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


def sum_rows(x):
    """Sum over all axes but the last, (..., D) -> (D,), as a product with ones.

    The product is faster than NumPy's sum(axis=0). It is also more exact in float32, because sum(axis=0) adds one row
    after the other. On a GPU TF32 would round the product, so a kernel adds.
    """
    if backend.kernels:
        return backend.kernels.sum_rows(x)
    x = flatten_rows(x)
    return backend.xp.ones(x.shape[0], dtype=x.dtype) @ x


def linear_forward(x, w, b):
    """out = x w + b.

    Shapes: x (..., D), w (D, E), b (E) -> out (..., E)
    Cache: x and w, the two factors of the product.
    """
    if backend.kernels:
        return backend.kernels.linear_forward(x, w, b)
    out = flatten_rows(x) @ w
    out += b
    return out.reshape(x.shape[:-1] + w.shape[1:]), {"x": x, "w": w}


def linear_backward(dout, cache):
    """Gradient of x w + b.

    Shapes: dout (..., E) -> dx (..., D), dw (D, E), db (E)
    """
    if backend.kernels:
        return backend.kernels.linear_backward(dout, cache)
    x, w = cache["x"], cache["w"]
    dout_rows = flatten_rows(dout)
    dx = dout_rows @ w.T
    dw = flatten_rows(x).T @ dout_rows
    return dx.reshape(x.shape), dw, sum_rows(dout_rows)


def layer_norm_forward(x, gain, bias):
    """out = gain * (x - mean) / sqrt(var + 1e-5) + bias, over the last axis (Ba et al., arXiv:1607.06450).

    Shapes: x (..., D), gain (D), bias (D) -> out (..., D)
    Cache: xhat and rstd rather than x, because backward is written in terms of them.
    """
    if backend.kernels:
        return backend.kernels.layer_norm_forward(x, gain, bias)
    xp = backend.xp
    x_rows = flatten_rows(x)
    width = x.shape[-1]
    average = xp.full((width, 1), 1 / width, dtype=x.dtype)
    xhat = x_rows - x_rows @ average
    rstd = xp.einsum("rd,rd->r", xhat, xhat)[:, None]
    rstd /= width
    rstd += EPS
    xp.sqrt(rstd, out=rstd)
    xp.divide(1.0, rstd, out=rstd)
    xhat *= rstd
    out = xhat * gain
    out += bias
    return out.reshape(x.shape), {"xhat": xhat, "rstd": rstd, "gain": gain}


def layer_norm_backward(dout, cache):
    """Gradient of layer norm: dxhat without its parts along 1 and along xhat, on which the output does not depend.

    Shapes: dout (..., D) -> dx (..., D), dgain (D), dbias (D)
    """
    if backend.kernels:
        return backend.kernels.layer_norm_backward(dout, cache)
    xp = backend.xp
    xhat, rstd, gain = cache["xhat"], cache["rstd"], cache["gain"]
    dout_rows = flatten_rows(dout)
    width = dout_rows.shape[-1]
    dx = dout_rows * gain  # dxhat
    along_xhat = xp.einsum("rd,rd->r", dx, xhat)[:, None]
    along_xhat /= width
    dx -= dx @ xp.full((width, 1), 1 / width, dtype=dx.dtype)
    dx -= xhat * along_xhat
    dx *= rstd
    return dx.reshape(dout.shape), sum_rows(dout_rows * xhat), sum_rows(dout_rows)


def gelu_forward(x):
    """out = x s, s = (1 + tanh(u)) / 2, u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form (arXiv:1606.08415).

    Shapes: x (...) -> out (...)
    Cache: s beside x. To rebuild s would cost backward one more tanh.
    """
    if backend.kernels:
        return backend.kernels.gelu_forward(x)
    xp = backend.xp
    x_rows = flatten_rows(x)
    s = x_rows * x_rows
    s *= GELU_SLOPE * GELU_CUBIC
    s += GELU_SLOPE
    s *= x_rows  # u
    xp.tanh(s, out=s)
    s += 1.0
    s *= 0.5
    out = x_rows * s
    return out.reshape(x.shape), {"x": x, "s": s}


def gelu_backward(dout, cache):
    """Gradient of gelu: s + x s', s' = s (1 - s) 2u', 2u' = 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2).

    Shapes: dout (...) -> dx (...)
    """
    if backend.kernels:
        return backend.kernels.gelu_backward(dout, cache)
    xp = backend.xp
    x_rows, s, dout_rows = flatten_rows(cache["x"]), cache["s"], flatten_rows(dout)
    slope = x_rows * x_rows
    slope *= 6 * GELU_SLOPE * GELU_CUBIC
    slope += 2 * GELU_SLOPE
    slope *= x_rows  # 2 x u'
    dx = xp.subtract(1.0, s)
    dx *= slope
    dx += 1.0
    dx *= s  # s (1 + (1 - s) 2 x u')
    dx *= dout_rows
    return dx.reshape(dout.shape)


def relu_forward(x):
    """out = max(x, 0). Shapes: x (...) -> out (...). Cache: out, whose sign is all that backward needs."""
    out = backend.xp.maximum(x, 0.0)
    return out, {"out": out}


def relu_backward(dout, cache):
    """Gradient of max(x, 0), taken as 0 at x = 0. Shapes: dout (...) -> dx (...)."""
    return dout * (cache["out"] > 0)


def embedding_forward(tokens, table):
    """out = table[tokens].

    Shapes: tokens (...) ints in 0 .. V-1, table (V, D) -> out (..., D)
    Cache: the tokens, and the table's shape.
    """
    return table[tokens], {"tokens": tokens, "shape": table.shape}


def embedding_backward(dout, cache):
    """Gradient of the table: each of its rows sums the rows of dout that read it.

    `dtable[tokens] += dout` would count a repeated token once. A small table is summed by a product with the one-hot
    matrix, whose cost grows with V R D. For a large table the rows of dout are sorted: those of one token then stand
    side by side. Either way the order of the sums is fixed. On a GPU, atomic scatter-adds would have no order.

    Shapes: dout (..., D), R rows in all -> dtable (V, D)
    """
    xp = backend.xp
    (V, D), tokens, dout_rows = cache["shape"], cache["tokens"].reshape(-1), flatten_rows(dout)
    if V <= ONE_HOT_LIMIT:
        one_hot = xp.arange(V)[:, None] == tokens  # (V, R)
        return one_hot.astype(dout.dtype) @ dout_rows
    order = xp.argsort(tokens, kind="stable")
    starts = xp.searchsorted(tokens[order], xp.arange(V + 1))  # where the rows of each token begin; (V + 1)
    padded = xp.concatenate([dout_rows[order], xp.zeros((1, D), dtype=dout.dtype)])  # for tokens past the last one
    dtable = xp.add.reduceat(padded, starts[:-1], axis=0)
    dtable *= (starts[1:] > starts[:-1])[:, None]  # reduceat gives a token that does not occur its neighbour's row
    return dtable


def softmax_cross_entropy_forward(logits, labels, weight, row_weights=None):
    """loss = weight * sum_b w_b (-log softmax(logits_b)[label_b]). With weight = 1 / batch it is the batch's mean.

    row_weights: w_b of each row; None: 1
    Shapes: logits (B, C), labels (B) ints in 0 .. C-1, weight a float, row_weights (B) or None -> loss ()
    Cache: the probabilities, whose difference from the one-hot labels is the gradient.
    """
    xp = backend.xp
    shifted = logits - logits.max(axis=-1, keepdims=True)  # exp cannot overflow
    exp = xp.exp(shifted)
    total = exp.sum(axis=-1, keepdims=True)
    one_hot = labels[:, None] == xp.arange(logits.shape[-1])
    log_likelihood = (shifted - xp.log(total)) * one_hot
    if row_weights is not None:
        log_likelihood *= row_weights[:, None]
    loss = log_likelihood.sum() * -weight
    cache = {"probabilities": exp / total, "one_hot": one_hot, "weight": weight, "row_weights": row_weights}
    return loss, cache


def softmax_cross_entropy_backward(dloss, cache):
    """Gradient of the cross-entropy: weight * w_b * (softmax(logits_b) - one_hot(label_b)) * dloss.

    Shapes: dloss a float -> dlogits (B, C)
    """
    dlogits = (cache["probabilities"] - cache["one_hot"]) * (cache["weight"] * dloss)
    if cache["row_weights"] is not None:
        dlogits *= cache["row_weights"][:, None]
    return dlogits
