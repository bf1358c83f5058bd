"""The traced step: events in the order and of the bytes that replay.py promises; lines, picture, page, refusals."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import find_browser, open_browser
from helpers.calls import TINY, assert_refused
from matplotlib.figure import Figure

import run_lra
from rmaat_np import Config, init_params, loss_and_grads
from rmaat_np.errors import InputError
from rmaat_np.trace import event_lines, page, same_gradients, timeline, trace_step, write_page, write_timeline
from rmaat_np.trace.row import trace_row
from rmaat_np.trace.words import LABELS

CFG = Config(13, 3, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=4, num_segments=3, num_memory=2)
TRACE = [
    "--trace",
    *(word for word in TINY if word not in ("--batch-size", "8")),
    "--set",
    "num_segments=4",
    "--set",
    "length=32",
]
AMRB = "store 0, forward 0, drop 0, store 1, forward 1, drop 1, store 2, forward 2, turn 2, release 2, "
AMRB += "backward 2, drop 2, release 1, replay 1, backward 1, drop 1, release 0, replay 0, backward 0, drop 0"
BPTT = "forward 0, forward 1, forward 2, turn 2, backward 2, drop 2, backward 1, drop 1, backward 0, drop 0"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return init_params(CFG, 0), rng.integers(1, 13, (4, 12)), rng.integers(0, 3, 4)


@pytest.fixture(scope="module")
def written_page(tmp_path_factory):
    """The path of a page written by the command, and its recording."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_lra.main([*TRACE, "--html", "page.html"]) == 0
    return folder / "page.html", recording_of(folder / "page.html")


def events_of(params, cfg, tokens, labels, method):
    return trace_step(params, cfg, tokens, labels, method).events


def recording_of(path):
    found = re.search(
        r'<script type="application/json" id="recording">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL
    )
    return json.loads(found[1])


@pytest.mark.parametrize(("method", "order"), [("amrb", AMRB), ("bptt", BPTT)])
def test_events_come_in_the_promised_order(batch, method, order):
    assert ", ".join(f"{e.kind} {e.segment}" for e in events_of(batch[0], CFG, *batch[1:], method)) == order


@pytest.mark.parametrize("method", ["amrb", "bptt"])
def test_bytes_add_up_and_end_at_nothing(batch, method):
    params, tokens, labels = batch
    events = events_of(params, CFG, tokens, labels, method)
    caches = buffer = 0
    for e in events:
        caches += {"forward": 1, "replay": 1, "drop": -1}.get(e.kind, 0) * e.nbytes
        buffer += {"store": 1, "release": -1}.get(e.kind, 0) * e.nbytes
        assert (e.caches, e.buffer) == (caches, buffer)
        if e.kind in ("store", "release"):
            assert e.nbytes == 4 * 2 * 8 * 4  # rows, memory tokens, width, bytes of a float32
    assert caches == buffer == 0
    stats = loss_and_grads(params, CFG, tokens, labels, method)[2]
    assert max(e.caches for e in events) == stats["peak_cache_bytes"]
    assert max(e.buffer for e in events) == stats["replay_buffer_bytes"]
    built = [e.caches for e in events if e.kind == "forward"]
    assert (max(built) == built[0]) == (method == "amrb")


def test_arrays_are_copies_of_the_memory_and_its_gradient(batch):
    params, tokens, labels = batch
    amrb, bptt = (events_of(params, CFG, tokens, labels, method) for method in ("amrb", "bptt"))
    stored, released = ([e.array for e in amrb if e.kind == kind] for kind in ("store", "release"))
    np.testing.assert_array_equal(stored[0], np.repeat(params["memory.init"][None], 4, axis=0))
    for before, after in zip(stored, reversed(released), strict=True):
        np.testing.assert_array_equal(before, after)
    backward = [[e for e in events if e.kind == "backward"] for events in (amrb, bptt)]
    for one, other in zip(*backward, strict=True):
        np.testing.assert_array_equal(one.array, other.array)
        assert one.norm == pytest.approx(np.linalg.norm(one.array.astype(float))) and one.norm > 0
    grads = loss_and_grads(params, CFG, tokens, labels)[1]
    np.testing.assert_array_equal(backward[0][-1].array.sum(axis=0), grads["memory.init"])


