"""The README's page "What is promised" names the test that holds each promise; here it is checked that they exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def promised() -> list[str]:
    """The test ids in the table of that page."""
    page = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is promised")[1].split("\n## ")[0]
    return re.findall(r"`((?:tests/)?test_\w+\.py::[^`]+)`", page)


def test_every_promise_names_a_test_that_exists():
    ids = promised()
    assert len(ids) > 20 and len(set(ids)) == len(ids)
    names = {name.split("::")[0] for name in ids}
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if path.name in names)
    assert len(files) == len(names)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-p", "no:cacheprovider", *files]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert collected.returncode == 0, collected.stdout + collected.stderr
    known = {line.split("[")[0].rsplit("/", 1)[-1] for line in collected.stdout.splitlines() if "::" in line}
    assert [name for name in ids if name not in known] == []


def test_every_promise_has_a_test():
    page = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is promised")[1].split("\n## ")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| **")][1:]
    assert len(rows) > 15
    assert [row for row in rows if "::test_" not in row] == []
