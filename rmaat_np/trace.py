"""One training step, told event by event: as lines, as a picture of what is alive when, and as a page to step through.

The events are those that `replay.loss_and_grads` reports to an observer; see `replay.Event` for what each one means.
"""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from . import backend, settings
from .checkpoint import write_atomically
from .data.batches import BatchOrder
from .errors import InputError
from .replay import METHODS, loss_and_grads
from .segments import check_tokens, cut_shards, shard_size
from .train import first_params

ROWS = 4  # of a traced batch, if they fit into one shard
PAGE_LIMIT = 2_000_000  # bytes: a page that a phone opens at once
TIMELINE_SIZE = (11, 8)  # inches
AS_TEXT = ("listops", "text", "retrieval", "recall")  # tasks whose tokens can be read; the others' are grey values
BEGIN = {"cache": ("forward", "replay"), "memory": ("store",)}
END = {"cache": ("drop",), "memory": ("release",)}


def trace_step(params, cfg, tokens, labels, method, seed=None, step=None) -> dict:
    """One training step without the update, with everything that its observer was told.

    Arguments as of `replay.loss_and_grads`, by one worker.
    -> loss: float; grads: by name; stats; events: a list of dicts with event, segment, shard, shape (of array), nbytes,
        caches, buffer (bytes, as in `replay.Event`), norm (of array, all rows together), array: NumPy copy, or None
    """
    events = []

    def observe(e):
        array = None if e.array is None else np.array(backend.to_host(e.array))
        shape, norm = (
            (None, None) if array is None else (list(array.shape), float(np.sqrt(np.square(array, dtype=float).sum())))
        )
        numbers = {"nbytes": int(e.nbytes), "caches": int(e.caches), "buffer": int(e.buffer)}
        where = {"event": e.kind, "segment": e.segment, "shard": e.shard, "shape": shape}
        events.append(where | numbers | {"norm": norm, "array": array})

    loss, grads, stats = loss_and_grads(params, cfg, tokens, labels, method, seed, step, observer=observe)
    return {"loss": float(loss), "grads": grads, "stats": stats, "events": events}


def record(params, cfg, tokens, labels, method, seed=None, step=None) -> list[dict]:
    """The events of one training step in their order, as `trace_step` describes them."""
    return trace_step(params, cfg, tokens, labels, method, seed, step)["events"]


def lines(events) -> list[str]:
    """A heading and one line per event, shards one after the other; bytes are those held after the event."""
    heading = ("event", "segment", "array", "bytes", "caches", "buffer", "norm")
    rows = [heading]
    for e in events:
        shape = "" if e["shape"] is None else str(tuple(e["shape"]))
        norm = "" if e["norm"] is None else f"{'gradient' if e['event'] == 'backward' else 'memory'} {e['norm']:.4g}"
        if e["shape"] is not None and e["shape"][0] == 0:
            norm = "every sequence ends here"
        sign = {"drop": "-", "release": "-", "backward": ""}.get(e["event"], "+")
        segment = f"{e['segment'] + 1}" + (f" (shard {e['shard'] + 1})" if e["shard"] else "")
        held = [f"{e[name]:,}" for name in ("caches", "buffer")]
        rows.append((e["event"], segment, shape, f"{sign}{e['nbytes']:,}" if e["nbytes"] else "", *held, norm))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(_pad, row, widths, range(7))).rstrip() for row in rows]


def _pad(word, width, column):
    return word.rjust(width) if 3 <= column <= 5 else word.ljust(width)


def explain(event: dict, last: int, gone_back: bool) -> str:
    """What happens at an event and why. last: the last segment; gone_back: has the gradient gone through this one."""
    t, size, norm = event["segment"], show_bytes(event["nbytes"]), event["norm"]
    name, Name = f"segment {t + 1}", f"Segment {t + 1}"
    match event["event"]:
        case "store":
            return (
                f"The memory tokens that enter {name} go into the replay buffer ({size}): "
                "from them and the tokens alone, the segment can be run again on the way back."
            )
        case "forward" if t < last:
            return (
                f"{Name} is run: the intermediate results that its gradient will need form a cache of {size}. "
                f"Its memory tokens, norm {norm:.3g}, go on to segment {t + 2}."
            )
        case "forward":
            return (
                f"{Name}, the last one, is run: its cache takes {size}. Now the loss is known and the way back "
                "begins right here, so both methods still have this cache."
            )
        case "drop" if gone_back:
            return f"The cache of {name} has done its work: {size} are free again."
        case "drop":
            return (
                f"The cache of {name} is given up before the next one is built: {size} are free. "
                "AMRB will rebuild it from the stored memory tokens when the gradient comes back."
            )
        case "release":
            return f"The way back reaches {name}: the memory tokens that entered it leave the replay buffer ({size})."
        case "replay":
            return (
                f"{Name} is run a second time from the memory tokens just released. The cache of {size} comes "
                "out the same to the last bit, so the gradient will too."
            )
    goal = f"goes on to segment {t}" if t else "goes to the learned memory tokens that every sequence starts from"
    return (
        f"The gradient goes back through {name} with the help of its cache. "
        f"What arrives at the memory tokens that entered it, norm {norm:.3g}, {goal}."
    )


