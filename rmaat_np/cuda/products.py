"""Matrix products on the device, by cuBLAS itself.

CuPy's operator `@` first copies what is strided: a slice of columns, the transpose of a batch. cuBLAS reads both where
they lie. Asked directly it also takes the host a fraction of the time, and at small sizes the host's time decides.
"""

from typing import Any, NamedTuple

import numpy

from .. import backend

# alpha and beta, kept alive here because cuBLAS gets their addresses
_SCALARS = {name: (numpy.ones(1, name), numpy.zeros(1, name)) for name in ("float32", "float64")}
_POINTERS = {numpy.dtype(name): (one.ctypes.data, zero.ctypes.data) for name, (one, zero) in _SCALARS.items()}


class Factor(NamedTuple):
    """A factor of a product as cuBLAS reads it: its lines, rows or columns, are contiguous.

    by_columns: are the lines columns; line: numbers from one line to the next; step: from one matrix to the next
    """

    array: Any
    by_columns: bool
    line: int
    step: int


def product(a, b):
    """a @ b. Shapes: a (n, k), b (k, m) -> (n, m), or all three with the same first axis B."""
    out = backend.xp.empty(a.shape[:-1] + b.shape[-1:], dtype=a.dtype)
    if out.size:
        gemm(_factor(a), _factor(b), out)
    return out


def gemm(a: Factor, b: Factor, out) -> None:
    """out = a b. cuBLAS stores by columns, so it sees the transpose of each array and is told out^T = b^T a^T."""
    cublas, handle = backend.xp.cuda.cublas, backend.xp.cuda.device.get_cublas_handle()
    single, (one, zero) = out.dtype == numpy.float32, _POINTERS[out.dtype]
    (n, m), k = out.shape[-2:], a.array.shape[-1]
    start = handle, int(b.by_columns), int(a.by_columns), m, n, k, one
    b_at, a_at, out_at = b.array.data.ptr, a.array.data.ptr, out.data.ptr
    if out.ndim == 2:
        call = cublas.sgemm if single else cublas.dgemm
        call(*start, b_at, b.line, a_at, a.line, zero, out_at, m)
    else:
        call = cublas.sgemmStridedBatched if single else cublas.dgemmStridedBatched
        call(*start, b_at, b.line, b.step, a_at, a.line, a.step, zero, out_at, m, n * m, len(out))


def _factor(x) -> Factor:
    """x as a factor, or a copy of it if neither its rows nor its columns are contiguous."""
    size, (rows, columns) = x.itemsize, x.shape[-2:]
    row, column = x.strides[-2] // size, x.strides[-1] // size
    step = x.strides[0] // size if x.ndim == 3 else 0
    if column == 1 and (row >= columns or rows == 1):
        return Factor(x, False, max(row, columns, 1), step)
    if row == 1 and (column >= rows or columns == 1):
        return Factor(x, True, max(column, rows, 1), step)
    return Factor(backend.xp.ascontiguousarray(x), False, max(columns, 1), rows * columns)
