"""The options of run_lra.py, and the commands that a user pastes back."""

import argparse
import shlex
from pathlib import Path

from .. import params, step
from ..system.machine import default_workers
from ..system.terminal import Parser
from ..training import settings

DESCRIPTION = "Train and evaluate RMAAT and its baselines on the Long Range Arena. Without options: on short ListOps."


def parse_arguments(argv=None) -> argparse.Namespace:
    """The command line; argparse refuses unknown options with exit code 2."""
    parser = Parser(prog="run_lra.py", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--task", choices=settings.TASKS, help="default listops")
    parser.add_argument(
        "--preset", type=word, help="sizes and schedule, rmaat_np/training/presets/TASK.toml; default quick"
    )
    parser.add_argument("--model", choices=settings.MODELS, help="default rmaat")
    parser.add_argument(
        "--backend", choices=("numpy", "cupy"), default="numpy", help="where arrays live and are computed on"
    )
    parser.add_argument("--dtype", choices=params.DTYPES, help="of parameters and arithmetic; default float32")
    parser.add_argument("--tf32", action="store_true", help="round float32 matrix products to TF32, with cupy only")
    parser.add_argument("--method", choices=step.METHODS, help="default: the model's own")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--batch-size", type=int, help="rows per step")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, help="of parameters, data order and dropout")
    parser.add_argument("--data-dir", type=path, default=Path("data"), help="where the task's files are; default data")
    parser.add_argument(
        "--cache-dir",
        type=path,
        help="of arrays that are kept for the next run; default DATA_DIR/.rmaat_cache. "
        "The files of ListOps source=generated go to DATA_DIR/generated",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--out", type=path, metavar="DIR", help="a new run's folder; default runs/TASK-MODEL-TIME")
    which.add_argument(
        "--resume", type=path, metavar="DIR|FILE", help="go on with a run, from its folder or a checkpoint"
    )
    which.add_argument("--eval", type=path, metavar="FILE", help="only evaluate a checkpoint on the test split")
    which.add_argument(
        "--check-data", action="store_true", help="only show what was found for the task, or what is missing"
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="only tell one training step line by line, and draw it into OUT/trace.png, by default ./trace.png",
    )
    parser.add_argument(
        "--html", type=path, metavar="FILE", help="with --trace: a page to step through, instead of the picture"
    )
    parser.add_argument(
        "--compare",
        metavar="MODEL,...",
        help="train several models, or variants as rmaat+retention=none, into --out, and write a table",
    )
    parser.add_argument("--seeds", type=int, metavar="K", help="with --compare: runs of each, with K seeds; default 1")
    parser.add_argument("--workers", type=int, default=default_workers(), help="threads, a shard of the batch each")
    parser.add_argument(
        "--replay-budget",
        type=float,
        default=0,
        metavar="MiB",
        help="what AMRB may keep per worker; beyond the memory tokens, caches that it need not replay then",
    )
    parser.add_argument(
        "--detect-anomaly", action="store_true", help="name the operation when a loss or gradient is not finite"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any field of the model, training or data; repeatable",
    )
    return parser.parse_args(argv)


def word(text: str) -> str:
    """The type of options that must not be empty, as a shell makes them of a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name one, or leave the option out")
    return text


def path(text: str) -> Path:
    """The type of options that name a file or folder."""
    return Path(word(text))


def same_place(arguments) -> list[str]:
    """The options that a run needs again to go on as it began, beside those that its checkpoint holds."""
    words = ["--workers", str(arguments.workers)]
    for name, default in (("data_dir", Path("data")), ("cache_dir", None), ("backend", "numpy"), ("replay_budget", 0)):
        if getattr(arguments, name) != default:
            words += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return words + ["--tf32"] * arguments.tf32


def command(*words) -> str:
    """A call of run_lra.py as one pastes it into a shell."""
    return "python run_lra.py " + shlex.join(map(str, words))
