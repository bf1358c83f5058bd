"""The tasks' data: one reader a file, all returning a `Dataset` (dataset.py)."""

from pathlib import Path

from .dataset import Dataset


def load_dataset(task: str, options: dict, data_dir: Path, seed: int, shape: dict) -> Dataset:
    """Read or generate a task's three splits.

    options: the preset's data table; shape: the model's fields (the recall probe is cut to them).
    Raises: InputError naming what is missing or wrong.
    """
    if task == "recall":
        from . import recall

        return recall.load(shape["segment_length"], shape["num_segments"], seed)
    raise NotImplementedError(task)
