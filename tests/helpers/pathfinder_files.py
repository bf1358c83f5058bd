"""Pathfinder32 as files, twenty images."""

import io

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
COUNT = 20
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32), dtype=np.uint8)
LABELS = np.arange(COUNT) // 3 % 2


def png(pixels, mode=None):
    file = io.BytesIO()
    (Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)).save(file, "PNG")
    return file.getvalue()


def row(i):
    return f"imgs/{i // 10} sample_{i % 10}.png {i % 10} {LABELS[i]} 1.0 14 4 2 0.5 1 1"


def write_release(folder, form="text", difficulty="curv_contour_length_14"):
    """Twenty images in two batches, as LRA's release lays them out; returns the folder of the difficulty."""
    folder = folder / difficulty
    (folder / "metadata").mkdir(parents=True)
    for batch in (0, 1):
        (folder / "imgs" / str(batch)).mkdir(parents=True)
        rows = [row(i) for i in range(10 * batch, 10 * batch + 10)]
        path = folder / "metadata" / f"{batch}.npy"
        if form == "text":
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        else:
            np.save(path, np.array([r.split() for r in rows], dtype=form))
    for i in range(COUNT):
        (folder / "imgs" / str(i // 10) / f"sample_{i % 10}.png").write_bytes(png(PIXELS[i]))
    return folder
