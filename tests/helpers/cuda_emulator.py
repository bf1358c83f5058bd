"""Runs kernels.cu without a GPU: the system's C++ compiler builds the same source around an emulation of warps.

`launch` takes the place of `kernels.launch`, for NumPy arrays or those of strict_device.py. It is stricter than a GPU:
arrays stand between NaNs that must survive, so that reading or writing past an end shows; every launch is run twice,
the second time with blocks and lanes in reverse order, and must give the same bits; all lanes of a warp must shuffle
equally often. What it cannot show is how fast a kernel is, and whether CUDA accepts a launch.
"""

import ctypes
import re
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from helpers.strict_device import StrictArray

from rmaat_np.cuda import kernels

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
SOURCE = Path(kernels.__file__).with_name("kernels.cu")
NAMES = re.findall(r"__global__ void (\w+)\(", SOURCE.read_text(encoding="utf-8"))
GUARD = 64  # NaNs before and behind every array


@cache
def library(dtype: str, width: int, index: str) -> ctypes.CDLL:
    """kernels.cu as a shared library."""
    words = " ".join(f"KERNEL({name})" for name in NAMES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        command = [COMPILER, "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{SOURCE.parent}", f"-DKERNELS={words}"]
        command += [*kernels.compile_options(dtype, width, index), "-o", path, Path(__file__).with_suffix(".cpp")]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(path))


def host(array):
    """The NumPy array of an argument that is one, or None."""
    return array._host if isinstance(array, StrictArray) else array if isinstance(array, np.ndarray) else None


def address(array) -> int:
    """In place of `kernels.address`."""
    return host(array).ctypes.data


def launch(name, dtype, threads, *arguments, width=4):
    """In place of `kernels.launch`; a kernel that no width matters to is taken from the library of the tests' model."""
    if not threads:
        return
    arrays = {id(a): host(a) for a in arguments if host(a) is not None}
    if name == "write_forward":  # reads k and v, the first two, where they lie: inside the rows of a wider array
        arrays = {key: array for key, array in arrays.items() if array.flags.c_contiguous}
    assert all(array.flags.c_contiguous for array in arrays.values()), name
    assert all(array.dtype in (dtype, np.int64) for array in arrays.values()), name
    assert all(isinstance(a, int | float) for a in arguments if host(a) is None), name
    pieces = tables_pieces(name, dtype, arrays)
    before = [array.copy() for array in [*arrays.values(), *pieces]]
    run(name, dtype, threads, arguments, arrays, width, backwards=True)
    backwards = [array.copy() for array in [*arrays.values(), *pieces]]
    for array, saved in zip([*arrays.values(), *pieces], before, strict=True):
        array[...] = saved
    run(name, dtype, threads, arguments, arrays, width, backwards=False)
    for array, other in zip([*arrays.values(), *pieces], backwards, strict=True):
        np.testing.assert_array_equal(array, other, err_msg=f"{name} depends on the order of its threads")


def tables_pieces(name, dtype, arrays):
    """The pieces of memory that a table of addresses points to, as arrays."""
    if name not in ("add_all", "adamw", "sum_of_squares"):
        return []
    table = next(array for array in arrays.values() if array.dtype == np.int64)
    return [numbers_at(start, count, dtype) for *starts, count, _ in table.tolist() for start in starts]


def numbers_at(start, count, dtype):
    """The numbers that lie at an address, as an array that writes there."""
    return np.frombuffer((ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(start), dtype=dtype)


def gemm(a, b, out):
    """In place of `products.gemm`: reads the factors from memory, where cuBLAS is told that they lie."""
    for i in range(len(out) if out.ndim == 3 else 1):
        target = host(out)[i] if out.ndim == 3 else host(out)
        target[...] = _matrix(a, i) @ _matrix(b, i)


def _matrix(factor, i):
    rows, columns = factor.array.shape[-2:]
    lines, length = (columns, rows) if factor.by_columns else (rows, columns)
    assert factor.line >= max(length, 1), "cuBLAS refuses lines that are longer than they are apart"
    size, dtype = factor.array.itemsize, factor.array.dtype
    numbers = factor.line * (lines - 1) + length if lines and length else 0
    there = numbers_at(address(factor.array) + i * factor.step * size, numbers, dtype)
    found = np.lib.stride_tricks.as_strided(there, (lines, length), (factor.line * size, size))
    return found.T if factor.by_columns else found


def run(name, dtype, threads, arguments, arrays, width, backwards):
    """One launch on copies of the arrays between guards, which are copied back."""
    guarded = {key: np.full(array.size + 2 * GUARD, np.nan, array.dtype.str if array.dtype.kind == "f" else "f8")
               for key, array in arrays.items()}  # fmt: skip
    guarded = {key: buffer.view(arrays[key].dtype) for key, buffer in guarded.items()}
    words = []
    for argument in arguments:
        if id(argument) in arrays:
            buffer = guarded[id(argument)]
            buffer[GUARD : GUARD + arrays[id(argument)].size] = arrays[id(argument)].ravel()
            words.append(buffer.ctypes.data + GUARD * buffer.itemsize)
        elif host(argument) is not None:
            words.append(address(argument))
        else:
            packed = struct.pack("d", argument) if isinstance(argument, float) else struct.pack("q", argument)
            words.append(struct.unpack("Q", packed)[0])
    index = kernels.index_type(threads, tuple(host(a) if host(a) is not None else a for a in arguments))
    function = getattr(library(np.dtype(dtype).name, width, index), f"emulate_{name}")
    function.restype = ctypes.c_bool
    blocks = -(-threads // kernels.THREADS)
    fine = function(len(words), blocks, kernels.THREADS, (ctypes.c_ulonglong * len(words))(*words), backwards)
    assert fine, f"{name}: wrong number of arguments, or lanes of a warp that do not shuffle equally often"
    for key, array in arrays.items():
        buffer = guarded[key]
        edges = np.concatenate([buffer[:GUARD], buffer[GUARD + array.size :]])
        assert np.isnan(edges.view("f8") if edges.dtype.kind == "i" else edges).all(), f"{name} writes past an array"
        array[...] = buffer[GUARD : GUARD + array.size].reshape(array.shape)
