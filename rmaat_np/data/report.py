"""What `--check-data` prints: the rows that a task found, so that one sees them before a long run."""

import numpy as np

from ..errors import escaped
from . import listops
from .dataset import Dataset, Split

_CHECKED = 2_000  # rows of each split whose ListOps target is evaluated again; 96,000 would take 10 to 20 s
SHOWN = 300  # characters of a text


def report(dataset: Dataset) -> str:
    """Rows, class shares and length quantiles of every split, and the first two rows of train in plain sight.

    Raises: InputError if one of the first 2,000 targets of a ListOps split is not its expression's value.
    """
    lines = [
        f"{dataset.task}: {dataset.num_classes} classes, {dataset.vocab_size} ids, up to {dataset.max_length} tokens"
    ]
    for name, split in dataset.splits.items():
        shares = np.bincount(split.labels, minlength=dataset.num_classes) / len(split)
        quantiles = np.quantile(split.lengths(), [0, 0.25, 0.5, 0.75, 1]).astype(int)
        lines.append(f"  {name}: {len(split):,} rows; lengths {' '.join(map(str, quantiles))} (0, 25, 50, 75, 100 %)")
        lines.append("    class shares " + " ".join(f"{share:.3f}" for share in shares))
    if dataset.task == "listops":
        for name, split in dataset.splits.items():
            listops.check_targets(split.take(np.arange(min(_CHECKED, len(split)))), name)
        lines.append(f"  targets evaluated again, of each split at most the first {_CHECKED:,}: all are right")
    for row in range(min(2, len(dataset.train))):
        lines += [f"  train row {row + 1}, label {dataset.train.labels[row]}:", *_shown(dataset, dataset.train, row)]
    return "\n".join(lines)


def _shown(dataset: Dataset, split: Split, row: int) -> list[str]:
    """The row's documents decoded: pictures whole, texts cut, control characters of the data as escapes."""
    lines = []
    for document in range(split.documents):
        text = dataset.decode(split.sequence(row, document))
        if dataset.as_text and len(text) > SHOWN:
            text = text[:SHOWN] + " ..."
        lines += ["    " + escaped(line) for line in text.split("\n")]
    return lines
