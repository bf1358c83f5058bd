"""The check-out of a machine: what there is to know of this package on its device, in ten minutes, as a report.

`python -m rmaat_np.benchmark --check-out OUT` writes report.md, report.json and pictures. It computes on a CUDA device
where CuPy finds one, else with NumPy. What fails, or finds no time, is a line of the report and ends nothing.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend
from ..errors import InputError
from ..optim import adamw_init, adamw_step
from ..params import init_params
from ..step import loss_and_grads, predict
from ..system.files import make_folder, write_text
from ..system.machine import default_workers, describe, describe_blas, free_memory
from ..system.pictures import draw_if_possible
from ..system.terminal import tell
from .measure import Conditions, compiler_without_a_past, configuration, random_batch
from .tables import summarise, table

_TESTS = Path(__file__).parents[2] / "tests"  # absent where the package is installed without its repository
_COMMAND = "import sys; from rmaat_np.command.main import main; sys.exit(main())"
_LEAST = 20  # seconds: with less left, nothing more is begun
_RUN = "listops"  # the folder of the training
_PICTURES = ("speed.png", "listops_curve.png")
_NO_TIME = "no time was left"
_NO_TORCH = {"not run": "PyTorch is not installed"}
_NO_CARD = {"not run": "no card"}


@dataclass(frozen=True)
class Effort:
    """How much is done. seconds: of the whole; configs: as of `configuration`; tokens: of the long sequence;
    training: the command's options for the training on ListOps; tests: what pytest is told, or nothing"""

    seconds: float
    configs: tuple[str, ...]
    tokens: int
    training: tuple[str, ...]
    tests: tuple[str, ...]
    steps: int = 10


def full_effort() -> Effort:
    """All of it, within ten minutes. The last configuration is the preset `lra`, width 512: 2 rows without a card.

    A card reads `lra` with 8 times the rows as well, since the host's launches decide how long a small batch takes.
    """
    more = ("preset:2",) if backend.name == "numpy" else ("lra:256", "preset:32")
    training = ("--task", "listops", "--preset", "quick")
    return Effort(570, ("small", "lra", "wide", *more), 2**20, training, ("-m", "gpu"))


class CheckOut:
    """A check-out that is under way: its folder, its report so far, its deadline."""

    def __init__(self, folder: Path, effort: Effort, measure: Callable, torch: bool):
        self.folder, self.effort, self.measure, self.torch = folder, effort, measure, torch
        self.deadline = time.monotonic() + effort.seconds
        self.report: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def section(self, name: str, work: Callable[[], Any]) -> None:
        """Do a piece of work and keep what it returns; what goes wrong on an unknown device is a finding too."""
        begun = time.monotonic()
        if self.left < _LEAST:
            self.report[name] = {"not run": _NO_TIME}
        else:
            try:
                self.report[name] = work()
            except Exception as error:  # whatever a driver, a compiler or a full disk raises
                self.report[name] = {"failed": f"{type(error).__name__}: {error}"}
        tell(f"{name}: {time.monotonic() - begun:.0f} s")
        self.write()

    def write(self) -> None:
        """report.json, and report.md with the pictures that there are."""
        write_text(self.folder / "report.json", json.dumps(self.report, indent=1))
        pictures = [name for name in _PICTURES if (self.folder / name).exists()]
        write_text(self.folder / "report.md", to_markdown(self.report, pictures))


def check_out(folder: Path, measure: Callable, torch: bool, effort: Effort | None = None) -> dict:
    """Check this machine out, and write the report after every section. -> the report

    measure: `in_own_process`; torch: is PyTorch installed; effort: None for all of it
    Raises: InputError if the folder holds a check-out, perhaps of another machine.
    """
    if (folder / "report.json").exists() or (folder / _RUN).exists():
        raise InputError(f"{folder}: already holds a check-out; name another folder")
    make_folder(folder)
    without_card = _choose_backend()
    work = CheckOut(folder, effort or full_effort(), measure, torch)
    library = ["amrb-library"] * (backend.name == "numpy")  # freed memory is kept, or not, on the CPU alone
    eager = ["amrb", *library, "bptt"] + ["torch"] * torch
    work.section("device", lambda: _device(without_card) | {"seconds that it may take": work.effort.seconds})
    work.section("kernels", _compile_kernels)
    work.section("bits", lambda: _compare_methods(work))
    work.section("numpy", lambda: _compare_with_numpy(work))
    work.section("tests", lambda: _run_tests(work))
    work.section("speed", lambda: _measure_all(work, eager))
    work.section("queue", lambda: _queue(work))
    work.section("long", lambda: _measure(work, "amrb", f"long:{work.effort.tokens}"))
    work.section("training", lambda: _train(work))
    with compiler_without_a_past():
        work.section("compiled", lambda: _measure_all(work, ["torch-compile"]) if torch else _NO_TORCH)
    work.section("tf32", lambda: _NO_CARD if backend.name == "numpy" else _measure_all(work, eager, tf32=True))
    _draw(work)
    work.write()
    return work.report


