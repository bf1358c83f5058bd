"""The memory update between segments: how much of what a segment wrote the memory tokens take over.

mode        update, with r = retention_factors(T, mode)[t - 1]         source
`scale`     memory_next = r * written                                  the equation that notes of arXiv:2601.00426 print
`integrate` memory_next = memory + r * (written - memory)              LTP read as integration (decided)
`online`    the same with a factor that needs no T                     leaky integration (decided, beyond the paper)
`none`      memory_next = written                                      what RMT does (arXiv:2207.06881)
`learned`   memory_next = memory + g * (written - memory)              a gate, LTP its prior (decided, beyond the paper)

g = sigma(logit(r) + [memory, written] w + b) reads the content: one number for each memory token.
The table of the modes is `plasticity.RETENTION_MODES`.
"""

from . import backend
from .layers import linear_backward, linear_forward
from .plasticity import RETENTION_MODES


def memory_update_forward(memory, written, factor, mode: str):
    """memory_next = factor * written, plus (1 - factor) * memory in the modes that keep the old memory.

    Shapes: memory (B, M, D); written (B, M, D), mem' of the segment; factor (B, 1, 1) in (0, 1], of a gate (B, M, 1)
        -> memory_next (B, M, D)
    Cache: the factor. The update is linear, so its gradient needs no memory values.
    """
    cache = {"factor": factor, "mode": mode}
    if mode == "none":
        return written, cache
    memory_next = factor * written
    if RETENTION_MODES[mode].keeps_old:
        memory_next += (1.0 - factor) * memory
    return memory_next, cache


def memory_update_backward(dmemory_next, cache):
    """Gradient of the memory update.

    Shapes: dmemory_next (B, M, D) -> dmemory (B, M, D), or None in the modes without a path from the old memory;
        dwritten (B, M, D)
    """
    factor, mode = cache["factor"], cache["mode"]
    if mode == "none":
        return None, dmemory_next
    dmemory = (1.0 - factor) * dmemory_next if RETENTION_MODES[mode].keeps_old else None
    return dmemory, factor * dmemory_next


def gated_update_forward(memory, written, w, b, *, prior):
    """memory_next = memory + g (written - memory), g = sigma(logit(prior) + [memory, written] w + b) for each token.

    The gate reads the content. With w = 0 and b = 0 it is the prior (decided).

    Shapes: memory, written (B, M, D); w (2D, 1); b (1); prior (B, 1, 1) in (0, 1) -> memory_next (B, M, D)
    Cache: g, the change written - memory, and that of the gate's linear operation.
    """
    xp = backend.xp
    logit, cache = linear_forward(xp.concatenate([memory, written], axis=2), w, b)  # (B, M, 1)
    logit += xp.log(prior / (1.0 - prior))
    g = 0.5 + 0.5 * xp.tanh(0.5 * logit)  # sigma, without an overflow
    change = written - memory
    return memory + g * change, {"read": cache, "g": g, "change": change}


def gated_update_backward(dmemory_next, cache):
    """Gradient of the gated memory update: along the change, and through the gate that reads both memories.

    Shapes: dmemory_next (B, M, D) -> dmemory (B, M, D), dwritten (B, M, D), dw (2D, 1), db (1)
    """
    g, D = cache["g"], dmemory_next.shape[2]
    dg = (dmemory_next * cache["change"]).sum(axis=2, keepdims=True)
    dread, dw, db = linear_backward(dg * g * (1.0 - g), cache["read"])  # sigma' = g (1 - g)
    dmemory = (1.0 - g) * dmemory_next + dread[:, :, :D]
    return dmemory, g * dmemory_next + dread[:, :, D:], dw, db
