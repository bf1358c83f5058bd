"""What was measured, as tables and as a picture."""

from statistics import median

# torch: plain eager autograd; torch-checkpoint: one checkpoint a segment; -skip: as this package does, without the rows
# of the last block that a memory readout never sees, which nobody would write at first
CONTENDERS = ("amrb", "bptt", "torch", "torch-checkpoint", "torch-skip", "torch-checkpoint-skip")
TARGETS = (  # contender, against, least ratio of tokens per second, largest ratio of peak memory
    ("amrb", "torch", 1.0, 0.25),
    ("bptt", "torch", 1.2, None),
    ("amrb", "torch-checkpoint", 1.3, 1.0),
    ("amrb", "torch-skip", None, None),
    ("bptt", "torch-skip", None, None),
    ("amrb", "torch-checkpoint-skip", None, None),
)


def summarise(results: list[dict]) -> dict:
    """Medians over the rounds, and the spread of the speed. An error of any round is the result."""
    errors = [result["error"] for result in results if "error" in result]
    if errors:
        return {"error": errors[0]}
    speeds = [result["tokens_per_second"] for result in results]
    return {
        "tokens_per_second": round(median(speeds)),
        "slowest": round(min(speeds)),
        "fastest": round(max(speeds)),
        "seconds_per_step": round(median(result["seconds"] for result in results), 4),
        "peak_mib": round(median(result["peak_bytes"] for result in results) / 2**20, 1),
    }


def check_targets(rows) -> list[dict]:
    """Every target beside the ratio that was reached."""
    by_key = {(row["config"], row["contender"]): row for row in rows if "error" not in row}
    checked = []
    for config in dict.fromkeys(row["config"] for row in rows):
        for ours, theirs, speed, memory in TARGETS:
            a, b = by_key.get((config, ours)), by_key.get((config, theirs))
            if a is None or b is None:
                continue
            row = {"config": config, "what": f"{ours} / {theirs}"}
            row |= {"speed": round(a["tokens_per_second"] / b["tokens_per_second"], 2), "speed_target": speed}
            row |= {"memory": round(a["peak_mib"] / b["peak_mib"], 2), "memory_target": memory}
            if speed is not None:
                row["met"] = row["speed"] >= speed and (memory is None or row["memory"] <= memory)
            checked.append(row)
    return checked


def table(rows: list[list], columns: list[str]) -> str:
    """Rows of cells as a Markdown table; None is an empty cell."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ("" if cell is None else f"{cell:,}" if type(cell) is int else str(cell) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_table(rows: list[dict]) -> str:
    """Tokens per second and peak memory: a line for each configuration, a column for each contender."""
    found = {(row["config"], row["contender"]): row for row in rows}
    configs, contenders = (list(dict.fromkeys(row[key] for row in rows)) for key in ("config", "contender"))
    lines = []
    for config in configs:
        mine = [found[config, contender] for contender in contenders]
        lines.append([config, "tokens/s", *(row.get("error") or row["tokens_per_second"] for row in mine)])
        lines.append([None, "peak MiB", *(None if "error" in row else round(row["peak_mib"]) for row in mine)])
    return table(lines, ["", "", *contenders])


def target_table(checked: list[dict]) -> str:
    """Each target beside the ratio that was reached: a line for each target, a column for each configuration."""
    configs = list(dict.fromkeys(row["config"] for row in checked))
    lines = []
    for ours, theirs, *_ in TARGETS:
        mine = {row["config"]: row for row in checked if row["what"] == f"{ours} / {theirs}"}
        for key, least in (("speed", "at least"), ("memory", "at most")):
            if mine:
                target = next(iter(mine.values()))[f"{key}_target"]
                ratios = (f"{mine[name][key]:.2f}" if name in mine else None for name in configs)
                lines.append([f"{key}, {ours} / {theirs}", target and f"{least} {target}", *ratios])
    return table(lines, ["", "target", *configs])


def long_table(rows: list[dict]) -> str:
    """Peak memory and time per token: a line for each length, a column for each contender."""
    found = {(row["config"], row["contender"]): row for row in rows if "error" not in row}
    configs, contenders = (list(dict.fromkeys(row[key] for row in rows)) for key in ("config", "contender"))
    lines = []
    for config in configs:
        mine = [found.get((config, contender)) for contender in contenders]
        cells = (row and f"{row['peak_mib']:,} MiB, {1e6 / row['tokens_per_second']:.1f} µs" for row in mine)
        lines.append([f"{int(config.split(':')[1]):,}", *cells])
    return table(lines, ["tokens", *contenders])


def draw_long(rows, path) -> None:
    """Peak memory and time per token over the length, log-log, to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    marks = dict(zip(CONTENDERS, "os^dv*", strict=True))
    for contender in dict.fromkeys(row["contender"] for row in rows):
        mine = [row for row in rows if row["contender"] == contender and "error" not in row]
        lengths = [int(row["config"][5:]) for row in mine]
        axes[0].plot(lengths, [row["peak_mib"] for row in mine], marker=marks[contender], label=contender)
        axes[1].plot(
            lengths, [1e6 / row["tokens_per_second"] for row in mine], marker=marks[contender], label=contender
        )
    for axis, label in zip(axes, ("peak memory above idle, MiB", "microseconds per token"), strict=True):
        axis.set(xscale="log", xlabel="tokens in the sequence", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(yscale="log")
    axes[1].set(ylim=(0, None))
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
