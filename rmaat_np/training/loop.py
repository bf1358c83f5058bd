"""Training: the steps, the validations between them, and the test at the end."""

import json
import sys
import time
from functools import partial

import numpy as np

from .. import backend
from ..command.options import command
from ..config import Config
from ..data.batches import BatchOrder, read_ahead
from ..data.dataset import Dataset, Split
from ..errors import InputError
from ..optim import adamw_step, global_norm, learning_rate
from ..params import count_parameters
from ..step import loss_and_grads, predict
from ..system.files import only_process, write_atomically
from ..system.terminal import tell
from .anomaly import find_anomaly, find_operation, first_not_finite
from .curve import draw_curve
from .folder import append_metrics, remove_leftovers, stop_requests, trim_metrics
from .run import Run, load_run, refuse_to_overwrite, write_config

EVALUATION_BATCH = 128


class Interrupted(Exception):
    """The run was asked to stop by the signal in args[0]; its state is saved."""


class Diverged(Exception):
    """The loss or a gradient is no longer finite; the message says at which step, and from where to go on."""


def evaluate(params, cfg: Config, split: Split, workers: int = 1, stop=()) -> dict:
    """Mean cross-entropy and accuracy over a split, without dropout. -> {"loss", "accuracy"}.

    Raises: Interrupted as soon as `stop` holds a signal.
    """
    order = np.argsort(split.lengths(), kind="stable")  # rows of like length share a batch: less padding
    loss = correct = 0.0
    for start in range(0, len(order), EVALUATION_BATCH):
        if stop:
            raise Interrupted(stop[0])
        tokens, labels = split.batch(order[start : start + EVALUATION_BATCH])
        logits = backend.to_host(predict(params, cfg, tokens, workers)).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        likelihood = logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(axis=1))
        loss -= likelihood.sum()
        correct += (logits.argmax(axis=1) == labels).sum()
    return {"loss": float(loss / len(split)), "accuracy": float(correct / len(split))}


def train(
    run: Run, dataset: Dataset, *, workers: int = 1, replay_budget: int = 0, detect_anomaly: bool = False, bar=None
) -> dict:
    """Train a run to its last step, evaluate it on the test split, and return what result.json holds.

    detect_anomaly: name the operation too when it diverges
    Raises: Interrupted after SIGINT or SIGTERM, with the state saved; Diverged if a number is no longer finite.
    """
    with only_process(run.folder), stop_requests() as stop:
        begin(run)
        try:
            train_steps(run, dataset, (workers, replay_budget, detect_anomaly), stop, bar)
            return finish(run, dataset, workers, stop)
        except Interrupted:
            check_healthy(run)
            run.save("last.npz")
            raise


def begin(run: Run) -> None:
    """Bring the folder to the state of the run, whatever the process before it was killed in the middle of."""
    remove_leftovers(run.folder)
    last, best = run.folder / "last.npz", run.folder / "best.npz"
    if run.progress.step == 0:
        if last.exists() and load_run(last).progress.step > 0:  # another process came first
            refuse_to_overwrite(run.folder)
        run.save("last.npz")  # from here on there is something to go on with
    elif run.progress.best_step == run.progress.step:
        run.save("best.npz")  # a kill may have come between last.npz and best.npz
    elif run.progress.best_step and not best.exists():
        raise InputError(f"{best}: is missing; put it back, or start a new run")
    metrics = run.folder / "metrics.jsonl"
    lost = run.progress.step - trim_metrics(metrics, run.progress.step)
    if lost:
        print(f"{metrics}: the lines of {lost} steps are missing or damaged; going on without them", file=sys.stderr)
    write_config(run)


def train_steps(run: Run, dataset: Dataset, options: tuple, stop, bar) -> None:
    """The steps that are left, and the validations between them; options: of `train_step`. Raises: as `train`."""
    settings, progress = run.settings.train, run.progress
    order = BatchOrder(dataset.train.lengths(), settings.batch_size, settings.seed)
    batches = read_ahead(dataset.train, order, progress.step)
    while True:
        due = progress.step % settings.eval_every == 0 or progress.step == settings.steps
        if due and progress.validated < progress.step:
            validate(run, dataset, options[0], stop, partial(tell, report=print if bar is None else bar.write))
        if stop:
            raise Interrupted(stop[0])
        if progress.step == settings.steps:
            return
        row = train_step(run, *next(batches), *options)
        append_metrics(run.folder / "metrics.jsonl", row)
        if bar is not None:
            bar.update()
            if progress.step % 10 == 0:
                bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.2f}", refresh=False)