def show_bytes(count: int) -> str:
    """Bytes for people: 1 kB is 1,000 bytes."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} B"


def first_shard(events) -> list[dict]:
    """The events of one shard, which tell all: the other shards go through the same."""
    return [e for e in events if e["shard"] == 0]


def spans(events, what: str) -> list[tuple[int, int, int]]:
    """When a segment's "cache", or its "memory" in the replay buffer, is alive.

    -> (segment, event that brings it, event that ends it), in the order of the ends
    """
    begun, found = {}, []
    for i, e in enumerate(events):
        if e["event"] in BEGIN[what]:
            begun[e["segment"]] = i
        elif e["event"] in END[what]:
            found.append((e["segment"], begun.pop(e["segment"]), i))
    return found


def draw_timeline(figure, recordings: dict) -> None:
    """Segments across, events down, what is alive when; below, the bytes held, all on the same scales.

    figure: an empty matplotlib figure, TIMELINE_SIZE inches; recordings: events by method, as from `record`; of each
    the first shard is drawn
    """
    shards = {method: first_shard(events) for method, events in recordings.items()}
    longest = max(map(len, shards.values()))
    most = max(e["caches"] + e["buffer"] for events in shards.values() for e in events)
    unit, size = ("MB", 1e6) if most >= 1e6 else ("kB", 1e3)
    axes = figure.subplots(2, len(shards), squeeze=False, height_ratios=(3, 1))
    for (method, events), axis, below in zip(shards.items(), *axes, strict=True):
        _draw_alive(axis, events)
        axis.set(title=method.upper(), xlabel="segment", ylabel="event, time runs down", ylim=(longest + 0.5, -0.5))
        held = np.array([e["caches"] + e["buffer"] for e in events]) / size
        below.step(range(len(events)), held, where="post", color="black")
        below.set(xlabel="event", ylabel=f"bytes held [{unit}]", xlim=(-0.5, longest), ylim=(0, most / size * 1.1))
        below.annotate(
            f"peak {held.max():,.1f} {unit}", (held.argmax(), held.max()), (3, 3), textcoords="offset points"
        )
        for a in (axis, below):
            a.spines[["top", "right"]].set_visible(False)
    key = {label: mark for axis in axes[0] for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(key.values(), key.keys(), loc="outside lower center", ncols=len(key), frameon=False)


def _draw_alive(axis, events):
    looks = {
        "cache": {"width": 0.78, "color": "#9ecae1", "edgecolor": "#08519c", "label": "cache"},
        "memory": {"width": 0.26, "color": "#fdd0a2", "edgecolor": "#a63603", "hatch": "///"},
    }
    looks["memory"]["label"] = "memory tokens in the replay buffer"
    for what, look in looks.items():
        alive = spans(events, what)
        if alive:
            segment, begin, end = np.array(alive).T
            axis.bar(segment + 1, end - begin, bottom=begin, linewidth=0.8, **look)
    marks = {"forward": ("v", "white"), "replay": ("D", "#fed976"), "backward": ("^", "black")}
    for kind, (marker, face) in marks.items():
        points = [(e["segment"] + 1, i) for i, e in enumerate(events) if e["event"] == kind]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color="black", markerfacecolor=face, label=kind)
    segments = max(e["segment"] for e in events) + 1
    axis.set_xlim(0.4, segments + 0.6)
    axis.set_xticks(range(1, segments + 1, -(-segments // 16)))


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


def same_gradients(steps: dict) -> bool:
    """Are loss and gradients of all methods equal to the last bit?"""
    first, *others = steps.values()
    to_host = backend.to_host
    return all(
        other["loss"] == first["loss"] and np.array_equal(to_host(other["grads"][name]), to_host(grad))
        for other in others
        for name, grad in first["grads"].items()
    )


def show_tokens(dataset, sequence, t: int, length: int) -> str:
    """A segment's tokens as text where the task has it, else as ids."""
    tokens = sequence[t * length : (t + 1) * length]
    tokens = tokens[tokens > 0]
    return dataset.decode(tokens) if dataset.task in AS_TEXT else " ".join(map(str, tokens.tolist()))


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
    template = (files("rmaat_np") / "viewer.html").read_text(encoding="utf-8")
    content = template.replace("RECORDING", recording, 1).encode()
    if len(content) > PAGE_LIMIT:
        raise InputError(
            f"{path}: the page would take {len(content):,} bytes, more than {PAGE_LIMIT:,}; trace a smaller model, "
            "for example --set num_segments=8"
        )
    write_atomically(Path(path), lambda file: file.write(content))
    return len(content)


def write_timeline(path, recordings: dict) -> None:
    """Draw the timeline into a PNG file. Raises: InputError without matplotlib, or if it cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"matplotlib cannot be imported ({error}); pip install matplotlib") from None
    figure = Figure(figsize=TIMELINE_SIZE, layout="constrained")
    draw_timeline(figure, recordings)
    write_atomically(Path(path), lambda file: figure.savefig(file, format="png", dpi=120))
