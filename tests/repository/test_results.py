"""The tables of lessons/results/README.md are those that the files beside it hold, cell for cell."""

import json
import runpy
from pathlib import Path
from statistics import mean, stdev

import pytest

from rmaat_np.benchmark import tables as benchmark_tables
from rmaat_np.benchmark.ranks import Link, efficiency_table, ranks_table
from rmaat_np.training import compare_table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "lessons" / "results"
RESULTS = sorted(FOLDER.glob("*.json"))


def curriculum(found):
    """The Markdown of runs that continue each other: their commands, and what each reached."""
    columns = ("model", "seed", "tokens", "steps", "seconds", "validation accuracy", "test accuracy", "last step")
    columns += ("10,000 more trees",)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for stage in found["stages"]:
        result = stage["result"]
        shares = [f"{100 * result[name]:.2f} %" for name in ("val_accuracy", "test_accuracy", "test_accuracy_last")]
        shares.append(f"{100 * stage['more_trees_accuracy']:.1f} %" if "more_trees_accuracy" in stage else "")
        cells = [f"`{result['model']}`", str(result["seed"]), stage["tokens"], f"{result['steps']:,}"]
        cells += [f"{result['seconds']:,.0f}", *shares]
        lines.append("| " + " | ".join(cells) + " |")
    return ["\n".join(found["commands"]), "\n".join(lines), *seeds_table(found), *stopped(found)]


def full_length(found):
    """The runs of the last stage of each model, one a seed."""
    models = {}
    for stage in found["stages"]:
        if stage["tokens"] == "500 to 2,000":
            models.setdefault(stage["result"]["model"], []).append(stage)
    return models


def seeds_table(found):
    """The Markdown of the last stage's mean and standard deviation, where models were trained with several seeds."""
    models = full_length(found)
    if all(len(runs) == 1 for runs in models.values()):
        return []
    lines = ["| model | validation accuracy | test accuracy | 10,000 more trees |", "|---|---|---|---|"]
    for model, runs in models.items():
        shares = [[run["result"][name] for run in runs] for name in ("val_accuracy", "test_accuracy")]
        shares.append([run["more_trees_accuracy"] for run in runs])
        cells = [f"{100 * mean(of_seeds):.1f} ± {100 * stdev(of_seeds):.1f} %" for of_seeds in shares]
        lines.append(f"| `{model}` | " + " | ".join(cells) + " |")
    return ["\n".join(lines)]


def stopped(found):
    """The Markdown of runs that were stopped early, each beside another one at the same step."""
    if "stopped" not in found:
        return []
    lines = ["| model | step | validation loss | against | its loss there |", "|---|---|---|---|---|"]
    for run in found["stopped"]:
        cells = [f"`{run['model']}`", f"{run['step']:,}", f"{run['loss']:.3f}", f"`{run['against']}`"]
        lines.append("| " + " | ".join([*cells, f"{run['loss_against']:.3f}"]) + " |")
    return ["\n".join(lines)]


def scenes(found):
    """The Markdown of Pathfinder's curriculum: its commands, and what each stage reached."""
    columns = ("rows", "paddles", "distractors", "steps", "validation accuracy", "test accuracy", "distance alone")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for stage in found["scenes"]:
        cells = [str(stage[name]) for name in ("height", "contour_length", "distractors")] + [f"{stage['steps']:,}"]
        cells += [f"{100 * stage[name]:.1f} %" for name in ("val_accuracy", "test_accuracy", "by_distance")]
        lines.append("| " + " | ".join(cells) + " |")
    return [found["command"], found["baseline"], "\n".join(lines)]


