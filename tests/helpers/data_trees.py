"""Every task that is read from files, a few rows of each, so that a test can walk over all readers."""

import tempfile
from pathlib import Path

import numpy as np
from helpers import image_files, pathfinder_files, text_files

from rmaat_np.data import TASKS, Dataset, listops, pathfinder, retrieval

EXPRESSIONS = b"Source\tTarget\r\n( ( [MAX 1 ) 2 ) ]\t2\r\n7\t7\n7\t7\n"
PAIRS = b"1.0\ta\tb\tone\ttwo\n0.0\tc\td\tthree\tfour\n"
OWN = b"label\ttext\nspam\tNAME\nham\tof NAME\n"
OPTIONS = {"source": "files", "difficulty": "hard"}


def _release() -> dict[str, bytes]:
    """Pathfinder: one metadata file is an array, the other is text."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pathfinder_files.write_release(root, "U")
        (root / pathfinder.FOLDERS["hard"] / "metadata" / "1.npy").write_bytes(
            "\n".join(map(pathfinder_files.row, range(10, 20))).encode()
        )
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*") if path.is_file()}


FILES: dict[str, dict[str, bytes]] = {  # task -> name of a file -> its content
    "listops": {f"listops-1000/basic_{name}.tsv": EXPRESSIONS for name in listops.SPLITS},
    "text": text_files.REVIEWS,
    "retrieval": {f"tsv_data/new_aan_pairs.{name}.tsv": PAIRS for name in retrieval.SPLITS},
    "image": image_files.tree("py"),
    "pathfinder": _release(),
    "own": {f"{name}.tsv": OWN.replace(b"NAME", name.encode()) for name in ("train", "val", "test")},
}
ARCHIVED = ("text", "image")  # also read from their .tar.gz
assert set(FILES) == {name for name, task in TASKS.items() if task.expected}, "a task without files to test with"


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def load(task: str, data_dir: Path, cache_dir: Path | None = None) -> Dataset:
    """The files read anew, unless cache_dir is given. Says nothing of what the whole data set has."""
    with tempfile.TemporaryDirectory() as folder:
        return TASKS[task].load(OPTIONS, Path(data_dir), cache_dir or Path(folder))


def expected(task: str) -> Dataset:
    """The data set of the task's files, nothing beside them."""
    with tempfile.TemporaryDirectory() as folder:
        return load(task, write_tree(Path(folder), FILES[task]))


def assert_same(found: Dataset, wanted: Dataset) -> None:
    for name in ("train", "val", "test"):
        for field in ("tokens", "offsets", "labels"):
            np.testing.assert_array_equal(getattr(getattr(found, name), field), getattr(getattr(wanted, name), field))


def options_of(task: str) -> dict:
    """The data options with which a task is read from its files."""
    options = {"source": "files", "difficulty": "hard"}
    return {name: options[name] for name in options.keys() & TASKS[task].options.keys()}
