"""What `--check-data` prints: the rows that a task found, so that one sees them before a long run."""

import numpy as np

from ..errors import escaped
from . import listops
from .dataset import Dataset, Split

_CHECKED = 2_000  # rows of each split whose ListOps target is evaluated again; 96,000 would take 10 to 20 s
SHOWN = 300  # characters of a text
_NAME = 30  # characters of a class
_NAMED = 20  # classes whose shares are shown, the most frequent of them


def report(dataset: Dataset) -> str:
    """Rows, class shares and length quantiles of every split, and the first two rows of train in plain sight.

    Classes are called by the names that data of one's own have for them.
    Raises: InputError if one of the first 2,000 targets of a ListOps split is not its expression's value.
    """
    lines = [
        f"{dataset.task}: {dataset.num_classes} classes, {dataset.vocab_size} ids, up to {dataset.max_length} tokens"
    ]
    for name, split in dataset.splits.items():
        shares = np.bincount(split.labels, minlength=dataset.num_classes) / len(split)
        quantiles = np.quantile(split.lengths(), [0, 0.25, 0.5, 0.75, 1]).astype(int)
        lines.append(f"  {name}: {len(split):,} rows; lengths {' '.join(map(str, quantiles))} (0, 25, 50, 75, 100 %)")
        lines.append("    class shares " + _class_shares(dataset, shares))
    if dataset.task == "listops":
        for name, split in dataset.splits.items():
            listops.check_targets(split.take(np.arange(min(_CHECKED, len(split)))), name)
        lines.append(f"  targets evaluated again, of each split at most the first {_CHECKED:,}: all are right")
    for row in range(min(2, len(dataset.train))):
        label = _name(dataset, dataset.train.labels[row])
        lines += [f"  train row {row + 1}, label {label}:", *_shown(dataset, dataset.train, row)]
    return "\n".join(lines)


def _class_shares(dataset: Dataset, shares: np.ndarray) -> str:
    """The shares in the order of the classes; with their names where the data have names for them."""
    if dataset.codec is None:
        return " ".join(f"{share:.3f}" for share in shares)
    rarest_last = np.argsort(-shares, kind="stable")
    shown = [f"{_name(dataset, c)} {shares[c]:.3f}" for c in np.sort(rarest_last[:_NAMED])]
    if more := len(shares) - len(shown):
        rarest = rarest_last[-1]
        shown.append(f"and {more:,} more, the rarest {_name(dataset, rarest)} {shares[rarest]:.3f}")
    return ", ".join(shown)


def _name(dataset: Dataset, label: int) -> str:
    """What a class is called: as the data name it, on one line and cut, or its number."""
    name = str(label if dataset.codec is None else dataset.codec.classes[label])
    return escaped(name if len(name) <= _NAME else name[:_NAME] + "...")


def _shown(dataset: Dataset, split: Split, row: int) -> list[str]:
    """The row's documents decoded: pictures whole, texts cut, control characters of the data as escapes."""
    lines = []
    for document in range(split.documents):
        text = dataset.decode(split.sequence(row, document))
        if dataset.as_text and len(text) > SHOWN:
            text = text[:SHOWN] + " ..."
        lines += ["    " + escaped(line) for line in text.split("\n")]
    return lines
