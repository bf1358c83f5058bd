"""The model as one picture: the way forward, what AMRB keeps, the way back. It writes lessons/pictures/rmaat.png.

Run it as `python lessons/diagram.py`. All positions are in units of a tenth of an inch, from the lower left corner.
"""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

PATH = Path(__file__).resolve().parent / "pictures" / "rmaat.png"
WIDTH, HEIGHT = 120, 75
COLUMNS = (18, 51.5, 85)  # the left edges of the three segments
TOKENS = ("[MAX 2\n[SM 4", "7 ]\n[MIN 8", "5 3\n] ]")  # the sequence of lesson 00; its answer is 3
SMALL, NORMAL, LARGE = 10.5, 11.5, 13  # points
# The colours are those of the trace's timeline. No box depends on its colour, because its label says what it is.
MEMORY = {"facecolor": "#fdd0a2", "edgecolor": "#a63603"}
CACHE = {"facecolor": "#9ecae1", "edgecolor": "#08519c"}
DROPPED = {"facecolor": "white", "edgecolor": "#08519c", "linestyle": (0, (4, 3))}
REPLAY = {"facecolor": "#fed976", "edgecolor": "black"}
GRADIENT = {"facecolor": "#404040", "edgecolor": "black"}
BAND = "#f0f0f0"
PLAIN = {"facecolor": "white", "edgecolor": "black"}
BANDS = {  # lower edge, height -> title, text
    (41.5, 30): (
        "FORWARD",
        "left to right: each\nsegment reads its\ntokens and the\nmemory tokens,\nand hands new\nones on.\n\n"
        "RF(t, T), the reten-\ntion factor: the part\nof what segment t\nof T wrote that the\nmemory takes over.",
    ),
    (28.5, 12): ("KEPT", "by AMRB: every\nsegment's memory.\n(BPTT: all caches,\nand no memory.)"),
    (0.5, 27): (
        "BACK",
        "right to left: the\ngradient of a seg-\nment needs its\ncache. Run the\nsegment again from\n"
        "its stored memory\nto have it again.",
    ),
}


class Box:
    """A labelled rectangle with its lower left corner at (x, y). Arrows run straight from its edge to another box."""

    def __init__(self, axis, x, y, width, height, label, style):
        self.axis, self.left, self.right, self.bottom, self.top = axis, x, x + width, y, y + height
        axis.add_patch(Rectangle((x, y), width, height, linewidth=1.3, **style))
        write(axis, x + width / 2, y + height / 2, label, color="white" if style is GRADIENT else "black")

    def right_to(self, other: "Box", y: float) -> None:
        self._arrow((self.right, y), (other.left, y))

    def left_to(self, other: "Box", y: float) -> None:
        self._arrow((self.left, y), (other.right, y))

    def down_to(self, other: "Box", x: float) -> None:
        self._arrow((x, self.bottom), (x, other.top))

    def _arrow(self, start, end):
        style = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.5, "color": "black"}
        self.axis.annotate("", end, start, arrowprops=style | {"mutation_scale": 13})


def write(axis, x, y, text, **style):
    """Text whose middle is at (x, y)."""
    axis.text(x, y, text, **{"size": SMALL, "ha": "center", "va": "center"} | style)


def draw_model() -> Figure:
    """The whole picture, on a figure that belongs to no window."""
    figure = Figure(figsize=(WIDTH / 10, HEIGHT / 10))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axis.axis("off")
    for (y, height), (title, text) in BANDS.items():
        axis.add_patch(Rectangle((0.5, y), WIDTH - 1, height, facecolor=BAND, edgecolor="none"))
        write(axis, 1.8, y + height - 2, title, size=NORMAL, weight="bold", ha="left")
        write(axis, 1.8, y + height - 3.5, text, ha="left", va="top")
    title = "RMAAT reads a long sequence in segments, and learns by running them again in reverse order"
    write(axis, WIDTH / 2, HEIGHT - 1.8, title, size=LARGE, weight="bold")
    memories, blocks, loss = draw_forward(axis)
    stored, caches = draw_kept(axis, memories, blocks)
    draw_back(axis, stored, caches, loss)
    return figure


