"""The tasks, in one table: how each is loaded, which files it takes, and how a row is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from . import image, listops, listops_generator, pathfinder, pathfinder_generator, recall, retrieval, text
from .archive import locate
from .dataset import Dataset

CACHE = ".rmaat_cache"  # the folder for stored arrays below DATA_DIR, unless --cache-dir names another


@dataclass(frozen=True)
class Task:
    """What a task needs.

    load(options, data_dir, cache_dir): its Dataset; options: the preset's data table; cache_dir may be None
    found(options, data_dir): the files or the folder that load would read; empty for data that are drawn
    expected: the files that a user must provide, as a tree; empty if there are none
    as_text: True when a row reads as text, False when it is a picture
    Raises: both functions raise InputError naming what is missing or wrong.
    """

    load: Callable[[dict, Path, Path | None], Dataset]
    found: Callable[[dict, Path], list[Path]]
    expected: str
    as_text: bool


def load_dataset(task: str, options: dict, data_dir: Path, cache_dir: Path | None = None) -> Dataset:
    """Read or draw a task's three splits, with seed 0 whatever the run's own: runs are compared on the same rows.

    options: the preset's data table; cache_dir: of stored arrays, by default data_dir/.rmaat_cache
    Raises: InputError naming what is missing or wrong.
    """
    return TASKS[task].load(options, data_dir, cache_dir)


def _load_listops(options, data_dir, cache_dir):
    source = _source("listops", options, "short", "files", "generated")
    if source == "short":
        limits = {key: options[key] for key in ("min_length", "max_length", "max_depth", "max_args")}
        rows = (options["train_rows"], 1_000, 2_000)
        return listops_generator.load_short(cache_dir or data_dir / CACHE, rows=rows, **limits)
    if source == "generated":
        cache_dir, data_dir = cache_dir or data_dir / CACHE, data_dir / listops.GENERATED
        if not (data_dir / "listops-1000").exists():
            listops_generator.generate_lra(data_dir)
    return listops.load(data_dir, max_length=options.get("max_length"), cache_dir=cache_dir)


def _find_listops(options, data_dir):
    source = options.get("source", "files")
    if source == "generated" and (data_dir / listops.GENERATED).exists():
        return listops.find_files(data_dir / listops.GENERATED)
    return listops.find_files(data_dir) if source == "files" else []


def _load_pathfinder(options, data_dir, cache_dir):
    if _source("pathfinder", options, "files", "generated") == "generated":
        folder = cache_dir or data_dir / CACHE
        return pathfinder_generator.generate_dataset(folder, difficulty=options["difficulty"], count=options["images"])
    return pathfinder.load(data_dir, difficulty=options["difficulty"], cache_dir=cache_dir)


def _find_pathfinder(options, data_dir):
    files = options.get("source", "files") == "files"
    return [pathfinder.find_folder(data_dir, options["difficulty"])] if files else []


def _load_files(reader):
    """The loader of a task that is read from its files and nothing else."""

    def load(options, data_dir, cache_dir):
        return reader.load(data_dir, max_length=options.get("max_length"), cache_dir=cache_dir)

    return load


def _source(task: str, options: dict, *known: str) -> str:
    """The option `source`. Raises: InputError if the task has no such source."""
    source = options.get("source", "files")
    if source not in known:
        raise InputError(f"--set source={source}: unknown for {task}; choose {' or '.join(known)}")
    return source


TASKS = {
    "listops": Task(_load_listops, _find_listops, listops.EXPECTED, as_text=True),
    "text": Task(
        _load_files(text), lambda _, folder: [locate(folder, ("aclImdb",), text.REMEDY)], text.EXPECTED, as_text=True
    ),
    "retrieval": Task(
        _load_files(retrieval), lambda _, folder: retrieval.find_files(folder), retrieval.EXPECTED, as_text=True
    ),
    "image": Task(
        _load_files(image), lambda _, folder: [locate(folder, image.TOPS, image.REMEDY)], image.EXPECTED, as_text=False
    ),
    "pathfinder": Task(_load_pathfinder, _find_pathfinder, pathfinder.EXPECTED, as_text=False),
    "recall": Task(lambda options, *_: recall.load(**options), lambda *_: [], "", as_text=True),
}
