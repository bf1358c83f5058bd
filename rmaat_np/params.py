"""The parameters: one flat dict of arrays, and how each is initialised."""

from functools import lru_cache
from math import sqrt

import numpy as np

from . import backend
from .attention import log_slopes
from .config import Config, check_config
from .errors import InputError, check_integer

DTYPES = ("float32", "float64")


def init_params(cfg: Config, seed: int = 0, dtype: str = "float32") -> dict:
    """Random parameters on the active backend. They are drawn on the host: every backend starts from the same ones.

    Shapes (D, F, L, M, S, V as in Config, N = M + L, C classes):
        embed.token (V, D); embed.position (L, D), embed.segment (S, D), each unless it is switched off;
        memory.init (M, D); memory.norm.* (D);
        memory.gate.weight (2D, 1), memory.gate.bias (1), only with retention "learned";
        out.norm.* (D); blocks.i.norm1.*, norm2.* (D); attn.qkv (D, 3D); attn.rel (N, D); attn.out (D, D);
        attn.rel.log_decay (h), only with position_decay "learned"; mlp.in (D, F); mlp.out (F, D);
        head.hidden (4D, D), only for pairs; head (D, C); each .weight with its .bias, rel without
    Raises: InputError for a negative seed, or a dtype other than float32 or float64.
    """
    check_config(cfg)
    seed = check_integer("seed", seed, 0)
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, but it must be one of {', '.join(DTYPES)}")
    rng = np.random.default_rng(seed)
    params = {}
    for name, (shape, std) in _shapes_and_stds(cfg).items():
        if std == "log slopes":
            value = np.array(log_slopes(cfg.num_heads, cfg.position_scale))
        elif isinstance(std, str):
            value = np.ones(shape) if std == "ones" else np.zeros(shape)
        else:
            value = std * rng.standard_normal(shape)
        params[name] = backend.to_device(value.astype(dtype))
    return params


def _shapes_and_stds(cfg: Config) -> dict:
    """For every parameter its shape, and the standard deviation it is drawn with, or "zeros", "ones", "log slopes"."""
    D, N, M = cfg.d_model, cfg.num_memory + cfg.segment_length, cfg.num_memory
    spec: dict = {"embed.token": ((cfg.vocab_size, D), 0.5)}
    if cfg.position_embedding:
        spec["embed.position"] = ((cfg.segment_length, D), 0.25)
    if cfg.segment_embedding:
        # at first all segments are alike (measured: lessons/results/README.md)
        spec["embed.segment"] = ((cfg.num_segments, D), "zeros")
    if M:
        # half the std of embed.token: then the first segments' writing is not drowned by these
        # (measured: lessons/results/README.md)
        spec |= {"memory.init": ((M, D), 0.25)} | _norm("memory.norm", D)
        if cfg.retention == "learned":  # zeros: at first the gate is its prior
            spec |= {"memory.gate.weight": ((2 * D, 1), "zeros"), "memory.gate.bias": ((1,), "zeros")}
    if cfg.pooling == "mean":
        spec |= _norm("out.norm", D)
    for i in range(cfg.num_layers):
        block = f"blocks.{i}"
        spec |= _norm(f"{block}.norm1", D) | _linear(f"{block}.attn.qkv", D, 3 * D)
        if cfg.astro:
            spec[f"{block}.attn.rel.weight"] = ((N, D), 0.2)
            if cfg.position_decay == "learned":
                spec[f"{block}.attn.rel.log_decay"] = ((cfg.num_heads,), "log slopes")
        spec |= _linear(f"{block}.attn.out", D, D, std=_attention_out_std(cfg))
        spec |= (
            _norm(f"{block}.norm2", D)
            | _linear(f"{block}.mlp.in", D, cfg.d_ff)
            | _linear(f"{block}.mlp.out", cfg.d_ff, D)
        )
    if cfg.pair:
        spec |= _linear("head.hidden", 4 * D, D)
    return spec | _linear("head", D, cfg.num_classes)


def _attention_out_std(cfg: Config) -> float:
    """Standard deviation of attn.out.weight: a quarter of 1 / sqrt(D), divided by the scale of Y (decided).

    H carries 1/m, so Y is smaller by 1/m. Without P = 1/C, Y is a sum over N rows. The quarter: an attention branch as
    large as the residual stream drowns the memory that the stream carries (measured: lessons/results/README.md).
    """
    if cfg.attention == "softmax":
        scale_of_y = 1.0
    elif cfg.use_feedback:
        scale_of_y = 1 / cfg.head_width
    else:
        scale_of_y = cfg.num_memory + cfg.segment_length
    return 0.25 / scale_of_y / sqrt(cfg.d_model)


def _linear(name, fan_in, fan_out, std=None):
    return {f"{name}.weight": ((fan_in, fan_out), std or 1 / sqrt(fan_in)), f"{name}.bias": ((fan_out,), "zeros")}


def _norm(name, width):
    return {f"{name}.gain": ((width,), "ones"), f"{name}.bias": ((width,), "zeros")}


def block_params(params: dict, layer: int) -> dict:
    """The parameters of one block, under their names without `blocks.{layer}.`."""
    prefix = f"blocks.{layer}."
    return {name.removeprefix(prefix): array for name, array in params.items() if name.startswith(prefix)}


def count_parameters(params: dict) -> int:
    """How many numbers are learned."""
    return sum(array.size for array in params.values())


def zero_grads(params: dict) -> dict:
    """A gradient of zeros for every parameter: same keys, shapes and dtypes."""
    return {name: backend.xp.zeros_like(array) for name, array in params.items()}


def check_params(params: dict, cfg: Config, source: str = "params") -> None:
    """Refuse parameters that do not belong to the configuration: missing or surplus names, or other shapes.

    Raises: InputError naming the source, the parameter and both shapes.
    """
    if not isinstance(params, dict):
        raise InputError(
            f"{source} is a {type(params).__name__}, but it must be a dict of arrays; convert it by dict()"
        )
    expected = param_shapes(cfg)
    for name in sorted(expected.keys() ^ params.keys(), key=str):
        said = "lacks" if name in expected else "has a surplus"
        raise InputError(f"{source} {said} parameter {name}: it belongs to another configuration")
    for name, shape in expected.items():
        found = tuple(getattr(params[name], "shape", ()))
        if found != shape:
            raise InputError(f"{source}: {name} has shape {found}, but the configuration gives {shape}")


def check_dtypes(params: dict) -> None:
    """Refuse parameters of another dtype than float32 or float64, and a mixture of both. Raises: InputError."""
    dtype = params["embed.token"].dtype
    for name, array in params.items():
        if array.dtype != dtype or dtype not in DTYPES:
            raise InputError(f"params: {name} is {array.dtype}, but all must be {' or all '.join(DTYPES)}")


@lru_cache(maxsize=64)
def param_shapes(cfg: Config) -> dict:
    """The shape of every parameter, by its name."""
    return {name: shape for name, (shape, _) in _shapes_and_stds(cfg).items()}
