"""Training through time, twice: back-propagation through time (BPTT), Astrocytic Memory Replay Backpropagation (AMRB).

Both call the same `segment_forward` and `segment_backward`, so AMRB's gradients equal BPTT's bit for bit.

BPTT    forward: keep every segment's cache                       memory O(S)
AMRB    forward: keep the memory tokens that entered each segment memory O(1) + S M D numbers, compute about 4/3
        backward: rebuild a segment's cache by running it again, then go back through it
"""

from . import backend
from .config import Config
from .layers import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from .ledger import Ledger
from .model import head_backward, head_forward, segment_backward, segment_forward
from .segments import Shard


def bptt(params, features, cfg: Config, shard: Shard, grads, ledger: Ledger):
    """Back-propagation through time: keep the cache of every segment until its gradient is needed.

    Shapes: features: per layer (M + L, D); grads: by name, gradients are added to them -> loss (), correct ()
    """
    memory, z = first_memory(params, cfg, shard), empty_readout(params, cfg, shard)
    caches = []
    for t in range(shard.num_segments):
        memory, readout, cache = segment_forward(params, features, cfg, shard.segment(t), memory)
        z[shard.read_out(t)] += readout
        caches.append(cache)
        ledger.note("forward", t, ledger.cache_nbytes(cache), memory)

    loss, correct, dz = readout_loss(z, params, cfg, shard, grads)
    dmemory = memory  # no sequence goes on after the last segment: (0, M, D)
    for t in reversed(range(shard.num_segments)):
        cache = caches.pop()
        dmemory, segment_grads = segment_backward(dmemory, dz[shard.read_out(t)], cache)
        add_segment_grads(grads, segment_grads, t)
        del segment_grads
        ledger.note("backward", t, 0, dmemory)
        ledger.note("drop", t, ledger.cache_nbytes(cache))
    add_first_memory_grad(grads, dmemory)
    return loss, correct


def amrb(params, features, cfg: Config, shard: Shard, grads, ledger: Ledger, budget: int = 0):
    """Astrocytic Memory Replay Backpropagation: keep only the memory tokens, replay each segment for its gradient.

    The last segment's cache is kept, because it would be rebuilt at once (decided), and of the segments before it as
    many as fit into `budget` bytes beside the replay buffer.
    Arguments and results as in `bptt`. Source: arXiv:2601.00426; 2010.06891.
    """
    memory, z = first_memory(params, cfg, shard), empty_readout(params, cfg, shard)
    buffer, kept = [], {}
    for t in range(shard.num_segments):
        while kept and sum(nbytes for _, nbytes in kept.values()) + ledger.buffer > budget:  # before the next is built
            ledger.note("drop", min(kept), kept.pop(min(kept))[1])
        buffer.append(memory)
        ledger.note("store", t, memory.nbytes, memory)
        memory, readout, cache = segment_forward(params, features, cfg, shard.segment(t), memory)
        z[shard.read_out(t)] += readout
        kept[t] = cache, ledger.cache_nbytes(cache)
        del cache  # or this name would keep it alive while the next one is built
        ledger.note("forward", t, kept[t][1], memory)

    loss, correct, dz = readout_loss(z, params, cfg, shard, grads)
    dmemory = memory  # no sequence goes on after the last segment: (0, M, D)
    for t in reversed(range(shard.num_segments)):
        memory = buffer.pop()
        ledger.note("release", t, memory.nbytes, memory)
        if t in kept:
            cache, nbytes = kept.pop(t)
        else:
            _, _, cache = segment_forward(params, features, cfg, shard.segment(t), memory)
            nbytes = ledger.cache_nbytes(cache)
            ledger.note("replay", t, nbytes, memory)
        dmemory, segment_grads = segment_backward(dmemory, dz[shard.read_out(t)], cache)
        del cache
        add_segment_grads(grads, segment_grads, t)
        del segment_grads
        ledger.note("backward", t, 0, dmemory)
        ledger.note("drop", t, nbytes)
    add_first_memory_grad(grads, dmemory)
    return loss, correct


def first_memory(params, cfg: Config, shard: Shard):
    """mem_1: the learned memory tokens, the same for every sequence. Shapes: -> (B, M, D)."""
    xp, batch = backend.xp, shard.live[0]
    if cfg.num_memory == 0:
        return xp.empty((batch, 0, cfg.d_model), dtype=params["embed.token"].dtype)
    return xp.repeat(params["memory.init"][None], batch, axis=0)


def empty_readout(params, cfg: Config, shard: Shard):
    """Where the segments add what they read out. Shapes: -> (B, D) of zeros, sequences in the shard's order."""
    return backend.xp.zeros((shard.live[0], cfg.d_model), dtype=params["embed.token"].dtype)


def readout_logits(z, params, cfg: Config, shard: Shard):
    """Finish the pooling, bring the sequences back into the batch's order, and apply the head.

    Shapes: z (B, D) -> logits (examples, C)
    """
    if cfg.pooling == "mean":
        z = z / shard.token_counts  # a mean over all live tokens of all segments
    return head_forward(z[shard.positions], params, cfg)


def readout_loss(z, params, cfg: Config, shard: Shard, grads):
    """Head, cross-entropy, and their gradients: the turning point between the way forward and the way back.

    Shapes: z (B, D) -> loss (), correct () (a count), dz (B, D)
    """
    xp = backend.xp
    logits, head_cache = readout_logits(z, params, cfg, shard)
    loss, loss_cache = softmax_cross_entropy_forward(logits, shard.labels, shard.weight)
    dz_ordered, head_grads = head_backward(softmax_cross_entropy_backward(1.0, loss_cache), head_cache)
    add_segment_grads(grads, head_grads, None)
    dz = xp.empty_like(z)
    dz[shard.positions] = dz_ordered
    if cfg.pooling == "mean":
        dz /= shard.token_counts
    return loss, (logits.argmax(axis=1) == shard.labels).sum(), dz


def add_segment_grads(grads, segment_grads, segment) -> None:
    """Add a segment's gradients in place: the one place where gradients are summed over segments."""
    for name, gradient in segment_grads.items():
        total = grads[name]
        if name == "embed.segment":
            total = total[segment]
        elif total.shape != gradient.shape:  # position and features of a segment that is not full
            total = total[: gradient.shape[0]]
        total += gradient


def add_first_memory_grad(grads, dmemory) -> None:
    """Every sequence starts from the same learned memory, so its gradient sums over them. Shapes: dmemory (B, M, D)."""
    if "memory.init" in grads:
        grads["memory.init"] += dmemory.sum(axis=0)
