"""The codec: what becomes a token, what is refused, and the way back."""

import json
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmaat_np.data.own.codec import Codec
from rmaat_np.errors import InputError

NAMES = np.array(["ham", "spam"])
BYTES = Codec("bytes", 257, NAMES)
DNA = Codec("symbols", 5, NAMES, alphabet="ACGT")
IDS = Codec("ids", 301, NAMES)
PAIRS = Codec("bytes", 257, NAMES, pair=True)


def only(encoded):
    (row,) = encoded
    return row.tolist()


def test_known_answers():
    assert only(BYTES.encode(["aé"])) == [98, 0xC3 + 1, 0xA9 + 1]
    assert only(BYTES.encode([b"\x00\xff"])) == [1, 256]
    assert only(DNA.encode(["TGCA"])) == [4, 3, 2, 1]
    assert only(IDS.encode([[7, 300]])) == [7, 300]
    ((a, b),) = PAIRS.encode([("a", "bc")])
    assert a.tolist() == [98] and b.tolist() == [99, 100]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_text_comes_back(text):
    (tokens,) = BYTES.encode([text])
    assert BYTES.decode(tokens) == text and tokens.min() >= 1
    alphabet = "".join(dict.fromkeys(text))
    codec = Codec("symbols", len(alphabet) + 1, NAMES, alphabet=alphabet)
    (tokens,) = codec.encode([text])
    assert codec.decode(tokens) == text and tokens.max() <= len(alphabet)


