"""What the command does with one model: train, go on, evaluate, look at the data, trace a step."""

import argparse
import json
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .. import backend, params
from ..data import TASKS, check_options, load_dataset, report
from ..data.dataset import Dataset
from ..errors import InputError, WriteError
from ..optim import learning_rate
from ..system.files import make_folder
from ..system.terminal import complain, show, tell, warn, write_above_bars
from ..trace import event_lines, trace_run, write_page, write_timeline
from ..training import loop, settings
from ..training import run as runs
from ..training.checkpoint import best_checkpoint
from ..training.divergence import Diverged
from ..training.execution import activate
from ..training.inputs import check_codec, check_dataset, check_same, fingerprint
from ..training.longer import read_longer
from ..training.program import train_with_bar
from ..training.ranks import check_alike
from ..training.score_report import write_report
from ..training.scores import class_names, judge
from . import options
from .signals import exit_code, number_of, stop_requests

_DRAWN = {("recall", None), ("memory", None), ("listops", "short"), ("pathfinder", "generated")}  # task, and source=
# Data options that may be others than the run began with: a file may name its columns otherwise, and a trained model
# may read test rows of any lengths.
OTHERWISE = {"own": ("text_column", "text2_column", "label_column"), "memory": ("test_lengths",)}
WRITTEN = ("config.json", "metrics.jsonl", "result.json", "curve.png", "best.npz", "last.npz")


def chosen_settings(arguments: argparse.Namespace) -> settings.Settings:
    """The settings of a new run."""
    task, preset, model = arguments.task or "listops", arguments.preset or "quick", arguments.model or "rmaat"
    return settings.resolve(task, preset, model, options.overrides_of(arguments))


def load_data(chosen: settings.Settings, arguments: argparse.Namespace) -> Dataset:
    """The task's dataset for these settings. Raises: InputError, also for a --data-dir that is not there."""
    check_options(chosen.task, chosen.data)
    check_data_dir(chosen, arguments)
    return read_data(chosen, arguments)


def check_data_dir(chosen: settings.Settings, arguments: argparse.Namespace) -> None:
    """Say where drawn data are kept. Raises: InputError if the --data-dir for them is not there."""
    if (chosen.task, chosen.data.get("source")) in _DRAWN and arguments.data_dir != options.DATA_DIR:
        if not arguments.data_dir.is_dir():
            raise InputError(f"--data-dir {arguments.data_dir}: there is no such folder; make it, or leave it out")
        stored = chosen.data.get("source") is not None and arguments.cache_dir is None
        kept = ", and kept in it for the next run" if stored else ""
        warn(f"--data-dir {arguments.data_dir}: the data of {chosen.task} are drawn{kept}; no files of yours are read")


def read_data(chosen: settings.Settings, arguments: argparse.Namespace) -> Dataset:
    """As `load_data`, where options and folder were checked before."""
    limit = {"max_length": chosen.fields["num_segments"] * chosen.fields["segment_length"]}
    given = chosen.data | (limit if chosen.data.get("cut") else {})
    return load_dataset(chosen.task, given, arguments.data_dir, arguments.cache_dir)


def _open_run(checkpoint: Path, arguments: argparse.Namespace) -> tuple[runs.Run, Dataset]:
    """A run from its folder or checkpoint, ready to compute, and its data.

    Raises: InputError, also for options that contradict the checkpoint.
    """
    execution = options.execution_of(arguments)
    activate(execution, arguments.ranks)
    run = runs.shared(arguments.ranks, lambda: runs.load_run(checkpoint))
    _check_unchanged(run, arguments)
    execution.check_dtype(run.settings.train.dtype)
    free = OTHERWISE.get(run.settings.task, ())
    otherwise = {name: value for name, value in options.overrides_of(arguments).items() if name in free}
    dataset = _load_alike(replace(run.settings, data=run.settings.data | otherwise), arguments)
    check_codec(run.codec, dataset, run.folder)
    check_dataset(dataset, run.cfg)
    return run, dataset


