"""The model's configuration: one flat, frozen, validated dataclass."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy

from .errors import InputError
from .plasticity import RETENTION_MODES

CHOICES = {
    "attention": ("astromorphic", "softmax"),
    "position_decay": ("shared", "heads", "learned"),
    "norm": ("pre", "post"),
    "retention": tuple(RETENTION_MODES),
    "pooling": ("memory", "mean"),
}
AT_LEAST = {
    "vocab_size": 2,
    "num_classes": 2,
    "d_model": 1,
    "num_heads": 1,
    "num_layers": 1,
    "d_ff": 1,
    "segment_length": 1,
    "num_segments": 1,
    "num_memory": 0,
    "retention_horizon": 0,
}
LONGEST_HORIZON = 2**20  # segments; a table of factors is kept for every power of two up to the horizon


@dataclass(frozen=True)
class Config:
    """Sizes and switches of one RMAAT model (system of arXiv:2601.00426); any wrong value is refused at once.

    Sizes: vocab_size counts the padding id 0; segment_length L and num_memory M in tokens; num_segments S at most
        per sequence; d_model D is divided among num_heads heads; d_ff is the feed-forward width.
    Switches: attention "astromorphic" | "softmax"; use_astro: H_astro; use_feedback: P = 1/C; alpha > 0: exponent of
        the astrocyte's response g; position_scale > 0: decay of r_ij per token; position_decay "shared": all heads have
        this one | "heads": each has its own, from position_scale upward (`attention.log_slopes`) | "learned": each
        has its own, which starts there and is a parameter;
        norm "pre" | "post"; retention "integrate" | "scale" | "online" | "none" | "learned";
        pooling "memory" | "mean"; position_embedding: a learned row for each place in a segment; segment_embedding;
        pair: two documents per row; dropout in [0, 1).
    Training alone: dropout, and retention_horizon, in segments. RF(t, T) of a very long sequence is far below that of
        a short one, and a gate that never saw such factors loses what it holds. With a horizon, 7 sequences of 10 have
        the factors of a longer sequence: of T places among H, a power of two, T <= H <= horizon (decided, beyond the
        paper). 0: never. Retention "none" has no factors, so that the horizon changes nothing there.
    Raises: InputError that names the field and what it may be.
    """

    vocab_size: int
    num_classes: int
    d_model: int = 64
    num_heads: int = 4
    num_layers: int = 2
    d_ff: int = 128
    segment_length: int = 32
    num_segments: int = 4
    num_memory: int = 8
    attention: str = "astromorphic"
    use_astro: bool = True
    use_feedback: bool = True
    alpha: float = 1.0
    position_scale: float = 0.05
    position_decay: str = "shared"
    norm: str = "pre"
    retention: str = "integrate"
    pooling: str = "memory"
    position_embedding: bool = True
    segment_embedding: bool = True
    pair: bool = False
    dropout: float = 0.0
    retention_horizon: int = 0

    def __post_init__(self):
        check_fields(self, AT_LEAST, CHOICES)
        check_positive(self, "alpha", "position_scale")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}, but it must be at least 0 and below 1")
        if self.retention_horizon > LONGEST_HORIZON:
            raise InputError(f"retention_horizon is {self.retention_horizon}, but it must be at most {LONGEST_HORIZON}")
        if self.d_model % self.num_heads:
            raise InputError(
                f"d_model {self.d_model} is not divisible by num_heads {self.num_heads}; choose one that divides it"
            )
        if self.num_memory == 0 and self.pooling == "memory":
            raise InputError('num_memory is 0, so there is no memory to read out; set pooling to "mean"')

    @property
    def max_length(self) -> int:
        """The longest sequence that the model reads: S * L tokens."""
        return self.num_segments * self.segment_length

    @property
    def head_width(self) -> int:
        """m = D / h."""
        return self.d_model // self.num_heads

    @property
    def astro(self) -> bool:
        """True when the attention has the astrocytic term H_astro, and so the parameters `attn.rel.*`."""
        return self.attention == "astromorphic" and self.use_astro


def check_fields(record, at_least: dict, choices: dict) -> None:
    """Convert and check every field of a dataclass: the one door for values that come from outside.

    NumPy's scalars become Python's: a float64 that slipped in would turn float32 arithmetic into float64.
    at_least: field -> least value; choices: field -> the values that it may have
    Raises: InputError naming the field and what it may be.
    """
    for field in fields(record):
        value = convert_value(field.name, getattr(record, field.name), field.type)
        object.__setattr__(record, field.name, value)  # the dataclass may be frozen
    for name, least in at_least.items():
        if not least <= getattr(record, name) < math.inf:
            raise InputError(f"{name} is {getattr(record, name)}, but it must be at least {least}")
    for name, allowed in choices.items():
        if getattr(record, name) not in allowed:
            raise InputError(f"{name} is {getattr(record, name)!r}, but it must be one of {', '.join(allowed)}")


def check_positive(record, *names: str) -> None:
    """Refuse numbers of a dataclass that are not finite and above 0. Raises: InputError naming the field."""
    for name in names:
        if not 0 < getattr(record, name) < math.inf:
            raise InputError(f"{name} is {getattr(record, name)}, but it must be a finite number above 0")


def check_config(cfg) -> None:
    """Raises: InputError for what is no Config."""
    if not isinstance(cfg, Config):
        raise InputError(f"cfg is a {type(cfg).__name__}, but it must be a Config")


def convert_value(name: str, value, kind):
    """The value as Python's own type `kind`: int, float, bool, str or dict. An int may stand for a float.

    Raises: InputError naming the field, for a value of another type.
    """
    if isinstance(value, numpy.generic):
        value = value.item()
    accepted: Any = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a table"}[kind]
        raise InputError(f"{name} is {value!r}, but it must be {wanted}")
    if kind is not bool and isinstance(value, int) and abs(value) >= 2**62:
        raise InputError(f"{name} is {value}, but it must be a number that an array can have")
    return float(value) if kind is float else value
