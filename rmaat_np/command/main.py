"""The command's entrance: options, then one action, then an exit code."""

import argparse
import errno
import io
import signal
import sys
import traceback
import warnings
from contextlib import nullcontext

from ..backend import BackendError
from ..errors import InputError, escaped
from ..system.terminal import complain
from ..training.divergence import Diverged
from ..training.ranks import ALONE, MpiRanks, Ranks, check_alike, end_all, give_up, join, launched, wait_for_rank_0
from . import actions, options
from .compare import compare
from .curriculum import curriculum
from .predict import predict
from .signals import exit_code, number_of, stops_answered

_REMEDIES = {  # by the names of errno, for not every platform has all of them
    "EACCES": "make it accessible to this user",
    "EPERM": "make it accessible to this user",
    "EROFS": "choose a place that can be written",
    "ENOSPC": "free space",
    "EDQUOT": "free space",
    "ENOENT": "bring it back, or name another one",
    "ENAMETOOLONG": "choose a shorter name",
    "ELOOP": "its links lead in a circle, mend them",
    "EISDIR": "a folder has that name, move it away",
    "ENOTDIR": "a file stands where a folder is expected, move it away",
    "EMFILE": "too many files are open, raise the limit (ulimit -n)",
    "ENOMEM": "free memory",
}


def main(argv: list[str] | None = None) -> int:
    """Do what the options say.

    -> the exit code: 0; 1 for what diverged, a failed run of a comparison, or a wrong line of a prediction; 2 for wrong
    input; 128 + a signal's number

    argv: the options; None: those of this process. Under mpiexec all ranks end with the same code.
    """
    try:
        with stops_answered(lambda number: end_all(128 + number)) if launched()[1] > 1 else nullcontext():
            ranks = join()
    except InputError as error:
        wait_for_rank_0()  # it says the same and ends all, unless it can be joined
        complain(f"{options.program()}: {error}")
        give_up(2)
        return 2
    return _main_of_rank(argv, ranks) if isinstance(ranks, MpiRanks) else _main(argv, ALONE)


def _main_of_rank(argv: list[str] | None, ranks: MpiRanks) -> int:
    """One rank of several. Rank 0 speaks; another one keeps its lines, and shows them only if it ends the job."""
    streams, kept = (sys.stdout, sys.stderr), io.StringIO()
    if ranks.rank > 0:
        sys.stdout, sys.stderr = None, kept  # type: ignore[assignment]
    try:
        code = _main(argv, ranks)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not kept.getvalue() and ranks.rank > 0:
            complain(f"{_name(ranks)}: ended with exit code {code}")
    except BaseException as error:  # a mistake in this program: the other ranks must not wait for this one
        traceback.print_exc()
        complain(f"{_name(ranks)}: {escaped(repr(error))}, a mistake in this program; the lines above say where")
        code = 1
    sys.stdout, sys.stderr = streams

    def say() -> None:
        if kept.getvalue():
            complain(kept.getvalue().rstrip("\n"))

    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        if code or len(received) > 1:  # all went well on this rank: another one may still have something to write
            say()
            end_all(code or 128 + number)

    with stops_answered(end):
        return ranks.leave(code, say)


def _name(ranks: Ranks) -> str:
    """What a message begins with: the program and, where there are several, the rank."""
    return options.program() + (f", rank {ranks.rank} of {ranks.size}" if ranks.size > 1 else "")


def _main(argv: list[str] | None, ranks: Ranks) -> int:
    """`main` of one process, with what it says of its errors."""
    name = _name(ranks)
    # a number that is not finite is reported with its step and its first array; NumPy's warning would only repeat it
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="rmaat_np")
    try:
        if ranks.size > 1:
            words = sys.argv[1:] if argv is None else argv
            check_alike(ranks, {f"word {place} of the command line": word for place, word in enumerate(words, 1)})
        arguments = options.parse_arguments(argv, ranks)
        return _dispatch(arguments)
    except BrokenPipeError:  # whoever read our lines has seen enough, as `head` does
        return exit_code(getattr(signal, "SIGPIPE", 13))  # Windows has no such signal
    except (InputError, BackendError) as error:
        complain(f"{name}: {error}")
    except OSError as error:
        complain(f"{name}: {explain(error)}")
    except MemoryError as error:
        complain(f"{name}: {str(error) or 'memory is exhausted'}; lower the batch size, or the sizes of the model")
    except KeyboardInterrupt as stop:
        complain(f"{name}: interrupted, and nothing was changed; go on with the same command")
        return exit_code(number_of(stop))
    except Diverged as error:
        complain(f"{name}: {actions.explain(error, arguments)}")
        return 1
    return 2


def explain(error: OSError) -> str:
    """An error of the system in one line: the file, the reason, a remedy."""
    remedy = _REMEDIES.get(errno.errorcode.get(error.errno or 0, ""))
    reason = str(error.strerror or error)
    if isinstance(error.filename, str):
        return escaped(f"{error.filename}: {reason}; {remedy or 'look after the disk that it lies on'}")
    return escaped(f"{reason}; {remedy}" if remedy else reason)


def _dispatch(arguments: argparse.Namespace) -> int:
    """Call the action that the options name. -> its exit code"""
    options.check(arguments)
    if arguments.trace:
        return actions.trace(arguments)
    if arguments.compare is not None:
        return compare(arguments)
    if arguments.curriculum is not None:
        return curriculum(arguments)
    if arguments.eval is not None:
        return actions.evaluate(arguments)
    if arguments.predict is not None:
        return predict(arguments)
    if arguments.resume is not None:
        return actions.resume(arguments)
    if arguments.check_data:
        return actions.check_data(arguments)
    return actions.train(arguments)