def _load_alike(chosen: settings.Settings, arguments: argparse.Namespace) -> Dataset:
    """The data, on every rank. Raises: InputError, also for ranks that would not compute one and the same run."""
    ranks = arguments.ranks
    dataset = ranks.first_alone(lambda: load_data(chosen, arguments))  # so that the others find stored arrays
    if ranks.size > 1:
        mine = {"settings": chosen.to_json(), "data": fingerprint(dataset)}
        check_alike(ranks, dict(runs.leaves(mine | vars(options.execution_of(arguments)))))
    return dataset


def _check_unchanged(run: runs.Run, arguments: argparse.Namespace) -> None:
    """Refuse options that contradict the checkpoint, but for the steps of a run that is resumed, and OTHERWISE.

    Raises: InputError naming the option and both values.
    """
    saved = {"task": run.settings.task, "preset": run.settings.preset, "model": run.settings.model}
    saved |= run.settings.data | run.settings.fields | run.settings.to_json()["train"]
    named = {name: getattr(arguments, name) for name in ("task", "preset", "model") if getattr(arguments, name)}
    for name, value in (named | options.overrides_of(arguments)).items():
        if name in OTHERWISE.get(run.settings.task, ()):
            continue
        if name not in saved and name in TASKS[run.settings.task].options:
            raise InputError(f"--set {name}: this run was made without it; leave it out, or start a new run")
        if name not in saved:
            raise settings.unknown_key(name, saved, f"--set {name}")
        if saved[name] != value and not (name == "steps" and arguments.resume is not None):
            raise InputError(
                f"{name} is {saved[name]!r} in the checkpoint, not {value!r}; leave it out, or start a new run"
            )


def train(arguments: argparse.Namespace) -> int:
    """Start a new run, and train it to its end."""
    chosen, execution = chosen_settings(arguments), options.execution_of(arguments)
    execution.check_dtype(chosen.train.dtype)
    activate(execution, arguments.ranks)
    dataset = _load_alike(chosen, arguments)
    folder = arguments.out or Path("runs") / f"{chosen.task}-{chosen.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = arguments.out is None
    run = runs.shared(arguments.ranks, lambda: runs.new_run(folder, chosen, dataset, numbered=numbered))
    return _run_to_end(run, dataset, arguments)


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run to its end, or with --steps to that step."""
    run, dataset = _open_run(arguments.resume, arguments)
    before, done = run.settings.train, run.progress.step
    steps = options.overrides_of(arguments).get("steps", before.steps)
    if steps != before.steps:
        runs.extend(run, steps)
        rates = [learning_rate(done, count, before.lr, before.warmup_steps) for count in (before.steps, steps)]
        tell(
            f"{run.folder}: {steps} steps instead of {before.steps}; after step {done} the learning rate goes on as in "
            f"a run of {steps} steps, from {rates[1]:.2e} instead of {rates[0]:.2e}"
            + (", and so does the growth of the rows" if run.settings.train.grow else "")
        )
    return _run_to_end(run, dataset, arguments)


def evaluate(arguments: argparse.Namespace) -> int:
    """Print a checkpoint's scores on the test split, as JSON on stdout; with --report, write the report too."""
    run, dataset = _open_run(best_checkpoint(arguments.eval), arguments)
    tell(_announcement(run, arguments), write=complain)
    try:
        check_same(run.data, fingerprint(dataset), run.folder)
    except InputError as error:
        warn(f"{error}: among the test rows there may be some that the run was trained on")
    reports = arguments.report is not None and arguments.ranks.rank == 0
    if reports:
        make_folder(arguments.report)  # what cannot be made is refused before the evaluation
    scores = loop.evaluate(run.params, run.cfg, dataset.test, arguments.workers, ranks=arguments.ranks)
    if not math.isfinite(scores["loss"]):
        raise InputError(f"{arguments.eval}: test loss is {scores['loss']}; use an earlier checkpoint of the run")
    found = {"checkpoint": str(best_checkpoint(arguments.eval)), "step": run.progress.step}
    found |= {"test_accuracy": scores["accuracy"], "test_loss": scores["loss"]}
    found["test"] = judge(scores["predictions"], class_names(dataset))
    if dataset.longer:
        judge_split = partial(loop.evaluate, workers=arguments.workers, ranks=arguments.ranks)
        found["longer"] = read_longer(run.params, run.cfg, dataset, judge_split, complain, warn)
    if reports:
        written = write_report(arguments.report, found, scores["predictions"], dataset)
        complain(f"{arguments.report}/: {' '.join(written)}")
    show(json.dumps(found))
    return 0


