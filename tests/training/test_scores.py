"""Scores against hand-computed examples and, where installed, scikit-learn; class weights in a run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.runs import arrays_of, start

from rmaat_np.data import recall
from rmaat_np.data.dataset import Dataset, make_split
from rmaat_np.step import loss_and_grads, predict
from rmaat_np.training import loop, scores
from rmaat_np.training import run as runs

LABELS, PREDICTED = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 1])
CONFUSION = [[2, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]  # nothing is of class 3, or taken for it


def made(labels=LABELS, predicted=PREDICTED, num_classes=4, loss=1.5):
    confidence = np.linspace(0.5, 0.9, len(labels))
    return scores.Predictions(num_classes, loss, np.asarray(labels), np.asarray(predicted), confidence, confidence**2)


def test_confusion_matrix():
    """Row: the true class; column: the predicted one."""
    np.testing.assert_array_equal(scores.confusion_matrix(LABELS, PREDICTED, 4), CONFUSION)


def test_scores_of_each_class():
    found = scores.class_scores(np.array(CONFUSION))
    np.testing.assert_allclose(found["precision"], [1, 1 / 3, 0, 0])
    np.testing.assert_allclose(found["recall"], [2 / 3, 1 / 2, 0, 0])
    np.testing.assert_allclose(found["f1"], [0.8, 0.4, 0, 0])
    np.testing.assert_array_equal(found["support"], [3, 2, 1, 0])


def test_macro_f1_is_the_mean_over_classes_that_have_rows():
    assert scores.macro_f1(np.array(CONFUSION)) == pytest.approx((0.8 + 0.4 + 0) / 3)


def test_a_rare_class_that_is_never_predicted_halves_macro_f1_and_leaves_the_accuracy():
    labels, predicted = np.repeat([0, 1], [95, 5]), np.zeros(100, int)
    found = made(labels, predicted, 2)
    assert found.accuracy == 0.95 and found.macro_f1 == pytest.approx(0.95 * 2 / 1.95 / 2)


def test_calibration_error():
    """Two of 15 bins: 0.95, 0.97, both right; 0.61, 0.62, 0.66, one of them right."""
    confidence, correct = np.array([0.95, 0.61, 0.97, 0.62, 0.66]), np.array([True, True, True, False, False])
    expected = 2 / 5 * (1 - 0.96) + 3 / 5 * (0.63 - 1 / 3)
    assert scores.calibration_error(confidence, correct) == pytest.approx(expected)


@pytest.mark.parametrize(("correct", "expected"), [([True] * 4, 0.0), ([False] * 4, 1.0)])
def test_calibration_at_its_ends(correct, expected):
    assert scores.calibration_error(np.ones(4), np.array(correct)) == expected


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    """With 2 bins 0.5 is in the lower one, together with 0.1: one gap of 0.6 - 1, not two."""
    assert scores.calibration_error(np.array([0.5, 0.1]), np.array([True, False]), 2) == pytest.approx(0.2)
    assert scores.calibration_error(np.array([0.51, 0.1]), np.array([True, False]), 2) == pytest.approx(0.295)


def test_balanced_weights():
    """Every class that has rows weighs the same, and the mean over the rows is 1."""
    labels = np.repeat([0, 1, 3], [6, 3, 1])
    weights = scores.balanced_weights(labels, 4)
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 0, 10 / 3])
    assert weights[labels].mean() == pytest.approx(1)


def test_scores_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    weights = pytest.importorskip("sklearn.utils.class_weight")
    rng = np.random.default_rng(0)
    for num_classes in (2, 5, 30):
        labels, predicted = rng.integers(0, num_classes, 40), rng.integers(0, num_classes, 40)
        confusion, every = scores.confusion_matrix(labels, predicted, num_classes), np.arange(num_classes)
        np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predicted, labels=every))
        theirs = metrics.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
        for ours, expected in zip(scores.class_scores(confusion).values(), theirs, strict=True):
            np.testing.assert_allclose(ours, expected)
        present = np.unique(labels)
        expected = metrics.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
        assert scores.macro_f1(confusion) == pytest.approx(expected)
        expected = weights.compute_class_weight("balanced", classes=present, y=labels)
        np.testing.assert_allclose(scores.balanced_weights(labels, num_classes)[present], expected)


def test_predictions_are_those_of_each_row_in_the_order_of_the_split(tmp_path, data):
    """Rows of many lengths, which are evaluated in another order."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 27, length) for length in rng.integers(1, 16, 40)]
    split = make_split(rows, rng.integers(0, 10, 40))
    run = start(tmp_path / "run", data)
    found = loop.evaluate(run.params, run.cfg, split)
    predictions = found["predictions"]
    for row, label in enumerate(split.labels):
        logits = predict(run.params, run.cfg, split.batch([row])[0])[0].astype(float)
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert predictions.predicted[row] == probabilities.argmax() and predictions.labels[row] == label
        assert predictions.confidence[row] == pytest.approx(probabilities.max(), rel=1e-5)
        squared = ((probabilities - (np.arange(10) == label)) ** 2).sum()
        assert predictions.squared_errors[row] == pytest.approx(squared, rel=1e-5)
    assert found["accuracy"] == predictions.accuracy == (predictions.predicted == split.labels).mean()
    assert found["loss"] == predictions.loss and found["macro_f1"] == predictions.macro_f1


