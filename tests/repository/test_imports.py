"""Who may import whom: every import in the package is looked at, those inside functions too."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rmaat_np"
MODEL = "model"  # the package's own folder
MAY_IMPORT = {
    MODEL: {MODEL},
    "cuda": {"cuda", MODEL},
    "system": {"system", "errors", "backend", "processor"},
    "data": {"data", "system", "errors"},
    "training": {"training", MODEL, "data", "system"},
    "trace": {"trace", "training", MODEL, "data", "system"},
    "benchmark": {"benchmark", "training", MODEL, "system"},
    "command": {"command", "benchmark", "trace", "training", "data", "system", MODEL},
}
OPTIONAL = {(("backend",), "cupy"), (("backend",), "threadpoolctl")}  # all that the model knows of other libraries
DOOR = {MODEL, "data", "training", "benchmark"}  # what the package's own __init__.py hands on
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: list[str]) -> str:
    """The room of a module, given as its path below the package: a sub-package, or the model."""
    return module[0] if module and (PACKAGE / module[0]).is_dir() else MODEL


def imported(place: tuple[str, ...], source: str):
    """All that a file imports, with the line: of the package the path below it, of others ("", name).

    place: the file's path below the package, without its ending
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, *inner = alias.name.split(".")
                yield (inner if top == "rmaat_np" else ["", top]), node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                base = [*place[: len(place) - node.level], *module]
            elif module[0] == "rmaat_np":
                base = module[1:]
            else:
                yield ["", module[0]], node.lineno
                continue
            for alias in node.names:
                inner = [*base, alias.name]
                target = PACKAGE / Path(*inner)
                yield (inner if target.is_dir() or target.with_suffix(".py").exists() else base), node.lineno


def faults(place: tuple[str, ...], source: str) -> list[str]:
    """The imports that a file may not make, each as a line."""
    mine, found = room_of(list(place)), []
    allowed = DOOR if place == ("__init__",) else MAY_IMPORT[mine]
    for module, line in imported(place, source):
        if module[:1] == [""]:
            others = module[1] not in {"numpy", *sys.stdlib_module_names}
            if others and mine in (MODEL, "cuda") and (place, module[1]) not in OPTIONAL:
                found.append(f"{'/'.join(place)}:{line}: {mine} imports {module[1]}")
            continue
        theirs, name = room_of(module), ".".join(module)
        loads_kernels = place == ("backend",) and theirs == "cuda"  # `backend.use("cupy")`, and nothing else
        if not (theirs in allowed or (theirs == MODEL and name in allowed) or loads_kernels):
            found.append(f"{'/'.join(place)}:{line}: {mine} imports {name}; it may import {sorted(allowed)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_room_may(path):
    place = path.relative_to(PACKAGE).with_suffix("").parts
    assert faults(place, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("model", "from . import training"),
        ("__init__", "from .command.main import main"),
        ("model", "from .training.loop import train"),
        ("optim", "import tqdm"),
        ("replay", "def f():\n    from .cuda import kernels"),
        ("training/loop", "from .. import cuda"),
        ("training/loop", "from ..command.options import option"),
        ("training/backend", "from ..cuda import kernels"),
        ("system/files", "from ..params import init_params"),
        ("data/text", "import rmaat_np.training.run"),
        ("data/text", "from rmaat_np import step"),
        ("trace/page", "import rmaat_np.benchmark"),
    ],
)
def test_a_forbidden_import_is_seen(place, source):
    assert len(faults(tuple(place.split("/")), source)) == 1


def test_every_room_is_listed():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms | {MODEL} == set(MAY_IMPORT)


def test_importing_the_package_loads_numpy_and_the_standard_library_only():
    code = (
        "import sys, rmaat_np; "
        "tops = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names); "
        "print(*sorted(tops)); "
        "inner = [name.split('.') for name in sys.modules if name.startswith('rmaat_np.')]; "
        "print(*sorted({name[1] for name in inner if len(name) > 2}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    tops, inner = done.stdout.splitlines() if done.stdout.count("\n") == 2 else (done.stdout.strip(), "")
    others = {name for name in tops.split() if "cython" not in name}  # parts of NumPy's random numbers
    assert others <= {"numpy", "rmaat_np", "__main__"}
    assert set(inner.split()) == {"data", "training", "system"}, "other rooms are loaded when they are asked for"


def environment() -> dict:
    """Without `site`, whose .pth files may import anything: only the folder that NumPy lies in."""
    return os.environ | {"PYTHONPATH": str(Path(numpy.__file__).parents[1])}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_module_imports_another(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[-1].startswith("test_")]
