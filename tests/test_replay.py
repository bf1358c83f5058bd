"""AMRB against BPTT, bit for bit; shards and workers; what is held in memory, and when."""

import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from checks import CFG, CONFIGS, check_methods_equal, check_same, check_shards, random_params, rows_per_shard, run_step

import rmaat_np as rn
from rmaat_np import segments

LONG = rn.Config(vocab_size=7, num_classes=3, segment_length=128, num_segments=64, num_memory=8, d_model=64)
DROPPING = {name: replace(cfg, dropout=0.3) for name, cfg in CONFIGS.items() if not cfg.dropout}


@pytest.fixture
def in_shards(monkeypatch):
    """Cut batches into shards of so many examples."""
    return lambda cfg, size: monkeypatch.setattr(segments, "ROWS_PER_SHARD", rows_per_shard(cfg, size))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cfg", DROPPING.values(), ids=DROPPING)
def test_amrb_equals_bptt(cfg, dtype, size, in_shards):
    in_shards(cfg, size)
    check_methods_equal(cfg, dtype)


@pytest.mark.parametrize("method", ["amrb", "bptt"])
@pytest.mark.parametrize("name", ["default", "pair", "mean"])
def test_workers_change_nothing(name, method, in_shards):
    cfg = DROPPING[name]
    in_shards(cfg, 1)
    alone = run_step(cfg, method)
    logits = rn.predict(random_params(cfg), cfg, [[1, 2], [3, 4], [5, 6]] if not cfg.pair else [[[1], [2]]] * 3)
    for workers in (2, 3):
        shared = run_step(cfg, method, workers=workers)
        check_same(shared[:2], alone[:2])
        assert shared[2]["accuracy"] == alone[2]["accuracy"]
        assert shared[2]["peak_cache_bytes"] > alone[2]["peak_cache_bytes"]
        tokens = [[1, 2], [3, 4], [5, 6]] if not cfg.pair else [[[1], [2]]] * 3
        check_same(rn.predict(random_params(cfg), cfg, tokens, workers=workers), logits)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("cfg", DROPPING.values(), ids=DROPPING)
def test_shards_change_nothing_but_rounding(cfg, size):
    check_shards(cfg, size)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 6])
