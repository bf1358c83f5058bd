"""One row of the traced batch: its tokens, the factors of its memory updates, and what the model answers."""

from dataclasses import dataclass

import numpy as np

from .. import backend
from ..config import Config
from ..plasticity import retention_factors
from ..segments import check_tokens, cut_shards, shard_size
from ..step import prepare_phi_r, shard_logits

__all__ = ["TracedRow", "trace_row"]


@dataclass(frozen=True, eq=False)
class TracedRow:
    """A row of a batch in one training step. Of a pair, the tokens and factors are those of one document, the longer.

    number: its place in the batch; document: 0, or 1 for the second document of a pair; label: the right answer
    mode: of the memory update, a key of `plasticity.RETENTION_MODES`

    Shapes:
        tokens: (n,) ids, padding included
        factors: (T,), what the memory update after each of the T segments multiplies by, or the prior of its gate;
            the last one has no effect
        log_shares: (C,) the natural logarithms of the softmax of the logits, dropout of the step included
    """

    number: int
    document: int
    label: int
    mode: str
    tokens: np.ndarray
    factors: np.ndarray
    log_shares: np.ndarray

    @property
    def num_segments(self) -> int:
        """T, the segments that the row has."""
        return len(self.factors)

    @property
    def loss(self) -> float:
        """The row's cross-entropy."""
        return -float(self.log_shares[self.label])


def trace_row(params: dict, cfg: Config, tokens, labels, seed: int, step: int) -> TracedRow:
    """The first row of the first shard, so one of the longest, in the step that `trace_step` traces.

    Shapes: tokens (B, n) ints, for pairs (B, 2, n); labels (B) ints
    Raises: InputError for tokens that the configuration does not admit.
    """
    sequences, documents = check_tokens(tokens, cfg), 1 + cfg.pair
    size, dtype = shard_size(cfg, len(labels), 1), params["embed.token"].dtype
    shard = cut_shards(sequences, labels, cfg, dtype, size, (seed, step))[0]
    phi_r, _ = prepare_phi_r(params, cfg)
    examples, logits = shard_logits(params, phi_r, shard)
    place = int(backend.to_host(shard.rows)[0])  # of the longest sequence among those of the batch
    number, document = divmod(place, documents)
    scores = np.asarray(backend.to_host(logits), dtype=float)[list(examples).index(number)]
    return TracedRow(
        number,
        document,
        int(labels[number]),
        cfg.retention,
        sequences[place],
        retention_factors(shard.num_segments, cfg.retention),
        _log_softmax(scores),
    )


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Shapes: (C,) -> (C,). Numbers that are not finite give such numbers, without a warning."""
    with np.errstate(invalid="ignore"):
        shifted = scores - scores.max()
        return shifted - np.log(np.exp(shifted).sum())
