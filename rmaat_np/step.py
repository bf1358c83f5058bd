"""One training step, and prediction: a batch is cut into shards, which run side by side and are added in order."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from . import backend
from .attention import (
    head_relative_features_backward,
    head_relative_features_forward,
    log_slopes,
    relative_features_backward,
    relative_features_forward,
)
from .config import Config, check_config
from .errors import InputError, check_integer
from .ledger import Event, Ledger
from .model import segment_forward
from .params import check_dtypes, check_params
from .processor import cores, freed_memory_kept
from .replay import Gradients, add_all, amrb, bptt, empty_readout, first_memory, readout_logits, zero_gradients
from .segments import Shard, check_class_weights, check_labels, check_tokens, cut_shards, shard_size

METHODS = ("amrb", "bptt")


@dataclass(frozen=True)
class Share:
    """Which shards of a batch this process computes when `ranks` processes compute the batch together.

    Shard i belongs to rank i % ranks. The shards are sorted by length, so every rank gets long ones and short ones.

    rank: this process, 0 .. ranks - 1
    sum_over_ranks: (n,) -> (n,), the sum of the arrays that all ranks call it with, the same bits on every rank
    """

    rank: int = 0
    ranks: int = 1
    sum_over_ranks: Callable = lambda flat: flat


WHOLE_BATCH = Share()


@freed_memory_kept()
def loss_and_grads(
    params: dict,
    cfg: Config,
    tokens,
    labels,
    method: str = "amrb",
    seed: int | None = None,
    step: int | None = None,
    workers: int = 1,
    *,
    replay_budget: int = 0,
    observer: Callable[[Event], None] | None = None,
    class_weights=None,
    accumulate: int = 1,
    share: Share = WHOLE_BATCH,
):
    """Mean cross-entropy of a batch and its gradient for every parameter.

    The parameters are those of the public interface, so there are thirteen.
    The batch is cut into shards that fit the processor's cache, if there are enough rows one for each of `workers`. As
    many as there are cores run side by side. Their gradients are added in the order of the shards, so that neither the
    timing of threads nor their number changes anything. Memory that the call frees goes back to the system at its end,
    but for 64 MiB; see `processor.freed_memory_kept`.

    method: "amrb" or "bptt", the same gradients bit for bit
    seed, step: name the random numbers of a training step; dropout and retention_horizon act only if both are given
    replay_budget: bytes for each shard. Memory tokens are always kept. If bytes are left, AMRB also keeps caches of
        segments, which then need no replay.
    observer: called with an `Event` for all that comes and goes, from the thread of its shard
    class_weights: w_c, what the loss of a row of class c is multiplied by. The loss is then sum_b w_(y_b) loss_b / B: a
        sum over all rows, divided by their number and not by the sum of their weights, so that parts of a batch add up.
    accumulate: parts of the batch that are computed one after another, for a large batch in a small memory
    share: what of the batch this process computes; loss, grads and accuracy are those of the whole batch all the same

    Shapes: class_weights (C,) or None; tokens (B, n <= S L) ints, for pairs (B, 2, n), 0 is padding; labels (B) ints
        -> loss (); grads: the keys of params; stats: accuracy 0 .. 1, and in bytes the most that `workers` shards hold
        at once: peak_cache_bytes of caches, replay_buffer_bytes of memory tokens
    Raises: InputError for params of another configuration, wrong tokens, labels, class_weights, method or counts.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}, but it must be one of {', '.join(METHODS)}")
    check_integer("workers", workers, 1)
    check_integer("replay_budget", replay_budget, 0)
    check_integer("accumulate", accumulate, 1)
    if backend.name != "numpy":
        workers = 1  # a card computes one shard after another
    sequences = _check_inputs(params, cfg, tokens)
    labels = check_labels(labels, len(sequences) // (1 + cfg.pair), cfg)
    weights = None if class_weights is None else check_class_weights(class_weights, cfg)
    step_key = None
    if seed is not None and step is not None:
        step_key = check_integer("seed", seed, 0), check_integer("step", step, 0)
    size, mine = shard_size(cfg, len(labels), workers, share.ranks * accumulate), slice(share.rank, None, share.ranks)
    shards = cut_shards(sequences, labels, cfg, params["embed.token"].dtype, size, step_key, weights, mine)

    phi_r, phi_r_caches = prepare_phi_r(params, cfg)
    run = partial(_run_shard, params, phi_r, method, replay_budget, observer)
    if shards:
        loss, correct, grads, peaks = _add_shards(_map_in_order(run, shards, workers))
    else:  # there are fewer shards than ranks
        loss = correct = backend.xp.zeros((), dtype=params["embed.token"].dtype)
        grads, peaks = zero_gradients(params, phi_r), [(0, 0)]
    if share.ranks > 1:
        loss, correct = _add_ranks(loss, correct, grads, share)
    grads.params |= _phi_r_backward(grads.phi_r, phi_r_caches, cfg)
    caches, buffers = (sum(sorted(column)[-workers:]) for column in zip(*peaks, strict=True))
    stats = {"accuracy": correct / len(labels), "peak_cache_bytes": caches, "replay_buffer_bytes": buffers}
    return loss, grads.params, stats


@freed_memory_kept()
def predict(params: dict, cfg: Config, tokens, workers: int = 1):
    """Logits of a batch, without dropout. No cache is kept beyond the segment at hand.

    Shapes: tokens (B, n <= S L) ints, for pairs (B, 2, n) -> logits (B, C)
    Raises: InputError for params of another configuration, and for tokens that the configuration does not admit.
    """
    check_integer("workers", workers, 1)
    sequences = _check_inputs(params, cfg, tokens)
    count = len(sequences) // (1 + cfg.pair)
    phi_r, _ = prepare_phi_r(params, cfg)
    dtype = params["embed.token"].dtype
    shards = cut_shards(sequences, None, cfg, dtype, shard_size(cfg, count, workers), None)
    logits = backend.xp.empty((count, cfg.num_classes), dtype=dtype)
    for examples, found in _map_in_order(partial(shard_logits, params, phi_r), shards, workers):
        logits[backend.to_device(examples)] = found
    return logits


def _check_inputs(params: dict, cfg: Config, tokens):
    """-> the batch as `check_tokens` returns it. Raises: InputError for what does not fit the configuration."""
    check_config(cfg)
    check_params(params, cfg)
    check_dtypes(params)
    return check_tokens(tokens, cfg)


def prepare_phi_r(params: dict, cfg: Config) -> tuple[list, list]:
    """phi(R) of every layer, computed once per step because it depends on no sequence.

    Shapes: -> for each layer phi(R) (M + L, D), and its cache; two empty lists without H_astro
    """
    if not cfg.astro:
        return [], []
    pairs = []
    for layer in range(cfg.num_layers):
        rel = f"blocks.{layer}.attn.rel"
        w = params[f"{rel}.weight"]
        if cfg.position_decay == "shared":
            pairs.append(relative_features_forward(w, cfg.position_scale))
        elif cfg.position_decay == "heads":
            slopes = backend.xp.asarray(log_slopes(cfg.num_heads, cfg.position_scale), dtype=w.dtype)
            pairs.append(head_relative_features_forward(w, slopes))
        else:
            pairs.append(head_relative_features_forward(w, params[f"{rel}.log_decay"]))
    return [phi_r for phi_r, _ in pairs], [cache for _, cache in pairs]


def _phi_r_backward(dphi_r: list, caches: list, cfg: Config) -> dict:
    """From the gradients of phi(R) of every layer to those of attn.rel.weight and attn.rel.log_decay.

    Shapes: dphi_r: for each layer (M + L, D) -> grads by name
    """
    grads = {}
    for layer, (gradient, cache) in enumerate(zip(dphi_r, caches, strict=True)):
        rel = f"blocks.{layer}.attn.rel"
        if cfg.position_decay == "shared":
            grads[f"{rel}.weight"] = relative_features_backward(gradient, cache)
            continue
        grads[f"{rel}.weight"], dlog_decay = head_relative_features_backward(gradient, cache)
        if cfg.position_decay == "learned":  # the slopes of "heads" are fixed
            grads[f"{rel}.log_decay"] = dlog_decay
    return grads


def _run_shard(params, phi_r, method, replay_budget, observer, shard: Shard):
    """-> loss, correct, Gradients, (most bytes of caches, most bytes in the replay buffer)"""
    ledger = Ledger(shard, params, observer)
    if method == "amrb":
        loss, correct, grads = amrb(params, phi_r, shard, ledger, replay_budget)
    else:
        loss, correct, grads = bptt(params, phi_r, shard, ledger)
    return loss, correct, grads, (ledger.peak_caches, ledger.peak_buffer)


def _add_shards(results: Iterator) -> tuple:
    """Add what the shards return, in their order. -> loss, correct, Gradients, the shards' peaks in a list"""
    loss, correct, grads, peak = next(results)
    peaks = [peak]
    for shard_loss, shard_correct, shard_grads, peak in results:
        loss, correct = loss + shard_loss, correct + shard_correct
        peaks.append(peak)
        _add(grads, shard_grads)
    return loss, correct, grads, peaks


def _add(total: Gradients, other: Gradients) -> None:
    pairs = [(total.params[name], gradient) for name, gradient in other.params.items()]
    add_all(pairs + list(zip(total.phi_r, other.phi_r, strict=True)))


def _add_ranks(loss, correct, grads: Gradients, share: Share) -> tuple:
    """Add what the ranks computed, all of it in one message. grads become those of the whole batch. -> loss, correct

    The gradients of attn.rel are left out: they are made of those of phi(R), and are still zero.
    """
    xp = backend.xp
    arrays = [array for name, array in grads.params.items() if ".attn.rel." not in name] + grads.phi_r
    numbers = xp.stack([loss, correct.astype(loss.dtype)])
    total = share.sum_over_ranks(xp.concatenate([numbers, *(array.ravel() for array in arrays)]))
    start = len(numbers)
    for array in arrays:
        array[...] = total[start : start + array.size].reshape(array.shape)
        start += array.size
    return total[0], total[1].astype(xp.int64)  # a count again, as it is without ranks


def shard_logits(params: dict, phi_r: list, shard: Shard):
    """The way forward alone: no cache is kept beyond the segment at hand.

    Shapes: phi_r: for each layer (M + L, D) -> the rows of the batch (examples,), their logits (examples, C)
    """
    memory, z = first_memory(params, shard), empty_readout(params, shard)
    for t in range(shard.num_segments):
        memory, readout, _ = segment_forward(params, phi_r, shard.cfg, shard.segment(t), memory)
        z[shard.read_out(t)] += readout
    return shard.examples, readout_logits(z, params, shard)[0]


def _map_in_order(function: Callable, shards: list[Shard], workers: int) -> Iterator:
    """Yield function(shard) in the shards' order, up to `workers` at a time on threads: NumPy lets go of the GIL.

    There are never more threads than cores: they were up to 2.5 times slower.

    A debugger or profiler watches one thread. Under one, all shards run in that thread.
    """
    if workers == 1 or len(shards) == 1 or sys.gettrace() is not None or sys.getprofile() is not None:
        yield from map(function, shards)
        return
    with backend.one_blas_thread(), ThreadPoolExecutor(min(workers, len(shards), cores())) as pool:
        try:
            results = pool.map(function, shards)  # submits them all, which starts the threads
        except RuntimeError as error:  # "can't start new thread"
            pool.shutdown(cancel_futures=True)
            raise InputError(
                f"workers is {workers}, but the system refuses so many threads ({error}); use fewer"
            ) from None
        yield from results
