"""What the checks share: how an exercise is called, how a result is judged, and the model that exercise 07 trains."""

import sys
import traceback
import weakref
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # tests: for the stand-in device

import rmaat_np as rn  # noqa: E402 (after the path)
from rmaat_np import attention, gradcheck, model, replay, segments  # noqa: E402
from rmaat_np.step import prepare_phi_r  # noqa: E402

WHERE = "lessons/exercises/exercises.py"
try:
    from . import exercises
except SyntaxError as error:
    raise pytest.Collector.CollectError(f"{WHERE}, line {error.lineno}: {error.msg}") from None


def fail(message):
    """Fail with this message and nothing before it: an exception that is being handled is not shown."""
    raise pytest.fail.Exception(message, pytrace=False) from None


def call(name, **given):
    """Call an exercise: a stub is skipped, shapes that do not fit are explained, and what was given must not change."""
    arrays = {key: value for key, value in given.items() if isinstance(value, np.ndarray)}
    arrays |= {f"cache[{key!r}]": value for key, value in given.get("cache", {}).items()} if "dout" in given else {}
    copies = {key: array.copy() for key, array in arrays.items()}
    try:
        found = getattr(exercises, name)(**given)
    except NotImplementedError:
        pytest.skip(f"not written yet: see {name} in {WHERE}")
    except ValueError as error:
        line = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == exercises.__file__
        ]
        shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        fail(
            f"A sum over the wrong axis is the usual cause when shapes do not fit. {name}, line {(line or ['?'])[-1]}: "
            f"{error} (given: {shapes})"
        )
    for key, array in arrays.items():
        if not np.array_equal(array, copies[key]):
            fail(
                f"{name} changed its argument {key}: `+=`, `*=` and `out=` write into an array that others still use. "
                "Work on a new array."
            )
    return found


def check(name, found, expected, judge, causes=None, rtol=1e-6):
    """Fail with the likely cause, if one of the wrong results is the one found; else with the entry furthest off.

    judge: who says so; causes: sentences, each with the wrong result that it explains
    """
    if not isinstance(found, np.ndarray):
        fail(f"{name} is {type(found).__name__}, but it must be an array. Does the function return it?")
    causes = causes or {}
    usual = [sentence for sentence, wrong in causes.items() if found.shape == wrong.shape != expected.shape]
    if found.shape != expected.shape:
        fail(
            f"{(usual or ['A sum over the wrong axis is the usual cause of a wrong shape.'])[0]} "
            f"{name} has the shape {found.shape}, but it must be {expected.shape}."
        )
    if not np.isfinite(found).all():
        fail(f"{name} has entries that are not finite: look for a division by 0 (is the first step t = 1?).")
    if gradcheck.relative_error(found, expected) <= rtol:
        return
    entry = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(found - expected)), found.shape))
    ratio = f"{found[entry] / expected[entry]:.4g} times that" if expected[entry] else "another number"
    numbers = (
        f"{name}{list(entry)} is {found[entry]:.6g}, but {judge} says {expected[entry]:.6g}: it is {ratio}. "
        f"{np.mean(np.isclose(found, expected, rtol=1e-5, atol=1e-9)):.0%} of the entries are right."
    )
    for sentence, wrong in causes.items():
        if wrong.shape == found.shape and gradcheck.relative_error(found, wrong) < 1e-9:
            fail(f"{sentence} {numbers}")
    fail(numbers)


def check_parts(name, found, names):
    """The function must return a tuple of as many arrays."""
    if not (isinstance(found, tuple) and len(found) == len(names)):
        fail(f"{name} must return {len(names)} things: {', '.join(names)}.")


def random(*shape, seed=0):
    """Standard normal float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def phi(u):
    """The package's feature map."""
    return attention.phi_forward(u)[0]


class Cache(dict):
    """A dict that can be watched: how many are alive shows what an implementation keeps."""

    __slots__ = ("__weakref__",)


class ReplayProblem:
    """A small model, what amrb_step is given to go through it, and a record of what it did."""

    def __init__(self):
        self.cfg = cfg = rn.Config(
            vocab_size=7, num_classes=3, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=3,
            num_segments=4, num_memory=2, pooling="mean",
        )  # fmt: skip
        rng = np.random.default_rng(0)
        self.tokens, self.labels = rng.integers(1, 7, (2, 12)), rng.integers(0, 3, 2)
        self.params = rn.init_params(cfg, dtype="float64")
        self.phi_r, _ = prepare_phi_r(self.params, cfg)
        (self.shard,) = segments.cut_shards(self.tokens, self.labels, cfg, "float64", size=2)
        self.caches, self.alive, self.forwards, self.turns, self.handed_out = [], 0, 0, 0, []
        self.dmemories = []  # for each call of backward: was there a gradient from the segment after it
        self.entered, self.other_memory = {}, None  # a segment that was replayed from another memory

    def give(self, name, array):
        """Remember an array that amrb_step gets, to see later whether it was changed."""
        self.handed_out.append((name, array, array.copy()))
        return array

    def forward(self, segment, memory):
        memory_next, readout, cache = model.segment_forward(self.params, self.phi_r, self.cfg, segment, memory)
        if not np.array_equal(self.entered.setdefault(segment.index, memory.copy()), memory):
            self.other_memory = segment.index
        watched = Cache(cache)
        self.caches.append(weakref.ref(watched))
        self.forwards += 1
        self.alive = max(self.alive, sum(ref() is not None for ref in self.caches))
        handed_on = memory_next if len(memory_next) else np.zeros_like(memory)  # after the last segment nobody asks
        return self.give("a memory", handed_on), self.give("a readout", readout), watched

    def backward(self, dmemory_next, dreadout, cache):
        for name, array in (("dmemory_next", dmemory_next), ("dreadout", dreadout)):
            if not isinstance(array, np.ndarray):
                fail(f"backward was given {type(array).__name__} as {name}: nothing goes on after the last segment, so "
                     "its dmemory_next is an array of zeros.")  # fmt: skip
        self.dmemories.append(dmemory_next.any())
        segment = cache["segment"]
        dmemory, grads, _ = model.segment_backward(dmemory_next[: segment.num_continuing], dreadout, cache)
        return self.give("a dmemory", dmemory), {name: self.give(f"a grads[{name!r}]", g) for name, g in grads.items()}

    def turn(self, z):
        self.turns += 1
        if not isinstance(z, np.ndarray):
            fail(f"turn was given {type(z).__name__}: add the readouts up to one array.")
        return replay.readout_loss(z, self.params, self.shard, replay.zero_gradients(self.params, self.phi_r))[2]