def _announcement(run: runs.Run, arguments: argparse.Namespace) -> str:
    """What is going to be computed, and where."""
    ranks = arguments.ranks.size
    return (
        settings.describe(run.settings) + "\n"
        f"  {params.count_parameters(run.params):,} parameters, {run.settings.train.dtype}"
        f"{' with TF32 products' if arguments.tf32 else ''}, backend {backend.name}, "
        f"{f'{ranks} ranks, each with ' * (ranks > 1)}{arguments.workers} worker{'s' * (arguments.workers > 1)}, "
        f"{run.cfg.num_segments} segments of {run.cfg.segment_length} tokens"
        + (f"\n  {arguments.ranks.way}" if arguments.ranks.way else "")
    )


def _run_to_end(run: runs.Run, dataset: Dataset, arguments: argparse.Namespace) -> int:
    """Train, and say where everything is, or how to go on."""
    again = options.command("--resume", run.folder, *options.same_place(arguments), ranks=run.ranks)
    go_on = f"go on with: {again}"
    try:
        with stop_requests() as received:
            train_and_tell(run, dataset, arguments, received)
    except loop.Interrupted as stop:
        complain(f"stopped after step {stop.step}, saved; {go_on}")
        number = max(run.ranks.gather(received[0] if received else 0))  # not every rank got the signal
        return exit_code(number) if number else 0  # by --stop-after, which is no failure
    except KeyboardInterrupt as stop:
        if not (run.folder / "last.npz").exists():
            go_on = "there is none yet; start again with the same command"
        complain(f"stopped at once, back to the last checkpoint; {go_on}")
        return exit_code(number_of(stop))
    except WriteError as error:
        raise WriteError(f"{error}; then {go_on}" if (run.folder / "last.npz").exists() else str(error)) from None
    return 0


def train_and_tell(run: runs.Run, dataset: Dataset, arguments: argparse.Namespace, received: list[int]) -> dict:
    """Say what is computed, train with a progress bar, and say what came out. -> what result.json holds

    received: the signals that ask to stop
    Raises: as `loop.train`.
    """
    tell(_announcement(run, arguments))
    execution, report = options.execution_of(arguments), partial(tell, write=write_above_bars)
    result = train_with_bar(
        run, dataset, execution, lambda: bool(received) or options.time_is_up(arguments), report, complain
    )
    written = " ".join(name for name in WRITTEN if (run.folder / name).exists())
    place = options.same_place(arguments, accumulate=1, divide_optimiser=False)  # which only a training needs
    again = options.command("--eval", run.folder / "best.npz", *place[2:])
    missed = _never_predicted(result) if run.codec else ""
    selected = run.settings.train.select == "macro_f1"
    macro_f1 = f", macro F1 {result['test']['macro_f1']:.3f}" if selected else ""
    tell(
        f"test accuracy {result['test_accuracy']:.3f}{macro_f1} (best on validation, step {result['best_step']}), "
        f"{result['test_accuracy_last']:.3f} (last); majority class {result['majority_share']:.3f}; "
        f"{result['seconds']:.0f} s, {result['tokens_per_second']:,} tokens/s\n{missed}"
        f"{run.folder}/: {written}\nevaluate again: {again}"
    )
    return result


