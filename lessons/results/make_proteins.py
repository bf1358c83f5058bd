"""Write train.tsv, val.tsv and test.tsv: proteins that never were, of 100 to 10,000 letters, in four folds.

A motif stands near the start, noise follows, and the last four letters ask: YYYY for the motif's own fold, PPPP for the
one after it. Neither end tells the answer alone. Usage: python lessons/results/make_proteins.py FOLDER
"""

import csv
import sys
from pathlib import Path

import numpy as np

MOTIFS = {"coil": "WWWWW", "helix": "HHHHH", "loop": "CCCCC", "sheet": "MMMMM"}
NOISE = list("ADEFGIKLNQRSTV")
ROWS = {"train": 8000, "val": 300, "test": 600}


def draw(rng: np.random.Generator) -> tuple[str, str]:
    """One row: its fold and its letters. Their number is drawn evenly on a logarithmic scale."""
    folds = list(MOTIFS)
    length = int(np.exp(rng.uniform(np.log(100), np.log(10_000))))
    motif, question = rng.integers(4), rng.integers(2)
    letters, start = rng.choice(NOISE, length), rng.integers(0, 40)
    letters[start : start + 5] = list(MOTIFS[folds[motif]])
    letters[-4:] = list(("YYYY", "PPPP")[question])
    return folds[(motif + question) % 4], "".join(letters)


def main(folder: Path) -> None:
    """Write the three files, with seed 0."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in ROWS.items():
        with open(folder / f"{name}.tsv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t").writerows([("label", "text"), *(draw(rng) for _ in range(count))])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
