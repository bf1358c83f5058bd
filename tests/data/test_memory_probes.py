"""The memory probes: what each kind's rows hold, and that the label is what their tokens say."""

import time
import zlib

import numpy as np
import pytest

from rmaat_np.data import memory
from rmaat_np.data.tasks import load_dataset
from rmaat_np.errors import InputError

NOISE = set("abcdefghijklmnop")
KEYS = "ABCDEFGH"


def drawn(kind, count=600, **options):
    """-> the dataset, the rows of its training split as text, and their labels."""
    data = memory.load(kind, rows=(count, 1, 1), **options)
    split = data.train
    assert split.tokens.min() >= 1 and split.tokens.max() < data.vocab_size
    return data, [data.decode(split.sequence(row)) for row in range(count)], split.labels.tolist()


def classes_of(text):
    """The class tokens of a row as {place: class}."""
    return {place: int(letter) for place, letter in enumerate(text) if letter.isdigit()}


def test_one_token_stands_early_in_rows_of_all_lengths():
    _, texts, labels = drawn("one", class_within=4, shortest=2, length=12)
    found = [classes_of(text) for text in texts]
    assert set(map(len, texts)) == set(range(2, 13)) and set(labels) == set(range(10))
    assert [list(classes.values()) for classes in found] == [[label] for label in labels]
    places = [place for classes in found for place in classes]
    assert set(places) == set(range(4))
    assert all(place < 2 for place, text in zip(places, texts, strict=True) if len(text) == 2)


def test_the_last_of_one_to_three_tokens_is_asked_for():
    _, texts, labels = drawn("last", shortest=5, length=12)
    found = [classes_of(text) for text in texts]
    assert set(map(len, texts)) == set(range(5, 13))
    assert [classes[max(classes)] for classes in found] == labels
    assert {len(classes) for classes in found} == {1, 2, 3}
    assert {place for classes in found for place in classes} == set(range(12))
    others = {label for classes in found for label in list(classes.values())[:-1]}
    assert others == set(range(10))


def test_the_first_of_two_to_four_tokens_is_asked_for_and_stands_early():
    _, texts, labels = drawn("first", class_within=4, shortest=2, length=12)
    found = [classes_of(text) for text in texts]
    assert [classes[min(classes)] for classes in found] == labels and set(labels) == set(range(10))
    assert {min(classes) for classes in found} == set(range(4))
    assert {len(classes) for classes in found} == {2, 3, 4}
    later = [place for classes in found for place in sorted(classes)[1:]]
    assert set(later) == set(range(1, 12))
    assert {text[place] for text, classes in zip(texts, found, strict=True) for place in classes} == set("0123456789")


def test_one_of_eight_tokens_is_asked_for_at_the_end():
    data, texts, labels = drawn("eight", class_within=10, shortest=9, length=20)
    assert (data.vocab_size, data.num_classes) == (35, 10)
    asked, seen = set(), set()
    for text, label in zip(texts, labels, strict=True):
        classes = classes_of(text)
        assert len(classes) == 8 and max(classes) < min(10, len(text) - 1)
        assert set(text[:-1]) <= NOISE | set("0123456789")
        asked.add(text[-1])
        seen |= set(classes)
        assert label == classes[sorted(classes)[KEYS.index(text[-1])]]
    assert asked == set(KEYS) and seen == set(range(10)) and set(labels) == set(range(10))


def test_the_value_of_a_key_is_asked_for_at_the_end():
    data, texts, labels = drawn("pairs", class_within=12, shortest=9, length=30)
    assert (data.vocab_size, data.num_classes) == (35, 10)
    counts, keys = set(), set()
    for text, label in zip(texts, labels, strict=True):
        places = [place for place, letter in enumerate(text[:-1]) if letter in KEYS]
        values = {text[place]: int(text[place + 1]) for place in places}
        assert len(values) == len(places) == len(classes_of(text)) and places[-1] + 2 <= min(12, len(text) - 1)
        assert label == values[text[-1]]
        counts.add(len(values))
        keys |= set(values)
    assert counts == {1, 2, 3, 4} and keys == set(KEYS) and set(labels) == set(range(10))


def test_marks_are_counted_modulo_five():
    data, texts, labels = drawn("count", shortest=1, length=40)
    assert (data.vocab_size, data.num_classes) == (28, 5)
    assert [text.count("A") % 5 for text in texts] == labels
    assert {text.count("A") for text in texts} == set(range(20))
    assert {letter for text in texts for letter in text} == NOISE | {"A"}
    assert {text.index("A") / len(text) < 0.5 for text in texts if "A" in text} == {True, False}


