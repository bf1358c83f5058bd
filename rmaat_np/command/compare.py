"""--compare: the command's side of a comparison: its options, the command line of every run, and its lines."""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..system.files import make_numbered_folder
from ..system.terminal import complain, progress_bar, tell, write_above_bars
from ..training import compare as comparing
from ..training import settings
from ..training.execution import activate, with_budget
from ..training.inputs import check_same, fingerprint
from ..training.loop import Interrupted
from ..training.run import load_run
from . import options
from .actions import load_data
from .signals import exit_code, number_of, stop_requests

WRITTEN = ("table.md", "table.json", "table.png")


def compare(arguments: argparse.Namespace) -> int:
    """Train what --compare names, each with --seeds seeds, into one folder with a table."""
    comparison = plan(arguments)
    out, jobs, again = comparison.folder, comparison.jobs, comparison.command
    tell(f"{len(jobs)} run(s), {arguments.workers} at a time, into {out}")
    with progress_bar(total=sum(job.settings.train.steps for job in jobs)) as bar:
        try:
            with stop_requests() as received:
                comparing.compare(
                    comparison,
                    lambda job: argv_of(job, arguments),
                    should_stop=lambda: bool(received) or options.time_is_up(arguments),
                    on_progress=lambda done: bar.update(done - bar.n),
                    report=partial(tell, write=write_above_bars),
                )
        except Interrupted:
            bar.close()
            complain(f"stopped, every run is saved; go on with: {again}")
            return exit_code(received[0]) if received else 0  # by --stop-after, which is no failure
        except KeyboardInterrupt as stop:
            bar.close()
            complain(f"stopped at once, the runs are back at their last save; go on with: {again}")
            return exit_code(number_of(stop))
    written = " ".join(name for name in WRITTEN if (out / name).exists())
    tell((out / "table.md").read_text(encoding="utf-8") + f"\n{out}/: {written}, and a folder for each run")
    return 0 if all(job.result() for job in jobs) else 1


def plan(arguments: argparse.Namespace) -> comparing.Comparison:
    """The runs that the options ask for. What one of them would refuse is refused before the first one starts."""
    task, preset = arguments.task or "listops", arguments.preset or "quick"
    out = arguments.out or Path("runs") / f"compare-{task}-{time.strftime('%Y%m%d-%H%M%S')}"
    seeds, overrides = 1 if arguments.seeds is None else arguments.seeds, options.overrides_of(arguments)
    execution = options.execution_of(arguments)
    jobs = comparing.make_jobs(out, task, preset, arguments.compare, seeds, overrides)
    for job in jobs:
        execution.check_dtype(job.settings.train.dtype)
    activate(execution)
    dataset = load_data(jobs[0].settings, arguments)  # it also fills the stored data that the runs share
    comparing.check_models(jobs, dataset)
    found = fingerprint(dataset)
    for job in jobs:
        if (job.folder / "last.npz").exists():
            check_same(load_run(job.folder).data, found, job.folder)
    if arguments.out is None:  # after all checks: what is refused leaves no folder behind
        out = make_numbered_folder(out)
        jobs = comparing.make_jobs(out, task, preset, arguments.compare, seeds, overrides)
    return comparing.Comparison(out, jobs, options.repeated(arguments.words, out), arguments.workers)


def _budget_of(arguments: argparse.Namespace) -> float:
    """MiB that a run may keep: by default none, for the table compares memory; the runs at a time share what is auto"""
    if arguments.replay_budget is None:
        return 0
    execution = replace(options.execution_of(arguments), workers=1)
    at_a_time = arguments.workers if execution.auto_budget else 1
    return with_budget(execution).replay_budget / at_a_time / 2**20


def argv_of(job: comparing.Job, arguments: argparse.Namespace) -> list[str]:
    """The command line that starts a run of the comparison, or goes on with it, on one thread."""
    budget = _budget_of(arguments)
    words = [sys.executable, str(options.SCRIPT), *options.same_place(arguments, workers=1, replay_budget=budget)]
    if (job.folder / "last.npz").exists():
        return [*words, "--resume", str(job.folder)]
    chosen = job.settings
    words += ["--task", chosen.task, "--preset", chosen.preset, "--model", chosen.model, "--out", str(job.folder)]
    for key, value in (chosen.data | chosen.fields | chosen.to_json()["train"]).items():
        words += ["--set", settings.to_assignment(key, value)]
    return words
