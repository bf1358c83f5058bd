"""Slides for a class: the lessons' pictures with one sentence each, in one HTML page that needs no network.

    python lessons/slides.py --out slides.html

Arrow keys, space, Home and End move; printing gives a page for each slide. `slides.html#07_replay_lives` opens at that
picture, `slides.html#18` at that number. TEACHING.md says which slide belongs where.
"""

import argparse
import base64
import html
import sys
from pathlib import Path

PICTURES = Path(__file__).resolve().parent / "pictures"
SLIDES = (  # the picture, and what it says
    (
        "rmaat",
        "RMAAT reads a sequence in segments, hands memory tokens on, and runs each segment again for its gradient.",
    ),
    (
        "01_gradients_you_can_trust_step",
        "A finite difference has a best step: below it rounding wins, above it the curve.",
    ),
    (
        "01_gradients_you_can_trust_threshold",
        "Right and wrong gradients lie far apart, and the threshold belongs into the gap.",
    ),
    (
        "01_gradients_you_can_trust_direction",
        "One random direction for each array finds the array whose gradient is wrong.",
    ),
    (
        "02_a_tripartite_synapse_cycles",
        "Neurons, synapses and STP forget a stimulus; LTP climbs with each, by less each time.",
    ),
    ("02_a_tripartite_synapse_distance", "An astrocyte passes activity on to the synapses around, less with distance."),
    (
        "03_attention_in_linear_time_weights",
        "Softmax can single out one key; linear attention gives every key a share.",
    ),
    (
        "03_attention_in_linear_time_cost",
        "Softmax grows with the square of the rows, linear attention with their number.",
    ),
    ("04_where_am_i_decay", "The scale of the decay says how many places are mixed into one."),
    ("04_where_am_i_order", "Reverse the tokens: with H_astro every row notices, without it none does."),
    ("04_where_am_i_share", "At a small scale a reading that aims at one row takes most from its neighbours."),
    (
        "05_what_a_memory_keeps_factors",
        "A longer sequence cuts the same LTP curve into thinner slices: the factors sum to 1.",
    ),
    (
        "05_what_a_memory_keeps_update",
        "The update alone: “integrate” keeps something of every segment, “none” only the last.",
    ),
    (
        "05_what_a_memory_keeps_heard",
        "The whole model: what a segment writes starts from the memory, so old words survive.",
    ),
    ("06_segments_and_time_forward", "A change in segment 4 reaches the later segments in the memory tokens alone."),
    ("06_segments_and_time_back", "The gradient goes back the same way, and what arrives depends on the update."),
    ("06_segments_and_time_bill", "BPTT keeps a cache for every segment: twice the segments, twice the memory."),
    (
        "07_replay_lives",
        "AMRB keeps the memory tokens, drops the caches, and builds each again when its gradient is due.",
    ),
    ("07_replay_bill", "AMRB's memory hardly grows with the segments; its price is one more run of each but the last."),
    ("08_training_on_listops_curves", "Over five segments “none” learns faster than “integrate”."),
    ("08_training_on_listops_operators", "An accuracy is to be compared with guessing, operator by operator."),
    (
        "08_training_on_listops_probes",
        "A probe says what is there; what training added is the gap to the untrained memory.",
    ),
    ("09_the_same_code_on_a_gpu_clocks", "Host and device run side by side until the host asks for a number."),
    ("09_the_same_code_on_a_gpu_waits", "A training step never waits; one stray habit makes it wait dozens of times."),
    ("10_a_million_tokens_time", "The time for one token is about the same, however long the sequence."),
    (
        "10_a_million_tokens_memory",
        "With AMRB the caches stay as they are, and the buffer grows by four bytes a token.",
    ),
    (
        "10_a_million_tokens_segments",
        "Short segments make a long buffer, long ones a large cache: the best length is between.",
    ),
    ("11_one_gradient_many_machines_order", "The order of a sum decides its last bits, from three ranks on."),
    ("11_one_gradient_many_machines_many", "A batch of 32 rows keeps 32 ranks busy, whatever the network."),
    ("12_your_own_sequences_curves", "A small model learns 889 short texts, and more about them than about others."),
    ("12_your_own_sequences_mistakes", "A confusion matrix shows which answers can be trusted."),
    (
        "12_your_own_sequences_rivals",
        "Count words first; a bag of words wins on few short texts, RMAAT where the order decides.",
    ),
    (
        "13_attractor_drift_latch_paths",
        "A thousand segments of noise: an attractor holds the classes apart, drift mixes them, a latch stays.",
    ),
    (
        "13_attractor_drift_latch_eigenvalues",
        "A small difference between two memories fades in an attractor and stays as it is in a latch.",
    ),
)

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>RMAAT: slides</title>
<style>
* { box-sizing: border-box; }
body { margin: 0; background: white; color: black; font-family: system-ui, sans-serif; }
section { height: 100vh; padding: 3vh 4vw 2vh; display: flex; flex-direction: column; gap: 2vh; break-after: page; }
h1 { margin: 0; text-align: center; text-wrap: balance; font-size: clamp(20px, 2.9vw, 56px); font-weight: 600;
  line-height: 1.25; }
