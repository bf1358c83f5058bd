"""What several ranks cost: their steps, messages and waiting; and a model of more ranks than there are here.

The model of a sum over R ranks of n bytes: every rank sends R - 1 slices to be added, and R - 1 slices of the result,

    seconds = 2 (R - 1) latency + 2 n (R - 1) / R * seconds per byte

An MPI library needs fewer messages where they are small, so the model is an upper bound there.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from ..errors import InputError
from ..optim import adamw_init, adamw_step
from ..params import count_parameters, init_params
from ..step import Share, loss_and_grads
from ..system.machine import keep_freed_memory
from ..system.pictures import draw_if_possible
from ..system.terminal import progress_bar
from ..training.ranks import join, mpiexec
from .measure import Conditions, configuration, random_batch
from .tables import table

MESSAGES = [2**k for k in range(6, 27, 2)]  # bytes, up to 64 MiB
MANY = [2**k for k in range(1, 11)]  # ranks of the model
LARGE = ("100 M parameters", 100_000_000)
_LIMIT = 900  # seconds for a job


@dataclass(frozen=True)
class Link:
    """What connects two ranks: seconds until a message begins to arrive, and seconds for each byte."""

    latency: float
    per_byte: float

    def seconds(self, ranks: int, nbytes: float) -> float:
        """A sum of so many bytes over so many ranks."""
        return 2 * (ranks - 1) * (self.latency + nbytes / ranks * self.per_byte)


def fit(messages: list, ranks: int) -> Link:
    """The link that explains measured sums best, in the sense of relative errors. messages: [bytes, seconds] pairs"""
    nbytes, seconds = np.array(messages).T
    terms = 2 * (ranks - 1) * np.stack([np.ones_like(nbytes), nbytes / ranks], axis=1)
    latency, per_byte = np.linalg.lstsq(terms / seconds[:, None], np.ones_like(seconds), rcond=None)[0]
    return Link(max(float(latency), 0.0), max(float(per_byte), 0.0))


def measure_ranks(config: str, conditions: Conditions) -> dict | None:
    """In each rank of a job: time training steps. -> on rank 0 the row of `compare_ranks`, on the others None

    conditions: threads are this rank's workers
    """
    keep_freed_memory()
    ranks = join()
    batch, cfg = configuration(config)
    tokens, labels = random_batch(batch, cfg)
    params = init_params(cfg, dtype=conditions.dtype)
    state, parts = adamw_init(params), [0.0, 0.0, 0]  # seconds of waiting, of the sum, and its bytes

    def timed_sum(flat):
        begun = time.perf_counter()
        ranks.gather(None)  # until the slowest rank is here
        met = time.perf_counter()
        total = ranks.share.sum_over_ranks(flat)
        parts[:] = met - begun, time.perf_counter() - met, flat.nbytes
        return total

    share = Share(ranks.rank, ranks.size, timed_sum)
    steps: list[tuple[float, ...]] = []
    for number in range(1 + conditions.steps):
        begun = time.perf_counter()
        _, grads, _ = loss_and_grads(params, cfg, tokens, labels, workers=conditions.threads, share=share)
        adamw_step(params, grads, state, number, 1e-3)
        ranks.gather(None)
        steps.append((time.perf_counter() - begun, *parts))
    seconds, *mine = (median(column) for column in zip(*steps[1:], strict=True))  # the first one warms up
    waiting, transfer, nbytes = (sum(column) / ranks.size for column in zip(*ranks.gather(mine), strict=True))
    row = {"config": config, "ranks": ranks.size, "workers": conditions.threads, "seconds": seconds, "batch": batch}
    row |= {"tokens_per_second": batch * cfg.max_length / seconds, "bytes": int(nbytes)}
    row |= {"waiting": waiting, "transfer": transfer, "parameters": count_parameters(params)}
    if ranks.size > 1:
        row["messages"] = [[n, _time_sum(ranks, n)] for n in MESSAGES]
    return row if ranks.rank == 0 else None


def _time_sum(ranks, nbytes: int) -> float:
    """Seconds for the sum of so many bytes, of all ranks' arrays."""
    flat, times = np.ones(nbytes // 4, dtype=np.float32), []
    for _ in range(3 + min(20, 2**24 // nbytes)):
        ranks.gather(None)
        begun = time.perf_counter()
        ranks.share.sum_over_ranks(flat)
        times.append(time.perf_counter() - begun)
    return median(times)


def compare_ranks(configs: list[str], counts: list[int], rounds: int, conditions: Conditions) -> list[dict]:
    """Rounds of all numbers of ranks in turn, which share conditions.threads. -> a row of medians for each

    Raises: InputError if there is no launcher, or with the last line of a job that failed.
    """
    rows = []
    with progress_bar(total=len(configs) * len(counts) * rounds, unit="job") as bar:
        for config in configs:
            found: dict[int, list[dict]] = {count: [] for count in counts}
            for _ in range(rounds):
                for count in counts:
                    own = replace(conditions, threads=max(1, conditions.threads // count))
                    found[count].append(_run_job(count, config, own))
                    bar.update()
            rows += [_medians(results) for results in found.values()]
    return rows


def _medians(results: list[dict]) -> dict:
    """One row of several. All sums of messages are kept, for the fit."""
    numbers = ("seconds", "tokens_per_second", "waiting", "transfer")
    row = results[0] | {name: median(result[name] for result in results) for name in numbers}
    if "messages" in row:
        columns = zip(*(result["messages"] for result in results), strict=True)
        row["messages"] = [[pairs[0][0], median(seconds for _, seconds in pairs)] for pairs in columns]
    return row


def _run_job(count: int, config: str, conditions: Conditions) -> dict:
    """Measure in a job of its own. Raises: InputError."""
    request = {"work": "ranks", "contender": "amrb", "config": config, "conditions": asdict(conditions)}
    # Hydra gives each rank a session of its own, and then Linux's autogroups share a busy machine out by sessions.
    launcher = Path(mpiexec()).with_name("mpiexec.gforker")
    words = [str(launcher) if launcher.exists() else mpiexec(), "-n", str(count)]
    words += [sys.executable, "-m", "rmaat_np.benchmark", "--child", json.dumps(request)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_LIMIT,
        )
    except OSError as error:
        raise InputError(f"{words[0]}: cannot be started ({error.strerror}); pip install mpi4py mpich") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{config} with {count} ranks: no result within {_LIMIT} s; lower --steps") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        raise InputError(f"{config} with {count} ranks: {reason}")
    return json.loads(lines[-1])


def model_rows(rows: list[dict]) -> tuple[Link, list[dict]]:
    """The link, from the messages of the largest job; and for every size the efficiency of 2 to 1,024 ranks.

    Efficiency is the speed per rank, as a share of that of the smallest job. growing: the batch grows with the ranks;
    fixed: it stays, and ranks beyond its rows have nothing to do. Waiting for the slowest rank is not in the model.
    The large model's work is that of "wide", or else of the last size, times its parameters.
    """
    largest = max(rows, key=lambda row: row["ranks"])
    link = fit(largest["messages"], largest["ranks"])
    smallest = min(row["ranks"] for row in rows)
    first = {row["config"]: row for row in rows if row["ranks"] == smallest}
    nbytes = {row["config"]: row["bytes"] for row in rows if row["ranks"] == largest["ranks"]}
    sizes = {name: (row["seconds"], nbytes[name], row["batch"]) for name, row in first.items()}
    like = first.get("wide") or list(first.values())[-1]
    sizes[LARGE[0]] = like["seconds"] * LARGE[1] / like["parameters"], 4 * LARGE[1], like["batch"]
    modelled = []
    for name, (work, size, batch) in sizes.items():
        costs = [link.seconds(ranks, size) for ranks in MANY]
        growing = [work / (work + cost) for cost in costs]
        fixed = [work / (work / min(n, batch) + cost) / n for n, cost in zip(MANY, costs, strict=True)]
        modelled.append({"config": name, "batch": batch, "growing": growing, "fixed": fixed})
    return link, modelled


def ranks_table(rows: list[dict], link: Link) -> str:
    """What was measured, beside the model's transfer: a line for each size and number of ranks."""
    columns = ["", "ranks x workers", "tokens/s", "of the first", "step, ms", "sum, kB", "transfer, ms", "of a step"]
    columns += ["model, ms", "waiting, ms"]
    lines: list[list] = []
    first: dict[str, float] = {}
    for row in rows:
        base = first.setdefault(row["config"], row["tokens_per_second"])
        cells = [row["config"], f"{row['ranks']} x {row['workers']}", round(row["tokens_per_second"])]
        cells += [f"{row['tokens_per_second'] / base:.2f}", f"{1e3 * row['seconds']:.0f}"]
        if row["ranks"] > 1:
            modelled = link.seconds(row["ranks"], row["bytes"])
            cells += [round(row["bytes"] / 1e3), f"{1e3 * row['transfer']:.2f}"]
            cells += [f"{100 * row['transfer'] / row['seconds']:.1f} %", f"{1e3 * modelled:.2f}"]
            cells += [f"{1e3 * row['waiting']:.1f}"]
        lines.append(cells + [None] * (len(columns) - len(cells)))
    return table(lines, columns)


def efficiency_table(modelled: list[dict]) -> str:
    """The model: two lines for each size, a column for each number of ranks."""
    lines = []
    for row in modelled:
        for kind, what in (("growing", "growing batch"), ("fixed", f"{row['batch']} rows")):
            lines.append([f"{row['config']}, {what}", *(f"{100 * share:.0f} %" for share in row[kind])])
    return table(lines, ["", *(f"{ranks:,}" for ranks in MANY)])


def describe_link(link: Link) -> str:
    """In one line."""
    speed = f", {1e-9 / link.per_byte:.1f} GB/s" if link.per_byte else ""
    return f"latency {1e6 * link.latency:.0f} µs{speed}"


def draw_efficiency(modelled: list[dict], link: Link, path: Path) -> bool:
    """The model as a PNG file. -> whether it was written"""

    def draw(figure) -> None:
        kinds = {"growing": "the batch grows with the ranks", "fixed": "the batch stays"}
        for axis, (kind, title) in zip(figure.subplots(1, 2, sharey=True), kinds.items(), strict=True):
            for row, mark in zip(modelled, "os^d", strict=False):
                axis.plot(MANY, [100 * share for share in row[kind]], marker=mark, label=row["config"])
            axis.set(xscale="log", xlabel="ranks", ylim=(0, 105))
            axis.set_xticks(MANY[::3], [f"{ranks:,}" for ranks in MANY[::3]])
            axis.set_title(title, fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_ylabel("efficiency, %" if kind == "growing" else "")
        axis.legend(frameon=False)
        figure.suptitle(f"model: {describe_link(link)}", fontsize=9)

    return draw_if_possible(path, (8, 3.4), draw)
