"""The exercises' checks: they pass with the package's functions, fail with a mistake, and skip what is not written."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rmaat_np import attention, layers, memory

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "lessons" / "exercises"
spec = importlib.util.spec_from_file_location("exercise_checks", FOLDER / "test_exercises.py")
checks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checks)

CASES = {
    "phi_backward": [()],
    "write_and_read": [(1.0,), (0.5,)],
    "memory_update": [("integrate",), ("scale",), ("online",), ("none",)],
    "retention_shares": [(1,), (4,), (6,)],
    "layer_norm_backward": [()],
    "amrb_step": [()],
}


def write_and_read(q, k, v, features, alpha=1.0):
    y, _ = attention.astromorphic_attention_forward(q[None], k[None], v[None], features, None, 1, alpha=alpha)
    return y[0]


def retention_shares(curve):
    return np.diff(curve) / np.diff(curve).sum()


def amrb_step(
    memory,
    inputs,
    forward,
    backward,
    turn,
    keep=False,
    lose=False,
    overwrite=False,
    frozen=False,
    turns=1,
    nothing=False,
):
    """The lines of `replay.amrb`, and what can be wrong in them."""
    buffer, z, caches, total = [], 0.0, [], {}
    for segment in inputs:
        buffer.append(buffer[0] if frozen and buffer else memory)
        memory, readout, cache = forward(segment, memory)
        z = z + readout
        if keep:
            caches.append(cache)
    cache, dz, dmemory = None, [turn(z) for _ in range(turns)][0], None if nothing else np.zeros_like(memory)
    for t in reversed(range(len(inputs))):
        memory = buffer.pop()
        cache = caches.pop() if caches and keep != "all" else forward(inputs[t], memory)[2]
        dmemory, grads = backward(np.zeros_like(dmemory) if lose else dmemory, dz, cache)
        total |= {name: grad if overwrite or name not in total else total[name] + grad for name, grad in grads.items()}
    return dmemory, total


def from_the_start(first, inputs, forward, backward, turn):
    """No memory is kept but the first: each segment's is computed anew, which takes O(S^2) runs."""
    z, total = 0.0, {}
    for t in range(len(inputs)):
        memory = first
        for segment in inputs[: t + 1]:
            memory, readout, cache = forward(segment, memory)
        z, cache = z + readout, None
    dz, dmemory = turn(z), np.zeros_like(first)
    for t in reversed(range(len(inputs))):
        memory = first
        for segment in inputs[: t + 1]:
            cache = None
            memory, _, cache = forward(segment, memory)
        dmemory, grads = backward(dmemory, dz, cache)
        cache = None
        total |= {name: total[name] + grad if name in total else grad for name, grad in grads.items()}
    return dmemory, total


def into_curve(curve):
    curve /= curve[-1]
    return np.diff(curve)


SOLUTIONS = {
    "phi_backward": attention.phi_backward,
    "write_and_read": write_and_read,
    "memory_update": lambda *arguments: memory.memory_update_forward(*arguments)[0],
    "retention_shares": retention_shares,
    "layer_norm_backward": layers.layer_norm_backward,
    "amrb_step": amrb_step,
}


def into_dphi(dphi, cache):
    dphi *= np.minimum(cache["phi"], 1)
    return dphi


def read_without_p(q, k, v, features, alpha):
    phi = attention.phi_forward
    return phi(q)[0] @ ((phi(k)[0] + features).T @ v) / q.shape[1]


def in_place(memory, written, factor, mode):
    memory += 0.0 if mode == "scale" else 1.0
    return SOLUTIONS["memory_update"](memory - 1.0, written, factor, mode)


def gain_forgotten(dout, cache):
    return layers.layer_norm_backward(dout, cache | {"gain": np.ones_like(cache["gain"])})


def mean_forgotten(dout, cache):
    dx, dgain, dbias = layers.layer_norm_backward(dout, cache)
    return dx + cache["rstd"] * (dout * cache["gain"]).mean(axis=1, keepdims=True), dgain, dbias


