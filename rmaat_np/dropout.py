"""Dropout whose masks can be made again: a counter-based generator, no stored state.

A replayed segment (AMRB) must see the very masks of its first pass. The masks must not depend on how the batch is
split. So a mask is a pure function of the place where it is used: (seed, step, sequence, segment, layer, site) and
the element's index. The same integer arithmetic gives the same masks on the CPU and on the GPU.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy

from . import backend

SITES = {"embedding": 0, "attention": 1, "feed_forward": 2}
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class DropoutKey:
    """Names the masks of one layer in one segment.

    rate in [0, 1); seed; step; segment; layer, 0 for the embedding and the first block
    Shapes: rows (B,) uint32 on the device, the place of each sequence in the whole batch
    """

    rate: float
    seed: int
    step: int
    segment: int
    rows: Any
    layer: int = 0


def mix(word: int) -> int:
    """A bijective hash of a 32-bit word (the finaliser "lowbias32" of Wellons' hash prospector), on Python ints."""
    word = (word ^ (word >> 16)) * 0x7FEB352D & _WORD
    word = (word ^ (word >> 15)) * 0x846CA68B & _WORD
    return word ^ (word >> 16)


def _mix_array(words):
    """`mix` for a uint32 array, in place."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
        words ^= words >> numpy.uint32(shift)
        if factor is not None:
            words *= numpy.uint32(factor)
    return words


def dropout_mask(dropout_key: DropoutKey, site: str, shape, dtype):
    """The factors that dropout multiplies by: 0 with probability rate (in steps of 2^-16), else 1 / (1 - rate).

    One 32-bit hash serves two elements, 16 bits each.

    Shapes: shape (B, ...) -> mask (B, ...) of that dtype
    """
    xp = backend.xp
    per_row = prod(shape[1:])
    word = 0
    key = dropout_key
    for part in (key.seed, key.seed >> 32, key.step, key.segment, key.layer, SITES[site]):
        word = mix(word ^ mix((part + 0x9E3779B9) & _WORD))
    row_keys = _mix_array((key.rows + numpy.uint32(1)) * numpy.uint32(0x9E3779B1)) ^ numpy.uint32(word)
    counters = xp.arange((per_row + 1) // 2, dtype=xp.uint32) * numpy.uint32(0x85EBCA6B)
    bits = _mix_array(_mix_array(row_keys)[:, None] ^ counters)
    keep_from = min(round(key.rate * 65536), 65535)
    mask = (bits.view(xp.uint16)[:, :per_row] >= numpy.uint16(keep_from)).astype(dtype)
    mask *= 65536 / (65536 - keep_from)
    return mask.reshape(shape)


def dropout_forward(x, dropout_key: DropoutKey | None, site: str):
    """out = x * mask (Srivastava et al. 2014, scaled at training time); without a key, x itself.

    Shapes: x (B, ...) -> out (B, ...)
    Cache: the key and not the mask, because backward can make the mask again.
    """
    cache = {"dropout_key": dropout_key, "site": site}
    if dropout_key is None:
        return x, cache
    return x * dropout_mask(dropout_key, site, x.shape, x.dtype), cache


def dropout_backward(dout, cache):
    """Gradient of x * mask: dout * mask. Shapes: dout (B, ...) -> dx (B, ...)."""
    if cache["dropout_key"] is None:
        return dout
    return dout * dropout_mask(cache["dropout_key"], cache["site"], dout.shape, dout.dtype)
