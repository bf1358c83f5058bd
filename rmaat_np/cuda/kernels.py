"""Fused CUDA kernels: what the functions of the same names compute, in one launch for a whole chain of operations.

`backend.use("cupy")` loads this module into `backend.kernels`. Each function stands in for the plain code below the
branch that calls it: same arguments, same results, same cache. The CUDA source is in kernels.cu.
"""

from functools import cache
from pathlib import Path

import numpy

from .. import backend
from ..attention import SMALLEST
from ..layers import EPS, GELU_CUBIC, GELU_SLOPE, flatten_rows
from .products import product

THREADS = 256  # in a block, 8 warps
NORM_WARPS = 1024  # how many partial sums of dgain and dbias: a fixed number, so that the order of sums is one too
# Numbers of an array up to which its indices fit into 32 bits: k and v may be views of rows three times as wide.
SMALL = 2**29
PIECE = 4096  # numbers of an array that one block of threads works on
PARTS = 1024  # how many partial sums of a column: a fixed number, so that the order of sums is one too


def launch(name: str, dtype, threads: int, *arguments, width: int = 1) -> None:
    """Run a kernel of kernels.cu on at least that many threads. Arrays are C-contiguous; ints are 64-bit."""
    if threads:
        kernel = _compiled(name, dtype, width, index_type(threads, arguments))
        kernel((-(-threads // THREADS),), (THREADS,), arguments)


def index_type(threads: int, arguments: tuple) -> str:
    """The C type of indices: 32 bits where no array of a launch has more than SMALL numbers, else 64."""
    sizes = [getattr(argument, "size", 0) for argument in arguments]
    return "int" if max(threads, *sizes) <= SMALL else "long long"


@cache
def _compiled(name, dtype, width, index):
    return module(numpy.dtype(dtype).name, width, index).get_function(name)


@cache
def module(dtype: str, width: int, index: str = "int"):
    """kernels.cu for a dtype and a width of layer norm; CuPy compiles it when its first function is asked for."""
    source = Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8")
    return backend.xp.RawModule(code=source, options=compile_options(dtype, width, index))


def compile_options(dtype: str, width: int, index: str = "int") -> tuple[str, ...]:
    """What makes kernels.cu a program for a dtype, "float32" or "float64", a layer norm's width, a type of indices."""
    return (f"-Dreal={'float' if dtype == 'float32' else 'double'}", f"-DWIDTH={width}", f"-DINDEX={index}")


def address(array) -> int:
    """Where an array begins on the device."""
    return array.data.ptr


def _contiguous(*arrays):
    """The arrays themselves, or copies of those that are not C-contiguous."""
    return [backend.xp.ascontiguousarray(array) for array in arrays]


def linear_forward(x, w, b):
    """`layers.linear_forward`."""
    out = product(flatten_rows(x), w)
    launch("add_bias", out.dtype, out.size, out, b, out.size, b.size)
    return out.reshape(x.shape[:-1] + w.shape[1:]), {"x": x, "w": w}


def linear_backward(dout, cache):
    """`layers.linear_backward`."""
    x, w, dout = cache["x"], cache["w"], flatten_rows(dout)
    dx, dw = product(dout, w.T), product(flatten_rows(x).T, dout)
    return dx.reshape(x.shape), dw, sum_rows(dout)


def sum_rows(x):
    """`layers.sum_rows`. With many rows a thread adds some rows of a column first."""
    (x,) = _contiguous(flatten_rows(x))
    rows, width = x.shape
    if rows > PARTS:
        partials = backend.xp.empty((PARTS, width), dtype=x.dtype)
        launch("sum_some", x.dtype, partials.size, x, partials, rows, width, PARTS)
        x = partials
    out = backend.xp.empty(width, dtype=x.dtype)
    launch("sum_rest", x.dtype, 32 * width, x, out, len(x), width)
    return out


def phi_forward(u):
    """`attention.phi_forward`."""
    (u,) = _contiguous(u)
    out = backend.xp.empty(u.shape, u.dtype)
    launch("phi_forward", u.dtype, u.size, u, out, u.size)
    return out, {"phi": out}


def phi_backward(dphi, cache):
    """`attention.phi_backward`."""
    dphi, phi = _contiguous(dphi, cache["phi"])
    du = backend.xp.empty(dphi.shape, dphi.dtype)
    launch("phi_backward", du.dtype, du.size, dphi, phi, du, du.size)
    return du


def gelu_forward(x):
    """`layers.gelu_forward`."""
    (x,) = _contiguous(x)
    s, out = backend.xp.empty((x.size // x.shape[-1], x.shape[-1]), dtype=x.dtype), backend.xp.empty(x.shape, x.dtype)
    launch("gelu_forward", x.dtype, x.size, x, s, out, x.size, GELU_SLOPE, GELU_CUBIC)
    return out, {"x": x, "s": s}


def gelu_backward(dout, cache):
    """`layers.gelu_backward`."""
    dout, x, s = _contiguous(dout, cache["x"], cache["s"])
    dx = backend.xp.empty(dout.shape, dout.dtype)
    launch("gelu_backward", dx.dtype, dx.size, dout, x, s, dx, dx.size, GELU_SLOPE, GELU_CUBIC)
    return dx


def layer_norm_forward(x, gain, bias):
    """`layers.layer_norm_forward`."""
    xp, width = backend.xp, x.shape[-1]
    (x,) = _contiguous(x)
    rows = x.size // width
    xhat, rstd, out = (
        xp.empty((rows, width), dtype=x.dtype),
        xp.empty((rows, 1), dtype=x.dtype),
        xp.empty(x.shape, x.dtype),
    )
    launch("layer_norm_forward", x.dtype, 32 * rows, x, gain, bias, xhat, rstd, out, rows, EPS, width=width)
    return out, {"xhat": xhat, "rstd": rstd, "gain": gain}


def layer_norm_backward(dout, cache):
    """`layers.layer_norm_backward`."""
    xp = backend.xp
    dout, xhat, rstd = _contiguous(dout, cache["xhat"], cache["rstd"])
    rows, width = xhat.shape
    warps = min(rows, NORM_WARPS)
    dx, partials = xp.empty(dout.shape, dout.dtype), xp.empty((warps, 2 * width), dtype=dout.dtype)
    arguments = dout, xhat, rstd, cache["gain"], dx, partials, rows, warps
    launch("layer_norm_backward", dout.dtype, 32 * warps, *arguments, width=width)
    sums = sum_rows(partials)
    return dx, sums[:width], sums[width:]


def astromorphic_attention_forward(q, k, v, phi_r, mask, num_heads, *, alpha=1.0, use_feedback=True):
    """`attention.astromorphic_attention_forward`.

    CuPy copies what is strided before it multiplies a batch, so the heads are not split: H is joined to one matrix of
    (D, D) with the heads' blocks on its diagonal, and g is its last columns, so that one product gives phi(Q) H and C.
    At widths of some hundred the zeros cost less than the copies and launches would.
    """
    xp = backend.xp
    batch, length, width = k.shape
    phi_q, _ = phi_forward(q)
    cache = {"phi_q": phi_q, "mask": mask, "astro": phi_r is not None, "alpha": alpha, "num_heads": num_heads}
    (k, k_row), (v, v_row) = _evenly_spaced(k), _evenly_spaced(v)
    phi_k_unmasked, phi_k_plus_r, live_v = (xp.empty(k.shape, k.dtype) for _ in range(3))
    optional = (k if x is None else xp.ascontiguousarray(x) for x in (phi_r, mask))  # what is None is not read
    arguments = *optional, phi_k_unmasked, phi_k_plus_r, live_v, k.size, length, width, k_row, v_row
    launch("write_forward", k.dtype, k.size, k, v, *arguments, int(phi_r is not None), int(mask is not None))

    every_head = product(phi_k_plus_r.swapaxes(1, 2), live_v)  # (B, D, D): every head with every head
    H = xp.empty((batch, num_heads, width // num_heads, width // num_heads), dtype=k.dtype)
    _own_blocks(every_head, H, num_heads / width)  # 1/m
    cache |= {
        "phi_k_unmasked": phi_k_unmasked,
        "v": live_v,
        "phi_k_plus_r": phi_k_plus_r,
        "H": H,
        "feedback": use_feedback,
    }
    if not use_feedback:
        y = product(phi_q, _join_heads(H))
        return y, cache | {"y": y}
    total = xp.empty((batch, 1, width), dtype=k.dtype)
    G = xp.empty((batch, num_heads, width), dtype=k.dtype)
    arguments = total, G, total.size, length, width, num_heads, float(alpha), SMALLEST, int(mask is not None)
    launch("response", k.dtype, 32 * total.size, phi_k_unmasked, phi_k_unmasked if mask is None else mask, *arguments)
    read = product(phi_q, _join_heads(H, G))  # (B, Nq, D + h)
    y, P = xp.empty(phi_q.shape, phi_q.dtype), xp.empty(phi_q.shape[:2] + (num_heads,), dtype=k.dtype)
    launch("read_forward", k.dtype, y.size, read, y, P, y.size, width, num_heads, SMALLEST)
    return y, cache | {"y": y, "total": total, "G": G, "P": P}


def astromorphic_attention_backward(dy, cache):
    """`attention.astromorphic_attention_backward`."""
    xp, H, num_heads, mask = backend.xp, cache["H"], cache["num_heads"], cache["mask"]
    phi_q, phi_k_plus_r, v, phi_k_unmasked = _contiguous(
        cache["phi_q"], cache["phi_k_plus_r"], cache["v"], cache["phi_k_unmasked"]
    )
    batch, length, width = v.shape
    (dread,), G, total = _contiguous(dy), cache.get("G"), v
    if cache["feedback"]:
        total, dy, y, P = _contiguous(cache["total"], dy, cache["y"], cache["P"])
        dread = xp.empty(dy.shape[:2] + (width + num_heads,), dtype=dy.dtype)  # dC beside it
        rows = dy.size // width
        launch("read_backward", dy.dtype, 32 * rows * num_heads, dy, y, P, dread, rows, width, num_heads)
    dphi_q = product(dread, _join_heads(H, G).swapaxes(1, 2))
    every_head = product(phi_q.swapaxes(1, 2), dread)  # dH, and dG^T beside it
    dH = xp.empty(H.shape, H.dtype)
    _own_blocks(every_head, dH, num_heads / width)
    joined = _join_heads(dH)
    dphi_k, dv = product(v, joined.swapaxes(1, 2)), product(phi_k_plus_r, joined)
    dphi_r = dphi_k.sum(axis=0) if cache["astro"] else None

    dkv = xp.empty((batch, length, 2 * width), dtype=dy.dtype)
    arguments = (
        dphi_k,
        dv,
        phi_k_unmasked,
        v if mask is None else xp.ascontiguousarray(mask),
        every_head,
        total,
        dkv,
        v.size,
    )
    sizes = length, width, num_heads, float(cache["alpha"]), int(cache["feedback"]), int(mask is not None)
    launch("write_backward", dy.dtype, v.size, *arguments, *sizes)
    return phi_backward(dphi_q, {"phi": phi_q}), dkv, dphi_r


def _evenly_spaced(x):
    """x, or a copy if its rows are not equally far apart, and that distance. Shapes: x (B, N, D), a view maybe."""
    if x.strides[2] != x.itemsize or x.strides[0] != x.shape[1] * x.strides[1]:
        x = x.copy()
    return x, x.strides[1] // x.itemsize


def _own_blocks(product, blocks, scale):
    _, width, columns = product.shape
    arguments = product, blocks, blocks.size, width, blocks.shape[3], columns, scale
    launch("own_blocks", blocks.dtype, blocks.size, *arguments)


def _join_heads(blocks, G=None):
    batch, num_heads, m, _ = blocks.shape
    width = num_heads * m
    columns = width if G is None else width + num_heads
    joined = backend.xp.empty((batch, width, columns), dtype=blocks.dtype)
    arguments = blocks, blocks if G is None else G, joined, joined.size, width, m, columns
    launch("join_heads", joined.dtype, joined.size, *arguments)
    return joined


def add_all(pairs: list) -> None:
    """`replay.add_all`, in one launch."""
    table = _table(pairs)
    launch("add_all", pairs[0][0].dtype, len(table) * THREADS, backend.to_device(table))


def global_norm(grads: dict):
    """`optim.global_norm`."""
    table = _table([(gradient,) for gradient in grads.values()])
    dtype = next(iter(grads.values())).dtype
    partials = backend.xp.empty(len(table) * (THREADS // 32), dtype=dtype)
    launch("sum_of_squares", dtype, len(table) * THREADS, backend.to_device(table), partials)
    return backend.xp.sqrt(partials.sum())


def adamw_update(params: dict, grads: dict, state: dict, norm, *scalars: float) -> None:
    """The loop of `optim.adamw_step` in one launch; scalars: those of the kernel `adamw`, in its order."""
    groups = [(p, grads[name], state["m"][name], state["v"][name]) for name, p in params.items()]
    table = _table(groups, [name.endswith(".weight") for name in params])
    launch("adamw", norm.dtype, len(table) * THREADS, backend.to_device(table), norm, *map(float, scalars))


def _table(groups: list, marks: list | None = None):
    """What a kernel reads that works on many arrays at once, on the host: a row for each piece of a group of arrays.

    groups: tuples of arrays of one size; marks: a number for each of them
    Shapes: -> (pieces, arrays of a group + 2) int64: where the piece begins in each of them, how long it is, the mark
    """
    first = groups[0][0]
    for group in groups:
        assert all(a.flags.c_contiguous and a.dtype == first.dtype and a.size == group[0].size for a in group)
    sizes = numpy.array([group[0].size for group in groups])
    starts = numpy.array([[address(array) for array in group] for group in groups])
    pieces = -(-sizes // PIECE)
    group = numpy.repeat(numpy.arange(len(groups)), pieces)  # of each piece
    before = PIECE * (numpy.arange(len(group)) - numpy.repeat(numpy.cumsum(pieces) - pieces, pieces))
    lengths = numpy.minimum(PIECE, sizes[group] - before)
    marked = numpy.asarray(marks or [0] * len(groups))[group]
    columns = starts[group] + (before * first.itemsize)[:, None], lengths, marked
    return numpy.column_stack(columns).astype(numpy.int64)
