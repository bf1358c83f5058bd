"""Factors of matrix products that are views: what `cuda.products` reads without a copy, and what it has to copy."""

VIEW_SHAPES = (3, 6, 8), (3, 8, 10)
VIEWS = {  # name -> function of arrays (3, 6, 8) and (3, 8, 10) that makes two factors of them
    "batch": lambda a, b: (a, b),
    "matrices": lambda a, b: (a[0], b[0]),
    "transposed batch": lambda a, b: (b.swapaxes(1, 2), a.swapaxes(1, 2)),
    "transposed matrix": lambda a, b: (b[0].T, a[0].T),
    "columns": lambda a, b: (a[:, :, 2:7], b[:, :5, 3:]),
    "columns of a matrix": lambda a, b: (a[0][:, 2:7], b[0][:5, 3:]),
    "every second column": lambda a, b: (a[:, :, ::2], b[:, ::2]),
    "rows upside down": lambda a, b: (a[0][::-1], b[0]),
    "some matrices": lambda a, b: (a[1:], b[:2]),
    "one matrix of a batch": lambda a, b: (a[:1], b[2:]),
    "one row": lambda a, b: (a[:, :1], b),
    "one column": lambda a, b: (a, b[:, :, :1]),
    "one number": lambda a, b: (a[0][:1, :1], b[0][:1, :1]),
    "nothing to add": lambda a, b: (a[0][:, :0], b[0][:0]),
    "no matrices": lambda a, b: (a[:0], b[:0]),
}
