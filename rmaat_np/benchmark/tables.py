"""What was measured: summaries, Markdown tables, and the picture of the long sequences."""

from pathlib import Path
from statistics import median

from ..system.pictures import draw_if_possible

__all__ = ["check_targets", "draw_long", "long_table", "speed_table", "summarise", "table", "target_table"]

# amrb, bptt: keeping freed memory from step to step, as the command does and as PyTorch's model may too here; amrb
# replays every segment, unless --replay-budget says otherwise;
# amrb-library: as in a program that calls loss_and_grads; amrb-quarter: as amrb, with as large a replay budget as keeps
# its peak below a quarter of eager PyTorch's (`measure.QUARTERS`);
# torch: plain eager autograd; torch-compile: by torch.compile;
# torch-checkpoint: with one checkpoint per segment; -skip: without the token rows of the last block, as here;
# a memory readout never sees them, but a first version in PyTorch would compute them
CONTENDERS = (
    "amrb", "amrb-library", "amrb-quarter", "bptt",
    "torch", "torch-compile", "torch-checkpoint", "torch-skip", "torch-checkpoint-skip",
)  # fmt: skip
KEEPING = tuple(name for name in CONTENDERS if name != "amrb-library")  # freed memory, from step to step
_BESIDE_EAGER = {"small": 1.7, "lra": 1.45, "wide": 1.3}
_BESIDE_COMPILED = {"small": 1.3, "lra": 1.3, "wide": 1.1}
TARGETS: tuple[tuple[str, str, dict | float | None, float | None], ...] = (
    # contender, the one that it is compared with, least ratio of tokens per second (of each configuration, or of all),
    # largest ratio of peak memory
    ("amrb", "torch", _BESIDE_EAGER, 0.25),
    ("amrb-library", "torch", _BESIDE_EAGER, 0.25),
    ("amrb-quarter", "torch", _BESIDE_EAGER, 0.25),
    ("amrb", "torch-compile", _BESIDE_COMPILED, None),
    ("amrb-library", "torch-compile", _BESIDE_COMPILED, None),
    ("amrb-quarter", "torch-compile", _BESIDE_COMPILED, None),
    ("bptt", "torch", 1.2, None),
    ("amrb", "torch-checkpoint", 1.3, 1.0),
    ("amrb", "torch-skip", None, None),
    ("bptt", "torch-skip", None, None),
    ("amrb", "torch-checkpoint-skip", None, None),
)
UNKNOWN = "—"  # of a memory that the platform does not tell


def summarise(results: list[dict]) -> dict:
    """Medians over the rounds, and the spread of the speed. An error of any round is the result.

    -> tokens_per_second, slowest, fastest, rounds (the speed in each), seconds_per_step, peak_mib (None where a round
        could not measure it),
        compile_seconds of the first round (of torch-compile: later ones may find compiled code on the disk)
    """
    errors = [result["error"] for result in results if "error" in result]
    if errors:
        return {"error": errors[0]}
    speeds = [result["tokens_per_second"] for result in results]
    peaks = [result["peak_bytes"] for result in results]
    compiling = {name: round(results[0][name], 1) for name in ("compile_seconds",) if name in results[0]}
    return compiling | {
        "tokens_per_second": round(median(speeds)),
        "slowest": round(min(speeds)),
        "fastest": round(max(speeds)),
        "rounds": [round(speed) for speed in speeds],
        "seconds_per_step": round(median(result["seconds"] for result in results), 4),
        "peak_mib": None if None in peaks else round(median(peaks) / 2**20, 1),
    }


def check_targets(rows: list[dict]) -> list[dict]:
    """Every target beside the ratio that was reached, for the pairs of contenders that were both measured.

    The ratio of speed is the median of the ratios within a round, whose two processes ran one after the other.

    -> config, what ("ours / theirs"), speed and memory (ratios), spread (least and largest ratio of a round),
        speed_target, memory_target; met: are both reached, where there is a target; a memory that was not measured is
        None and reaches none
    """
    by_key = {(row["config"], row["contender"]): row for row in rows if "error" not in row}
    checked = []
    for config in dict.fromkeys(row["config"] for row in rows):
        for ours, theirs, speed, memory in TARGETS:
            a, b = by_key.get((config, ours)), by_key.get((config, theirs))
            if a is None or b is None:
                continue
            speed = speed.get(config) if isinstance(speed, dict) else speed
            row = {"config": config, "what": f"{ours} / {theirs}"}
            ratios = [mine / other for mine, other in zip(a["rounds"], b["rounds"], strict=True)]
            row |= {"speed": round(median(ratios), 2), "spread": [round(min(ratios), 2), round(max(ratios), 2)]}
            row["speed_target"] = speed
            peaks = a["peak_mib"], b["peak_mib"]
            row |= {"memory": round(peaks[0] / peaks[1], 2) if all(peaks) else None, "memory_target": memory}
            if speed is not None:
                small_enough = memory is None or (row["memory"] is not None and row["memory"] <= memory)
                row["met"] = row["speed"] >= speed and small_enough
            checked.append(row)
    return checked


