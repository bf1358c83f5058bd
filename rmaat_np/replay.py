"""Training through time, twice: back-propagation through time (BPTT), Astrocytic Memory Replay Backpropagation (AMRB).

Both call the same `segment_forward` and `segment_backward`, so AMRB's gradients equal BPTT's bit for bit.

BPTT    forward: keep every segment's cache                       memory O(S)
AMRB    forward: keep the memory tokens that entered each segment memory O(1) + S M D numbers, compute about 4/3
        backward: rebuild a segment's cache by running it again, then go back through it
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from . import backend
from .attention import relative_features_backward, relative_features_forward
from .config import Config
from .errors import InputError
from .layers import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from .model import head_backward, head_forward, segment_backward, segment_forward
from .params import zero_grads
from .segments import Shard, check_labels, check_tokens, cut_shards, shard_size

METHODS = ("amrb", "bptt")
SHARED = ("w", "gain", "tokens", "factor")  # cache entries that point into parameters or the shard: nothing extra


@dataclass(frozen=True)
class Event:
    """What an observer is told about a segment (0, 1, ...) of a shard, and what that changed.

    kind: "store" memory tokens in the replay buffer, "release" them from it; "forward" or "replay" built a cache,
    "drop" gave it up; "backward" went through it. nbytes: of that memory or cache; caches, buffer: bytes that all of
    them hold afterwards; array: the memory tokens, for "backward" the gradient of those that entered the segment.
    """

    kind: str
    segment: int
    shard: int
    nbytes: int
    caches: int
    buffer: int
    array: object


class Ledger:
    """Counts the bytes that one shard's caches and replay buffer hold, and tells the observer of each change."""

    def __init__(self, shard: int, observer: Callable[[Event], None] | None):
        self.shard, self.observer = shard, observer
        self.caches = self.buffer = self.peak_caches = self.peak_buffer = 0
        self.sizes = {}  # of caches, by the shape of their segment: measuring one takes as long as a small product

    def cache_nbytes(self, cache) -> int:
        """`cache_nbytes`, measured once for each shape of segment."""
        segment = cache["segment"]
        shape = segment.tokens.shape, segment.going_on, segment.mask is None
        if shape not in self.sizes:
            self.sizes[shape] = cache_nbytes(cache)
        return self.sizes[shape]

    def note(self, kind: str, segment: int, nbytes: int, array=None) -> None:
        """Book an event, and report it."""
        self.caches += {"forward": nbytes, "replay": nbytes, "drop": -nbytes}.get(kind, 0)
        self.buffer += {"store": nbytes, "release": -nbytes}.get(kind, 0)
        self.peak_caches = max(self.peak_caches, self.caches)
        self.peak_buffer = max(self.peak_buffer, self.buffer)
        if self.observer is not None:
            self.observer(Event(kind, segment, self.shard, nbytes, self.caches, self.buffer, array))


def cache_nbytes(cache) -> int:
    """Bytes that a segment's cache keeps alive; parameters and tokens, which live anyway, are not counted."""
    found, queue = [], [cache]
    while queue:
        entry = queue.pop()
        if isinstance(entry, dict):
            queue.extend(value for name, value in entry.items() if name not in SHARED)
        elif isinstance(entry, list):
            queue.extend(entry)
        elif hasattr(entry, "nbytes"):
            found.append(entry)
    return backend.nbytes_of(found)


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


def prepare_features(params, cfg: Config):
    """phi(R) of every layer, once per step: it depends on no sequence. -> list of (M + L, D), list of caches."""
    if not cfg.astro:
        return [], []
    names = [f"blocks.{layer}.attn.rel.weight" for layer in range(cfg.num_layers)]
    pairs = [relative_features_forward(params[name], cfg.position_scale) for name in names]
    return [features for features, _ in pairs], [cache for _, cache in pairs]


def _shard_loss_and_grads(params, features, cfg, method, budget, observer, shard):
    grads = zero_grads(params)
    for layer, layer_features in enumerate(features):
        grads[f"blocks.{layer}.attn.rel.features"] = backend.xp.zeros_like(layer_features)
    ledger = Ledger(shard.number, observer)
    if method == "amrb":
        loss, correct = amrb(params, features, cfg, shard, grads, ledger, budget)
    else:
        loss, correct = bptt(params, features, cfg, shard, grads, ledger)
    return loss, correct, grads, (ledger.peak_caches, ledger.peak_buffer)


