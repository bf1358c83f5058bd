"""Draw Pathfinder images: the procedure of the original generator with LRA's parameters, in NumPy.

Two target snakes of short paddles grow from seeds near each other. They turn at random and keep clear of what is there.
Short distractor snakes follow where room is left. A disc marks one end of each target. The label is 1 when both discs
are on the same snake. Rules: Linsley et al. 2018 (arXiv:1805.08315), as in their generator (drewlinsley/pathfinder,
2019). Its quirks are kept, because they shape the statistics. Parameters: LRA's Pathfinder32.

For a curriculum, an image may have fewer rows, of 32 pixels as ever (decided). Its tokens are then the beginning of a
whole image's, so that one model reads both. Snakes may be of any length that fits, and distractors may be left out.
"""

from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import InputError, check_integer
from ..system.terminal import progress_bar
from .dataset import Dataset, Split
from .pathfinder import divide
from .pixels import SIZE, VOCAB_SIZE, decode
from .stored import AnyPath, stored_split

_CONTOUR_LENGTH = {"easy": 6, "intermediate": 9, "hard": 14}  # paddles of a target snake
LONGEST = {8: 5, 16: 10, 24: 14, 32: 18}  # image rows -> paddles for which a pair of targets is soon found
_DISTRACTOR_PADDLES = 20  # of all distractors together, before those that find no room
SCALE = 2  # lines and discs are drawn this many times larger, then resampled
_PADDING = 1  # pixels along each side that no snake enters
PADDLE, MARGIN = 2, 1  # length of a paddle, and the clearance around it
_REACH = PADDLE + 1 + MARGIN  # from the centre of a stamp to its side; the 1 is the thickness, 0.5, rounded up
_SEED_DISTANCE = 7
_MARKER_RADIUS = 1.5
_MARKER_REACH = 2  # whole pixels
DISTRACTOR_CONTRAST, TARGET_CONTRAST = 2.0, 2.0 * 0.75
PADDLE_TRIES, SNAKE_TRIES = 3, 5  # end points tried for a paddle, starts tried for a distractor
_ATTEMPTS = 32  # pairs of targets that grow side by side (most fail); the first that succeeds is taken

# A mask holds 0 (free) to 255 (occupied), flat, with a frame of occupied pixels so that no index needs a check.
FRAME = 8
WIDTH = SIZE + 2 * FRAME
TOUCHING = 459  # 1.8 * 255: two masks whose sum reaches this are too close
_FREE = 76  # 0.3 * 255: up to this a pixel is free enough to start on


