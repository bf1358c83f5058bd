"""A comparison's rows, one for each model and seed, as a Markdown table and as a picture."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

from ..system.pictures import draw_if_possible

COLUMNS = ("model", "test accuracy, %", "seeds", "ms per step", "tokens/s", "peak MiB", "parameters")
UNKNOWN = "—"  # stands for what could not be measured
AT = "test_accuracy_at_"  # a row has the accuracy on longer test rows under this name and the number of their tokens


def by_variant(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each variant, in the order in which the variants were named."""
    return {name: [row for row in rows if row["variant"] == name] for name in dict.fromkeys(r["variant"] for r in rows)}


def _accuracy_text(accuracies: list[float]) -> str:
    """Mean accuracy in %, with the standard deviation over the seeds if there are several."""
    percent = [100 * accuracy for accuracy in accuracies]
    return f"{mean(percent):.1f}" + (f" ± {stdev(percent):.1f}" if len(percent) > 1 else "")


def markdown_table(rows: list[dict]) -> str:
    """One line a variant. The best mean accuracy is bold, and with it every other that reads the same.

    The last columns are the accuracies on longer test rows, where there are any.
    """
    groups = by_variant(rows)
    longer = list(dict.fromkeys(name for row in rows for name in row if name.startswith(AT)))
    columns = [*COLUMNS, *(f"{int(name.removeprefix(AT)):,} tokens, %" for name in longer)]
    best = f"{max((100 * mean(row['test_accuracy'] for row in group) for group in groups.values()), default=0):.1f}"
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, group in groups.items():
        accuracy = _accuracy_text([row["test_accuracy"] for row in group])
        if len(groups) > 1 and accuracy.split()[0] == best:
            accuracy = f"**{accuracy}**"
        cells = [
            f"`{name}`",
            accuracy,
            str(len(group)),
            _measured(group, "seconds_per_step", lambda values: f"{1000 * mean(values):.0f}"),
            _measured(group, "tokens_per_second", lambda values: f"{mean(values):,.0f}"),
            _measured(group, "peak_memory_bytes", lambda values: f"{max(values) / 2**20:,.0f}"),
            f"{group[0]['parameters']:,}",
            *(_measured(group, name, _accuracy_text) for name in longer),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _measured(rows: list[dict], name: str, text: Callable[[list], str]) -> str:
    """The text of what was measured in some of the rows, or that nothing was."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return text(values) if values else UNKNOWN


def caption(rows: list[dict]) -> str:
    """What was run, where and when, and the command that repeats it."""
    row = rows[0]
    dates, machines, parallel = (sorted({str(r[name]) for r in rows}) for name in ("date", "machine", "runs_at_a_time"))
    return (
        f"{row['task']}, preset {row['preset']}: {row['steps']:,} steps of {row['batch_size']} rows; majority class "
        f"{100 * row['majority_share']:.1f} %; {' and '.join(machines)}; {' or '.join(parallel)} run(s) at a time, "
        f"one thread each; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.\n\n`{row['command']}`"
    )


def markdown(rows: list[dict], missing: dict[str, str]) -> str:
    """table.md: caption, table, and what was not run. missing: the run's name -> why."""
    parts = [caption(rows), markdown_table(rows)] if rows else ["No run is finished."]
    parts += ["Not run: " + "; ".join(f"{name} ({why})" for name, why in missing.items())] if missing else []
    return "\n\n".join(parts) + "\n"


def draw_table(rows: list[dict], path: Path) -> bool:
    """Draw the accuracy of every run, and the mean of each variant, to a PNG file. -> whether it was written."""
    return draw_if_possible(path, (8, 1.2 + 0.36 * len(by_variant(rows))), lambda figure: _draw(figure, rows))


def _draw(figure, rows: list[dict]) -> None:
    """Variants down, accuracy across; a dotted line where the majority class would be."""
    groups = by_variant(rows)
    axis = figure.subplots()
    for place, group in enumerate(groups.values()):
        accuracies = [100 * row["test_accuracy"] for row in group]
        seeds = axis.plot(accuracies, [place] * len(group), "o", color="0.65", markersize=5)
        average = axis.plot(mean(accuracies), place, "|", color="black", markersize=16, markeredgewidth=2)
    chance = axis.axvline(100 * rows[0]["majority_share"], color="black", linestyle=":")
    names = ["one seed", "mean", "majority class"]
    figure.legend([seeds[0], average[0], chance], names, loc="outside upper right", ncols=3, frameon=False)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.set_xlabel(f"test accuracy on {rows[0]['task']}, %")
    axis.spines[["top", "right"]].set_visible(False)
