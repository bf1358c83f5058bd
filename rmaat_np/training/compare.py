"""Several models, or variants of one, trained with the same data, steps and schedule: `run_lra.py --compare`.

Every run is a process and a folder of its own, `--workers` of them at a time with one thread each, so that memory is
measured apart. The same command goes on after an interruption: finished runs are kept, started ones are resumed.
"""

import json
import multiprocessing
import os
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path

from .. import backend
from ..data import load_dataset
from ..errors import InputError
from ..system import machine, terminal
from ..system.files import make_folder, only_process, write_atomically
from . import settings
from .compare_table import draw_table, markdown
from .folder import stop_requests
from .loop import Diverged, Interrupted, train
from .run import first_params, load_run, new_run, refuse_to_overwrite

SHARES = {"test_accuracy", "majority_share"}  # in a result, 0 .. 1
NUMBERS = SHARES | {"seed", "steps", "seconds", "parameters", "seconds_per_step", "tokens_per_second"}  # 0 or more
TEXTS = {"date", "machine", "task"}
SCHEDULE = {"steps", "batch_size", "warmup_steps", "eval_every", "seed"}  # with the data, the same for all variants


@dataclass(frozen=True)
class Job:
    """One run of a comparison: a variant with one seed, its settings, and where its data are."""

    variant: str
    folder: Path
    settings: settings.Settings
    data_dir: Path
    cache_dir: Path | None
    backend: str
    replay_budget: int
    tf32: bool
    at_a_time: int

    def result(self) -> dict | None:
        """What the run wrote when it was finished, or None. Raises: InputError if that is damaged."""
        path = self.folder / "result.json"
        result = read_json(path) if path.exists() else {}
        if "peak_memory_bytes" not in result:  # which is added last
            return None
        peak = {} if result["peak_memory_bytes"] is None else {"peak_memory_bytes": result["peak_memory_bytes"]}
        numbers = {name: result.get(name) for name in NUMBERS | {"runs_at_a_time"}} | peak
        if (
            not all(type(number) in (int, float) and 0 <= number < float("inf") for number in numbers.values())
            or not all(numbers[name] <= 1 for name in SHARES)
            or not all(type(result.get(name)) is str for name in TEXTS)
        ):
            raise unreadable(path)
        return result


def read_json(path: Path) -> dict:
    """A file of a run. Raises: InputError naming it."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError):
        raise unreadable(path) from None
    if not isinstance(content, dict):
        raise unreadable(path)
    return content


def unreadable(path: Path) -> InputError:
    """The error for a damaged file of a compared run."""
    return InputError(f"{path}: is not readable; remove {path.parent}, and that run is done again")


def parse_variants(text: str) -> list[str]:
    """'rmaat,rmt+method=amrb' -> the name of each. Raises: InputError for what is empty or twice."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name or "/" in name:
            raise InputError(f"--compare {text}: {name!r} is not MODEL or MODEL+KEY=VALUE; separate them by commas")
        if names.count(name) > 1:
            raise InputError(f"--compare {text}: {name} is there twice; name it once, and repeat it with --seeds")
    return names


def resolve_variant(name: str, task: str, preset: str, overrides: dict) -> settings.Settings:
    """Settings of 'MODEL+KEY=VALUE+...'. Raises: InputError naming the variant for what is unknown or not its own."""
    model, *own = name.split("+")
    try:
        fields = dict(map(settings.parse_assignment, own))
        resolved = settings.resolve(task, preset, model, overrides | fields)
    except InputError as error:
        raise InputError(f"--compare {name}: {error}") from None
    if shared := sorted(fields.keys() & (SCHEDULE | resolved.data.keys())):
        raise InputError(
            f"--compare {name}: {shared[0]} must be the same for all; set it with --set, or seeds with --seeds"
        )
    return resolved


def make_jobs(out: Path, task: str, preset: str, text: str, seeds: int, overrides: dict, **where) -> list[Job]:
    """All runs of a comparison, seed after seed. Raises: InputError for options that one of them would refuse."""
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: must be at least 1")
    if not (out / "table.json").exists():
        refuse_to_overwrite(out)
    variants = {name: resolve_variant(name, task, preset, overrides) for name in parse_variants(text)}
    first, jobs = next(iter(variants.values())).train.seed, []
    for seed in range(first, first + seeds):
        for name, resolved in variants.items():
            seeded = replace(resolved, train=replace(resolved.train, seed=seed))
            jobs.append(Job(name, out / f"{name}-seed{seed}", seeded, **where))
    for job in jobs:
        path = job.folder / "config.json"
        if path.exists() and read_json(path).get("settings") != job.settings.to_json():
            raise InputError(f"{path}: belongs to a run with other settings; choose another --out")
    return jobs


def check_models(jobs: list[Job], dataset) -> None:
    """Raises: InputError naming the first variant, not finished, that cannot read the data, or start from its init=."""
    for job in {job.variant: job for job in jobs if job.result() is None}.values():
        try:
            first_params(job.settings.config(dataset), job.settings.train)
        except InputError as error:
            raise InputError(f"--compare {job.variant}: {error}") from None


