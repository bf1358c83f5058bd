"""Which array module computes: NumPy on the CPU, or CuPy on a CUDA device. The one switch of the package.

Functions that can run on the device begin with `xp = backend.xp` and call nothing but `xp` on arrays.
Tokens, labels and lengths stay on the host; `to_device` moves them over once per step.
"""

import os
import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import numpy

from .errors import InputError

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")
xp: Any = numpy
name = "numpy"
# With CuPy the module cuda.kernels, else None. Each of its functions computes a chain of operations in one launch. Its
# twin is the plain code below the line `if backend.kernels`.
kernels: Any = None


class BackendError(RuntimeError):
    """The backend that was asked for cannot run here; the message gives the reason and the remedy."""


def use(backend: str):
    """Choose the array module for everything that follows, and return it.

    backend: "numpy" or "cupy". There is no silent fallback: a device that cannot be used is an error.
    Raises: BackendError with the reason and the remedy; InputError for another name.
    """
    global xp, name, kernels
    if backend == "numpy":
        xp, name, kernels = numpy, "numpy", None
    elif backend == "cupy":
        cupy = _usable_cupy()
        from .cuda import kernels as fused

        xp, name, kernels = cupy, "cupy", fused
    else:
        raise InputError(f"backend is {backend!r}, but it must be numpy or cupy")
    return xp


@contextmanager
def using(module, its_name: str = "cupy", fused=None):
    """Compute with another array module inside a `with` block, then as before: for tests and comparisons.

    module: what `xp` becomes; its_name: "numpy" or "cupy"; fused: a module of fused kernels, or None
    """
    global xp, name, kernels
    before = xp, name, kernels
    xp, name, kernels = module, its_name, fused
    try:
        yield module
    finally:
        xp, name, kernels = before


def _usable_cupy():
    remedy = "install the wheel for your CUDA version (pip install cupy-cuda12x or cupy-cuda13x), or use numpy"
    try:
        import cupy
    except Exception as error:  # not installed, or a broken installation, which can raise anything
        raise BackendError(f"backend cupy: CuPy cannot be imported ({error}); {remedy}") from None
    if not cupy.is_available():  # importing succeeds without a driver, so the import alone says nothing
        raise BackendError(
            "backend cupy: CuPy finds no usable CUDA device; check that `nvidia-smi` lists one and that its "
            "driver is as new as the CUDA version of your CuPy wheel, or use numpy"
        )
    return cupy


def allow_tf32() -> None:
    """Let CuPy's float32 matrix products round their factors to TF32: 10 bits of mantissa, on tensor cores.

    For a program to call once, after use("cupy") and before its first product, in the thread that computes.
    """
    # CuPy's own switch, read at its first product. Products of batches ignore it.
    os.environ["CUPY_TF32"] = "1"
    # Those keep to the mode of cuBLAS: CUBLAS_TF32_TENSOR_OP_MATH is 3.
    tf32_tensor_op_math = 3
    xp.cuda.cublas.setMathMode(xp.cuda.get_cublas_handle(), tf32_tensor_op_math)


def to_device(array):
    """Move a host array to the device; with NumPy, the array itself."""
    return xp.asarray(array)


def to_host(array) -> Any:
    """Copy a device array to the host (this waits for the device); with NumPy, the array itself.

    Arrays of others (lists, pandas, PyTorch on the CPU, memory maps) become NumPy's.
    Raises: InputError for a masked array, whose mask would be lost, and for rows of different lengths.
    """
    if type(array) is numpy.ndarray or isinstance(array, numpy.generic):
        return array
    if isinstance(array, numpy.ma.MaskedArray):
        raise InputError("a masked array cannot be used; fill it, for example array.filled(0)")
    if name != "numpy" and isinstance(array, xp.ndarray):
        return xp.asnumpy(array)
    try:
        return numpy.asarray(array)
    except Exception as error:  # rows of different lengths, or a tensor that another library keeps to itself
        raise InputError(f"no array can be made of this ({error}); give NumPy's, rows padded with 0") from None


def owner_of(array):
    """The array whose memory this one shows: itself, or what it is a view of."""
    while hasattr(getattr(array, "base", None), "nbytes"):
        array = array.base
    return array


def one_blas_thread() -> AbstractContextManager:
    """Let NumPy's matrix products use one thread each inside a `with` block, where several workers compute.

    With threads of their own beside the workers', they wait for each other: a step took 3 to 10 times as long. Nothing
    happens where the environment asks for more than one, as OPENBLAS_NUM_THREADS=2 does. A 1 there is not taken at its
    word: it may be another library's variable, or have come after NumPy was imported. Where threadpoolctl is missing
    and no variable is set, a warning says so once.
    """
    wanted = [os.environ[variable] for variable in BLAS_VARIABLES if variable in os.environ]
    if name != "numpy" or any(number.isdecimal() and int(number) > 1 for number in wanted):
        return nullcontext()
    controller = _blas_controller(told=bool(wanted))
    return nullcontext() if controller is None else controller.limit(limits=1, user_api="blas")


@lru_cache  # looks for the libraries that are loaded, which takes milliseconds
def _blas_controller(told: bool) -> Any:
    """threadpoolctl's controller, or None without it. told: the user knows of the threads, and needs no warning"""
    try:
        from threadpoolctl import ThreadpoolController

        return ThreadpoolController()
    except Exception as error:  # not installed, or a broken installation, which can raise anything
        remedy = "pip install threadpoolctl, or set OPENBLAS_NUM_THREADS=1 before NumPy is imported"
        text = f"the threads of NumPy's products and the workers slow each other down several times ({error}); {remedy}"
        if not told:
            warnings.warn(text, stacklevel=4)
        return None
