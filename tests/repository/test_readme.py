"""The README's tables are those that the files in lessons/results hold, cell for cell."""

import json
from pathlib import Path

import pytest

from rmaat_np.benchmark import tables as benchmark_tables
from rmaat_np.training import compare_table

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "lessons" / "results").glob("*.json"))


def curriculum(found):
    """The Markdown of runs that continue each other: their commands, and what each reached."""
    columns = ("model", "tokens", "steps", "seconds", "validation accuracy", "test accuracy", "last step")
    columns += ("10,000 more trees",)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for stage in found["stages"]:
        result = stage["result"]
        shares = [f"{100 * result[name]:.2f} %" for name in ("val_accuracy", "test_accuracy", "test_accuracy_last")]
        shares.append(f"{100 * stage['more_trees_accuracy']:.1f} %" if "more_trees_accuracy" in stage else "")
        cells = [f"`{result['model']}`", stage["tokens"], f"{result['steps']:,}", f"{result['seconds']:,.0f}", *shares]
        lines.append("| " + " | ".join(cells) + " |")
    return ["\n".join(found["commands"]), "\n".join(lines)]


def tables(path):
    """The Markdown that a results file stands for: of a benchmark, long sequences, a comparison, or a curriculum."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found, list):
        return [compare_table.caption(found), compare_table.markdown_table(found)]
    if "stages" in found:
        return curriculum(found)
    if found["rows"][0]["config"].startswith("long:"):
        return [benchmark_tables.long_table(found["rows"])]
    return [benchmark_tables.speed_table(found["rows"])]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_readme_shows_what_the_results_hold(path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in tables(path):
        assert text in readme, f"README.md does not show {path.name}; it should say:\n\n{text}"


def test_results_hold_measurements_and_no_targets():
    for path in RESULTS:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found, list) or not found.keys() & {"targets", "breakdown"}, path.name


def test_there_are_results():
    assert RESULTS
