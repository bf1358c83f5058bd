"""Train and evaluate RMAAT and its baselines on the Long Range Arena. `python run_lra.py` trains on short ListOps."""

import json
import math
import os
import signal
import sys
import time
import warnings
from functools import partial
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the modules are imported just ends the process

# One BLAS thread per worker: the batch is split over workers instead. Must stand before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

from rmaat_np import backend, params
from rmaat_np.command import options  # noqa: E402
from rmaat_np.data import (
    TASKS,
    load_dataset,  # noqa: E402
    report,  # noqa: E402
)
from rmaat_np.errors import InputError, WriteError  # noqa: E402
from rmaat_np.system import (
    machine,
    terminal,  # noqa: E402
)
from rmaat_np.system.files import make_folder  # noqa: E402
from rmaat_np.trace import event_lines, trace_run, write_page, write_timeline
from rmaat_np.training import compare, loop, settings
from rmaat_np.training import run as runs


def overrides_of(arguments) -> dict:
    """Settings named on the command line: the short options, then every --set."""
    shortcuts = ("method", "steps", "batch_size", "lr", "seed", "dtype")
    given = {name: getattr(arguments, name) for name in shortcuts if getattr(arguments, name) is not None}
    return given | dict(settings.parse_assignment(text) for text in arguments.set)


def check_unchanged(run, arguments) -> None:
    """Refuse options that contradict the checkpoint. Raises: InputError naming the option and both values."""
    saved = {"task": run.settings.task, "preset": run.settings.preset, "model": run.settings.model}
    saved |= run.settings.data | run.settings.fields | run.settings.to_json()["train"]
    named = {name: getattr(arguments, name) for name in ("task", "preset", "model") if getattr(arguments, name)}
    for name, value in (named | overrides_of(arguments)).items():
        if name not in saved:
            raise settings.unknown_key(name, saved)
        if saved[name] != value:
            raise InputError(
                f"{name} is {saved[name]!r} in the checkpoint, not {value!r}; leave it out, or start a new run"
            )


def choose_precision(chosen: settings.Settings, arguments) -> None:
    """Switch TF32 on if --tf32 asks for it. Raises: InputError if the run is not in float32."""
    if arguments.tf32:
        if chosen.train.dtype != "float32":
            raise InputError(f"--tf32: dtype is {chosen.train.dtype}, but TF32 is for float32; leave one of them out")
        backend.allow_tf32()


def load_data(chosen: settings.Settings, arguments):
    """The task's dataset for these settings."""
    return load_dataset(chosen.task, chosen.data, arguments.data_dir, arguments.cache_dir)


def check_data(chosen: settings.Settings, arguments) -> int:
    """Print what was found for the task; if something is missing or wrong, say so and show what is expected."""
    options = ", ".join(f"{key}={value}" for key, value in chosen.data.items())
    print(f"data of task {chosen.task}, preset {chosen.preset} ({options}) in {arguments.data_dir.resolve()}")
    try:
        paths = TASKS[chosen.task].found(chosen.data, arguments.data_dir)
        print("\n".join(f"  found {path.resolve()}" for path in paths) or "  generated, no files are needed")
        print(report.report(load_data(chosen, arguments)))
    except InputError as error:
        print(f"run_lra.py: {error}\n\nexpected:\n{TASKS[chosen.task].expected}", file=sys.stderr)
        return 2
    return 0


