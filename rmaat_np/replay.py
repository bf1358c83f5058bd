"""Training through time, twice: back-propagation through time (BPTT), Astrocytic Memory Replay Backpropagation (AMRB).

BPTT    forward: keep the cache of every segment                  memory O(S)
AMRB    forward: keep the memory tokens that entered each segment memory O(1) + S M D numbers, compute about 4/3
        backward: rebuild a segment's cache by running it again, then go back through it

Both call the same `segment_forward` and `segment_backward`. Therefore AMRB's gradients equal BPTT's bit for bit.
"""

from dataclasses import dataclass

from . import backend
from .layers import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from .ledger import Ledger
from .model import head_backward, head_forward, segment_backward, segment_forward
from .params import zero_grads
from .segments import Shard


def bptt(params: dict, phi_r: list, shard: Shard, ledger: Ledger):
    """Back-propagation through time: keep the cache of every segment until its gradient is needed.

    Shapes: phi_r: for each layer (M + L, D) -> loss (), correct (): a count, Gradients
    """
    memory, z = first_memory(params, shard), empty_readout(params, shard)
    caches = []
    for t in range(shard.num_segments):
        memory, readout, cache = segment_forward(params, phi_r, shard.cfg, shard.segment(t), memory)
        z[shard.read_out(t)] += readout
        caches.append(cache)
        ledger.build("forward", t, cache, memory)

    grads = zero_gradients(params, phi_r)
    loss, correct, dz = readout_loss(z, params, shard, grads)
    dmemory = memory  # no sequence goes on after the last segment: (0, M, D)
    for t in reversed(range(shard.num_segments)):
        cache = caches.pop()
        dmemory, segment_grads, dphi_r = segment_backward(dmemory, dz[shard.read_out(t)], cache)
        add_segment_grads(grads, segment_grads, dphi_r, t)
        ledger.go_back(t, dmemory)
        del cache, segment_grads, dphi_r  # or these names would keep all of it alive during the next segment
        ledger.drop(t)
    add_first_memory_grad(grads, dmemory)
    return loss, correct, grads


def amrb(params: dict, phi_r: list, shard: Shard, ledger: Ledger, budget: int = 0):
    """Astrocytic Memory Replay Backpropagation: keep the memory tokens, and run a segment again for its gradient.

    The last segment's cache is kept, because it would be rebuilt at once (decided). Of the segments before it, the
    latest ones' caches are kept as long as they fit into `budget` bytes beside the replay buffer.

    Arguments and results as in `bptt`. Source: arXiv:2601.00426; memory replay arXiv:2010.06891.
    """
    memory, z = first_memory(params, shard), empty_readout(params, shard)
    buffer: list = []
    kept: dict[int, dict] = {}
    for t in range(shard.num_segments):
        while kept and ledger.caches + ledger.buffer > budget:  # before the next cache is built
            oldest = min(kept)
            del kept[oldest]
            ledger.drop(oldest)
        buffer.append(memory)
        ledger.store(t, memory)
        memory, readout, kept[t] = segment_forward(params, phi_r, shard.cfg, shard.segment(t), memory)
        z[shard.read_out(t)] += readout
        ledger.build("forward", t, kept[t], memory)

    grads = zero_gradients(params, phi_r)
    loss, correct, dz = readout_loss(z, params, shard, grads)
    dmemory = memory  # no sequence goes on after the last segment: (0, M, D)
    for t in reversed(range(shard.num_segments)):
        memory = buffer.pop()
        ledger.release(t, memory)
        if t in kept:
            cache = kept.pop(t)
        else:
            _, _, cache = segment_forward(params, phi_r, shard.cfg, shard.segment(t), memory)
            ledger.build("replay", t, cache, memory)
        dmemory, segment_grads, dphi_r = segment_backward(dmemory, dz[shard.read_out(t)], cache)
        add_segment_grads(grads, segment_grads, dphi_r, t)
        ledger.go_back(t, dmemory)
        del cache, segment_grads, dphi_r  # or these names would keep all of it alive during the next replay
        ledger.drop(t)
    add_first_memory_grad(grads, dmemory)
    return loss, correct, grads