@pytest.mark.parametrize("dtype", ["i1", ">i2", "<u4", ">i8", "u8"])
def test_every_integer_type_and_byte_order(dtype):
    assert only(IDS.encode([np.array([5, 6, 0, 0], dtype)])) == [5, 6]  # zeros at the end are padding
    padded = np.array([[5, 6, 7], [8, 0, 0]], dtype)
    assert [row.tolist() for row in IDS.encode(padded)] == [[5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("codec", "rows", "message"),
    [
        (BYTES, ["a", ""], r"X\[1\] is empty"),
        (BYTES, [[1, 2]], r"X\[0\] holds token ids, but the model reads text; give text or bytes"),
        (BYTES, ["a", "\ud800"], r"X\[1\] holds '\\ud800', which UTF-8 cannot"),
        (BYTES, "text", "X is a str, but it must be a list or array of rows"),
        (BYTES, {"a": 1}, "X is a dict"),
        (BYTES, 3, "X is a int"),
        (BYTES, [("a", "b")], r"X\[0\] has 2 document\(s\)"),
        (PAIRS, ["ab"], r"X\[0\] has 1 document\(s\)"),
        (DNA, ["AC", "ACXT"], r"X\[1\] has 'X' at 3, which the alphabet lacks"),
        (DNA, [b"\xff"], r"X\[0\]: byte 1 of the text is not UTF-8"),
        (IDS, [[1, 0, 2]], r"X\[0\] has token 0, which is padding; add 1"),
        (IDS, [[1, -3]], r"X\[0\] has token -3"),
        (IDS, [[1, 301]], r"X\[0\] has token 301, but the model knows 1 to 300"),
        (IDS, [[1.0]], "of type float64"),
        (IDS, ["12"], "is text, but the model reads whole numbers"),
        (IDS, [[0, 0]], r"X\[0\] is empty"),
        (IDS, [5, 6], r"X\[0\] is a int, but a row is a text, bytes, or a list or array of whole numbers"),
        (IDS, [[1], {2}], r"X\[1\] is a set, but a row is a text"),
        (IDS, [[1], {2: 3}], r"X\[1\] is a dict, but a row is"),
        (IDS, [([1], {2})], r"X\[0\] is a set, but a row is"),
        (BYTES, ["a", None], r"X\[1\] is a NoneType, but a row is"),
        (BYTES, ["a", float("nan")], r"X\[1\] is a float, but a row is"),
        (
            BYTES,
            ["a", ["b", "c", "d"]],
            r'X\[1\] is a list of 3 texts, .* " ".join\(row\), or number the words',
        ),
        (PAIRS, [("a", "b", "c")], r"X\[0\] is a list of 3 texts"),
        (IDS, [["a"]], r"X\[0\] is a list of 1 texts"),
        (IDS, [[[1], [2], [3, 4]]], r"X\[0\] is a list of 3 lists, but a row is one document, or a pair of two"),
        (IDS, np.ones((1, 3, 2), int), r"X\[0\] is a list of 3 lists"),
        (IDS, [[1, [2]]], r"X\[0\] cannot become a NumPy array"),
        (IDS, np.ones((2, 3)), r"X\[0\] has 1.0 of type float64, but tokens are whole numbers; .*\.astype\(int\)"),
        (IDS, [[True]], r"X\[0\] has True of type bool, but tokens are whole numbers; number them from 1"),
        (IDS, np.ma.array([[1, 2]], mask=[[0, 1]]), r"X is a masked array, .* \.filled\(0\)"),
        (IDS, [[1], np.ma.array([1, 2], mask=[0, 1])], r"X\[1\] is a masked array"),
        (PAIRS, [("a", np.ma.array([1], mask=[1]))], r"X\[0\] is a masked array"),
        (BYTES, {"a"}, "X is a set, but it must be a list or array of rows"),
        (BYTES, None, "X is a NoneType, but it must be a list or array of rows"),
        (BYTES, str, "X is a type, but it must be"),
        (
            DNA,
            ["A C"],
            "X.0. has ' ' at 2, .* lacks; add it in quotes, as in --set 'alphabet=\"AC \"'",
        ),
        (IDS, [[[1], [2, 3]]], r"X\[0\] has 2 document"),
        (IDS, [[2**40]], r"X\[0\] has token 1099511627776"),
    ],
)
def test_what_cannot_be_encoded_is_one_line_that_names_the_row(codec, rows, message):
    with pytest.raises(InputError, match=message) as caught:
        codec.encode(rows)
    assert "\n" not in str(caught.value)


def test_a_memoryview_is_bytes_and_other_lists_are_ids():
    assert only(BYTES.encode([memoryview(b"ab")])) == only(BYTES.encode([bytearray(b"ab")])) == [98, 99]
    assert only(IDS.encode([range(1, 4)])) == only(IDS.encode([array("B", [1, 2, 3, 0])])) == [1, 2, 3]
    assert BYTES.encode(row for row in ["a"])[0].tolist() == [98]  # a generator of rows


class Sparse:
    """What NumPy makes no array of but one of an object, as of SciPy's sparse matrices."""

    ndim, shape = 2, (1, 3)

    def toarray(self):
        return np.ones((1, 3), int)


def test_a_sparse_row():
    with pytest.raises(InputError, match=r"X\[0\] is a Sparse, but a row is .*; .* becomes an array by .toarray\(\)"):
        IDS.encode([Sparse()])


@pytest.mark.parametrize("tokens", [None, "x", [[1], [2, 3]], np.ma.array([1], mask=[1]), [1.0]])
def test_what_cannot_be_decoded(tokens):
    with pytest.raises(InputError):
        BYTES.decode(tokens)


@pytest.mark.parametrize("classes", [None, 5, [["a"], ["b", "c"]], np.ma.array([1, 2], mask=[0, 1])])
def test_classes_that_are_none(classes):
    with pytest.raises(InputError, match="codec: classes"):
        Codec("bytes", 257, classes)


class OnACard:
    """A tensor of another library that refuses to become an array."""

    ndim = 2

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_a_foreign_array_that_cannot_be_converted():
    with pytest.raises(InputError, match="X cannot become a NumPy array .*cuda.*; convert it first"):
        IDS.encode(OnACard())


def test_a_table_is_no_column():
    table = type("DataFrame", (), {"columns": ["text", "label"]})()
    with pytest.raises(InputError, match="X is a table, .* give one column"):
        BYTES.encode(table)


@pytest.mark.parametrize("classes", [["a", "b"], [0, 1, 2], [False, True], [-5, 10]])
@pytest.mark.parametrize("kind", ["bytes", "symbols", "ids"])
def test_a_codec_survives_json(kind, classes):
    sizes = {"bytes": 257, "symbols": 4, "ids": 9}
    codec = Codec(kind, sizes[kind], np.array(classes), pair=True, alphabet="xyz" if kind == "symbols" else "")
    back = Codec.from_json(json.loads(json.dumps(codec.to_json())))
    assert back.to_json() == codec.to_json() and back.classes.dtype == codec.classes.dtype
    assert type(back.classes.tolist()[0]) is type(classes[0])


GOOD = BYTES.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "words"},
        {"vocab_size": 256},
        {"vocab_size": "257"},
        {"classes": ["one"]},
        {"classes": ["a", "a"]},
        {"classes": ["a", 1]},
        {"classes": "ab"},
        {"classes": [[1], [2]]},
        {"classes": [2**70, 1]},
        {"pair": 1},
        {"alphabet": "AC"},
        {"alphabet": 5},
        {"kind": "symbols", "vocab_size": 3, "alphabet": "AA"},
        {"kind": "symbols", "vocab_size": 1},
        {"kind": "ids", "vocab_size": 1},
    ],
)
def test_a_damaged_codec_is_refused(change):
    with pytest.raises(InputError):
        Codec.from_json(GOOD | change)
    for record in (None, [], {}, {"kind": "bytes"}):
        with pytest.raises(InputError):
            Codec.from_json(record)
