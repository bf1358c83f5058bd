"""The picture of a run: loss and accuracy over the steps, from metrics.jsonl."""

import io
import json
import sys
from pathlib import Path

import numpy as np

from ..system.files import write_atomically


def draw_curve(folder) -> None:
    """Write curve.png into a run's folder; without matplotlib, say so and write nothing."""
    try:
        import matplotlib
    except ImportError:
        print("curve.png is not drawn: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    steps, loss, accuracy = (np.array([r[key] for r in rows if "loss" in r]) for key in ("step", "loss", "accuracy"))
    val_steps, val_loss, val_accuracy = (
        [r[key] for r in rows if "val_loss" in r] for key in ("step", "val_loss", "val_accuracy")
    )
    window = max(1, len(steps) // 100)
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, train, val, label in ((axes[0], loss, val_loss, "loss"), (axes[1], accuracy, val_accuracy, "accuracy")):
        axis.plot(
            running_mean(steps, window),
            running_mean(train, window),
            color="0.6",
            label=f"train, mean of {window} steps",
        )
        axis.plot(val_steps, val, "o-", color="C0", markersize=3, label="validation")
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
    write_atomically(Path(folder) / "curve.png", lambda file: file.write(picture.getbuffer()))


def running_mean(values, window: int):
    """Means of consecutive groups of `window` values, without the rest at the end. Shapes: (n,) -> (n // window,)."""
    count = len(values) // window
    return values[: count * window].reshape(count, window).mean(axis=1)