def run_comparison(arguments) -> int:
    """Train what --compare names, each with --seeds seeds, into one folder with a table."""
    for name in ("model", "resume", "eval", "check_data", "detect_anomaly"):
        if getattr(arguments, name):
            raise InputError(f"--compare goes without --{name.replace('_', '-')}; leave it out")
    task, preset = arguments.task or "listops", arguments.preset or "quick"
    out = arguments.out or Path("runs") / f"compare-{task}-{time.strftime('%Y%m%d-%H%M%S')}"
    jobs = compare.make_jobs(
        out,
        task,
        preset,
        arguments.compare,
        1 if arguments.seeds is None else arguments.seeds,
        overrides_of(arguments),
        data_dir=arguments.data_dir,
        cache_dir=arguments.cache_dir,
        backend=arguments.backend,
        replay_budget=budget_bytes(arguments),
        tf32=arguments.tf32,
        at_a_time=arguments.workers,
    )
    dataset = load_data(jobs[0].settings, arguments)  # refuses what is missing, and fills the cache that the runs share
    compare.check_models(jobs, dataset)
    terminal.tell(f"{len(jobs)} run(s), {arguments.workers} at a time, into {out}")
    with terminal.progress_bar(total=sum(job.settings.train.steps for job in jobs)) as bar:
        try:
            compare.compare(out, jobs, command_of(out), bar)
        except loop.Interrupted as stop:
            bar.close()
            print(f"stopped, every run is saved; go on with: {command_of(out)}", file=sys.stderr)
            return exit_code(stop)
        except KeyboardInterrupt as stop:
            bar.close()
            print(
                f"stopped at once, the runs are back at their last save; go on with: {command_of(out)}", file=sys.stderr
            )
            return exit_code(stop)
    written = [name for name in ("table.md", "table.json", "table.png") if (out / name).exists()]
    terminal.tell((out / "table.md").read_text() + f"\n{out}/: {' '.join(written)}, and a folder for each run")
    return 0 if all(job.result() for job in jobs) else 1


def run_trace(arguments) -> int:
    """Tell one training step by both methods line by line; draw it, or write the page to step through."""
    for name in ("compare", "resume", "eval", "check_data", "method", "replay_budget", "detect_anomaly"):
        if getattr(arguments, name):
            raise InputError(
                f"--trace goes without --{name.replace('_', '-')}; it shows the first step by both methods"
            )
    overrides = overrides_of(arguments)
    chosen = settings.resolve(
        arguments.task or "listops", arguments.preset or "quick", arguments.model or "rmaat", overrides
    )
    if chosen.fields["num_memory"] == 0:
        raise InputError(
            f"--trace: {chosen.model} has no memory tokens here, and there is nothing to replay; rmaat has"
        )
    steps, recording = trace_run(chosen, load_data(chosen, arguments), overrides.get("batch_size"))
    written = []
    if arguments.html:
        written.append(f"{arguments.html}: {write_page(arguments.html, recording):,} bytes, open it in a browser")
    if arguments.out or not arguments.html:
        make_folder(arguments.out or Path())
        picture = (arguments.out or Path()) / "trace.png"
        if write_timeline(picture, {method: step.events for method, step in steps.items()}):
            written.append(f"{picture}: what is alive when")
    print(f"{recording['title']}: one training step, loss {recording['loss']:.4f}, all sizes in bytes")
    for method, step in steps.items():
        print(f"\n{method.upper()}\n" + "\n".join(event_lines(step.events)))
        print(f"at most {step.stats['peak_cache_bytes']:,} of caches, {step.stats['replay_buffer_bytes']:,} stored")
    print(f"\nloss and gradients of both: {'equal to the last bit' if recording['same'] else 'NOT equal'}")
    print(*written, sep="\n", end="\n" if written else "")
    return 0


def command_of(out: Path) -> str:
    """This very command, with the folder named, so that it goes on there."""
    words = sys.argv[1:]
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words = [*words, "--out", str(out)]
    return options.command(*words)


def announce(run, arguments) -> None:
    """What is going to be computed, and where; on stderr with --eval, whose stdout is JSON."""
    output = sys.stderr if arguments.eval is not None else sys.stdout
    terminal.tell(
        settings.describe(run.settings) + "\n"
        f"  {params.count_parameters(run.params):,} parameters, {run.settings.train.dtype}"
        f"{' with TF32 products' if arguments.tf32 else ''}, backend {backend.name}, "
        f"{arguments.workers} worker{'s' * (arguments.workers > 1)}, "
        f"{run.cfg.num_segments} segments of {run.cfg.segment_length} tokens",
        report=partial(print, file=output),
    )


def budget_bytes(arguments) -> int:
    """--replay-budget in bytes."""
    return int(arguments.replay_budget * 2**20)


def run_training(run, dataset, arguments) -> None:
    """Train with a progress bar, and say where everything is."""
    with terminal.progress_bar(total=run.settings.train.steps, initial=run.progress.step) as bar:
        result = loop.train(
            run,
            dataset,
            workers=arguments.workers,
            replay_budget=budget_bytes(arguments),
            detect_anomaly=arguments.detect_anomaly,
            bar=bar,
        )
    folder = run.folder
    terminal.tell(
        f"test accuracy {result['test_accuracy']:.3f} (best on validation, step {result['best_step']}), "
        f"{result['test_accuracy_last']:.3f} (last); majority class {result['majority_share']:.3f}; "
        f"{result['seconds']:.0f} s, {result['tokens_per_second']:,} tokens/s\n"
        f"{folder}/: config.json metrics.jsonl result.json curve.png best.npz last.npz\n"
        f"evaluate again: {options.command('--eval', folder / 'best.npz', *options.same_place(arguments)[2:])}"
    )


