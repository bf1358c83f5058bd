"""The sentences of the trace: what happens at each event, what the model answers, how large everything is."""

import numpy as np

from ..plasticity import RETENTION_MODES
from .events import TracedStep, TraceEvent, first_shard
from .row import TracedRow

__all__ = ["LABELS", "describe_answer", "describe_update", "explain", "percent", "word_lines"]

LABELS = {  # kind of an event -> what it is called on the page and in pictures
    "store": "memory stored",
    "forward": "segment run",
    "drop": "cache dropped",
    "turn": "turning point",
    "release": "memory taken out",
    "replay": "segment run again",
    "backward": "gradient goes back",
}


def explain(event: TraceEvent, row: TracedRow, gone_back: bool, answer: str = "") -> str:
    """What happens at an event, and why. It is long because every kind of event has its sentence here, side by side.

    gone_back: has the gradient gone back through the event's segment already; answer: as from `describe_answer`
    """
    t, last, size = event.segment, row.num_segments - 1, _show_bytes(event.nbytes)
    norm = "" if event.norm is None else f"{event.norm:.3g}"
    match event.kind:
        case "store":
            return (
                f"The memory tokens that enter segment {t + 1} go into the replay buffer ({size}). "
                "These tokens and those of the segment suffice to run the segment again on the way back."
            )
        case "forward" if t < last:
            return (
                f"Segment {t + 1} is run. The intermediate results that its gradient will need form a cache of {size}. "
                f"Its memory tokens, norm {norm}, go on to segment {t + 2}. {describe_update(row, t)}"
            )
        case "forward":
            return (
                f"Segment {t + 1}, the last one, is run, and its cache takes {size}. "
                "No segment follows, so no memory tokens go on: what the model has read becomes its answer next."
            )
        case "turn":
            return (
                f"All segments are read, and the loss is known. {answer} The way back begins in segment {t + 1}, the "
                "last one. Both methods still have its cache."
            )
        case "drop" if gone_back:
            return f"The cache of segment {t + 1} has done its work: {size} are free again."
        case "drop":
            return (
                f"The cache of segment {t + 1} is given up before the next one is built: {size} are free. "
                "AMRB will rebuild it from the stored memory tokens when the gradient comes back."
            )
        case "release":
            return (
                f"The way back reaches segment {t + 1}. "
                f"The memory tokens that entered this segment leave the replay buffer ({size})."
            )
        case "replay":
            return (
                f"Segment {t + 1} is run a second time, from the memory tokens just taken out. The cache of {size} "
                "comes out the same to the last bit, so the gradient will too."
            )
    goal = f"segment {t}" if t else "the learned memory tokens that every sequence starts from"
    return (
        f"The gradient goes back through segment {t + 1} with the help of the segment's cache. "
        f"What arrives at the memory tokens that entered the segment, norm {norm}, goes on to {goal}."
    )


def describe_update(row: TracedRow, t: int) -> str:
    """What the memory update after segment t, 0 .. T - 2, does to the row's memory tokens."""
    if row.mode == "none":
        return f"The memory update has no factor: the memory takes over all of what segment {t + 1} wrote."
    factor = float(row.factors[t])
    if row.mode == "learned":
        return (
            f"The prior of the gate is {factor:.2g}. The gate reads the memory and what segment {t + 1} wrote. "
            "It decides for each memory token how much of that the token takes over."
        )
    name = f"RF({t + 1}, {row.num_segments})"
    if row.mode == "online":
        name = f"of segment {t + 1}, which needs no total,"
    stays = RETENTION_MODES[row.mode].keeps_old and factor < 1
    kept = f"keeps {percent(1 - factor)} of what it held" if stays else "keeps nothing of what it held"
    return (
        f"The retention factor {name} is {factor:.2g}: the memory takes over {percent(factor)} of what "
        f"segment {t + 1} wrote, and {kept}."
    )


def _update_line(row: TracedRow) -> str:
    """The memory updates of the row in one line; of many, the first ones and the last one."""
    shares = [percent(float(factor)) for factor in row.factors[:-1]]
    if not shares:
        return "one segment holds the whole row, so the memory is never updated"
    if len(shares) > 6:
        shares = [*shares[:4], "...", shares[-1]]
    what = "what the memory takes over of what each segment writes (retention factors)"
    if row.mode == "learned":
        what = "the prior of the gate that decides what the memory takes over of what each segment writes"
    return f"{what}: {', '.join(shares)}"


def describe_answer(row: TracedRow, place: str, classes: tuple[str, ...]) -> str:
    """The row's label, the model's answer and the row's loss in words of the task.

    place: the beginning of the sentence, for example "In row 1 of 4"; classes: as of `data.Task`
    """

    def named(label: int) -> str:
        return f'"{classes[label]}"' if classes else str(label)

    shares = np.exp(row.log_shares)
    said, right = int(shares.argmax()), row.label
    beside = ", which is right" if said == right else f", and gives the right answer {percent(shares[right])}"
    return (
        f"{place} the right answer is {named(right)}; "
        f"the model says {named(said)} with {percent(shares[said])}{beside}. "
        f"The loss of this row is -ln {shares[right]:.3g} = {row.loss:.3f}."
    )


def word_lines(steps: dict[str, TracedStep], row: TracedRow, answer: str) -> list[str]:
    """What the tables of `event_lines` do not say: the answer, the memory updates, the sizes, the events' names.

    steps: by method, "amrb" and "bptt"; answer: as from `describe_answer`
    """
    names = "; ".join(f"{kind}: {label}" for kind, label in LABELS.items())
    return [answer, _update_line(row), *_size_lines(steps), f"the events: {names}"]


def _size_lines(steps: dict[str, TracedStep]) -> list[str]:
    """How large everything is in the first shard, and how the methods compare. steps: by method, "amrb" and "bptt"."""
    amrb, bptt = (first_shard(steps[method].events) for method in ("amrb", "bptt"))
    cache = next(event.nbytes for event in bptt if event.kind == "forward")
    memory = next(event.nbytes for event in amrb if event.kind == "store")
    most = {"AMRB": max(event.held for event in amrb), "BPTT": max(event.held for event in bptt)}
    segments, again = (sum(e.kind == kind for e in amrb) for kind in ("forward", "replay"))
    return [
        f"a cache of segment 1: {_show_bytes(cache)}; the memory tokens of one segment: {_show_bytes(memory)}, "
        f"{_compare(memory, cache)}",
        f"at most held at once by BPTT, the caches of all {segments} segments: {_show_bytes(most['BPTT'])}",
        f"at most held at once by AMRB, one cache and the stored memory tokens: {_show_bytes(most['AMRB'])}, "
        f"{_compare(most['AMRB'], most['BPTT'])}; for that it runs {again} of {segments} segments again",
    ]


def _compare(one: int, other: int) -> str:
    """How one number of bytes compares with the other."""
    if not one:
        return "there are none"
    ratio, word = (other / one, "less") if one <= other else (one / other, "more")
    if ratio < 1.05:
        return "about as much"
    return f"{ratio:.{0 if ratio >= 10 else 1}f} times {word}"


def percent(share: float) -> str:
    """A share as a percentage, with a decimal below 10 %."""
    if share < 0.0005:
        return "less than 0.1 %"
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def _show_bytes(count: int) -> str:
    """Bytes for people: 1 KiB is 1,024 bytes."""
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} B"
