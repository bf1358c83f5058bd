"""What a step reports of its memory, held against the allocator."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import rmaat_np as rn

LONG = rn.Config(vocab_size=7, num_classes=3, segment_length=128, num_segments=64, num_memory=8, d_model=64)


def stats_of_step(count, method, num_layers=2, batch=2):
    """What a step on sequences of `count` full segments reports."""
    cfg = replace(LONG, num_segments=count, num_layers=num_layers)
    tokens, labels = np.ones((batch, cfg.max_length), dtype=np.int64), np.zeros(batch, dtype=np.int64)
    return rn.loss_and_grads(rn.init_params(cfg), cfg, tokens, labels, method)[2]


def traced_peak(count, method):
    """What the allocator itself saw at most during a step on 8 sequences, and what the step reports, in bytes."""
    tracemalloc.start()
    try:
        stats = stats_of_step(count, method, num_layers=4, batch=8)
        return tracemalloc.get_traced_memory()[1], stats["peak_cache_bytes"] + stats["replay_buffer_bytes"]
    finally:
        tracemalloc.stop()


def check_peaks():
    """Beside the caches a step holds parameters, gradients and temporaries, which do not depend on the segments.

    So AMRB needs what BPTT needs for a single segment, the replay buffer, and the parameter gradients of the segment
    gone through before: much less than another cache.
    """
    (single, held_single), (bptt, held_bptt) = traced_peak(1, "bptt"), traced_peak(8, "bptt")
    amrb, held_amrb = traced_peak(8, "amrb")
    buffer = 8 * 8 * 8 * 64 * 4
    assert bptt - single == pytest.approx(held_bptt - held_single, rel=0.05)
    assert amrb == pytest.approx(single + buffer, abs=held_single / 4)
    assert held_amrb == pytest.approx(held_single + buffer, rel=1e-3)