def test_the_record():
    record = scores.judge(made(), ["a", "b", "c", "d"])
    assert record["rows"] == 6 and record["accuracy"] == 0.5 and record["loss"] == 1.5
    assert record["macro_f1"] == pytest.approx(0.4)
    assert record["brier_score"] == pytest.approx((np.linspace(0.5, 0.9, 6) ** 2).mean())
    assert record["calibration_error"] == scores.calibration_error(made().confidence, LABELS == PREDICTED)
    assert record["classes"][0] == {"class": "a", "precision": 1, "recall": 2 / 3, "f1": 0.8, "support": 3}
    assert [row["class"] for row in record["classes"]] == ["a", "b", "c", "d"]
    assert record["confusion_matrix"] == CONFUSION


def test_the_record_is_json_whatever_the_numbers_are():
    """A loss that is not finite has no number in JSON."""
    predictions = made(loss=float("nan"))
    predictions.confidence[2] = float("nan")
    record = scores.judge(predictions, range(4))
    assert record["loss"] is None and record["calibration_error"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_json_to_look_at():
    """Rows of the matrix on one line each; and no text is taken for one."""
    record = {"names": ["[\n1,\n2\n]", "a  b"], "text": "[ 1,  2 ]", "matrix": [[1, -2.5e-7], [3, 4]], "none": []}
    text = scores.to_json(record)
    assert json.loads(text) == record
    assert "  [1, -2.5e-07],\n  [3, 4]\n" in text


@pytest.mark.parametrize(
    ("codec", "names"), [(None, [0, 1]), (SimpleNamespace(classes=np.array(["no", "yes"])), ["no", "yes"])]
)
def test_names_of_the_classes(codec, names):
    split = make_split([[1], [2]], [0, 1])
    dataset = Dataset("own", 3, 2, 1, split, split, split, str)
    object.__setattr__(dataset, "codec", codec)
    assert scores.class_names(dataset) == names
    assert json.dumps(scores.class_names(dataset))


def test_balanced_weights_reach_every_step(tmp_path, data, monkeypatch):
    seen = []

    def spy(*arguments, **options):
        seen.append(options["class_weights"])
        return loss_and_grads(*arguments, **options)

    monkeypatch.setattr(loop, "loss_and_grads", spy)
    loop.train(start(tmp_path / "balanced", data, class_weights="balanced", steps=2), data)
    loop.train(start(tmp_path / "none", data, steps=2), data)
    assert len(seen) == 4 and seen[2:] == [None, None]
    for weights in seen[:2]:
        np.testing.assert_array_equal(weights, scores.balanced_weights(data.train.labels, 10))
    ours, theirs = (arrays_of(tmp_path / name / "last.npz") for name in ("balanced", "none"))
    assert any((ours[name] != theirs[name]).any() for name in ours)


def unbalanced(seed):
    """The recall probe with two classes, of which one has a twentieth of the rows."""
    data = recall.load(4, 8, seed=seed, rows=(400, 200, 200))
    splits = {}
    for name, split in data.splits.items():
        rare, rest = np.flatnonzero(split.labels == 0), np.flatnonzero(split.labels != 0)
        kept = np.sort(np.concatenate([rare[: len(rest) // 19], rest]))
        chosen = split.take(kept)
        splits[name] = make_split([chosen.sequence(i) for i in range(len(chosen))], (chosen.labels == 0).astype(int))
    return Dataset("recall", data.vocab_size, 2, data.max_length, **splits, decode=data.decode)


def test_evaluation_is_not_weighted(tmp_path):
    """The best checkpoint's validation loss is a plain mean over rows, whatever the weights in training are."""
    data = unbalanced(0)
    run = start(tmp_path / "run", data, class_weights="balanced", select="macro_f1", steps=10, eval_every=5)
    result = loop.train(run, data)
    best = runs.load_run(tmp_path / "run/best.npz")
    tokens, labels = data.val.batch(np.arange(len(data.val)))
    loss = loss_and_grads(best.params, best.cfg, tokens, labels)[0]
    assert best.progress.best_loss == pytest.approx(float(loss), rel=1e-5)
    assert result["test"]["rows"] == len(data.test)
