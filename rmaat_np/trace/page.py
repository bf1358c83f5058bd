"""The first training step of a run by both methods, and the page on which one steps through it."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..data import TASKS, Dataset
from ..data.batches import BatchOrder
from ..errors import InputError
from ..segments import shard_size
from ..step import METHODS
from ..system.files import write_atomically
from ..training.run import first_params
from ..training.settings import Settings
from .events import TracedStep, TraceEvent, first_shard, same_gradients, trace_step
from .row import TracedRow, trace_row
from .words import LABELS, describe_answer, describe_update, explain, percent, word_lines

__all__ = ["trace_run", "write_page"]

ROWS = 4  # of a traced batch, if they fit into one shard
PAGE_LIMIT = 2_000_000  # bytes: a page that a phone opens at once


def trace_run(
    settings: Settings, dataset: Dataset, batch_size: int | None = None
) -> tuple[dict[str, TracedStep], dict]:
    """Trace the first training step of a run, with fresh parameters or those of `init`, by both methods.

    Every row has the retention factors of its own segments, as the words say, also if cfg has a retention_horizon.
    batch_size: rows of the batch; None: ROWS, or as many as fit into one shard
    -> steps by method; the recording for `write_page`, whose "words" are lines to print beside `event_lines`
    Raises: InputError for settings that do not fit the data, and as `first_params`.
    """
    cfg, train = replace(settings.config(dataset), retention_horizon=0), settings.train
    count = batch_size or min(ROWS, shard_size(cfg, ROWS, 1))
    order = BatchOrder(dataset.train.lengths(), count, train.seed)
    tokens, labels = dataset.train.batch(order.rows(0))
    params = first_params(cfg, train)
    steps = {method: trace_step(params, cfg, tokens, labels, method, train.seed, 0) for method in METHODS}
    row = trace_row(params, cfg, tokens, labels, train.seed, 0)
    title = f"{settings.task}, preset {settings.preset}, model {settings.model}"
    return steps, {"title": title} | _recording(steps, cfg, dataset, len(labels), row)


def _recording(
    steps: dict[str, TracedStep], cfg: Config, dataset: Dataset, count: int, row: TracedRow
) -> dict[str, Any]:
    """What the page shows, as plain values. count: rows of the batch."""
    events = {method: first_shard(step.events) for method, step in steps.items()}
    maps = {
        kind: [_round_all(event.array[0]) for event in events["amrb"] if event.kind == kind and event.array is not None]
        for kind in ("store", "backward")
    }
    document = f", document {row.document + 1}" if cfg.pair else ""
    place = f"row {row.number + 1} of {count}"
    classes = TASKS[dataset.task].classes if dataset.task in TASKS else ()
    if dataset.codec is not None:
        classes = tuple(map(str, dataset.codec.classes.tolist()))
    answer = describe_answer(row, f"In {place}", classes)
    return {
        "row": place + document,
        "loss": steps["amrb"].loss,
        "answer": answer,
        "words": word_lines(steps, row, answer),
        "same": same_gradients(steps),
        "labels": LABELS,
        "tokens": [_show_tokens(dataset, row.tokens, t, cfg.segment_length) for t in range(row.num_segments)],
        "updates": _updates(row),
        "shape": [cfg.num_memory, cfg.d_model],
        "memory": maps["store"],
        "gradient": maps["backward"][::-1],
        "methods": {method: page_events(events[method], row, answer) for method in METHODS},
    }


def _updates(row: TracedRow) -> list[dict[str, str]]:
    """What the memory update after each segment but the last does: in short, and in a sentence."""
    verb = "prior" if row.mode == "learned" else "takes over"
    return [
        {"short": f"{verb} {percent(float(factor))}", "says": describe_update(row, t)}
        for t, factor in enumerate(row.factors[:-1])
    ]


def _show_tokens(dataset: Dataset, sequence, t: int, length: int) -> str:
    """A segment's tokens as text where the task has any, else as ids."""
    tokens = sequence[t * length : (t + 1) * length]
    tokens = tokens[tokens > 0]
    return dataset.decode(tokens) if dataset.as_text else " ".join(map(str, tokens.tolist()))


def _round_all(array) -> list[float]:
    """All values in a row, to three significant digits. A heat map shows no more."""
    return [float(f"{value:.3g}") for value in np.asarray(array, dtype=float).ravel()]


def page_events(events: list[TraceEvent], row: TracedRow, answer: str = "") -> list[dict]:
    """The events as the page reads them: without their arrays, each with its explanation.

    row: the one shown; answer: as from `describe_answer`
    """
    shown, gone_back = [], set()
    for event in events:
        if event.kind == "backward":
            gone_back.add(event.segment)
        plain = {"event": event.kind, "segment": event.segment, "norm": event.norm}
        sizes = {"nbytes": event.nbytes, "caches": event.caches, "buffer": event.buffer}
        shown.append(plain | sizes | {"says": explain(event, row, event.segment in gone_back, answer)})
    return shown


def write_page(path: Path, recording: dict) -> int:
    """Write the replay viewer with a recording into one HTML file without any outside address. -> its bytes

    recording: as from `trace_run`
    Raises: InputError if a number is not finite, if the page would be larger than PAGE_LIMIT, or if the file cannot be
        written.
    """
    try:
        text = json.dumps(recording, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InputError(f"{path}: a recorded number is not finite; trace other settings") from None
    text = text.replace("<", "\\u003c")  # so that no text of the data can end the script
    template = (files("rmaat_np.trace") / "viewer.html").read_text(encoding="utf-8")
    content = template.replace("RECORDING", text, 1).encode()
    if len(content) > PAGE_LIMIT:
        raise InputError(
            f"{path}: the page would take {len(content):,} bytes, more than {PAGE_LIMIT:,}; trace a smaller model, "
            "for example num_segments=8"
        )
    write_atomically(path, lambda file: file.write(content))
    return len(content)
