"""The command where a user runs it: any stream, any locale, any matplotlib, any platform, any folder."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import needs, surroundings
from helpers.calls import SCRIPT, TINY
from helpers.surroundings import ROOT, command

from rmaat_np.command import options

SHORT = [*TINY, "--steps", 2]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell and file names")


def tried(done, code=0):
    """The process ended as it should, and without a traceback. -> stdout, stderr"""
    out, err = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
    assert done.returncode == code and "Traceback" not in err and "Exception ignored" not in err, err
    return out, err


def listed(out):
    """The files that the last lines name."""
    return next(line for line in out.splitlines() if ": config.json" in line or ": table.md" in line)


# optional output


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        ("import", False),
        pytest.param("savefig", False, marks=pytest.mark.slow),
        pytest.param("inline backend", True, marks=pytest.mark.slow),
        pytest.param("no such backend", True, marks=pytest.mark.slow),
        pytest.param("read-only folder", True, marks=pytest.mark.slow),
    ],
)
def test_pictures_cost_no_result(tmp_path, kind, drawn):
    """Neither of a comparison and its runs, nor of a trace; the same comparison again finds its runs finished."""
    if kind == "import":
        environment = surroundings.broken_matplotlib(tmp_path / "fake")
    elif kind == "savefig":
        environment = surroundings.site(tmp_path / "site", surroundings.SAVEFIG_FAILS)
    elif kind == "read-only folder":
        (tmp_path / "closed").mkdir(mode=0o555)
        environment = {"MPLCONFIGDIR": str(tmp_path / "closed" / "below")}
    else:
        named = {"inline backend": "module://matplotlib_inline.backend_inline", "no such backend": "nonsense"}
        environment = {"MPLBACKEND": named[kind]}
    compare = [*SHORT, "--workers", 2, "--compare", "rmaat,rmt", "--out", "out"]
    out, err = tried(command(*compare, cwd=tmp_path, environment=environment))
    assert "Not run" not in out and ("table.png" in listed(out)) == drawn
    reasons = [line for line in err.splitlines() if "not drawn" in line]
    assert len(reasons) == (0 if drawn else 1) and ("a broken" in err) != drawn
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/result.json")}
    out, _ = tried(command(*compare, cwd=tmp_path, environment=environment))
    assert len(results) == 2 and {path: path.stat().st_mtime_ns for path in results} == results
    assert all((path.parent / "curve.png").exists() == drawn for path in results)
    out, err = tried(command(*SHORT, "--trace", cwd=tmp_path, environment=environment))
    assert ("trace.png" in out) == drawn == (tmp_path / "trace.png").exists()
    assert err.count("not drawn") == (not drawn)


# streams


@posix
def test_streams_that_are_closed(tmp_path):
    fast = surroundings.broken_matplotlib(tmp_path / "fake")
    tried(command(*SHORT, "--out", "run", cwd=tmp_path, environment=fast, redirect=">&- 2>&- <&-"))
    assert json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["steps"] == 2


@posix
@pytest.mark.slow
@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_every_action_with_streams_that_are_closed(tmp_path, redirect):
    fast = surroundings.broken_matplotlib(tmp_path / "fake")
    tried(command(*SHORT, "--compare", "rmaat", "--out", "out", cwd=tmp_path, environment=fast, redirect=redirect))
    for words in (["--resume", "out/rmaat-seed0"], ["--eval", "out/rmaat-seed0"], ["--help"], [*SHORT, "--trace"]):
        tried(command(*words, cwd=tmp_path, environment=fast, redirect=redirect))
    tried(command("--eval", "nothing", cwd=tmp_path, environment=fast, redirect=redirect), code=2)
    assert (tmp_path / "out" / "table.md").exists()


@posix
@needs.full_device
def test_a_result_that_a_full_disk_refuses(tmp_path):
    """One line with the remedy; nothing more from Python's last flush."""
    _, err = tried(command("--help", cwd=tmp_path, redirect="> /dev/full"), code=2)
    assert err == "run_lra.py: stdout: cannot be written (No space left on device); free space, or send it elsewhere\n"


def test_help_in_any_encoding(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "") and out.isascii() and "--data-dir" in out


