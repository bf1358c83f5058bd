"""How far does a trained model remember? Read it on more segments than it was trained on.

    python run_lra.py --task memory --seed 0 --out runs/none-0
    python lessons/results/how_far.py runs/none-0 [RUN ...] --json how_far.json

The rows are those of `rmaat_np/data/memory.py`, all of one length and drawn with a seed of their own: "one", a class
token in the first segment and noise after it; "last", one to three class tokens at random places, of which the last
one is asked for.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
import rmaat_np as rn
from rmaat_np.data import memory
from rmaat_np.system.machine import describe

READ = {16: 200, 64: 100, 256: 60, 1024: 40, 4096: 20, 31_250: 10}  # segments: rows; 31,250 of 32 are 1,000,000 tokens
ONE_ONLY = 31_250  # from here on, kind "one" alone


def accuracy(params: dict, cfg: rn.Config, kind: str, segments: int, rows: int) -> float:
    """The share of right answers on rows of exactly so many segments."""
    length = segments * cfg.segment_length
    test = memory.load(kind, cfg.segment_length, length, length, seed=1, rows=(1, 1, rows)).test
    right = 0
    for row in range(rows):  # one at a time: the rows of a million tokens are 4 MB each as int32
        tokens, labels = test.batch([row])
        right += int(rn.predict(params, cfg, tokens).argmax() == labels[0])
    return right / rows


def read(folder: Path) -> dict:
    """A run's figures at every number of segments, as one record."""
    run = rn.load_run(folder)
    params, cfg, _ = rn.load(folder)
    record = {"retention": cfg.retention, "model": run.settings.model, "seed": run.settings.train.seed}
    record |= {"kind": run.settings.data["kind"], "steps": run.progress.step, "seconds": round(run.progress.seconds)}
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for segments, rows in READ.items():
            longer = rn.lengthen(params, cfg, max(segments, cfg.num_segments))
            for kind in memory.KINDS if segments < ONE_ONLY else ("one",):
                record[f"{kind} {segments}"] = round(accuracy(*longer, kind, segments, rows), 4)
                print(folder.name, kind, segments, record[f"{kind} {segments}"], flush=True)
    return record | {"seconds_of_reading": round(time.perf_counter() - begun)}


def main() -> None:
    """Read the runs that are named, and write one record each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = {"machine": describe(), "date": time.strftime("%Y-%m-%d"), "rows": READ}
    report["runs"] = [read(folder) for folder in options.runs]
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
