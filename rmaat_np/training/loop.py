"""Training: the steps, the validations between them, and the test at the end.

The loop runs in any thread. It installs no signal handler and prints nothing: the caller is asked whether to stop, and
is told what happens.
"""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..config import Config
from ..data.batches import BatchOrder, read_ahead
from ..data.dataset import Dataset, Split
from ..errors import InputError
from ..optim import adamw_step, global_norm, learning_rate
from ..params import count_parameters
from ..step import loss_and_grads, predict
from ..system import machine
from ..system.files import only_process, write_text
from ..system.terminal import spoken_time
from .divergence import Diverged, diverged, first_not_finite
from .execution import DEFAULT, FREE_SHARE, Execution, with_budget
from .inputs import check_codec, check_dataset, check_same, fingerprint
from .longer import read_longer
from .metrics import append_metrics, draw_curve, trim_metrics
from .ranks import ALONE, Ranks
from .run import Run, load_run, refuse_to_overwrite, remove_leftovers, shared, steps_in_config, write_config
from .scores import Predictions, balanced_weights, class_names, judge, to_json
from .validation import note_validation, seconds_left, stopped_early

EVALUATION_BATCH = 128  # rows
EVALUATION_TOKENS = 2**24  # of a batch, padding included: 64 MiB; a single longer row is a batch of its own


class Interrupted(Exception):
    """The caller asked to stop.

    step: how many steps are done; folder: where the state after them is saved, to go on with; None for an evaluation
    alone, of which nothing is kept.
    """

    def __init__(self, step: int | None = None, folder: Path | None = None):
        super().__init__(step, folder)
        self.step, self.folder = step, folder

    def __str__(self) -> str:
        return "stopped" if self.step is None else f"stopped after step {self.step}, saved in {self.folder}"


def never() -> bool:
    """A `should_stop` that never asks to stop."""
    return False


def ignore(_: object) -> None:
    """A listener for those who want to hear nothing."""


