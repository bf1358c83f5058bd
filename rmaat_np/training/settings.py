"""What a run is made of: a preset (TOML), then the model's flags, then the user's own settings, in one record."""

import difflib
import json
import math
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from typing import Any

import numpy as np

from ..config import Config, check_fields, check_positive, convert_value
from ..data import TASKS
from ..data.dataset import Dataset
from ..data.tasks import LEAST
from ..errors import InputError
from ..params import DTYPES
from ..step import METHODS
from .inputs import check_lengths

WHOLE: dict[str, Any] = {"num_memory": 0, "pooling": "mean"}  # one segment that spans the sequence: no recurrence
AT_LEAST = {"steps": 1, "batch_size": 1, "eval_every": 1, "warmup_steps": 0, "seed": 0, "weight_decay": 0}
AT_LEAST |= {"patience": 0}
CHOICES = {
    "method": METHODS,
    "dtype": DTYPES,
    "select": ("accuracy", "macro_f1", "loss"),
    "class_weights": ("none", "balanced"),
}
_MODEL_KEYS = {f.name for f in fields(Config)} - {"vocab_size", "num_classes", "pair"}  # the data decide those three
MODELS: dict[str, dict[str, Any]] = {  # the paper's table: what each model changes in the preset
    "rmaat": {},
    "rmt": {"attention": "softmax", "retention": "none", "method": "bptt"},
    "rlt": {"use_astro": False, "retention": "none", "method": "bptt"},
    "at": WHOLE,
    "linear": {"use_astro": False} | WHOLE,
    "transformer": {"attention": "softmax"} | WHOLE,
}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. `optim.py` explains lr, warm-up, decay and clipping.

    steps, warmup_steps, eval_every in training steps; batch_size in rows; init: the checkpoint whose parameters the run
    starts from, as in a curriculum or in fine-tuning; empty: parameters are drawn from the seed.
    select: the validation score by which the best checkpoint is chosen; macro_f1 counts every class the same, however
    few rows it has. grow: the share of the steps, 0 .. 1, in which the rows grow from the shortest to the longest, as
    `BatchOrder` says. class_weights: "balanced" weighs each row of the training loss by n / (K n_c), so that each of K
    classes counts the same; the losses of validation and test stay plain means over rows. patience: how many
    validations in a row may bring nothing better before training ends; 0: it goes on to its last step.
    Raises: InputError that names the field and what it may be.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    eval_every: int = 200
    seed: int = 0
    method: str = "amrb"
    dtype: str = "float32"
    init: str = ""
    select: str = "accuracy"
    class_weights: str = "none"
    patience: int = 0
    grow: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, AT_LEAST, CHOICES)
        check_positive(self, "lr", "clip_norm")
        if not 0 <= self.grow <= 1:
            raise InputError(f"grow is {self.grow}, but it must be a share of the steps, from 0 to 1")

    @property
    def growing_steps(self) -> int:
        """How many of the steps, the first ones, train on rows that grow."""
        return round(self.grow * self.steps)


@dataclass(frozen=True)
class Settings:
    """One run, resolved: task, preset and model by name, data options, the model's fields, and the training's.

    The names need not be known to this program: a task of one's own, or a preset that no longer exists, will do.
    Raises: InputError that names the field and what it may be.
    """

    task: str
    preset: str
    model: str
    data: dict = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name in ("task", "preset", "model"):
            _check_name(name, getattr(self, name))
        if not isinstance(self.train, TrainConfig):
            raise InputError(f"train is {self.train!r}, but it must be a TrainConfig")
        data = convert_value("data", self.data, dict)
        object.__setattr__(self, "data", {key: _plain_value(key, value) for key, value in data.items()})
        object.__setattr__(self, "fields", _complete(convert_value("fields", self.fields, dict)))

    def config(self, dataset: Dataset) -> Config:
        """The model's Config for a dataset. Raises: InputError if a row may be longer than the model reads."""
        cfg = Config(dataset.vocab_size, dataset.num_classes, pair=dataset.pair, **self.fields)
        if dataset.max_length > cfg.max_length:
            remedy = "raise one of them" + (", or set cut=true" if "cut" in self.data else "")
            check_lengths(dataset, cfg.max_length, remedy)
            raise InputError(
                f"{self.task} has rows of up to {dataset.max_length} tokens, but num_segments * segment_length is "
                f"{cfg.max_length}; {remedy}"
            )
        return cfg

    def to_json(self) -> dict:
        """As plain values, for config.json and checkpoints."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict) -> "Settings":
        """The reverse of to_json, without a look at today's presets and models.

        Raises: InputError naming a field that is wrong; KeyError or TypeError for another structure.
        """
        names = (values["task"], values["preset"], values["model"])
        return Settings(*names, values["data"], values["fields"], TrainConfig(**values["train"]))


def _check_name(name: str, value: object) -> None:
    """Names are shown in a terminal, so they must be printable. Raises: InputError naming the field."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise InputError(f"{name} is {value!r}, but it must be text that can be printed")


def _plain_value(key: object, value: object) -> bool | int | float | str:
    """A data option as a checkpoint can hold it. Raises: InputError naming the option."""
    _check_name("a data option", key)
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) not in (bool, int, float, str) or (type(value) is float and not math.isfinite(value)):
        raise InputError(f"{key} is {value!r}, but it must be a finite number, true, false or text")
    return convert_value(str(key), value, type(value))