def compare(out: Path, jobs: list[Job], command: str, bar) -> list[dict]:
    """Run what is not finished; after each, write table.md, table.json and table.png into `out`.

    bar: a tqdm bar, advanced by steps
    -> one row for each finished run
    Raises: Interrupted after SIGINT or SIGTERM, once every run has saved its state.
    """
    make_folder(out)
    failed, running, asked = {}, [], False
    with only_process(out), stop_requests() as stop:
        waiting = [job for job in jobs if job.result() is None]
        bar.update(sum(job.settings.train.steps for job in jobs if job not in waiting))
        rows = write_tables(out, jobs, failed, command)
        try:
            while running or (waiting and not stop):
                while waiting and len(running) < jobs[0].at_a_time and not stop:
                    running.append(start(waiting.pop(0)))
                if stop and not asked:
                    asked = True
                    for _, process, _ in running:
                        process.terminate()  # it saves its state first
                wait([process.sentinel for _, process, _ in running], timeout=0.2)
                ended = [job for job, process, pipe in running if has_ended(job, process, pipe, bar, failed)]
                running = [started for started in running if started[0] not in ended]
                for job in () if stop else ended:
                    rows = write_tables(out, jobs, failed, command)
                    terminal.tell(f"{job.folder.name}: {failed.get(job.folder.name) or told(job)}", report=bar.write)
        finally:
            for _, process, _ in running:
                process.kill()
        if stop:
            raise Interrupted(stop[0])
    return rows


def told(job: Job) -> str:
    """A finished run in half a line."""
    result = job.result()
    return f"test accuracy {result['test_accuracy']:.3f}, {result['seconds']:.0f} s"


def state(job: Job) -> str:
    """Of a run that has no result."""
    return "not finished" if (job.folder / "last.npz").exists() else "not yet"


def start(job: Job):
    """Start a run in a process of its own. -> job, process, the pipe on which it tells its steps."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=run_job, args=(job, theirs))
    process.start()
    theirs.close()
    return job, process, ours


def has_ended(job: Job, process, pipe, bar, failed: dict) -> bool:
    """Take what a run has told, steps for the bar and why it failed, and say whether its process has ended."""
    exit_code = process.exitcode  # first: what is told until then is in the pipe
    with suppress(EOFError, OSError):
        while pipe.poll():
            message = pipe.recv()
            if isinstance(message, str):
                failed[job.folder.name] = message
            else:
                bar.update(message)
    if exit_code is not None and job.result() is None:
        failed.setdefault(job.folder.name, f"ended with exit code {exit_code}")
    return exit_code is not None


class PipeBar:
    """Stands for the progress bar in a run's process; tells the comparing process of every tenth step."""

    def __init__(self, pipe, done: int):
        self.pipe, self.pending, self.steps = pipe, done, 0

    def update(self) -> None:
        """One more step is done. Ends the process if nobody listens any more; the run can be resumed."""
        self.pending, self.steps = self.pending + 1, self.steps + 1
        if self.pending >= 10:
            try:
                self.pipe.send(self.pending)
            except OSError:
                sys.exit(1)
            self.pending = 0

    def set_postfix(self, **_) -> None:
        """Not shown."""

    def write(self, _) -> None:
        """Not shown: metrics.jsonl holds the validation scores."""


def run_job(job: Job, pipe) -> None:
    """A run's process: start or resume it, train it to its end, and add the peak memory to its result."""
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="rmaat_np")  # as run_lra.py: it is reported
    os.setsid()  # a Ctrl-C in the terminal reaches only the comparing process, which asks every run to save
    try:
        backend.use(job.backend)
        if job.tf32:
            backend.allow_tf32()
        machine.keep_freed_memory()
        dataset = load_dataset(job.settings.task, job.settings.data, job.data_dir, job.cache_dir)
        resumed = (job.folder / "last.npz").exists()
        run = load_run(job.folder) if resumed else new_run(job.folder, job.settings, dataset)
        bar = PipeBar(pipe, run.progress.step)
        with machine.PeakMemory(device=job.backend == "cupy") as memory:
            result = train(run, dataset, replay_budget=job.replay_budget, bar=bar)
        result |= {
            "seconds_per_step": run.progress.seconds / run.progress.step,
            "peak_memory_bytes": memory.peak if bar.steps > 1 else None,  # of a process that has trained
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine.describe(),
            "runs_at_a_time": job.at_a_time,
        }
        text = json.dumps(result, indent=1).encode()
        write_atomically(job.folder / "result.json", lambda file: file.write(text))
        pipe.send(bar.pending)
    except Interrupted as stop:
        sys.exit(128 + stop.args[0])
    except (InputError, Diverged, backend.BackendError, OSError, MemoryError) as error:
        pipe.send(str(error))
        sys.exit(2)


def rows_of(jobs: list[Job], command: str) -> list[dict]:
    """The finished runs as flat records, each with what it takes to repeat it."""
    rows = []
    for job in jobs:
        result = job.result()
        if result is not None:
            shape = {"preset": job.settings.preset, "batch_size": job.settings.train.batch_size}
            rows.append({"variant": job.variant} | result | shape | {"command": command})
    return rows


def write_tables(out: Path, jobs: list[Job], failed: dict, command: str) -> list[dict]:
    """Write table.json, table.md and table.png for what is finished, naming what is not. -> the rows."""
    rows = rows_of(jobs, command)
    done = {f"{row['variant']}-seed{row['seed']}" for row in rows}
    missing = {
        job.folder.name: failed.get(job.folder.name) or state(job) for job in jobs if job.folder.name not in done
    }
    texts = {"table.json": json.dumps(rows, indent=1), "table.md": markdown(rows, missing)}
    for name, text in texts.items():
        write_atomically(out / name, lambda file, text=text: file.write(text.encode()))
    if rows:
        draw_table(rows, out / "table.png")
    return rows
