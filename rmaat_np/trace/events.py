"""One training step, told event by event, as records and as lines.

The events are those that `loss_and_grads` reports to an observer; see `ledger.Event` for what each one means.
"""

import numpy as np

from .. import backend
from ..step import loss_and_grads


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


def same_gradients(steps: dict) -> bool:
    """Are loss and gradients of all methods equal to the last bit?"""
    first, *others = steps.values()
    to_host = backend.to_host
    return all(
        other["loss"] == first["loss"] and np.array_equal(to_host(other["grads"][name]), to_host(grad))
        for other in others
        for name, grad in first["grads"].items()
    )
