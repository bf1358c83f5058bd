"""Speed and memory of training steps: this package beside the same model in PyTorch. `python -m rmaat_np.benchmark`

Every measurement runs in a process of its own with the same number of threads, the contenders in turn, several rounds;
medians are reported. Peak memory is what a process needs above its idle state (everything loaded, nothing computed).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from .. import backend
from ..config import Config
from ..system.files import write_atomically
from ..system.machine import default_workers, machine
from ..system.terminal import Parser
from .measure import agreement, breakdown, measure
from .tables import CONTENDERS, check_targets, draw_long, long_table, speed_table, summarise, table, target_table

CONFIGS = {  # batch, and the model's fields
    "small": (32, {"segment_length": 128, "num_segments": 4, "num_heads": 4}),
    "lra": (32, {"segment_length": 256, "num_segments": 8, "num_heads": 2}),
    "wide": (
        8,
        {
            "segment_length": 512, "num_segments": 4, "num_memory": 16,
            "d_model": 128, "num_heads": 4, "num_layers": 4, "d_ff": 512,
        },
    ),
}  # fmt: skip
LONG_LIMIT = 8 * 2**30
LONG_SEGMENT = 512


def model_config(name: str):
    """Batch size and Config of a benchmark configuration, or of one long sequence, "long:TOKENS"."""
    common = {"vocab_size": 32, "num_classes": 10, "d_model": 64, "num_layers": 2, "d_ff": 128, "num_memory": 8}
    if name.startswith("long:"):
        segments = int(name[5:]) // LONG_SEGMENT
        shape = {"segment_length": LONG_SEGMENT, "num_segments": segments, "num_heads": 2, "segment_embedding": False}
        return 1, Config(**common | shape)
    batch, shape = CONFIGS[name]
    return batch, Config(**common | shape)


def in_own_process(work: str, contender: str, config: str, options) -> dict:
    """Run one measurement in a fresh process. -> what `measure` or `breakdown` returned, or {"error": ...}."""
    threads = str(1 if not contender.startswith("torch") else options.threads)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": str(options.threads)}
    if work == "breakdown":  # it times every array operation, which shards on threads would mix up
        options = argparse.Namespace(**vars(options) | {"threads": 1})
    request = json.dumps({"work": work, "contender": contender, "config": config, "options": vars(options)})
    done = subprocess.run(
        [sys.executable, "-m", "rmaat_np.benchmark", "--child", request],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def compare(configs, contenders, options) -> list[dict]:
    """Rounds of all contenders in turn for every configuration. -> a row of medians for each of both."""
    from tqdm.auto import tqdm

    rows = []
    with tqdm(total=len(configs) * len(contenders) * options.rounds, disable=None, unit="process") as bar:
        for config in configs:
            runs = {contender: [] for contender in contenders}
            for _ in range(options.rounds):
                for contender in contenders:
                    bar.set_description(f"{config} {contender}")
                    runs[contender].append(in_own_process("measure", contender, config, options))
                    bar.update()
            rows += [{"config": config, "contender": name} | summarise(results) for name, results in runs.items()]
    return rows


def long_sequences(options) -> list[dict]:
    """One sequence of 16 thousand to 1 million tokens per step; a contender is dropped once it passes 8 GB."""
    lengths = [2**k for k in range(14, 21)]
    rows, alive = [], list(options.contenders)
    for length in lengths:
        for contender in list(alive):
            row = {"config": f"long:{length}", "contender": contender}
            row |= summarise([in_own_process("measure", contender, row["config"], options)])
            cells = [row["config"], contender, row.get("error") or row["tokens_per_second"], row.get("peak_mib")]
            print(table([cells], LONG_COLUMNS).splitlines()[-1], flush=True)
            rows.append(row)
            if "error" in row or row["peak_mib"] * 2**20 > LONG_LIMIT:
                alive.remove(contender)
    return rows


LONG_COLUMNS = ["", "", "tokens/s", "peak MiB"]


def parse_arguments(argv=None):
    """The command line."""
    parser = Parser(prog="rmaat_np.benchmark", description=__doc__, allow_abbrev=False)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
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
    parser.add_argument("--json", metavar="FILE", help="write the rows to a file as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.tf32 and (options.backend != "cupy" or options.dtype != "float32"):
        parser.error("--tf32 needs --backend cupy and --dtype float32")
    for name in ("rounds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: must be at least 1")
    if not 0 < options.seconds < float("inf") or not 0 <= options.replay_budget <= 1e9:
        parser.error(f"--seconds {options.seconds}, --replay-budget {options.replay_budget}: out of range")
    for name in ("configs", "contenders"):
        if len(set(getattr(options, name))) < len(getattr(options, name)):
            parser.error(f"--{name} {' '.join(getattr(options, name))}: names one twice; name it once")
    for path in filter(None, (options.json, options.long)):  # now, and not after minutes of measuring
        if Path(path).is_dir() or not os.access(Path(path).parent, os.W_OK):
            parser.error(f"{path}: cannot be written; name a file in a folder that you may write to")
    return options


def main(argv=None) -> int:
    """Measure, print tables, and write them."""
    options = parse_arguments(argv)
    if options.child:
        request = json.loads(options.child)
        inner = argparse.Namespace(**request["options"])
        batch, cfg = model_config(request["config"])
        if request["work"] == "measure":
            result = measure(request["contender"], batch, cfg, inner)
        else:
            result = {"breakdown": breakdown, "agreement": agreement}[request["work"]](batch, cfg, inner)
        print(json.dumps(result))
        return 0
    try:
        backend.use(options.backend)
    except backend.BackendError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    settings = {name: getattr(options, name) for name in ("threads", "backend", "dtype", "tf32")}
    report = {"machine": machine()} | settings
    print(f"{report['machine']}; " + ", ".join(f"{name} {value}" for name, value in settings.items()) + "\n")
    if options.long:
        print(table([], LONG_COLUMNS))
        report["rows"] = long_sequences(options)
        print("\n" + long_table(report["rows"]))
        draw_long(report["rows"], options.long)
    else:
        report["rows"] = compare(options.configs, options.contenders, options)
        report["targets"] = check_targets(report["rows"])
        print(speed_table(report["rows"]), "", target_table(report["targets"]), sep="\n")
        if any(contender.startswith("torch") for contender in options.contenders):
            report["agreement"] = {name: in_own_process("agreement", "amrb", name, options) for name in options.configs}
            differences = ", ".join(f"{name} {found}" for name, found in report["agreement"].items())
            print(f"\nlargest difference of AMRB's gradients from PyTorch's, with checkpoints, float64: {differences}")
        if options.backend == "numpy":
            report["breakdown"] = {name: in_own_process("breakdown", "amrb", name, options) for name in options.configs}
            print("\nwhere an AMRB step's time goes (1 worker):")
            for name, shares in report["breakdown"].items():
                print(f"  {name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()))
    if options.json:
        write_atomically(options.json, lambda file: file.write(json.dumps(report, indent=1).encode()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