def tables(path):
    """The Markdown of a results file: of a benchmark, long sequences, a comparison, a curriculum, or the range."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if "scenes" in found:
        return scenes(found)
    if isinstance(found, list):
        return [compare_table.caption(found), compare_table.markdown_table(found)]
    if "stages" in found:
        return curriculum(found)
    if "link" in found:
        link = Link(**found["link"])
        return [ranks_table(found["rows"], link), efficiency_table(found["model"])]
    if "runs" in found:
        return [runpy.run_path(str(FOLDER / "range_study.py"))["to_markdown"](found["runs"])]
    if found["rows"][0]["config"].startswith("long:"):
        return [benchmark_tables.long_table(found["rows"])]
    return [benchmark_tables.speed_table(found["rows"])]


def mean_accuracy(name, variant):
    """The mean test accuracy of a variant in a comparison, in %, and its number of seeds."""
    runs = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    shares = [run["test_accuracy"] for run in runs if run["variant"] == variant]
    return 100 * sum(shares) / len(shares), len(shares)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_page_shows_what_the_results_hold(path):
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for text in tables(path):
        assert text in page, f"lessons/results/README.md does not show {path.name}; it should say:\n\n{text}"
    assert f"[`{path.name}`]({path.name})" in page, f"the list of contents does not name {path.name}"


def test_the_readme_cites_what_the_results_hold():
    """The figures under "What was found", each computed from its file."""
    found = (ROOT / "README.md").read_text(encoding="utf-8").split("## What was found")[1].split("\n## ")[0]
    short = {model: mean_accuracy("quick_models", model) for model in ("rmt", "rlt", "rmaat")}
    assert {seeds for _, seeds in short.values()} == {3}
    cited = ["three seeds: " + ", ".join(f"{name.upper()} {share:.1f}" for name, (share, _) in short.items())]
    cited += [two_thousand_tokens()]
    for name, variant, seeds, text in (
        ("recall_ablations", "rmaat+use_feedback=false", 2, "{:.1f} %, with it"),
        ("recall_ablations", "rmaat", 2, "with it {:.0f} % (two seeds)"),
        ("recall_16", "rmaat", 1, "{:.0f} %, one seed, 600 steps"),
        ("recall_16", "rmaat+retention=none", 1, "at chance, {:.1f} %"),
    ):
        share, runs = mean_accuracy(name, variant)
        assert runs == seeds, (name, variant)
        cited.append(text.format(share))
    assert mean_accuracy("recall_ablations", "rmaat+retention=none") == (100, 2)  # "both had 100 % (two seeds)"
    without, whole = (mean_accuracy("quick_ablations", name)[0] for name in ("rmaat+use_astro=false", "rmaat"))
    cited.append(f"short ListOps: {without - whole:.1f} points less (two seeds)")
    cited += memory_and_speed() + carried() + [order()]
    words = " ".join(found.split())
    assert [text for text in cited if text not in words] == []


def two_thousand_tokens():
    """What the README says of ListOps at full length."""
    models = full_length(json.loads((FOLDER / "listops_2000_gate.json").read_text(encoding="utf-8")))
    means = []
    for model in ("rmaat+retention=learned", "rmt"):
        shares = [100 * run["result"]["test_accuracy"] for run in models[model]]
        assert len(shares) == 3, model
        means.append(mean(shares))
    return "three seeds: RMAAT with the gate {:.1f}, RMT {:.1f} %".format(*means)


def carried():
    """What the README says of tokens over many segments, from the range study."""
    study = runpy.run_path(str(FOLDER / "range_study.py"))
    found = study["means"](json.loads((FOLDER / "range.json").read_text(encoding="utf-8"))["runs"])
    gate, none, integrate = (found["one"][name][4096] for name in ("learned", "none", "integrate"))
    assert (len(gate), len(none), len(integrate)) == (3, 3, 1)
    shares = [f"{100 * sum(seeds) / len(seeds):.0f}" for seeds in (gate, none, integrate)]
    million, preset = (found["million"][name][31_250] for name in ("learned", "none"))  # of ten rows each
    assert (len(million), len(preset)) == (3, 1)
    return [
        "(three seeds): the gate `learned` {} %, `none` {}; `integrate`, the default, {} (one seed)".format(*shares),
        f"`--preset million` {10 * sum(preset):.0f} of 10, the gate {10 * sum(million):.0f} of 30 rows",
    ]


def order():
    """What the README says of the order of tokens."""
    alone = "rmaat+position_embedding=false"
    variants = f"{alone}+use_astro=false", alone, "rmaat+use_astro=false", "rmaat"
    shares = [mean_accuracy("position_decay", variant) for variant in variants]
    assert {seeds for _, seeds in shares} == {3}
    neither, astro, embedding, both = (f"{share:.1f}" for share, _ in shares)
    first = f"three seeds: {neither} % with neither, {astro} with H_astro"
    return f"{first}, {embedding} with the embedding, {both} with both"


def memory_and_speed():
    """What the README says of memory and speed, from the benchmark's rows."""
    rows = json.loads((FOLDER / "benchmark.json").read_text(encoding="utf-8"))["rows"]
    checked = [row for row in benchmark_tables.check_targets(rows) if row["what"] == "amrb / torch"]
    ratios = {row["config"]: row["speed"] for row in checked}
    memory = {(row["config"], row["contender"]): row["peak_mib"] for row in rows}
    amrb, bptt, torch = (memory["lra", contender] for contender in ("amrb", "bptt", "torch"))
    rows = json.loads((FOLDER / "long.json").read_text(encoding="utf-8"))["rows"]
    long = {row["contender"]: row["peak_mib"] for row in rows if row["config"].endswith(":1048576")}
    return [
        f"{amrb:.0f} MiB, with BPTT {bptt:.0f}, in PyTorch {torch:.0f}, at {ratios['lra']:.2f} times PyTorch's speed",
        f"({min(ratios.values()):.2f} to {max(ratios.values()):.2f} in three sizes)",
        f"1,048,576 tokens: {long['amrb']:.1f} MiB, BPTT {long['bptt']:,.0f}",
    ]


CARD = {  # a row of the page's table -> the configuration
    "small, 32 rows of 512 tokens": "small", "lra, 32 rows of 2,048": "lra", "wide, 8 rows of 2,048": "wide",
    "lra with 256 rows": "lra:256", "preset lra, width 512, 32 rows": "preset:32",
}  # fmt: skip


@pytest.mark.parametrize("name", CARD)
def test_the_page_shows_what_a_card_measured(name):
    report = json.loads((FOLDER / "check_out_h100" / "report.json").read_text(encoding="utf-8"))
    amrb, bptt, torch = (
        next(row for row in report["speed"] if (row["config"], row["contender"]) == (CARD[name], contender))
        for contender in ("amrb", "bptt", "torch")
    )
    cells = [name, f"{amrb['tokens_per_second']:,}"]
    cells += [f"{ours['tokens_per_second'] / torch['tokens_per_second']:.2f}" for ours in (bptt, amrb)]
    cells += [f"{amrb['peak_mib'] / torch['peak_mib']:.2f}"]
    assert f"| {' | '.join(cells)} |" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_results_hold_measurements_and_no_targets():
    for path in RESULTS:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found, list) or not found.keys() & {"targets", "breakdown"}, path.name


def test_there_are_results():
    assert RESULTS
