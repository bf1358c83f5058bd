"""A curriculum: stages of training, each from the best checkpoint of the one before it: `run_lra.py --curriculum`.

Each stage is a run in a folder of its own, as `--set init=CHECKPOINT` would start it by hand. The best checkpoint and
not the last one (decided): it is what validation chose, and after `patience` or a rate that was too high the last one
is worse. An interrupted curriculum goes on: finished stages are kept, and a started one is resumed. A stage whose
best checkpoint is no longer the one that the next stage started from is refused.

    settings = read_stages("lengths.toml", "recall")
    data = [load_dataset(stage.task, stage.data, "data") for stage in settings]
    results = train_stages(plan_stages("runs/lengths", settings, data))
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..config import Config
from ..data.dataset import Dataset
from ..data.sources import read_error
from ..errors import InputError
from ..params import param_shapes
from ..system.files import make_folder, only_process, write_text
from .compare import read_result
from .inputs import check_codec, check_dataset, check_same, fingerprint
from .loop import ignore
from .program import train as train_in_program
from .run import Run, first_params, leaves, load_run, new_run, refuse_to_overwrite, start_checksum
from .settings import Settings, resolve
from .validation import stopped_early

RECORD = "curriculum.json"
REREAD = ("num_heads", "attention", "norm")  # with other values of these the same parameters are another function


@dataclass(frozen=True)
class Stage:
    """One run of a curriculum, checked: its folder, settings and data. place: how messages about it begin"""

    place: str
    folder: Path
    settings: Settings
    dataset: Dataset

    @property
    def begun(self) -> bool:
        """Is there a checkpoint to go on with?"""
        return (self.folder / "last.npz").exists()

    @property
    def trained(self) -> bool:
        """Are its steps and validations done, so that at most the test remains?"""
        if not self.begun:
            return False
        run = load_run(self.folder)
        return run.progress.validated == run.settings.train.steps or stopped_early(run.progress, run.settings.train)

    def result(self) -> dict | None:
        """What the run wrote when it was finished; None if there is nothing, or what a test alone can write anew.

        Raises: InputError if it is damaged, and the training is not at its end.
        """
        try:
            return read_result(self.folder) if self.begun else None
        except InputError:
            if self.trained:
                return None
            remedy = "is not readable; remove that file, and the stage goes on"
            raise InputError(f"{self.place}: {self.folder / 'result.json'}: {remedy}") from None

    def run(self) -> Run:
        """The run as it stands, or a new one. Raises: InputError for a checkpoint that is damaged or does not fit."""
        return load_run(self.folder) if self.begun else new_run(self.folder, self.settings, self.dataset)


def read_stages(
    path: str | Path, task: str, preset: str = "quick", model: str = "rmaat", overrides: dict | None = None
) -> list[Settings]:
    """The settings of all stages of a TOML file, which has a [[stage]] table for each.

    A stage has `steps`, and any other key that `resolve` knows; `preset` names another preset of the task.
    preset: of stages that name none; overrides: as for `resolve`, for all stages, and they win over the file's own; an
    `init` among them is where the first stage starts from
    Raises: InputError naming the file, the stage and the key.
    """
    stages, given = [], dict(overrides or {})
    for number, table in enumerate(_read_tables(Path(path)), start=1):
        place, own = f"{path}: stage {number}", dict(table)
        for key, value in own.items():
            if type(value) not in (bool, int, float, str):
                raise InputError(f"{place}: {key} is a {type(value).__name__}; give a number, true, false or text")
        if "steps" not in own:
            raise InputError(f"{place}: steps is missing; say how many steps it has")
        names = task, own.pop("preset", preset), model
        try:
            resolve(*names, own)
        except InputError as error:  # in a file the keys are no options
            raise InputError(f"{place}: {str(error).removeprefix('--set ').removeprefix('--')}") from None
        try:
            stages.append(resolve(*names, own | given))
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        given.pop("init", None)
    return stages


def _read_tables(path: Path) -> list[dict]:
    """The [[stage]] tables of a TOML file. Raises: InputError naming the file."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise InputError(f"{path}: no regular file; name a TOML file with [[stage]] tables")
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors put a mark in front
    except InputError:
        raise
    except OSError as error:
        raise read_error(f"{path}:", error, "name a TOML file with [[stage]] tables") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no TOML file in UTF-8 ({error}); mend it") from None
    tables = content.pop("stage", None)
    for key in content:
        raise InputError(f"{path}: {key}: unknown; there are [[stage]] tables alone, write it into one of them")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: has no stages; write a table for each, under [[stage]] in double brackets")
    return tables


