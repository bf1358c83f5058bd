"""The tasks' data: a reader or a generator each, all returning a `Dataset`."""

from .batches import BatchOrder, read_ahead
from .dataset import Dataset, Split, make_split
from .tasks import TASKS, check_options, load_dataset

__all__ = ["TASKS", "BatchOrder", "Dataset", "Split", "check_options", "load_dataset", "make_split", "read_ahead"]