def loss_and_grads(
    params,
    cfg: Config,
    tokens,
    labels,
    method="amrb",
    seed=None,
    step=None,
    workers=1,
    *,
    replay_budget=0,
    observer=None,
):
    """Mean cross-entropy of a batch and its gradient for every parameter.

    The batch is cut into shards that fit the cache; up to `workers` of them run side by side, and their gradients are
    added in the order of the shards, so the timing of threads changes nothing.

    Shapes: tokens (B, n <= S L) ints, for pairs (B, 2, n), 0 is padding; labels (B) ints; seed, step: ints that name
        the dropout masks, which act only if both are given; replay_budget: bytes that AMRB may keep for replay,
        the memory tokens, which it always keeps, and in what they leave whole caches
        -> loss (); grads: the keys of params; stats: accuracy 0 .. 1, and in bytes the most that
        `workers` shards hold at once: peak_cache_bytes of caches, replay_buffer_bytes of memory tokens kept
    Raises: InputError for wrong tokens, labels, method or workers.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}, but it must be one of {', '.join(METHODS)}")
    if workers < 1 or replay_budget < 0:
        raise InputError(f"workers is {workers} and replay_budget {replay_budget}, but they must be at least 1 and 0")
    sequences = check_tokens(tokens, cfg)
    labels = check_labels(labels, len(sequences) // (1 + cfg.pair), cfg)
    dropout = None if cfg.dropout == 0 or seed is None or step is None else (int(seed), int(step))
    shards = cut_shards(
        sequences, labels, cfg, params["embed.token"].dtype, shard_size(cfg, len(labels), workers), dropout
    )

    features, feature_caches = prepare_features(params, cfg)
    run = partial(_shard_loss_and_grads, params, features, cfg, method, replay_budget, observer)
    loss, correct, grads, peaks = 0.0, 0, None, []
    for shard_loss, shard_correct, shard_grads, shard_peaks in _map_in_order(run, shards, workers):
        loss, correct = loss + shard_loss, correct + shard_correct
        peaks.append(shard_peaks)
        if grads is None:
            grads = shard_grads
        else:
            add_segment_grads(grads, shard_grads, slice(None))
    for layer, cache in enumerate(feature_caches):
        dfeatures = grads.pop(f"blocks.{layer}.attn.rel.features")
        grads[f"blocks.{layer}.attn.rel.weight"] = relative_features_backward(dfeatures, cache)
    caches, buffers = (sum(sorted(column)[-workers:]) for column in zip(*peaks, strict=True))
    stats = {"accuracy": correct / len(labels), "peak_cache_bytes": caches, "replay_buffer_bytes": buffers}
    return loss, grads, stats


def predict(params, cfg: Config, tokens, workers=1):
    """Logits of a batch, without dropout and without a cache beyond the segment at hand.

    Shapes: tokens (B, n <= S L) ints, for pairs (B, 2, n) -> logits (B, C)
    Raises: InputError for tokens that the configuration does not admit.
    """
    sequences = check_tokens(tokens, cfg)
    count = len(sequences) // (1 + cfg.pair)
    features, _ = prepare_features(params, cfg)
    dtype = params["embed.token"].dtype
    shards = cut_shards(sequences, None, cfg, dtype, shard_size(cfg, count, workers), None)
    logits = backend.xp.empty((count, cfg.num_classes), dtype=dtype)
    for examples, shard_logits in _map_in_order(partial(_shard_logits, params, features, cfg), shards, workers):
        logits[backend.to_device(examples)] = shard_logits
    return logits


def _shard_logits(params, features, cfg, shard):
    memory, z = first_memory(params, cfg, shard), empty_readout(params, cfg, shard)
    for t in range(shard.num_segments):
        memory, readout, _ = segment_forward(params, features, cfg, shard.segment(t), memory)
        z[shard.read_out(t)] += readout
    return shard.examples, readout_logits(z, params, cfg, shard)[0]


def _map_in_order(function, shards, workers):
    """Yield function(shard) in the shards' order, up to `workers` at a time on threads (NumPy lets go of the GIL).

    Under a debugger or profiler, which watch one thread, all run in that one.
    """
    if workers == 1 or len(shards) == 1 or sys.gettrace() is not None or sys.getprofile() is not None:
        yield from map(function, shards)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, shards)
