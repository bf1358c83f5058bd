"""Train and evaluate RMAAT and its baselines on the Long Range Arena. `python run_lra.py` trains on short ListOps."""

import os
import signal
import sys

if sys.version_info < (3, 11):  # noqa: UP036 (pip compares versions, python does not)
    print(f"run_lra.py: needs Python 3.11 or newer, this is {sys.version.split()[0]}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the modules are imported just ends the process

# One BLAS thread per worker: the batch is split over workers instead. Must stand before NumPy is imported.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(variable, "1")

from rmaat_np.command.main import main  # noqa: E402
from rmaat_np.command.signals import handle_stops  # noqa: E402


def run() -> int:
    """The command in a process of its own. The installed command `rmaat` is this function. -> the exit code"""
    handle_stops()
    return main()


if __name__ == "__main__":
    sys.exit(run())
