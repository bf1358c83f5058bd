"""One run and its folder: start it, save it, and load it again.

The folder holds config.json, metrics.jsonl, last.npz, best.npz (best on the validation split), result.json, curve.png.
A checkpoint stands alone: it is read without the presets, models and tasks that the program knows today.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..config import Config, check_fields
from ..data.dataset import Dataset
from ..data.own.codec import Codec
from ..errors import InputError, check_integer
from ..inference import with_segments
from ..optim import adamw_init
from ..params import check_params, count_parameters, init_params
from ..system.files import make_folder, make_numbered_folder, write_text
from .checkpoint import check_checkpoint, check_codec_fits, load_checkpoint, save_checkpoint
from .inputs import check_dataset, checksum_of, read_fingerprint
from .ranks import ALONE, Ranks
from .settings import Settings, TrainConfig, settings_of

DIVISION = ("ranks", "workers", "accumulate")  # what divides a batch, three whole numbers
COLLECTIONS = {"table.json": "comparison", "curriculum.json": "curriculum"}  # folders of several runs, by their file
FILES = ("config.json", "metrics.jsonl", "last.npz", "best.npz", "diverged.npz", "result.json", "curve.png")


@dataclass
class Progress:
    """How far a run has come: steps done, seconds and tokens of training, the best validation's scores and its step.

    validated: the last step whose validation is done, so that a run stopped in the middle of one makes up for it.
    best_step: 0 before the first validation. A score is -1 where it is unknown: then, and in older checkpoints.
    stale: how many validations there were since the best one.
    """

    step: int = 0
    validated: int = 0
    seconds: float = 0.0
    tokens: int = 0
    peak_cache_bytes: int = 0
    best_accuracy: float = -1.0
    best_step: int = 0
    best_macro_f1: float = -1.0
    best_loss: float = -1.0
    stale: int = 0

    def __post_init__(self) -> None:
        counts = ("step", "validated", "seconds", "tokens", "peak_cache_bytes", "stale")
        check_fields(self, dict.fromkeys(counts, 0) | {"best_loss": -1}, {})
        if not (0 <= self.validated <= self.step and 0 <= self.best_step <= self.step):
            raise InputError(f"step {self.step}, validated {self.validated}, best_step {self.best_step}: out of order")
        for name in ("best_accuracy", "best_macro_f1"):
            if not -1 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}, but it must be between -1 and 1")


@dataclass
class Run:
    """A run in memory. Data order and dropout masks are functions of seed and step, so this is all its state.

    codec: of data of one's own, else None
    data: the fingerprint of the data that it began with; empty until the first step, and in older checkpoints
    divided: among how many "ranks", "workers" and parts of "accumulate" its batches were; empty as data is
    ranks: the processes that train it together, as this one of them sees them
    state_divided: each rank holds its own part of state, and not all of it
    start: the checksum of the parameters that `init` gave it; 0 without `init`, and in older checkpoints
    """

    folder: Path
    settings: Settings
    cfg: Config
    params: dict
    state: dict
    progress: Progress
    codec: Codec | None = None
    data: dict = field(default_factory=dict)
    divided: dict = field(default_factory=dict)
    ranks: Ranks = ALONE
    state_divided: bool = False
    start: int = 0

    def record(self) -> dict:
        """What a checkpoint holds beside the arrays, as plain values."""
        record = {"settings": self.settings.to_json(), "config": asdict(self.cfg), "progress": asdict(self.progress)}
        known: dict[str, Any] = {"data": self.data, "divided": self.divided, "start": self.start}
        known["codec"] = self.codec.to_json() if self.codec else None
        return record | {name: value for name, value in known.items() if value}

    def check_saveable(self) -> None:
        """Refuse what a checkpoint could not give back. Raises: InputError naming the field or the parameter."""
        record = self.record()
        for name, value in leaves(record):
            if not _survives_json(value):
                raise InputError(f"{name} is {value!r}, which a checkpoint cannot hold; use a number, a truth or text")
        _read_record(record)
        check_checkpoint(self.folder, self.params, self.state, self.cfg, self.settings.train.dtype)

    def save(self, name: str) -> None:
        """All ranks together: rank 0 writes, and the others wait until that is done. Raises: as `write`, on all."""
        whole = self
        if self.state_divided:
            state = {moment: self.ranks.whole(parts, self.params) for moment, parts in self.state.items()}
            whole = replace(self, state=state)
        self.ranks.from_first(lambda: whole.write(name))

    def divide_state(self) -> None:
        """Keep this rank's part of the optimiser's state alone: from here on no rank holds all of it."""
        if not self.state_divided:
            parts = {moment: self.ranks.own(values) for moment, values in self.state.items()}
            self.state = {moment: {name: part.copy() for name, part in own.items()} for moment, own in parts.items()}
            self.state_divided = True

    def write(self, name: str) -> None:
        """Write everything to a checkpoint in the run's folder. Raises: as `check_saveable`; WriteError."""
        self.check_saveable()
        save_checkpoint(self.folder / name, self.params, self.state, self.record())


