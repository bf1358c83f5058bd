"""Checkpoints: one .npz file of parameters, optimiser state and a JSON text. No pickle; whole or not at all."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..config import Config
from ..data.own.codec import Codec
from ..errors import InputError
from ..params import check_dtypes, check_params
from ..system.files import DAMAGED, read_npz, write_npz

FORMAT = 1


def save_checkpoint(path: str | Path, params: dict, state: dict, meta: dict) -> None:
    """Write parameters, AdamW state and what else a run needs to go on.

    meta: JSON values, among them the configuration, the step and the seed. Data order and dropout are functions of seed
    and step, so they need no state of their own.
    Raises: WriteError naming the path and a remedy.
    """
    arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta | {"format": FORMAT}))}
    arrays |= {f"params/{name}": backend.to_host(array) for name, array in params.items()}
    for moment, values in state.items():
        arrays |= {f"{moment}/{name}": backend.to_host(array) for name, array in values.items()}
    write_npz(path, arrays)


def load_checkpoint(path: str | Path) -> tuple[dict, dict, dict]:
    """Read a checkpoint back onto the active backend. -> params, AdamW state, meta.

    Raises: InputError for a file that is missing, damaged, no checkpoint, or of another format version.
    """
    path = Path(path)
    try:
        arrays = read_npz(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; name a .npz file that a run wrote, or its folder") from None
    except DAMAGED as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        remedy = "make it readable" if isinstance(error, PermissionError) else "use another one of the run"
        raise InputError(f"{path}: not a readable checkpoint ({reason}); {remedy}") from None
    try:
        meta = json.loads(arrays.pop("meta").item())
        version = meta["format"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise InputError(f"{path}: holds no checkpoint of this program; name a .npz file that a run wrote") from None
    if version != FORMAT or isinstance(version, bool):
        raise InputError(
            f"{path}: has checkpoint format {version!r:.40}, this program reads {FORMAT}; use the version that wrote it"
        )
    groups: dict[str, dict] = {"params": {}, "m": {}, "v": {}}
    for name, array in arrays.items():
        group, _, key = name.partition("/")
        if group not in groups or not np.issubdtype(array.dtype, np.floating):
            raise InputError(f"{path}: {name[:80]} does not belong into a checkpoint; use another one of the run")
        groups[group][key] = array
    params = groups.pop("params")
    return _to_device(params), {moment: _to_device(values) for moment, values in groups.items()}, meta


def save_model(path: str | Path, params: dict, cfg: Config, codec: Codec | None = None) -> None:
    """Write a model without the state of its optimiser, which is two thirds of a checkpoint.

    codec: of data of one's own
    Raises: InputError for params of another configuration; WriteError naming the path and a remedy.
    """
    check_params(params, cfg)
    check_dtypes(params)
    check_codec_fits(codec, cfg)
    meta = {"config": asdict(cfg)} | ({"codec": codec.to_json()} if codec else {})
    save_checkpoint(path, params, {}, meta)


def load_model(path: str | Path) -> tuple[dict, Config, Codec | None]:
    """The model of a run, of a checkpoint, or of what `save_model` wrote. -> params, cfg, codec or None

    path: a file; or the folder of a run, which stands for its best checkpoint, and for its last before there is a best
    Raises: InputError naming the file and what is wrong with it.
    """
    return read_model(path)[:3]


def read_model(path: str | Path) -> tuple[dict, Config, Codec | None, dict]:
    """As `load_model`, and all that the file says of the run, as plain values."""
    path = best_checkpoint(path)
    params, _, meta = load_checkpoint(path)
    try:
        cfg = Config(**meta["config"])
        codec = Codec.from_json(meta["codec"]) if "codec" in meta else None
        check_codec_fits(codec, cfg)
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{path}: its configuration is not readable ({error}); use another checkpoint") from None
    check_params(params, cfg, str(path))
    check_dtypes(params)
    return params, cfg, codec, meta


def best_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a run's folder stands for where a model is used: its best one, or its last before that."""
    path = Path(path)
    return path / ("best.npz" if (path / "best.npz").exists() else "last.npz") if path.is_dir() else path


def check_codec_fits(codec: Codec | None, cfg: Config) -> None:
    """Refuse a codec of another model. Raises: InputError naming what differs."""
    if codec is None:
        return
    if not isinstance(codec, Codec):
        raise InputError(f"codec is a {type(codec).__name__}, but it must be a Codec or None")
    pairs = {"num_classes": (len(codec.classes), cfg.num_classes), "pair": (codec.pair, cfg.pair)}
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise InputError(f"the codec has {name} {theirs}, but the configuration {ours}; give the model's own codec")
    if codec.vocab_size > cfg.vocab_size:
        raise InputError(f"the codec has {codec.vocab_size} ids, but vocab_size is {cfg.vocab_size}")


def check_checkpoint(path: str | Path, params: dict, state: dict, cfg: Config, dtype: str) -> None:
    """Refuse arrays that do not fit the configuration or the dtype. Raises: InputError naming file and parameter."""
    for group, arrays in {"": params, **state}.items():
        where = f"{path} ({group})" if group else str(path)
        check_params(arrays, cfg, where)
        for name, array in arrays.items():
            if array.dtype != dtype:
                raise InputError(f"{where}: {name} is {array.dtype}, the run {dtype}; use another one of the run")


def _to_device(arrays: dict) -> dict:
    return {name: backend.to_device(array) for name, array in arrays.items()}
