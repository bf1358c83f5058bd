"""The memory update, and the segment that writes the memory: values, gradients, purity."""

import numpy as np
import pytest
from helpers.checks import CHECKS
from helpers.memory_pairs import FACTOR, MEMORIES, PAIRS, UPDATES, WHOLE, segment_pair

from rmaat_np import memory


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