def test_methods_are_compared_bit_by_bit(batch):
    steps = {m: trace_step(batch[0], CFG, *batch[1:], m) for m in ("amrb", "bptt")}
    assert same_gradients(steps)
    steps["bptt"].grads["head.bias"][0] = np.nextafter(steps["bptt"].grads["head.bias"][0], np.float32(9))
    assert not same_gradients(steps)


def test_a_line_for_every_event(batch):
    events = events_of(*batch[:1], CFG, *batch[1:], "amrb")
    heading, *lines = event_lines(events)
    assert heading.split() == ["event", "segment", "array", "bytes", "caches", "buffer", "norm"]
    assert len(lines) == len(events)
    for line, e in zip(lines, events, strict=True):
        assert line.split()[:2] == [e.kind, str(e.segment + 1)]
        assert f"{e.caches:,}" in line and f"{e.buffer:,}" in line
    assert lines[0].split()[2:] == ["(4,", "2,", "8)", "+256", "0", "256", "memory", f"{events[0].norm:.4g}"]
    assert "gradient" in lines[10] and lines[9].split()[5] == "-256"
    turn = f"turn 3 {events[8].caches:,} 768 the loss is known"
    assert lines[8].split() == turn.split() and events[8].caches == events[7].caches


def test_every_explanation_tells_its_event_from_the_others(batch):
    row = trace_row(batch[0], CFG, *batch[1:], seed=0, step=0)
    for method, order in (("amrb", AMRB), ("bptt", BPTT)):
        events = page.page_events(events_of(batch[0], CFG, *batch[1:], method), row)
        assert len({e["says"] for e in events}) == order.count(",") + 1
    early, late = (
        [e["says"] for e in page.page_events(events_of(batch[0], CFG, *batch[1:], "amrb"), row)][i] for i in (2, -1)
    )
    assert "will rebuild" in early and "has done its work" in late


def test_timeline_spans(batch):
    recordings = {m: events_of(batch[0], CFG, *batch[1:], m) for m in ("bptt", "amrb")}
    assert timeline.spans(recordings["bptt"], "cache") == [(2, 2, 5), (1, 1, 7), (0, 0, 9)]
    assert timeline.spans(recordings["bptt"], "memory") == []
    assert timeline.spans(recordings["amrb"], "memory") == [(2, 6, 9), (1, 3, 12), (0, 0, 16)]
    assert timeline.spans(recordings["amrb"], "cache")[:2] == [(0, 1, 2), (1, 4, 5)]
    figure = Figure(layout="constrained")
    timeline.draw_timeline(figure, recordings)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["BPTT", "AMRB"]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"segment run", "segment run again", "gradient goes back", "turning point"} < set(named)
    turns = [line.get_ydata()[0] for line in figure.axes[1].get_lines() if line.get_label() == "turning point"]
    assert turns == [[e.kind for e in recordings["amrb"]].index("turn")]