@posix
def test_printed_commands_run_where_the_user_stands(tmp_path):
    """Called with a relative path to the script, into a folder that an ASCII terminal, or none at all, can show."""
    name = os.fsdecode("Zoë $x ".encode() + b"\xff")
    fast = surroundings.broken_matplotlib(tmp_path / "fake") | {"PYTHONIOENCODING": "ascii"}
    place = tmp_path / "where the user stands"
    place.mkdir()
    try:
        (place / name).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("no such file names here")
    environment = os.environ | fast | {"OPENBLAS_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment["PATH"]])
    called = [os.path.basename(sys.executable), "-X", "utf8", os.path.relpath(SCRIPT, place)]
    done = subprocess.run(
        [*called, *map(str, SHORT), "--out", name], executable=sys.executable, cwd=place, env=environment,
        capture_output=True, timeout=120,
    )  # fmt: skip
    out, _ = tried(done)
    line = out.splitlines()[-1].removeprefix("evaluate again: ")
    assert line.startswith(" ".join(called) + " --eval ") and line.isascii()
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("needs bash")
    pasted = subprocess.run(
        line, shell=True, executable=shell, cwd=place, env=environment, capture_output=True, timeout=120
    )
    assert json.loads(tried(pasted)[0])["step"] == 2


@posix
def test_the_locale_c(tmp_path):
    """Text files are UTF-8 whatever the locale says, and the table's signs are shown as far as they can be."""
    environment = C_LOCALE | surroundings.broken_matplotlib(tmp_path / "fake")
    words = [*SHORT, "--workers", 2, "--compare", "rmaat", "--seeds", 2, "--out", "ü"]
    out, _ = tried(command(*words, cwd=tmp_path, environment=environment))
    assert out.isascii() and r"\xb1" in out and "Not run" not in out
    table = (tmp_path / "ü" / "table.md").read_text(encoding="utf-8")
    assert " ± " in table and "--out" in table


@posix
@pytest.mark.slow
def test_every_action_in_the_locale_c(tmp_path):
    environment = C_LOCALE | surroundings.broken_matplotlib(tmp_path / "fake")
    tried(command(*SHORT, "--out", "ü", cwd=tmp_path, environment=environment))
    for words in (
        ["--resume", "ü"],
        ["--eval", "ü"],
        [*SHORT, "--trace", "--html", "ü.html"],
        [*SHORT, "--check-data"],
    ):
        tried(command(*words, cwd=tmp_path, environment=environment))
    assert (tmp_path / "ü.html").exists()


def test_a_review_with_letters_and_control_characters(tmp_path):
    """Of the text task: é as an escape in an ASCII terminal, ESC and BEL as escapes everywhere."""
    text = "caf\u00e9 \x1b[31mred\x07"
    for folder in ("train/pos", "train/neg", "test/pos", "test/neg"):
        (tmp_path / "aclImdb" / folder).mkdir(parents=True)
        for number in range(12):
            path = tmp_path / "aclImdb" / folder / f"{number}_{9 if 'pos' in folder else 2}.txt"
            path.write_text(text, encoding="utf-8")
    words = ["--task", "text", "--check-data", "--data-dir", tmp_path]
    out, _ = tried(command(*words, cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"}))
    assert r"caf\xe9 \x1b[31mred\x07" in out and "\x1b" not in out and "\x07" not in out


# platforms


def test_what_other_platforms_lack(tmp_path):
    """A run, its continuation and its evaluation, and the imports of all lessons, without Linux's own."""
    environment = surroundings.site(tmp_path / "site", surroundings.BARE) | {"PYTHONIOENCODING": "cp1252"}
    (tmp_path / "site" / "matplotlib").mkdir()
    (tmp_path / "site" / "matplotlib" / "__init__.py").write_text(surroundings.BROKEN, encoding="utf-8")
    tried(command(*SHORT, "--out", "Zoë", cwd=tmp_path, environment=environment))
    tried(command("--resume", "Zoë", cwd=tmp_path, environment=environment))
    out, _ = tried(command("--eval", "Zoë", cwd=tmp_path, environment=environment))
    assert "Zo\\u00eb" in out and json.loads(out)["step"] == 2
    result = json.loads((tmp_path / "Zoë" / "result.json").read_text(encoding="utf-8"))
    assert result["peak_memory_bytes"] is None


@pytest.mark.slow
def test_a_comparison_without_what_other_platforms_lack(tmp_path):
    environment = surroundings.site(tmp_path / "site", surroundings.BARE) | {"PYTHONIOENCODING": "cp1252"}
    words = [*SHORT, "--compare", "rmaat", "--seeds", 2, "--out", "out"]
    done = command(*words, cwd=tmp_path, environment=environment)
    assert done.returncode == 0 and "±" in done.stdout.decode("cp1252")
    tried(command(*SHORT, "--trace", cwd=tmp_path, environment=environment))


IMPORTS = """
import ast, pathlib, sys
assert sys.modules["fcntl"] is None
sys.path[:0] = [{root!r} + "/lessons", {root!r} + "/tests"]
for path in sorted(pathlib.Path({root!r}, "lessons").glob("[0-9][0-9]_*.py")):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(tree, path, "exec"), {{}})
"""


def test_imports_of_the_lessons_without_what_other_platforms_lack(tmp_path):
    environment = os.environ | surroundings.site(tmp_path / "site", surroundings.BARE)
    words = [sys.executable, "-c", IMPORTS.format(root=str(ROOT))]
    done = subprocess.run(words, env=environment | {"MPLBACKEND": "Agg"}, cwd=tmp_path, capture_output=True)
    tried(done)


def test_an_old_python_is_told_in_one_line(tmp_path):
    """It must be able to read the script that far."""
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))
    code = "import runpy, sys; sys.version_info = (3, 9, 1); sys.version = '3.9.1 (main)';"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    _, err = tried(done, code=2)
    assert err == "run_lra.py: needs Python 3.11 or newer, this is 3.9.1\n"


# printed commands


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Pretend that the process was called like this, in tmp_path. -> the printed command"""
    monkeypatch.chdir(tmp_path)

    def called(*words, script=1):
        monkeypatch.setattr(sys, "orig_argv", list(words))
        monkeypatch.setattr(sys, "argv", list(words[script:]))
        return options.command("--resume", "a run")

    return called


@posix
def test_the_printed_command_is_the_users_own(called, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    name, near = os.path.basename(sys.executable), os.path.relpath(SCRIPT, tmp_path)
    tail = " --resume 'a run'"
    assert called(name, near, "--steps", "3") == f"{name} {near}{tail}"
    assert called(name, "-X", "utf8", near, script=3) == f"{name} -X utf8 {near}{tail}"
    assert called(sys.executable, str(SCRIPT)) == f"{sys.executable} {SCRIPT}{tail}"
    monkeypatch.setenv("PATH", "/nowhere")
    assert called(name, near) == f"{sys.executable} {near}{tail}"  # pasted, that name would find nothing


@posix
def test_the_printed_command_of_a_notebook(called, monkeypatch):
    """There the process's own command line is another program's."""
    tail = " --resume 'a run'"
    assert called("python", "-m", "ipykernel_launcher", "-f", "x", script=2) == f"{sys.executable} {SCRIPT}{tail}"
    assert called("python", __file__) == f"{sys.executable} {SCRIPT}{tail}"
    monkeypatch.chdir(SCRIPT.parent)
    assert options.command() == f"{sys.executable} run_lra.py"


@posix
def test_words_that_no_terminal_shows():
    assert options.command("a'b c", "é").endswith(" 'a'\"'\"'b c' 'é'")
    assert options.command(os.fsdecode(b"a'\\\xff\n")).endswith(r" $'a\x27\x5c\xff\x0a'")


def test_the_tilde_of_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    words = ["--out=~/x", "--data-dir=~/d", "--cache-dir=~/c", "--html=~/p.html", "--set", "init=~/a.npz"]
    given = options.parse_arguments(words)
    assert (given.out, given.data_dir, given.cache_dir) == (tmp_path / "x", tmp_path / "d", tmp_path / "c")
    assert given.html == tmp_path / "p.html"
    assert Path(options.overrides_of(given)["init"]) == tmp_path / "a.npz"
    assert options.parse_arguments(["--resume=~/x"]).resume == tmp_path / "x"
