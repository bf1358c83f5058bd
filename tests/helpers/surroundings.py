"""Processes of the command in surroundings that a user may have: other streams, a broken matplotlib, another system."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.calls import SCRIPT

ROOT = SCRIPT.parent
BROKEN = "raise RuntimeError('a broken\\nbuild')"
SAVEFIG_FAILS = """
from matplotlib.figure import Figure
def savefig(*arguments, **options): raise RuntimeError("a broken\\nbuild")
Figure.savefig = savefig
"""
# What Windows and macOS lack is taken away from this Python, and from every one that it starts.
BARE = """
import builtins, io, multiprocessing, os, signal, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
names = ("sched_getaffinity", "setsid", "getsid", "fork", "forkpty", "getuid", "geteuid", "mkfifo", "openpty")
for module, missing in ((os, names), (signal, ("SIGPIPE", "SIGHUP", "SIGKILL"))):
    for name in missing:
        if hasattr(module, name):
            delattr(module, name)
multiprocessing.set_start_method("spawn")
def without_proc(function):
    def call(path, *arguments, **options):
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", os.fsdecode(path))
        return function(path, *arguments, **options)
    return call
builtins.open = io.open = without_proc(open)
os.stat, os.open = without_proc(os.stat), without_proc(os.open)
"""


def site(folder: Path, code: str) -> dict[str, str]:
    """The environment in which every Python begins with this code. Its own imports may fail without a word."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def broken_matplotlib(folder: Path) -> dict[str, str]:
    """The environment in which matplotlib cannot be imported, so that a run draws nothing, and is over sooner."""
    (folder / "matplotlib").mkdir(parents=True)
    (folder / "matplotlib" / "__init__.py").write_text(BROKEN, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def command(*arguments, cwd, environment=None, redirect="") -> subprocess.CompletedProcess:
    """Run the command with a shell's redirections. -> with stdout and stderr as bytes"""
    words = [sys.executable, str(SCRIPT), *map(str, arguments)]
    if redirect:
        words = ["sh", "-c", f'exec "$@" {redirect}', "sh", *words]
    kept = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONPATH")}
    given = kept | {"OPENBLAS_NUM_THREADS": "1"} | (environment or {})
    return subprocess.run(words, cwd=cwd, env=given, capture_output=True, timeout=120)
