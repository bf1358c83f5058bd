"""Speed and memory of training steps: this package beside the same model in PyTorch. `python -m rmaat_np.benchmark`

Every measurement runs in a process of its own with the same number of threads. The contenders take turns for several
rounds, and medians are reported. Peak memory is what a process needs above its idle state, in which everything is
loaded and nothing is computed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from .. import backend
from ..errors import InputError
from ..processor import KEPT
from ..system.files import write_atomically
from ..system.machine import default_workers, describe, describe_blas
from ..system.terminal import Parser, progress_bar, tell
from .check_out import check_out
from .measure import (
    CONFIGS,
    QUARTERS,
    Conditions,
    agreement,
    compiler_without_a_past,
    configuration,
    is_torch,
    measure,
)
from .ranks import (
    compare_ranks,
    draw_efficiency,
    efficiency_table,
    measure_ranks,
    model_rows,
    ranks_table,
)
from .tables import (
    CONTENDERS,
    KEEPING,
    check_targets,
    draw_long,
    long_table,
    speed_table,
    summarise,
    table,
    target_table,
)

_LONG_LIMIT = 8 * 2**30  # bytes: a contender that has passed this is not measured at longer sequences
LONG_LENGTHS = [2**k for k in range(14, 21)]
NOT_LONG = ("amrb-library", "amrb-quarter", "torch-compile")
_LONG_COLUMNS = ["", "", "tokens/s", "peak MiB"]
REMEDY = "pip install torch, or measure --contenders amrb bptt"


def in_own_process(work: str, contender: str, config: str, conditions: Conditions, limit: float | None = None) -> dict:
    """Do a piece of work in a fresh process.

    work: "measure" or "agreement"; config: as of `configuration`; limit: seconds after which the process is ended
    -> what the function of that name returned, or {"error": one line}
    """
    threads = {"OPENBLAS_NUM_THREADS": str(conditions.threads if is_torch(contender) else 1)}
    threads |= {"OMP_NUM_THREADS": str(conditions.threads)}
    request = {"work": work, "contender": contender, "config": config, "conditions": asdict(conditions)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rmaat_np.benchmark", "--child", json.dumps(request)],
            env=os.environ | threads,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def _do_request(request: dict) -> dict | None:
    """The work that `in_own_process` or `compare_ranks` asked of this process; None: another rank has the result."""
    conditions = Conditions(**request["conditions"])
    if request["work"] == "ranks":
        return measure_ranks(request["config"], conditions)
    batch, cfg = configuration(request["config"])
    if request["contender"] == "amrb-quarter":
        conditions = replace(conditions, replay_budget=QUARTERS[request["config"]])
    if request["work"] == "agreement":
        return agreement(batch, cfg, conditions)
    return measure(request["contender"], batch, cfg, conditions)


def _kept_by(contender: str) -> str:
    """How much freed memory it keeps from step to step."""
    return "all" if contender in KEEPING else f"up to {KEPT // 2**20} MiB of"


def compare(configs: list[str], contenders: list[str], rounds: int, conditions: Conditions) -> Iterator[dict]:
    """Rounds of all contenders in turn for every configuration. -> a row of medians for each pair of the two."""
    with progress_bar(total=len(configs) * len(contenders) * rounds) as bar, compiler_without_a_past():
        bar.unit = "process"
        for config in configs:
            runs: dict[str, list[dict]] = {contender: [] for contender in contenders}
            for _ in range(rounds):
                for contender in contenders:
                    bar.set_description(f"{config} {contender}")
                    runs[contender].append(in_own_process("measure", contender, config, conditions))
                    bar.update()
            for name, results in runs.items():
                row = {"config": config, "contender": name, "keeps_freed_memory": _kept_by(name)}
                yield row | summarise(results)


def _long_sequences(contenders: list[str], conditions: Conditions) -> list[dict]:
    """One sequence of 16 thousand to 1 million tokens per step, each told as it is measured.

    A contender that failed or passed LONG_LIMIT is not measured any further.
    """
    tell(table([], _LONG_COLUMNS))
    rows, remaining = [], list(contenders)
    for length in LONG_LENGTHS:
        for contender in list(remaining):
            row: dict[str, Any] = {"config": f"long:{length}", "contender": contender}
            row |= summarise([in_own_process("measure", contender, row["config"], conditions)])
            cells = [row["config"], contender, row.get("error") or row["tokens_per_second"], row.get("peak_mib")]
            tell(table([cells], _LONG_COLUMNS).splitlines()[-1])
            rows.append(row)
            if "error" in row or (row["peak_mib"] or 0) * 2**20 > _LONG_LIMIT:
                remaining.remove(contender)
    return rows


def _make_parser() -> Parser:
    """The options."""
    parser = Parser(prog="rmaat_np.benchmark", description=__doc__, allow_abbrev=False)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="default: all that are installed")
    parser.add_argument("--rounds", type=int, default=3, help="processes per contender and configuration; default 3")
    parser.add_argument("--steps", type=int, default=10, help="timed steps in a process; default 10")
    parser.add_argument("--seconds", type=float, default=20, help="start no further step after this long; default 20")
    parser.add_argument("--threads", type=int, default=default_workers(), help="workers, or PyTorch's threads")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="cupy: PyTorch runs on CUDA too")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--replay-budget", type=float, default=0, metavar="MiB", help="as in run_lra.py; default 0")
    parser.add_argument("--tf32", action="store_true", help="matrix products in TF32, PyTorch's too (cupy)")
    parser.add_argument(
        "--long", metavar="PNG", help="instead: one sequence of 16 thousand to 1 million tokens, and a plot"
    )
    text = "instead: jobs of so many MPI ranks, which share the threads; with a model of up to 1,024 ranks"
    parser.add_argument("--ranks", nargs="+", type=int, metavar="R", help=text)
    parser.add_argument("--picture", metavar="PNG", help="with --ranks: draw the model")
    parser.add_argument("--json", metavar="FILE", help="write the rows to a file as well")
    text = "instead: all that can be checked and measured of this machine's card, or else of its processor, in ten "
    text += "minutes, as a report in this folder"
    parser.add_argument("--check-out", metavar="OUT", help=text)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked before anything is measured. A wrong option is one line and exit code 2."""
    parser = _make_parser()
    options = parser.parse_args(argv)
    for name in ("check_out", "json", "long", "picture"):
        if getattr(options, name) == "":
            parser.error(f"--{name.replace('_', '-')}: names nothing; name a file or a folder")
    if options.check_out:
        for name, value in vars(options).items():
            if name != "check_out" and value != parser.get_default(name):
                parser.error(f"--check-out goes without --{name.replace('_', '-')}; it decides what is measured")
    if options.tf32 and (options.backend != "cupy" or options.dtype != "float32"):
        parser.error("--tf32 needs --backend cupy and --dtype float32")
    for name in ("rounds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: must be at least 1")
    if not 0 < options.seconds < float("inf"):
        parser.error(f"--seconds {options.seconds}: must be a finite number above 0")
    if not 0 <= options.replay_budget <= 1e9:
        parser.error(f"--replay-budget {options.replay_budget}: must be a number of MiB, from 0 to 1e9")
    if options.ranks and (min(options.ranks) < 1 or max(options.ranks) < 2):
        parser.error(f"--ranks {' '.join(map(str, options.ranks))}: name numbers from 1, one of them above 1")
    if options.picture and not options.ranks:
        parser.error("--picture goes with --ranks; add it")
    if options.ranks and options.backend != "numpy":
        parser.error("--ranks measures NumPy; leave --backend out")
    for name in ("configs", "contenders", "ranks"):
        named = getattr(options, name) or []
        if len(set(named)) < len(named):
            parser.error(f"--{name} {' '.join(map(str, named))}: names one twice; name it once")
    for path in filter(None, (options.json, options.long, options.picture)):  # now, and not after minutes of measuring
        if Path(path).is_dir() or not os.access(Path(path).parent, os.W_OK):
            parser.error(f"{path}: cannot be written; name a file in a folder that you may write to")
    if options.long and "amrb-quarter" in (options.contenders or []):
        parser.error("--contenders amrb-quarter: not with --long; name a --replay-budget")
    wanted = [name for name in options.contenders or [] if is_torch(name)]
    if wanted and not torch_is_installed():
        parser.error(f"--contenders {wanted[0]}: PyTorch is not installed; {REMEDY}")
    return options