def evaluate(
    params: dict,
    cfg: Config,
    split: Split,
    workers: int = 1,
    should_stop: Callable[[], bool] = never,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Mean cross-entropy, accuracy and macro-F1 over a split, without dropout and without weights of classes.

    should_stop: asked before every batch, on all ranks with the same answer
    ranks: each computes whole batches; their results are added in the order of the batches, as one process adds them
    -> {"loss", "accuracy", "macro_f1", "predictions"}; the last are those of every row, which `scores.judge` reads
    Raises: Interrupted if should_stop says so.
    """
    lengths = split.lengths()
    order = np.argsort(lengths, kind="stable")  # rows of like length share a batch: less padding
    size = min(EVALUATION_BATCH, max(1, EVALUATION_TOKENS // (split.documents * int(lengths.max()))))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    loss, predicted = 0.0, np.empty(len(split), np.int64)
    confidence, squared_errors = np.empty((2, len(split)))
    for first in range(0, len(batches), ranks.size):
        if should_stop():
            raise Interrupted
        mine = batches[first + ranks.rank : first + ranks.rank + 1]  # one; at the end perhaps none
        found = ranks.gather([_judge_batch(params, cfg, *split.batch(rows), workers) for rows in mine])
        for rows, (batch_loss, *columns) in zip(batches[first:], chain.from_iterable(found), strict=False):
            loss += batch_loss
            predicted[rows], confidence[rows], squared_errors[rows] = columns
    whole = Predictions(cfg.num_classes, float(loss / len(split)), split.labels, predicted, confidence, squared_errors)
    return {"loss": whole.loss, "accuracy": whole.accuracy, "macro_f1": whole.macro_f1, "predictions": whole}


def _judge_batch(params: dict, cfg: Config, tokens: np.ndarray, labels: np.ndarray, workers: int) -> tuple:
    """-> the sum of the rows' cross-entropies; of each row the predicted class, its probability, the squared error"""
    logits = backend.to_host(predict(params, cfg, tokens, workers)).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    exp, own = np.exp(logits), (np.arange(len(labels)), labels)
    total = exp.sum(axis=1)
    loss = -(logits[own] - np.log(total)).sum()
    probabilities = exp / total[:, None]
    predicted, confidence = logits.argmax(axis=1), probabilities.max(axis=1)
    probabilities[own] -= 1
    return loss, predicted, confidence, (probabilities**2).sum(axis=1)


def train(
    run: Run,
    dataset: Dataset,
    execution: Execution = DEFAULT,
    *,
    should_stop: Callable[[], bool] = never,
    on_step: Callable[[dict], object] = ignore,
    report: Callable[[str], object] = ignore,
    warn: Callable[[str], object] = ignore,
) -> dict:
    """Train a run to its last step, test it, write result.json and curve.png. -> what result.json holds

    With `patience`, a run ends before its last step once that many validations in a row brought nothing better.
    should_stop: asked once a step, and between the batches of an evaluation; on_step: told every step's line of
    metrics; report: told a line of text for every validation, before them of an automatic replay budget, and at the end
    of longer test rows; warn: told a line about what was found damaged or changed
    A run with several ranks is trained by all of them in the same call, and rank 0 alone writes.
    Raises: Interrupted if should_stop says so, with the state saved; Diverged if a number is no longer finite;
        InputError for data that the model cannot read, or that are others than those that the run began with, and for
        an execution that is not active; WriteError if a file cannot be written.
    """
    if execution.backend != backend.name:
        raise InputError(f"execution has backend {execution.backend}, but {backend.name} computes; activate it first")
    execution.check_dtype(run.settings.train.dtype)
    check_dataset(dataset, run.cfg)
    check_codec(run.codec, dataset, run.folder)
    found = fingerprint(dataset)
    check_same(run.data, found, run.folder)
    run.data = found
    should_stop = partial(_agree, run.ranks, should_stop)
    _note_division(run, execution, warn)
    execution = _decide_budget(run, execution, report)
    with ExitStack() as stack:
        lost = run.ranks.from_first(partial(_take_over, run, stack))
        if execution.divide_optimiser:
            run.divide_state()
        if lost:
            metrics = run.folder / "metrics.jsonl"
            warn(f"{metrics}: the lines of {lost} steps are missing or damaged; going on without them")
        first = run.progress.step

        def test(params: dict, cfg: Config, split: Split) -> dict:
            return evaluate(params, cfg, split, execution.workers, should_stop, run.ranks)

        try:
            with machine.PeakMemory(device=backend.name == "cupy") as memory:
                _train_steps(run, dataset, execution, should_stop, on_step, report)
                best = _best_of(run)
                result = _test_run(run, best, dataset, test)
            if dataset.longer:
                result["longer"] = read_longer(best.params, best.cfg, dataset, test, report, warn)
            trained = run.progress.step - first
            peak = memory.peak if trained > 1 else None
            return finish(run, result | measurements(run, trained, peak, execution.replay_budget))
        except Interrupted:
            _check_healthy(run)
            run.save("last.npz")
            raise Interrupted(run.progress.step, run.folder) from None


def _agree(ranks: Ranks, should_stop: Callable[[], bool]) -> bool:
    """Does should_stop ask any rank to stop? All ranks get the same answer, and so they stop after the same step."""
    return ranks.any(should_stop())


def _note_division(run: Run, execution: Execution, warn: Callable) -> None:
    """Say if the run's batches were divided otherwise before, and keep how they are divided from here on.

    Of a process that always trained alone, in one part, another number of workers is no news.
    """
    now = {"ranks": run.ranks.size, "workers": execution.workers, "accumulate": execution.accumulate}
    before, run.divided = run.divided, now
    several = any(division["ranks"] * division["accumulate"] > 1 for division in (before, now) if division)
    if before and before != now and several:
        told = [", ".join(f"{name} {count}" for name, count in division.items()) for division in (before, now)]
        warn(f"{run.folder}: was computed with {told[0]}, goes on with {told[1]}; equal but for rounding")


def _decide_budget(run: Run, execution: Execution, report: Callable) -> Execution:
    """Let free memory decide an automatic replay budget, where there is something to replay, and tell it."""
    if not execution.auto_budget or run.settings.train.method != "amrb" or run.cfg.num_segments == 1:
        return replace(execution, auto_budget=False)
    execution = with_budget(execution, run.ranks)
    if execution.replay_budget >= 2**20:
        report(
            f"each worker may keep caches of {execution.replay_budget / 2**20:,.0f} MiB, which need no replay; all "
            f"together 1/{FREE_SHARE} of the free memory"
        )
    return execution


def _take_over(run: Run, stack: ExitStack) -> int:
    """Lock the run's folder until `stack` is closed, then as `begin`."""
    stack.enter_context(only_process(run.folder))
    return begin(run)


def begin(run: Run) -> int:
    """Bring the folder to the state of the run, at whatever moment the process before this one was killed.

    -> how many steps before this one have no line of metrics
    Raises: InputError if best.npz is missing, if another process began a run in this folder, or if a checkpoint of the
        run could not be read back.
    """
    run.check_saveable()  # before anything is computed or written
    remove_leftovers(run.folder)
    last, best = run.folder / "last.npz", run.folder / "best.npz"
    if run.progress.step == 0:
        if last.exists() and load_run(last).progress.step > 0:  # another process came first
            refuse_to_overwrite(run.folder)
        run.write("last.npz")  # from here on there is something to go on with
    elif run.progress.best_step == run.progress.step:
        run.write("best.npz")  # a kill may have come between last.npz and best.npz
    elif run.progress.best_step and not best.exists():
        raise InputError(f"{best}: is missing; put it back, or start a new run")
    if steps_in_config(run.folder) not in (None, run.settings.train.steps):  # the run is longer than it was
        (run.folder / "result.json").unlink(missing_ok=True)
        run.write("last.npz")
    lost = run.progress.step - trim_metrics(run.folder / "metrics.jsonl", run.progress.step)
    write_config(run)
    return lost


def _train_steps(
    run: Run, dataset: Dataset, execution: Execution, should_stop: Callable, on_step: Callable, report: Callable
) -> None:
    """The steps that are left, and the validations between them. Arguments and errors as of `train`."""
    settings, progress, labels = run.settings.train, run.progress, dataset.train.labels
    class_weights = balanced_weights(labels, run.cfg.num_classes) if settings.class_weights == "balanced" else None
    order = BatchOrder(dataset.train.lengths(), settings.batch_size, settings.seed, settings.growing_steps)
    # closed at once: its thread ends here, and not in the middle of whatever the garbage collector interrupts later
    with closing(read_ahead(dataset.train, order, progress.step)) as batches:
        while True:
            due = progress.step % settings.eval_every == 0 or progress.step == settings.steps
            if due and progress.validated < progress.step:
                validate(run, dataset, execution.workers, should_stop, report)
            if should_stop():
                raise Interrupted
            if progress.step == settings.steps or stopped_early(progress, settings):
                return
            tokens, labels = next(batches)
            row = train_step(run, tokens, labels, execution, class_weights)
            if run.ranks.rank == 0:
                append_metrics(run.folder / "metrics.jsonl", row)
            on_step(row)


def train_step(
    run: Run, tokens: np.ndarray, labels: np.ndarray, execution: Execution, class_weights: np.ndarray | None = None
) -> dict:
    """One step: gradients and update. A rank waits for its device once. -> the step's line of metrics

    Shapes: tokens, labels as from `Split.batch`; class_weights (C,), by which the line's loss is weighted too, or None
    Raises: Diverged before the update, with the state in diverged.npz.
    """
    begun, train, step = time.perf_counter(), run.settings.train, run.progress.step
    batch = tokens, labels, train.method, train.seed, step
    compute = partial(loss_and_grads, run.params, run.cfg, *batch, class_weights=class_weights)
    ways = {name: getattr(execution, name) for name in ("workers", "replay_budget", "accumulate")}
    loss, grads, stats = compute(**ways, share=run.ranks.share)
    norm = global_norm(grads)
    accuracy = backend.xp.asarray(stats["accuracy"], dtype=loss.dtype)
    numbers = list(map(float, backend.to_host(backend.xp.stack([loss, accuracy, norm]))))
    if run.ranks.size > 1:  # the norm of another machine's BLAS may differ in its last bit
        numbers = run.ranks.broadcast(numbers)
        norm = backend.xp.asarray(numbers[-1], dtype=norm.dtype)
    row = {"step": step + 1} | dict(zip(("loss", "accuracy", "grad_norm"), numbers, strict=True))
    if not np.isfinite(row["loss"] + row["grad_norm"]):
        raise diverged(run, row, grads, compute if execution.detect_anomaly else None)
    row["lr"] = learning_rate(step, train.steps, train.lr, train.warmup_steps)
    options = {"weight_decay": train.weight_decay, "clip_norm": train.clip_norm, "norm": norm}
    if run.state_divided:
        adamw_step(run.ranks.own(run.params), run.ranks.own(grads), run.state, step, row["lr"], **options)
        run.ranks.complete(run.params)
    else:
        adamw_step(run.params, grads, run.state, step, row["lr"], **options)
    run.progress.step += 1
    row["seconds"] = round(time.perf_counter() - begun, 6)
    run.progress.seconds += row["seconds"]
    run.progress.tokens += int(np.count_nonzero(tokens))
    run.progress.peak_cache_bytes = max(run.progress.peak_cache_bytes, int(stats["peak_cache_bytes"]))
    return row


def validate(run: Run, dataset: Dataset, workers: int, should_stop: Callable, report: Callable) -> None:
    """Evaluate on the validation split, remember the best, save, and report."""
    begun, progress, train = time.perf_counter(), run.progress, run.settings.train
    scores = evaluate(run.params, run.cfg, dataset.val, workers, should_stop, run.ranks)
    _check_healthy(run, scores["loss"])
    row = {"step": progress.step} | {f"val_{name}": scores[name] for name in ("loss", "accuracy", "macro_f1")}
    seconds = time.perf_counter() - begun
    left = seconds_left(progress, train, seconds)
    row |= {"seconds": round(seconds, 6), "remaining": round(left, 3)}
    if run.ranks.rank == 0:
        append_metrics(run.folder / "metrics.jsonl", row, sync=True)
    note_validation(progress, scores, train)
    run.save("last.npz")  # first: `begin` can make best.npz from it, but not the other way round
    if progress.best_step == progress.step:
        run.save("best.npz")
    shown = f"validation loss {scores['loss']:.3f}, accuracy {scores['accuracy']:.3f}"
    shown += f", macro F1 {scores['macro_f1']:.3f}" if train.select == "macro_f1" else ""
    if stopped_early(progress, train):
        shown += f"; none of the last {progress.stale} was better than step {progress.best_step}, so training ends"
    elif progress.step < train.steps:
        shown += f", about {spoken_time(left)} left"
    report(f"step {progress.step}: {shown}")


def _check_healthy(run: Run, val_loss: float = 0.0) -> None:
    """Keep last.npz and best.npz free of states that nothing can go on from.

    Raises: Diverged if the validation loss, a parameter or the optimiser's state is not finite.
    """
    arrays = run.params | {f"{moment}/{name}": x for moment, values in run.state.items() for name, x in values.items()}
    name = next(filter(None, run.ranks.gather(first_not_finite(arrays))), None)  # each rank has its part of the state
    if name is not None or not np.isfinite(val_loss):
        first = f"validation loss {val_loss}" if name is None else f"{name}, after the update"
        kept = "last.npz holds the state of the last save"
        raise Diverged(run.progress.step, None, None, first, None, None, kept, repeatable=False)


def _best_of(run: Run) -> Run:
    """The best checkpoint of a run. Raises: InputError if best.npz is of another step than the run's best."""
    best = shared(run.ranks, lambda: load_run(run.folder / "best.npz"))
    if best.progress.step != run.progress.best_step:
        raise InputError(
            f"{run.folder / 'best.npz'}: is of step {best.progress.step}, the best was step "
            f"{run.progress.best_step}; put that one back, or start a new run"
        )
    return best


def _test_run(run: Run, best_run: Run, dataset: Dataset, test: Callable) -> dict:
    """Evaluate the best and the last checkpoint on the test split. -> what there is to say about the finished run

    test: (params, cfg, split) -> scores, as `evaluate`. Raises: Interrupted if it was stopped.
    """
    last = test(run.params, run.cfg, dataset.test)
    best = test(best_run.params, run.cfg, dataset.test)
    shares = np.bincount(dataset.test.labels, minlength=dataset.num_classes) / len(dataset.test)
    progress, settings = run.progress, run.settings
    return {
        "task": settings.task,
        "model": settings.model,
        "method": settings.train.method,
        "test_accuracy": best["accuracy"],
        "test_accuracy_last": last["accuracy"],
        "val_accuracy": progress.best_accuracy,
        "best_step": progress.best_step,
        "majority_share": float(shares.max()),
        "steps": progress.step,
        "stopped_early": stopped_early(progress, settings.train),
        "seconds": round(progress.seconds, 1),
        "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9)),
        "parameters": count_parameters(run.params),
        "peak_cache_bytes": progress.peak_cache_bytes,
        "seed": settings.train.seed,
        "test": judge(best["predictions"], class_names(dataset)),  # of the best checkpoint
    }


def measurements(run: Run, trained: int, peak: int | None, replay_budget: int) -> dict:
    """What a comparison shows beside the accuracy; of a run that was finished before, what was measured then.

    trained: steps that this process has done; peak: bytes that it needed for them, None if that is unknown
    """
    measured = {
        "seconds_per_step": run.progress.seconds / run.progress.step,
        "peak_memory_bytes": peak,
        "replay_budget_bytes": replay_budget,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine.describe(),
    }
    if trained == 0:
        with suppress(OSError, ValueError, TypeError, RecursionError):
            before = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
            measured |= {name: before[name] for name in measured if name in before}
    return measured


def finish(run: Run, result: dict) -> dict:
    """Write result.json, and the picture curve.png if it can be drawn. -> the result"""
    if run.ranks.rank == 0:
        write_text(run.folder / "result.json", to_json(result))
        draw_curve(run.folder)
    return result