def plan_stages(
    folder: str | Path, settings: Sequence[Settings], datasets: Sequence[Dataset], name: str = "curriculum"
) -> list[Stage]:
    """The stages with their folders, once all that can be known before the first step is checked.

    folder: of the curriculum, with a folder for each stage; settings, datasets: of each; name: how messages begin
    Raises: InputError naming the stage and what is wrong: data that the model cannot read, a model that cannot start
        from the stage before, or a stage that was begun with other settings or data.
    """
    folder = Path(folder)
    if not settings:
        raise InputError(f"{name}: has no stages; give at least one")
    if len(settings) != len(datasets):
        raise InputError(f"{name}: has {len(settings)} stages, but {len(datasets)} datasets; give one for each")
    if not (folder / RECORD).exists():
        refuse_to_overwrite(folder)
    stages: list[Stage] = []
    for number, (chosen, dataset) in enumerate(zip(settings, datasets, strict=True), start=1):
        place = f"{name}: stage {number}"
        if stages:
            if chosen.train.init:
                raise InputError(f"{place}: init: it starts from stage {number - 1}; leave it out")
            start = str(stages[-1].folder / "best.npz")
            chosen = replace(chosen, train=replace(chosen.train, init=start))
        stage = Stage(place, folder / f"{number}-stage", chosen, dataset)
        try:
            _check_data(stage, stages[-1:])
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        _check_begun(stage, stages[-1:])
        stages.append(stage)
    surplus = folder / f"{len(stages) + 1}-stage"
    if (surplus / "last.npz").exists():
        raise InputError(f"{name}: {surplus} was begun, but its stage is gone; put that back, or move the folder away")
    return stages


def _check_data(stage: Stage, before: list[Stage]) -> None:
    """Refuse what the stage's model cannot read, or cannot start from. before: the stage before it, if there is one"""
    cfg = stage.settings.config(stage.dataset)
    check_dataset(stage.dataset, cfg)
    if before:
        _check_shapes(before[0].settings.config(before[0].dataset), cfg)
        check_codec(before[0].dataset.codec, stage.dataset, "the stage before")
    elif not stage.begun:
        first_params(cfg, stage.settings.train)


def _check_shapes(before: Config, cfg: Config) -> None:
    """Refuse a model that cannot take over the parameters of the stage before: more segments are all that may change.

    REREAD may not change either, for the parameters were trained for another function.
    Raises: InputError naming the field.
    """
    wanted = param_shapes(replace(before, num_segments=max(before.num_segments, cfg.num_segments)))
    if param_shapes(cfg) == wanted and all(getattr(cfg, name) == getattr(before, name) for name in REREAD):
        return
    values = {field.name: (getattr(before, field.name), getattr(cfg, field.name)) for field in fields(Config)}
    changed = [name for name, (old, new) in values.items() if old != new]
    if cfg.num_segments > before.num_segments:
        changed.remove("num_segments")
    name = next((name for name in changed if _changes_shapes(before, name, values[name][1])), changed[0])
    remedy = "give that or more" if name == "num_segments" else "all stages train the same parameters"
    remedy = "all stages read the parameters in the same way" if name in REREAD else remedy
    raise InputError(f"{name} is {values[name][1]!r}, but the stage before has {values[name][0]!r}; {remedy}")


def _changes_shapes(cfg: Config, name: str, value: Any) -> bool:
    """Is this field enough to make the parameters others?"""
    try:
        return name in REREAD or param_shapes(replace(cfg, **{name: value})) != param_shapes(cfg)
    except InputError:  # together with another field it may be right
        return True


