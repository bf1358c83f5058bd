"""Several models, or variants of one, trained with the same data, steps and schedule: `run_lra.py --compare`.

Every run is a process and a folder of its own, so that memory is measured apart. An interrupted comparison goes on:
finished runs are kept, started ones are resumed. A comparing process that is killed leaves its runs to themselves: they
go on to their end, and the same command finds their results.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ..data.dataset import Dataset
from ..errors import InputError
from ..system.files import make_folder, only_process, write_text
from . import settings
from .compare_table import AT, draw_table, markdown
from .loop import Interrupted
from .metrics import last_step
from .run import first_params, refuse_to_overwrite

SHARES = {"test_accuracy", "val_accuracy", "majority_share"}  # in a result, 0 .. 1
NUMBERS = SHARES | {"seed", "steps", "seconds", "parameters", "seconds_per_step", "tokens_per_second"}  # 0 or more
_TEXTS = {"date", "machine", "task"}
_SCHEDULE = {"steps", "batch_size", "warmup_steps", "eval_every", "patience", "seed"}  # the same for all, as the data
_POLL = 0.2  # seconds between two looks at the running processes
_REASON = 10_000  # bytes at the end of a process's stderr in which its last line is looked for


@dataclass(frozen=True)
class Job:
    """One run of a comparison: a variant with one seed, its folder, and its settings."""

    variant: str
    folder: Path
    settings: settings.Settings

    @property
    def name(self) -> str:
        """The variant and the seed."""
        return self.folder.name

    def result(self) -> dict | None:
        """What the run wrote when it was finished, or None. Raises: InputError if that is damaged."""
        return read_result(self.folder)

    def steps_done(self) -> int:
        """How far the run has come, as its files tell."""
        done = (self.folder / "result.json").exists()
        return self.settings.train.steps if done else last_step(self.folder / "metrics.jsonl")


@dataclass(frozen=True)
class Comparison:
    """The runs of a comparison, its folder, the command that repeats it, and how many runs there are at a time."""

    folder: Path
    jobs: list[Job]
    command: str
    at_a_time: int


@dataclass(frozen=True)
class Started:
    """A run that is under way, and the file that keeps its stderr."""

    job: Job
    process: subprocess.Popen
    errors: IO[bytes]


def read_result(folder: Path) -> dict | None:
    """What the run in a folder wrote when it was finished, or None. Raises: InputError if that is damaged."""
    path = folder / "result.json"
    result = _read_json(path) if path.exists() else {}
    if "peak_memory_bytes" not in result:  # an older program wrote it, or only half of it
        return None
    peak = {} if result["peak_memory_bytes"] is None else {"peak_memory_bytes": result["peak_memory_bytes"]}
    numbers: dict[str, Any] = {name: result.get(name) for name in NUMBERS} | peak
    if (
        not all(type(number) in (int, float) and 0 <= number < float("inf") for number in numbers.values())
        or not all(numbers[name] <= 1 for name in SHARES)
        or not all(type(result.get(name)) is str for name in _TEXTS)
    ):
        raise _unreadable(path)
    return result


def _read_json(path: Path) -> dict:
    """A file of a run. Raises: InputError naming it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise _unreadable(path) from None
    if not isinstance(content, dict):
        raise _unreadable(path)
    return content


def _unreadable(path: Path) -> InputError:
    """The error for a damaged file of a compared run."""
    return InputError(f"{path}: is not readable; remove {path.parent}, and that run is done again")


def parse_variants(text: str) -> list[str]:
    """'rmaat,rmt+method=amrb' -> the name of each. Raises: InputError for what is empty or twice."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name or {"/", os.sep} & set(name):
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
    if shared := sorted(fields.keys() & (_SCHEDULE | resolved.data.keys())):
        raise InputError(
            f"--compare {name}: {shared[0]} must be the same for all; set it with --set, or seeds with --seeds"
        )
    return resolved


def make_jobs(out: Path, task: str, preset: str, variants: str, seeds: int, overrides: dict) -> list[Job]:
    """All runs of a comparison, seed after seed. variants: as for `parse_variants`

    Raises: InputError for options that one of the runs would refuse.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: must be at least 1")
    if not (out / "table.json").exists():
        refuse_to_overwrite(out)
    chosen = {name: resolve_variant(name, task, preset, overrides) for name in parse_variants(variants)}
    first, jobs = next(iter(chosen.values())).train.seed, []
    for seed in range(first, first + seeds):
        for name, resolved in chosen.items():
            seeded = replace(resolved, train=replace(resolved.train, seed=seed))
            jobs.append(Job(name, out / f"{name}-seed{seed}", seeded))
    for job in jobs:
        path = job.folder / "config.json"
        if path.exists() and _settings_in(path) != job.settings:
            raise InputError(f"{path}: belongs to a run with other settings; choose another --out")
    return jobs


def _settings_in(path: Path) -> settings.Settings | None:
    """The settings of a run, from its config.json; fields that are younger than the run have their defaults."""
    try:
        return settings.Settings.from_json(_read_json(path)["settings"])
    except (KeyError, TypeError, AttributeError):
        return None


def check_models(jobs: list[Job], dataset: Dataset) -> None:
    """Refuse runs that could not start. A finished run is not looked at.

    Raises: InputError naming the first variant that cannot read the data, or cannot start from its init=.
    """
    for job in {job.variant: job for job in jobs if job.result() is None}.values():
        try:
            first_params(job.settings.config(dataset), job.settings.train)
        except InputError as error:
            raise InputError(f"--compare {job.variant}: {error}") from None