@dataclass
class Gradients:
    """What the segments of a shard add up.

    params: the gradient of every parameter, by its name
    phi_r: for each layer the gradient of phi(R), (M + L, D); empty without H_astro
    """

    params: dict
    phi_r: list


def zero_gradients(params: dict, phi_r: list) -> Gradients:
    """Zeros to add to, shaped as the parameters and as phi(R) of each layer."""
    return Gradients(zero_grads(params), [backend.xp.zeros_like(layer) for layer in phi_r])


def first_memory(params: dict, shard: Shard):
    """mem_1: the learned memory tokens, the same for every sequence. Shapes: -> (B, M, D)."""
    xp, cfg, batch = backend.xp, shard.cfg, shard.num_active[0]
    if cfg.num_memory == 0:
        return xp.empty((batch, 0, cfg.d_model), dtype=params["embed.token"].dtype)
    return xp.repeat(params["memory.init"][None], batch, axis=0)


def empty_readout(params: dict, shard: Shard):
    """Where the segments add what they read out. Shapes: -> (B, D) of zeros, sequences in the shard's order."""
    return backend.xp.zeros((shard.num_active[0], shard.cfg.d_model), dtype=params["embed.token"].dtype)


def readout_logits(z, params: dict, shard: Shard):
    """Finish the pooling, bring the sequences back into the batch's order, and apply the head.

    Shapes: z (B, D) -> logits (examples, C), the head's cache
    """
    if shard.cfg.pooling == "mean":
        z = z / shard.token_counts  # a mean over all live tokens of all segments
    return head_forward(z[shard.positions], params, shard.cfg)


def readout_loss(z, params: dict, shard: Shard, grads: Gradients):
    """Head, cross-entropy, and their gradients: the turning point between the way forward and the way back.

    The head's gradients are added to grads.
    Shapes: z (B, D) -> loss (), correct (): a count, dz (B, D)
    """
    xp = backend.xp
    logits, head_cache = readout_logits(z, params, shard)
    loss, loss_cache = softmax_cross_entropy_forward(logits, shard.labels, shard.weight, shard.row_weights)
    dz_ordered, head_grads = head_backward(softmax_cross_entropy_backward(1.0, loss_cache), head_cache)
    for name, gradient in head_grads.items():
        grads.params[name] += gradient
    dz = xp.empty_like(z)
    dz[shard.positions] = dz_ordered
    if shard.cfg.pooling == "mean":
        dz /= shard.token_counts
    return loss, (logits.argmax(axis=1) == shard.labels).sum(), dz


def add_segment_grads(grads: Gradients, segment_grads: dict, dphi_r: list, segment: int) -> None:
    """Add the gradients of one segment in place: the one place where gradients are summed over segments.

    A segment that is not full has fewer rows of `embed.position` and of phi(R) than the whole gradient.
    """
    pairs = []
    for name, gradient in segment_grads.items():
        total = grads.params[name]
        if name == "embed.segment":
            total = total[segment]
        elif name == "embed.position":
            total = total[: gradient.shape[0]]
        pairs.append((total, gradient))
    pairs += [(total[: gradient.shape[0]], gradient) for total, gradient in zip(grads.phi_r, dphi_r, strict=True)]
    add_all(pairs)


def add_all(pairs: list) -> None:
    """total += addend for each pair (total, addend). Shapes: those of a pair are the same."""
    if backend.kernels:
        return backend.kernels.add_all(pairs)
    for total, addend in pairs:
        total += addend


def add_first_memory_grad(grads: Gradients, dmemory) -> None:
    """Every sequence starts from the same learned memory, so its gradient sums over them. Shapes: dmemory (B, M, D)."""
    if "memory.init" in grads.params:
        grads.params["memory.init"] += dmemory.sum(axis=0)
