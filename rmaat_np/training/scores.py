"""How good a model is on a split: accuracy, scores of each class, the confusion matrix, and calibration.

All numbers are computed from one record a row: its class, the predicted one, and how certain the model was.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.dataset import Dataset

BINS = 15  # of the calibration error, as in its source


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of the rows of a split, in their order.

    loss: mean cross-entropy, in nats, every row with the same weight

    Shapes:
        labels, predicted: (n,) ints, 0 .. C - 1
        confidence: (n,), the probability of the predicted class, 1 / C .. 1
        squared_errors: (n,), the sum over the classes of (p_c - [c = label])^2, 0 .. 2
    """

    num_classes: int
    loss: float
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    squared_errors: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of rows whose predicted class is the right one."""
        return float((self.predicted == self.labels).mean())

    @property
    def confusion(self) -> np.ndarray:
        """The confusion matrix."""
        return confusion_matrix(self.labels, self.predicted, self.num_classes)

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes, however many rows each of them has."""
        return macro_f1(self.confusion)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How many rows of class i were predicted as class j. Shapes: labels, predicted (n,) -> (C, C) int64, [i, j]."""
    cells = labels * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support of each class. What would be 0 / 0 is 0.

        precision_c = right_c / predicted_c;  recall_c = right_c / rows_c
        F1_c = 2 precision_c recall_c / (precision_c + recall_c) = 2 right_c / (rows_c + predicted_c)

    Shapes: confusion (C, C), rows are the true classes -> four arrays (C,); the first three 0 .. 1, support in rows
    """
    right, rows, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(rows, 1),
        "f1": 2 * right / np.maximum(rows + predicted, 1),
        "support": rows,
    }


def macro_f1(confusion: np.ndarray) -> float:
    """The mean F1 over the classes that have rows, 0 .. 1. Shapes: confusion (C, C), not all of it 0."""
    scores = class_scores(confusion)
    return float(scores["f1"][scores["support"] > 0].mean())


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error (Guo et al. 2017, arXiv:1706.04599): 0 is perfect, 1 the worst.

        sum over the bins b of (n_b / n) |accuracy_b - mean confidence_b|

    The bins divide 0 .. 1 into equal widths; a confidence on an edge belongs to the bin below it.
    Shapes: confidence (n,), 0 .. 1; correct (n,) truth values
    """
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    gaps = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """w_c = n / (K n_c), K the number of classes that have rows: each of these weighs the same in the loss.

    The mean of w over the rows is 1, so that the loss and the learning rate keep their scale.
    Shapes: labels (n,), n >= 1 -> (C,) float64, 0 for a class without rows
    """
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)


def class_names(dataset: Dataset) -> list:
    """What the classes are called: the names that the data have for them, else their numbers."""
    codec = getattr(dataset, "codec", None)
    return list(range(dataset.num_classes)) if codec is None else np.asarray(codec.classes).tolist()


def judge(predictions: Predictions, names: Sequence) -> dict:
    """All scores as plain values for JSON; None for a number that is not finite.

    names: of the classes, in the order of their numbers
    """
    confusion = predictions.confusion
    columns = {name: column.tolist() for name, column in class_scores(confusion).items()}
    numbers = {
        "accuracy": predictions.accuracy,
        "loss": predictions.loss,
        "macro_f1": predictions.macro_f1,
        "calibration_error": calibration_error(predictions.confidence, predictions.predicted == predictions.labels),
        "brier_score": float(predictions.squared_errors.mean()),  # 0 .. 2, as Brier defined it in 1950
    }
    record: dict = {"rows": len(predictions.labels)}
    record |= {name: number if np.isfinite(number) else None for name, number in numbers.items()}
    rows = zip(names, *columns.values(), strict=True)
    record["classes"] = [dict(zip(("class", *columns), row, strict=True)) for row in rows]
    record["confusion_matrix"] = confusion.tolist()
    return record


def to_json(record: dict) -> str:
    """JSON to look at: one value a line, but a list of numbers, as a row of the confusion matrix, on one line."""
    text = json.dumps(record, indent=1)
    numbers = r"\[\n([-+\d.eE,\s]*)\n\s*\]"  # no text holds a line end, so this meets lists alone
    return re.sub(numbers, lambda found: f"[{' '.join(found[1].split())}]", text)