def _choose_backend() -> str:
    """Use the card if there is one. -> why there is none, or the empty string"""
    try:
        backend.use("cupy")
    except backend.BackendError as error:
        backend.use("numpy")
        return str(error)
    return ""


def _device(without_card: str) -> dict:
    """What computes, with versions."""
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": describe()}
    found |= {"backend": backend.name, "blas": describe_blas(), "free_memory_bytes": free_memory()}
    if without_card:
        return found | {"no card": without_card}
    runtime = backend.xp.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    memory, version = properties["totalGlobalMem"], f"{properties['major']}.{properties['minor']}"
    found |= {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion()}
    return found | {"device_memory_bytes": memory, "compute_capability": version}


def _compile_kernels() -> dict:
    """Compile kernels.cu for both dtypes and the widths that are measured. -> seconds for each"""
    if backend.name == "numpy":
        return _NO_CARD
    seconds = {}
    for dtype in ("float32", "float64"):
        for width in (64, 128, 512):
            begun = time.perf_counter()
            backend.kernels.module(dtype, width).get_function("layer_norm_forward")
            seconds[f"{dtype}, width {width}"] = round(time.perf_counter() - begun, 2)
    return seconds


def _step(config: str, method: str = "amrb", dtype: str = "float32") -> list[np.ndarray]:
    """A step's loss and gradients, and the logits, on the host."""
    batch, cfg = configuration(config)
    tokens, labels = random_batch(min(batch, 8), cfg)
    params = init_params(cfg, dtype=dtype)
    loss, grads, _ = loss_and_grads(params, cfg, tokens, labels, method, workers=default_workers())
    logits = predict(params, cfg, tokens, default_workers())
    return [np.asarray(backend.to_host(array)) for array in (loss, logits, *grads.values())]


def _compare_methods(work: CheckOut) -> dict:
    """Has AMRB the bits of BPTT, and a second time its own?"""
    found = {}
    for config in work.effort.configs[:3]:
        first, again, bptt = (
            [array.tobytes() for array in _step(config, method)] for method in ("amrb", "amrb", "bptt")
        )
        found[config] = {"AMRB equals BPTT": first == bptt, "AMRB repeats": first == again}
    return found


def _compare_with_numpy(work: CheckOut) -> dict:
    """The largest difference of loss, logits or a gradient from NumPy's, relative to its largest entry."""
    if backend.name == "numpy":
        return _NO_CARD
    found = {}
    for config in work.effort.configs[:3]:
        for dtype in ("float64", "float32"):
            ours = _step(config, dtype=dtype)
            with backend.using(np, "numpy"):
                theirs = _step(config, dtype=dtype)
            worst = max(abs(a - b).max() / max(abs(b).max(), 1e-30) for a, b in zip(ours, theirs, strict=True))
            found[f"{config}, {dtype}"] = float(f"{worst:.1e}")
    return found


def _run_tests(work: CheckOut) -> dict:
    """The tests for a GPU: every pair and the whole model against NumPy. Without a card they are skipped."""
    if not _TESTS.is_dir():
        return {"not run": "the package is installed without its tests; run the check-out in a clone"}
    words = [sys.executable, "-m", "pytest", "-q", *work.effort.tests, str(_TESTS / "cuda")]
    done = _run(words, min(work.left, 180))
    lines = done["output"].splitlines() or [""]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"exit code": done["code"], "result": lines[-1], "failures": failed[:20]}