def _check_begun(stage: Stage, before: list[Stage]) -> None:
    """Refuse to go on with a stage that was begun otherwise. Raises: InputError naming what differs."""
    if not stage.begun:
        refuse_to_overwrite(stage.folder)
        return
    away = f"move {stage.folder} and the stages after it away"
    if before and not before[0].trained:
        raise InputError(f"{stage.place}: {stage.folder} was begun, but {before[0].folder} is not finished; {away}")
    run = load_run(stage.folder)
    then, now = (dict(leaves(settings.to_json())) for settings in (run.settings, stage.settings))
    if before:  # another word for the same folder is no other start
        then["train.init"] = now["train.init"]
    for name in then | now:
        if then.get(name) != now.get(name):
            key = name.rpartition(".")[2]
            raise InputError(
                f"{stage.place}: {key} is {now.get(name)!r}, but {stage.folder} has {then.get(name)!r}; "
                f"change it back, or {away}"
            )
    check_same(run.data, fingerprint(stage.dataset), stage.folder)
    if before:
        _check_start(run, stage, away)


def _check_start(run: Run, stage: Stage, away: str) -> None:
    """Refuse a stage that started from other parameters than the best ones of the stage before, which may have gone on.

    away: what to do about it. An older run does not know its start, and a checkpoint that was deleted says nothing.
    Raises: InputError naming the checkpoint.
    """
    best = stage.settings.train.init
    if not run.start or not Path(best).exists():
        return
    if start_checksum(first_params(run.cfg, stage.settings.train)) != run.start:
        raise InputError(
            f"{stage.place}: {stage.folder} did not start from {best} as that is now; bring that checkpoint back, or "
            f"{away}"
        )


def train_stages(
    stages: Sequence[Stage],
    train: Callable[[Run, Dataset], dict] = train_in_program,
    report: Callable[[str], object] = ignore,
) -> list[dict]:
    """Train what is not finished, stage after stage; before and after each, write curriculum.json. -> their results

    train: what trains a run to its end, by default `rmaat_np.train`; report: told a line of text for every stage
    Raises: as `train` does, with all stages as they stood; InputError if another process trains in the folder.
    """
    if not stages:
        raise InputError("a curriculum has no stages; give at least one")
    folder = stages[0].folder.parent
    make_folder(folder)
    with only_process(folder):
        results = _write_record(stages)
        for number, stage in enumerate(stages, start=1):
            state = "finished before" if results[number - 1] else _start_of(stage, stages[number - 2 : number - 1])
            report(f"stage {number} of {len(stages)}, {stage.folder}: {state}")
            if results[number - 1] is None:
                if stage.trained:  # a test takes over what was measured, and that may be what is damaged
                    (stage.folder / "result.json").unlink(missing_ok=True)
                train(stage.run(), stage.dataset)
                results = _write_record(stages)
    return [result for result in results if result]


def _start_of(stage: Stage, before: Sequence[Stage]) -> str:
    """Where the stage begins, in a few words. before: the stage before it, if there is one"""
    if stage.begun:
        return "is trained, and tested again" if stage.trained else "goes on"
    now = stage.settings.fields
    then = before[0].settings.fields if before else now
    parts = [f"starts from {stage.settings.train.init or 'its seed'}"]
    changed = [name for name in now if now[name] != then[name]]
    if now["num_segments"] > then["num_segments"] and now["segment_embedding"]:
        old, new = then["num_segments"], now["num_segments"]
        parts.append(f"segments {old + 1} to {new} with the embedding of segment {old}")
        changed.remove("num_segments")
    return "; ".join(parts + [f"{name} {now[name]} instead of {then[name]}" for name in changed])


def told(stage: Stage, result: dict) -> str:
    """A finished stage in a line."""
    scores = f"validation accuracy {result['val_accuracy']:.3f}, test accuracy {result['test_accuracy']:.3f}"
    return f"{stage.folder.name}: {result['steps']:,} steps, {scores}"


def _write_record(stages: Sequence[Stage]) -> list[dict | None]:
    """Write curriculum.json: of every stage its folder, its settings, and its result as far as there is one.

    -> the results
    """
    results, rows = [stage.result() for stage in stages], []
    for stage, result in zip(stages, results, strict=True):
        scores = result and {name: value for name, value in result.items() if name != "test"}  # which is long
        rows.append({"folder": stage.folder.name, "settings": stage.settings.to_json(), "result": scores})
    write_text(stages[0].folder.parent / RECORD, json.dumps({"stages": rows}, indent=1))
    return results