@dataclass(frozen=True)
class Scene:
    """What an image shows: its height in rows, the paddles of a target, and how many distractors are tried.

    A distractor has a third of a target's paddles, and at least one.
    Raises: InputError naming what does not fit into an image of that height.
    """

    contour_length: int = _CONTOUR_LENGTH["hard"]
    height: int = SIZE
    distractors: int = _DISTRACTOR_PADDLES // (_CONTOUR_LENGTH["hard"] // 3)

    def __post_init__(self):
        if check_integer("height", self.height, 1) not in LONGEST:
            heights = ", ".join(map(str, LONGEST))
            raise InputError(f"height is {self.height!r}, but an image has {heights} rows")
        check_integer("distractors", self.distractors, 0)
        if not 2 <= check_integer("contour_length", self.contour_length, 1) <= LONGEST[self.height]:
            raise InputError(
                f"contour_length is {self.contour_length}, but snakes of 2 to {LONGEST[self.height]} paddles fit into "
                f"{self.height} rows; set contour_length to one of these"
            )

    @property
    def distractor_length(self) -> int:
        """Paddles of a distractor."""
        return max(1, self.contour_length // 3)


def plan_scene(
    difficulty: str = "hard", contour_length: int | None = None, height: int = SIZE, distractors: int | None = None
) -> Scene:
    """LRA's scene of a difficulty, with other values for what is given.

    distractors: by default LRA's, in proportion to the height
    Raises: InputError for an unknown difficulty, or for what does not fit into the image.
    """
    if difficulty not in _CONTOUR_LENGTH:
        raise InputError(f"difficulty {difficulty!r} is unknown; choose {', '.join(_CONTOUR_LENGTH)}")
    scene = Scene(_CONTOUR_LENGTH[difficulty] if contour_length is None else contour_length, height)
    if distractors is None:
        distractors = _DISTRACTOR_PADDLES // scene.distractor_length * height // SIZE
    return replace(scene, distractors=distractors)


def generate_dataset(
    cache_dir: AnyPath, *, difficulty: str = "hard", count: int = 200_000, seed: int = 0, **changes: int
) -> Dataset:
    """Drawn Pathfinder images, split 80/10/10. They are drawn once and kept in cache_dir for the next run.

    count: images of all splits together. LRA has 200,000 of each difficulty. One core draws 100 to 400 a second, up to
        1,700 of 8 rows.
    changes: contour_length, height and distractors, as for `plan_scene`
    Raises: InputError for an unknown difficulty, a count below 10, a negative seed, or what does not fit.
    """
    count = check_integer("count", count, 10)  # fewer leave a split of 80/10/10 empty
    scene = plan_scene(difficulty, **changes)
    length = scene.height * SIZE

    def draw() -> Split:
        tokens, labels = generate(count, difficulty, seed, True, **changes)
        return Split(tokens.ravel(), np.arange(count + 1, dtype=np.int64) * length, labels)

    drawn = difficulty if scene == plan_scene(difficulty) else "-".join(map(str, astuple(scene)))
    split = stored_split([], Path(cache_dir), f"pathfinder-drawn-{drawn}-{count}-{seed}-1", draw)
    # The images are independent draws already: the order needs no shuffling.
    train, val, test = divide(split, np.arange(count))
    return Dataset("pathfinder", VOCAB_SIZE, 2, length, train, val, test, decode, as_text=False)


def generate(
    count: int, difficulty: str = "hard", seed: int = 0, progress: bool = True, **changes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images; image i depends on (seed, scene, i) alone, whatever the count.

    progress: show a bar (only where stderr is a terminal); changes: as for `plan_scene`
    Shapes: -> tokens (count, height * 32) uint16, grey value + 1, 1..256; labels (count,) int64, 0 or 1
    Raises: InputError for an unknown difficulty, a count below 1, a negative seed, or what does not fit.
    Source: arXiv:1805.08315; LRA, arXiv:2011.04006
    """
    scene = plan_scene(difficulty, **changes)
    count, seed = check_integer("count", count, 1), check_integer("seed", seed, 0)
    numbers = range(count)
    tokens, labels = np.empty((count, scene.height * SIZE), dtype=np.uint16), np.empty(count, dtype=np.int64)
    label = f"drawing {difficulty} images" if not changes else f"drawing images of {scene.height} rows"
    for i in progress_bar(numbers, unit="image", label=label) if progress else numbers:
        image, labels[i] = draw_image(np.random.default_rng([seed, scene.contour_length, i]), scene)
        tokens[i] = image.ravel() + np.uint16(1)
    return tokens, labels


def draw_image(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, int]:
    """One image, (height, 32) uint8 with its brightest pixel at 255, and its label, 0 or 1."""
    targets, mask = _target_snakes(rng, scene)
    canvas = np.zeros((WIDTH, WIDTH))
    _paint(canvas, targets.reshape(-1, 3), TARGET_CONTRAST)
    for _ in range(scene.distractors):
        snake, mask = _distractor_snake(rng, mask, scene)
        _paint(canvas, snake, DISTRACTOR_CONTRAST)
    image = canvas[FRAME:-FRAME, FRAME:-FRAME]
    label, start = rng.integers(0, 2, size=2)
    end = start if label else 1 - start
    image = np.maximum(image, np.maximum(_disc(*targets[start, 0, 1:]), _disc(*targets[end, -1, 1:])))
    image = image[: scene.height]
    return np.floor(image * (255 / image.max()) + 0.5).astype(np.uint8), int(label)


# --- growing snakes: a paddle is (stamp, y, x), see the tables below --------------------------------------------------


def _target_snakes(rng, scene):
    """Two snakes; pairs are drawn until one reaches its full length.

    Shapes: -> paddles (2, contour_length, 3) ints; mask (WIDTH * WIDTH,) uint8
    """
    higher = np.array([(SIZE - scene.height) // 2, 0])  # the middle of the image is that much higher
    while True:
        first = rng.integers(0, len(_SEED_HEADINGS), _ATTEMPTS)
        headings = np.stack([_SEED_HEADINGS[first], rng.integers(0, 360, _ATTEMPTS)], axis=1)
        tail = TARGET_TAILS[first, rng.integers(0, TARGET_TAIL_COUNT[first])] - higher
        angle = np.deg2rad(rng.integers(0, 360, _ATTEMPTS))
        other_tail = np.rint(tail + _SEED_DISTANCE * np.stack([np.sin(angle), np.cos(angle)], axis=1)).astype(np.int64)
        # The second snake's disc must be in the image, too. With 32 rows it always is.
        inside = (other_tail[:, 0] >= _MARKER_REACH) & (other_tail[:, 0] < scene.height - _MARKER_REACH)
        tails = np.stack([tail, other_tail], axis=1)[inside]
        masks = np.tile(empty_mask(scene.height), (len(tails), 1))
        paddles, masks = _grow(rng, masks, headings[inside], tails, scene.contour_length)
        if len(paddles):
            # As in the original, the first snake's last paddle stays out of the mask: a distractor may cross it.
            _occupy(masks[:1], paddles[:1, 1, -1])
            return paddles[0], masks[0]


def _distractor_snake(rng, mask, scene):
    """One snake in the room that is left, or none when every try fails.

    Shapes: mask (WIDTH * WIDTH,) uint8 -> paddles (distractor_length or 0, 3) ints; the mask with the snake in it
    """
    occupied, window = mask > _FREE, np.flatnonzero(empty_mask(scene.height) == 0)
    for heading in rng.integers(0, 360, SNAKE_TRIES):
        if heading not in _SEED_FOOTPRINT:
            continue
        room = window[~occupied[window[:, None] + _SEED_FOOTPRINT[heading]].any(axis=1)]
        if len(room):
            tail = np.stack(np.divmod(room[rng.integers(0, len(room))], WIDTH)) - FRAME
            paddles, masks = _grow(rng, mask[None], np.array([[heading]]), tail[None, None], scene.distractor_length)
            if len(paddles):
                _occupy(masks, paddles[:, 0, -1])
                return paddles[0, 0], masks[0]
    return np.empty((0, 3), dtype=np.int64), mask


def _grow(rng, masks, headings, tails, length):
    """Grow k independent attempts at s snakes side by side, a paddle per snake in turn; drop attempts that fail.

    A paddle joins the mask when the next one of its snake is in place, so that neighbours in a snake may touch.
    Shapes: masks (k, WIDTH * WIDTH) uint8, headings (k, s), tails (k, s, 2)
            -> paddles of the survivors (<= k, s, length, 3) ints, their masks
    """
    paddles = np.empty((*headings.shape, length, 3), dtype=np.int64)
    paddles[:, :, 0, 0], paddles[:, :, 0, 1:] = headings, tails
    pivots = _move(_move(tails, DIRECTION[headings], PADDLE), -DIRECTION[headings], PADDLE + MARGIN)
    for i in range(1, length):
        for s in range(headings.shape[1]):
            pivot = _move(pivots[:, s], DIRECTION[headings[:, s]], PADDLE + 2 * MARGIN)
            step, alive = _next_paddle(rng, masks, pivot, headings[:, s])
            masks, headings, paddles, pivots = masks[alive], headings[alive], paddles[alive], pivots[alive]
            if not len(paddles):
                return paddles, masks
            step, pivot = step[alive], pivot[alive]
            paddles[:, s, i, 0], paddles[:, s, i, 1:] = BACK + step, pivot + STEPS[step]
            headings[:, s], pivots[:, s] = AHEAD + step, pivot
            _occupy(masks, paddles[:, s, i - 1])
    return paddles, masks


def _next_paddle(rng, masks, pivot, heading):
    """Choose where the next paddle of each attempt ends: on free ground, near the heading, touching nothing.

    Weight of an end point: free share of its surroundings * cos^2(min(|change of heading|, 90 degrees)).
    Shapes: masks (k, WIDTH * WIDTH), pivot (k, 2), heading (k,) -> row of STEPS (k,), whether the attempt goes on (k,)
    """
    k = np.arange(len(masks))[:, None]
    ends = _index(pivot[:, None] + STEPS)  # (k, 18)
    nearby = masks[k[..., None], ends[..., None] + _CROSS].max(axis=-1)
    weights = np.cumsum((255.0 - nearby) / 255 * _TURN_WEIGHT[heading], axis=1)
    draws = rng.random((len(masks), PADDLE_TRIES)) * weights[:, -1:]
    steps = (weights[:, None] > draws[..., None]).argmax(axis=-1)  # (k, PADDLE_TRIES)
    beneath = masks[k[..., None], ends[k, steps][..., None] + SQUARE]
    fits = (beneath + FOOTPRINT[BACK + steps]).max(axis=-1) < TOUCHING
    return steps[k[:, 0], fits.argmax(axis=1)], fits.any(axis=1) & (weights[:, -1] >= 1e-4)


def _move(points, direction, distance):
    """Points (..., 2) moved along unit vectors; coordinates are rounded up, as in the original."""
    return np.ceil(points + distance * direction).astype(np.int64)


def _index(points):
    """Flat position in a mask of window coordinates (..., 2)."""
    return (points[..., 0] + FRAME) * WIDTH + points[..., 1] + FRAME


def _occupy(masks, paddles):
    """Add one paddle (k, 3) to each mask (k, WIDTH * WIDTH), in place."""
    where = np.arange(len(masks))[:, None], _index(paddles[:, 1:])[:, None] + SQUARE
    masks[where] = np.maximum(masks[where], FOOTPRINT[paddles[:, 0]])


# --- drawing ----------------------------------------------------------------------------------------------------------


def _paint(canvas, paddles, contrast):
    """Lay paddles (n, 3) over the framed canvas in place; where they overlap, the brighter value stays."""
    for stamp, y, x in paddles:
        area = np.s_[y + FRAME - _REACH : y + FRAME + _REACH + 1, x + FRAME - _REACH : x + FRAME + _REACH + 1]
        # float32 as in the original: it decides which way grey values that end in .5 are rounded.
        canvas[area] = np.maximum(canvas[area], (LINE[stamp] / 255 * contrast).astype(np.float32))


@lru_cache(maxsize=SIZE * SIZE)
def _disc(y, x):
    """A marker with its centre on pixel (y, x): (32, 32), values 0..1; kept, because few pixels can be a centre."""
    grid = np.arange(SIZE * SCALE)
    inside = (grid[:, None] - y * SCALE) ** 2 + (grid - x * SCALE) ** 2 <= (_MARKER_RADIUS * SCALE) ** 2
    return _resample(inside * 255.0, _DISC_WEIGHTS) / 255


def _lanczos(n_in, n_out):
    """Weights of three-lobed Lanczos resampling, (n_out, n_in); rows sum to 1."""
    scale = n_in / n_out
    u = (np.arange(n_in) + 0.5) / scale - (np.arange(n_out)[:, None] + 0.5)
    weights = np.where(np.abs(u) < 3, np.sinc(u) * np.sinc(u / 3), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _resample(image, weights):
    """Resample a square image of values 0..255 along x, then y, rounding to whole values each time as Pillow does."""
    rows = np.clip(np.floor(image @ weights.T + 0.5), 0, 255)
    return np.clip(np.floor(weights @ rows + 0.5), 0, 255)


# --- tables of everything that depends on a direction alone -----------------------------------------------------------


@lru_cache(maxsize=len(LONGEST))
def empty_mask(height):
    """The mask of an empty image of so many rows, flat and read-only; what lies below them is occupied."""
    mask = np.full((WIDTH, WIDTH), 255, dtype=np.uint8)
    mask[FRAME + _PADDING : FRAME + height - _PADDING, FRAME + _PADDING : -FRAME - _PADDING] = 0
    mask.flags.writeable = False
    return mask.ravel()


def _steps():
    """From a pivot to the end points of its next paddle, all pixels on a circle: (18, 2) ints."""
    radius = PADDLE + MARGIN
    angle = np.arange(0, 2 * np.pi, 1 / radius)
    return np.unique(np.floor(radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)).astype(np.int64), axis=0)


def _stamps(directions):
    """Antialiased paddles that start at the centre of a stamp, and the ground that each occupies, margin included.

    Shapes: directions (n, 2) -> lines (n, 9, 9), footprints (n, 9, 9), whole values 0..255
    """
    centre = _REACH * SCALE
    side, weights = 2 * centre + 1, _lanczos(2 * centre + 1, 2 * _REACH + 1)
    ends = _move(np.full_like(directions, centre), directions, PADDLE * SCALE) - centre
    ends, which = np.unique(ends, axis=0, return_inverse=True)
    near = np.arange(-MARGIN * SCALE, MARGIN * SCALE + 1)
    disc = [(y, x) for y in near for x in near if y * y + x * x <= (MARGIN * SCALE) ** 2]
    stamps = np.zeros((2, len(ends), side, side))
    for line, footprint, end in zip(*stamps, ends, strict=True):
        n = np.abs(end).max()
        i = np.arange(n + 1)[:, None]
        pixels = centre + np.sign(end) * ((2 * np.abs(end) * i + n) // (2 * n))  # Bresenham's line
        line[tuple(pixels.T)] = 255
        for offset in disc:
            footprint[tuple((pixels + offset).T)] = 255
    lines, footprints = ([_resample(image, weights) for image in images] for images in stamps)
    return np.array(lines)[which.ravel()], np.array(footprints)[which.ravel()]


def _seed_footprints(footprints):
    """Flat offsets that must be free for a snake to start, by heading, where the original can start one at all.

    It cuts the footprint to 7 x 7 pixels, centres it one pixel off, and dilates the mask with it. Where the footprint
    then misses its own centre, pixels at the window's sides come out as minus infinity, which counts as "no room". That
    leaves -150 to -121 degrees, and makes most tries at a distractor fail.
    """
    side = 2 * (PADDLE + MARGIN) + 1
    offsets = {i: np.argwhere(footprint[:side, :side] == 255) - side // 2 for i, footprint in enumerate(footprints)}
    return {i: yx @ [WIDTH, 1] for i, yx in offsets.items() if (yx == 0).all(axis=1).any()}


def _target_tails():
    """Where the first target can start, by seed heading: within the square two seed distances from every side.

    Shapes: -> tails (headings, 16, 2), of which the first count (headings,) are in use
    """
    side = FRAME + 2 * _SEED_DISTANCE
    inner = np.zeros((WIDTH, WIDTH), dtype=bool)
    inner[side:-side, side:-side] = True
    tails = np.zeros((len(_SEED_FOOTPRINT), inner.sum(), 2), dtype=np.int64)
    count, window = np.zeros(len(tails), dtype=np.int64), np.flatnonzero(empty_mask(SIZE) == 0)
    for i, footprint in enumerate(_SEED_FOOTPRINT.values()):
        room = window[inner.ravel()[window[:, None] + footprint].all(axis=1)]
        count[i] = len(room)
        tails[i, : len(room)] = np.stack(np.divmod(room, WIDTH), axis=1) - FRAME
    return tails, count


_CROSS = np.array([-WIDTH, -1, 0, 1, WIDTH])  # a disc of radius MARGIN
SQUARE = np.add.outer(np.arange(-_REACH, _REACH + 1) * WIDTH, np.arange(-_REACH, _REACH + 1)).ravel()  # a stamp

# Headings and stamps share one index: -180 .. 179 degrees, then along each step, then against each step.
STEPS = _steps()
AHEAD, BACK = 360, 360 + len(STEPS)
_ahead = np.arctan2(*STEPS.T)
_angle = np.concatenate([np.arange(-180, 180) * np.pi / 180, _ahead, _ahead - np.copysign(np.pi, _ahead)])
_turn = np.abs(_angle[:, None] - _ahead)
DIRECTION = np.stack([np.sin(_angle), np.cos(_angle)], axis=1)
_TURN_WEIGHT = np.maximum(np.cos(np.minimum(_turn, 2 * np.pi - _turn)), 0) ** 2  # continuity is 1
_DISC_WEIGHTS = _lanczos(SIZE * SCALE, SIZE)
LINE, FOOTPRINT = _stamps(DIRECTION)
_SEED_FOOTPRINT = _seed_footprints(FOOTPRINT[:AHEAD])
_SEED_HEADINGS = np.array(list(_SEED_FOOTPRINT))
TARGET_TAILS, TARGET_TAIL_COUNT = _target_tails()
FOOTPRINT = FOOTPRINT.reshape(len(FOOTPRINT), -1).astype(np.int16)  # int16: sums of two masks pass 255