def _complete(shape: dict) -> dict:
    """All fields of the model that the data do not decide. Raises: InputError for what is unknown or wrong."""
    for key in shape:
        if key not in _MODEL_KEYS:
            raise InputError(f"{key!r:.80} is no field of the model; there are {', '.join(sorted(_MODEL_KEYS))}")
    complete = asdict(Config(vocab_size=2, num_classes=2, **shape))
    return {key: value for key, value in complete.items() if key in _MODEL_KEYS}


def settings_of(dataset: Dataset, cfg: Config, train: dict) -> Settings:
    """The settings of a model that is given as a Config. train: fields of TrainConfig

    Raises: InputError for a field that TrainConfig does not have, or a wrong value.
    """
    known = {f.name for f in fields(TrainConfig)}
    for key in train:
        if key not in known:
            raise unknown_key(key, known, key)
    shape = {key: value for key, value in asdict(cfg).items() if key in _MODEL_KEYS}
    data = {"alphabet": dataset.codec.alphabet} if dataset.codec and dataset.codec.alphabet else {}
    return Settings(dataset.task, "own", "own", data, shape, TrainConfig(**train))


def preset_names(task: str) -> list[str]:
    """The presets of a task."""
    return list(_read_presets(task))


def resolve(task: str, preset: str, model: str, overrides: dict) -> Settings:
    """Preset, then the model's flags, then the overrides (a flat dict of any of their keys; the last one wins).

    Raises: InputError for an unknown task, preset, model or key, or a value of the wrong type.
    """
    for name, value, allowed in (("task", task, TASKS), ("model", model, MODELS)):
        if not isinstance(value, str) or value not in allowed:
            raise InputError(f"--{name} {value}: unknown; choose one of {', '.join(allowed)}")
    presets = _read_presets(task)
    if not isinstance(preset, str) or preset not in presets:
        raise InputError(f"--preset {preset}: task {task} has {', '.join(presets)}")
    chosen = presets[preset]
    data, shape, train = (dict(chosen.get(part, {})) for part in ("data", "model", "train"))
    flags = MODELS[model]
    if "num_memory" in flags:
        shape |= {"segment_length": shape["segment_length"] * shape["num_segments"], "num_segments": 1}
    train_keys, known_data = {f.name for f in fields(TrainConfig)}, data.keys() | set(TASKS[task].optional)
    for key, value in (flags | overrides).items():
        if key in _MODEL_KEYS:
            shape[key] = value
        elif key in train_keys:
            train[key] = value
        elif key in known_data:
            data[key] = _data_option(key, value, TASKS[task].options[key])
        else:
            known = _MODEL_KEYS | train_keys | known_data
            raise unknown_key(key, known, f"--set {key}", f" for task {task} (--task)")
    return Settings(task, preset, model, data, shape, TrainConfig(**train))


def _data_option(key: str, value: object, kind: type):
    """A data option of that type. Raises: InputError naming the option."""
    value, least = convert_value(key, value, kind), LEAST.get(key, 1)
    if type(value) is int and value < least:
        raise InputError(f"{key} is {value}, but it must be at least {least}")
    return value


def unknown_key(key: str, known: Iterable[str], where: str, to: str = "") -> InputError:
    """The error for a key that does not exist, with the keys that come close.

    where: how the message begins; to: who does not know it, where another one may
    """
    close = difflib.get_close_matches(key, sorted(known), 3)
    advice = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(known))}"
    return InputError(f"{where}: unknown{to}; {advice}")


def parse_assignment(text: str) -> tuple[str, object]:
    """'key=value' -> key, value of the field's type; what does not fit is text, for `resolve` to refuse.

    Quotes around text are optional. A key that is no field of model, training or data is read as TOML, else as text.
    Raises: InputError for what is no assignment.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text}: expected key=value, for example --set num_memory=4")
    return key.strip(), _parse_value(value.strip(), _kinds().get(key.strip()))


def _kinds() -> dict[str, Any]:
    """The type of every field of the model, the training and the data of all tasks."""
    kinds: dict[str, Any] = {}
    for task in TASKS.values():
        kinds |= task.options
    return kinds | {f.name: f.type for f in (*fields(Config), *fields(TrainConfig))}


def _parse_value(text: str, kind: type | None) -> object:
    """The text as a value of that type (None: of any), or the text itself if it is none."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if kind is None or type(value) is kind or (kind is float and type(value) is int):
        return value
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        with suppress(ValueError):
            number = float(text)  # TOML knows neither .1 nor 5. nor a whole 1e2
            if kind is float:
                return number
            if number.is_integer() and abs(number) < 2**53:  # beyond, a float leaves whole numbers out
                return int(number)
    return text


def to_assignment(key: str, value: bool | int | float | str) -> str:
    """The reverse of `parse_assignment`, for any text."""
    return f"{key}=" + json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON text, which TOML reads


def describe(settings: Settings) -> str:
    """The resolved settings, one line a part."""
    parts = {"data": settings.data, "model": settings.fields, "train": asdict(settings.train)}
    lines = [f"task {settings.task}, preset {settings.preset}, model {settings.model}"]
    return "\n".join(
        lines + [f"  {part}: " + ", ".join(f"{k}={json.dumps(v)}" for k, v in d.items()) for part, d in parts.items()]
    )


def _read_presets(task: str) -> dict[str, dict]:
    return tomllib.loads((files("rmaat_np.training") / "presets" / f"{task}.toml").read_text(encoding="utf-8"))
