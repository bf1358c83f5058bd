"""The terminal: bars that need no terminal, and lines that never end a run."""

import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from rmaat_np.system.terminal import complain, progress_bar, show, tell, write_above_bars

ROOT = Path(__file__).parents[2]


def test_a_bar_over_an_iterable_and_by_hand(capsys):
    """Silent here, where stderr is no terminal."""
    assert list(progress_bar(range(3), unit="image", label="drawing")) == [0, 1, 2]
    with progress_bar(total=10, initial=4) as bar:
        bar.update()
        bar.update(2)
        bar.set_postfix(loss="1.0", refresh=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_bar_in_a_terminal():
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    code = "from rmaat_np.system.terminal import progress_bar\n"
    code += "for _ in progress_bar(range(3), unit='image', label='drawing', initial=2, total=5): pass"
    subprocess.run([sys.executable, "-c", code], stderr=theirs, cwd=ROOT, check=True, timeout=60)
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            shown += part.decode()
    os.close(ours)
    assert "drawing" in shown and "5/5" in shown and "image/s" in shown


@pytest.mark.parametrize("module", [None, ModuleType("tqdm.auto")])
def test_a_missing_or_broken_tqdm_costs_the_bar_alone(monkeypatch, capsys, module):
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    assert list(progress_bar(range(3), unit="image")) == [0, 1, 2]
    with progress_bar(total=10, initial=4) as bar:
        bar.update()
        bar.update(2)
        bar.set_postfix(loss="1.0", refresh=False)
        assert bar.n == 7
    assert capsys.readouterr() == ("", "")


def test_a_line_above_the_bars(capsys, monkeypatch):
    write_above_bars("news")
    monkeypatch.delitem(sys.modules, "tqdm.std", raising=False)
    write_above_bars("more")
    assert capsys.readouterr() == ("news\nmore\n", "")


def test_where_lines_go(capsys):
    lines = []
    tell("news")
    tell("to the bar", write=lines.append)
    complain("wrong")
    show("result")
    assert capsys.readouterr() == ("news\nresult\n", "wrong\n") and lines == ["to the bar"]


@pytest.mark.parametrize(("call", "code"), [("tell('x' * 9)", 0), ("complain('x')", 0)])
def test_nobody_reads(call, code):
    """stdout and stderr are pipes that were closed."""
    reader, writer = os.pipe()
    os.close(reader)
    program = f"from rmaat_np.system.terminal import complain, tell\n{call}\n"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=writer, stderr=writer, cwd=ROOT, timeout=60)
    os.close(writer)
    assert done.returncode == code


def test_control_characters_of_names_never_reach_the_terminal(capsys):
    """A file may be called so that its name recolours the terminal, or rings its bell."""
    show("found a\x1b[31m\x07b, é stays\n\tindented")
    assert capsys.readouterr().out == "found a\\x1b[31m\\x07b, é stays\n\tindented\n"
