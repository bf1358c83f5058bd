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
    "system": {"system", "errors", "backend"},
    "data": {"data", "system", "errors"},
    "training": {"training", MODEL, "data", "system"},
    "trace": {"trace", "training", MODEL, "data", "system"},
    "benchmark": {"benchmark", MODEL, "system"},
    "command": {"command", "benchmark", "trace", "training", "data", "system", MODEL},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: list[str]) -> str:
    """The room of a module, given as its path below the package: a sub-package, or the model."""
    return module[0] if module and (PACKAGE / module[0]).is_dir() else MODEL


def imported(path):
    """Every module of the package that a file imports, as its path below the package, with the line."""
    here = list(path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from ((name[1:], node.lineno) for name in names if name[0] == "rmaat_np")
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                base = here[: len(here) - node.level] + module
            elif module and module[0] == "rmaat_np":
                base = module[1:]
            else:
                continue
            for alias in node.names:
                inner = [*base, alias.name]
                yield (inner if (PACKAGE / Path(*inner)).with_suffix(".py").exists() else base), node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_room_may(path):
    mine = room_of(list(path.relative_to(PACKAGE).parts))
    for module, line in imported(path):
        theirs = room_of(module)
        if (path.name, theirs) == ("backend.py", "cuda"):
            continue  # `backend.use("cupy")` loads the kernels
        allowed = MAY_IMPORT[mine]
        assert theirs in allowed or (theirs == MODEL and ".".join(module) in allowed), (
            f"{path.relative_to(ROOT)}:{line}: {mine} imports {'.'.join(module)}, but may only import {sorted(allowed)}"
        )


def test_every_room_is_listed():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms | {MODEL} == set(MAY_IMPORT)


def test_importing_the_package_loads_numpy_and_the_standard_library_only():
    code = (
        "import sys, rmaat_np; "
        "tops = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names); "
        "print(*sorted(tops)); "
        "print(*sorted(name for name in sys.modules if name.startswith('rmaat_np.') and name.count('.') > 1))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    tops, inner = done.stdout.splitlines() if done.stdout.count("\n") == 2 else (done.stdout.strip(), "")
    assert set(tops.split()) <= {"numpy", "rmaat_np", "__main__"}
    assert inner == "", "no sub-package is loaded before it is asked for"


def environment() -> dict:
    """Without `site`, whose .pth files may import anything: only the folder that NumPy lies in."""
    return os.environ | {"PYTHONPATH": str(Path(numpy.__file__).parents[1])}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_module_imports_another(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[-1].startswith("test_")]