def table(rows: list[list], columns: list[str]) -> str:
    """Rows of cells as a Markdown table. None is an empty cell; whole numbers get thousands separators."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ("" if cell is None else f"{cell:,}" if type(cell) is int else str(cell) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_table(rows: list[dict]) -> str:
    """Tokens per second and peak memory: two lines for each configuration, a column for each contender."""
    found = {(row["config"], row["contender"]): row for row in rows}
    configs, contenders = (list(dict.fromkeys(row[key] for row in rows)) for key in ("config", "contender"))
    lines = []
    for config in configs:
        mine = [found[config, contender] for contender in contenders]
        lines.append([config, "tokens/s", *(row.get("error") or row["tokens_per_second"] for row in mine)])
        lines.append([None, "peak MiB", *(None if "error" in row else _whole_mib(row) for row in mine)])
    return table(lines, ["", "", *contenders])


def _whole_mib(row: dict) -> int | str:
    """Peak memory as a whole number."""
    return UNKNOWN if row["peak_mib"] is None else round(row["peak_mib"])


def target_table(checked: list[dict]) -> str:
    """The result of `check_targets`: a line for each target, a column for each configuration.

    Where configurations have different targets, these are named in the order of the columns.
    """
    configs = list(dict.fromkeys(row["config"] for row in checked))
    lines = []
    for ours, theirs, *_ in TARGETS:
        mine = {row["config"]: row for row in checked if row["what"] == f"{ours} / {theirs}"}
        for key, least in (("speed", "at least"), ("memory", "at most")):
            if mine:
                targets = dict.fromkeys(row[f"{key}_target"] for row in mine.values())
                target = ", ".join(str(target) for target in targets if target is not None)
                ratios = [mine[name][key] if name in mine else None for name in configs]
                cells = [None if ratio is None else f"{ratio:.2f}" for ratio in ratios]
                if key == "speed":
                    cells = [
                        cell and f"{cell} ({_spread(mine[name])})" for cell, name in zip(cells, configs, strict=True)
                    ]
                lines.append([f"{key}, {ours} / {theirs}", target and f"{least} {target}", *cells])
    return table(lines, ["", "target", *configs])


def _spread(row: dict) -> str:
    """The least and the largest ratio of a round."""
    return "{:.2f} to {:.2f}".format(*row["spread"])


def long_table(rows: list[dict]) -> str:
    """Peak memory and time per token: a line for each length, a column for each contender."""
    found = {(row["config"], row["contender"]): row for row in rows if "error" not in row}
    configs, contenders = (list(dict.fromkeys(row[key] for row in rows)) for key in ("config", "contender"))
    lines = []
    for config in configs:
        mine = [found.get((config, contender)) for contender in contenders]
        cells = (row and f"{_memory_text(row)}, {_microseconds(row):.1f} µs" for row in mine)
        lines.append([f"{_length(config):,}", *cells])
    return table(lines, ["tokens", *contenders])


def _length(config: str) -> int:
    """The tokens of "long:TOKENS"."""
    return int(config.removeprefix("long:"))


def _microseconds(row: dict) -> float:
    """Time per token."""
    return 1e6 / row["tokens_per_second"]


def _memory_text(row: dict) -> str:
    """Peak memory with its unit."""
    return UNKNOWN if row["peak_mib"] is None else f"{row['peak_mib']:,} MiB"


def draw_long(rows: list[dict], path: Path) -> bool:
    """Peak memory and time per token over the length, to a PNG file. -> whether it was written"""
    return draw_if_possible(path, (9, 3.4), lambda figure: _draw_long(figure, rows))


def _draw_long(figure, rows):
    memory, speed = figure.subplots(1, 2)
    marks = dict(zip(CONTENDERS, "oPDs^Xdv*", strict=True))
    for contender in dict.fromkeys(row["contender"] for row in rows):
        mine = [row for row in rows if row["contender"] == contender and "error" not in row]
        lengths = [_length(row["config"]) for row in mine]
        peaks = [float("nan") if row["peak_mib"] is None else row["peak_mib"] for row in mine]
        memory.plot(lengths, peaks, marker=marks[contender], label=contender)
        speed.plot(lengths, list(map(_microseconds, mine)), marker=marks[contender], label=contender)
    for axis, label in ((memory, "peak memory above idle, MiB"), (speed, "microseconds per token")):
        axis.set(xscale="log", xlabel="tokens in the sequence", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    memory.set(yscale="log")
    speed.set(ylim=(0, None))
    memory.legend(frameon=False)