img { flex: 1; min-height: 0; width: 100%; object-fit: contain; }
footer { text-align: right; color: #555; font-size: clamp(12px, 1.1vw, 22px); }
.moving section { display: none; }
.moving section.shown { display: flex; }
</style>
</head>
<body>
@SLIDES@
<script>
const slides = [...document.querySelectorAll("section")];
const moves = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1,
  Home: -slides.length, End: slides.length};
let at = 0;
function find(hash) {
  const named = slides.findIndex((slide) => slide.id === hash);
  return named < 0 ? (parseInt(hash) || 1) - 1 : named;
}
function show(number) {
  at = Math.min(Math.max(number, 0), slides.length - 1);
  slides.forEach((slide, i) => slide.classList.toggle("shown", i === at));
  history.replaceState(null, "", "#" + (at + 1));
}
addEventListener("keydown", (event) => {
  if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    show(at + moves[event.key]);
  }
});
addEventListener("click", (event) => show(at + (event.clientX < innerWidth / 3 ? -1 : 1)));
addEventListener("hashchange", () => show(find(location.hash.slice(1))));
addEventListener("beforeprint", () => document.body.classList.remove("moving"));
addEventListener("afterprint", () => document.body.classList.add("moving"));
document.body.classList.add("moving");
show(find(location.hash.slice(1)));
</script>
</body>
</html>
"""


def make_page(pictures: Path = PICTURES) -> str:
    """The page, with every picture inside it. Raises: OSError if a picture cannot be read."""
    sections = []
    for number, (name, sentence) in enumerate(SLIDES, start=1):
        data = base64.b64encode((pictures / f"{name}.png").read_bytes()).decode("ascii")
        lesson = f"lesson {name[:2]}" if name[:2].isdigit() else "lesson 00"
        text = html.escape(sentence)
        sections.append(
            f'<section id="{name}">\n<h1>{text}</h1>\n<img alt="{text}" src="data:image/png;base64,{data}">\n'
            f"<footer>{lesson} &middot; {name} &middot; {number} / {len(SLIDES)}</footer>\n</section>"
        )
    return PAGE.replace("@SLIDES@", "\n".join(sections))


def main(arguments: list[str] | None = None) -> int:
    """Write the page; 1 if a picture cannot be read or the page not written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="slides.html", metavar="FILE", help="the page to write (default: %(default)s)")
    path = Path(parser.parse_args(arguments).out)
    try:
        path.write_text(make_page(), encoding="utf-8")
    except OSError as error:
        print(f"slides: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"slides: {path}, {len(SLIDES)} of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
