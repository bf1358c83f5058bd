"""The first training step of a run by both methods, and the page on which one steps through it."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from .. import backend
from ..data import TASKS
from ..data.batches import BatchOrder
from ..errors import InputError
from ..segments import check_tokens, cut_shards, shard_size
from ..step import METHODS
from ..system.files import write_atomically
from ..training import settings
from ..training.run import first_params
from .events import explain, first_shard, same_gradients, trace_step

ROWS = 4  # of a traced batch, if they fit into one shard
PAGE_LIMIT = 2_000_000  # bytes: a page that a phone opens at once


def small_batch(chosen, dataset, cfg, batch_size: int | None):
    """The first rows that a run of these settings would train on: ROWS of them, or as many as fit into one shard.

    Shapes: -> tokens, labels as from `Split.batch`
    """
    count = batch_size or min(ROWS, shard_size(cfg, ROWS, 1))
    order = BatchOrder(dataset.train.lengths(), count, chosen.train.seed)
    return dataset.train.batch(order.rows(0))


def trace(chosen: settings.Settings, dataset, batch_size: int | None) -> tuple[dict, dict]:
    """Trace the first training step of a fresh model by both methods.

    -> steps: by method, as from `trace_step`; page: what `write_page` shows
    """
    cfg, train = chosen.config(dataset), chosen.train
    params = first_params(cfg, train)
    tokens, labels = small_batch(chosen, dataset, cfg, batch_size)
    steps = {m: trace_step(params, cfg, tokens, labels, m, train.seed, 0) for m in METHODS}
    sequences = check_tokens(tokens, cfg)
    size = shard_size(cfg, len(labels), 1)
    shard = cut_shards(sequences, labels, cfg, params["embed.token"].dtype, size)[0]
    row = int(backend.to_host(shard.rows)[0])
    last, events = shard.num_segments - 1, {m: first_shard(s["events"]) for m, s in steps.items()}
    arrays = {kind: [e["array"][0] for e in events["amrb"] if e["event"] == kind] for kind in ("store", "backward")}
    document = f", document {row % 2 + 1}" if cfg.pair else ""
    page = {
        "title": f"{chosen.task}, preset {chosen.preset}, model {chosen.model}",
        "row": f"row {row // (1 + cfg.pair) + 1} of {len(labels)}{document}",
        "loss": steps["amrb"]["loss"],
        "same": same_gradients(steps),
        "tokens": [show_tokens(dataset, sequences[row], t, cfg.segment_length) for t in range(last + 1)],
        "shape": [cfg.num_memory, cfg.d_model],
        "memory": [round_all(array) for array in arrays["store"]],
        "gradient": [round_all(array) for array in reversed(arrays["backward"])],
        "methods": {method: page_events(events[method], last) for method in METHODS},
    }
    return steps, page


def show_tokens(dataset, sequence, t: int, length: int) -> str:
    """A segment's tokens as text where the task has it, else as ids."""
    tokens = sequence[t * length : (t + 1) * length]
    tokens = tokens[tokens > 0]
    return dataset.decode(tokens) if TASKS[dataset.task].as_text else " ".join(map(str, tokens.tolist()))


def round_all(array) -> list[float]:
    """All values in a row, to three significant digits: more is not seen on a heat map."""
    return [float(f"{value:.3g}") for value in np.asarray(array, dtype=float).ravel()]


def page_events(events, last: int) -> list[dict]:
    """The events without their arrays, each with its explanation."""
    shown, gone_back = [], set()
    for e in events:
        if e["event"] == "backward":
            gone_back.add(e["segment"])
        plain = {key: value for key, value in e.items() if key not in ("array", "shard")}
        shown.append(plain | {"says": explain(e, last, e["segment"] in gone_back)})
    return shown


def write_page(path, page: dict) -> int:
    """Write the replay viewer for a recording into one HTML file without any outside address; returns its bytes.

    Raises: InputError if a number is not finite, the page larger than PAGE_LIMIT, or the file cannot be written.
    """
    try:
        recording = json.dumps(page, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InputError(f"{path}: a recorded number is not finite; trace other settings") from None
    recording = recording.replace("<", "\\u003c")  # so that no text of the data can end the script
    template = (files("rmaat_np.trace") / "viewer.html").read_text(encoding="utf-8")
    content = template.replace("RECORDING", recording, 1).encode()
    if len(content) > PAGE_LIMIT:
        raise InputError(
            f"{path}: the page would take {len(content):,} bytes, more than {PAGE_LIMIT:,}; trace a smaller model, "
            "for example --set num_segments=8"
        )
    write_atomically(Path(path), lambda file: file.write(content))
    return len(content)
