"""Where a number stopped being finite: a step is a pure function, so it is run again, and every result looked at."""

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from linecache import getline
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from .. import backend

PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Anomaly:
    """The first array that is not finite: its name in the cache, the gradients or the function that returned it.

    segment (1 for the first), layer, shard: where that function ran, or None outside of them; calls: the functions
    that were active, as (code, how many calls of it there had been).
    """

    array: str
    function: str
    segment: int | None
    layer: int | None
    shard: int | None
    calls: frozenset

    def __str__(self) -> str:
        places = {"segment": self.segment, "layer": self.layer, "shard": self.shard}
        return f"{self.array} of {self.function}" + "".join(
            f", {name} {place}" for name, place in places.items() if place is not None
        )


def first_not_finite(arrays: dict) -> str | None:
    """The name of the first floating-point array that is not finite; other values are passed over."""
    for name, array in arrays.items():
        if getattr(getattr(array, "dtype", None), "kind", "") == "f" and not backend.xp.isfinite(array).all():
            return name
    return None


def find_anomaly(compute) -> Anomaly | None:
    """Call compute() and name the first array that is not finite among all that functions of the package return."""
    counts, active, found = Counter(), [], []

    def profile(frame, event, result):
        code = frame.f_code
        if found or event not in ("call", "return") or not _in_package(code):
            return
        if event == "call":
            counts[code] += 1
            active.append((code, counts[code]))
            return
        name = _name_of_returned(frame, result)
        if name is not None:
            found.append(Anomaly(name, code.co_name, **_place(frame), calls=frozenset(active)))
        active.pop()

    with _hooked(sys.setprofile, sys.getprofile(), profile):
        compute()
    return found[0] if found else None


def find_operation(compute, anomaly: Anomaly) -> str:
    """Call compute() again, watch every line of the calls that were active, and show the one that brought it about.

    -> "file:line: source", or "" if it did not come up again
    """
    counts, found = Counter(), []

    def on_call(frame, event, _):
        code = frame.f_code
        if found or not _in_package(code):
            return None
        counts[code] += 1
        if (code, counts[code]) not in anomaly.calls:
            return None
        line = frame.f_back  # arguments are made by the caller's line
        line = (line.f_code.co_filename, line.f_lineno)

        def on_line(frame, event, _):
            nonlocal line
            if not found and event in ("line", "return"):
                if first_not_finite(_arrays_of(frame)) is not None:
                    found.append(line)
                line = (frame.f_code.co_filename, frame.f_lineno)
            return on_line

        return on_line

    with _hooked(sys.settrace, sys.gettrace(), on_call):
        compute()
    return "".join(f"{Path(path).name}:{number}: {getline(path, number).strip()}" for path, number in found)


def _in_package(code) -> bool:
    return code.co_filename.startswith(PACKAGE) and code.co_filename != __file__


@contextmanager
def _hooked(install, before, hook):
    """Only this thread is watched; `replay` then runs all shards in it, with the same results.

    Meanwhile new arrays hold zeros: what `empty` finds in memory may look like a number that is not finite.
    """
    xp = backend.xp
    backend.xp = SimpleNamespace(**vars(xp) | {"empty": xp.zeros, "empty_like": xp.zeros_like})
    try:
        with np.errstate(all="ignore"):
            install(hook)
            yield
    finally:
        install(before)
        backend.xp = xp


def _name_of_returned(frame, result) -> str | None:
    parts = result if isinstance(result, tuple) else (result,)
    for part in sorted(parts, key=lambda part: not isinstance(part, dict)):  # what is in the cache was made first
        if isinstance(part, dict):
            name = first_not_finite(part)
        elif (name := first_not_finite({"result": part})) is not None:
            names = (name for name, value in frame.f_locals.items() if value is part or value is part.base)
            name = next(names, "result")
        if name is not None:
            return name
    return None


def _place(frame) -> dict:
    """Segment, layer and shard from the variables of the functions on the way here."""
    place = {"segment": None, "layer": None, "shard": None}
    while frame is not None and _in_package(frame.f_code):
        values, code = frame.f_locals, frame.f_code
        name, arguments = code.co_name, code.co_varnames[: code.co_argcount]
        if name in ("segment_forward", "segment_backward"):
            segment = values["segment"] if name == "segment_forward" else values["cache"]["segment"]
            place["segment"] = segment.index + 1
        elif place["layer"] is None and "layer" in arguments:
            place["layer"] = values["layer"]
        if name in ("amrb", "bptt"):
            place["shard"] = values["shard"].number
        frame = frame.f_back
    return place


def _arrays_of(frame) -> dict:
    """The function's arrays, and those in its dicts; not the parameters, which are looked at before."""
    arrays = {}
    for name, value in frame.f_locals.items():
        if isinstance(value, dict) and name != "params":
            arrays |= {f"{name}[{key!r}]": entry for key, entry in value.items()}
        else:
            arrays[name] = value
    return arrays
