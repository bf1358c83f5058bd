"""One training run and its folder: train, evaluate, keep the best, and go on after an interruption.

The folder holds config.json, metrics.jsonl, last.npz, best.npz (best on the validation split), result.json, curve.png.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from . import backend
from .anomaly import find_anomaly, find_operation, first_not_finite
from .checkpoint import check_checkpoint, load_checkpoint, save_checkpoint, write_atomically
from .config import Config, check_field
from .console import command, tell
from .curve import draw_curve
from .data.batches import BatchOrder, read_ahead
from .data.dataset import Dataset, Split
from .errors import InputError
from .folder import append_metrics, make_folder, only_process, remove_leftovers, stop_requests, trim_metrics
from .optim import adamw_init, adamw_step, global_norm, learning_rate
from .params import check_params, count_parameters, init_params
from .replay import loss_and_grads, predict
from .settings import Settings, TrainConfig

EVALUATION_BATCH = 128


class Interrupted(Exception):
    """The run was asked to stop by the signal in args[0]; its state is saved."""


class Diverged(Exception):
    """The loss or a gradient is no longer finite; the message says at which step, and from where to go on."""


@dataclass
class Progress:
    """How far a run has come: steps done, seconds and tokens of training, best validation accuracy and its step.

    validated: the last step whose validation is done, so that a run stopped in the middle of one makes up for it.
    """

    step: int = 0
    validated: int = 0
    seconds: float = 0.0
    tokens: int = 0
    peak_cache_bytes: int = 0
    best_accuracy: float = -1.0
    best_step: int = 0

    def __post_init__(self):
        for f in fields(self):
            check_field(f.name, getattr(self, f.name), f.type)
        if not (0 <= self.validated <= self.step and 0 <= self.best_step <= self.step):
            raise InputError(f"step {self.step}, validated {self.validated}, best_step {self.best_step}: out of order")
        if not (0 <= self.seconds < float("inf") and -1 <= self.best_accuracy <= 1):
            raise InputError(f"seconds {self.seconds}, best_accuracy {self.best_accuracy}: out of range")
        if self.tokens < 0 or self.peak_cache_bytes < 0:
            raise InputError(f"tokens {self.tokens}, peak_cache_bytes {self.peak_cache_bytes}: out of range")


@dataclass
class Run:
    """A run in memory. Data order and dropout masks are functions of seed and step, so this is all its state."""

    folder: Path
    settings: Settings
    cfg: Config
    params: dict
    state: dict
    progress: Progress

    def save(self, name: str) -> None:
        """Write everything to a checkpoint in the run's folder."""
        meta = {"settings": self.settings.to_json(), "config": asdict(self.cfg), "progress": asdict(self.progress)}
        save_checkpoint(self.folder / name, self.params, self.state, meta)


def new_run(folder, settings: Settings, dataset: Dataset) -> Run:
    """Start a run in a new folder. Raises: InputError if the folder already holds a run."""
    folder = Path(folder)
    refuse_to_overwrite(folder)
    cfg = settings.config(dataset)
    params = first_params(cfg, settings.train)
    make_folder(folder)
    return Run(folder, settings, cfg, params, adamw_init(params), Progress())


def first_params(cfg: Config, settings: TrainConfig) -> dict:
    """Drawn from the seed, or those of the checkpoint `init`. Raises: InputError if they do not fit the model."""
    if not settings.init:
        return init_params(cfg, settings.seed, settings.dtype)
    path = checkpoint_path(settings.init)
    params, _, _ = load_checkpoint(path)
    check_params(params, cfg, f"init={path}")
    return {name: array.astype(settings.dtype) for name, array in params.items()}


def refuse_to_overwrite(folder: Path) -> None:
    """Raises: InputError if the folder holds a checkpoint of a run, or a comparison."""
    if (folder / "table.json").exists():
        raise InputError(f"{folder}: holds a comparison; choose another --out")
    for name, resume in {"last.npz": folder, "best.npz": folder / "best.npz"}.items():
        if (folder / name).exists():
            raise InputError(f"{folder}: already holds a run; go on with --resume {resume}, or choose another --out")


def write_config(run: Run) -> None:
    """Write config.json: the settings, the model's Config and the parameter count."""
    record = {"settings": run.settings.to_json(), "config": asdict(run.cfg), "parameters": count_parameters(run.params)}
    write_atomically(run.folder / "config.json", lambda file: file.write(json.dumps(record, indent=1).encode()))


def checkpoint_path(path) -> Path:
    """A run's folder stands for its last checkpoint."""
    path = Path(path)
    return path / "last.npz" if path.is_dir() else path


def load_run(path) -> Run:
    """Read a run back from its folder or from one of its checkpoints. Raises: InputError naming the file."""
    path = checkpoint_path(path)
    if path.parent.is_dir() and path.name == "last.npz" and not path.exists():
        if (path.parent / "table.json").exists():
            raise InputError(f"{path.parent}: a comparison, not a run; the --compare command that began it goes on")
        if (path.parent / "best.npz").exists():
            raise InputError(f"{path}: no such checkpoint; go on with --resume {path.parent / 'best.npz'}")
        raise InputError(f"{path}: no such checkpoint; the run saved none yet, start it with --out {path.parent}")
    params, state, meta = load_checkpoint(path)
    try:
        settings, cfg = Settings.from_json(meta["settings"]), Config(**meta["config"])
        progress = Progress(**{"validated": meta["progress"]["step"]} | meta["progress"])  # absent in older ones
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(
            f"{path}: its settings are not readable ({error}); use another checkpoint of the run"
        ) from None
    check_checkpoint(path, params, state, cfg, settings.train.dtype)
    if progress.step > settings.train.steps:
        raise InputError(f"{path}: is of step {progress.step} of {settings.train.steps}; use another one of the run")
    if not settings.fields.items() <= asdict(cfg).items():
        raise InputError(f"{path}: its settings and its config differ; use another checkpoint of the run")
    return Run(path.parent, settings, cfg, params, state, progress)


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
