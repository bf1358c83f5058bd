"""`--task own` and `--predict`: from files alone to a trained model, and from a pipe to a line of JSON a row."""

import csv
import io
import json
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers.calls import SCRIPT, assert_refused

import rmaat_np as rn
import run_lra
from rmaat_np.command import predict as predicting
from rmaat_np.training import loop

SMALL = ["--set", "d_model=8", "--set", "num_heads=2", "--set", "num_layers=1", "--set", "d_ff=8", "--steps", "4"]
SMALL += ["--batch-size", "4", "--set", "eval_every=4", "--set", "num_memory=2", "--workers", "1"]
SMALL += ["--set", "segment_length=4", "--set", "num_segments=3"]
WORDS = [f"{i:05d}" + "xyz"[i % 3] for i in range(60)]


def write(folder, rows, name="train", header=("label", "text")):
    folder.mkdir(exist_ok=True)
    with open(folder / f"{name}.tsv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of --task own, and the folder of its data."""
    folder = tmp_path_factory.mktemp("own")
    data = write(folder / "data", [(word[-1], word) for word in WORDS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curve", lambda folder: None)
        assert run_lra.main(["--task", "own", "--data-dir", str(data), "--out", str(folder / "run"), *SMALL]) == 0
    return folder / "run", data


def answers(out):
    return [json.loads(line) for line in out.splitlines()]


def test_train_resume_eval_check_data_and_trace(call, trained):
    run, data = trained
    place = ("--data-dir", data)
    code, out, _ = call("--eval", run / "best.npz", *place)
    assert code == 0 and 0 <= json.loads(out)["test_accuracy"] <= 1
    code, out, _ = call("--resume", run, *place)
    assert code == 0 and "test accuracy" in out
    code, out, _ = call("--task", "own", *place, "--check-data")
    assert code == 0 and "own: 3 classes, 257 ids, up to 6 tokens" in out and "train.tsv" in out
    code, out, _ = call("--task", "own", *place, "--trace", *SMALL[:12])
    assert code == 0 and "equal to the last bit" in out


def test_a_folder_stands_for_its_best_checkpoint(call, trained):
    run, data = trained
    _, out, _ = call("--eval", run, "--data-dir", data)
    assert json.loads(out)["checkpoint"] == str(run / "best.npz")


def test_evaluation_on_other_rows_says_so(call, trained, tmp_path):
    run, _ = trained
    more = write(tmp_path / "more", [(word[-1], word) for word in [*WORDS, "99999x", "99998y", "99997z"]])
    code, out, errors = call("--eval", run, "--data-dir", more)
    assert code == 0 and json.loads(out)["test"]["rows"]
    assert "began with other data" in errors and "there may be some that the run was trained on" in errors


def test_columns_may_be_called_otherwise_where_a_run_is_evaluated(call, trained, tmp_path):
    run, _ = trained
    data = write(tmp_path / "data", [(word[-1], word) for word in WORDS], header=("kind", "word"))
    names = ("--set", "text_column=word", "--set", "label_column=kind")
    code, _, errors = call("--eval", run, "--data-dir", data, *names)
    assert code == 0 and "other data" not in errors
    assert_refused(call("--eval", run, "--data-dir", data), "no column 'text'")


def test_a_run_from_python_is_evaluated_by_the_command(call, tmp_path):
    rows = ["".join("ACGT"[(i >> 2 * k) % 4] for k in range(4)) for i in range(60)]
    parts = [(rows[a:b], [row[0] in "AC" for row in rows[a:b]]) for a, b in ((0, 40), (40, 50), (50, 60))]
    data = rn.dataset(*parts, alphabet="ACGT")
    cfg = rn.Config(**data.sizes, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=2, num_segments=2)
    result = rn.train(rn.new_run("run", cfg, data, steps=2, batch_size=4, eval_every=2), data, workers=1)
    for name, (texts, labels) in zip(data.splits, parts, strict=True):
        lines = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    code, out, errors = call("--eval", "run", "--data-dir", tmp_path)
    assert code == 0 and json.loads(out)["test_accuracy"] == result["test_accuracy"] and "other data" not in errors


def test_a_class_that_is_never_predicted_is_named(call, tmp_path):
    data = write(tmp_path / "data", [("rare" if i % 10 == 0 else "often", word) for i, word in enumerate(WORDS)])
    code, out, _ = call("--task", "own", "--data-dir", data, *SMALL, "--lr", "1e-6", "--out", "run")
    confusion = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["test"]["confusion_matrix"]
    missed = [name for name, column in zip(("often", "rare"), np.transpose(confusion), strict=True) if not sum(column)]
    assert code == 0 and len(missed) == 1 and f"never predicted: {missed[0]}; --set select=macro_f1" in out


def test_a_comparison_is_of_one_data_set(call, tmp_path):
    words = ("--compare", "rmaat", "--out", "both", *SMALL)
    first = write(tmp_path / "first", [(word[-1], word) for word in WORDS])
    other = write(tmp_path / "other", [(word[-1], f"{word} ") for word in WORDS])
    assert call("--task", "own", "--data-dir", first, *words)[0] == 0
    assert_refused(call("--task", "own", "--data-dir", other, *words), "began with other data")


def test_check_data_refuses_what_training_refuses(call, tmp_path):
    data = write(tmp_path / "data", [(word[-1], word * (1 + 900 * (i == 5))) for i, word in enumerate(WORDS)])
    code, out, errors = call("--task", "own", "--data-dir", data, "--check-data")
    assert code == 2 and "own: 3 classes" in out and "train.tsv: line 7 is longer than the model" in errors


@pytest.mark.slow
def test_compare(call, trained, tmp_path):
    write(tmp_path / "data", [(word[-1], word) for word in WORDS], header=("kind", "word"))
    names = ("--set", "text_column=word", "--set", "label_column=kind")
    out = ("--out", tmp_path / "compared")
    code, out, _ = call("--task", "own", "--data-dir", "data", "--compare", "rmaat,rmt", *names, *out, *SMALL)
    assert code == 0 and "`rmt`" in out


def test_predictions_are_those_of_python_in_the_order_of_the_lines(call, trained, tmp_path):
    run, _ = trained
    (tmp_path / "new.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    code, out, errors = call("--predict", run, "--input", "new.txt", "--scores", "--workers", 1)
    assert (code, errors) == (0, "")
    params, cfg, codec = rn.load(run)
    expected = rn.predict_proba(params, cfg, codec.encode(WORDS))
    rows = answers(out)
    assert [row["line"] for row in rows] == [*range(1, 61)]
    assert [row["label"] for row in rows] == codec.classes[expected.argmax(axis=1)].tolist()
    np.testing.assert_allclose([row["probability"] for row in rows], expected.max(axis=1), atol=1e-6)
    np.testing.assert_allclose([[*row["scores"].values()] for row in rows], expected, atol=1e-6)
    assert list(rows[0]["scores"]) == ["x", "y", "z"]


def test_a_wrong_line_is_told_and_the_rest_goes_on(call, trained, tmp_path):
    run, _ = trained
    (tmp_path / "new.txt").write_bytes(b"00001x\n\n\xff\nmore than twelve letters\n00002y")
    code, out, errors = call("--predict", run, "--input", "new.txt")
    assert code == 1 and [row["line"] for row in answers(out)] == [1, 5]
    told = errors.splitlines()
    assert len(told) == 3 and "line 2 is empty" in told[0] and "line 3" in told[1] and "not UTF-8" in told[1]
    assert "line 4 has 24 tokens, but the model reads 12; cut it" in told[2]
    code, out, errors = call("--predict", run, "--input", "new.txt", "--set", "cut=true")
    assert code == 1 and [row["line"] for row in answers(out)] == [1, 4, 5]


def test_rows_of_another_number_of_documents_are_told_line_by_line(call, trained, tmp_path):
    run, _ = trained
    (tmp_path / "pairs.csv").write_text("text,text2\n00001x,a\n00002y,b\n", encoding="utf-8")
    code, out, errors = call("--predict", run, "--input", "pairs.csv")
    assert (code, out) == (1, "") and "line 3 has 2 document(s), but the model reads 1 in a row" in errors


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "npz"])
def test_tables_need_no_label(call, trained, tmp_path, suffix):
    run, _ = trained
    path = tmp_path / f"new.{suffix}"
    if suffix == "csv":
        path.write_text("id,text\n7,00001x\n8,00002y\n", encoding="utf-8")
    elif suffix == "jsonl":
        path.write_text('{"text": "00001x"}\n{"text": "00002y", "label": null}\n', encoding="utf-8")
    else:
        np.savez(path, text=np.array(["00001x", "00002y"]))
    code, out, errors = call("--predict", run, "--input", path)
    assert (code, errors, len(answers(out))) == (0, "", 2)


def test_the_columns_of_the_training_are_those_of_the_prediction(call, tmp_path):
    data = write(tmp_path / "data", [(word[-1], word) for word in WORDS], header=("kind", "word"))
    names = ("--set", "text_column=word", "--set", "label_column=kind")
    assert call("--task", "own", "--data-dir", data, *names, "--out", "run", *SMALL)[0] == 0
    (tmp_path / "new.csv").write_text("word\n00001x\n", encoding="utf-8")
    assert call("--predict", "run", "--input", "new.csv")[0] == 0


def test_pairs_and_ids(call, tmp_path):
    np.savez(tmp_path / "train.npz", tokens=np.arange(1, 121).reshape(20, 2, 3), labels=[0, 1] * 10)
    assert call("--task", "own", "--data-dir", ".", "--out", "ids", *SMALL)[0] == 0
    (tmp_path / "new.txt").write_text("1 2 3\t4\n5\n1 a\t2\n7 121\t1\n", encoding="utf-8")
    code, out, errors = call("--predict", "ids", "--input", "new.txt")
    assert code == 1 and [row["line"] for row in answers(out)] == [1]
    assert "line 2 has 0 tabs" in errors and "line 3 is '1 a'" in errors and "line 4 has token 121" in errors
    assert answers(out)[0]["label"] in (0, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--predict", "RUN"], "--predict RUN and --input FILE go together"),
        (["--input", "-"], "--predict RUN and --input FILE go together"),
        (["--scores"], "--scores goes with --predict"),
        (["--predict", "RUN", "--input", "absent.txt"], "absent.txt: cannot be read"),
        (["--predict", "RUN", "--input", "absent.csv"], "absent.csv"),
        (["--predict", "absent", "--input", "-"], "absent: no such checkpoint"),
        (["--predict", "RUN", "--input", "-", "--resume", "RUN"], "not allowed with"),
        (["--predict", "RUN", "--input", "-", "--set", "cut=fals"], "cut is 'fals', but it must be true or false"),
        (["--predict", "RUN", "--input", "-", "--set", "text_colum=x"], "--predict goes without text_colum"),
        (["--predict", "RUN", "--input", "-", "--lr", "5"], "--predict goes without lr"),
        (["--predict", "RUN", "--input", "-", "--model", "rmt"], "--predict goes without --model"),
    ],
)
def test_wrong_options(call, trained, words, message):
    run, _ = trained
    assert_refused(call(*(run if word == "RUN" else word for word in words)), message)


def test_a_model_of_another_task(call, tmp_path):
    cfg = rn.Config(27, 10, d_model=8, num_heads=2)
    rn.save(tmp_path / "model.npz", rn.init_params(cfg), cfg)
    assert_refused(call("--predict", "model.npz", "--input", "-"), "is no model of task own")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no train file"),
        (["--set", "cut=maybe"], "cut"),
        (["--set", "alphabet=AA"], "alphabet"),
    ],
)
def test_wrong_data_of_ones_own(call, tmp_path, words, message):
    if words:
        write(tmp_path, [(word[-1], word) for word in WORDS])
    assert_refused(call("--task", "own", "--data-dir", tmp_path, *words), message)


