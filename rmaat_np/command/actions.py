"""What the command does with one model: train, go on, evaluate, look at the data, trace a step."""

import argparse
import json
import math
import time
from pathlib import Path

from .. import backend, params
from ..data import TASKS, check_options, load_dataset, report
from ..data.dataset import Dataset
from ..errors import InputError, WriteError
from ..system.files import make_folder
from ..system.terminal import complain, progress_bar, show, tell, warn
from ..trace import event_lines, trace_run, write_page, write_timeline
from ..training import loop, settings
from ..training import run as runs
from ..training.divergence import Diverged
from ..training.execution import activate
from . import options
from .signals import exit_code, number_of, stop_requests

_DRAWN = {
    ("recall", None),
    ("memory", None),
    ("listops", "short"),
    ("pathfinder", "generated"),
}  # task and source= without files
WRITTEN = ("config.json", "metrics.jsonl", "result.json", "curve.png", "best.npz", "last.npz")


def chosen_settings(arguments: argparse.Namespace) -> settings.Settings:
    """The settings of a new run."""
    task, preset, model = arguments.task or "listops", arguments.preset or "quick", arguments.model or "rmaat"
    return settings.resolve(task, preset, model, options.overrides_of(arguments))


def load_data(chosen: settings.Settings, arguments: argparse.Namespace) -> Dataset:
    """The task's dataset for these settings. Raises: InputError, also for a --data-dir that is not there."""
    check_options(chosen.task, chosen.data)
    if (chosen.task, chosen.data.get("source")) in _DRAWN and arguments.data_dir != options.DATA_DIR:
        if not arguments.data_dir.is_dir():
            raise InputError(f"--data-dir {arguments.data_dir}: there is no such folder; make it, or leave it out")
        warn(f"--data-dir {arguments.data_dir}: no data are read from it, for those of {chosen.task} are drawn here")
    return load_dataset(chosen.task, chosen.data, arguments.data_dir, arguments.cache_dir)


def _open_run(checkpoint: Path, arguments: argparse.Namespace) -> tuple[runs.Run, Dataset]:
    """A run from its folder or checkpoint, ready to compute, and its data.

    Raises: InputError, also for options that contradict the checkpoint.
    """
    execution = options.execution_of(arguments)
    activate(execution)
    run = runs.load_run(checkpoint)
    _check_unchanged(run, arguments)
    execution.check_dtype(run.settings.train.dtype)
    return run, load_data(run.settings, arguments)


def _check_unchanged(run: runs.Run, arguments: argparse.Namespace) -> None:
    """Refuse options that contradict the checkpoint. Raises: InputError naming the option and both values."""
    saved = {"task": run.settings.task, "preset": run.settings.preset, "model": run.settings.model}
    saved |= run.settings.data | run.settings.fields | run.settings.to_json()["train"]
    named = {name: getattr(arguments, name) for name in ("task", "preset", "model") if getattr(arguments, name)}
    for name, value in (named | options.overrides_of(arguments)).items():
        if name not in saved:
            raise settings.unknown_key(name, saved)
        if saved[name] != value:
            raise InputError(
                f"{name} is {saved[name]!r} in the checkpoint, not {value!r}; leave it out, or start a new run"
            )


def train(arguments: argparse.Namespace) -> int:
    """Start a new run, and train it to its end."""
    chosen, execution = chosen_settings(arguments), options.execution_of(arguments)
    execution.check_dtype(chosen.train.dtype)
    activate(execution)
    dataset = load_data(chosen, arguments)
    folder = Path("runs") / f"{chosen.task}-{chosen.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = runs.new_run(arguments.out or folder, chosen, dataset, numbered=arguments.out is None)
    return _run_to_end(run, dataset, arguments)


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run to its end."""
    return _run_to_end(*_open_run(arguments.resume, arguments), arguments)


def evaluate(arguments: argparse.Namespace) -> int:
    """Print a checkpoint's scores on the test split, as JSON on stdout."""
    run, dataset = _open_run(arguments.eval, arguments)
    tell(_announcement(run, arguments), write=complain)
    scores = loop.evaluate(run.params, run.cfg, dataset.test, arguments.workers)
    if not math.isfinite(scores["loss"]):
        raise InputError(f"{arguments.eval}: test loss is {scores['loss']}; use an earlier checkpoint of the run")
    found = {"checkpoint": str(runs.checkpoint_path(arguments.eval)), "step": run.progress.step}
    show(json.dumps(found | {"test_accuracy": scores["accuracy"], "test_loss": scores["loss"]}))
    return 0


