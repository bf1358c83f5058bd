"""How a batch of ragged sequences is cut into shards and segments, on the host, before anything is computed."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from . import backend
from .config import Config
from .dropout import DropoutKey
from .errors import InputError
from .plasticity import retention_factors

# The most rows of width 64 in a shard. With more, its arrays no longer fit the processor's cache. Of 700, 1100, 2200
# and 4400 rows, 2200 was fastest or within 4 % of the fastest in every benchmark (AMD Zen 4, 2 cores).
ROWS_PER_SHARD = 2200
# The least rows of width 64, so that another worker gets a shard: with fewer, threads wait for each other between many
# short operations. Two threads took as long as one near 2,300 rows of width 16, 1,400 of 32, 490 of 64 and 160 of 128
# (AMD Zen 4, 2 cores), and at 136 rows of width 64 they took 2.2 times as long.
LEAST_ROWS_PER_SHARD = 500
_LONGER = 0.7  # the share of the sequences that have the factors of a longer one, with a retention_horizon (decided)
_HORIZON = 0x686F7269  # apart from other generators that are named by seed and step


@dataclass(frozen=True)
class Segment:
    """Segment `index` of a shard, as the device sees it. B sequences are active in it: they have tokens here.

    num_continuing: how many of them, the first ones, have a further segment
    dropout_key: names the segment's dropout masks, or None
    Shapes:
        tokens: (B, n), n <= L
        mask: (B, M + n, 1), 1 for live tokens and memory tokens, 0 for padding; None when nothing is padded
        factor: (num_continuing, 1, 1), what the memory update multiplies by
    """

    index: int
    tokens: Any
    mask: Any
    factor: Any
    num_continuing: int
    dropout_key: DropoutKey | None


@dataclass(frozen=True)
class Shard:
    """Some rows of a batch, their sequences sorted by number of segments, longest first.

    So the sequences that are active in segment t are the first num_active[t]. No work is spent on those that ended.

    On the host:
        number: which shard of the batch this is; examples: the rows of the batch that it holds
        num_active: (S + 1) counts, the last of them 0; longest: tokens of the longest sequence
        padded: (S), does a segment hold padding; weight: 1 / rows of the whole batch
        step_key: (seed, step), which name the random numbers of a training step; None: there are none
    On the device:
        tokens (B, n); factors (S, B); token_counts (B, 1), padding not counted
        rows (B) uint32: the place of each sequence in the whole batch
        positions (B): where in the shard each of its sequences went by sorting; labels (examples) or None
        row_weights (examples): what the loss of each example is multiplied by; None: 1
    """

    cfg: Config
    number: int
    examples: np.ndarray
    num_active: list[int]
    longest: int
    padded: list[bool]
    weight: float
    step_key: tuple[int, int] | None
    tokens: Any
    factors: Any
    token_counts: Any
    rows: Any
    positions: Any
    labels: Any
    row_weights: Any

    @property
    def num_segments(self) -> int:
        """Segments of the shard's longest sequence; those past it are not computed."""
        return len(self.num_active) - 1

    def segment(self, t: int) -> Segment:
        """Cut out segment t, 0 .. num_segments - 1."""
        cfg, active, num_continuing = self.cfg, self.num_active[t], self.num_active[t + 1]
        start = t * cfg.segment_length
        tokens = self.tokens[:active, start : min(start + cfg.segment_length, self.longest)]
        mask = self._mask(tokens) if self.padded[t] else None
        dropout_key = None
        if cfg.dropout > 0 and self.step_key is not None:
            dropout_key = DropoutKey(cfg.dropout, *self.step_key, t, self.rows[:active])
        return Segment(t, tokens, mask, self.factors[t, :num_continuing, None, None], num_continuing, dropout_key)

    def read_out(self, t: int) -> slice:
        """Which of the sorted sequences segment t reads out: those that end in it; with pooling "mean" all active."""
        return slice(self.num_active[t + 1] if self.cfg.pooling == "memory" else 0, self.num_active[t])

    def _mask(self, tokens):
        xp = backend.xp
        memory_rows = xp.ones((tokens.shape[0], self.cfg.num_memory), dtype=self.factors.dtype)
        return xp.concatenate([memory_rows, (tokens != 0).astype(memory_rows.dtype)], axis=1)[:, :, None]


