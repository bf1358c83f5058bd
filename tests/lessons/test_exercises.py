"""The exercises' checks, on a copy: solutions.py passes, each mistake is answered with its sentence, a stub is skipped.

What a reader has written into exercises.py is neither run nor judged here: to solve an exercise breaks no test.
"""

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mistakes import MISTAKES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "lessons" / "exercises"
CASES = {  # exercise: its check, and the arguments of the check
    "phi_backward": ("01a", [()]),
    "layer_norm_backward": ("01b", [()]),
    "ltp_step": ("02", [()]),
    "write_and_read": ("03a", [(1.0, 0), (0.5, 0), (1.0, 3), (0.5, 3)]),
    "multi_head": ("03b", [()]),
    "relative_features": ("04", [(0.3,), (1.0,)]),
    "memory_update": ("05a", [("integrate",), ("scale",), ("online",), ("none",)]),
    "retention_shares": ("05b", [(1,), (4,), (6,)]),
    "memory_backward": ("06", [()]),
    "amrb_step": ("07", [()]),
    "adamw_step": ("08", [(0,), (9,)]),
    "log_line": ("09", [()]),
    "held_bytes": ("10", [("bptt", 4), ("bptt", 1), ("amrb", 4), ("amrb", 1)]),
    "class_scores": ("12", [(False,), (True,)]),
}


def blanked(source: str) -> str:
    """The source with every top-level function as a stub again."""
    tree = ast.parse(source)
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            function.body = [ast.parse("raise NotImplementedError").body[0]]
    return ast.unparse(tree)


def copy_exercises(folder, source: str) -> None:
    """Copy the checks, with source as exercises.py."""
    folder.mkdir(parents=True)
    for name in ("__init__.py", "checking.py", "test_exercises.py"):
        shutil.copy(FOLDER / name, folder)
    (folder / "exercises.py").write_text(source, encoding="utf-8")


SOLVED = (FOLDER / "solutions.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """The checks as a module, with solutions.py as exercises.py."""
    folder = tmp_path_factory.mktemp("solved")
    copy_exercises(folder / "exercises_copy", SOLVED)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("exercises_copy.test_exercises")
    for name in [name for name in sys.modules if name.startswith("exercises_copy")]:
        del sys.modules[name]


def solution(checks, name):
    return vars(sys.modules["exercises_copy.exercises"])[name]


def run_checks(checks, name):
    number, cases = CASES[name]
    for arguments in cases:
        getattr(checks, f"test_{number}_{name}")(*arguments)


def rewritten(name, *changes):
    """A solution with some of its lines changed: -> the wrong function."""
    source = SOLVED
    for right, wrong in changes:
        assert source.count(right) == 1, f"{source.count(right)} of {right!r}"
        source = source.replace(right, wrong)
    space = {}
    exec(compile(source, "exercises.py", "exec"), space)
    return space[name]


def test_every_exercise_has_a_solution_a_check_and_a_mistake(checks):
    numbered = {name for name in dir(checks) if name.startswith("test_")}
    assert numbered == {f"test_{number}_{name}" for name, (number, _) in CASES.items()}
    assert set(CASES) == {name for name, *_ in MISTAKES.values()}
    for name, (number, _) in CASES.items():
        assert solution(checks, name).__doc__.startswith(f"{number}. ")


@pytest.mark.parametrize("name", CASES)
def test_the_solutions_pass(checks, name):
    run_checks(checks, name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a wrong solution may divide by 0
@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_answered_with_its_sentence(checks, sentence, monkeypatch):
    name, *changes = MISTAKES[sentence]
    monkeypatch.setattr(sys.modules["exercises_copy.exercises"], name, rewritten(name, *changes))
    with pytest.raises(pytest.fail.Exception) as failure:
        run_checks(checks, name)
    first, _, _ = str(failure.value).partition(". ")
    assert sentence.rstrip(".") in first


def ask_checks(folder, *options):
    """What a reader sees: the lines of a run in a repository whose exercises are those in folder."""
    command = [sys.executable, "-m", "pytest", "lessons/exercises", "-p", "no:cacheprovider", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra\n", encoding="utf-8")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout


def test_stubs_are_skipped_with_a_friendly_line(tmp_path):
    copy_exercises(tmp_path / "lessons" / "exercises", blanked(SOLVED))
    code, out = ask_checks(tmp_path, "-q", "--tb=line")
    count = sum(len(cases) for _, cases in CASES.values())
    assert code == 0 and f"{count} skipped" in out and "passed" not in out
    for name in CASES:
        assert f"not written yet: see {name} in lessons/exercises/exercises.py" in out


WRONG = {  # the checks to run -> the right code, the wrong code, how the answer begins
    "03a and 1.0-0": ("@ v / m", "@ v", "A 1/m is missing: "),
    "03a and 0.5-0": ("phi_k.sum(axis=0)", "phi_k.sum(axis=1)", "A sum over the wrong axis is the usual cause "),
    "05a and integrate": (
        "    return factor * written if",
        "    memory += 1\n    return factor * written if",
        "memory_update changed its argument memory: `+=`, ",
    ),
}


@pytest.mark.parametrize("style", [("-q", "--tb=line"), ("-q",)], ids=" ".join)
@pytest.mark.parametrize("which", WRONG)
def test_the_sentence_that_helps_is_the_first_thing_on_the_screen(tmp_path, which, style):
    right, wrong, sentence = WRONG[which]
    assert SOLVED.count(right) == 1
    copy_exercises(tmp_path / "lessons" / "exercises", SOLVED.replace(right, wrong))
    code, out = ask_checks(tmp_path, *style, "-k", which)
    lines = out.splitlines()
    above = ("F", "===", "___")
    assert code == 1 and next(line for line in lines if not line.startswith(above)).startswith(sentence)


def test_a_syntax_error_is_one_line(tmp_path):
    copy_exercises(tmp_path / "lessons" / "exercises", SOLVED.replace("np.diff(curve)", "np.diff(curve"))
    code, out = ask_checks(tmp_path, "-q", "--tb=line")
    said = [line for line in out.splitlines() if line and not line.startswith(("===", "___", "!!!", "ERROR"))]
    assert code == 2 and re.fullmatch(r"lessons/exercises/exercises.py, line \d+: '\(' was never closed", said[0])
    assert len(said) == 2


def test_the_stubs_ask_for_what_the_solutions_give(checks):
    """Of those that are still stubs: a reader's own functions are not judged here."""
    try:
        tree = ast.parse((FOLDER / "exercises.py").read_text(encoding="utf-8"))
    except SyntaxError:
        pytest.skip("exercises.py is being written")
    stubs = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef) and "NotImplementedError" in ast.unparse(f)}
    for name, stub in stubs.items():
        number, _ = CASES[name]
        assert ast.get_docstring(stub).startswith(f"{number}. ")
        arguments = ast.unparse(stub.args).replace(" ", "")
        assert arguments == str(inspect.signature(solution(checks, name))).replace(" ", "")[1:-1]
