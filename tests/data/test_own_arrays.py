"""`rn.dataset`: rows and labels of one's own, checked and divided."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmaat_np as rn
from rmaat_np.data.own.encoding import divide
from rmaat_np.errors import InputError

WORDS = [f"{i} {'ab' * (i % 5)}" for i in range(60)]
LABELS = ["x", "y", "z"] * 20


def texts(split, codec):
    return [codec.decode(split.sequence(i)) for i in range(len(split))]


def test_a_share_is_drawn_class_by_class_and_the_rows_keep_their_numbers():
    data = rn.dataset((WORDS, LABELS), validation=0.2, test=0.1, seed=3)
    assert data.sizes == {"vocab_size": 257, "num_classes": 3, "pair": False}
    assert [len(split) for split in data.splits.values()] == [42, 12, 6]
    assert data.max_length == max(map(len, WORDS))
    for name, split in data.splits.items():
        assert np.bincount(split.labels).tolist() == [len(split) // 3] * 3
        for row in range(len(split)):
            number = int(data.place(name, row).removeprefix("X[").removesuffix("]"))
            assert data.codec.decode(split.sequence(row)) == WORDS[number]
            assert data.codec.classes[split.labels[row]] == LABELS[number]
    again = rn.dataset((WORDS, LABELS), validation=0.2, test=0.1, seed=3)
    other = rn.dataset((WORDS, LABELS), validation=0.2, test=0.1, seed=4)
    assert texts(again.test, again.codec) == texts(data.test, data.codec) != texts(other.test, other.codec)


def test_three_given_pairs_stay_as_they_are():
    parts = [(WORDS[:40], LABELS[:40]), (WORDS[40:50], LABELS[40:50]), (WORDS[50:], LABELS[50:])]
    data = rn.dataset(*parts)
    for split, (words, labels) in zip(data.splits.values(), parts, strict=True):
        assert texts(split, data.codec) == words and data.codec.classes[split.labels].tolist() == labels
    assert data.place("val", 3) == "val X[3]"
    mixed = rn.dataset(parts[0], 0.25, parts[2])
    assert [len(split) for split in mixed.splits.values()] == [30, 10, 10]


@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=8, max_size=60), st.integers(0, 5))
def test_equal_rows_never_fall_into_two_splits(rows, seed):
    if len(set(rows)) < 5:
        return
    labels = [row in "abcdef" for row in rows]
    if len(set(labels)) < 2:
        return
    data = rn.dataset((rows, labels), 0.2, 0.2, seed)
    found = [set(texts(split, data.codec)) for split in data.splits.values()]
    assert sum(map(len, found)) == len(set(rows)) and all(found)
    assert sum(len(split) for split in data.splits.values()) == len(rows)


def test_a_class_of_one_row_stays_in_train():
    data = rn.dataset((WORDS, ["rare"] + ["often"] * 59), 0.3, 0.3)
    assert (data.codec.classes[data.train.labels] == "rare").sum() == 1


def test_divide_keeps_shares_and_is_even():
    split = divide(np.arange(1000), np.repeat([0, 1], [950, 50]), [0.1, 0.2], seed=0)
    assert np.bincount(split).tolist() == [700, 100, 200]
    assert abs(int((split[950:] == 1).sum()) - 5) <= 1 and abs(int((split[950:] == 2).sum()) - 10) <= 1


@pytest.mark.parametrize(
    ("rows", "vocab_size", "kind"),
    [
        ([[1, 2], [300, 4, 5]] * 10, 301, "ids"),
        (np.arange(1, 61, dtype=">u2").reshape(20, 3), 61, "ids"),
        ([np.array([70_000, i + 1], "i8") for i in range(20)], 70_001, "ids"),
        ([bytes([i, 255]) for i in range(20)], 257, "bytes"),
        (np.array(WORDS[:20]), 257, "bytes"),
        (np.array(WORDS[:20], dtype=object), 257, "bytes"),
    ],
)
def test_rows_of_every_kind(rows, vocab_size, kind):
    rows = [[*row, i + 1] for i, row in enumerate(rows)] if isinstance(rows, list) and kind == "ids" else rows
    data = rn.dataset((rows, [0, 1] * 10), 0.2, 0.2)
    assert data.vocab_size == vocab_size and data.codec.kind == kind
    for name, split in data.splits.items():
        for row in range(len(split)):
            number = int(data.place(name, row)[2:-1])
            (encoded,) = data.codec.encode([rows[number]])
            np.testing.assert_array_equal(split.sequence(row), encoded)


def test_pairs_and_an_alphabet():
    left, right = ["ACGT" * (i + 1) for i in range(20)], ["T" * (i + 1) for i in range(20)]
    data = rn.dataset(([*zip(left, right, strict=True)], [True, False] * 10), 0.2, 0.2, alphabet="ACGT")
    assert data.sizes == {"vocab_size": 5, "num_classes": 2, "pair": True}
    number = int(data.place("train", 0)[2:-1])
    assert data.codec.decode(data.train.sequence(0, 0)) == left[number]
    assert data.codec.decode(data.train.sequence(0, 1)) == right[number]
    tokens = np.arange(1, 81).reshape(20, 2, 2)
    assert rn.dataset((tokens, [0, 1] * 10), 0.2, 0.2).sizes == {"vocab_size": 81, "num_classes": 2, "pair": True}


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9"], ["9", "10"]),  # whole numbers in text: in their order
        (["10", "x"], ["10", "x"]),
        ([10, 9], [9, 10]),
        (np.array([1.0, 0.0]), [0, 1]),  # as pandas writes whole numbers in a column with gaps
        ([True, False], [False, True]),
        (np.array([b"b", b"a"]), ["a", "b"]),
        (np.array(["-1", "1", "01"])[[0, 1]], ["-1", "1"]),
    ],
)
def test_the_classes_are_the_sorted_labels(labels, classes):
    data = rn.dataset((WORDS[:20], np.tile(labels, 10) if not isinstance(labels, list) else labels * 10), 0.2, 0.2)
    assert data.codec.classes.tolist() == classes


@pytest.mark.parametrize(("labels", "others"), [([0, 1], ["0", "1"]), (["0", "1"], [0, 1]), (["0", "1"], [0.0, 1.0])])
def test_a_whole_number_and_its_text_are_one_class_in_two_sources(labels, others):
    data = rn.dataset((["a", "b"], labels), (["c", "d"], others), (["e", "f"], labels[::-1]))
    assert data.codec.classes.tolist() == labels
    assert [split.labels.tolist() for split in data.splits.values()] == [[0, 1], [0, 1], [1, 0]]


def test_a_memoryview_is_bytes():
    data = rn.dataset(([memoryview(word.encode()) for word in WORDS], LABELS))
    assert data.codec.kind == "bytes"
    assert texts(data.test, data.codec) == texts(rn.dataset((WORDS, LABELS)).test, data.codec)


GIVEN = (["c", "d"], [0, 1])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(["a", ""], [0, 1])], r"X\[1\] is empty; remove it"),
        ([(["a", "b"], [0])], "X has 2 rows, but y has 1; give a label a row"),
        ([(["a", "b"], [0, None])], r"X\[1\] has label None"),
        ([(["a", "b"], [0, float("nan")])], r"X\[1\] has label nan"),
        ([(["a", "b"], [0, 0.5])], r"X\[1\] has label 0.5"),
        ([(["a", "b"], ["x", ""])], r"X\[1\] has label ''"),
        ([(["a", "b"], [0, "1"])], r"X\[1\] has label '1', others are like 0; make all of one type"),
        ([(["a", "b"], [0, 2**64])], r"X\[1\] has label 18446744073709551616"),
        ([(["a", "b"], [1, 1])], "all rows have label 1; give rows of two classes or more"),
        ([(["a", "b"], [0, 1])], "2 different rows are too few to divide"),
        ([([], [])], "the train split has no rows"),
        ([(["a", [1]], [0, 1])], r"X\[1\] holds token ids, but the rows before hold text"),
        ([([[1], "a"], [0, 1])], r"X\[1\] holds text, but the rows before hold token ids"),
        ([(["a", ["b", "c", "d"]], [0, 1])], r"X\[1\] is a list of 3 texts, but a row is"),
        ([([[1], {2}], [0, 1])], r"X\[1\] is a set, but a row is"),
        ([(["a", "b"], ["x", "y\0"])], r"X\[1\] has label 'y.x00', which ends in a NUL byte; remove it"),
        ([(["a", "b"], [b"x", b"\0"])], r"X\[1\] has label '.x00', which ends in a NUL byte"),
        ([(np.ma.array([[1], [2]], mask=[[0], [1]]), [0, 1])], r"X is a masked array, .*\.filled\(0\)"),
        ([(["a", "b"], np.ma.array([0, 1], mask=[0, 1]))], r"y is a masked array"),
        ([(["a", "b"], [0, np.ma.masked])], r"X\[1\] has label"),
        ([(["a", "b"], 5)], "y is a int, but it must be a list or array"),
        ([(None, None)], "X is a NoneType, but it must be a list or array"),
        ([([("a", "b"), "c"], [0, 1])], r"X\[1\] has 1 document\(s\), but the first row 2"),
        (["text"], r"train is a str, but it must be a pair \(X, y\)"),
        ([(WORDS, LABELS), 0.5, 0.5], "each must be above 0, and all together below 1"),
        ([(WORDS, LABELS), 0.0, 0.5], "each must be above 0"),
        ([(WORDS, LABELS), 0.1, float("nan")], "each must be above 0"),
        ([(WORDS, LABELS), None, 0.1], r"validation is a NoneType, but it must be a pair \(X, y\), or a share"),
        ([(WORDS, LABELS), 0.1, "x"], r"test is a str, but it must be a pair \(X, y\), or a share"),
        ([0.5], r"train is a float, but it must be a pair \(X, y\)"),
        ([None], r"train is a NoneType, but it must be a pair \(X, y\)"),
        ([WORDS, LABELS], r"train is a list of 60, but it must be a pair \(X, y\); did you mean dataset\(\(X, y\)\)\?"),
        (
            [(["a", "b", "a"], [0, 1, 0])],
            r"2 different rows are too few to divide: a row of each class stays in train, 2 here, which "
            "leaves 0 of the 2 to be drawn; give more, or all",
        ),
        ([(["a", "b"], [0, 1]), (["c"], ["x"]), GIVEN], r"val X\[0\] has label 'x', others are like 0"),
        ([(["a", "b"], [0, 1]), (["c"], ["01"]), GIVEN], r"val X\[0\] has label '01', others are like 0"),
        ([(["a", "b"], [0, 1]), (["c"], [True]), GIVEN], r"val X\[0\] has label True, others are like 0"),
        ([(["a", "b"], [0, 1]), (["c", "x"], ["1", 0]), GIVEN], r"val X\[1\] has label 0, others are like '1'"),
        ([(["a", "b"], [0, 1]), (["c"], [2]), GIVEN], r"val X\[0\] has label 2, which no row of train has"),
        ([(["a", "b"], [0, 1]), ([], []), GIVEN], "the val split has no rows"),
        ([(["a", "b"], [0, 1]), (["x", "a"], [0, 1]), GIVEN], r"val X\[1\] is the same sequence as train X\[0\]"),
        ([(["a", "b"], [0, 1]), (["x", "y"], [0, 1]), (["y"], [0])], r"test X\[0\] is the same .* as val X\[1\]"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_row(parts, message):
    with pytest.raises(InputError, match=message) as caught:
        rn.dataset(*parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alphabet", ["AA", 5, "A\ud800"])
def test_an_alphabet_that_is_none(alphabet):
    with pytest.raises(InputError, match="alphabet"):
        rn.dataset((WORDS, LABELS), alphabet=alphabet)


def test_an_alphabet_is_of_texts():
    with pytest.raises(InputError, match="leave the alphabet out"):
        rn.dataset(([[1], [2]], [0, 1]), alphabet="AC")


def test_columns_of_pandas_and_tensors_of_torch():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": WORDS, "label": LABELS})
    data = rn.dataset((table["text"], table["label"].astype("category")), 0.2, 0.2)
    assert data.sizes["num_classes"] == 3
    with pytest.raises(InputError, match="X is a table"):
        rn.dataset((table, table["label"]))


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    data = rn.dataset((torch.arange(1, 61).reshape(20, 3), torch.tensor([0, 1] * 10)), 0.2, 0.2)
    assert data.vocab_size == 61