def compare(
    comparison: Comparison,
    argv_of: Callable[[Job], list[str]],
    should_stop: Callable[[], bool],
    on_progress: Callable[[int], object],
    report: Callable[[str], object],
) -> list[dict]:
    """Run what is not finished; after each run, write table.md, table.json and table.png.

    argv_of: the command line that starts or resumes a run; should_stop: asked several times a second; on_progress: told
    the steps that all runs together have done; report: told a line of text for every run that ended
    -> one row for each finished run
    Raises: Interrupted if should_stop says so, once every run has saved its state.
    """
    make_folder(comparison.folder)
    with only_process(comparison.folder):
        failed: dict[str, str] = {}
        running: list[Started] = []
        rows = _write_tables(comparison, failed)
        drawable = not rows or draw_table(rows, comparison.folder / "table.png")
        waiting = [job for job in comparison.jobs if job.result() is None]
        on_progress(sum(job.steps_done() for job in comparison.jobs))
        try:
            while running or (waiting and not should_stop()):
                while waiting and len(running) < comparison.at_a_time and not should_stop():
                    job = waiting.pop(0)
                    running.append(start(job, argv_of(job)))
                ended = wait(running, should_stop)
                on_progress(sum(job.steps_done() for job in comparison.jobs))
                for started in ended:
                    running.remove(started)
                    failed |= close(started)
                    rows = _write_tables(comparison, failed)
                    # what cannot be drawn once cannot be drawn later: one line says so, not one for every run
                    drawable = drawable and (not rows or draw_table(rows, comparison.folder / "table.png"))
                    report(f"{started.job.name}: {failed.get(started.job.name) or told(started.job)}")
        finally:
            for started in running:
                started.process.kill()
                started.process.wait()
                started.errors.close()
        if should_stop():
            _write_tables(comparison, failed)
            raise Interrupted(folder=comparison.folder)
    return rows


def start(job: Job, argv: list[str]) -> Started:
    """Start a run in a session of its own: a Ctrl-C in the terminal reaches only the comparing process."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it); not a pipe, which would be full some day
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,  # without effect on Windows, which has the next line instead
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    return Started(job, process, errors)


def ask_to_stop(process: subprocess.Popen) -> None:
    """Send the signal after which a run saves its state. On Windows that needs a console; without one, just end it."""
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
    except OSError:
        process.terminate()


def wait(running: list[Started], should_stop: Callable[[], bool]) -> list[Started]:
    """Wait for a moment, or, if the comparison is to stop, until every run has saved.

    -> the processes that have ended by themselves; none if the comparison is to stop
    """
    if should_stop():
        for started in running:
            ask_to_stop(started.process)
        for started in running:
            started.process.wait()
            started.errors.close()
        running.clear()
    elif running:
        with suppress(subprocess.TimeoutExpired):
            running[0].process.wait(_POLL)
    return [started for started in running if started.process.poll() is not None]


def close(started: Started) -> dict[str, str]:
    """Close what an ended run leaves open. -> {its name: why it left no result}, or {}"""
    code = started.process.wait()
    with started.errors as errors:
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _REASON))
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    if started.job.result() is not None:
        return {}
    told_why = lines and code > 0  # killed, it told nothing of it
    reason = re.sub(r"^\S+\.py: ", "", lines[-1]) if told_why else f"ended with exit code {code}"  # without its name
    return {started.job.name: reason}


def told(job: Job) -> str:
    """A finished run in half a line."""
    result = job.result() or {}
    return f"test accuracy {result['test_accuracy']:.3f}, {result['seconds']:.0f} s"


def state(job: Job) -> str:
    """What to say of a run that has no result."""
    return "not finished" if (job.folder / "last.npz").exists() else "not yet"


def rows_of(comparison: Comparison) -> list[dict]:
    """The finished runs as flat records, each with what it takes to repeat it."""
    before = _rows_before(comparison.folder / "table.json")
    rows = []
    for job in comparison.jobs:
        result = job.result()
        if result is not None:
            at_a_time = before.get(job.name, {}).get("runs_at_a_time") or comparison.at_a_time
            shape = {"preset": job.settings.preset, "batch_size": job.settings.train.batch_size}
            longer = {f"{AT}{tokens}": found["accuracy"] for tokens, found in result.get("longer", {}).items()}
            result = {name: value for name, value in result.items() if not isinstance(value, dict)}  # the table is flat
            how = {"runs_at_a_time": at_a_time} | result | longer | shape | {"command": comparison.command}
            rows.append({"variant": job.variant} | how)
    return rows


def _rows_before(path: Path) -> dict[str, dict]:
    """The rows that table.json holds, by the runs' names; none if it is missing or damaged."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {f"{row['variant']}-seed{row['seed']}": row for row in rows}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _write_tables(comparison: Comparison, failed: dict[str, str]) -> list[dict]:
    """Write table.json and table.md for what is finished, naming what is not. -> the rows

    failed: the run's name -> why it has no result
    """
    rows, out = rows_of(comparison), comparison.folder
    done = {f"{row['variant']}-seed{row['seed']}" for row in rows}
    missing = {job.name: failed.get(job.name) or state(job) for job in comparison.jobs if job.name not in done}
    write_text(out / "table.json", json.dumps(rows, indent=1))
    write_text(out / "table.md", markdown(rows, missing))
    return rows
