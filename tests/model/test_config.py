"""Config: every wrong value is refused in one line that names the field and what it may be."""

import dataclasses
import math

import numpy as np
import pytest

from rmaat_np import init_params, loss_and_grads, predict
from rmaat_np.config import Config
from rmaat_np.errors import InputError

COUNTS = {
    "vocab_size": 2,
    "num_classes": 2,
    "d_model": 1,
    "num_heads": 1,
    "num_layers": 1,
    "d_ff": 1,
    "segment_length": 1,
    "num_segments": 1,
    "num_memory": 0,
}
ALLOWED = {
    "attention": ("astromorphic", "softmax"),
    "position_decay": ("shared", "heads", "learned"),
    "norm": ("pre", "post"),
    "retention": ("integrate", "scale", "online", "none", "learned"),
    "pooling": ("memory", "mean"),
}
POSITIVE = ("alpha", "position_scale")
SWITCHES = ("use_astro", "use_feedback", "position_embedding", "segment_embedding", "pair")


def config(**changes) -> Config:
    return Config(**{"vocab_size": 16, "num_classes": 10} | changes)


def refusal(**changes) -> str:
    """The message that refuses the changes, known to be one line."""
    with pytest.raises(InputError) as caught:
        config(**changes)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_every_field_is_covered_here():
    tested = {*COUNTS, *ALLOWED, *POSITIVE, *SWITCHES, "dropout", "retention_horizon"}
    assert tested == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize(("name", "least"), COUNTS.items())
def test_counts_have_a_least_value(name, least):
    message = refusal(**{name: least - 1})
    assert name in message and f"at least {least}" in message and str(least - 1) in message
    fitting = {"num_heads": 1, "pooling": "mean"}
    assert getattr(config(**fitting | {name: least}), name) == least


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [8.0, "8", None, True, [8]])
def test_counts_are_whole_numbers(name, value):
    message = refusal(**{name: value})
    assert name in message and repr(value) in message and "whole number" in message


@pytest.mark.parametrize(("name", "allowed"), ALLOWED.items())
def test_choices(name, allowed):
    for value in allowed:
        assert getattr(config(**{name: value}), name) == value
    for value in ("", allowed[0].upper(), "other"):
        message = refusal(**{name: value})
        assert name in message and repr(value) in message
        assert all(choice in message for choice in allowed)
    assert "text" in refusal(**{name: 1})


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_numbers(name):
    for value in (0, 0.0, -1.0, math.inf, math.nan):
        message = refusal(**{name: value})
        assert name in message and str(value) in message and "finite number above 0" in message
    for value in ("1", True, None):
        message = refusal(**{name: value})
        assert name in message and "a number" in message
    assert getattr(config(**{name: 2}), name) == 2


def test_dropout_is_a_share_below_one():
    for value in (-0.1, 1, 1.5, math.nan, math.inf):
        message = refusal(dropout=value)
        assert "dropout" in message and str(value) in message and "at least 0 and below 1" in message
    assert "a number" in refusal(dropout="0.1")
    assert config(dropout=0).dropout == 0 and config(dropout=0.99).dropout == 0.99


def test_the_horizon_is_a_number_of_segments():
    assert "retention_horizon is -1, but it must be at least 0" in refusal(retention_horizon=-1)
    assert "a whole number" in refusal(retention_horizon=0.5)
    assert "retention_horizon is 1048577, but it must be at most 1048576" in refusal(retention_horizon=2**20 + 1)
    assert config(retention_horizon=2**20).retention_horizon == 2**20


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_switches_are_booleans(name, value):
    message = refusal(**{name: value})
    assert name in message and "true or false" in message


def test_heads_divide_the_width():
    message = refusal(d_model=30, num_heads=4)
    assert "d_model 30" in message and "num_heads 4" in message and "divi" in message
    assert config(d_model=30, num_heads=5).head_width == 6


def test_no_memory_cannot_be_read_out():
    message = refusal(num_memory=0, pooling="memory")
    assert "num_memory" in message and 'pooling to "mean"' in message


def test_derived_sizes():
    cfg = config(d_model=64, num_heads=4, segment_length=32, num_segments=3)
    assert (cfg.max_length, cfg.head_width) == (96, 16)


@pytest.mark.parametrize(
    ("attention", "use_astro", "astro"),
    [("astromorphic", True, True), ("astromorphic", False, False), ("softmax", True, False)],
)
def test_astro_needs_both_switches(attention, use_astro, astro):
    assert config(attention=attention, use_astro=use_astro).astro is astro


def test_config_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().d_model = 32


def test_defaults_are_the_documented_ones():
    cfg = config()
    assert (cfg.attention, cfg.norm, cfg.retention, cfg.pooling) == ("astromorphic", "pre", "integrate", "memory")
    assert (cfg.use_astro, cfg.use_feedback, cfg.segment_embedding, cfg.pair) == (True, True, True, False)
    assert (cfg.alpha, cfg.position_scale, cfg.dropout) == (1.0, 0.05, 0.0)
    assert cfg.retention_horizon == 0
    assert (cfg.position_decay, cfg.position_embedding) == ("shared", True)


def test_numpy_scalars_become_pythons():
    """A float64 that stays one would silently turn float32 arithmetic into float64."""
    numbers = {
        "d_model": np.int64(8),
        "alpha": np.float64(0.5),
        "dropout": np.float32(0.25),
        "use_astro": np.bool_(True),
    }
    cfg = Config(7, 3, num_heads=2, **numbers)
    assert [type(getattr(cfg, name)) for name in numbers] == [int, float, float, bool]
    params = init_params(cfg)
    tokens, labels = np.ones((2, 5), dtype=int), np.zeros(2, dtype=int)
    loss, grads, _ = loss_and_grads(params, cfg, tokens, labels)
    assert loss.dtype == np.float32 and all(gradient.dtype == np.float32 for gradient in grads.values())


@pytest.mark.parametrize("value", [1.5, "2", True, 0, -1, None, np.float64(1)])
def test_arguments_that_count_are_whole_numbers(value):
    cfg = Config(7, 3, d_model=8, num_heads=2)
    with pytest.raises(InputError, match="workers is"):
        predict(init_params(cfg), cfg, np.ones((2, 5), dtype=int), workers=value)
    if value != 0:
        with pytest.raises(InputError, match="seed is"):
            init_params(cfg, seed=value)