def check_tokens(tokens, cfg: Config) -> np.ndarray:
    """The batch as a host array of sequences (sequences, n); a pair is two of them.

    Shapes: tokens (B, n) ints, for pairs (B, 2, n), 0 is padding
    Raises: InputError naming the row for wrong shapes or ids, empty or too long sequences.
    """
    tokens = backend.to_host(tokens)
    wanted = "(batch, 2, length), two documents per row" if cfg.pair else "(batch, length)"
    if (
        tokens.dtype.kind not in "iu"
        or tokens.ndim != 2 + cfg.pair
        or (cfg.pair and tokens.shape[1] != 2)
        or not tokens.size
    ):
        raise InputError(f"tokens are {tokens.dtype} of shape {tokens.shape}, but they must be ints of shape {wanted}")
    sequences = tokens.reshape(-1, tokens.shape[-1])
    if sequences.min() < 0 or sequences.max() >= cfg.vocab_size:
        row = int(np.argmax(((sequences < 0) | (sequences >= cfg.vocab_size)).any(axis=1))) // (1 + cfg.pair)
        raise InputError(f"tokens: row {row} has an id outside 0 to {cfg.vocab_size - 1} (vocab_size {cfg.vocab_size})")
    lengths = sequence_lengths(sequences)
    if lengths.min() > 0 and (sequences[:, 0] == 0).any():
        row = int(np.argmax(sequences[:, 0] == 0)) // (1 + cfg.pair)
        raise InputError(
            f"tokens: row {row} begins with padding (id 0), but padding belongs behind the tokens; "
            "pad on the right, for example padding='post'"
        )
    if lengths.min() == 0:
        raise InputError(
            f"tokens: row {int(np.argmin(lengths)) // (1 + cfg.pair)} is empty: it holds nothing but padding (id 0)"
        )
    if lengths.max() > cfg.max_length:
        row = int(np.argmax(lengths)) // (1 + cfg.pair)
        raise InputError(
            f"tokens: row {row} has {lengths.max()} tokens, but num_segments * segment_length is {cfg.max_length}; "
            "raise one of them or cut the sequence"
        )
    return sequences


def check_labels(labels, count: int, cfg: Config) -> np.ndarray:
    """The labels as a host array (B,) of ints in 0 .. num_classes - 1. Raises: InputError naming the row."""
    labels = backend.to_host(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype} of shape {labels.shape}, but they must be ints of shape ({count},)"
        )
    wrong = (labels < 0) | (labels >= cfg.num_classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"labels: row {row} is {labels[row]}, but num_classes {cfg.num_classes} allows 0 to {cfg.num_classes - 1}"
        )
    return labels


def check_class_weights(weights, cfg: Config) -> np.ndarray:
    """What the loss of a row of each class is multiplied by, as a host array (C,) of float64.

    Raises: InputError naming the first class whose weight is not a finite number of at least 0.
    """
    weights = np.asarray(backend.to_host(weights))
    if weights.shape != (cfg.num_classes,) or weights.dtype.kind not in "iuf":
        raise InputError(
            f"class_weights are {weights.dtype} of shape {weights.shape}, but they must be numbers of shape "
            f"({cfg.num_classes},), one for each class"
        )
    wrong = ~np.isfinite(weights) | (weights < 0)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise InputError(f"class_weights: class {place} has {weights[place]}; use finite numbers, 0 or more")
    return weights.astype(np.float64)


def sequence_lengths(sequences) -> np.ndarray:
    """n_b: the place of the last token that is not padding. Shapes: (B, n) -> (B,) ints, 0 for an empty sequence."""
    live = sequences != 0
    return np.where(live.any(axis=1), sequences.shape[1] - np.argmax(live[:, ::-1], axis=1), 0)


