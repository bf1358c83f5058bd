"""AMRB against BPTT, bit for bit; shards and workers; what is held in memory, and when."""

import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers.checks import (
    CFG,
    CONFIGS,
    check_methods_equal,
    check_same,
    check_shards,
    random_params,
    rows_per_shard,
    run_step,
)
from helpers.replay_checks import LONG, check_peaks, stats_of_step

import rmaat_np as rn
from rmaat_np import backend, segments, step
from rmaat_np.errors import InputError

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
@pytest.mark.parametrize("name", ["default", "pair", "mean", "horizon"])
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
def test_every_worker_has_a_shard(workers, cut_for_workers):
    size = segments.shard_size(CFG, 5, workers)
    assert size == -(-5 // workers)


@pytest.mark.parametrize(
    ("width", "examples", "workers", "parts", "size"),
    [
        (64, 4, 2, 1, 4),  # 400 rows are too few for two threads
        (64, 8, 2, 1, 5),  # one of 500, and the rest
        (64, 10, 2, 1, 5),
        (64, 20, 2, 1, 10),
        (64, 20, 8, 1, 5),
        (64, 100, 2, 1, 22),  # the cache decides
        (128, 8, 2, 1, 4),  # rows of twice the width cost twice as much
        (16, 8, 2, 1, 8),  # narrow rows are less work for the same number of calls
        (16, 100, 2, 1, 22),
        (32, 16, 2, 1, 10),
        (64, 8, 1, 4, 2),  # parts for another time, and for another process, are as small as they are asked for
        (64, 16, 8, 4, 4),
        (4096, 3, 2, 1, 1),
    ],
)
def test_a_shard_is_neither_too_small_for_a_thread_nor_too_large_for_the_cache(width, examples, workers, parts, size):
    cfg = replace(CFG, d_model=width, num_memory=20, segment_length=80)
    assert segments.shard_size(cfg, examples, workers, parts) == size
    with backend.using(np):
        assert segments.shard_size(cfg, examples, workers, parts) == -(-examples // parts)  # on a card


def test_the_replay_budget_changes_memory_and_no_bit():
    cfg = DROPPING["default"]
    expected, bptt = run_step(cfg), run_step(cfg, "bptt")
    half = bptt[2]["peak_cache_bytes"] // 2
    peaks, replays = [], []
    for budget in (0, half, 10**9):
        events = []
        found = run_step(cfg, replay_budget=budget, observer=events.append)
        check_same(found[:2], expected[:2])
        assert found[2]["replay_buffer_bytes"] == sum(event.nbytes for event in events if event.kind == "store")
        peaks.append(found[2]["peak_cache_bytes"])
        replays.append(sum(event.kind == "replay" for event in events))
    assert replays == [2, 1, 0]
    assert peaks[0] == expected[2]["peak_cache_bytes"] and peaks[1] <= half + peaks[0]
    assert peaks[2] == bptt[2]["peak_cache_bytes"]


@pytest.mark.parametrize("count", [8, 32, 128])
def test_the_replay_budget_holds_buffer_and_caches_together(count):
    """So it bounds the memory of a long sequence, until the buffer alone is larger than the budget."""
    cfg = replace(LONG, num_segments=count)
    tokens, labels = np.ones((1, cfg.max_length), dtype=np.int64), np.zeros(1, dtype=np.int64)
    largest = max(event.nbytes for event in _events(cfg, tokens, labels, 0) if event.kind == "forward")
    budget = 4 * largest
    events = _events(cfg, tokens, labels, budget)
    assert max(event.caches + event.buffer for event in events) <= budget + largest + events[0].nbytes
    replays = sum(event.kind == "replay" for event in events)
    assert 0 < replays < count - 1


def _events(cfg, tokens, labels, budget):
    events = []
    params = rn.init_params(cfg)
    rn.loss_and_grads(params, cfg, tokens, labels, replay_budget=budget, observer=events.append)
    return events


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_memory_of_amrb_grows_by_the_replay_buffer_and_nothing_else(num_layers):
    """The buffer holds S M D float32 numbers for each sequence."""
    few, many = (stats_of_step(count, "amrb", num_layers) for count in (4, 64))
    assert many["peak_cache_bytes"] == few["peak_cache_bytes"]
    assert [stats["replay_buffer_bytes"] for stats in (few, many)] == [count * 2 * 8 * 64 * 4 for count in (4, 64)]


@pytest.mark.parametrize(("method", "ratio"), [("amrb", 1), ("bptt", 16)])
def test_peaks_of_64_segments_beside_4(method, ratio):
    few, many = (stats_of_step(count, method)["peak_cache_bytes"] for count in (4, 64))
    assert many / few == pytest.approx(ratio, rel=0.1)


def test_bptt_has_no_replay_buffer():
    assert stats_of_step(4, "bptt")["replay_buffer_bytes"] == 0


AMRB_ORDER = """store 0, forward 0, drop 0, store 1, forward 1, drop 1, store 2, forward 2,
    release 2, backward 2, drop 2, release 1, replay 1, backward 1, drop 1, release 0, replay 0, backward 0, drop 0"""
BPTT_ORDER = "forward 0, forward 1, forward 2, backward 2, drop 2, backward 1, drop 1, backward 0, drop 0"


@pytest.mark.parametrize(("method", "order"), [("amrb", AMRB_ORDER), ("bptt", BPTT_ORDER)])
def test_events_of_a_shard(method, order):
    events = []
    stats = run_step(CFG, method, observer=events.append)[2]
    assert [f"{event.kind} {event.segment}" for event in events] == [part.strip() for part in order.split(",")]
    caches, buffer = 0, 0
    for event in events:
        assert event.nbytes > 0 or event.kind == "backward"
        caches += {"forward": 1, "replay": 1, "drop": -1}.get(event.kind, 0) * event.nbytes
        buffer += {"store": 1, "release": -1}.get(event.kind, 0) * event.nbytes
        assert (event.caches, event.buffer, event.shard) == (caches, buffer, 0)
        assert (event.array is None) == (event.kind == "drop")
    assert (caches, buffer) == (0, 0)
    assert max(event.caches for event in events) == stats["peak_cache_bytes"]
    assert max(event.buffer for event in events) == stats["replay_buffer_bytes"]


def test_events_name_their_arrays():
    """What is replayed from is what was stored; backward of segment 0 reports the gradient of the first memory."""
    events = []
    grads = run_step(CFG, observer=events.append)[1]
    arrays = {(event.kind, event.segment): event.array for event in events}
    for t in (0, 1):
        assert arrays["replay", t] is arrays["release", t] is arrays["store", t]
        assert arrays["store", t + 1] is arrays["forward", t]
        assert arrays["backward", t].shape == arrays["store", t].shape
        assert arrays["store", t].nbytes == next(e.nbytes for e in events if (e.kind, e.segment) == ("store", t))
    np.testing.assert_array_equal(arrays["backward", 0].sum(axis=0), grads["memory.init"])


def test_every_shard_reports_all_its_events(in_shards):
    """The examples are sorted: 3 and 2 segments, 2 and 1, 1."""
    in_shards(CFG, 2)
    events = []
    stats = run_step(CFG, workers=2, observer=events.append)[2]
    peaks = []
    for shard, count in enumerate((3, 2, 1)):
        own = [event for event in events if event.shard == shard]
        assert (own[-1].caches, own[-1].buffer) == (0, 0)
        once = dict.fromkeys(("store", "release", "forward", "backward"), count)
        expected = Counter(once | {"replay": count - 1, "drop": 2 * count - 1})
        assert Counter(event.kind for event in own) == expected
        peaks.append((max(event.caches for event in own), max(event.buffer for event in own)))
    highest = [sum(sorted(column)[-2:]) for column in zip(*peaks, strict=True)]  # 2 shards run side by side
    assert highest == [stats["peak_cache_bytes"], stats["replay_buffer_bytes"]]


def test_peaks_are_what_the_allocator_sees():
    check_peaks()


def test_no_more_threads_than_shards(in_shards, monkeypatch):
    asked = []
    pool = step.ThreadPoolExecutor
    monkeypatch.setattr(step, "ThreadPoolExecutor", lambda workers: asked.append(workers) or pool(workers))
    in_shards(CFG, 2)
    run_step(CFG, workers=1000)
    assert asked and max(asked) <= 5  # rows of the batch


def test_no_more_threads_than_cores_and_the_same_bits(in_shards, monkeypatch):
    asked, found = [], []
    pool = step.ThreadPoolExecutor
    monkeypatch.setattr(step, "ThreadPoolExecutor", lambda workers: asked.append(workers) or pool(workers))
    in_shards(CFG, 1)
    for count in (1, 2, 64):
        monkeypatch.setattr(step, "cores", lambda count=count: count)
        found.append(run_step(CFG, workers=4))
        check_same(found[-1][:2], found[0][:2])
        assert found[-1][2] == found[0][2]
    assert asked == [1, 2, 4]


def test_threads_that_the_system_refuses_are_one_line(in_shards, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    in_shards(CFG, 2)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(InputError, match="workers is 3.*use fewer"):
        run_step(CFG, workers=3)
