"""What a run is made of: a preset (TOML), the model's flags, then the user's own settings, resolved into one record."""

import difflib
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files

from ..config import Config, check_fields, convert_value
from ..data import TASKS
from ..errors import InputError
from ..params import DTYPES
from ..step import METHODS

WHOLE = {"num_memory": 0, "pooling": "mean"}  # one segment that spans the sequence: no recurrence
AT_LEAST = {"steps": 1, "batch_size": 1, "eval_every": 1, "warmup_steps": 0, "seed": 0, "weight_decay": 0}
CHOICES = {"method": METHODS, "dtype": DTYPES}
MODELS = {  # the paper's table: what each model changes in the preset
    "rmaat": {},
    "rmt": {"attention": "softmax", "retention": "none", "method": "bptt"},
    "rlt": {"use_astro": False, "retention": "none", "method": "bptt"},
    "at": WHOLE,
    "linear": {"use_astro": False} | WHOLE,
    "transformer": {"attention": "softmax"} | WHOLE,
}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; see `optim.py` for lr, warm-up, decay and clipping. eval_every in steps.

    init: a checkpoint whose parameters to start from (a curriculum, fine-tuning); empty: drawn from the seed.
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

    def __post_init__(self):
        check_fields(self, AT_LEAST, CHOICES)
        for name in ("lr", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}, but it must be a finite number above 0")


@dataclass(frozen=True)
class Settings:
    """One run, resolved: task, preset and model by name, data options, the model's fields, and the training's."""

    task: str
    preset: str
    model: str
    data: dict = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)

    def config(self, dataset) -> Config:
        """The model's Config for a dataset. Raises: InputError if a row may be longer than the model reads."""
        known = {"vocab_size": dataset.vocab_size, "num_classes": dataset.num_classes, "pair": dataset.pair}
        cfg = Config(**known, **self.fields)
        if dataset.max_length > cfg.max_length:
            raise InputError(
                f"{self.task} has rows of up to {dataset.max_length} tokens, but num_segments * segment_length is "
                f"{cfg.max_length}; raise one of them with --set"
            )
        return cfg

    def to_json(self) -> dict:
        """As plain values, for config.json and checkpoints."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict) -> "Settings":
        """The reverse of to_json. Raises: as `resolve`; KeyError, TypeError or AttributeError for another structure."""
        names = (values["task"], values["preset"], values["model"])
        return resolve(*names, {**values["data"], **values["fields"], **values["train"]})


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
    flags = dict(MODELS[model])
    if "num_memory" in flags:
        shape |= {"segment_length": shape["segment_length"] * shape["num_segments"], "num_segments": 1}
    model_keys = {f.name for f in fields(Config)} - {"vocab_size", "num_classes", "pair"}
    train_keys = {f.name for f in fields(TrainConfig)}
    for key, value in (flags | overrides).items():
        if key in model_keys:
            shape[key] = value
        elif key in train_keys:
            train[key] = value
        elif key in data:
            value = convert_value(key, value, type(data[key]))
            if type(value) is int and value < 1:
                raise InputError(f"{key} is {value}, but it must be at least 1")
            data[key] = value
        else:
            raise unknown_key(key, model_keys | train_keys | data.keys())
    complete = asdict(Config(vocab_size=2, num_classes=2, **shape))  # refuses wrong values before any data is read
    return Settings(
        task, preset, model, data, {key: complete[key] for key in complete if key in model_keys}, TrainConfig(**train)
    )


def unknown_key(key: str, known) -> InputError:
    """The error for a --set key that does not exist, with the keys that come close."""
    close = difflib.get_close_matches(key, sorted(known), 3)
    advice = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(known))}"
    return InputError(f"--set {key}: unknown; {advice}")


def parse_assignment(text: str) -> tuple[str, object]:
    """'key=value' -> key, value as TOML reads it (numbers, true, false), else as text. Raises: InputError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text}: expected key=value, for example --set num_memory=4")
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def describe(settings: Settings) -> str:
    """The resolved settings, one line a part."""
    parts = {"data": settings.data, "model": settings.fields, "train": asdict(settings.train)}
    lines = [f"task {settings.task}, preset {settings.preset}, model {settings.model}"]
    return "\n".join(
        lines + [f"  {part}: " + ", ".join(f"{k}={json.dumps(v)}" for k, v in d.items()) for part, d in parts.items()]
    )


def _read_presets(task):
    return tomllib.loads((files("rmaat_np.training") / "presets" / f"{task}.toml").read_text())