def main(argv=None) -> int:
    """Parse, load, train or evaluate; errors of input end as one line and exit code 2."""
    arguments = options.parse_arguments(argv)
    # a number that is not finite is reported with its step, array and segment; NumPy's warning would only repeat it
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="rmaat_np")
    try:
        return dispatch(arguments)
    except BrokenPipeError:  # whoever read our lines has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (InputError, backend.BackendError, OSError, MemoryError) as error:
        print(f"run_lra.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("run_lra.py: interrupted, and nothing was changed; go on with the same command", file=sys.stderr)
        return exit_code(stop)
    except loop.Diverged as error:
        print(f"run_lra.py: {error}", file=sys.stderr)
        return 1


def dispatch(arguments) -> int:
    """Evaluate, resume, or start."""
    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: must be at least 1")
    if not 0 <= arguments.replay_budget <= 1e9:
        raise InputError(f"--replay-budget {arguments.replay_budget}: must be a number of MiB, from 0 to 1e9")
    if arguments.seeds is not None and arguments.compare is None:
        raise InputError("--seeds goes with --compare; a single run has one --seed")
    if arguments.tf32 and arguments.backend != "cupy":
        raise InputError("--tf32: backend numpy has no TF32; add --backend cupy, or leave --tf32 out")
    backend.use(arguments.backend)
    machine.keep_freed_memory()
    if arguments.html and not arguments.trace:
        raise InputError("--html goes with --trace; add it")
    if arguments.trace:
        return run_trace(arguments)
    if arguments.compare is not None:
        return run_comparison(arguments)
    if arguments.eval is not None or arguments.resume is not None:
        run = runs.load_run(arguments.eval or arguments.resume)
        check_unchanged(run, arguments)
        choose_precision(run.settings, arguments)
        dataset = load_data(run.settings, arguments)
    else:
        chosen = settings.resolve(
            arguments.task or "listops",
            arguments.preset or "quick",
            arguments.model or "rmaat",
            overrides_of(arguments),
        )
        if arguments.check_data:
            return check_data(chosen, arguments)
        choose_precision(chosen, arguments)
        dataset = load_data(chosen, arguments)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        run = runs.new_run(arguments.out or Path("runs") / f"{chosen.task}-{chosen.model}-{stamp}", chosen, dataset)
    announce(run, arguments)
    if arguments.eval is not None:
        scores = loop.evaluate(run.params, run.cfg, dataset.test, arguments.workers)
        if not math.isfinite(scores["loss"]):
            raise InputError(f"{arguments.eval}: test loss is {scores['loss']}; use an earlier checkpoint of the run")
        print(
            json.dumps(
                {
                    "checkpoint": str(runs.checkpoint_path(arguments.eval)),
                    "step": run.progress.step,
                    "test_accuracy": scores["accuracy"],
                    "test_loss": scores["loss"],
                }
            )
        )
        return 0
    go_on = f"go on with: {options.command('--resume', run.folder, *options.same_place(arguments))}"
    try:
        run_training(run, dataset, arguments)
    except loop.Interrupted as stop:
        print(f"stopped after step {run.progress.step}, saved; {go_on}", file=sys.stderr)
        return exit_code(stop)
    except KeyboardInterrupt as stop:
        if not (run.folder / "last.npz").exists():
            go_on = "there is none yet; start again with the same command"
        print(f"stopped at once, back to the last checkpoint; {go_on}", file=sys.stderr)
        return exit_code(stop)
    except WriteError as error:
        raise WriteError(f"{error}; then {go_on}" if (run.folder / "last.npz").exists() else str(error)) from None
    return 0


def exit_code(stop: BaseException) -> int:
    """What a shell reports of a process that a signal ended; Python's own KeyboardInterrupt names no signal."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def stop_at_once(number, frame):
    """SIGTERM while there is nothing to save: as Ctrl-C."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, stop_at_once)
    sys.exit(main())
