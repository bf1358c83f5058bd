"""The options of run_lra.py, and the commands that a user pastes back."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .. import __version__, params, step
from ..errors import InputError
from ..system.machine import default_workers
from ..system.terminal import Parser, showable
from ..training import settings
from ..training.execution import Execution
from ..training.ranks import ALONE, Ranks, mpiexec

_DESCRIPTION = "Train and evaluate RMAAT and its baselines on the Long Range Arena. Without options: on short ListOps."
SCRIPT = Path(__file__).parents[2] / "run_lra.py"
INSTALLED = "rmaat"  # the command that `pip install` makes; see pyproject.toml
DATA_DIR = Path("data")
AUTO = "auto"  # --replay-budget: as much as free memory pays for
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}  # of --stop-after, in seconds
_SHORTCUTS = ("method", "steps", "batch_size", "lr", "seed", "dtype", "patience")  # options that stand for a --set


def parse_arguments(argv: list[str] | None = None, ranks: Ranks = ALONE) -> argparse.Namespace:
    """The command line, in `words` its words, in `begun` when it was read, in `ranks` the processes that read it.

    argparse refuses what it does not know.
    """
    parser = Parser(prog=program(), description=_DESCRIPTION, allow_abbrev=False)
    _add_training(parser.add_argument_group("what to train"))
    workers = min(ranks.gather(max(1, default_workers() // ranks.on_this_machine)))  # the same on all machines
    _add_computing(parser.add_argument_group("how to compute"), workers)
    _add_files(parser.add_argument_group("where files are"))
    _add_actions(parser.add_argument_group("other things to do"))
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    words = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(words, argparse.Namespace(words=words, begun=time.monotonic(), ranks=ranks))
    for name in ("resume", "eval", "predict", "check_data"):  # argparse's own groups cannot span two headings
        if arguments.out is not None and getattr(arguments, name):
            parser.error(f"argument {option(name)}: not allowed with argument --out")
    return arguments


def program() -> str:
    """What the command is called here: the installed `rmaat`, or the script run_lra.py."""
    return INSTALLED if Path(sys.argv[0]).stem == INSTALLED else SCRIPT.name


def _add_training(group) -> None:
    add = group.add_argument
    add("--task", choices=settings.TASKS, help="default listops")
    add("--preset", type=word, help="sizes and schedule, rmaat_np/training/presets/TASK.toml; default quick")
    add("--model", choices=settings.MODELS, help="default rmaat")
    add("--method", choices=step.METHODS, help="default: the model's own")
    add("--steps", type=int, help="training steps; with --resume: go on to this one, finished or not")
    add("--batch-size", type=int, help="rows per step")
    add("--lr", type=float, help="peak learning rate")
    add("--seed", type=int, help="of parameters, data order and dropout")
    add("--dtype", choices=params.DTYPES, help="of parameters and arithmetic; default float32")
    text = "end training after N validations in a row that brought nothing better; default 0: never"
    add("--patience", type=int, metavar="N", help=text)
    text = "any field of the model, training or data; repeatable"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def _add_computing(group, workers: int) -> None:
    add = group.add_argument
    text = "where arrays live and are computed on; default numpy"
    add("--backend", choices=("numpy", "cupy"), default="numpy", help=text)
    text = "threads, a shard of the batch each; with --compare: runs at a time; default: all cores, under mpiexec "
    text += "a rank's part of them. For small models processes with one worker each are faster (mpiexec, lesson 11)"
    add("--workers", type=int, default=workers, help=text)
    text = "what AMRB may keep per worker: first the memory tokens, then caches, which then need no replay. "
    text += "auto, the default: a quarter of the free memory, shared by all workers; 0: memory tokens alone. "
    text += "With --compare the default is 0, for its table compares the methods' memory. No bit depends on it"
    add("--replay-budget", type=budget, metavar="MiB|auto", help=text)
    text = "compute a batch in K parts, one after another, for large batches in a small memory; default 1"
    add("--accumulate", type=int, default=1, metavar="K", help=text)
    text = "under mpiexec: keep AdamW's state once in the whole job, and not once a rank; a little slower"
    add("--divide-optimiser", action="store_true", help=text)
    add("--tf32", action="store_true", help="round the factors of float32 matrix products to TF32; cupy only")
    text = "save and end after this time, as 90s, 30m, 8h or 1d; it counts from the command's start"
    add("--stop-after", type=duration, metavar="TIME", help=text)
    text = "name the operation when a loss or gradient is not finite"
    add("--detect-anomaly", action="store_true", help=text)


def _add_files(group) -> None:
    add = group.add_argument
    add("--data-dir", type=path, default=DATA_DIR, help="where the task's files are; default data")
    text = "of arrays that are kept for the next run; default DATA_DIR/.rmaat_cache. "
    text += "The files of ListOps source=generated go to DATA_DIR/generated"
    add("--cache-dir", type=path, help=text)
    add("--out", type=path, metavar="DIR", help="a new run's folder; default runs/TASK-MODEL-TIME")


def _add_actions(group) -> None:
    add = group.add_argument
    which = group.add_mutually_exclusive_group()
    text = "go on with a run, from its folder or a checkpoint"
    which.add_argument("--resume", type=path, metavar="DIR|FILE", help=text)
    text = "only evaluate a checkpoint on the test split; of a run's folder, the best one"
    which.add_argument("--eval", type=path, metavar="DIR|FILE", help=text)
    text = "only predict, with a run of task own: a line of JSON for each row of --input"
    which.add_argument("--predict", type=path, metavar="DIR|FILE", help=text)
    text = "with --eval: also write the scores, the confusion matrix and the most certain mistakes into a folder"
    add("--report", type=path, metavar="DIR", help=text)
    text = "only show what was found for the task, or what is missing"
    which.add_argument("--check-data", action="store_true", help=text)
    text = "with --predict: .tsv, .csv, .jsonl, .npz, or a text a line; - is stdin"
    add("--input", type=path, metavar="FILE|-", help=text)
    add("--scores", action="store_true", help="with --predict: the probabilities of all classes")
    text = "only tell one training step line by line, and draw it into OUT/trace.png, by default ./trace.png"
    add("--trace", action="store_true", help=text)
    text = "with --trace: a page to step through, instead of the picture"
    add("--html", type=path, metavar="FILE", help=text)
    text = "train several models, or variants as rmaat+retention=none, into --out, and write a table"
    add("--compare", metavar="MODEL,...", help=text)
    add("--seeds", type=int, metavar="K", help="with --compare: runs of each, with K seeds; default 1")
    text = "train the [[stage]] tables of a TOML file one after another, each from the best checkpoint of the one "
    text += "before, into --out; a stage has steps, any key of --set, and perhaps a preset of its own; --set wins. "
    text += "The same command goes on"
    add("--curriculum", type=path, metavar="FILE", help=text)


def word(text: str) -> str:
    """The type of options that must not be empty, as a shell makes them of a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name one, or leave the option out")
    return text


