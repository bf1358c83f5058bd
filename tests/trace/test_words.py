"""The traced row and the sentences about it: answer, memory updates, sizes."""

import re

import numpy as np
import pytest

from rmaat_np import Config, init_params, loss_and_grads, predict
from rmaat_np.data import TASKS, Dataset
from rmaat_np.data.dataset import make_split
from rmaat_np.data.text import decode
from rmaat_np.plasticity import RETENTION_MODES, retention_factors
from rmaat_np.trace import page, trace_step
from rmaat_np.trace.row import trace_row
from rmaat_np.trace.words import describe_answer, describe_update, word_lines
from rmaat_np.training.settings import resolve

SIZES = {"d_model": 8, "num_heads": 2, "num_layers": 1, "d_ff": 8, "segment_length": 4, "num_segments": 3}
CFG = Config(13, 3, **SIZES, num_memory=2)


def config(**changes):
    return Config(**{**CFG.__dict__, **changes})


def batch(cfg, rows=4, seed=0):
    rng = np.random.default_rng(seed)
    shape = (rows, 2, 12) if cfg.pair else (rows, 12)
    return init_params(cfg, seed), rng.integers(1, 13, shape), rng.integers(0, 3, rows)


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}, {"pair": True}, {"pooling": "mean"}], ids=str)
def test_the_loss_of_a_batch_of_one_row_equals_that_of_the_row(changes):
    cfg = config(**changes)
    params, tokens, labels = batch(cfg, rows=1)
    row = trace_row(params, cfg, tokens, labels, seed=5, step=0)
    assert row.loss == pytest.approx(float(loss_and_grads(params, cfg, tokens, labels, seed=5, step=0)[0]), rel=1e-6)
    assert np.exp(row.log_shares).sum() == pytest.approx(1)
    assert row.label == labels[0]


