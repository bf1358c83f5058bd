"""What is installed is whole: a wheel in a fresh environment trains, from a folder that holds no clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = """
import pathlib, sys
import rmaat_np as rn
from rmaat_np import training
from rmaat_np.data import TASKS, load_dataset
from rmaat_np.training.settings import preset_names
assert "installed" in rn.__file__, rn.__file__
chosen = training.resolve("recall", "quick", "rmaat", {"steps": 10, "eval_every": 10})
data = load_dataset(chosen.task, chosen.data, pathlib.Path("data"))
result = training.train(training.new_run("run", chosen, data), data)
assert result["steps"] == 10
assert {"config.json", "last.npz", "best.npz", "result.json"} <= {path.name for path in pathlib.Path("run").iterdir()}
for task in TASKS:
    assert preset_names(task)
"""


@pytest.mark.slow
def test_a_wheel_trains_from_another_folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()  # a copy: building leaves folders behind
    shutil.copytree(ROOT / "rmaat_np", source / "rmaat_np", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    def run(*words, **options):
        done = subprocess.run([str(word) for word in words], cwd=tmp_path, capture_output=True, text=True, **options)
        if "No matching distribution found for setuptools" in done.stderr:
            pytest.skip("building needs setuptools from the package index, which is out of reach")
        assert done.returncode == 0, done.stdout + done.stderr

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "installed"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    run(sys.executable, "-m", "pip", "--python", environment, "install", "-q", "--no-deps", wheel)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "numpy.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")  # NumPy and tqdm of this one
    free = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run(environment / "bin" / "python", "-c", TRAIN, env=free | {"OPENBLAS_NUM_THREADS": "1"})