def duration(text: str) -> float:
    """The type of --stop-after: a number with a unit, or of seconds. -> seconds"""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip(), re.ASCII)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give one above 0, as 90s, 30m, 8h or 1d")
    return seconds


def time_is_up(arguments: argparse.Namespace) -> bool:
    """Has the command run for as long as --stop-after lets it?"""
    return arguments.stop_after is not None and time.monotonic() - arguments.begun >= arguments.stop_after


def budget(text: str) -> float | str:
    """The type of --replay-budget."""
    if text == AUTO:
        return AUTO
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of MiB nor {AUTO}") from None


def path(text: str) -> Path:
    """The type of options that name a file or folder. A shell leaves the ~ of --out=~/x as it is."""
    return Path(os.path.expanduser(word(text)))


def check(arguments: argparse.Namespace) -> None:
    """Refuse values that are out of range, and options that do not go together. Raises: InputError naming them."""
    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: must be at least 1")
    if arguments.accumulate < 1:
        raise InputError(f"--accumulate {arguments.accumulate}: must be at least 1")
    if arguments.replay_budget not in (None, AUTO) and not 0 <= arguments.replay_budget <= 1e9:
        raise InputError(f"--replay-budget {arguments.replay_budget}: must be a number of MiB, from 0 to 1e9")
    if arguments.seeds is not None and arguments.compare is None:
        raise InputError("--seeds goes with --compare; a single run has one --seed")
    if arguments.tf32 and arguments.backend != "cupy":
        raise InputError("--tf32: backend numpy has no TF32; add --backend cupy, or leave --tf32 out")
    if (arguments.input is None) != (arguments.predict is None):
        raise InputError("--predict RUN and --input FILE go together; name both")
    if arguments.scores and arguments.predict is None:
        raise InputError("--scores goes with --predict; add it")
    if arguments.report is not None and arguments.eval is None:
        raise InputError("--report goes with --eval; add --eval and the checkpoint to report on")
    if arguments.stop_after is not None:
        for name in ("eval", "predict", "check_data", "trace"):
            if getattr(arguments, name):
                raise InputError(f"--stop-after goes without {option(name)}; it ends a training")
    if arguments.html and not arguments.trace:
        raise InputError("--html goes with --trace; add it")
    if arguments.divide_optimiser and arguments.ranks.size == 1:
        raise InputError("--divide-optimiser goes with mpiexec; leave it out")
    if arguments.trace:
        if arguments.accumulate > 1:
            raise InputError("--trace goes without --accumulate; it shows one part")
        for name in ("compare", "resume", "eval", "predict", "check_data", "method", "replay_budget", "detect_anomaly"):
            if getattr(arguments, name):
                raise InputError(f"--trace goes without {option(name)}; it shows the first step by both methods")
    for name in ("trace", "compare", "curriculum", "check_data", "predict"):
        if arguments.ranks.size > 1 and getattr(arguments, name):
            raise InputError(f"{option(name)} goes without mpiexec; start one process")
    if arguments.compare is not None:
        for name in ("curriculum", "model", "resume", "eval", "predict", "check_data", "detect_anomaly"):
            if getattr(arguments, name):
                raise InputError(f"--compare goes without {option(name)}; leave it out")
    if arguments.curriculum is not None:
        for name in ("trace", "resume", "eval", "predict", "check_data"):
            if getattr(arguments, name):
                raise InputError(f"--curriculum goes without {option(name)}; leave it out")


