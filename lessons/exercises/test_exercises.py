"""The checks of the exercises: python -m pytest lessons/exercises -k phi"""

import importlib.util
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import rmaat_np as rn  # noqa: E402 (after the path)
from rmaat_np import (
    attention,  # noqa: E402
    gradcheck,  # noqa: E402
    layers,  # noqa: E402
    memory,  # noqa: E402
    model,  # noqa: E402
    plasticity,  # noqa: E402
    replay,  # noqa: E402
    segments,  # noqa: E402
)
from rmaat_np.step import prepare_phi_r  # noqa: E402

WHERE = "lessons/exercises/exercises.py"
spec = importlib.util.spec_from_file_location("exercises", Path(__file__).with_name("exercises.py"))
exercises = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exercises)


def call(name, *arguments, **options):
    """Call an exercise; skip the check while it is a stub."""
    try:
        return getattr(exercises, name)(*arguments, **options)
    except NotImplementedError:
        pytest.skip(f"not written yet: see {name} in {WHERE}")


def check(name, found, expected, source, rtol=1e-6):
    """Fail with the entry that is furthest off, and with what it should be."""
    assert isinstance(found, np.ndarray), f"{name} is {type(found).__name__}, but it must be an array"
    assert found.shape == expected.shape, f"{name} has the shape {found.shape}, but it must be {expected.shape}"
    assert np.isfinite(found).all(), f"{name} has entries that are not finite"
    if gradcheck.relative_error(found, expected) > rtol:
        entry = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(found - expected)), found.shape))
        pytest.fail(
            f"{name}{list(entry)} is {found[entry]:.6g}, but {source} says {expected[entry]:.6g} "
            f"(ratio {found[entry] / expected[entry] if expected[entry] else np.inf:.4g}); "
            f"{np.mean(np.isclose(found, expected, rtol=1e-5, atol=1e-9)):.0%} of the entries are right"
        )


def unchanged(name, arrays, copies):
    """Fail if the exercise wrote into what it was given."""
    for label, array in arrays.items():
        assert np.array_equal(array, copies[label]), f"{name} changed its argument {label}; work on a new array"


