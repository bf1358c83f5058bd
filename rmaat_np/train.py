"""One training run and its folder: train, evaluate, keep the best, and go on after an interruption.

The folder holds config.json, metrics.jsonl, last.npz, best.npz (best on the validation split), result.json, curve.png.
"""

import fcntl
import json
import signal
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import backend
from .checkpoint import check_checkpoint, load_checkpoint, save_checkpoint, write_atomically
from .config import Config
from .curve import draw_curve
from .data.batches import BatchOrder, read_ahead
from .data.dataset import Dataset, Split
from .errors import InputError
from .optim import adamw_init, adamw_step, learning_rate
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
    """How far a run has come: steps done, seconds and tokens of training, best validation accuracy and its step."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    peak_cache_bytes: int = 0
    best_accuracy: float = -1.0
    best_step: int = 0


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
    if (folder / "last.npz").exists():
        raise InputError(f"{folder}: already holds a run; go on with --resume {folder}, or choose another --out")
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


def write_config(run: Run) -> None:
    """Write config.json: the settings, the model's Config and the parameter count."""
    record = {"settings": run.settings.to_json(), "config": asdict(run.cfg), "parameters": count_parameters(run.params)}
    write_atomically(run.folder / "config.json", lambda file: file.write(json.dumps(record, indent=1).encode()))


def make_folder(folder: Path) -> None:
    """Create a run's folder. Raises: InputError naming it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be created ({error.strerror}); choose another folder") from None


def checkpoint_path(path) -> Path:
    """A run's folder stands for its last checkpoint."""
    path = Path(path)
    return path / "last.npz" if path.is_dir() else path


def load_run(path) -> Run:
    """Read a run back from its folder or from one of its checkpoints. Raises: InputError naming the file."""
    path = checkpoint_path(path)
    params, state, meta = load_checkpoint(path)
    try:
        settings, cfg = Settings.from_json(meta["settings"]), Config(**meta["config"])
        progress = Progress(**meta["progress"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(
            f"{path}: its settings are not readable ({error}); use another checkpoint of the run"
        ) from None
    check_checkpoint(path, params, state, cfg)
    return Run(path.parent, settings, cfg, params, state, progress)


def evaluate(params, cfg: Config, split: Split, workers: int = 1) -> dict:
    """Mean cross-entropy and accuracy over a split, without dropout. -> {"loss", "accuracy"}."""
    order = np.argsort(split.lengths(), kind="stable")  # rows of like length share a batch: less padding
    loss = correct = 0.0
    for start in range(0, len(order), EVALUATION_BATCH):
        tokens, labels = split.batch(order[start : start + EVALUATION_BATCH])
        logits = backend.to_host(predict(params, cfg, tokens, workers)).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        likelihood = logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(axis=1))
        loss -= likelihood.sum()
        correct += (logits.argmax(axis=1) == labels).sum()
    return {"loss": float(loss / len(split)), "accuracy": float(correct / len(split))}


def train(run: Run, dataset: Dataset, *, workers: int = 1, replay_budget: int = 0, bar=None) -> dict:
    """Train a run to its last step, evaluate it on the test split, and return what result.json holds.

    Raises: Interrupted after SIGINT or SIGTERM, with the state saved; Diverged if a number is no longer finite.
    """
    order = BatchOrder(dataset.train.lengths(), run.settings.train.batch_size, run.settings.train.seed)
    if run.progress.best_step and not (run.folder / "best.npz").exists():
        raise InputError(f"{run.folder / 'best.npz'}: is missing; put it back, or start a new run")
    with only_process(run.folder), stop_requests() as stop, open_metrics(run) as metrics:
        write_config(run)
        batches = read_ahead(dataset.train, order, run.progress.step)
        while run.progress.step < run.settings.train.steps:
            row = train_step(run, *next(batches), workers, replay_budget)
            metrics.write(json.dumps(row) + "\n")
            if bar is not None:
                bar.update()
                if run.progress.step % 10 == 0:
                    bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.2f}", refresh=False)
            done = run.progress.step
            if done % run.settings.train.eval_every == 0 or done == run.settings.train.steps:
                validate(run, dataset, workers, metrics, print if bar is None else bar.write)
            if stop:
                metrics.flush()
                run.save("last.npz")
                raise Interrupted(stop[0])
        return finish(run, dataset, workers)


def train_step(run: Run, tokens, labels, workers: int, replay_budget: int) -> dict:
    """One step: gradients and update. Waits for the device once, for the numbers of the metrics row it returns."""
    begun, train, step = time.perf_counter(), run.settings.train, run.progress.step
    loss, grads, stats = loss_and_grads(
        run.params, run.cfg, tokens, labels, train.method, train.seed, step, workers, replay_budget=replay_budget
    )
    lr = learning_rate(step, train.steps, train.lr, train.warmup_steps)
    norm = adamw_step(
        run.params, grads, run.state, step, lr, weight_decay=train.weight_decay, clip_norm=train.clip_norm
    )
    accuracy = backend.xp.asarray(stats["accuracy"], dtype=loss.dtype)
    loss, accuracy, norm = map(float, backend.to_host(backend.xp.stack([loss, accuracy, norm])))
    if not np.isfinite(loss + norm):
        raise Diverged(f"step {step}: loss {loss}, gradient norm {norm}; start again with a lower --lr or clip_norm")
    run.progress.step += 1
    run.progress.seconds += time.perf_counter() - begun
    run.progress.tokens += int(np.count_nonzero(tokens))
    run.progress.peak_cache_bytes = max(run.progress.peak_cache_bytes, int(stats["peak_cache_bytes"]))
    return {"step": step + 1, "loss": loss, "accuracy": accuracy, "grad_norm": norm, "lr": lr}


def validate(run: Run, dataset: Dataset, workers: int, metrics, report) -> None:
    """Evaluate on the validation split, remember the best, save, and tell."""
    scores = evaluate(run.params, run.cfg, dataset.val, workers)
    metrics.write(
        json.dumps({"step": run.progress.step, "val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}) + "\n"
    )
    metrics.flush()
    report(f"step {run.progress.step}: validation loss {scores['loss']:.3f}, accuracy {scores['accuracy']:.3f}")
    if scores["accuracy"] > run.progress.best_accuracy:
        run.progress.best_accuracy, run.progress.best_step = scores["accuracy"], run.progress.step
        run.save("best.npz")
    run.save("last.npz")


def finish(run: Run, dataset: Dataset, workers: int) -> dict:
    """Test the best and the last checkpoint; write result.json and curve.png."""
    last = evaluate(run.params, run.cfg, dataset.test, workers)
    best_params, _, _ = load_checkpoint(run.folder / "best.npz")
    best = evaluate(best_params, run.cfg, dataset.test, workers)
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


@contextmanager
def open_metrics(run: Run):
    """metrics.jsonl, open for appending, after dropping the lines of steps that the checkpoint does not include."""
    path = run.folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= run.progress.step]
    write_atomically(path, lambda file: file.write("".join(line + "\n" for line in kept).encode()))
    with open(path, "a") as file:
        yield file


def _step_of(line):
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a line cut off by a kill
        return float("inf")


@contextmanager
def only_process(folder: Path):
    """Hold the run's folder. Raises: InputError if another process trains in it."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder}: another process trains in this folder; wait for it or choose another --out"
            ) from None
        yield


@contextmanager
def stop_requests():
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one stops at once."""
    received = []

    def remember(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