def _run(words: list[str], limit: float) -> dict:
    """A command, ended after so many seconds. -> its exit code, None if it was ended, and what it printed"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as process:
        try:
            return {"output": process.communicate(timeout=limit)[0], "code": process.returncode}
        except subprocess.TimeoutExpired:
            process.kill()
            return {"output": process.communicate()[0], "code": None}


def _measure(work: CheckOut, contender: str, config: str, tf32: bool = False) -> dict:
    """One contender, in a process of its own."""
    conditions = Conditions(default_workers(), steps=work.effort.steps, seconds=8, backend=backend.name, tf32=tf32)
    row = {"config": config, "contender": contender, "tf32": tf32}
    return row | summarise([work.measure("measure", contender, config, conditions, limit=work.left)])


def _measure_all(work: CheckOut, contenders: list[str], tf32: bool = False) -> list[dict]:
    """All configurations, as far as the time allows."""
    rows = []
    for config in work.effort.configs:
        for contender in contenders:
            enough = work.left > _LEAST
            row = {"config": config, "contender": contender, "tf32": tf32, "error": _NO_TIME}
            rows.append(_measure(work, contender, config, tf32) if enough else row)
    return rows


def _queue(work: CheckOut) -> dict:
    """Does the host wait within a step? It is done with queueing long before the device is done with the step.

    -> for each configuration seconds until the host has queued a step, seconds until the loss is there, and on a card
    the launches of this package's own kernels
    """
    found = {}
    for config in work.effort.configs[:3]:
        batch, cfg = configuration(config)
        tokens, labels = random_batch(batch, cfg)
        params = init_params(cfg)
        state = adamw_init(params)
        for number in range(2):  # the first one warms up
            begun = time.perf_counter()
            with _counted_launches() as launches:
                loss, grads, _ = loss_and_grads(params, cfg, tokens, labels, workers=default_workers())
                adamw_step(params, grads, state, number, 1e-3)
            queued = time.perf_counter() - begun
            float(loss)
            whole = time.perf_counter() - begun
        found[config] = {"queued": round(queued, 5), "done": round(whole, 5), "kernels": len(launches)}
    return found


@contextmanager
def _counted_launches() -> Iterator[list[str]]:
    """Inside the `with` block, a list of the launches of kernels.cu."""
    names: list[str] = []
    if not backend.kernels:
        yield names
        return
    launch = backend.kernels.launch

    def counted(name, *arguments, **options):
        names.append(name)
        launch(name, *arguments, **options)

    backend.kernels.launch = counted
    try:
        yield names
    finally:
        backend.kernels.launch = launch


def _train(work: CheckOut) -> dict:
    """ListOps, preset quick, by the command. It stops in time, with what it has reached."""
    out, limit = work.folder / _RUN, max(10, int(min(work.left - 15, 300)))
    words = [sys.executable, "-c", _COMMAND, *work.effort.training, "--backend", backend.name, "--out", str(out)]
    done = _run([*words, "--stop-after", f"{limit}s"], work.left)
    found: dict[str, Any] = {"exit code": done["code"]}
    if done["code"] != 0:
        found["last line"] = (done["output"].splitlines() or [""])[-1]
    with suppress(OSError):
        shutil.copy(out / "curve.png", work.folder / "listops_curve.png")
    with suppress(OSError, ValueError):
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        validations = [row for row in rows if "val_accuracy" in row]
        found |= {"steps": rows[-1]["step"], "validation": [(r["step"], r["val_accuracy"]) for r in validations]}
    with suppress(OSError, ValueError):
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        found |= {name: result[name] for name in ("test_accuracy", "tokens_per_second", "seconds", "majority_share")}
    return found


def to_markdown(report: dict, pictures: Sequence[str] = ()) -> str:
    """The report as a page. pictures: files beside it"""
    lines = ["# Check-out of a machine", ""]
    for name in pictures:
        lines += [f"![{name}]({name})", ""]
    for name, found in report.items():
        lines += [f"## {name}", ""]
        rows = found if isinstance(found, list) else [found] if "contender" in found else []
        if rows:
            shown = [[_cell(row.get(key)) for key in _COLUMNS] for row in rows]
            lines += [table(shown, list(_COLUMNS)), ""]
        elif isinstance(found, dict):
            lines += [f"- {key}: {_cell(value)}" for key, value in found.items()] + [""]
    return "\n".join(lines)


_COLUMNS = ("config", "contender", "tf32", "tokens_per_second", "peak_mib", "compile_seconds", "error")


def _cell(value: Any) -> Any:
    """A value as a cell of a table."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return value if value is None or type(value) is int else str(value)


def _draw(work: CheckOut) -> None:
    """speed.png: tokens per second and peak memory of all that was measured."""
    found = [rows for name in ("speed", "compiled", "tf32") if isinstance(rows := work.report.get(name), list)]
    rows = [row for part in found for row in part if "error" not in row]
    rows.sort(key=lambda row: work.effort.configs.index(row["config"]))
    if rows:
        size = (10, 0.25 * len(rows) + 1.2)
        draw_if_possible(work.folder / "speed.png", size, lambda figure: _draw_rows(figure, rows))


def _draw_rows(figure, rows: list[dict]) -> None:
    names = [f"{row['config']} {row['contender']}{' tf32' * row['tf32']}" for row in rows]
    speed, memory = figure.subplots(1, 2, sharey=True)
    speed.plot([row["tokens_per_second"] for row in rows], names, "o", color="C0")  # bars have no zero on a log scale
    memory.plot([row["peak_mib"] or math.nan for row in rows], names, "o", color="C1")
    speed.invert_yaxis()
    for axis, label in ((speed, "tokens per second"), (memory, "peak memory above idle, MiB")):
        axis.set(xscale="log", xlabel=label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
