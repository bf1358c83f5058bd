"""The memory update between segments: how much of what a segment wrote the memory tokens take over.

mode        update, with r = retention_factors(T, mode)[t - 1]         source
`scale`     memory_next = r * written                                  the equation that notes of arXiv:2601.00426 print
`integrate` memory_next = memory + r * (written - memory)              LTP read as integration (decided)
`online`    the same with a factor that needs no T                     leaky integration (decided, beyond the paper)
`none`      memory_next = written                                      what RMT does (arXiv:2207.06881)

The table of the modes is `plasticity.RETENTION_MODES`.
"""

from .plasticity import RETENTION_MODES


def memory_update_forward(memory, written, factor, mode: str):
    """memory_next = factor * written, plus (1 - factor) * memory in the modes that keep the old memory.

    Shapes: memory (B, M, D); written (B, M, D), mem' of the segment; factor (B, 1, 1) in (0, 1]
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
