"""Pathfinder generator: stamps as Pillow draws them, snakes that keep their distance, statistics of the original."""

import hashlib

import numpy as np
import pytest

from rmaat_np.data import load_dataset
from rmaat_np.data import pathfinder_generator as generator
from rmaat_np.errors import InputError


def test_tokens_labels_and_ranges():
    tokens, labels = generator.generate(6, "easy", seed=0, progress=False)
    assert tokens.shape == (6, 1024) and tokens.dtype == np.uint16
    assert (tokens.min(axis=1) == 1).all() and (tokens.max(axis=1) == 256).all()
    assert labels.dtype == np.int64 and set(labels) <= {0, 1}


def test_an_image_depends_on_seed_difficulty_and_its_number_alone():
    few, few_labels = generator.generate(2, "intermediate", seed=3, progress=False)
    more, more_labels = generator.generate(4, "intermediate", seed=3)
    np.testing.assert_array_equal(few, more[:2])
    np.testing.assert_array_equal(few_labels, more_labels[:2])
    assert len(np.unique(more, axis=0)) == 4
    for difficulty, seed in (("intermediate", 4), ("easy", 3)):
        assert (generator.generate(2, difficulty, seed, progress=False)[0] != few).any(axis=1).all()


def test_images_of_earlier_versions_are_drawn_again():
    """What a default names must not change: runs are compared on these images."""
    digest = hashlib.sha256()
    for difficulty in ("easy", "intermediate", "hard"):
        for array in generator.generate(8, difficulty, 3, progress=False):
            digest.update(array.tobytes())
    assert digest.hexdigest() == "9e9e972ed7993c5e675dd6036f911ef66ddb95ca305d2cfe75320b97f0a6e29f"


@pytest.mark.parametrize(
    ("changes", "scene"),
    [
        ({}, generator.Scene(14, 32, 5)),
        ({"height": 8, "contour_length": 4}, generator.Scene(4, 8, 5)),
        ({"height": 16, "contour_length": 2, "distractors": 0}, generator.Scene(2, 16, 0)),
    ],
)
def test_a_scene_takes_from_the_difficulty_what_is_not_given(changes, scene):
    assert generator.plan_scene("hard", **changes) == scene
    assert generator.plan_scene("easy") == generator.Scene(6, 32, 10)


@pytest.mark.parametrize(("height", "contour_length"), [(8, 2), (8, 5), (16, 10), (24, 14), (32, 18)])
def test_fewer_rows_hold_whole_snakes(height, contour_length):
    scene = generator.plan_scene("hard", contour_length, height)
    for i in range(5):
        targets, mask = generator._target_snakes(np.random.default_rng(i), scene)
        assert targets.shape == (2, contour_length, 3)
        assert targets[:, :, 1].min() >= 1 and targets[:, :, 1].max() <= height - 2
    assert (mask.reshape(generator.WIDTH, -1)[generator.FRAME + height - 1 :] == 255).all()
    tokens, labels = generator.generate(2, contour_length=contour_length, height=height, progress=False)
    assert tokens.shape == (2, height * 32) and labels.shape == (2,)
    assert (tokens.max(axis=1) == 256).all()


@pytest.mark.parametrize("distractors", [0, 3])
def test_distractors_are_tried_as_often_as_asked(monkeypatch, distractors):
    tries, grow = [], generator._distractor_snake
    monkeypatch.setattr(generator, "_distractor_snake", lambda *args: tries.append(1) or grow(*args))
    generator.draw_image(np.random.default_rng(0), generator.Scene(4, 8, distractors))
    assert len(tries) == distractors


@pytest.mark.parametrize(("difficulty", "count", "grey", "bright"), [("easy", 200, 12.9, 66), ("hard", 100, 20.1, 104)])
def test_statistics_of_the_original_generator(difficulty, count, grey, bright):
    """Means over its images: 12.9 grey and 66 bright pixels (easy), 20.1 and 104 (hard); bounds of about 4 sigma."""
    tokens, labels = generator.generate(count, difficulty, seed=0, progress=False)
    assert abs((tokens - 1.0).mean() - grey) < 0.7
    assert abs((tokens > 101).sum(axis=1).mean() - bright) < 4
    assert 0.35 < labels.mean() < 0.65