def leaves(record: dict, path: str = "") -> Iterator[tuple[str, object]]:
    """The values of nested dicts, each with its name, as "settings.train.lr"."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _survives_json(value: object) -> bool:
    try:
        back = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return False
    return type(back) is type(value) and back == value


def _read_record(record: dict) -> tuple[Settings, Config, Progress, Codec | None, dict, dict, int]:
    """The reverse of `Run.record`.

    Raises: InputError naming a field that is wrong; KeyError, TypeError or AttributeError for another structure.
    """
    settings, cfg = Settings.from_json(record["settings"]), Config(**record["config"])
    progress = Progress(**{"validated": record["progress"]["step"]} | record["progress"])  # absent in older ones
    if progress.step > settings.train.steps:
        raise InputError(f"step is {progress.step}, but the run has {settings.train.steps} steps")
    for name, value in settings.fields.items():
        if value != getattr(cfg, name):
            raise InputError(f"{name} is {value!r} in the settings and {getattr(cfg, name)!r} in the configuration")
    codec = Codec.from_json(record["codec"]) if "codec" in record else None
    check_codec_fits(codec, cfg)
    data, divided = read_fingerprint(record.get("data", {})), _read_division(record.get("divided", {}))
    return settings, cfg, progress, codec, data, divided, check_integer("start", record.get("start", 0), 0)


def _read_division(record: object) -> dict[str, int]:
    """How a run's batches were divided; older checkpoints do not hold it. Raises: InputError for anything else."""
    if not isinstance(record, dict) or set(record) not in (set(), set(DIVISION)):
        raise InputError(f"divided is {record!r:.80}, but it must tell of {', '.join(DIVISION)}")
    return {name: check_integer(name, value, 1) for name, value in record.items()}


def new_run(
    folder: str | Path, model: Config | Settings, dataset: Dataset, *, numbered: bool = False, **train: Any
) -> Run:
    """Start a run in a new folder.

    model: the model's Config, and then the fields of TrainConfig as keywords, such as steps=20_000; or Settings, which
    hold both. numbered: if the folder is there, take FOLDER-2, FOLDER-3, ... instead
    Raises: InputError if the folder already holds a run, for data that the model cannot read, for a keyword that
        TrainConfig does not have, or if a checkpoint of this run could not be read back.
    """
    folder = Path(folder)
    if not numbered:
        refuse_to_overwrite(folder)
    if isinstance(model, Config):
        settings, cfg = settings_of(dataset, model, train), model
    elif not isinstance(model, Settings):
        raise InputError(f"the model of a run is a {type(model).__name__}, but it must be a Config or Settings")
    else:
        settings, cfg = model, model.config(dataset)
        if train:
            raise InputError(f"{next(iter(train))}: Settings hold the fields of TrainConfig already; set it there")
    check_dataset(dataset, cfg)
    params = first_params(cfg, settings.train)
    run = Run(folder, settings, cfg, params, adamw_init(params), Progress(), dataset.codec)
    run.start = start_checksum(params) if settings.train.init else 0
    run.check_saveable()
    if numbered:
        run.folder = make_numbered_folder(folder)
    else:
        make_folder(folder)
    return run


def extend(run: Run, steps: int) -> None:
    """Give a run another last step, so that `train` goes on to it, or ends there. The folder is not touched yet.

    The learning rate follows the schedule of a run of that many steps from the present one on (decided): a finished
    run, whose rate has come down to 0, takes up training where the half cosine of the longer run stands at its step. So
    the steps before differ from those of a run that had the new length from its start. So it is with `grow`, a share of
    the new number of steps: rows that have grown to the longest may be short again. The patience begins anew.
    steps: at least those that are done
    Raises: InputError for fewer, and for what is no number of steps.
    """
    settings = replace(run.settings, train=replace(run.settings.train, steps=steps))
    if settings.train.steps < run.progress.step:
        raise InputError(f"steps is {steps}, but the run has done {run.progress.step}; name at least as many")
    run.settings, run.progress.stale = settings, 0


