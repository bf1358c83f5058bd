"""Training as a program or a notebook calls it: with a bar, and with Ctrl-C as the way to stop and save."""

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from threading import Event

from .. import backend
from ..data.dataset import Dataset
from ..errors import InputError
from ..processor import freed_memory_kept
from ..system.machine import default_workers
from ..system.terminal import progress_bar
from . import loop
from .execution import Execution
from .ranks import launched
from .run import Run

_POLL = 0.2  # seconds between two looks at Ctrl-C, which some systems do not let interrupt a wait


def train(
    run: Run,
    data: Dataset,
    workers: int | None = None,
    *,
    replay_budget: int | None = None,
    report: Callable[[str], object] = loop.ignore,
) -> dict:
    """Train a run to its last step, as the command does, to the same bits. -> what result.json holds

    It shows a progress bar in a terminal and in a notebook. Ctrl-C, or a notebook's stop, saves the state: go on with
    `train(load_run(folder), data)`.

    workers: threads, a shard of the batch each; None: as many as cores; replay_budget: bytes that AMRB may keep per
    worker, None: what a quarter of the free memory pays for; report: told a line of text for every validation, as print
    What was found damaged is told as a Python warning.
    Raises: `rmaat_np.training.Interrupted` after Ctrl-C, with the state saved; `rmaat_np.training.Diverged`, InputError
        and WriteError as `rmaat_np.training.train`.
    """
    if not isinstance(run, Run) or not isinstance(data, Dataset):
        raise InputError(f"train takes a Run and its Dataset, not a {type(run).__name__} and a {type(data).__name__}")
    if launched()[1] > 1:
        raise InputError(
            "a launcher started several processes, but a program trains in one; use the command for several"
        )
    workers = default_workers() if workers is None else workers
    execution = Execution(
        backend=backend.name, workers=workers, replay_budget=replay_budget or 0, auto_budget=replay_budget is None
    )
    stop = Event()
    call = partial(train_with_bar, run, data, execution, stop.is_set, report, partial(warnings.warn, stacklevel=2))
    with backend.one_blas_thread(), freed_memory_kept():
        if sys.gettrace() is not None:  # a debugger watches this thread
            return call()
        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(call)
            try:
                while not wait([training], _POLL).done:
                    pass
            except KeyboardInterrupt:
                stop.set()
            return training.result()


def train_with_bar(
    run: Run,
    data: Dataset,
    execution: Execution,
    should_stop: Callable[[], bool],
    report: Callable[[str], object],
    warn: Callable[[str], object] = loop.ignore,
) -> dict:
    """`loop.train` beside a progress bar. report: told a line of text, above the bar, for every validation"""
    with progress_bar(total=run.settings.train.steps, initial=run.progress.step) as bar:

        def on_step(row: dict) -> None:
            bar.update()
            if row["step"] % 10 == 0:
                bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.2f}", refresh=False)

        return loop.train(run, data, execution, should_stop=should_stop, on_step=on_step, report=report, warn=warn)
