"""--curriculum: the command's side of a curriculum: its options, its data, and its lines."""

import argparse
import json
import time
from functools import partial
from pathlib import Path

from ..data import check_options
from ..data.dataset import Dataset
from ..errors import InputError, WriteError
from ..system.files import make_numbered_folder
from ..system.terminal import complain, tell
from ..training.curriculum import Stage, plan_stages, read_stages, told, train_stages
from ..training.divergence import Diverged
from ..training.execution import activate
from ..training.loop import Interrupted
from ..training.settings import Settings
from . import options
from .actions import check_data_dir, explain, read_data, train_and_tell
from .signals import exit_code, number_of, stop_requests


def curriculum(arguments: argparse.Namespace) -> int:
    """Train the stages that the file of --curriculum names, or go on with them, and say how each ended."""
    stages = plan(arguments)
    out = stages[0].folder.parent
    go_on = f"go on with: {options.repeated(arguments.words, out)}"
    try:
        with stop_requests() as received:
            train = partial(train_and_tell, arguments=arguments, received=received)
            results = train_stages(stages, train, report=tell)
    except Interrupted as stop:
        complain(f"{stop.folder}: stopped after step {stop.step}, saved; {go_on}")
        return exit_code(received[0]) if received else 0  # by --stop-after, which is no failure
    except KeyboardInterrupt as stop:
        complain(f"stopped at once, back to the last checkpoint; {go_on}")
        return exit_code(number_of(stop))
    except WriteError as error:
        raise WriteError(f"{error}; then {go_on}") from None
    except Diverged as error:
        complain(f"{options.program()}: {explain(error, arguments, _with_a_lower_rate(stages, arguments, go_on))}")
        return 1
    tell("\n".join(told(stage, result) for stage, result in zip(stages, results, strict=True)))
    tell(f"{out}/: curriculum.json, and a folder for each stage")
    return 0


def _with_a_lower_rate(stages: list[Stage], arguments: argparse.Namespace, go_on: str) -> str:
    """What to do about the stage that diverged, which is the first one that is not finished."""
    file, given = arguments.curriculum, options.overrides_of(arguments)
    number, stage = next((number, stage) for number, stage in enumerate(stages, start=1) if not stage.result())
    if "lr" in given:  # it would win over the file
        lower = f"write lr = {given['lr']} into the stages of {file}, and a lower one into stage {number}"
        go_on = f"without the lr of the command line {go_on}"
    else:
        lower = f"write a lower lr into stage {number} of {file}"
    return f"{lower}, move {stage.folder} away, and {go_on}"


def plan(arguments: argparse.Namespace) -> list[Stage]:
    """The stages that the options ask for. What one of them would refuse is refused before the first one starts."""
    task, file = arguments.task or "listops", arguments.curriculum
    chosen = read_stages(
        file, task, arguments.preset or "quick", arguments.model or "rmaat", options.overrides_of(arguments)
    )
    execution = options.execution_of(arguments)
    for stage in chosen:
        execution.check_dtype(stage.train.dtype)
    activate(execution)
    datasets = _load_all(chosen, arguments)
    out = arguments.out or Path("runs") / f"curriculum-{task}-{time.strftime('%Y%m%d-%H%M%S')}"
    stages = plan_stages(out, chosen, datasets, str(file))
    if arguments.out is None:  # after all checks: what is refused leaves no folder behind
        stages = plan_stages(make_numbered_folder(out), chosen, datasets, str(file))
    return stages


def _load_all(chosen: list[Settings], arguments: argparse.Namespace) -> list[Dataset]:
    """The data of every stage; stages that read the same share them. Raises: InputError naming the stage."""
    loaded: dict[str, Dataset] = {}
    keys = []
    for number, stage in enumerate(chosen, start=1):  # before anything is drawn, which may take minutes
        try:
            check_options(stage.task, stage.data)
        except InputError as error:
            raise InputError(f"{arguments.curriculum}: stage {number}: {error}") from None
    check_data_dir(chosen[0], arguments)
    for number, stage in enumerate(chosen, start=1):
        limit = stage.fields["num_segments"] * stage.fields["segment_length"]  # of rows that are cut
        keys.append(json.dumps([stage.data, limit]))
        try:
            if keys[-1] not in loaded:
                loaded[keys[-1]] = read_data(stage, arguments)
        except InputError as error:
            cut = "; or let the rows grow within one run: --set grow=0.5" if "were cut to" in str(error) else ""
            raise InputError(f"{arguments.curriculum}: stage {number}: {error}{cut}") from None
    return [loaded[key] for key in keys]