def test_command_tells_and_draws(call, tmp_path):
    code, out, err = call(*TRACE, "--out", "new/folder")
    assert (code, err) == (0, "")
    assert "AMRB\nevent" in out and "BPTT\nevent" in out and "equal to the last bit" in out and "replay" in out
    assert re.search(r"In row \d of 4 the right answer is \d; the model says \d with ", out)
    assert re.search(r"a cache of segment 1: [\d.]+ KiB; the memory tokens of one segment: 512 B, \d+ times less", out)
    assert Path("new/folder/trace.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir("new/folder") == ["trace.png"] and not Path("trace.png").exists()
    assert "(4, 2, 16)" in out and "(3, 2, 16)" in call(*TRACE, "--batch-size", 3)[1]
    assert Path("trace.png").exists() and not Path("runs").exists()


@pytest.mark.parametrize("obstacle", ["no matplotlib", "savefig fails", "a folder of that name"])
def test_a_picture_that_cannot_be_drawn_costs_one_line(call, monkeypatch, obstacle):
    def refuse(*arguments, **options):
        raise RuntimeError("no font")

    if obstacle == "no matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    elif obstacle == "savefig fails":
        monkeypatch.setattr(Figure, "savefig", refuse)
    else:
        Path("trace.png").mkdir()
    code, out, err = call(*TRACE)
    assert code == 0 and err.startswith("trace.png is not drawn: ") and err.count("\n") == 1
    assert "AMRB\nevent" in out and out.endswith("equal to the last bit\n")
    code, out, err = call(*TRACE, "--html", "page.html", "--out", ".")
    assert code == 0 and err.startswith("trace.png is not drawn: ") and "trace.png" not in out
    assert out.splitlines()[-1].startswith("page.html: ") and Path("page.html").exists()
    assert not Path("trace.png").is_file()


def test_timeline_says_whether_it_was_written(batch, capsys):
    recordings = {m: events_of(batch[0], CFG, *batch[1:], m) for m in ("amrb", "bptt")}
    assert write_timeline(Path("trace.png"), recordings) and capsys.readouterr() == ("", "")
    assert not write_timeline(Path("nowhere/trace.png"), recordings)
    assert capsys.readouterr().err.startswith("nowhere/trace.png is not drawn: ")


def test_other_models_are_traced(call):
    code, out, err = call(*TRACE, "--model", "rmt", "--html", "page.html")
    assert (code, err) == (0, "") and "equal to the last bit" in out and not Path("trace.png").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--eval", "x"],
        ["--resume", "x"],
        ["--check-data"],
        ["--compare", "rmt"],
        ["--method", "amrb"],
        ["--replay-budget", "1"],
        ["--detect-anomaly"],
    ],
)
def test_refuses_what_does_not_go_with_it(call, options):
    assert_refused(call(*TRACE, *options), "--trace", options[0])


def test_refusals_are_one_line(call, tmp_path):
    assert_refused(call(*TINY, "--html", "page.html"), "--html goes with --trace")
    assert_refused(call(*TRACE, "--html", "nowhere/page.html"), "nowhere/page.html", "cannot be written")
    assert_refused(call(*TRACE, "--html", tmp_path), tmp_path, "there is a folder of that name")
    assert_refused(call(*TRACE, "--html", ""), "--html", "is empty")
    assert_refused(call(*TRACE, "--set", "num_memory=0", "--set", "pooling=mean"), "rmaat has no memory tokens")
    assert_refused(call(*TRACE, "--set", "batch_size=0"), "batch_size")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert_refused(call(*TRACE, "--out", "file/folder"), "file/folder")


def test_a_large_page_is_refused_and_the_old_one_stays(call, monkeypatch):
    Path("page.html").write_text("old", encoding="utf-8")
    monkeypatch.setattr(page, "PAGE_LIMIT", 10_000)
    assert_refused(call(*TRACE, "--html", "page.html"), "page.html", "10,000", "num_segments=8")
    assert Path("page.html").read_text(encoding="utf-8") == "old" and not list(Path().glob(".page*"))


def test_page_holds_the_recording_and_nothing_from_outside(written_page):
    path, recording = written_page
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < page.PAGE_LIMIT
    assert not re.search(r"""https?:|src=|@import|url\(|["'(]//""", text)
    assert recording["same"] and recording["shape"] == [2, 16]
    segments = len(recording["tokens"])
    assert len(recording["memory"]) == len(recording["gradient"]) == segments
    assert all(len(values) == 2 * 16 for values in recording["memory"] + recording["gradient"])
    assert [len(recording["methods"][m]) for m in ("amrb", "bptt")] == [7 * segments - 1, 3 * segments + 1]