def first_params(cfg: Config, settings: TrainConfig) -> dict:
    """Drawn from the seed, or those of the checkpoint `init`.

    If that model reads fewer segments, the new rows of embed.segment repeat its last one, as in `lengthen`.
    Raises: InputError if they do not fit the model.
    """
    if not settings.init:
        return init_params(cfg, settings.seed, settings.dtype)
    path = checkpoint_path(settings.init)
    params = with_segments(load_checkpoint(path)[0], cfg.num_segments)
    check_params(params, cfg, f"init={path}")
    return {name: array.astype(settings.dtype) for name, array in params.items()}


def start_checksum(params: dict) -> int:
    """What tells the parameters that a run starts from from others."""
    return checksum_of(backend.to_host(params[name]) for name in sorted(params))


def refuse_to_overwrite(folder: Path) -> None:
    """Raises: InputError if the folder holds a checkpoint of a run, a comparison or a curriculum."""
    for name, kind in COLLECTIONS.items():
        if (folder / name).exists():
            raise InputError(f"{folder}: holds a {kind}; choose another --out")
    for name, resume in {"last.npz": folder, "best.npz": folder / "best.npz"}.items():
        if (folder / name).exists():
            raise InputError(
                f"{folder}: already holds a run; go on with --resume {resume}, from Python with load_run, or choose "
                "another --out"
            )


def write_config(run: Run) -> None:
    """Write config.json: the settings, the model's Config and the parameter count."""
    record = {"settings": run.settings.to_json(), "config": asdict(run.cfg), "parameters": count_parameters(run.params)}
    write_text(run.folder / "config.json", json.dumps(record, indent=1))


def steps_in_config(folder: Path) -> int | None:
    """How many steps the run had when config.json was written; None if that is missing or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]["train"]["steps"]
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had not finished writing. For the process that has locked the folder."""
    for name in FILES:
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def checkpoint_path(path: str | Path) -> Path:
    """A run's folder stands for its last checkpoint."""
    path = Path(path)
    return path / "last.npz" if path.is_dir() else path


def load_run(path: str | Path) -> Run:
    """Read a run back from its folder or from one of its checkpoints. Raises: InputError naming the file."""
    path = checkpoint_path(path)
    if path.parent.is_dir() and path.name == "last.npz" and not path.exists():
        for name, kind in COLLECTIONS.items():
            if (path.parent / name).exists():
                raise InputError(f"{path.parent}: a {kind}, not a run; the command that began it goes on")
        if (path.parent / "best.npz").exists():
            raise InputError(f"{path}: no such checkpoint; go on with --resume {path.parent / 'best.npz'}")
        raise InputError(f"{path}: no such checkpoint; the run saved none yet, start it with --out {path.parent}")
    params, state, record = load_checkpoint(path)
    if "settings" not in record and "config" in record:
        raise InputError(f"{path}: holds a model without its run, as rn.save writes it; name a run or its checkpoint")
    try:
        settings, cfg, progress, codec, data, divided, start = _read_record(record)
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(
            f"{path}: its settings are not readable ({error}); use another checkpoint of the run"
        ) from None
    check_checkpoint(path, params, state, cfg, settings.train.dtype)
    return Run(path.parent, settings, cfg, params, state, progress, codec, data, divided, start=start)


def shared(ranks: Ranks, make: Callable[[], Run]) -> Run:
    """The run that make() starts or loads on rank 0, on every rank. Raises: the InputError of make(), on every rank."""
    if ranks.size == 1:
        return make()
    run = ranks.from_first(lambda: _moved(make(), backend.to_host))
    return replace(_moved(run, lambda array: backend.to_device(np.ascontiguousarray(array))), ranks=ranks)


def _moved(run: Run, move: Callable) -> Run:
    """The run with all its arrays moved to the host or the device."""
    state = {moment: {name: move(array) for name, array in values.items()} for moment, values in run.state.items()}
    return replace(run, params={name: move(array) for name, array in run.params.items()}, state=state)
