"""Draw pictures/listops_2000.png from listops_2000.json: validation during the last stage, 500 to 2,000 tokens."""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
LEVELS = {"the root operator alone: 35.1 %": 35.1, "the commonest answer: 17.1 %": 17.1}
LOOKS = {"rmaat": "#08519c", "rmt": "#a63603", "rlt": "#636363", "rmaat+use_astro=false": "#6baed6"}


def draw(figure: Figure, stages: list[dict]) -> None:
    """Loss on the left, accuracy on the right, a line a model, and what accuracy is reached without reading on."""
    loss_axis, accuracy_axis = figure.subplots(1, 2)
    for stage in stages:
        model = stage["result"]["model"]
        steps, losses, accuracies = zip(*stage["validation"], strict=True)
        style = {"color": LOOKS[model], "marker": "o", "markersize": 3, "label": model}
        loss_axis.plot(steps, losses, **style)
        accuracy_axis.plot(steps, [100 * accuracy for accuracy in accuracies], **style)
    for text, level in LEVELS.items():
        accuracy_axis.axhline(level, color="black", linestyle=":", linewidth=1)
        accuracy_axis.annotate(text, (8000, level), (0, 3), textcoords="offset points", ha="right", fontsize=9)
    loss_axis.set(xlabel="step of the last stage", ylabel="validation loss")
    accuracy_axis.set(xlabel="step of the last stage", ylabel="validation accuracy, %", ylim=(15, 43))
    loss_axis.legend(frameon=False)
    for axis in (loss_axis, accuracy_axis):
        axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    stages = json.loads((HERE / "listops_2000.json").read_text(encoding="utf-8"))["stages"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    draw(figure, [stage for stage in stages if stage["tokens"] == "500 to 2,000"])
    figure.savefig(HERE.parent / "pictures" / "listops_2000.png", dpi=120)