def test_rows_longer_than_the_model_are_counted_and_cut_when_asked(call, tmp_path):
    data = write(tmp_path / "data", [(word[-1], word * (1 + 2 * (i == 5))) for i, word in enumerate(WORDS)])
    words = ("--task", "own", "--data-dir", data, *SMALL, "--out", "run")
    assert_refused(
        call(*words),
        "train.tsv: line 7 is longer than the model",
        "is 12, which 1 of the 48 rows of train",
        "or set cut=true",
    )
    assert not (tmp_path / "run").exists()
    code, _, errors = call(*words, "--set", "cut=true")
    assert code == 0 and "1 documents are longer than 12 tokens" in errors


def test_a_long_pipe_in_constant_memory(trained, monkeypatch, capsys):
    """The answers of 20,000 lines are written as they come, and nothing of them is kept."""
    run, _ = trained
    lines = (f"{i % 100_000:05d}x\n".encode() for i in range(20_000))
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": LineByLine(lines)}))
    count = []
    monkeypatch.setattr(predicting, "show", lambda text: count.append(len(text.splitlines())))
    tracemalloc.start()
    try:
        assert run_lra.main(["--predict", str(run), "--input", "-", "--workers", "1"]) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(count) == 20_000 and max(count) == 128 and peak < 8 * 2**20


class LineByLine(io.RawIOBase):
    """A pipe that makes its lines when they are read."""

    def __init__(self, lines):
        self.lines = lines

    def readline(self, size=-1):
        return next(self.lines, b"")


def test_head_may_close_the_pipe(trained, tmp_path):
    run, _ = trained
    (tmp_path / "new.txt").write_text("00001x\n" * 5000, encoding="utf-8")
    words = f"{shlex.join([sys.executable, str(SCRIPT)])} --predict {run} --input new.txt | head -1"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert len(answers(done.stdout)) == 1 and not done.stderr and Path(run).exists()
