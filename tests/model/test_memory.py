"""The memory update, and the segment that writes the memory: values, gradients, purity."""

import numpy as np
import pytest
from helpers.checks import CHECKS
from helpers.memory_pairs import FACTOR, MEMORIES, PAIRS, PRIOR, UPDATES, WHOLE, segment_pair

import rmaat_np as rn
from rmaat_np import memory, segments


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_pair(pair, check):
    check(pair)


@pytest.mark.parametrize(
    ("mode", "formula"),
    [
        ("scale", lambda old, written: FACTOR * written),
        ("integrate", lambda old, written: old + FACTOR * (written - old)),
        ("online", lambda old, written: old + FACTOR * (written - old)),
        ("none", lambda old, written: written),
    ],
)
def test_update(mode, formula):
    (memory_next,), _ = UPDATES[mode].forward(MEMORIES)
    np.testing.assert_allclose(memory_next, formula(MEMORIES["memory"], MEMORIES["written"]), rtol=1e-12)


def test_a_factor_of_1_replaces_the_memory_and_a_small_one_keeps_it():
    old, written = MEMORIES["memory"], MEMORIES["written"]
    replaced, _ = memory.memory_update_forward(old, written, np.ones((3, 1, 1)), "integrate")
    kept, _ = memory.memory_update_forward(old, written, np.full((3, 1, 1), 1e-9), "integrate")
    np.testing.assert_array_equal(replaced, written)
    np.testing.assert_allclose(kept, old, atol=1e-8)


def test_only_sequences_that_go_on_have_memory_and_only_those_that_end_are_read_out():
    for num_continuing in range(4):
        pair = segment_pair(WHOLE, num_continuing)
        (memory_next, readout), cache = pair.forward(pair.inputs)
        assert memory_next.shape == (num_continuing, 2, 4) and readout.shape == (3 - num_continuing, 4)
        written = cache["memory_norm"]["xhat"].reshape(3, 2, 4) * pair.inputs["memory.norm.gain"]
        written += pair.inputs["memory.norm.bias"]
        np.testing.assert_allclose(readout, written[num_continuing:].mean(axis=1), rtol=1e-12)
        old = pair.inputs["memory"][:num_continuing]
        np.testing.assert_allclose(
            memory_next, old + FACTOR[:num_continuing] * (written[:num_continuing] - old), rtol=1e-12
        )


def test_a_gate_adds_what_it_reads_to_the_logit_of_its_prior():
    """The prior 0.25 has the odds 1/3. A gate that reads ln 9 makes them 3, so r is 0.75."""
    old, written = MEMORIES["memory"], MEMORIES["written"]
    w = np.zeros((8, 1))
    prior = np.full((3, 1, 1), 0.25)
    for b, r in ((0.0, 0.25), (np.log(9), 0.75)):
        memory_next, _ = memory.gated_update_forward(old, written, w, np.array([b]), prior=prior)
        np.testing.assert_allclose(memory_next, old + r * (written - old), rtol=1e-12)
    w[1], w[4 + 2] = np.log(9), np.log(3)  # channel 1 of the old memory, channel 2 of the written one
    old, written = np.zeros((1, 2, 4)), np.zeros((1, 2, 4))
    old[0, :, 1], written[0, :, 2] = (1.0, 0.0), (0.0, 1.0)  # token 0 reads the one, token 1 the other
    written[0, :, 0] = 1.0
    memory_next, _ = memory.gated_update_forward(old, written, w, np.zeros(1), prior=prior[:1])
    np.testing.assert_allclose(memory_next[0, :, 0], [0.75, 0.5], rtol=1e-12)


def test_a_gate_cannot_overflow():
    old, written = MEMORIES["memory"], MEMORIES["written"]
    for b, expected in ((1e5, written), (-1e5, old)):
        memory_next, cache = memory.gated_update_forward(old, written, np.zeros((8, 1)), np.array([b]), prior=PRIOR)
        np.testing.assert_allclose(memory_next, expected, rtol=1e-12)
        grads = memory.gated_update_backward(np.ones_like(old), cache)
        assert all(np.isfinite(grad).all() for grad in grads)


def test_a_new_gate_is_its_prior(monkeypatch):
    learned, integrate = (rn.Config(9, 3, d_model=8, retention=mode) for mode in ("learned", "integrate"))
    params = rn.init_params(learned)
    gate = {"memory.gate.weight": (16, 1), "memory.gate.bias": (1,)}
    assert params.keys() - rn.init_params(integrate).keys() == gate.keys()
    assert all(params[name].shape == shape and not params[name].any() for name, shape in gate.items())
    tokens = np.random.default_rng(0).integers(1, 9, (2, 4 * 32))
    logits = rn.predict(params, learned, tokens)
    monkeypatch.setattr(segments, "retention_factors", lambda T, mode: rn.retention_factors(T, "learned"))
    same = rn.predict({name: p for name, p in params.items() if name not in gate}, integrate, tokens)
    np.testing.assert_allclose(logits, same, rtol=1e-4)
