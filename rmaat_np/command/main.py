"""The command's entrance: options, then one action, then an exit code."""

import argparse
import os
import signal
import sys
import warnings

from ..backend import BackendError
from ..errors import InputError
from ..system.terminal import complain
from ..training.divergence import Diverged
from . import actions, options
from .compare import compare
from .signals import exit_code, number_of


def main(argv: list[str] | None = None) -> int:
    """Do what the options say. -> the exit code: 0, 1 diverged, 2 wrong input, 128 + a signal's number

    argv: the options; None: those of this process
    """
    arguments = options.parse_arguments(argv)
    # a number that is not finite is reported with its step and its first array; NumPy's warning would only repeat it
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="rmaat_np")
    try:
        return dispatch(arguments)
    except BrokenPipeError:  # whoever read our lines has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_code(signal.SIGPIPE)
    except (InputError, BackendError, OSError, MemoryError) as error:
        complain(f"run_lra.py: {error}")
        return 2
    except KeyboardInterrupt as stop:
        complain("run_lra.py: interrupted, and nothing was changed; go on with the same command")
        return exit_code(number_of(stop))
    except Diverged as error:
        complain(f"run_lra.py: {actions.explain(error, arguments)}")
        return 1


def dispatch(arguments: argparse.Namespace) -> int:
    """Call the action that the options name. -> its exit code"""
    options.check(arguments)
    if arguments.trace:
        return actions.trace(arguments)
    if arguments.compare is not None:
        return compare(arguments)
    if arguments.eval is not None:
        return actions.evaluate(arguments)
    if arguments.resume is not None:
        return actions.resume(arguments)
    if arguments.check_data:
        return actions.check_data(arguments)
    return actions.train(arguments)
