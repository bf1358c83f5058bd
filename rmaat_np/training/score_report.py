"""A report on a checkpoint's test split: its scores, the confusion matrix as a picture, the most certain mistakes."""

import csv
import io
from pathlib import Path

import numpy as np

from ..data.dataset import Dataset
from ..system.files import write_text
from ..system.pictures import draw_if_possible
from .scores import Predictions, class_names, to_json

__all__ = ["COLUMNS", "FILES", "mistakes", "write_report"]

FILES = ("report.json", "mistakes.csv", "confusion.png")
COLUMNS = ("row", "true", "predicted", "probability", "text")  # of mistakes.csv
MISTAKES = 20  # how many are listed
SHOWN = 300  # characters of a row's text
_LABELLED = 40  # classes up to which the picture names each of them
_COUNTED = 15  # classes up to which the picture shows every count
_NAME = 20  # characters of a class name in the picture


def write_report(folder: Path, record: dict, predictions: Predictions, dataset: Dataset) -> list[str]:
    """Write the report on the test split into a folder that is there. -> the names of the files written

    record: what report.json holds, with the scores as `scores.judge` gives them under "test"
    Each file is whole or absent. A picture that cannot be drawn costs one line, and an older one of that name goes.
    Raises: WriteError naming the file and a remedy.
    """
    picture = folder / "confusion.png"
    write_text(folder / "mistakes.csv", to_csv(mistakes(predictions, dataset)))
    names = [str(name) for name in class_names(dataset)]
    side = float(np.clip(2.5 + 0.35 * len(names), 4, 12))
    if not draw_if_possible(picture, (side + 1, side), lambda figure: _draw(figure, predictions.confusion, names)):
        picture.unlink(missing_ok=True)
    write_text(folder / "report.json", to_json(record))
    return [name for name in FILES if (folder / name).exists()]


def mistakes(predictions: Predictions, dataset: Dataset) -> list[dict]:
    """The rows that the model got wrong with the highest probability, at most 20, the most certain one first.

    -> a dict for each, with the keys of COLUMNS; the text is cut. Rows count from 1, as they stand in the test split;
        those of data of one's own are called as their owner calls them.
    """
    names = class_names(dataset)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    first = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "row": dataset.place("test", int(row)) if dataset.origins else int(row) + 1,
            "true": names[predictions.labels[row]],
            "predicted": names[predictions.predicted[row]],
            "probability": float(predictions.confidence[row]),
            "text": _text_of(dataset, int(row)),
        }
        for row in first
    ]


def _text_of(dataset: Dataset, row: int) -> str:
    """A row's documents as text, an empty line between two of them; each is cut, but a picture is shown whole."""
    texts = [dataset.decode(dataset.test.sequence(row, document)) for document in range(dataset.test.documents)]
    return "\n\n".join(text[:SHOWN] if dataset.as_text else text for text in texts)


def to_csv(rows: list[dict]) -> str:
    """The mistakes with a header, as RFC 4180 has it: CRLF line ends, quotes around what needs them."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    writer.writerows(row | {"probability": f"{row['probability']:.4f}"} for row in rows)
    return file.getvalue()


def _draw(figure, confusion: np.ndarray, names: list[str]) -> None:
    """Each row's share of its true class as a colour, and the counts where there is room."""
    axis, count = figure.subplots(), len(names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the true class")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if count <= _LABELLED:
        # a class may be named $x$, which is no formula
        labels = {"labels": [name if len(name) <= _NAME else f"{name[:_NAME]}…" for name in names], "parse_math": False}
        axis.set_xticks(range(count), **labels, rotation=90 if max(map(len, names)) > 2 else 0)
        axis.set_yticks(range(count), **labels)
    if count <= _COUNTED:
        for true, predicted in np.ndindex(count, count):
            color = "white" if shares[true, predicted] > 0.5 else "black"
            text = f"{confusion[true, predicted]:,}"
            axis.text(predicted, true, text, ha="center", va="center", color=color, fontsize=8)