def train_step(
    run: Run, tokens, labels, workers: int = 1, replay_budget: int = 0, detect_anomaly: bool = False
) -> dict:
    """One step: gradients and update. Waits for the device once, for the numbers of the metrics row it returns.

    Raises: Diverged before the update, with the state in diverged.npz.
    """
    begun, train, step = time.perf_counter(), run.settings.train, run.progress.step
    compute = partial(
        loss_and_grads,
        *(run.params, run.cfg, tokens, labels, train.method, train.seed, step, workers),
        replay_budget=replay_budget,
    )
    loss, grads, stats = compute()
    norm = global_norm(grads)
    accuracy = backend.xp.asarray(stats["accuracy"], dtype=loss.dtype)
    row = map(float, backend.to_host(backend.xp.stack([loss, accuracy, norm])))
    row = {"step": step + 1} | dict(zip(("loss", "accuracy", "grad_norm"), row, strict=True))
    if not np.isfinite(row["loss"] + row["grad_norm"]):
        raise diverged(run, row, compute, detect_anomaly)
    row["lr"] = learning_rate(step, train.steps, train.lr, train.warmup_steps)
    options = {"weight_decay": train.weight_decay, "clip_norm": train.clip_norm, "norm": norm}
    adamw_step(run.params, grads, run.state, step, row["lr"], **options)
    run.progress.step += 1
    run.progress.seconds += time.perf_counter() - begun
    run.progress.tokens += int(np.count_nonzero(tokens))
    run.progress.peak_cache_bytes = max(run.progress.peak_cache_bytes, int(stats["peak_cache_bytes"]))
    return row


def diverged(run: Run, row: dict, compute, detect_anomaly: bool) -> Diverged:
    """Save the state before this step, and say where its numbers stopped being finite. compute: its loss_and_grads."""
    path = run.folder / "diverged.npz"
    try:
        run.save(path.name)
        saved = f"the state before this step is in {path}"
    except InputError as error:
        saved = f"the state before this step is lost ({error})"
    operation = "" if detect_anomaly else f"; {command('--resume', path, '--detect-anomaly')} names the operation"
    if (name := first_not_finite(run.params)) is not None:
        first, operation = f"parameter {name}, after the update before", ""
    elif (anomaly := find_anomaly(compute)) is None:
        first, operation = "the norm itself, of finite gradients", ""
    else:
        first = str(anomaly)
        if detect_anomaly:
            operation = f"; the operation: {find_operation(compute, anomaly)}"
    return Diverged(
        f"step {row['step']}: loss {row['loss']}, gradient norm {row['grad_norm']}; the first that is not finite: "
        f"{first}{operation}; {saved}; start again with a lower --lr or clip_norm"
    )


def validate(run: Run, dataset: Dataset, workers: int, stop, report) -> None:
    """Evaluate on the validation split, remember the best, save, and tell."""
    progress = run.progress
    scores = evaluate(run.params, run.cfg, dataset.val, workers, stop)
    check_healthy(run, scores["loss"])
    row = {"step": progress.step, "val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}
    append_metrics(run.folder / "metrics.jsonl", row, sync=True)
    progress.validated = progress.step
    if scores["accuracy"] > progress.best_accuracy:
        progress.best_accuracy, progress.best_step = scores["accuracy"], progress.step
    run.save("last.npz")  # first: `begin` can make best.npz from it, but not the other way round
    if progress.best_step == progress.step:
        run.save("best.npz")
    report(f"step {progress.step}: validation loss {scores['loss']:.3f}, accuracy {scores['accuracy']:.3f}")


def check_healthy(run: Run, loss: float = 0.0) -> None:
    """Keep last.npz and best.npz free of what nothing can go on from.

    Raises: Diverged if the validation loss, a parameter or the optimiser's state is not finite.
    """
    arrays = run.params | {f"{moment}/{name}": x for moment, values in run.state.items() for name, x in values.items()}
    name = first_not_finite(arrays)
    if name is not None or not np.isfinite(loss):
        what = f"validation loss {loss}" if name is None else f"{name} is not finite after the update"
        raise Diverged(
            f"step {run.progress.step}: {what}; last.npz holds the state of the last save; "
            "start again with a lower --lr or clip_norm"
        )


def finish(run: Run, dataset: Dataset, workers: int, stop=()) -> dict:
    """Test the best and the last checkpoint; write result.json and curve.png."""
    best_run = load_run(run.folder / "best.npz")
    if best_run.progress.step != run.progress.best_step:
        raise InputError(
            f"{run.folder / 'best.npz'}: is of step {best_run.progress.step}, the best was step "
            f"{run.progress.best_step}; put that one back, or start a new run"
        )
    last = evaluate(run.params, run.cfg, dataset.test, workers, stop)
    best = evaluate(best_run.params, run.cfg, dataset.test, workers, stop)
    shares = np.bincount(dataset.test.labels, minlength=dataset.num_classes) / len(dataset.test)
    progress, settings = run.progress, run.settings
    result = {
        "task": settings.task,
        "model": settings.model,
        "method": settings.train.method,
        "test_accuracy": best["accuracy"],
        "test_accuracy_last": last["accuracy"],
        "val_accuracy": progress.best_accuracy,
        "best_step": progress.best_step,
        "majority_share": float(shares.max()),
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9)),
        "parameters": count_parameters(run.params),
        "peak_cache_bytes": progress.peak_cache_bytes,
        "seed": settings.train.seed,
    }
    write_atomically(run.folder / "result.json", lambda file: file.write(json.dumps(result, indent=1).encode()))
    draw_curve(run.folder)
    return result
