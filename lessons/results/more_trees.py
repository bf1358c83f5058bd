"""Accuracy of trained runs on 10,000 trees of 500 to 2,000 tokens, the last column of "ListOps at 2,000 tokens".

    python lessons/results/more_trees.py runs/gate-0/3-stage runs/rmt-0/3-stage

Nothing was trained or chosen on these trees. A run is read from its checkpoint that was best on validation.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import rmaat_np as rn
from rmaat_np.data import listops_generator


def accuracies(folders: list[str], trees: int = 10_000):
    """Yield the name and the accuracy of each run's folder."""
    split = listops_generator.generate(trees, 77, 500, 2000, progress=False)
    rows = [split.sequence(i) for i in range(trees)]
    for folder in folders:
        params, cfg, _ = rn.load(folder)
        yield folder, float((rn.predict_proba(params, cfg, rows).argmax(axis=1) == split.labels).mean())


if __name__ == "__main__":
    for folder, accuracy in accuracies(sys.argv[1:]):
        print(f"{folder}: {100 * accuracy:.2f} %", flush=True)