def torch_is_installed() -> bool:
    """Can PyTorch be found? It is not imported here: that takes seconds, and every process does it for itself."""
    return importlib.util.find_spec("torch") is not None


def main(argv: list[str] | None = None) -> int:
    """Measure, print tables, and write them. -> the exit code"""
    options, begun = parse_arguments(argv), time.time()
    try:
        if options.child:
            result = _do_request(json.loads(options.child))
            if result is not None:
                print(json.dumps(result))
        elif options.check_out:
            check_out(Path(options.check_out).expanduser(), in_own_process, torch_is_installed())
            tell(f"{options.check_out}/report.md: what was found; report.json has the numbers")
        else:
            run(options)
    except (InputError, backend.BackendError) as error:
        print(f"rmaat_np.benchmark: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = options.json or (options.check_out and f"{options.check_out}/report.json")
        new = kept and Path(kept).expanduser().exists() and Path(kept).expanduser().stat().st_mtime >= begun
        told = f"{kept} holds what was finished" if new else "nothing was finished"
        print(f"rmaat_np.benchmark: stopped; {told}", file=sys.stderr)
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    """What the user asked for. Raises: InputError if the JSON file cannot be written; BackendError without CuPy."""
    backend.use(options.backend)
    conditions = Conditions(**{field.name: getattr(options, field.name) for field in fields(Conditions)})
    told = {name: getattr(options, name) for name in ("threads", "backend", "dtype", "tf32")}
    report = {"machine": describe(), "blas": describe_blas()} | told
    conditions_told = ", ".join(f"{name} {value}" for name, value in told.items())
    tell(f"{report['machine']}; NumPy's products by {report['blas']}; {conditions_told}\n")
    report["rows"] = []
    try:
        if options.ranks:
            _several_ranks(options, conditions, report)
        else:
            _one_process(options, conditions, report)
    finally:  # also after Ctrl-C
        if options.json and report["rows"]:
            write_atomically(options.json, lambda file: file.write(json.dumps(report, indent=1).encode()))


def _several_ranks(options: argparse.Namespace, conditions: Conditions, report: dict) -> None:
    """Jobs of several ranks, and the model."""
    report["rows"] = compare_ranks(options.configs, options.ranks, options.rounds, conditions)
    link, report["model"] = model_rows(report["rows"])
    report["link"] = asdict(link)
    tell(ranks_table(report["rows"], link) + "\n")
    tell(
        f"model: latency {1e6 * link.latency:.1f} µs, {1e-9 / max(link.per_byte, 1e-15):.2f} GB/s; efficiency of ranks"
    )
    tell(efficiency_table(report["model"]))
    if options.picture:
        draw_efficiency(report["model"], link, Path(options.picture))


def _one_process(options: argparse.Namespace, conditions: Conditions, report: dict) -> None:
    """The contenders, each in one process."""
    contenders = options.contenders
    if contenders is None:
        contenders = [name for name in CONTENDERS if torch_is_installed() or not is_torch(name)]
        if len(contenders) < len(CONTENDERS):
            tell("PyTorch is not installed: this package is measured alone\n")
        if options.long:  # torch.compile unrolls the loop over segments, and would take hours
            contenders = [name for name in contenders if name not in NOT_LONG]
    if options.long:
        report["rows"] = _long_sequences(contenders, conditions)
        tell("\n" + long_table(report["rows"]))
        draw_long(report["rows"], Path(options.long))
    else:
        for row in compare(options.configs, contenders, options.rounds, conditions):
            report["rows"].append(row)
        tell(speed_table(report["rows"]) + "\n")
        for kept in dict.fromkeys(map(_kept_by, contenders)):
            told = ", ".join(name for name in contenders if _kept_by(name) == kept)
            tell(f"keep {kept} freed memory from step to step: {told}")
        tell("")
        for row in report["rows"]:
            if "compile_seconds" in row:
                tell(f"{row['config']}: torch.compile took {row['compile_seconds']} s for its first step\n")
        if targets := check_targets(report["rows"]):
            tell(target_table(targets) + "\n")
        if any(map(is_torch, contenders)):
            report["agreement"] = {
                name: in_own_process("agreement", "amrb", name, conditions) for name in options.configs
            }
            differences = ", ".join(f"{name} {found}" for name, found in report["agreement"].items())
            tell(f"largest difference of AMRB's gradients from PyTorch's, with checkpoints, float64: {differences}")


if __name__ == "__main__":
    sys.exit(main())