def random(*shape, seed=0):
    """Standard normal float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def test_phi_backward():
    u, dphi = 2 * random(3, 4), random(3, 4, seed=1)
    given = {"phi": attention.phi_forward(u)[0], "dphi": dphi}
    copies = {name: array.copy() for name, array in given.items()}
    du = call("phi_backward", dphi, {"phi": given["phi"]})
    unchanged("phi_backward", given, copies)
    numeric = gradcheck.numerical_gradient(lambda u: float((attention.phi_forward(u)[0] * dphi).sum()), u)
    check("du", du, numeric, "the finite difference along that u")


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_write_and_read(alpha):
    q, k, v, r = (random(n, 4, seed=n + i) for i, n in enumerate((5, 7, 7, 7)))
    features = attention.phi_forward(r)[0]
    given = {"q": q, "k": k, "v": v, "features": features}
    copies = {name: array.copy() for name, array in given.items()}
    y = call("write_and_read", q, k, v, features, alpha)
    unchanged("write_and_read", given, copies)
    batch = (q[None], k[None], v[None])
    without_astro, without_p = (
        attention.astromorphic_attention_quadratic(*batch, f, None, 1, alpha=alpha, use_feedback=p)[0]
        for f, p in ((None, True), (features, False))
    )
    if np.shape(y) == q.shape:
        assert not np.allclose(y, without_astro), "H_astro is missing: add 1/m phi(R)^T V to H_neuron"
        assert not np.allclose(y, without_p), "the read mode is missing: multiply each row of phi(Q) H by P = 1 / C"
    expected = attention.astromorphic_attention_quadratic(*batch, features, None, 1, alpha=alpha)[0]
    check("y", y, expected, "the quadratic form, in which every query meets every key,", rtol=1e-10)


@pytest.mark.parametrize("mode", plasticity.RETENTION_MODES)
def test_memory_update(mode):
    given = {"memory": random(3, 2, 4), "written": random(3, 2, 4, seed=1)}
    factor = np.array([0.5, 0.2, 1.0])[:, None, None] if mode != "none" else np.ones((3, 1, 1))
    copies = {name: array.copy() for name, array in given.items()}
    found = call("memory_update", given["memory"], given["written"], factor, mode)
    unchanged("memory_update", given, copies)
    expected, _ = memory.memory_update_forward(copies["memory"], copies["written"], factor, mode)
    check(f"memory_next under `{mode}`", found, expected, "the package's memory_update_forward", rtol=1e-12)


@pytest.mark.parametrize("total", [1, 4, 6])
def test_retention_shares(total):
    curve = plasticity.ltp_curve()[: total + 1].copy()
    copy = curve.copy()
    found = call("retention_shares", curve)
    unchanged("retention_shares", {"curve": curve}, {"curve": copy})
    assert np.shape(found) == (total,), f"{total} cycles have {total} factors, not {np.shape(found)}"
    assert abs(np.sum(found) - 1) < 1e-9, f"the factors sum to {np.sum(found):.6f}, but it must be 1"
    increments = np.array([curve[t] - curve[t - 1] for t in range(1, total + 1)])
    check("RF", found, increments / (curve[-1] - curve[0]), "the curve's increment over its whole climb", rtol=1e-12)


def test_layer_norm_backward():
    x, dout = random(3, 5), random(3, 5, seed=1)
    gain, bias = 1 + 0.3 * random(5, seed=2), random(5, seed=3)
    _, cache = layers.layer_norm_forward(x, gain, bias)
    given = {"dout": dout} | cache
    copies = {name: array.copy() for name, array in given.items()}
    found = call("layer_norm_backward", dout, cache)
    unchanged("layer_norm_backward", given, copies)
    assert isinstance(found, tuple) and len(found) == 3, "return three arrays: dx, dgain, dbias"

    def out(**moved):
        out, _ = layers.layer_norm_forward(*({"x": x, "gain": gain, "bias": bias} | moved).values())
        return float((out * dout).sum())

    for name, start, gradient in zip(("x", "gain", "bias"), (x, gain, bias), found, strict=True):
        numeric = gradcheck.numerical_gradient(lambda moved, name=name: out(**{name: moved}), start)
        check("d" + name, gradient, numeric, f"the finite difference along that {name}")


class Cache(dict):
    """A dict that can be watched: how many are alive shows what an implementation keeps."""

    __slots__ = ("__weakref__",)


def replay_problem():
    """-> params, cfg, tokens, labels, and what amrb_step is given; counts: what it did with it."""
    cfg = rn.Config(
        vocab_size=7, num_classes=3, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=3, num_segments=4,
        num_memory=2, pooling="mean",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tokens, labels = rng.integers(1, 7, (2, 12)), rng.integers(0, 3, 2)
    params = rn.init_params(cfg, dtype="float64")
    phi_r, _ = prepare_phi_r(params, cfg)
    (shard,) = segments.cut_shards(tokens, labels, cfg, "float64", size=2)
    alive_caches, counts = [], {"forward": 0, "turn": 0, "alive": 0}

    def forward(segment, memory):
        memory_next, readout, cache = model.segment_forward(params, phi_r, cfg, segment, memory)
        watched = Cache(cache)
        alive_caches.append(weakref.ref(watched))
        counts["forward"] += 1
        counts["alive"] = max(counts["alive"], sum(ref() is not None for ref in alive_caches))
        handed_on = memory_next if len(memory_next) else np.zeros_like(memory)  # after the last segment nobody asks
        return handed_on, readout, watched

    def backward(dmemory_next, dreadout, cache):
        for name, array in (("dmemory_next", dmemory_next), ("dreadout", dreadout)):
            assert isinstance(array, np.ndarray), f"backward was given {type(array).__name__} as {name}; give an array"
        dmemory, grads, _ = model.segment_backward(dmemory_next[: cache["segment"].num_continuing], dreadout, cache)
        return dmemory, grads

    def turn(z):
        counts["turn"] += 1
        assert isinstance(z, np.ndarray), f"turn was given {type(z).__name__}; add the readouts up to one array"
        return replay.readout_loss(z, params, shard, replay.zero_gradients(params, phi_r))[2]

    inputs = [shard.segment(t) for t in range(cfg.num_segments)]
    first = replay.first_memory(params, shard)
    return (params, cfg, tokens, labels), (first, inputs, forward, backward, turn), counts


def test_amrb_step():
    problem, given, counts = replay_problem()
    found = call("amrb_step", *given)
    assert isinstance(found, tuple) and len(found) == 2, "return two: dmemory, grads"
    dmemory, grads = found
    assert isinstance(dmemory, np.ndarray) and isinstance(grads, dict), "return an array and a dict: dmemory, grads"
    params = problem[0]
    _, expected, _ = rn.loss_and_grads(*problem, method="bptt")
    check("dmemory, summed over the batch,", dmemory.sum(axis=0), expected["memory.init"], "BPTT", rtol=1e-10)
    for name in ("embed.token", "blocks.0.attn.qkv.weight", "blocks.0.mlp.out.bias", "memory.norm.gain"):
        assert name in grads, f"grads has no entry {name!r}"
        check(f"grads[{name!r}]", grads[name], expected[name], "BPTT", rtol=1e-10)
    direction = {"embed.token": random(*params["embed.token"].shape)}
    numeric = gradcheck.directional_derivative(
        lambda moved: rn.loss_and_grads(moved, *problem[1:])[0], params, direction
    )
    claimed = float((grads["embed.token"] * direction["embed.token"]).sum())
    assert abs(claimed - numeric) < 1e-6 * abs(numeric), f"the finite difference is {numeric:.8g}, not {claimed:.8g}"
    total = len(given[1])
    assert counts["forward"] >= 2 * total - 1, (
        f"forward was called {counts['forward']} times for {total} segments: that is BPTT, which keeps caches; "
        "replay runs each segment again"
    )
    assert counts["forward"] <= 2 * total, (
        f"forward was called {counts['forward']} times for {total} segments: keep the memory that enters each segment, "
        "and one more run of each is enough"
    )
    assert counts["turn"] == 1, (
        f"turn was called {counts['turn']} times; the loss is known once, after the last segment"
    )
    assert counts["alive"] <= 2, f"{counts['alive']} caches were alive at once: let each go before the next one"