@pytest.mark.parametrize("contour_length", [6, 14])
def test_markers_are_on_one_snake_exactly_when_the_label_is_1(monkeypatch, contour_length):
    discs, seen, disc, scene = [], set(), generator._disc, generator.Scene(contour_length)
    monkeypatch.setattr(generator, "_disc", lambda y, x: discs.append((y, x)) or disc(y, x))
    for i in range(12):
        discs.clear()
        _, label = generator.draw_image(np.random.default_rng(i), scene)
        targets, _ = generator._target_snakes(np.random.default_rng(i), scene)  # what draw_image begins with
        starts = [tuple(snake[0, 1:]) for snake in targets]
        ends = [tuple(snake[-1, 1:]) for snake in targets]
        snake = starts.index(discs[0])
        assert discs[1] == (ends[snake] if label else ends[1 - snake])
        seen.add((label, snake))
    assert len(seen) == 4


def test_target_snakes_keep_clear_of_each_other_and_of_the_sides():
    for i in range(3):
        targets, mask = generator._target_snakes(np.random.default_rng(i), generator.Scene())
        assert targets.shape == (2, 14, 3)
        built = generator.empty_mask(32).copy()
        for k in range(1, 14):
            for snake in targets:
                stamp, *end = snake[k]
                where = generator._index(np.array(end)) + generator.SQUARE
                assert (built[where] + generator.FOOTPRINT[stamp]).max() < generator.TOUCHING
                stamp, *end = snake[k - 1]  # enters the mask only now
                where = generator._index(np.array(end)) + generator.SQUARE
                built[where] = np.maximum(built[where], generator.FOOTPRINT[stamp])
        assert targets[:, :, 1:].min() >= 1 and targets[:, :, 1:].max() <= 30
        assert (mask >= built).all()
        steps = np.hypot(*np.moveaxis(np.diff(targets[:, 1:, 1:], axis=1), -1, 0))
        assert steps.max() < 5.2 and 3.4 < steps.mean() < 4  # paddle and two margins are 4, a bend shortens that


def test_first_seeds_are_seed_distance_apart_near_the_centre():
    for i in range(20):
        (first, second), _ = generator._target_snakes(np.random.default_rng(i), generator.Scene(2))
        assert first[0, 0] in range(30, 60)  # -150 to -121 degrees
        assert (first[0, 1:] >= 14).all() and (first[0, 1:] < 18).all()
        assert abs(np.hypot(*(first[0, 1:] - second[0, 1:])) - 7) <= np.sqrt(0.5)


def test_distractors_find_room_or_give_up():
    full, scene = np.full_like(generator.empty_mask(32), 255), generator.Scene(14)
    snake, mask = generator._distractor_snake(np.random.default_rng(0), full, scene)
    assert len(snake) == 0 and mask is full
    empty, lengths = generator.empty_mask(32).copy(), []
    for i in range(60):
        snake, mask = generator._distractor_snake(np.random.default_rng(i), empty, scene)
        lengths.append(len(snake))
        assert (mask > empty).any() == (len(snake) > 0)
    assert set(lengths) == {0, 4}
    assert 10 <= lengths.count(4) <= 32  # 1 - (11/12)^5 = 35 % of them
    np.testing.assert_array_equal(empty, generator.empty_mask(32))


