"""The tasks' data: one reader a file, all returning a `Dataset` (dataset.py)."""

from importlib import import_module
from pathlib import Path

from ..errors import InputError
from .dataset import Dataset


def load_dataset(task: str, options: dict, data_dir: Path, cache_dir=None) -> Dataset:
    """Read or generate a task's three splits, with seed 0 whatever the run's own: runs are compared on the same rows.

    options: the preset's data table
    cache_dir: of tokenised and generated arrays, by default data_dir/.rmaat_cache
    Raises: InputError naming what is missing or wrong.
    """
    reader = import_module(f".{task}", __name__)
    source = options.get("source", "files")
    if task == "recall":
        return reader.load(**options)
    if task == "listops" and source == "short":
        limits = {key: options[key] for key in ("min_length", "max_length", "max_depth", "max_args")}
        rows = (options["train_rows"], 1_000, 2_000)
        return reader.load_short(cache_dir or data_dir / ".rmaat_cache", rows=rows, **limits)
    if task == "pathfinder":
        if source == "generated":
            from .pathfinder_generator import generate_dataset

            folder = cache_dir or data_dir / ".rmaat_cache"
            return generate_dataset(folder, difficulty=options["difficulty"], count=options["images"])
        if source == "files":
            return reader.load(data_dir, difficulty=options["difficulty"], cache_dir=cache_dir)
    if task == "listops" and source == "generated":
        cache_dir, data_dir = cache_dir or data_dir / ".rmaat_cache", data_dir / reader.GENERATED
        if not (data_dir / "listops-1000").exists():
            reader.generate_lra(data_dir)
        source = "files"
    if source != "files":
        raise InputError(f"--set source={source}: unknown for {task}; see rmaat_np/presets/{task}.toml")
    return reader.load(data_dir, max_length=options.get("max_length"), cache_dir=cache_dir)
