"""The order of batches, the padded batches cut from a split, and the recall probe's data."""

import numpy as np
import pytest

from rmaat_np.data import recall
from rmaat_np.data.batches import BUCKET, BatchOrder, read_ahead
from rmaat_np.data.dataset import Dataset, check_split, make_split
from rmaat_np.errors import InputError


def lengths_of(count, seed=0):
    return np.random.default_rng(seed).integers(1, 1000, count)


def epoch_of(order, epoch):
    return np.stack([order.rows(epoch * order.batches_per_epoch + i) for i in range(order.batches_per_epoch)])


# BatchOrder


def test_rows_are_a_function_of_seed_and_step():
    lengths = lengths_of(100)
    steps = [0, 57, 3, 24, 25, 0, 1000, 7]
    first, second = BatchOrder(lengths, 4, seed=5), BatchOrder(lengths.copy(), 4, seed=5)
    there = {step: first.rows(step).copy() for step in steps}
    for step in reversed(steps):
        np.testing.assert_array_equal(second.rows(step), there[step])


def test_seeds_and_epochs_differ():
    lengths = lengths_of(100)
    zero, one = BatchOrder(lengths, 4, seed=0), BatchOrder(lengths, 4, seed=1)
    assert not np.array_equal(epoch_of(zero, 0), epoch_of(one, 0))
    assert not np.array_equal(epoch_of(zero, 0), epoch_of(zero, 1))


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (1, 32), (2, 32), (7, 3), (32, 32), (33, 32), (100, 10), (1000, 7), (5000, 16)]
)
def test_no_row_twice_in_an_epoch(count, size):
    order = BatchOrder(lengths_of(count), size, seed=3)
    size = min(size, count)
    assert order.batches_per_epoch == count // size
    for epoch in (0, 1, 5):
        rows = epoch_of(order, epoch)
        assert rows.shape == (count // size, size)
        assert len(np.unique(rows)) == rows.size
        assert rows.min() >= 0 and rows.max() < count


def test_rows_left_out_change_from_epoch_to_epoch():
    order = BatchOrder(lengths_of(11), 4, seed=0)
    left_out = {frozenset(set(range(11)) - set(epoch_of(order, epoch).ravel().tolist())) for epoch in range(6)}
    assert all(len(rows) == 3 for rows in left_out) and len(left_out) > 1


def test_batches_of_a_bucket_do_not_overlap_in_length():
    lengths = lengths_of(BUCKET * 8)
    rows = epoch_of(BatchOrder(lengths, 8, seed=2), 0)
    low, high = lengths[rows].min(axis=1), lengths[rows].max(axis=1)
    by_length = np.lexsort((high, low))
    assert (high[by_length][:-1] <= low[by_length][1:]).all()
    assert not (np.diff(by_length) > 0).all(), "batches come in the order of their length"


def test_like_lengths_save_padding():
    lengths = lengths_of(10_000)
    rows = epoch_of(BatchOrder(lengths, 16, seed=0), 0)
    padded = (lengths[rows].max(axis=1) * rows.shape[1]).sum()
    assert padded / lengths[rows].sum() < 1.05
    unsorted = np.random.default_rng(0).permutation(10_000).reshape(-1, 16)
    assert (lengths[unsorted].max(axis=1) * 16).sum() / lengths.sum() > 1.5


def test_order_keeps_the_lengths_it_was_given():
    lengths = lengths_of(50)
    before = lengths.copy()
    epoch_of(BatchOrder(lengths, 4, seed=0), 0)
    np.testing.assert_array_equal(lengths, before)


# the growth of lengths


def grown(lengths, size=8, growing=40, seed=0):
    return BatchOrder(np.asarray(lengths), size, seed, growing)


def test_rows_of_a_growing_step_keep_to_its_limit():
    lengths = lengths_of(3000)
    order = grown(lengths)
    limits = [order.limit(step) for step in range(40)]
    assert limits[-1] == lengths.max() and np.allclose(np.diff(limits), np.ptp(lengths) / 40)
    for step, limit in enumerate(limits):
        rows = order.rows(step)
        assert rows.shape == (8,) == np.unique(rows).shape and lengths[rows].max() <= limit
    seen = lengths[[order.rows(39) for order in (grown(lengths, seed=seed) for seed in range(100))]]
    assert seen.max() > 0.95 * lengths.max() and seen.min() < 0.05 * lengths.max()


def test_rows_of_a_growing_step_are_of_like_length():
    lengths = lengths_of(3000)
    rows = [grown(lengths).rows(step) for step in range(20, 40)]
    assert max(np.ptp(lengths[batch]) / lengths.max() for batch in rows) < 0.1
    assert len({tuple(batch) for batch in rows}) == 20


def test_growing_steps_are_a_function_of_seed_and_step():
    lengths = lengths_of(300)
    first, second, other = grown(lengths), grown(lengths), grown(lengths, seed=1)
    for step in (39, 0, 17, 40, 17):
        np.testing.assert_array_equal(first.rows(step), second.rows(step))
    assert not np.array_equal(first.rows(17), other.rows(17))


def test_epochs_begin_after_the_growth():
    lengths = lengths_of(100)
    order, plain = grown(lengths), BatchOrder(lengths, 8, 0)
    for step in (0, 5, 12, 30):
        np.testing.assert_array_equal(order.rows(40 + step), plain.rows(step))


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [1, 900, 901, 902, 903, 904]])
def test_there_are_always_enough_rows_to_draw_from(lengths):
    """A single short row does not fill all batches until the limit comes to the next one."""
    for step in range(13):
        assert sorted(grown(lengths, size=3).rows(step)) == list(range(min(3, len(lengths))))


