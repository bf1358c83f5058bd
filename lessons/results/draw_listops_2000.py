"""Draw pictures/listops_2000.png from listops_2000_gate.json: validation accuracy through the three stages."""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
STAGES = "20 to 250", "100 to 700", "500 to 2,000"
LOOKS = {
    "rmaat+retention=learned": ("#08519c", "RMAAT, learned gate, segments of 32"),
    "rmt": ("#d94801", "RMT, segments of 64"),
}


def draw(figure: Figure, stages: list[dict]) -> None:
    """A panel a stage, a line a run; all runs of a model look alike."""
    axes = figure.subplots(1, len(STAGES), sharey=True)
    for tokens, axis in zip(STAGES, axes, strict=True):
        for stage in stages:
            if stage["tokens"] == tokens:
                colour, label = LOOKS[stage["result"]["model"]]
                steps, _, accuracies = zip(*stage["validation"], strict=True)
                label = label if stage["result"]["seed"] == 0 else None
                axis.plot(steps, [100 * share for share in accuracies], ".-", color=colour, label=label)
        axis.set(title=f"{tokens} tokens", xlabel="step of the stage")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="validation accuracy, %")
    axes[-1].axhline(35.1, color="black", linestyle=":", linewidth=1)
    axes[-1].annotate("the root operator alone: 35.1 %", (1500, 35.1), (0, 3), textcoords="offset points", ha="right")
    axes[1].legend(frameon=False, loc="lower center")


if __name__ == "__main__":
    stages = json.loads((HERE / "listops_2000_gate.json").read_text(encoding="utf-8"))["stages"]
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    draw(figure, stages)
    figure.savefig(HERE.parent / "pictures" / "listops_2000.png", dpi=120)
