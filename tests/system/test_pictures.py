"""A picture costs one line on stderr at most, and the caller's matplotlib stays as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rmaat_np.errors import InputError, WriteError
from rmaat_np.system import pictures

ROOT = Path(__file__).parents[2]
DRAW = """
from pathlib import Path
from rmaat_np.system.pictures import draw_if_possible
print(draw_if_possible(Path("picture.png"), (3, 2), lambda figure: figure.subplots().plot([1, 2])))
"""


def line(figure):
    figure.subplots().plot([1, 2])


def run(code, folder, **environment):
    """Run Python code in a fresh process, in a folder. -> what it printed, stderr"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(folder / "config")} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def assert_not_drawn(path, capsys, *fragments):
    error = capsys.readouterr().err
    assert error.startswith(f"{path} is not drawn: ") and error.count("\n") == 1 and error.endswith("\n")
    assert not Path(path).exists()
    for fragment in fragments:
        assert fragment in error


def test_a_picture_is_drawn(tmp_path, capsys):
    assert pictures.draw_if_possible(tmp_path / "picture.png", (3, 2), line)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr() == ("", "") and os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize("named", ["nonsense", "module://matplotlib_inline.backend_inline", "svg", "TkAgg", ""])
def test_any_mplbackend_will_do(tmp_path, named):
    code = DRAW + "import os; print(os.environ['MPLBACKEND'] or 'empty')"
    out, err = run(code, tmp_path, MPLBACKEND=named)
    assert out == ["True", named or "empty"] and "not drawn" not in err
    assert (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("first", ["from matplotlib import pyplot", ""], ids=["pyplot first", "picture first"])
def test_the_callers_backend_stays(tmp_path, first):
    code = first + DRAW + "from matplotlib import pyplot; print(pyplot.get_backend(), len(pyplot.get_fignums()))"
    out, err = run(code, tmp_path, MPLBACKEND="svg")
    assert (out, err) == (["True", "svg", "0"], "")


def test_a_backend_that_the_caller_chose_stays(tmp_path):
    code = "import matplotlib; matplotlib.use('pdf'); from matplotlib import pyplot; pyplot.figure()"
    code += DRAW + "print(pyplot.get_backend(), len(pyplot.get_fignums()))"
    assert run(code, tmp_path, MPLBACKEND="svg") == (["True", "pdf", "1"], "")


@pytest.mark.parametrize(
    "broken",
    ["raise ImportError('no _png in this build')", "raise RuntimeError('two\\nlines')", "import nothing_of_that_name"],
)
def test_a_broken_matplotlib_is_one_line(tmp_path, broken):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text(broken, encoding="utf-8")
    out, err = run(DRAW, tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert out == ["False"] and err.count("\n") == 1
    assert err.startswith("picture.png is not drawn: matplotlib cannot be imported (")
    assert not (tmp_path / "picture.png").exists()


def test_a_missing_matplotlib_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not pictures.draw_if_possible(tmp_path / "picture.png", (3, 2), line)
    assert_not_drawn(tmp_path / "picture.png", capsys, "pip install matplotlib")
    with pytest.raises(InputError, match="pip install matplotlib"):
        pictures.new_figure(3, 2)


def test_a_path_that_cannot_be_written_is_one_line(tmp_path, capsys):
    path = tmp_path / "nowhere" / "picture.png"
    assert not pictures.draw_if_possible(path, (3, 2), line)
    assert_not_drawn(path, capsys, "cannot be written")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert not pictures.draw_if_possible(tmp_path / "file" / "picture.png", (3, 2), line)
    assert_not_drawn(tmp_path / "file" / "picture.png", capsys)
    with pytest.raises(WriteError, match="nowhere"):
        pictures.save_figure(pictures.new_figure(3, 2), path)


@pytest.mark.parametrize(
    ("error", "told"),
    [(RuntimeError("no\nfont"), "no font"), (MemoryError(), "MemoryError"), (OSError(28, "full"), "full")],
)
def test_savefig_that_raises_is_one_line(tmp_path, monkeypatch, capsys, error, told):
    def refuse(*arguments, **options):
        raise error

    (tmp_path / "picture.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", refuse)
    assert not pictures.draw_if_possible(tmp_path / "new.png", (3, 2), line)
    assert_not_drawn(tmp_path / "new.png", capsys, told)
    assert not pictures.draw_if_possible(tmp_path / "picture.png", (3, 2), line)
    assert (tmp_path / "picture.png").read_bytes() == b"old" and os.listdir(tmp_path) == ["picture.png"]


def test_a_drawing_function_that_raises_is_one_line(tmp_path, capsys):
    assert not pictures.draw_if_possible(tmp_path / "picture.png", (3, 2), lambda figure: [][0])
    assert_not_drawn(tmp_path / "picture.png", capsys, "list index")


def test_nobody_reads_stderr(tmp_path, monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    assert not pictures.draw_if_possible(tmp_path / "picture.png", (3, 2), lambda figure: [][0])


def test_an_interrupt_is_no_error_of_the_picture(tmp_path):
    def stop(figure):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pictures.draw_if_possible(tmp_path / "picture.png", (3, 2), stop)
