"""A library that is missing and one that is broken are the same to a user: a broken one can raise anything."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*(ROOT / "rmaat_np").rglob("*.py"), *(ROOT / "lessons").rglob("*.py"), ROOT / "run_lra.py"]


def narrow_guards(source: str) -> list[int]:
    """The lines of `try: import ...` that catch ImportError and nothing wider."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Try) and any(isinstance(line, ast.Import | ast.ImportFrom) for line in node.body):
            caught = {ast.unparse(handler.type) if handler.type else "Exception" for handler in node.handlers}
            if caught and caught <= {"ImportError", "ModuleNotFoundError", "(ImportError, ValueError)"}:
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_optional_import_is_guarded_against_everything(path):
    own = {"fcntl", "msvcrt"}  # of the standard library, where the platform has them
    lines = path.read_text(encoding="utf-8").splitlines()
    guards = narrow_guards("\n".join(lines))
    assert [n for n in guards if not any(f"import {name}" in "\n".join(lines[n - 1 : n + 3]) for name in own)] == []


def test_a_narrow_guard_is_seen():
    assert narrow_guards("try:\n    import x\nexcept ImportError:\n    pass") == [1]
    assert narrow_guards("try:\n    import x\nexcept Exception:\n    pass") == []