def test_lines_and_margins_are_what_pillow_draws():
    pytest.importorskip("PIL")
    from PIL import Image, ImageDraw

    for i, (dy, dx) in enumerate(generator.DIRECTION):
        large = Image.new("L", (17, 17))
        end = (int(np.ceil(8 + 4 * dx)), int(np.ceil(8 + 4 * dy)))
        ImageDraw.Draw(large).line([(8, 8), end], fill=255, width=1)
        np.testing.assert_array_equal(generator.LINE[i], large.resize((9, 9), Image.Resampling.LANCZOS))
        padded = np.pad(np.asarray(large), 2)
        offsets = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if y * y + x * x <= 4]
        dilated = np.max([padded[2 + y : 19 + y, 2 + x : 19 + x] for y, x in offsets], axis=0)
        ground = Image.fromarray(dilated).resize((9, 9), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(generator.FOOTPRINT[i].reshape(9, 9), ground)


@pytest.mark.parametrize(("y", "x"), [(15, 15), (2, 29), (29, 7)])
def test_discs_are_what_pillow_draws(y, x):
    pytest.importorskip("PIL")
    from PIL import Image

    rows, columns = np.ogrid[:64, :64]
    inside = np.uint8(255) * ((rows - 2 * y) ** 2 + (columns - 2 * x) ** 2 <= 9).astype(np.uint8)
    expected = np.asarray(Image.fromarray(inside).resize((32, 32), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(np.rint(generator._disc(y, x) * 255), expected)


def test_next_paddle_prefers_the_heading_and_avoids_occupied_ground():
    rng = np.random.default_rng(0)
    k = 2000
    pivot, heading = np.full((k, 2), 15), np.full(k, 180)  # 0 degrees: along x
    masks = np.tile(generator.empty_mask(32), (k, 1))
    step, alive = generator._next_paddle(rng, masks, pivot, heading)
    assert alive.all()
    angle = np.arctan2(*generator.STEPS.T)
    weight = np.where(np.abs(angle) < np.pi / 2, np.cos(angle) ** 2, 0)
    share = np.bincount(step, minlength=len(angle)) / k
    np.testing.assert_allclose(share, weight / weight.sum(), atol=0.04)  # 4 sigma of 2,000 draws

    post = generator._index(np.array([15, 16]))  # beside the pivot, away from every end point
    masks[:, post] = 255
    step, alive = generator._next_paddle(rng, masks, pivot, heading)
    ends = generator._index(pivot + generator.STEPS[step])
    ground = generator.FOOTPRINT[generator.BACK + step]
    touches = (ground * (ends[:, None] + generator.SQUARE == post)).max(axis=1) + 255 >= generator.TOUCHING
    assert alive.any() and not touches[alive].any() and len(set(step[alive])) < np.count_nonzero(weight)

    masks.reshape(k, generator.WIDTH, -1)[:, : generator.FRAME + 17] = 255  # down to row 16; end points reach row 17
    assert not generator._next_paddle(rng, masks, pivot, heading)[1].any()


def test_dataset_is_drawn_once_and_split_80_10_10(tmp_path, monkeypatch):
    data = generator.generate_dataset(tmp_path, difficulty="easy", count=20, seed=1)
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 2, 2]
    assert (data.task, data.vocab_size, data.num_classes, data.max_length) == ("pathfinder", 257, 2, 1024)
    tokens, labels = generator.generate(20, "easy", 1, progress=False)
    np.testing.assert_array_equal(data.val.sequence(0), tokens[16])
    np.testing.assert_array_equal(data.test.labels, labels[18:])
    assert [len(line) for line in data.decode(tokens[0]).splitlines()] == [32] * 32

    monkeypatch.setattr(generator, "generate", lambda *_, **__: pytest.fail("drawn again"))
    again = generator.generate_dataset(tmp_path, difficulty="easy", count=20, seed=1)
    np.testing.assert_array_equal(again.train.tokens, data.train.tokens)
    for other in ({"seed": 2}, {"count": 30}, {"difficulty": "hard"}, {"height": 16}, {"distractors": 9}):
        with pytest.raises(pytest.fail.Exception, match="drawn again"):
            generator.generate_dataset(tmp_path, **{"difficulty": "easy", "count": 20, "seed": 1, **other})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "tough"}, "difficulty 'tough' is unknown; choose easy, intermediate, hard"),
        ({"count": 9}, "count is 9, .*at least 10"),
        ({"seed": -1}, "seed is -1, .*at least 0"),
        ({"height": 8.0}, "height is 8.0, .*whole number"),
        ({"height": 20}, "height is 20, but an image has 8, 16, 24, 32 rows"),
        ({"height": 8}, "contour_length is 14, but snakes of 2 to 5 paddles fit into 8 rows; set contour_length"),
        ({"contour_length": 19}, "contour_length is 19, but snakes of 2 to 18 paddles fit into 32 rows"),
        ({"contour_length": 1}, "contour_length is 1, but snakes of 2 to 18"),
        ({"contour_length": 4.0}, "contour_length is 4.0, .*whole number"),
        ({"distractors": -1}, "distractors is -1, .*at least 0"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        generator.generate_dataset(tmp_path, **{"count": 10, **options})
    with pytest.raises(InputError, match="count is 0"):
        generator.generate(0)


@pytest.mark.parametrize("option", ["height", "contour_length", "distractors"])
def test_files_hold_what_they_hold(tmp_path, option):
    with pytest.raises(InputError, match=f"{option} is for images that are drawn; add --set source=generated"):
        load_dataset("pathfinder", {"source": "files", "difficulty": "hard", "images": 20, option: 8}, tmp_path)
