"""Runs: settings, checkpoints, the loop, and comparisons of several."""

from .divergence import Diverged
from .execution import Execution, activate
from .loop import Interrupted, evaluate, train
from .run import Run, load_run, new_run
from .settings import Settings, TrainConfig, resolve

__all__ = [
    "Diverged",
    "Execution",
    "Interrupted",
    "Run",
    "Settings",
    "TrainConfig",
    "activate",
    "evaluate",
    "load_run",
    "new_run",
    "resolve",
    "train",
]
