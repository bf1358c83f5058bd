"""--eval RUN --report DIR: the files that it writes, what they hold, and what it costs where one cannot be written."""

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.calls import TINY, assert_refused
from helpers.runs import disk_full_after

import run_lra
from rmaat_np.data import load_dataset
from rmaat_np.data.dataset import Dataset, make_split
from rmaat_np.training import loop, score_report, scores
from rmaat_np.training.run import load_run

HOSTILE = ['a,"b"\r\nc', "=1+1", "$x_$ \\frac", "ä\udcff", "x" * 1000, " ", "\x00"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curve", lambda folder: None)
        patch.setattr(loop, "EVALUATION_BATCH", 12)  # as in the tests: the loss is a sum over batches
        assert run_lra.main([*TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def own():
    """A dataset of hostile texts and class names, and predictions that are all wrong."""
    split = make_split([[i + 1] for i in range(len(HOSTILE))], [0] * len(HOSTILE))
    dataset = Dataset("own", 99, 3, 1, split, split, split, lambda tokens: HOSTILE[tokens[0] - 1])
    object.__setattr__(dataset, "codec", SimpleNamespace(classes=np.array(["$a$", 'b,"', "$\\frac" + "c" * 50])))
    count = len(HOSTILE)
    confidence = np.linspace(0.4, 1, count)
    return dataset, scores.Predictions(3, 1.0, split.labels, np.full(count, 2), confidence, confidence)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_report(call, finished, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = call("--eval", finished / "best.npz", "--report", tmp_path / "new/report", "--workers", 1)
    folder = tmp_path / "new/report"
    assert code == 0 and err.endswith(f"{folder}/: report.json mistakes.csv confusion.png\n")
    assert set(os.listdir(folder)) == {"report.json", "mistakes.csv", "confusion.png"}
    record = json.loads(out)
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == record
    result = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    assert record["test"] == result["test"] and record["test_accuracy"] == result["test"]["accuracy"]
    assert (folder / "confusion.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    mistakes = rows_of(folder / "mistakes.csv")
    assert len(mistakes) == 20 and list(mistakes[0]) == list(score_report.COLUMNS)
    probabilities = [float(row["probability"]) for row in mistakes]
    assert probabilities == sorted(probabilities, reverse=True)


def test_mistakes_are_rows_of_the_split(call, finished, tmp_path):
    """Counted from 1; the text is the row's."""
    assert call("--eval", finished, "--report", tmp_path / "r", "--workers", 1)[0] == 0
    run = load_run(finished)
    data = load_dataset("recall", run.settings.data, Path("data"))
    found = loop.evaluate(run.params, run.cfg, data.test)["predictions"]
    for row in rows_of(tmp_path / "r/mistakes.csv"):
        place = int(row["row"]) - 1
        assert int(row["true"]) == data.test.labels[place] != int(row["predicted"]) == found.predicted[place]
        assert row["text"] == data.decode(data.test.sequence(place))
        assert row["probability"] == f"{found.confidence[place]:.4f}"


def test_texts_and_names_of_all_kinds(own, tmp_path, capfd):
    """CSV as RFC 4180 has it; a $ is no formula in the picture; a text is cut at 300 characters."""
    pytest.importorskip("matplotlib")
    dataset, predictions = own
    names = scores.class_names(dataset)
    record = {"test": scores.judge(predictions, names)}
    assert score_report.write_report(tmp_path, record, predictions, dataset) == list(score_report.FILES)
    rows = rows_of(tmp_path / "mistakes.csv")
    shown = [text[:300].replace("\udcff", "\\udcff") for text in HOSTILE]
    assert [row["text"] for row in rows] == shown[::-1]
    assert {row["true"] for row in rows} == {names[0]} and {row["predicted"] for row in rows} == {names[2]}
    assert b"\r\n" in (tmp_path / "mistakes.csv").read_bytes()
    assert "is not drawn" not in capfd.readouterr().err


def test_pairs_and_pictures(own):
    """Of a pair both documents are shown; a picture is not cut, for half of it would be none."""
    dataset, predictions = own
    split = make_split([[i % 5 + 1] for i in range(14)], [0] * 7, documents=2)
    pair = replace(dataset, test=split, decode=lambda tokens: str(tokens[0]) * 400)
    texts = [row["text"] for row in score_report.mistakes(predictions, pair)]
    assert texts[-1] == "1" * 300 + "\n\n" + "2" * 300
    whole = replace(pair, as_text=False)
    assert score_report.mistakes(predictions, whole)[-1]["text"] == "1" * 400 + "\n\n" + "2" * 400


def test_no_mistakes(own, tmp_path):
    dataset, predictions = own
    right = replace(predictions, predicted=predictions.labels)
    score_report.write_report(tmp_path, {"test": scores.judge(right, [0, 1, 2])}, right, dataset)
    assert (tmp_path / "mistakes.csv").read_bytes() == b"row,true,predicted,probability,text\r\n"


def test_many_classes(tmp_path, own):
    pytest.importorskip("matplotlib")
    dataset, predictions = own
    many = replace(dataset, num_classes=200)
    written = score_report.write_report(tmp_path, {}, replace(predictions, num_classes=200), many)
    assert "confusion.png" in written


def test_no_matplotlib_costs_the_picture_only(call, finished, tmp_path, monkeypatch):
    """And an older picture in the folder, which would be taken for this one's, goes."""
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "confusion.png").write_bytes(b"an older one")
    code, _, err = call("--eval", finished, "--report", tmp_path, "--workers", 1)
    assert code == 0 and "confusion.png is not drawn" in err and "report.json mistakes.csv\n" in err
    assert set(os.listdir(tmp_path)) == {"report.json", "mistakes.csv"}


def test_no_room(call, finished, tmp_path):
    """What stood there before is whole, and nothing half-written is left."""
    (tmp_path / "mistakes.csv").write_text("before", encoding="utf-8")
    with disk_full_after(100):
        code, _, err = call("--eval", finished, "--report", tmp_path, "--workers", 1)
    assert code == 2 and "mistakes.csv: cannot be written" in err
    assert os.listdir(tmp_path) == ["mistakes.csv"]
    assert (tmp_path / "mistakes.csv").read_text(encoding="utf-8") == "before"


def test_report_goes_with_eval(call):
    assert_refused(call(*TINY, "--report", "r"), "--report goes with --eval")
    assert_refused(call("--resume", "run", "--report", "r"), "--report goes with --eval")


def test_folder_that_cannot_be_made_is_refused_before_the_evaluation(call, finished, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setattr(loop, "evaluate", lambda *_: pytest.fail("evaluated first"))
    code, _, err = call("--eval", finished, "--report", tmp_path / "file", "--workers", 1)
    assert code == 2 and f"run_lra.py: {tmp_path / 'file'}: cannot be created" in err