def test_brackets_are_nested_or_the_same_ones_are_not():
    data, texts, labels = drawn("brackets", class_within=12, shortest=8, length=30)
    assert (data.vocab_size, data.num_classes) == (31, 2)
    closes, pairs, depths = {"A": "C", "B": "D"}, {0: set(), 1: set()}, set()
    for text, label in zip(texts, labels, strict=True):
        word = [letter for letter in text if letter in "ABCD"]
        assert max(place for place, letter in enumerate(text) if letter in "ABCD") < 12
        assert (word.count("A"), word.count("B")) == (word.count("C"), word.count("D"))
        pairs[label].add(len(word) // 2)
        while (shorter := remove_pairs(word, closes)) != word:  # as a reader would strike them out
            word = shorter
        assert label == (not word)
        depths.add(len(word))
    assert pairs == {0: {1, 2, 3, 4}, 1: {1, 2, 3, 4}} and len(depths) > 3
    assert 0.4 < np.mean(labels) < 0.6


def remove_pairs(word, closes):
    """The word without the first bracket that is closed at once."""
    for place, (one, next_one) in enumerate(zip(word, word[1:], strict=False)):
        if closes.get(one) == next_one:
            return word[:place] + word[place + 2 :]
    return word


def test_rows_of_all_places_are_as_likely():
    """Pieces that do not overlap: 3 of 2 tokens among 8, which leave 2 of noise; they lie in 10 ways."""
    rng, many = np.random.default_rng(0), 3000
    places, used = memory._places(rng, np.full(many, 8), np.full(many, 3), 4, width=2)
    assert used.tolist() == [[True, True, True, False]] * many
    assert (np.diff(places[:, :3]) >= 2).all() and places[:, 0].min() == 0 and places[:, 2].max() == 6
    assert len({tuple(row) for row in places[:, :3].tolist()}) == 10


@pytest.mark.parametrize("kind", memory.KINDS)
def test_rows_are_a_function_of_seed_kind_and_sizes(kind):
    sizes = {"class_within": 8, "shortest": 9, "length": 12, "rows": (40, 5, 5)}
    first, same, other = (memory.load(kind, seed=seed, **sizes) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.train.tokens, same.train.tokens)
    assert not np.array_equal(first.train.labels, other.train.labels)
    assert (first.max_length, first.pair, first.longer) == (12, False, {})


def test_kinds_that_checkpoints_were_trained_on_have_kept_their_rows():
    """A run is refused on other data than those it began with."""
    found = {}
    for kind in ("one", "last"):
        splits = memory.load(kind, 8, 3, 40, 5, rows=(200, 20, 30)).splits.values()
        arrays = [(split.tokens, split.offsets, split.labels) for split in splits]
        found[kind] = [zlib.crc32(b"".join(array.tobytes() for array in three)) for three in arrays]
    assert found["one"] == [4238532621, 44663298, 4090073877]
    assert found["last"] == [3383001729, 2545371304, 3359694413]


@pytest.mark.parametrize("kind", memory.KINDS)
def test_drawing_takes_seconds(kind):
    begun = time.process_time()
    memory.load(kind, shortest=9, length=512)
    assert time.process_time() - begun < 5


# longer test rows


def longer(kind, lengths, **options):
    sizes = {"class_within": 8, "shortest": 9, "length": 12, "rows": (40, 5, 5)}
    return memory.load(kind, test_lengths=lengths, **sizes | options)


@pytest.mark.parametrize("text", ["16 5000, 250000", "16,5000,250000", "\t250000  16,, 5000 "])
def test_longer_rows_are_fewer_and_all_of_one_length(text):
    splits = longer("one", text).longer
    assert {tokens: len(split) for tokens, split in splits.items()} == {16: 1000, 5000: 400, 250_000: 10}
    assert all((split.lengths() == tokens).all() for tokens, split in splits.items())


def test_other_lengths_and_the_splits_do_not_depend_on_each_other():
    both, one, none = longer("last", "16 40"), longer("last", "40"), longer("last", "")
    np.testing.assert_array_equal(both.longer[40].tokens, one.longer[40].tokens)
    assert not np.array_equal(both.longer[40].labels, both.longer[16].labels)
    assert none.longer == {} and max(none.splits) == max(one.splits)
    for name, split in none.splits.items():
        np.testing.assert_array_equal(split.tokens, one.splits[name].tokens)


def test_every_second_longer_row_of_kind_last_is_one_of_kind_one():
    split = longer("last", "200").longer[200]
    found = [classes_of(memory.decode(split.sequence(row))) for row in range(len(split))]
    assert [classes[max(classes)] for classes in found] == split.labels.tolist()
    assert {place for classes in found[::2] for place in classes} == set(range(8))
    anywhere = {place for classes in found[1::2] for place in classes}
    assert len(anywhere) > 150 and max(anywhere) > 190
    assert {len(classes) for classes in found[::2]} == {1} and {len(classes) for classes in found[1::2]} == {1, 2, 3}


@pytest.mark.parametrize("kind", ["first", "eight", "pairs", "one"])
def test_longer_rows_of_the_other_kinds_are_drawn_as_those_of_training(kind):
    split = longer(kind, "300").longer[300]
    for row in range(100):
        places = list(classes_of(memory.decode(split.sequence(row))))
        assert places[0] < 8 if kind == "first" else max(places) < 8


def test_the_task_passes_the_option_on(tmp_path):
    assert list(load_dataset("memory", {"test_lengths": "600 700"}, tmp_path).longer) == [600, 700]


@pytest.mark.parametrize("wrong", [{"kind": ["one"]}, {"kind": None}, {"test_lengths": 512}])
def test_values_of_another_type_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        memory.load(rows=(1, 1, 1), **wrong)
