"""The tasks, in one table: how each is loaded, which options that takes, and which files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, check_integer
from ..system.terminal import warn
from . import image, listops, listops_generator, memory, pathfinder, pathfinder_generator, recall, retrieval, text
from .dataset import SPLITS, Dataset
from .own import files as own_files
from .sources import locate
from .stored import STORE, AnyPath


@dataclass(frozen=True)
class Task:
    """What a task needs.

    load(options, data_dir, cache_dir): its Dataset; options: the preset's data table; cache_dir may be None
    found(options, data_dir): the files or the folder that load would read; empty for data that are drawn
    options: the name of every option, with its type; numbers are 1 or more, but for those in LEAST
    optional: those of them that a preset may leave out, and that can be set nevertheless
    check(options): refuses options that do not fit together, before anything is read or drawn
    expected: the files that a user must provide, as a tree; empty if there are none
    rows: at least so many have train, val and test of the whole data set; None if there is none to read
    classes: what each label means, in words; empty where the label is itself the answer, a digit
    Raises: all functions raise InputError naming what is missing or wrong.
    """

    load: Callable[[dict, Path, Path | None], Dataset]
    found: Callable[[dict, Path], list[Path]]
    options: dict[str, type]
    expected: str = ""
    rows: tuple[int, int, int] | None = None
    classes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    check: Callable[[dict], None] = lambda options: None


def load_dataset(task: str, options: dict, data_dir: AnyPath, cache_dir: AnyPath | None = None) -> Dataset:
    """Read or draw a task's three splits, with seed 0 whatever the run's own: runs are compared on the same rows.

    options: the preset's data table; cache_dir: of stored arrays, by default data_dir/.rmaat_cache
    A part of the data set is read, too; stderr then says how much of it there is.
    Raises: InputError naming what is missing or wrong.
    """
    check_options(task, options)
    dataset = TASKS[task].load(options, Path(data_dir), Path(cache_dir) if cache_dir else None)
    if options.get("source", "files") == "files" and (whole := TASKS[task].rows):
        found = [len(split) for split in dataset.splits.values()]
        if any(here < all_ for here, all_ in zip(found, whole, strict=True)):
            rows = ", ".join(
                f"{here:,} of {all_:,} {name}" for here, all_, name in zip(found, whole, SPLITS, strict=True)
            )
            warn(f"{data_dir}: not the whole data set of task {task}: {rows} rows")
    return dataset


def check_options(task: str, options: dict) -> None:
    """Refuse a task that is unknown, and options that its reader does not know, or of another type.

    Raises: InputError naming the task, or the option and what it may be.
    """
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"task {task!r} is unknown; the tasks with a reader are {', '.join(TASKS)}")
    if not isinstance(options, dict):
        raise InputError(f"the options of task {task} are {options!r:.40}, but they must be a dict")
    known = TASKS[task].options
    for name, value in options.items():
        if name not in known:
            raise InputError(f"{name} is no data option of task {task}; there are {', '.join(known) or 'none'}")
        if known[name] is int:
            check_integer(name, value, LEAST.get(name, 1))
        elif not isinstance(value, known[name]):
            wanted = {str: "text", bool: "true or false"}[known[name]]
            raise InputError(f"{name} is {value!r:.40}, but it must be {wanted}")
    TASKS[task].check(options)


def _option(options: dict, name: str):
    """Raises: InputError if the option is missing."""
    if name not in options:
        raise InputError(f"the data option {name} is missing")
    return options[name]


def _load_listops(options, data_dir, cache_dir):
    source = _source("listops", options, "short", "files", "generated")
    if source == "short":
        limits = {key: _option(options, key) for key in ("min_length", "max_length", "max_depth", "max_args")}
        rows = (_option(options, "train_rows"), 1_000, 2_000)
        return listops_generator.load_short(cache_dir or data_dir / STORE, rows=rows, **limits)
    if source == "generated":
        cache_dir, data_dir = cache_dir or data_dir / STORE, data_dir / listops.GENERATED
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
        folder = cache_dir or data_dir / STORE
        count = check_integer("images", _option(options, "images"), 10)
        difficulty = _option(options, "difficulty")
        return pathfinder_generator.generate_dataset(folder, difficulty=difficulty, count=count, **_scene(options))
    return pathfinder.load(data_dir, difficulty=_option(options, "difficulty"), cache_dir=cache_dir)


def _scene(options) -> dict:
    """The options of drawn images that are given."""
    return {name: options[name] for name in SCENE if name in options}


def _check_scene(options) -> None:
    """Raises: InputError for a scene that cannot be drawn, or for one of images that are read."""
    given = _scene(options)
    if options.get("source") == "generated":
        pathfinder_generator.plan_scene(options.get("difficulty", "hard"), **given)
    elif given:
        raise InputError(f"{min(given)} is for images that are drawn; add --set source=generated, or leave it out")


def _find_pathfinder(options, data_dir):
    files = options.get("source", "files") == "files"
    return [pathfinder.find_folder(data_dir, _option(options, "difficulty"))] if files else []


def _load_files(reader):
    """The loader of a task that is read from its files and nothing else."""

    def load(options, data_dir, cache_dir):
        return reader.load(data_dir, max_length=options.get("max_length"), cache_dir=cache_dir)

    return load


def _source(task: str, options: dict, *known: str) -> str:
    """The option `source`. Raises: InputError if the task has no such source."""
    source = options.get("source", "files")
    if source not in known:
        raise InputError(f"source {source!r} is unknown for task {task}; choose {' or '.join(known)}")
    return source


FROM_FILES = {"source": str, "max_length": int}  # the options of a task that is only read from its files
SCENE = ("contour_length", "height", "distractors")  # of drawn Pathfinder images, other than the difficulty's
LEAST = {"distractors": 0}  # where it is not 1
TASKS = {
    "listops": Task(
        _load_listops,
        _find_listops,
        {"source": str, "min_length": int, "max_length": int, "max_depth": int, "max_args": int, "train_rows": int},
        listops.EXPECTED,
        rows=(96_000, 2_000, 2_000),
    ),
    "text": Task(
        _load_files(text),
        lambda _, folder: [locate(folder, text.LAYOUT)],
        FROM_FILES,
        text.EXPECTED,
        rows=(22_500, 2_500, 25_000),
        classes=("the review is negative", "the review is positive"),
    ),
    "retrieval": Task(
        _load_files(retrieval),
        lambda _, folder: retrieval.find_files(folder),
        FROM_FILES,
        retrieval.EXPECTED,
        rows=(147_086, 18_090, 17_437),
        classes=("neither paper cites the other", "one paper cites the other"),
    ),
    "image": Task(
        _load_files(image),
        lambda _, folder: [locate(folder, image.LAYOUT)],
        FROM_FILES,
        image.EXPECTED,
        rows=(45_000, 5_000, 10_000),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "pathfinder": Task(
        _load_pathfinder,
        _find_pathfinder,
        {"source": str, "difficulty": str, "images": int} | dict.fromkeys(SCENE, int),
        pathfinder.EXPECTED,
        rows=(160_000, 19_999, 19_999),  # of the 200,000 easy images, one is empty in the release
        classes=("the two discs lie on different curves", "the two discs lie on the same curve"),
        optional=SCENE,
        check=_check_scene,
    ),
    "own": Task(
        lambda options, data_dir, cache_dir: own_files.load(data_dir, options, cache_dir),
        lambda _, folder: [*own_files.find_files(folder).values()],
        own_files.OPTIONS,
        own_files.EXPECTED,
    ),
    "recall": Task(lambda options, *_: recall.load(**options), lambda *_: [], {"class_within": int, "length": int}),
    "memory": Task(
        lambda options, *_: memory.load(**options),
        lambda *_: [],
        {"kind": str, "class_within": int, "shortest": int, "length": int, "test_lengths": str},
    ),
}
