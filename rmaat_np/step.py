"""One training step, and prediction: the batch in shards, side by side on workers, summed in their order."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from . import backend
from .attention import relative_features_backward, relative_features_forward
from .config import Config
from .errors import InputError
from .ledger import Ledger
from .model import segment_forward
from .params import zero_grads
from .replay import add_segment_grads, amrb, bptt, empty_readout, first_memory, readout_logits
from .segments import check_labels, check_tokens, cut_shards, shard_size

METHODS = ("amrb", "bptt")


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