def shard_size(cfg: Config, examples: int, workers: int, parts: int = 1) -> int:
    """How many examples a shard holds: a worker's share of a part, but neither more than fit the processor's cache nor
    so few that a thread of their own costs more than it saves.

    parts: those of the batch that are computed one after another, or by different processes. On a GPU each is a shard.
    """
    part, share = -(-examples // parts), -(-examples // (workers * parts))
    if backend.name != "numpy":
        return part
    rows = (cfg.num_memory + cfg.segment_length) * (1 + cfg.pair)  # of an example
    most = max(1, int(ROWS_PER_SHARD / (rows * max(cfg.d_model, 64) / 64)))
    least = ceil(LEAST_ROWS_PER_SHARD / (rows * cfg.d_model / 64))
    return min(part, most, max(share, least))


def cut_shards(
    sequences, labels, cfg: Config, dtype, size: int, step_key=None, class_weights=None, wanted: slice = slice(None)
) -> list[Shard]:
    """Sort the examples by number of segments, longest first, and cut them into shards of `size`.

    It has eight parameters, because a shard holds a little of everything that a step is given.

    step_key: (seed, step) of a training step, or None; wanted: which of the shards are made
    Shapes: sequences (B, n) as from check_tokens; labels (examples) or None; class_weights (C,) or None
    """
    documents = 1 + cfg.pair
    lengths = sequence_lengths(sequences)
    totals = -(-lengths // cfg.segment_length)  # T_b
    order = np.argsort(-totals.reshape(-1, documents).max(axis=1), kind="stable")
    shards: list[Shard] = []
    for start in range(0, len(order), size)[wanted]:
        examples = order[start : start + size]
        members = (examples[:, None] * documents + np.arange(documents)).ravel()  # the examples' sequences
        by_length = np.argsort(-totals[members], kind="stable")
        common = {
            "cfg": cfg,
            "number": start // size,
            "examples": examples,
            "weight": 1 / len(order),
            "step_key": step_key,
        }
        on_device = {
            "positions": backend.to_device(np.argsort(by_length)),
            "labels": None if labels is None else backend.to_device(labels[examples]),
            "row_weights": None,
        }
        if class_weights is not None:
            on_device["row_weights"] = backend.to_device(class_weights[labels[examples]].astype(dtype))
        which = members[by_length]
        shards.append(
            Shard(**common, **on_device, **_cut_sequences(sequences, lengths, totals, which, cfg, dtype, step_key))
        )
    return shards


def _cut_sequences(sequences, lengths, totals, which, cfg, dtype, step_key) -> dict:
    """The part of a shard that describes its sequences, already sorted."""
    L, S, longest = cfg.segment_length, int(totals[which[0]]), int(lengths[which].max())
    num_active = [int((totals[which] > t).sum()) for t in range(S + 1)]
    whole = np.array_equal(which, np.arange(len(sequences)))  # the batch is one sorted shard, and nothing is copied
    tokens = sequences[:, :longest] if whole else sequences[which, :longest]
    factors = np.zeros((S, len(which)), dtype=dtype)
    for b, total in enumerate(totals[which]):
        factors[:total, b] = sequence_factors(int(total), cfg, step_key, int(which[b]))
    counts = (tokens != 0).sum(axis=1, keepdims=True)
    return {
        "num_active": num_active,
        "longest": longest,
        "padded": [bool((tokens[: num_active[t], t * L : (t + 1) * L] == 0).any()) for t in range(S)],
        "tokens": backend.to_device(tokens),
        "factors": backend.to_device(factors),
        "token_counts": backend.to_device(counts.astype(dtype)),
        "rows": backend.to_device(which.astype(np.uint32)),
    }


def sequence_factors(total: int, cfg: Config, step_key, place: int):
    """RF(t, T) for t = 1 .. T; in training, with a retention_horizon, in 7 cases of 10 those of a longer sequence.

    These are RF(t, H) at T different t in rising order; in half of the cases the first t is 1. All is a function of
    the step and of the sequence's place in the whole batch, as dropout masks are.

    total: T; step_key: (seed, step) or None -> (T,) float64
    """
    if not cfg.retention_horizon or step_key is None:
        return retention_factors(total, cfg.retention)
    rng = np.random.default_rng([*step_key, place, _HORIZON])
    least, most = (total - 1).bit_length(), cfg.retention_horizon.bit_length() - 1  # of the powers of two
    if least > most or rng.random() >= _LONGER:
        return retention_factors(total, cfg.retention)
    horizon = 2 ** int(rng.integers(least, most + 1))
    cycles = np.sort(rng.choice(horizon, total, replace=False))  # t - 1
    if rng.random() < 0.5:
        cycles[0] = 0
    return _long_factors(horizon, cfg.retention)[cycles]


@lru_cache(maxsize=64)
def _long_factors(total: int, mode: str):
    """As `retention_factors`, kept from step to step and therefore read-only."""
    factors = retention_factors(total, mode)
    factors.flags.writeable = False
    return factors