def test_every_worker_has_a_shard(workers):
    size = segments.shard_size(CFG, 5, workers)
    assert size == -(-5 // workers)


def test_the_replay_budget_changes_memory_and_no_bit():
    cfg = DROPPING["default"]
    expected, bptt = run_step(cfg), run_step(cfg, "bptt")
    half = bptt[2]["peak_cache_bytes"] // 2
    peaks, replays = [], []
    for budget in (0, half, 10**9):
        events = []
        found = run_step(cfg, replay_budget=budget, observer=events.append)
        check_same(found[:2], expected[:2])
        peaks.append(found[2]["peak_cache_bytes"])
        replays.append(sum(event.kind == "replay" for event in events))
    assert replays == [2, 1, 0]
    assert peaks[0] == expected[2]["peak_cache_bytes"] and peaks[1] <= half + peaks[0]
    buffer = sum(event.nbytes for event in events if event.kind == "store")
    assert peaks[2] == bptt[2]["peak_cache_bytes"] + buffer


def peak_cache_bytes(count, method, num_layers=4, batch=2):
    """Peak of a step on sequences of `count` full segments."""
    cfg = replace(LONG, num_segments=count, num_layers=num_layers)
    tokens, labels = np.ones((batch, cfg.max_length), dtype=np.int64), np.zeros(batch, dtype=np.int64)
    return rn.loss_and_grads(rn.init_params(cfg), cfg, tokens, labels, method)[2]["peak_cache_bytes"]


def buffer_bytes(count, batch=2):
    """The replay buffer: S M D float32 numbers for each sequence."""
    return count * batch * LONG.num_memory * LONG.d_model * 4


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_peak_of_amrb_grows_by_the_replay_buffer_and_nothing_else(num_layers):
    peaks = [peak_cache_bytes(count, "amrb", num_layers) for count in (4, 64)]
    assert peaks[1] - peaks[0] == buffer_bytes(64 - 4)


def test_peak_of_amrb_hardly_grows_with_the_segments():
    """With 4 layers, whose caches make the buffer small beside them; with 2 it is 1.15."""
    assert peak_cache_bytes(64, "amrb") <= 1.1 * peak_cache_bytes(4, "amrb")


def test_peak_of_bptt_grows_in_proportion_to_the_segments():
    assert peak_cache_bytes(64, "bptt") / peak_cache_bytes(4, "bptt") == pytest.approx(16, rel=0.1)


def traced_peak(count, method):
    """What the allocator itself saw at most during a step on 8 sequences, in bytes, and what the step reports."""
    tracemalloc.start()
    try:
        cached = peak_cache_bytes(count, method, batch=8)
        return tracemalloc.get_traced_memory()[1], cached
    finally:
        tracemalloc.stop()


def test_peaks_are_what_the_allocator_sees():
    """Beside the caches a step holds parameters, gradients and temporaries, which do not depend on the segments.

    So AMRB needs what BPTT needs for a single segment, the replay buffer, and the parameter gradients of the segment
    gone through before: much less than another cache.
    """
    (single, cached_single), (bptt, cached_bptt) = traced_peak(1, "bptt"), traced_peak(8, "bptt")
    amrb, cached_amrb = traced_peak(8, "amrb")
    assert bptt - single == pytest.approx(cached_bptt - cached_single, rel=0.05)
    assert amrb == pytest.approx(single + buffer_bytes(8, batch=8), abs=cached_single / 4)
    assert cached_amrb == pytest.approx(cached_single + buffer_bytes(8, batch=8), rel=1e-3)


AMRB_ORDER = """store 0, forward 0, drop 0, store 1, forward 1, drop 1, store 2, forward 2,
    backward 2, drop 2, replay 1, backward 1, drop 1, replay 0, backward 0, drop 0"""
BPTT_ORDER = "forward 0, forward 1, forward 2, backward 2, drop 2, backward 1, drop 1, backward 0, drop 0"


@pytest.mark.parametrize(("method", "order"), [("amrb", AMRB_ORDER), ("bptt", BPTT_ORDER)])
def test_events_of_a_shard(method, order):
    events = []
    stats = run_step(CFG, method, observer=events.append)[2]
    assert [f"{event.kind} {event.segment}" for event in events] == [part.strip() for part in order.split(",")]
    held = 0
    for event in events:
        held += {"drop": -1, "backward": 0}.get(event.kind, 1) * event.nbytes
        assert event.held == held and event.shard == 0
        assert (event.array is None) == (event.kind == "drop")
    assert held == 0
    assert max(event.held for event in events) == stats["peak_cache_bytes"]


def test_events_name_their_arrays():
    """What is replayed from is what was stored; backward of segment 0 reports the gradient of the first memory."""
    events = []
    grads = run_step(CFG, observer=events.append)[1]
    arrays = {(event.kind, event.segment): event.array for event in events}
    for t in (0, 1):
        assert arrays["replay", t] is arrays["store", t] and arrays["store", t + 1] is arrays["forward", t]
        assert arrays["backward", t].shape == arrays["store", t].shape
        assert arrays["store", t].nbytes == next(e.nbytes for e in events if (e.kind, e.segment) == ("store", t))
    np.testing.assert_array_equal(arrays["backward", 0].sum(axis=0), grads["memory.init"])


def test_every_shard_reports_all_its_events(in_shards):
    in_shards(CFG, 2)
    events = []
    peak = run_step(CFG, workers=2, observer=events.append)[2]["peak_cache_bytes"]
    peaks = []
    for shard in (0, 1, 2):
        own = [event for event in events if event.shard == shard]
        assert own[-1].held == 0
        counts = Counter(event.kind for event in own)
        live = counts["backward"]  # the examples are sorted: 3 and 2 segments, 2 and 1, 1
        expected = {"store": live, "forward": live, "backward": live, "replay": live - 1, "drop": 2 * live - 1}
        assert counts == Counter(expected)
        peaks.append(max(event.held for event in own))
    assert [sum(e.shard == s and e.kind == "backward" for e in events) for s in (0, 1, 2)] == [3, 2, 1]
    assert peak == sum(sorted(peaks)[-2:])
