"""What the distance of the two discs alone tells of a Pathfinder image: the baseline of each stage of a curriculum.

    python lessons/results/disc_distance.py lessons/results/curricula/pathfinder_32.toml

Discs on one short snake lie at other distances than discs on two. So a model can be right without following a snake.
"""

import sys
import tomllib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from rmaat_np.data import pathfinder_generator as generator

IMAGES = 10_000  # half of them to learn from, half to count


def distances(scene: generator.Scene, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the discs in pixels, and label, as `draw_image` places them. Shapes: -> (images,), (images,)."""
    found, labels = np.empty(images), np.empty(images, dtype=np.int64)
    for i in range(images):
        rng = np.random.default_rng(i)
        snakes, _ = generator._target_snakes(rng, scene)
        labels[i], start = rng.integers(0, 2, size=2)
        end = start if labels[i] else 1 - start
        found[i] = np.hypot(*(snakes[start, 0, 1:] - snakes[end, -1, 1:]))
    return found, labels


def accuracy(distance: np.ndarray, labels: np.ndarray) -> float:
    """The share of the second half that is right, where a distance in pixels has its commonest label in the first."""
    half, pixels = len(labels) // 2, np.rint(distance).astype(np.int64)
    votes = np.bincount(pixels[:half], weights=2 * labels[:half] - 1, minlength=pixels.max() + 1)
    return float(((votes[pixels[half:]] > 0) == labels[half:]).mean())


def main() -> None:
    """A line for each stage of the file."""
    for stage in tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["stage"]:
        options = {name: stage[name] for name in ("contour_length", "height", "distractors") if name in stage}
        scene = generator.plan_scene(stage["difficulty"], **options)
        print(f"{scene}: {100 * accuracy(*distances(scene, IMAGES)):.1f} %", flush=True)


if __name__ == "__main__":
    main()
