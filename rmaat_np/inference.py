"""A trained model at work: probabilities for rows of any lengths, and a model for longer rows."""

import warnings
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from . import backend
from .config import Config, check_config
from .errors import InputError, check_integer
from .params import check_params
from .segments import sequence_lengths
from .step import predict

ROWS_AT_ONCE = 128  # of a prediction


def predict_proba(params: dict, cfg: Config, rows: Iterable, workers: int = 1) -> np.ndarray:
    """Probabilities of the classes for rows of any lengths: the softmax of `predict`'s logits.

    Rows of like length are padded together, ROWS_AT_ONCE at a time.

    rows: token ids, without padding or with zeros on the right; a list of 1-D integer arrays, or a 2-D array; for
        pairs, two of them a row
    Shapes: -> (rows, C) float64, 0 .. 1, each row of sum 1
    Raises: InputError naming the row as X[i] for an empty row, one that is longer than the model reads, or a wrong id.
    """
    documents = 1 + cfg.pair
    if not isinstance(rows, Iterable):
        raise InputError(f"X is a {type(rows).__name__}, but it must be a list or array of rows")
    pieces = [_row_tokens(row, cfg, i) for i, row in enumerate(rows)]
    lengths = np.array([max(map(len, row)) for row in pieces], dtype=int)
    order = np.argsort(lengths, kind="stable")
    probabilities = np.empty((len(pieces), cfg.num_classes))
    for start in range(0, len(order), ROWS_AT_ONCE):
        chosen = order[start : start + ROWS_AT_ONCE]
        tokens = np.zeros((len(chosen), documents, lengths[chosen].max()), dtype=np.int32)
        for b, i in enumerate(chosen):
            for d, piece in enumerate(pieces[i]):
                tokens[b, d, : len(piece)] = piece
        logits = predict(params, cfg, tokens if cfg.pair else tokens[:, 0], workers)
        probabilities[chosen] = softmax(backend.to_host(logits))
    return probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z_c) / sum exp(z). Shapes: (B, C) on the host -> (B, C) float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _row_tokens(row, cfg: Config, i: int) -> list[np.ndarray]:
    """The documents of a row without padding. Raises: InputError naming the row."""
    parts = [*row] if cfg.pair else [row]
    if len(parts) != 1 + cfg.pair:
        raise InputError(f"X[{i}] has {len(parts)} document(s), but the model reads {1 + cfg.pair}")
    pieces = []
    for part in parts:
        tokens = backend.to_host(part)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise InputError(f"X[{i}] is {tokens.dtype} of shape {tokens.shape}; a row is one list of token ids")
        tokens = tokens[: sequence_lengths(tokens[None])[0]] if tokens.size else tokens
        if not 0 < len(tokens) <= cfg.max_length:
            most = f"the model reads 1 to {cfg.max_length:,} (num_segments * segment_length)"
            raise InputError(f"X[{i}] has {len(tokens):,} tokens, but {most}; cut it, or `lengthen` the model")
        if tokens.min() < 0 or tokens.max() >= cfg.vocab_size:
            raise InputError(f"X[{i}] has an id outside 0 to {cfg.vocab_size - 1} (vocab_size {cfg.vocab_size})")
        pieces.append(tokens)
    return pieces


def lengthen(params: dict, cfg: Config, num_segments: int) -> tuple[dict, Config]:
    """The model for rows of up to `num_segments` segments, with the parameters that it has. -> params, cfg

    Everything but `embed.segment` is the same for every segment, and is kept. The new rows of `embed.segment` repeat
    its last one; a warning says so. A model with segment_embedding false has no such rows. The retention factors
    follow from the number of segments of each row, so that a longer row has others than those in training.
    Raises: InputError for fewer segments than the model has.
    """
    check_config(cfg)
    check_params(params, cfg)
    num_segments, before = check_integer("num_segments", num_segments, 1), cfg.num_segments
    if num_segments < before:
        raise InputError(f"num_segments is {num_segments}, but the model already reads {before}; give that or more")
    if cfg.segment_embedding and num_segments > before:
        warnings.warn(
            f"segments {before + 1} to {num_segments} take the row of embed.segment that segment {before} learned; all "
            "other parameters are kept",
            stacklevel=2,
        )
    return with_segments(params, num_segments), replace(cfg, num_segments=num_segments)


def with_segments(params: dict, num_segments: int) -> dict:
    """The parameters with at least `num_segments` rows of embed.segment, the new ones as the last; else unchanged."""
    rows, longer = params.get("embed.segment"), dict(params)
    if rows is not None and rows.ndim == 2 and 0 < len(rows) < num_segments:
        more = backend.xp.repeat(rows[-1:], num_segments - len(rows), axis=0)
        longer["embed.segment"] = backend.xp.concatenate([rows, more])
    return longer