def draw_forward(axis):
    """-> the boxes of the memory tokens and of the blocks, one of each per segment, and the box of the loss"""
    memories, blocks, before = [], [], None
    for t, (x, tokens) in enumerate(zip(COLUMNS, TOKENS, strict=True), start=1):
        memories.append(Box(axis, x, 56, 9.5, 8, "memory 1\nlearned" if t == 1 else f"memory {t}", MEMORY))
        words = Box(axis, x + 2.5, 45, 7, 8, tokens, PLAIN)
        blocks.append(Box(axis, x + 12, 45, 10, 15, f"segment {t}\n\nblocks of\nattention,\nfeed-\nforward", PLAIN))
        memories[-1].right_to(blocks[-1], 58)
        words.right_to(blocks[-1], 49)
        if before:
            before.right_to(memories[-1], 60)
        if t < len(COLUMNS):
            before = Box(axis, x + 24, 56, 8, 8, f"update,\nRF({t}, 3)", PLAIN)
            memories[-1].right_to(before, 62)
            write(axis, x + 17, 64.2, "1 − RF of it stays")
            write(axis, x + 28, 51.5, "takes over\nRF of what\nis written")
        else:
            before = Box(axis, x + 24, 56, 8, 8, "read\nout", PLAIN)
        blocks[-1].right_to(before, 58)
    loss = Box(axis, COLUMNS[-1] + 24, 45, 8, 8, "answer,\nloss", PLAIN)
    before.down_to(loss, COLUMNS[-1] + 28)
    return memories, blocks, loss


def draw_kept(axis, memories, blocks):
    """-> the boxes of the stored memory tokens and of the caches, one of each per segment"""
    stored, caches = [], []
    for t, x in enumerate(COLUMNS, start=1):
        last = t == len(COLUMNS)  # its cache is kept, so it is not replayed
        fate, style = ("kept", CACHE) if last else ("dropped", DROPPED)
        label = f"memory {t}\nstored, but\nnot needed" if last else f"memory {t}\nstored"
        stored.append(Box(axis, x, 30.5, 9.5, 8, label, MEMORY))
        caches.append(Box(axis, x + 12, 30.5, 10, 8, f"cache {t}\n{fate}", style))
        memories[t - 1].down_to(stored[-1], x + 1.2)
        blocks[t - 1].down_to(caches[-1], x + 17)
    return stored, caches


def draw_back(axis, stored, caches, loss):
    """The segments from the last to the first: replay, gradient of the segment, gradient of the memory before it.

    The gradient of a memory goes two ways: through the segment before it, and past that segment.
    """
    after = Box(axis, COLUMNS[-1] + 24, 7, 8, 6, "gradient\nof loss", GRADIENT)
    loss.down_to(after, COLUMNS[-1] + 28)
    label = "gradients of the parameters: the segments and the readout add their parts"
    total = Box(axis, COLUMNS[0], 1.5, 99, 3, label, GRADIENT)
    after.down_to(total, COLUMNS[-1] + 28)
    for t in reversed(range(len(COLUMNS))):
        x, cache = COLUMNS[t], caches[t]
        if t < len(COLUMNS) - 1:
            replay = Box(axis, x, 18.5, 9.5, 8, f"run\nsegment {t + 1}\nagain", REPLAY)
            cache = Box(axis, x + 12, 18.5, 10, 8, f"cache {t + 1}\nagain", CACHE)
            stored[t].down_to(replay, x + 4.75)
            replay.right_to(cache, 22.5)
            write(axis, x + 27.75, 16.6, "1 − RF of it")
            write(axis, x + 27.75, 11.5, "RF of it")
        backward = Box(axis, x + 12, 7, 10, 6, f"gradient of\nsegment {t + 1}", GRADIENT)
        memory = Box(axis, x, 7, 9.5, 10, f"gradient of\nmemory {t + 1}", GRADIENT)
        if t < len(COLUMNS) - 1:
            after.left_to(memory, 15)
            gap = {"color": BAND, "linewidth": 6, "solid_capstyle": "butt", "zorder": 3}  # as high as the arrows
            axis.plot([x + 16, x + 18], [15, 15], **gap)  # two arrows that cross do not meet
        cache.down_to(backward, x + 17)
        after.left_to(backward, 10)
        backward.left_to(memory, 10)
        backward.down_to(total, x + 17)
        after = memory


if __name__ == "__main__":
    draw_model().savefig(PATH, dpi=120, pil_kwargs={"optimize": True})
    print(f"picture: {PATH}")