def test_text_of_the_data_cannot_end_the_script(tmp_path):
    hostile = {"title": "</script><script>alert(1)</script><!--"}
    write_page(tmp_path / "page.html", hostile)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text and "</script><script>alert" not in text
    assert recording_of(tmp_path / "page.html") == hostile
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    write_page(tmp_path / "page.html", {"loss": 1})
    before = (tmp_path / "page.html").read_bytes()

    def refuse(*paths):
        raise OSError("full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        write_page(tmp_path / "page.html", {"loss": 2})
    assert (tmp_path / "page.html").read_bytes() == before and os.listdir(tmp_path) == ["page.html"]


def test_page_refuses_numbers_that_json_has_not(tmp_path):
    with pytest.raises(InputError, match="not finite"):
        write_page(tmp_path / "page.html", {"loss": float("nan")})


# in a real browser

SHOWN = """JSON.stringify({where: document.getElementById("where").textContent,
  says: document.getElementById("sentence").textContent, bytes: document.getElementById("held").dataset.bytes,
  now: [...document.querySelectorAll(".card")].findIndex(c => c.classList.contains("now")),
  label: document.querySelector(".card.now b").textContent,
  cards: [...document.querySelectorAll(".card")].map(c => [
    c.dataset.cache, c.dataset.memory, c.dataset.alive, c.dataset.norm,
    ...[...c.querySelectorAll(".map canvas")].map(m => m.style.visibility)])})"""


def expected(events, at, segments):
    """What the page should show after event `at`, worked out apart from the page's own code."""
    cards = []
    for t in range(segments):
        past = [e for e in events[: at + 1] if e["segment"] == t]
        last = {
            kind: next((e["event"] for e in reversed(past) if e["event"] in kinds), None)
            for kind, kinds in KINDS.items()
        }
        norms = [e["norm"] for e in past if e["event"] == "backward"]
        cache = {None: "not yet", "forward": "held", "replay": "rebuilt", "drop": "dropped"}[last["cache"]]
        memory = {None: "not yet", "store": "stored", "release": "released"}[last["memory"]]
        releasing = events[at]["segment"] == t and events[at]["event"] == "release"
        alive = cache in ("held", "rebuilt") or memory == "stored" or releasing
        seen = ["visible" if shown else "hidden" for shown in (alive, norms)]
        cards.append([cache, memory, str(alive).lower(), norms[0] if norms else None, *seen])
    e = events[at]
    return {
        "where": f"event {at + 1} of {len(events)}",
        "says": e["says"],
        "bytes": f"{e['caches']} {e['buffer']}",
        "now": e["segment"],
        "label": LABELS[e["event"]],
        "cards": cards,
    }


KINDS = {"cache": ("forward", "replay", "drop"), "memory": ("store", "release")}


def shown(tab):
    found = json.loads(tab.evaluate(SHOWN))
    for card in found["cards"]:
        card[3] = float(card[3]) if card[3] else None
    return found


HAND = """JSON.stringify(["hand", "change"].map(id => {
  const canvas = document.querySelector(`#${id} canvas`);
  return [document.getElementById(id).dataset.shows, canvas.style.visibility, canvas.toDataURL()]; }))"""


def check_what_is_at_hand(tab, recording):
    """The large heat map is another one after every event that changes the memory or brings a gradient."""
    last = len(recording["tokens"]) - 1
    tab.evaluate("document.getElementById('amrb').click()")
    tab.press("Home")
    pictures, differences = {}, set()
    for e in recording["methods"]["amrb"]:
        (hand, _, pixels), (change, visibility, difference) = json.loads(tab.evaluate(HAND))
        t, runs_on = e["segment"], e["event"] == "forward" and e["segment"] < last
        assert change == (str(t) if runs_on else "") and visibility == ("visible" if runs_on else "hidden")
        wanted = {
            "store": f"memory {t}",
            "replay": f"memory {t}",
            "turn": f"memory {last}",
            "backward": f"gradient {t}",
        }
        if e["event"] in wanted or runs_on:
            assert hand == (f"memory {t + 1}" if runs_on else wanted[e["event"]])
        assert pictures.setdefault(hand, pixels) == pixels
        differences |= {difference} if runs_on else set()
        tab.press("ArrowRight")
    assert len(differences) == last and not differences & set(pictures.values())
    assert len(set(pictures.values())) == len(pictures) == 2 * (last + 1)


def check_help_and_keys(tab, recording):
    """The help opens and closes by keys, holds the diagram, and keeps the arrow keys to itself."""
    assert tab.evaluate("document.getElementById('answer').textContent") == recording["answer"]
    updates = "JSON.stringify([...document.querySelectorAll('[data-is=update]')].map(e => e.textContent))"
    assert json.loads(tab.evaluate(updates)) == [u["short"] for u in recording["updates"]] + ["no update follows"]
    tab.press("t")
    turn = shown(tab)
    assert turn["label"] == "turning point" and recording["answer"] in turn["says"]
    tab.press("m")
    assert shown(tab)["label"] == "turning point" and shown(tab)["where"] != turn["where"]
    tab.press("m")
    for close in ("?", "Escape"):
        tab.press("?")
        assert tab.evaluate("document.getElementById('help').open")
        tab.press("ArrowRight")
        assert shown(tab) == turn
        assert tab.evaluate("document.querySelector('#diagram svg').getBoundingClientRect().height") > 100
        assert tab.evaluate("document.querySelectorAll('#keys kbd').length") == 8
        tab.press(close)
        assert not tab.evaluate("document.getElementById('help').open")


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
def test_a_browser_steps_through_every_event_and_back(written_page, tmp_path):
    path, recording = written_page
    segments = len(recording["tokens"])
    with open_browser(tmp_path / "profile") as tab:
        tab.open(path)
        for method in ("amrb", "bptt"):
            events = recording["methods"][method]
            tab.evaluate(f"document.getElementById('{method}').click()")
            tab.press("Home")
            for at in range(len(events)):
                assert shown(tab) == expected(events, at, segments)
                tab.press("ArrowRight")
            for at in reversed(range(len(events))):
                assert shown(tab) == expected(events, at, segments)
                tab.evaluate("document.getElementById('back').click()")
            tab.press("End")
            assert shown(tab) == expected(events, len(events) - 1, segments)
            tab.evaluate("slider.value = 3; slider.dispatchEvent(new Event('input'))")
            assert shown(tab) == expected(events, 3, segments)
        tab.press(" ")
        assert tab.evaluate("document.getElementById('play').textContent") == "Pause"
        tab.press(" ")
        assert shown(tab) == expected(events, 4, segments)
        check_what_is_at_hand(tab, recording)
        check_help_and_keys(tab, recording)
        for width, height in ((1920, 1080), (390, 844), (360, 640)):
            for dark in (False, True):
                tab.open(path, width, height, dark)
                assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                    f"{width} wide: scrolls sideways"
                )
        nameless = (
            "[...document.querySelectorAll('button, input')].filter(b => !(b.ariaLabel || b.textContent.trim())).length"
        )
        assert (
            tab.evaluate(nameless) == 0
            and tab.evaluate("document.querySelector('[aria-live]').textContent.length") > 40
        )
        assert tab.problems == []


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="needs chromium, chromium-browser or google-chrome on PATH")
def test_the_browser_client_notices_a_broken_page(written_page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        written_page[0].read_text(encoding="utf-8").replace("\nmakeCards();", "\nmakeCrds();"), encoding="utf-8"
    )
    with open_browser(tmp_path / "profile") as tab:
        tab.open(broken)
        assert "makeCrds is not defined" in str(tab.problems)


def test_the_trace_has_the_factors_of_its_own_rows_whatever_the_horizon(capsys):
    said = []
    for horizon in ("0", "1024"):
        assert run_lra.main([*TRACE, "--set", f"retention_horizon={horizon}"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