def option(name: str) -> str:
    """How an option is written: detect_anomaly -> --detect-anomaly."""
    return f"--{name.replace('_', '-')}"


def overrides_of(arguments: argparse.Namespace) -> dict:
    """Settings named on the command line: the short options, then every --set."""
    given = {name: getattr(arguments, name) for name in _SHORTCUTS if getattr(arguments, name) is not None}
    given |= dict(settings.parse_assignment(text) for text in arguments.set)
    return given | ({"init": os.path.expanduser(given["init"])} if "init" in given else {})


def execution_of(arguments: argparse.Namespace) -> Execution:
    """How to compute. Raises: InputError for options that do not go together."""
    automatic = arguments.replay_budget in (None, AUTO)
    return Execution(
        backend=arguments.backend,
        workers=arguments.workers,
        replay_budget=0 if automatic else int(arguments.replay_budget * 2**20),
        auto_budget=automatic,
        tf32=arguments.tf32,
        detect_anomaly=arguments.detect_anomaly,
        accumulate=arguments.accumulate,
        divide_optimiser=arguments.divide_optimiser,
    )


def same_place(arguments: argparse.Namespace, **changes) -> list[str]:
    """The options that a run needs again to go on as it began, beside those that its checkpoint holds.

    changes: options that are to be others than they were
    """
    given = vars(arguments) | changes
    words = ["--workers", str(given["workers"])]
    for name, default in (
        ("data_dir", DATA_DIR),
        ("cache_dir", None),
        ("backend", "numpy"),
        ("replay_budget", None),
        ("accumulate", 1),
    ):
        if given[name] != default:
            words += [option(name), str(given[name])]
    return words + [option(name) for name in ("divide_optimiser", "tf32") if given[name]]


def command(*words, ranks: Ranks = ALONE) -> str:
    """A call of run_lra.py that one can paste into a shell, in the folder where this process was started."""
    launcher = [mpiexec(), "-n", str(ranks.size)] if ranks.size > 1 else []
    given = [*launcher, *_how_this_was_called(), *map(str, words)]
    return subprocess.list2cmdline(given) if os.name == "nt" else " ".join(map(_quoted, given))


def repeated(words: list[str], out: Path) -> str:
    """This very command, with the folder named, so that it goes on there. words: those of the command line"""
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words = [*words, "--out", str(out)]
    return command(*words)


def _how_this_was_called() -> list[str]:
    """The interpreter with its own options, and the script: as the user wrote them where that means the same again.

    Called from Python, as in a notebook, the command line of the process is not ours.
    """
    if program() == INSTALLED:
        found = shutil.which(INSTALLED)
        return [INSTALLED if found and os.path.samefile(found, sys.argv[0]) else sys.argv[0]]
    before, ours = sys.orig_argv[: -len(sys.argv)], sys.orig_argv[-len(sys.argv) :] == sys.argv
    if before and ours and os.path.exists(sys.argv[0]) and SCRIPT.exists() and os.path.samefile(sys.argv[0], SCRIPT):
        found = shutil.which(before[0])
        same = found is not None and os.path.abspath(found) == os.path.abspath(sys.executable)
        return [before[0] if same else sys.executable, *before[1:], sys.argv[0]]
    return [sys.executable, os.path.relpath(SCRIPT) if SCRIPT.is_relative_to(Path.cwd()) else str(SCRIPT)]


def _quoted(word: str) -> str:
    """A word as a POSIX shell reads it; what the terminal cannot show is escaped in a way that bash and zsh read."""
    if word.isprintable() and showable(word, sys.stdout) == word:
        return shlex.quote(word)
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(plain)}'"