MISTAKES = {  # exercise, what its check must say, the wrong function
    "slope 1 everywhere": ("phi_backward", "finite difference", lambda dphi, cache: dphi * 1.0),
    "slope phi everywhere": ("phi_backward", "finite difference", lambda dphi, cache: dphi * cache["phi"]),
    "dphi overwritten": ("phi_backward", "changed its argument dphi", into_dphi),
    "no array": ("phi_backward", "must be an array", lambda dphi, cache: None),
    "no H_astro": ("write_and_read", "H_astro is missing", lambda q, k, v, r, a: write_and_read(q, k, v, 0 * r, a)),
    "no P": ("write_and_read", "read mode is missing", read_without_p),
    "no 1/m": ("write_and_read", "quadratic form", lambda q, *rest: write_and_read(q, *rest) * q.shape[1]),
    "alpha ignored": ("write_and_read", "quadratic form", lambda q, k, v, r, a: write_and_read(q, k, v, r)),
    "transposed": ("write_and_read", "shape", lambda *arguments: write_and_read(*arguments).T),
    "factor on the wrong side": (
        "memory_update",
        "memory_update_forward",
        lambda old, new, factor, mode: SOLUTIONS["memory_update"](old, new, 1 - factor, mode),
    ),
    "one mode for all": (
        "memory_update",
        "memory_update_forward",
        lambda old, new, factor, mode: old + factor * (new - old),
    ),
    "memory overwritten": ("memory_update", "changed its argument memory", in_place),
    "not normalised": ("retention_shares", "must be 1", np.diff),
    "a factor too many": ("retention_shares", "factors, not", lambda curve: curve / curve.sum()),
    "the curve itself": ("retention_shares", "increment", lambda curve: curve[1:] / curve[1:].sum()),
    "gain forgotten": ("layer_norm_backward", "dx", gain_forgotten),
    "mean forgotten": ("layer_norm_backward", "dx", mean_forgotten),
    "dgain and dbias swapped": (
        "layer_norm_backward",
        "dgain",
        lambda dout, cache: tuple(layers.layer_norm_backward(dout, cache)[i] for i in (0, 2, 1)),
    ),
    "caches kept": ("amrb_step", "that is BPTT", lambda *given: amrb_step(*given, keep=True)),
    "caches kept and replayed": ("amrb_step", "alive at once", lambda *given: amrb_step(*given, keep="all")),
    "memory's gradient lost": ("amrb_step", "BPTT", lambda *given: amrb_step(*given, lose=True)),
    "gradients overwritten": ("amrb_step", "BPTT", lambda *given: amrb_step(*given, overwrite=True)),
    "every segment from the start": ("amrb_step", "one more run of each is enough", from_the_start),
    "the loss for every segment": ("amrb_step", "turn was called", lambda *given: amrb_step(*given, turns=3)),
    "nothing after the last": ("amrb_step", "NoneType as dmemory_next", lambda *given: amrb_step(*given, nothing=True)),
    "results swapped": ("amrb_step", "return an array and a dict", lambda *given: amrb_step(*given)[::-1]),
    "curve overwritten": ("retention_shares", "changed its argument curve", into_curve),
    "replayed from the first memory": ("amrb_step", "BPTT", lambda *given: amrb_step(*given, frozen=True)),
}


def run_checks(name):
    for arguments in CASES[name]:
        getattr(checks, f"test_{name}")(*arguments)


def test_every_exercise_has_a_check_and_a_mistake():
    stubs = {name for name, value in vars(checks.exercises).items() if callable(value)}
    assert stubs == set(CASES) == set(SOLUTIONS) == {exercise for exercise, _, _ in MISTAKES.values()}


@pytest.mark.parametrize("name", CASES)
def test_the_packages_functions_pass(name, monkeypatch):
    monkeypatch.setattr(checks.exercises, name, SOLUTIONS[name])
    run_checks(name)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_and_is_explained(mistake, monkeypatch):
    name, message, wrong = MISTAKES[mistake]
    monkeypatch.setattr(checks.exercises, name, wrong)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        run_checks(name)


def test_stubs_are_skipped_with_a_friendly_line():
    command = [sys.executable, "-m", "pytest", "lessons/exercises", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "12 skipped" in result.stdout and "passed" not in result.stdout
    for name in CASES:
        assert f"not written yet: see {name} in lessons/exercises/exercises.py" in result.stdout
