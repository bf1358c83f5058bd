"""Text files are UTF-8 on every platform: whoever opens one says so, for a locale may say something else."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("rmaat_np", "lessons", "tests")
METHODS = {"read_text": 0, "write_text": 1}  # of a Path; the place of `encoding` among the arguments
OPENING = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0}  # the place of `mode`


def without_encoding(source: str) -> list[int]:
    """The lines that read or write text in an encoding that the locale chooses."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        words = {word.arg: word.value for word in call.keywords}
        if "encoding" in words or None in words:
            continue
        if name in METHODS:
            wrong = isinstance(function, ast.Attribute) and len(call.args) <= METHODS[name]
        elif name in OPENING:
            place = OPENING[name]
            if name == "open" and isinstance(function, ast.Attribute):
                owner = getattr(function.value, "id", "")
                if owner in ("os", "Image", "tarfile", "zipfile", "gzip", "archive"):  # no text files
                    continue
                place = 1 if owner in ("io", "builtins") else 0  # path.open(mode)
            given = call.args[place] if len(call.args) > place else words.get("mode")
            binary = name.endswith("TemporaryFile") and given is None
            mode = given.value if isinstance(given, ast.Constant) else "r" if given is None else "b"
            wrong = not binary and "b" not in str(mode)
        else:
            continue
        found += [call.lineno] * wrong
    return found


def test_text_is_read_and_written_as_utf_8():
    paths = [ROOT / "run_lra.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
    wrong = [f"{path.relative_to(ROOT)}:{n}" for path in paths for n in without_encoding(path.read_text("utf-8"))]
    assert not wrong, f'add encoding="utf-8": {" ".join(wrong)}'


def test_every_way_to_open_a_text_file_is_found():
    lines = ["p.read_text()", "p.write_text('x')", "open(p)", "open(p, 'w')", "p.open()", "p.open('a')", "io.open(p)"]
    lines += ["os.fdopen(n, mode='w')", "TemporaryFile('w')"]
    assert without_encoding("\n".join(lines)) == list(range(1, len(lines) + 1))
    lines = [
        "p.read_text('utf-8')",
        "p.write_text('x', encoding='utf-8')",
        "open(p, 'rb')",
        "p.open('wb')",
        "os.open(p)",
    ]
    lines += [
        "open(p, mode='ab')",
        "open(p, encoding='utf-8')",
        "TemporaryFile()",
        "zipfile.open(p)",
        "write_text(p, t)",
    ]
    assert without_encoding("\n".join(lines)) == []