def test_the_row_is_the_longest_and_its_shares_are_its_own():
    params, tokens, labels = batch(CFG)
    tokens[[0, 2, 3], 5:] = 0  # row 1 alone has three segments
    row = trace_row(params, CFG, tokens, labels, seed=0, step=0)
    assert (row.number, row.document, row.num_segments) == (1, 0, 3)
    np.testing.assert_array_equal(row.tokens, tokens[1])
    logits = predict(params, CFG, tokens)[1].astype(float)
    np.testing.assert_allclose(np.exp(row.log_shares), np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_of_a_pair_the_longer_document_is_shown():
    cfg = config(pair=True)
    params, tokens, labels = batch(cfg)
    tokens[:, 0, 5:] = tokens[:2, 1, 5:] = tokens[3, 1, 5:] = 0  # only row 2 has a document of three segments
    row = trace_row(params, cfg, tokens, labels, seed=0, step=0)
    assert (row.number, row.document, row.label) == (2, 1, labels[2])
    np.testing.assert_array_equal(row.tokens, tokens[2, 1])


def test_numbers_that_are_not_finite_warn_of_nothing(recwarn):
    params, tokens, labels = batch(CFG)
    params["head.bias"][:] = np.inf
    row = trace_row(params, CFG, tokens, labels, seed=0, step=0)
    assert not np.isfinite(row.loss) and not recwarn.list
    assert describe_answer(row, "Here", ())


@pytest.mark.parametrize("label", [0, 1])
def test_the_answer_in_words_of_the_task(label):
    cfg = config(num_classes=2, pair=True)
    params, tokens, _ = batch(cfg, rows=1)
    params["head.bias"][:] = 50, 0  # the model is sure of the first answer
    row = trace_row(params, cfg, tokens, np.array([label]), seed=0, step=0)
    said = describe_answer(row, "In row 1 of 1", TASKS["retrieval"].classes)
    right, model = (
        ("neither paper cites the other", "one paper cites the other")[label],
        "neither paper cites the other",
    )
    assert said.startswith(f'In row 1 of 1 the right answer is "{right}"; the model says "{model}" with 100 %')
    assert ("which is right" in said) == (label == 0) and ("less than 0.1 %" in said) == (label == 1)
    share = np.exp(row.log_shares)[label]
    assert said.endswith(f"The loss of this row is -ln {share:.3g} = {row.loss:.3f}.")
    assert "the right answer is 0; the model says 0" in describe_answer(
        trace_row(params, cfg, tokens, np.array([0]), seed=0, step=0), "Here", ()
    )


def test_every_task_names_all_its_answers_or_none():
    counts = {name: len(task.classes) for name, task in TASKS.items()}
    named = {"text": 2, "retrieval": 2, "image": 10, "pathfinder": 2}
    assert counts == named | dict.fromkeys(("listops", "own", "recall", "memory"), 0)


@pytest.mark.parametrize("mode", RETENTION_MODES)
def test_the_memory_update_says_what_is_taken_over_and_kept(mode):
    cfg = config(retention=mode)
    row = trace_row(*batch(cfg)[:1], cfg, *batch(cfg)[1:], seed=0, step=0)
    np.testing.assert_array_equal(row.factors, retention_factors(3, mode))
    said, factor = describe_update(row, 1), 100 * row.factors[1]
    if mode == "none":
        assert said == "The memory update has no factor: the memory takes over all of what segment 2 wrote."
        return
    if mode == "learned":
        assert said.startswith(f"The prior of the gate is {row.factors[1]:.2g}. The gate reads")
        return
    assert f"takes over {factor:.0f} % of what segment 2 wrote" in said
    assert (f"keeps {100 - factor:.0f} % of what it held" in said) == RETENTION_MODES[mode].keeps_old
    assert ("RF(2, 3)" in said) == (mode != "online")
    assert "keeps nothing" in describe_update(row, 0) or mode == "integrate"


def test_sizes_in_words_are_those_of_the_events():
    params, tokens, labels = batch(CFG)
    steps = {method: trace_step(params, CFG, tokens, labels, method) for method in ("amrb", "bptt")}
    row = trace_row(params, CFG, tokens, labels, seed=0, step=0)
    lines = word_lines(steps, row, "the answer")
    cache, stored = (next(e.nbytes for e in steps["amrb"].events if e.kind == kind) for kind in ("forward", "store"))
    most = {method: max(e.held for e in step.events) for method, step in steps.items()}
    memory = f"the memory tokens of one segment: {stored} B, {cache / stored:.0f} times less"
    assert lines[0] == "the answer" and "retention factors" in lines[1] and lines[1].count(" %") == 2
    assert lines[2] == f"a cache of segment 1: {cache / 2**10:.1f} KiB; {memory}"
    assert lines[3].endswith(f"all 3 segments: {most['bptt'] / 2**10:.1f} KiB")
    assert f"{most['amrb'] / 2**10:.1f} KiB, {most['bptt'] / most['amrb']:.1f} times less" in lines[4]
    assert lines[4].endswith("runs 2 of 3 segments again")
    assert all(word in lines[5] for word in ("turn: turning point", "replay: segment run again"))


def test_many_updates_take_one_line_and_one_segment_has_none():
    cfg = config(num_segments=12, segment_length=1)
    params, tokens, labels = batch(cfg)
    for length, fragment in ((12, "..."), (1, "never updated")):
        cut = tokens[:, :length]
        steps = {method: trace_step(params, cfg, cut, labels, method) for method in ("amrb", "bptt")}
        lines = word_lines(steps, trace_row(params, cfg, cut, labels, 0, 0), "")
        assert fragment in lines[1] and len(lines[1]) < 120
    assert "0 of 1 segments again" in lines[4] and "less" not in lines[4]


def test_of_a_gate_the_prior_is_shown():
    cfg = config(retention="learned")
    params, tokens, labels = batch(cfg)
    steps = {method: trace_step(params, cfg, tokens, labels, method) for method in ("amrb", "bptt")}
    row = trace_row(params, cfg, tokens, labels, 0, 0)
    prior = f"{100 * row.factors[0]:.0f} %"
    assert word_lines(steps, row, "")[1].startswith("the prior of the gate") and prior in word_lines(steps, row, "")[1]
    assert page._updates(row)[0]["short"] == f"prior {prior}"


def test_a_pair_task_is_recorded_with_the_words_of_its_answers():
    rng = np.random.default_rng(0)
    split = make_split([rng.integers(1, 257, 10) for _ in range(16)], rng.integers(0, 2, 8), np.uint16, documents=2)
    dataset = Dataset("retrieval", 257, 2, 12, split, split, split, decode)
    chosen = resolve("retrieval", "quick", "rmaat", {**SIZES, "num_memory": 2})
    steps, recording = page.trace_run(chosen, dataset, 3)
    assert recording["same"] and re.fullmatch(r"row \d of 3, document \d", recording["row"])
    assert re.search(r'the model says "(neither|one) paper cites the other"', recording["answer"])
    (turn,) = (e for e in recording["methods"]["amrb"] if e["event"] == "turn")
    assert recording["answer"] in turn["says"] and turn["nbytes"] == 0 and turn["segment"] == 2
    assert [u["short"].split()[0] for u in recording["updates"]] == ["takes", "takes"]
    assert len(steps["amrb"].events) == 7 * 3 - 1


def test_a_model_without_memory_tokens_is_described_too():
    cfg = config(num_memory=0, pooling="mean")
    params, tokens, labels = batch(cfg)
    steps = {method: trace_step(params, cfg, tokens, labels, method) for method in ("amrb", "bptt")}
    lines = word_lines(steps, trace_row(params, cfg, tokens, labels, 0, 0), "")
    assert lines[2].endswith("the memory tokens of one segment: 0 B, there are none")