def _announcement(run: runs.Run, arguments: argparse.Namespace) -> str:
    """What is going to be computed, and where."""
    return (
        settings.describe(run.settings) + "\n"
        f"  {params.count_parameters(run.params):,} parameters, {run.settings.train.dtype}"
        f"{' with TF32 products' if arguments.tf32 else ''}, backend {backend.name}, "
        f"{arguments.workers} worker{'s' * (arguments.workers > 1)}, "
        f"{run.cfg.num_segments} segments of {run.cfg.segment_length} tokens"
    )


def _run_to_end(run: runs.Run, dataset: Dataset, arguments: argparse.Namespace) -> int:
    """Train, and say where everything is, or how to go on."""
    tell(_announcement(run, arguments))
    go_on = f"go on with: {options.command('--resume', run.folder, *options.same_place(arguments))}"
    try:
        with stop_requests() as received:
            _train_with_bar(run, dataset, arguments, received)
    except loop.Interrupted as stop:
        complain(f"stopped after step {stop.step}, saved; {go_on}")
        return exit_code(received[0])
    except KeyboardInterrupt as stop:
        if not (run.folder / "last.npz").exists():
            go_on = "there is none yet; start again with the same command"
        complain(f"stopped at once, back to the last checkpoint; {go_on}")
        return exit_code(number_of(stop))
    except WriteError as error:
        raise WriteError(f"{error}; then {go_on}" if (run.folder / "last.npz").exists() else str(error)) from None
    return 0


def _train_with_bar(run: runs.Run, dataset: Dataset, arguments: argparse.Namespace, received: list[int]) -> None:
    """Train with a progress bar, and say what came out. received: the signals that ask to stop"""
    with progress_bar(total=run.settings.train.steps, initial=run.progress.step) as bar:

        def on_step(row: dict) -> None:
            bar.update()
            if row["step"] % 10 == 0:
                bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.2f}", refresh=False)

        result = loop.train(
            run,
            dataset,
            options.execution_of(arguments),
            should_stop=lambda: bool(received),
            on_step=on_step,
            report=lambda line: tell(line, write=bar.write),
            warn=complain,
        )
    written = " ".join(name for name in WRITTEN if (run.folder / name).exists())
    again = options.command("--eval", run.folder / "best.npz", *options.same_place(arguments)[2:])
    tell(
        f"test accuracy {result['test_accuracy']:.3f} (best on validation, step {result['best_step']}), "
        f"{result['test_accuracy_last']:.3f} (last); majority class {result['majority_share']:.3f}; "
        f"{result['seconds']:.0f} s, {result['tokens_per_second']:,} tokens/s\n"
        f"{run.folder}/: {written}\nevaluate again: {again}"
    )


def explain(error: Diverged, arguments: argparse.Namespace) -> str:
    """What diverged, and what to do about it."""
    advice = "start again with a lower --lr or clip_norm"
    looked_for = arguments.detect_anomaly and arguments.backend == "numpy"
    if error.repeatable and error.checkpoint is not None and not looked_for:
        place = options.same_place(arguments, backend="numpy", tf32=False)  # only NumPy tells its operations
        words = ("--resume", error.checkpoint, *place, "--detect-anomaly")
        advice = f"{options.command(*words)} names the operation{_numpy_alone(arguments)}; {advice}"
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
        show(report.report(load_data(chosen, arguments)))
    except InputError as error:
        expected = TASKS[chosen.task].expected
        complain(f"run_lra.py: {error}" + (f"\n\nexpected:\n{expected}" if expected else ""))
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
