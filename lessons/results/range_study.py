"""Who carries what how far? Every model and memory update, trained on up to 16 segments, read on up to 31,250.

    python lessons/results/range_study.py --out runs/range --jobs 2 --json range.json --picture range.png

For each kind of `rmaat_np/data/memory.py` it runs one comparison, `run_lra.py --compare`. So the same command again
goes on where it was interrupted. All runs together took nearly four hours of one core that had other work, too.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[2]))
from rmaat_np.data.memory import KINDS
from rmaat_np.system.machine import describe
from rmaat_np.system.pictures import draw_if_possible

ROOT = Path(__file__).parents[2]
MODELS = {  # a variant of --compare: the name that is shown; the preset `quick` of task memory has the update `none`
    "rmaat": "none",
    "rmaat+retention=learned+retention_horizon=32768": "learned",
    "rmaat+retention=integrate": "integrate",
    "rmaat+retention=online": "online",
    "rmaat+retention=scale": "scale",
    "rmaat+retention=integrate+retention_horizon=32768": "integrate, long factors",
    "rlt": "none, without H_astro (RLT)",
    "rmt": "none, softmax (RMT)",
}
SEGMENT = 32  # tokens
LENGTHS = (16, 64, 256, 1024, 4096)  # segments
FAR = ("one", "last")  # kinds of which every model reads a million tokens, too, as those of the preset `million` do
STEPS = {"one": 1000, "last": 2000, "first": 2000, "count": 2000, "eight": 1500, "pairs": 2000}
FORM = {"eight": {"class_within": 8}, "pairs": {"class_within": 8, "num_layers": 3}}
SHORT = {  # kinds that are learned in one segment first: on long rows from the start neither was learned
    "eight": {"length": SEGMENT, "steps": 2500, "lr": 0.005, "grow": 0.8},
    "pairs": {"length": 9, "steps": 10_000},
}
ENOUGH = 0.9  # accuracy on the short rows, below which a model is not trained on long ones
# of eight and pairs: the share of the commonest of the values that are present, which takes neither order nor key
CHANCE = dict.fromkeys(KINDS, 0.1) | {"count": 0.2, "brackets": 0.5, "eight": 0.3, "pairs": 0.591}
NONE, LEARNED, INTEGRATE, ONLINE, SCALE, LONG, RLT, RMT = MODELS
ASKED = [RMT, NONE, LEARNED, INTEGRATE]
UPDATES = [NONE, LEARNED, INTEGRATE, ONLINE, SCALE, RLT, RMT]


@dataclass(frozen=True)
class Part:
    """Models that are trained on one kind, or by the preset `million`.

    name: of the kind; with "-fixed" behind it, trained on rows of 16 segments alone, and not on 1 to 16; with "-short",
        as SHORT says, and its best checkpoint is where the kind itself begins
    """

    name: str
    models: list[str]
    seeds: int = 1

    def settings(self) -> dict:
        """What differs from the preset."""
        if self.name == "million":
            return {}
        kind, _, rows = self.name.partition("-")
        changed = {"kind": kind, "shortest": LENGTHS[0] * SEGMENT if rows == "fixed" else KINDS[kind].least}
        changed |= FORM.get(kind, {})
        if rows == "short":
            return changed | {"eval_every": 500} | SHORT[kind]
        changed |= {"steps": STEPS[kind], "eval_every": STEPS[kind] // 4, "grow": 0.0 if rows == "fixed" else 0.6}
        changed["test_lengths"] = " ".join(str(SEGMENT * segments) for segments in LENGTHS)
        return changed


PARTS = [
    Part("one", UPDATES),
    Part("last", UPDATES),
    Part("last", [NONE, LEARNED, RMT], seeds=3),
    Part("million", [LEARNED], seeds=3),
    Part("million", [NONE]),
    Part("first", UPDATES),
    Part("count", [NONE, LEARNED, INTEGRATE, ONLINE, RMT]),
    Part("one", [LONG]),
    Part("last", [LONG]),
    Part("one", [NONE, LEARNED, RMT], seeds=3),
    Part("one-fixed", [NONE, INTEGRATE]),
    Part("eight-short", ASKED),
    *(Part("eight", [model]) for model in ASKED),
    Part("pairs-short", [RMT, NONE]),  # in one segment the updates do not differ
    *(Part("pairs", [model]) for model in (RMT, NONE)),
]


def train(part: Part, out: Path, jobs: int) -> None:
    """All models of a part, each seed after the other. What the folder holds already is kept."""
    preset = "million" if part.name == "million" else "quick"
    command = [sys.executable, "run_lra.py", "--task", "memory", "--preset", preset, "--workers", str(jobs)]
    command += ["--compare", ",".join(part.models), "--seeds", str(part.seeds), "--out", str(out / part.name)]
    settings = part.settings()
    if part.name in SHORT:
        (model,) = part.models
        begun = out / f"{part.name}-short" / f"{model}-seed0"
        if json.loads((begun / "result.json").read_text(encoding="utf-8"))["test_accuracy"] < ENOUGH:
            return
        settings["init"] = str(begun / "best.npz")
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    subprocess.run(command, cwd=ROOT, check=True)


def read_far(run: Path) -> None:
    """Let a trained model read rows of a million tokens, and keep what it had right beside its result."""
    path = run / "far.json"
    if not path.exists():
        command = [sys.executable, "run_lra.py", "--workers", "1", "--eval", str(run), "--set", "test_lengths=1000000"]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        path.write_text(json.dumps(json.loads(done.stdout)["longer"]), encoding="utf-8")


def collect(out: Path) -> list[dict]:
    """One record for each finished run in the folder; short rows are read on no longer ones."""
    records = []
    for path in sorted(out.glob("*/*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        far = path.with_name("far.json")
        further = json.loads(far.read_text(encoding="utf-8")) if far.exists() else {}
        longer = (result.get("longer", {}) | further).values()
        settings = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))["settings"]
        records.append(
            {
                "model": settings["model"],
                "retention": settings["fields"]["retention"],
                "retention_horizon": settings["fields"]["retention_horizon"],
                "part": path.parents[1].name,
                "seed": settings["train"]["seed"],
                "steps": result["steps"],
                "seconds": result["seconds"],
                "test_accuracy": result["test_accuracy"],
                "longer": {str(found["segments"]): found["accuracy"] for found in longer},
                "rows": {str(found["segments"]): found["rows"] for found in longer},
            }
        )
    return records


def shown_name(record: dict) -> str:
    """The name of a record's model in table and picture."""
    variant = record["model"]
    if record["retention"] != "none":
        variant += f"+retention={record['retention']}"
    if record["retention_horizon"]:
        variant += f"+retention_horizon={record['retention_horizon']}"
    return MODELS[variant]