def _never_predicted(result: dict) -> str:
    """A line that names the classes which a model never answers though the test has rows of them, or ""."""
    answers = np.sum(result["test"]["confusion_matrix"], axis=0)
    rows = zip(result["test"]["classes"], answers, strict=True)
    missed = [str(scores["class"]) for scores, count in rows if count == 0 and scores["support"] > 0]
    remedy = "--set select=macro_f1 and --set class_weights=balanced may help"
    return f"never predicted: {', '.join(missed)}; {remedy}\n" if missed else ""


def explain(
    error: Diverged, arguments: argparse.Namespace, advice: str = "start again with a lower --lr or clip_norm"
) -> str:
    """What diverged, and what to do about it. advice: how to train without it"""
    looked_for = arguments.detect_anomaly and arguments.backend == "numpy"
    if error.repeatable and error.checkpoint is not None and not looked_for:
        place = options.same_place(arguments, backend="numpy", tf32=False)  # only NumPy tells its operations
        words = ("--resume", error.checkpoint, *place, "--detect-anomaly")
        again = options.command(*words, ranks=arguments.ranks)
        advice = f"{again} names the operation{_numpy_alone(arguments)}; {advice}"
    return f"{error}; {advice}"


def _numpy_alone(arguments: argparse.Namespace) -> str:
    """Why the command that names the operation computes with another backend."""
    return "" if arguments.backend == "numpy" else " (which needs --backend numpy)"


def check_data(arguments: argparse.Namespace) -> int:
    """Print what was found for the task. If something is missing or wrong, say so and show what is expected."""
    chosen = chosen_settings(arguments)
    values = ", ".join(f"{key}={value}" for key, value in chosen.data.items())
    show(f"data of task {chosen.task}, preset {chosen.preset} ({values}) in {arguments.data_dir.resolve()}")
    try:
        paths = TASKS[chosen.task].found(chosen.data, arguments.data_dir)
        show("\n".join(f"  found {path.resolve()}" for path in paths) or "  generated, no files are needed")
        dataset = load_data(chosen, arguments)
        show(report.report(dataset))
        chosen.config(dataset)  # which refuses rows that are longer than the model
    except InputError as error:
        expected = "" if chosen.data.get("source") == "generated" else TASKS[chosen.task].expected
        complain(f"{options.program()}: {error}" + (f"\n\nexpected:\n{expected}" if expected else ""))
        return 2
    return 0


def trace(arguments: argparse.Namespace) -> int:
    """Tell one training step by both methods line by line; draw it, or write the page to step through."""
    chosen, execution = chosen_settings(arguments), options.execution_of(arguments)
    if chosen.fields["num_memory"] == 0:
        raise InputError(
            f"--trace: {chosen.model} has no memory tokens here, and there is nothing to replay; rmaat has"
        )
    execution.check_dtype(chosen.train.dtype)
    activate(execution)
    batch_size = options.overrides_of(arguments).get("batch_size")
    steps, recording = trace_run(chosen, load_data(chosen, arguments), batch_size)
    written = []
    if arguments.html:
        written.append(f"{arguments.html}: {write_page(arguments.html, recording):,} bytes, open it in a browser")
    if arguments.out or not arguments.html:
        make_folder(arguments.out or Path())
        picture = (arguments.out or Path()) / "trace.png"
        if write_timeline(picture, {method: step.events for method, step in steps.items()}):
            written.append(f"{picture}: what is alive when")
    lines = [f"{recording['title']}: one training step, loss {recording['loss']:.4f}", *recording["words"]]
    lines += ["", "below, all sizes are in bytes"]
    for method, step in steps.items():
        lines += ["", method.upper(), *event_lines(step.events)]
        peak, stored = step.stats["peak_cache_bytes"], step.stats["replay_buffer_bytes"]
        lines.append(f"at most {peak:,} of caches, {stored:,} stored")
    same = "equal to the last bit" if recording["same"] else "NOT equal"
    show("\n".join([*lines, "", f"loss and gradients of both: {same}", *written]))
    return 0
