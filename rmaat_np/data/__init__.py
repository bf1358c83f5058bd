"""The tasks' data: a reader or a generator each, all returning a `Dataset`."""

from .dataset import Dataset, Split, make_split
from .tasks import TASKS, load_dataset

__all__ = ["TASKS", "Dataset", "Split", "load_dataset", "make_split"]