def means(records: list[dict]) -> dict:
    """Name of a part -> shown name -> segments -> the seeds' accuracies."""
    found: dict = {}
    for record in filter(lambda record: record["longer"], records):
        cell = found.setdefault(record["part"], {}).setdefault(shown_name(record), {})
        for segments, accuracy in record["longer"].items():
            cell.setdefault(int(segments), []).append(accuracy)
    return found


def to_markdown(records: list[dict]) -> str:
    """A row for each part and model, a column for each number of segments: the mean of the seeds, and (the least)."""
    found = means(records)
    lengths = sorted({n for models in found.values() for cells in models.values() for n in cells})
    columns = ["trained on", "model", "seeds", *(f"{n:,}" for n in lengths)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for part in dict.fromkeys(part.name for part in PARTS if part.name in found):
        for name in filter(found[part].__contains__, MODELS.values()):
            cells = [found[part][name].get(n, []) for n in lengths]
            seeds = max(map(len, cells))
            least = (f" ({100 * min(cell):.0f})" if len(cell) > 1 else "" for cell in cells)
            shown = [f"{100 * mean(c):.0f}{more}" if c else "" for c, more in zip(cells, least, strict=True)]
            lines.append("| " + " | ".join([part, name, str(seeds), *shown]) + " |")
    return "\n".join(lines)


def draw(figure, records: list[dict]) -> None:
    """A panel for each kind: accuracy over the number of segments."""
    found = {part: models for part, models in means(records).items() if part in KINDS}
    found = {kind: found[kind] for kind in KINDS if kind in found}
    axes = figure.subplots(2, -(-len(found) // 2), sharex=True, sharey=True, squeeze=False).ravel()
    marks = ("C0o-", "C1s--", "C2^-", "C3v-", "C4x:", "C5<:", "C6D-.", "C7P-.")
    marks = dict(zip(MODELS.values(), marks, strict=True))
    for axis, (kind, models) in zip(axes, found.items(), strict=False):
        for name in filter(models.__contains__, MODELS.values()):
            points = sorted(models[name].items())
            axis.plot([n for n, _ in points], [100 * mean(c) for _, c in points], marks[name], label=name, markersize=4)
        axis.axhline(100 * CHANCE[kind], color="grey", linewidth=0.8)
        axis.axvline(16, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", ylim=(0, 103), title=kind)
        axis.set_xticks([*LENGTHS, 31_250], [*(f"{n:,}" for n in LENGTHS), "31,250"], fontsize="small")
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    figure.supxlabel("segments of 32 tokens that are read; trained on 1 to 16 (dotted)")
    figure.supylabel("accuracy, %; grey: by a guess")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)


def main() -> None:
    """Train what is missing, then tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    for part in PARTS:
        train(part, options.out.resolve(), options.jobs)
    runs = [path.parent for kind in FAR for path in sorted(options.out.resolve().glob(f"{kind}/*/result.json"))]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(read_far, runs))
    records = collect(options.out)
    print(to_markdown(records))
    if options.json:
        report = {"machine": describe(), "date": time.strftime("%Y-%m-%d"), "runs": records}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if options.picture:
        draw_if_possible(options.picture, (10, 6), lambda figure: draw(figure, records))


if __name__ == "__main__":
    main()
