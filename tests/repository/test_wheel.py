"""What is installed is whole: a wheel in a fresh environment trains, from a folder that holds no clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = """
import pathlib, sys
import rmaat_np as rn
from rmaat_np import training
from rmaat_np.data import TASKS, load_dataset
from rmaat_np.training.settings import preset_names
assert "installed" in rn.__file__ and rn.__version__, rn.__file__
chosen = training.resolve("recall", "quick", "rmaat", {"steps": 10, "eval_every": 10})
data = load_dataset(chosen.task, chosen.data, pathlib.Path("data"))
result = training.train(training.new_run("run", chosen, data), data)
assert result["steps"] == 10
assert {"config.json", "last.npz", "best.npz", "result.json"} <= {path.name for path in pathlib.Path("run").iterdir()}
for task in TASKS:
    assert preset_names(task)
"""


@pytest.fixture
def source(tmp_path):
    """A copy of the sources: building leaves folders behind."""
    names = ("run_lra.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "requirements.txt", ".gitignore")
    leave = shutil.ignore_patterns("__pycache__", ".hypothesis", "out")
    for name in ("rmaat_np", "tests", "lessons", ".ci", ".github"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=leave)
    for name in names:
        shutil.copy(ROOT / name, tmp_path / "source")
    return tmp_path / "source"


def run(*words, cwd, **options) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, **options)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("building needs setuptools from the package index, which is out of reach")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_trains_from_another_folder(tmp_path, source):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "installed"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    run(sys.executable, "-m", "pip", "--python", environment, "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "numpy.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")  # NumPy and tqdm of this one
    free = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run(environment / "bin" / "python", "-c", TRAIN, cwd=tmp_path, env=free | {"OPENBLAS_NUM_THREADS": "1"})
    command = environment / "bin" / "rmaat"
    free.pop("OPENBLAS_NUM_THREADS", None)
    said = run(command, "--task", "recall", "--steps", "4", "--out", "again", cwd=tmp_path, env=free)
    assert said.splitlines()[-1] == f"evaluate again: {command} --eval again/best.npz"
    assert "test accuracy" in run(command, "--resume", "again", cwd=tmp_path, env=free)
    said = run(
        command, "--compare", "rmaat", "--task", "recall", "--steps", "4", "--out", "both", cwd=tmp_path, env=free
    )
    assert "`rmaat`" in said
    wrong = subprocess.run([command, "--steps", "none"], cwd=tmp_path, env=free, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("rmaat: argument --steps")


@pytest.mark.slow
def test_the_source_distribution_holds_what_its_tests_need(tmp_path, source):
    pytest.importorskip("build.__main__")  # and not a folder of that name
    run(sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path / "dist", source, cwd=tmp_path)
    (packed,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    ours = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    theirs = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert {path for path in ours - theirs if ".egg-info" not in str(path)} == set()
    run(sys.executable, "-m", "pytest", "-q", "tests/repository", "tests/data/test_own_arrays.py", cwd=unpacked)