def test_the_growth_follows_the_longer_document_of_a_pair():
    split = make_split([np.ones(n, int) for n in (1, 9, 2, 1, 8, 1, 1, 1)], [0, 0, 0, 0], documents=2)
    order = BatchOrder(split.lengths(), 1, 0, 8)
    assert {int(order.rows(step)[0]) for step in range(3)} == {3}  # rows of 9, 2, 8 and 1 tokens, up to 2, 3 and 4
    assert {int(row) for step in range(8) for row in order.rows(step)} <= {0, 1, 2, 3}


# Split


def small_split(documents=1):
    sequences = [np.arange(1, n + 1) for n in (3, 1, 4, 2)]
    return make_split(sequences, [0, 1, 1, 0][: 4 // documents], documents=documents)


def test_batches_are_padded_to_their_longest_row():
    tokens, labels = small_split().batch([3, 0])
    np.testing.assert_array_equal(tokens, [[1, 2, 0], [1, 2, 3]])
    np.testing.assert_array_equal(labels, [0, 0])
    assert tokens.dtype == np.int32 and labels.dtype == np.int64


def test_pairs():
    split = small_split(documents=2)
    assert len(split) == 2
    np.testing.assert_array_equal(split.lengths(), [3, 4])
    tokens, labels = split.batch([1, 0])
    np.testing.assert_array_equal(tokens, [[[1, 2, 3, 4], [1, 2, 0, 0]], [[1, 2, 3, 0], [1, 0, 0, 0]]])
    np.testing.assert_array_equal(labels, [1, 0])
    np.testing.assert_array_equal(split.sequence(1, 1), [1, 2])


@pytest.mark.parametrize("documents", [1, 2])
def test_taken_rows_are_a_split_of_their_own(documents):
    split = small_split(documents)
    rows = np.array([1, 0])
    taken = split.take(rows)
    assert (len(taken), taken.documents, taken.tokens.dtype) == (2, documents, split.tokens.dtype)
    for ours, theirs in zip(taken.batch([0, 1]), split.batch(rows), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_vocabularies_beyond_a_byte():
    split = make_split([[256, 300], [1]], [0, 1], np.uint16)
    np.testing.assert_array_equal(split.batch([0, 1])[0], [[256, 300], [1, 0]])


@pytest.mark.parametrize(
    ("sequences", "labels", "fragments"),
    [
        ([], [], ("val split", "no rows")),
        ([[1], [], [2]], [0, 1, 1], ("row 2", "val split", "empty")),
        ([[1], [2]], [0, 2], ("row 2", "label 2", "0 to 1")),
        ([[1], [2]], [-1, 0], ("row 1", "label -1", "0 to 1")),
    ],
)
def test_unusable_splits(sequences, labels, fragments):
    with pytest.raises(InputError) as caught:
        check_split(make_split(sequences, labels), "val", "reviews.tsv", 2)
    assert all(fragment in str(caught.value) for fragment in ("reviews.tsv", *fragments))


def test_the_row_of_an_empty_document_in_a_pair():
    split = make_split([[1], [2], [3], []], [0, 1], documents=2)
    with pytest.raises(InputError, match="row 2 "):
        check_split(split, "train", "pairs.tsv", 2)


def test_usable_splits_pass():
    split = small_split()
    assert check_split(split, "train", "file", 2) is split


def test_a_dataset_of_pairs_says_so():
    for documents in (1, 2):
        split = small_split(documents)
        assert Dataset("x", 5, 2, 4, split, split, split, str).pair is (documents == 2)


# the recall probe


def test_recall_hides_one_class_token_in_the_first_segment():
    data = recall.load(8, 24, seed=1, rows=(300, 20, 30))
    assert [len(split) for split in (data.train, data.val, data.test)] == [300, 20, 30]
    assert (data.max_length, data.num_classes, data.vocab_size, data.pair) == (24, 10, 27, False)
    tokens, labels = data.train.batch(np.arange(300))
    assert tokens.shape == (300, 24)
    is_class = tokens <= 10
    np.testing.assert_array_equal(is_class.sum(axis=1), 1)
    assert not is_class[:, 8:].any()
    np.testing.assert_array_equal(tokens[is_class] - 1, labels)
    assert set(is_class.argmax(axis=1)) == set(range(8)) and set(labels) == set(range(10))
    assert set(tokens[~is_class]) == set(range(11, 27))


def test_recall_is_a_function_of_seed_and_sizes():
    rows = (40, 5, 5)
    same = [recall.load(4, 8, seed=7, rows=rows) for _ in range(2)]
    np.testing.assert_array_equal(same[0].train.tokens, same[1].train.tokens)
    np.testing.assert_array_equal(same[0].test.labels, same[1].test.labels)
    assert not np.array_equal(same[0].train.labels, recall.load(4, 8, seed=8, rows=rows).train.labels)
    assert not np.array_equal(same[0].train.labels[:5], same[0].val.labels)


def test_recall_shows_digits_and_letters():
    assert recall.decode([1, 10, 11, 26]) == "09ap"


def test_reading_ahead_changes_no_batch():
    split = recall.load(8, 24, seed=1, rows=(50, 2, 2)).train
    order = BatchOrder(split.lengths(), 8, seed=3)
    ahead = read_ahead(split, order, 4)
    for step in range(4, 20):
        for got, expected in zip(next(ahead), split.batch(order.rows(step)), strict=True):
            np.testing.assert_array_equal(got, expected)
