"""A user's own rows: what csv, json and NumPy write is read back as it was; every fault names its place."""

import contextlib
import csv
import gzip
import io
import json
import os
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.hostile import MIB, bounded, damaged, npy_header, read_or_refused
from hypothesis import given
from hypothesis import strategies as st

from rmaat_np.data.own import row, row_arrays, row_text, rows
from rmaat_np.data.own.rows import Columns, Row, read_lines_of_text, read_rows
from rmaat_np.errors import InputError

characters = st.characters(exclude_categories=["Cs"])
pieces = st.sampled_from(
    ['"', '""', "\t", ",", "\n", "\r\n", "\r", "\ufeff", "\U0001f34c", "e\u0301", " ", "a" * 200_000]
)
texts = st.lists(st.one_of(characters, pieces), max_size=6).map("".join)
labels = st.text(characters, min_size=1, max_size=4)
tables = st.lists(st.tuples(texts, texts, labels), max_size=6)
DELIMITERS = {"tsv": "\t", "csv": ","}


def written(folder, name, content):
    path = Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def saved(folder, save=np.savez, name="rows.npz", **arrays):
    path = Path(folder) / name
    save(path, **arrays)
    return path


def table(header, lines, ending, line_end="\r\n"):
    content = io.StringIO(newline="")
    writer = csv.writer(content, delimiter=DELIMITERS[ending], lineterminator=line_end)
    writer.writerows([header, *lines])
    return content.getvalue()


def plain(found):
    """The rows without their places, arrays as lists, errors as their messages."""
    return [
        str(r)
        if isinstance(r, InputError)
        else (*(d if isinstance(d, str) else d.tolist() for d in r.documents), r.label)
        for r in found
    ]


def read(path, columns=None, **options):
    return plain(read_rows(path, columns or Columns(), **options))


def refusal(path, columns=None, **options):
    """The message of a file that is refused as a whole."""
    with pytest.raises(InputError) as error:
        list(read_rows(path, columns or Columns(), **options))
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


# What others write


@pytest.mark.parametrize("ending", DELIMITERS)
@bounded
@given(written_rows=tables, bom=st.booleans(), crlf=st.booleans(), quoting=st.sampled_from([csv.QUOTE_ALL, 0]))
def test_tables_as_csv_writes_them(ending, written_rows, bom, crlf, quoting):
    content = io.StringIO(newline="")
    dialect = {"delimiter": DELIMITERS[ending], "lineterminator": "\r\n" if crlf else "\n", "quoting": quoting}
    csv.writer(content, **dialect).writerows(
        [("text", "id", "text2", "label"), *((a, 7, b, c) for a, b, c in written_rows)]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, f"rows.{ending}", "\ufeff" * bom + content.getvalue())
        assert read(path) == written_rows
        assert read(path, Columns(text="text2", text2="text")) == [(b, a, c) for a, b, c in written_rows]


@bounded
@given(written_rows=tables, bom=st.booleans(), ascii_only=st.booleans())
def test_jsonl_as_json_writes_it(written_rows, bom, ascii_only):
    lines = [{"text": a, "more": {"x": [None, float("nan")]}, "text2": b, "label": c} for a, b, c in written_rows]
    content = "".join(json.dumps(line, ensure_ascii=ascii_only) + "\n" for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        assert read(written(folder, "rows.jsonl", "\ufeff" * bom + content)) == written_rows


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@bounded
@given(written_rows=tables.filter(len), encoded=st.booleans(), swapped=st.booleans())
def test_texts_as_numpy_writes_them(save, written_rows, encoded, swapped):
    columns = [[s.rstrip("\0")[:1000] for s in column] for column in zip(*written_rows, strict=True)]
    columns[2] = [label.rstrip("\0") or "x" for label in columns[2]]
    arrays = [np.char.encode(np.array(column), "utf-8") if encoded else np.array(column) for column in columns]
    if swapped:
        arrays = [array.astype(array.dtype.newbyteorder(">")) for array in arrays]
    columns = [[s.rstrip("\0") for s in column] for column in columns]  # NumPy drops what ends in NUL
    with tempfile.TemporaryDirectory() as folder:
        path = saved(folder, save, **dict(zip(("text", "text2", "labels"), arrays, strict=True)))
        assert read(path) == [*zip(*columns, strict=True)]


ids = st.lists(st.integers(1, 127), max_size=5)


@st.composite
def token_arrays(draw):
    """(rows of one or two documents, the arrays of an .npz that hold them)"""
    pair = draw(st.booleans())
    found = draw(st.lists(st.tuples(ids, ids) if pair else st.tuples(ids), min_size=1, max_size=5))
    shape = (len(found), 2) if pair else (len(found),)
    dtype = draw(st.sampled_from(["<i1", "u1", ">i2", "<u2", ">u4", "<i8", ">u8"]))
    width = max(len(document) for documents in found for document in documents) + draw(st.integers(1, 3))
    tokens = np.array([[d + [0] * (width - len(d)) for d in documents] for documents in found])
    arrays = {"tokens": tokens.reshape(*shape, width).astype(dtype)}
    lengths = np.array([[len(d) for d in documents] for documents in found]).reshape(shape)
    how = draw(st.sampled_from(["padded", "padded, lengths", "joined"]))
    if how == "joined":
        arrays["tokens"] = np.array([token for documents in found for d in documents for token in d], dtype)
    if how != "padded":
        arrays["lengths"] = lengths.astype(draw(st.sampled_from(["<i8", ">i4", "u1"])))
    if draw(st.booleans()):
        arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    return found, arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@bounded
@given(case=token_arrays(), data=st.data())
def test_tokens_as_numpy_writes_them(save, case, data):
    found, arrays = case
    kind = data.draw(st.sampled_from([st.integers(-5, 5), st.booleans(), st.sampled_from(["a", "b"])]))
    named = data.draw(st.lists(kind, min_size=len(found), max_size=len(found)))
    with tempfile.TemporaryDirectory() as folder:
        path = saved(folder, save, labels=np.array(named), other=np.array([None]), **arrays)
        assert read(path) == [(*documents, label) for documents, label in zip(found, named, strict=True)]
        for number, got in enumerate(read_rows(path, Columns()), start=1):
            assert (got.number, got.place, type(got.label)) == (number, f"{path}: row {number}", type(named[0]))
            assert all(d.ndim == 1 and d.dtype.kind in "iu" and d.dtype.isnative for d in got.documents)


@pytest.mark.parametrize("pair", [False, True])
def test_all_formats_give_the_same_rows(tmp_path, pair):
    names = ("text", "text2", "label") if pair else ("text", "label")
    expected = [('say "hi",\tthen\nleave', "b\u00fc", "x")[-len(names) :], ("", "\U0001f34c", "y")[-len(names) :]]
    paths = [written(tmp_path, f"t.{ending}", table(names, expected, ending)) for ending in DELIMITERS]
    lines = "\n".join(json.dumps(dict(zip(names, values, strict=True))) for values in expected)
    paths.append(written(tmp_path, "t.JSONL", lines))
    paths.append(saved(tmp_path, **{n: np.array(c) for n, c in zip(names, zip(*expected, strict=True), strict=True)}))
    for path in paths:
        assert read(path) == expected
    tokens = [([5, 3], [7], 0), ([], [2], 1)] if pair else [([5, 3], 0), ([], 1)]
    lines = [{"tokens": row[0], "label": row[-1]} | ({"tokens2": row[1]} if pair else {}) for row in tokens]
    assert read(written(tmp_path, "i.jsonl", "\n".join(map(json.dumps, lines)))) == tokens
    padded = np.array([[[5, 3], [7, 0]], [[0, 0], [2, 0]]])
    assert read(saved(tmp_path, tokens=padded if pair else padded[:, 0], labels=[0, 1])) == tokens


def test_rows_know_their_lines(tmp_path):
    path = written(tmp_path, "a.csv", 'text,label\r\n"two\r\nlines",a\r\nthree,b\n"",c\n\n\r\n')
    assert [*read_rows(path, Columns())] == [
        Row(f"{path}: line ", 2, ("two\r\nlines",), "a"),
        Row(f"{path}: line ", 4, ("three",), "b"),
        Row(f"{path}: line ", 5, ("",), "c"),
    ]


@pytest.mark.parametrize("names", [("tokens", "tokens2"), ("text", "text2"), ("seq", "other")])
@pytest.mark.parametrize("pair", [False, True])
def test_a_column_of_documents_may_hold_token_ids(tmp_path, names, pair):
    """The zeros at the end of a row are padding, in every format."""
    columns = Columns() if names[0] == "tokens" else Columns(names[0], names[1] if pair else "text2")
    first, second = [[5, 3, 0], [7, 0, 0]], [[1, 2], [4, 0]]
    values = {names[0]: first} | ({names[1]: second} if pair else {}) | {"label": ["x", "y"]}
    expected = [([5, 3], [1, 2], "x"), ([7], [4], "y")] if pair else [([5, 3], "x"), ([7], "y")]
    lines = [json.dumps(dict(zip(values, row, strict=True))) for row in zip(*values.values(), strict=True)]
    assert read(written(tmp_path, "a.jsonl", "\n".join(lines)), columns) == expected
    assert read(saved(tmp_path, **values), columns) == expected
    lengths = np.array([[2, 2], [1, 1]])[:, : 1 + pair].squeeze()
    assert read(saved(tmp_path, **values, lengths=lengths), columns) == expected


def test_one_column_of_text_and_one_of_ids(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "x", "text2": [1], "label": 1}')
    assert read(path)[0].startswith(f"{path}: line 1: one of 'text' and 'text2' is text, the other token ids; ")
    path = written(tmp_path, "b.jsonl", '{"seq": "x", "tokens": [1], "label": 1}')
    assert read(path, Columns(text="seq")) == [("x", 1)] and read(path) == [([1], 1)]


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("a.csv", "label;text", "';'; write commas"),
        ("a.csv", '"label";"text"', "';'; write commas"),
        ("a.csv", "label\ttext", "tabs; write commas, or name the file .tsv"),
        ("a.csv", "family|sequence", "'|'; write commas"),
        ("a.tsv", "label,text", "','; write tabs, or name the file .csv"),
        ("a.tsv", "\ufefflabel;text", "';'; write tabs"),
    ],
)
def test_columns_that_something_else_separates(tmp_path, name, line, said):
    path = written(tmp_path, name, f"{line}\n1;2\n")
    assert refusal(path) == f"line 1: its columns seem to be separated by {said}"


def test_a_separator_of_others_may_stand_in_a_name(tmp_path):
    path = written(tmp_path, "a.csv", "a;b\nx\n")
    assert read(path, Columns(text="a;b"), labelled=False) == [("x", None)]


def test_quotes_inside_a_field_are_text_as_for_csv(tmp_path):
    content = 'text,label\n5" disk,1\n "a",2\n'
    assert read(written(tmp_path, "a.csv", content)) == [*map(tuple, csv.reader(content.splitlines()[1:]))]


def test_a_header_without_rows_has_none(tmp_path):
    for name, content in (("a.tsv", "text\tlabel"), ("b.csv", "\ufefflabel,text\r\n\r\n"), ("c.jsonl", "\n \n")):
        assert read(written(tmp_path, name, content)) == []
    assert read(saved(tmp_path, tokens=np.zeros((0, 4), int), labels=np.zeros(0, int))) == []
    assert read(saved(tmp_path, tokens=np.zeros(0, int), lengths=[0, 0], labels=[1, 2])) == [([], 1), ([], 2)]


# Labels


def test_without_labels(tmp_path):
    for name, content in (("a.tsv", "text\nx\n"), ("b.jsonl", '{"text": "x"}\n{"text": "x", "label": [1.5]}')):
        path = written(tmp_path, name, content)
        assert {*read(path, labelled=False)} == {("x", None)}
        assert "label_column=NAME" in (refusal(path) if name == "a.tsv" else read(path)[0])
    path = written(tmp_path, "c.csv", b"text,label\nx,\nx,\xff\nx,y\n")
    assert read(path, labelled=False) == [("x", None), ("x", None), ("x", "y")]
    for labels in ({}, {"labels": np.zeros(2)}, {"label": np.array([None])}, {"label": np.array([b"\xff"])}):
        path = saved(tmp_path, text=np.array(["x"]), **labels)
        assert read(path, labelled=False) == [("x", None)]
        with contextlib.suppress(InputError):
            assert isinstance([*read_rows(path, Columns())][0], InputError)
    path = written(tmp_path, "d.jsonl", '{"text": "x", "label": "\\ud800"}')
    assert read(path, labelled=False) == [("x", None)] and "half a surrogate pair" in read(path)[0]


@pytest.mark.parametrize("label", [1, -3, True, False, "1", " a ", 2**70])
def test_labels_of_jsonl(tmp_path, label):
    ((_, found),) = read(written(tmp_path, "a.jsonl", json.dumps({"text": "x", "label": label})))
    assert found == label and type(found) is type(label)


def test_a_float_that_is_whole_is_that_number(tmp_path):
    """As pandas writes a column of whole numbers where one is missing."""
    lines = '{"text": "x", "label": 1.0}\n{"text": "y", "label": 0}\n{"text": "z", "label": 0.5}'
    found = [read(written(tmp_path, "a.jsonl", lines))]
    found.append(read(saved(tmp_path, text=["x", "y", "z"], labels=np.array([1.0, 0.0, 0.5]))))
    for first, second, third in found:
        assert (first, second) == (("x", 1), ("y", 0)) and {type(first[1]), type(second[1])} == {int}
        assert "the label is 0.5, which names no class" in third


@pytest.mark.parametrize("label", ["1.5", "NaN", "Infinity", "null", "[1]", "{}", '""'])
def test_odd_labels_of_jsonl(tmp_path, label):
    path = written(tmp_path, "a.jsonl", '{"text": "x", "label": ' + label + '}\n{"text": "x", "label": 0}')
    error, good = read(path)
    assert error.startswith(f"{path}: line 1: the label is ") and "a whole number" in error and good == ("x", 0)


def test_labels_of_tables_stay_as_they_are_written(tmp_path):
    path = written(tmp_path, "a.tsv", "label\ttext\n 1.0 \tx\n\tx\nNA\tx\n")
    first, second, third = read(path)
    assert (first, third) == (("x", " 1.0 "), ("x", "NA")) and second.startswith(f"{path}: line 3: the label is ''")


# Rows that cannot be used: the ones before and after are read all the same

TABLE_FAULTS = {  # a line or lines of three columns that go wrong: what is said, behind "FILE: line 3 "
    b"x,y": "has 2 columns, but the header has 3; ",
    b"x,y,z,": "has 4 columns, but the header has 3; ",
    b"caf\xe9,y,1": ": byte 4 of b'caf\\xe9' is not UTF-8; ",
    b"x,y,\xff": ": byte 1 of b'\\xff' is not UTF-8; ",
    b'"a"b,y,1': "opens a quote that line 3 closes before more text; ",
    b'"a,y,1\n"b",y,1': "opens a quote that line 4 closes before more text; ",
    b"\nx,y,1": "is blank, but rows follow; ",
    b"\r\n\n\nx,y,1": "is blank, but rows follow; ",
    b"x,y,": ": the label is '', which names no class; ",
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_fault_in_a_table(tmp_path, fault):
    path = written(tmp_path, "a.csv", b"text,id,label\nfirst,1,a\n" + fault + b'\n"last\n",1,b\n')
    found = read(path)
    assert found[0] == ("first", "a") and found[-1] == ("last\n", "b")
    assert found[1].startswith(f"{path}: line 3" + " " * (TABLE_FAULTS[fault][0] != ":") + TABLE_FAULTS[fault])
    assert [type(r) for r in found[2:-1]] in ([], [tuple])


def test_a_lost_quote_costs_one_row(tmp_path):
    path = written(tmp_path, "a.tsv", 'text\tlabel\na\t"open\nb\t1\n"c\n"\t2\n')
    error, *others = read(path)
    assert error.startswith(f"{path}: line 2 opens a quote that line 4 closes before more text; ")
    assert others == [("b", "1"), ("c\n", "2")]
    path = written(tmp_path, "b.tsv", 'text\tlabel\n"two\nlines"\t"open\nb\t1\nc\t2')
    first, second, *others = read(path)
    assert first == second and first.startswith(f"{path}: line 3 opens a quote that nothing closes; ")
    assert others == [("b", "1"), ("c", "2")]


JSON_FAULTS = {
    "[1]": " holds no JSON object but a list; ",
    '{"text": "x", "label": 1': " is not JSON from character 25 on (Expecting ',' delimiter); ",
    '{"label": 1, "body": "x"}': " has no key 'tokens' and no key 'text', but 'label', 'body'; ",
    '{"text": "x"}': " has no key 'label', but 'text'; ",
    '{"text": ["x"], "label": 1}': ": 'text' is neither text nor a list of whole numbers; write text in quotes, ",
    '{"text": "\\udc00 x", "label": 1}': ": character 1 of the text is '\\udc00', half a surrogate pair; ",
    '{"text": "x", "text": "y", "label": 1}': " cannot be read as JSON (a key stands there twice); ",
    '{"text": "x", "label": 1%s}' % ("0" * 5000): " cannot be read as JSON (Exceeds the limit (4300 digits)",
    '{"text": %s, "label": 1}' % ("[" * 200_000): " cannot be read as JSON (",
    '{"text": "x", "text2": "y", "label": 1}': " has text of 2 documents, but line 1 has text of 1 document; ",
    '{"tokens": [1], "label": 1}': " has tokens of 1 document, but line 1 has text of 1 document; ",
    '{"tokens": [1, 2.0], "label": 1}': ": 'tokens' is not a list of whole numbers; ",
    '{"tokens": [1, true], "label": 1}': ": 'tokens' is not a list of whole numbers; ",
    '{"tokens": "12", "label": 1}': ": 'tokens' is not a list of whole numbers; ",
    '{"tokens": [1, 0, 2], "label": 1}': ": token 2 is 0, but ids begin at 1, and 0 is padding at the end of a row; ",
    '{"tokens": [1, -7], "label": 1}': ": token 2 is -7, but ids begin at 1",
    '{"tokens": [18446744073709551616], "label": 1}': ": 'tokens' holds an id of more than 64 bits; ",
    "\x00": " is not JSON",
    "": " is blank, but rows follow; ",
}


@pytest.mark.parametrize("fault", JSON_FAULTS, ids=lambda fault: fault[:40])
def test_a_fault_in_jsonl(tmp_path, fault):
    path = written(tmp_path, "a.jsonl", '{"text": "x", "label": 1}\n' + fault + '\n{"text": "y", "label": 2}\n')
    first, error, last = read(path)
    assert (first, last) == (("x", 1), ("y", 2)) and error.startswith(f"{path}: line 2" + JSON_FAULTS[fault])
    assert len(error) < 500


def test_jsonl_that_is_not_utf8(tmp_path):
    path = written(tmp_path, "a.jsonl", b'{"text": "\xe9", "label": 1}\n{"text": "y", "label": 2}\n')
    error, last = read(path)
    assert error.startswith(f"{path}: line 1: byte 11 of ") and last == ("y", 2)


def test_faults_in_rows_of_arrays(tmp_path):
    tokens = np.array([[1, 2, 0], [1, 0, 2], [0, 0, 0], [-1, 0, 0]])
    found = read(path := saved(tmp_path, tokens=tokens, labels=[0, 1, 0, 1]))
    assert found[0] == ([1, 2], 0) and found[2] == ([], 0)
    assert found[1].startswith(f"{path}: row 2: token 2 is 0, ") and found[3].startswith(
        f"{path}: row 4: token 1 is -1, "
    )
    found = read(saved(tmp_path, tokens=tokens, lengths=[2, 4, 3, -1], label=[0, 1, 0, 1]))
    assert found[0] == ([1, 2], 0) and found[2].startswith(f"{path}: row 3: token 1 is 0, "), (
        "a length says it is a token"
    )
    assert found[1].startswith(f"{path}: row 2 has lengths [4], but room for 3 tokens; ")
    assert found[3].startswith(f"{path}: row 4 has lengths [-1], ")
    found = read(saved(tmp_path, text=np.array([b"a", b"\xe9", b"c"]), label=["x", "y", ""]))
    assert found[0] == ("a", "x")
    assert found[1].startswith(f"{path}: row 2: byte 1 of b'\\xe9' is not UTF-8; ")
    assert found[2].startswith(f"{path}: row 3: the label is ''")
    found = read(saved(tmp_path, text=np.array(["\ud800", "b"]), label=[0, 1]))
    assert "half a surrogate pair" in found[0] and found[1] == ("b", 1)


# Files that cannot be used at all


def test_headers(tmp_path):
    def said(content, columns=None, **options):
        return refusal(written(tmp_path, "a.tsv", content), columns, **options)

    assert said("") == "is empty; begin it with a line that names the columns"
    body = "line 1 has no column 'text', but 'label', 'body'; name yours with --set text_column=NAME"
    assert said("label\tbody\n1\tx\n") == body
    assert "no column 'label', but 'body'; name yours with --set label_column=" in said("body", Columns(text="body"))
    assert "no column 'other', but 'text', 'label'; " in said("text\tlabel", Columns(text2="other"), labelled=False)
    assert "line 1 names column 'text' twice; " in said("text\ttext\tlabel")
    assert "line 1 opens a quote that nothing closes; " in said('"text\tlabel\nx\ty\n')
    assert "line 1 is blank, but rows follow; " in said("\ntext\tlabel\nx\ty\n")
    assert "line 1: byte 1 of b'\\xff' is not UTF-8; " in said(b"text\tlabel\t\xff")
    assert "two of its columns have one name" in said("text\tlabel", Columns(text="label"))
    assert read(written(tmp_path, "a.tsv", "x\ttext\tlabel\tx\n1\tt\tl\t2\n")) == [("t", "l")], "no column that is used"


def test_files_that_are_something_else(tmp_path):
    good = "text,label\nx,1\n"
    for name, content, said in (
        ("a.csv", gzip.compress(good.encode()), "is compressed with gzip; unpack it: "),
        ("a.jsonl", good.encode("utf-16"), "is text in UTF-16; convert it: iconv "),
        ("a.tsv", good.encode("utf-16-le"), "is text in UTF-16; convert it: iconv "),
        ("a.npz", "<!DOCTYPE html>", "is a page of HTML, not the data"),
        ("a.csv", "\n<html><body>", "is a page of HTML, not the data"),
        ("a.txt", good, "ends in '.txt'; rows are read from .tsv, .csv, .jsonl, .npz"),
        ("a.csv.gz", gzip.compress(good.encode()), "is compressed with gzip; unpack it: "),
    ):
        assert refusal(written(tmp_path, name, content)).startswith(said)
    assert refusal(saved(tmp_path, name="b.npz", x=1).rename(tmp_path / "a.tsv")).startswith("is a zip archive; unpack")
    os.mkdir(tmp_path / "folder.csv")
    for name in ("folder.csv", "missing.tsv"):
        assert refusal(tmp_path / name) == "is missing or no regular file; put a file of rows there"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_pipes_and_devices_are_no_files_of_rows(tmp_path):
    os.mkfifo(tmp_path / "pipe.tsv")
    os.symlink("/dev/zero", tmp_path / "zero.csv")
    for name in ("pipe.tsv", "zero.csv"):
        assert "no regular file" in refusal(tmp_path / name)


def test_arrays_that_do_not_fit(tmp_path):
    def said(columns=None, save=np.savez, labelled=True, **arrays):
        return refusal(saved(tmp_path, save, **arrays), columns, labelled=labelled)

    tokens, label = np.ones((3, 2), int), np.zeros(3, int)
    assert said(labels=label).startswith("has no array 'tokens' and no array 'text', but 'labels'; name yours ")
    assert said(tokens=tokens).startswith("has no array 'label', but 'tokens'; name yours with --set label_column=")
    assert "has no array 'y', " in said(Columns(label="y"), tokens=tokens, labels=label)
    assert "has no array 'b', " in said(Columns(text2="b"), text=["a"], labels=[0])
    assert "'labels' has shape (2,), expected (3,); " in said(tokens=tokens, labels=label[:2])
    assert "'labels' is an array of complex128, which cannot be used; " in said(tokens=tokens, labels=label * 1j)
    ragged = np.array([[1], [1, 2]], dtype=object)
    assert "'tokens' is an array of Python objects, which cannot be used; save whole" in said(
        tokens=ragged, labels=[0, 0]
    )
    assert "'text' is an array of float64" in said(text=label * 1.0, labels=label)
    assert "text has shape (3,), lengths is not there; save (n, L), or one" in said(text=label, labels=label)
    assert "one of 'text' and 'text2' is text, the other token ids" in said(text=["a"], text2=[[1]], labels=[0])
    assert "text has shapes [(2,), (1,)], expected (n,)" in said(text=["a", "b"], text2=["a"], labels=[0, 1])
    for wrong in (
        {"tokens": label},
        {"tokens": np.ones((3, 3, 2), int)},
        {"tokens": np.ones((1, 2, 2, 2), int)},
        {"tokens": np.int64(5)},
        {"tokens": tokens, "lengths": label[:2]},
        {"tokens": tokens, "lengths": np.ones((3, 2), int)},
        {"tokens": np.ones((3, 2, 2), int), "lengths": label},
        {"tokens": label, "lengths": np.ones((1, 3), int)},
    ):
        assert "; save (n, L), or one dimension with lengths (n,); for pairs (n, 2, L), and (n, 2)" in said(
            labels=label, **wrong
        )
    for wrong in (
        {"text2": np.ones((2, 2), int)},
        {"text2": label},
        {"text2": tokens, "lengths": label},
    ):
        assert "; save (n, L) each; they may have lengths (n, 2)" in said(labels=label, text=tokens, **wrong)
    for lengths in ([2, -1, 2], [2, 2, 2], [9, 0, 0]):
        assert "which are negative, too large, or more than there are tokens; " in said(
            tokens=[1, 2, 3], lengths=lengths, labels=label
        )
    assert "tokens holds 2 more than lengths adds up to; " in said(tokens=[1] * 5, lengths=[1] * 3, labels=label)
    assert "so every row is empty; " in said(tokens=np.ones((3, 0), int), labelled=False)


def test_large_arrays_in_fortran_order(tmp_path, monkeypatch):
    monkeypatch.setattr(row_arrays, "MAX_REORDERED", 100)
    path = saved(tmp_path, tokens=np.asfortranarray(np.ones((9, 9), int)), labels=np.zeros(9, int))
    assert "is stored column by column; save np.ascontiguousarray(tokens)" in refusal(path)


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_damaged_arrays(tmp_path):
    """Cut, flipped, extended: an error that names the file, or rows; never anything unpickled or unbounded memory."""
    outcomes = []
    arrays = {"tokens": np.arange(1, 13).reshape(4, 3), "labels": np.array(["a", "b", "a", "b"])}
    originals = [saved(tmp_path, save, **arrays).read_bytes() for save in (np.savez, np.savez_compressed)]

    @bounded
    @given(st.data())
    def check(data):
        content = data.draw(damaged(data.draw(st.sampled_from(originals))))
        with tempfile.TemporaryDirectory() as folder:
            path = written(folder, "a.npz", content)
            outcomes.append(read_or_refused(lambda: list(read_rows(path, Columns())), Path(folder), list) is None)

    check()
    assert sum(outcomes) > len(outcomes) // 3


def zipped(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, parts in members.items():
            with archive.open(f"{name}.npy", "w") as file:
                for part in parts:
                    file.write(part)
    return path


def test_hostile_arrays(tmp_path):
    labels = [npy_header("<i8", (1,)), bytes(8)]
    for tokens in (
        [npy_header("<i8", (10**12, 1)), bytes(8)],
        [npy_header("<i8", (-1, -1)), bytes(8)],
        [b"\x93NUMPY\x02\x00\xff\xff\xff\xff"],
        [b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16],
        [],
    ):
        path = zipped(tmp_path / "a.npz", tokens=tokens, labels=labels)
        assert refusal(path).startswith("is damaged or no .npz file (")
    bomb = [npy_header("u1", (1, 200 * MIB)), *[bytes(MIB)] * 200]
    path = zipped(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, tokens=bomb, labels=labels)
    assert read_or_refused(lambda: list(read_rows(path, Columns())), tmp_path, list) is None
    path = zipped(tmp_path / "a.npz", text=[npy_header("<U1", (1,)), b"\xff" * 4], labels=labels)
    assert "holds what is no character" in refusal(path)
    np.savez(path, tokens=np.array([Harm()]), labels=[0])
    assert "Python objects" in refusal(path) and not os.path.exists("harmed")


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_wrong_checksum_is_found(tmp_path, save, order, member):
    arrays = {"tokens": np.full((50, 400), 7, order=order), "lengths": np.full(50, 399), "labels": np.arange(50)}
    path = saved(tmp_path, save, **arrays)
    content = bytearray(path.read_bytes())
    entry = -1
    for _ in range(member + 1):
        entry = content.index(b"PK\x01\x02", entry + 1)
    content[entry + 16] ^= 1  # of the checksum in zip's directory
    path.write_bytes(content)
    assert "Bad CRC-32" in refusal(path)


# Plain lines


lines_of_text = st.lists(st.text(characters.filter(lambda c: c not in "\n\t"), max_size=9), max_size=9)


@pytest.mark.parametrize("pair", [False, True])
@bounded
@given(lines=lines_of_text, crlf=st.booleans(), bom=st.booleans(), ended=st.booleans())
def test_plain_lines(pair, lines, crlf, bom, ended):
    lines = [line.strip("\r\ufeff") for line in lines]
    end = "\r\n" if crlf else "\n"
    content = end.join(line + "\tb" * pair for line in lines) + end * (ended and len(lines) > 0)
    found = list(read_lines_of_text(io.BytesIO(("\ufeff" * bom + content).encode()), "-", pair=pair))
    if not pair and not ended and lines[-1:] == [""]:
        lines.pop()  # a last line that has neither text nor end
    assert found == [
        Row("-: line ", number, (line, "b") if pair else (line,), None) for number, line in enumerate(lines, start=1)
    ]


def test_faults_in_plain_lines():
    content = b"a\tb\n\xff\t\xe9\nno tab\n\nx\ty\tz\n\t\n"
    found = plain(read_lines_of_text(io.BytesIO(content), "in.txt", pair=True))
    assert (found[0], found[5]) == (("a", "b", None), ("", "", None))
    assert found[1].startswith("in.txt: line 2: byte 1 of b'\\xff' is not UTF-8; ")
    assert [f.partition(";")[0] for f in found[2:5]] == [
        f"in.txt: line {n} has {tabs} tabs" for n, tabs in ((3, 0), (4, 0), (5, 2))
    ]


def test_plain_lines_that_are_something_else(tmp_path):
    for content, said in (
        (gzip.compress(b"x"), "is compressed with gzip"),
        ("x\n".encode("utf-16"), "is text in UTF-16"),
    ):
        with pytest.raises(InputError, match=f"^-: {said}"):
            list(read_lines_of_text(io.BytesIO(content), "-"))
    page = [b"<!DOCTYPE html>\n", b"<p>\n"]
    assert len([*read_lines_of_text(io.BytesIO(b"".join(page)), "-")]) == 2, "a text may be a page"
    with open(tmp_path / "x", "wb") as closed, pytest.raises(InputError, match="^x: cannot be read"):
        list(read_lines_of_text(closed, "x"))  # io.UnsupportedOperation is an OSError


def test_a_row_is_there_as_soon_as_its_line_is():
    outlet, inlet = os.pipe()
    with open(outlet, "rb") as file, open(inlet, "wb", buffering=0) as pipe:
        found = read_lines_of_text(file, "-")
        for text in ("first", "second"):
            pipe.write(f"{text}\n".encode())
            assert next(found).documents == (text,)  # would wait for ever if it needed another line


# Large and long


class Stream(io.RawIOBase):
    """A file of `count` blocks, never in memory as a whole."""

    def __init__(self, block, count):
        self.parts = (block for _ in range(count))
        self.rest = b""

    def readable(self):
        return True

    def readinto(self, room):
        self.rest = self.rest or next(self.parts, b"")
        size = min(len(room), len(self.rest))
        room[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def peak_of(found):
    """(peak in bytes, number of rows) of running through them; each row is let go."""
    tracemalloc.start()
    try:
        return sum(isinstance(r, Row) for r in found), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_stream_in_constant_memory():
    stream = io.BufferedReader(Stream(b"some text\n" * 4 + b"x" * 4000 + b"\n", 5000))
    count, peak = peak_of(read_lines_of_text(stream, "-"))
    assert count == 25_000 and peak < MIB


LARGE = {  # 4,000 rows of 5,000 characters or tokens
    "a.tsv": lambda: b"text\n" + (b"x" * 4999 + b'\n"' + b"x" * 5000 + b'\ny"\n') * 2000,
    "a.csv": lambda: b"text\n" + (b"x" * 4999 + b'\n"' + b"x" * 5000 + b'\ny"\n') * 2000,
    "a.jsonl": lambda: (b'{"text": "' + b"x" * 5000 + b'"}\n') * 4000,
    "joined.npz": lambda: {"tokens": np.ones(20_000_000, "u1"), "lengths": np.full(4000, 5000)},
    "padded.npz": lambda: {"tokens": np.ones((4000, 5000), "u1")},
    "texts.npz": lambda: {"text": np.full(4000, b"x" * 5000)},
}


@pytest.mark.parametrize("name", LARGE)
def test_files_in_constant_memory(tmp_path, name):
    path, content = tmp_path / name, LARGE[name]()
    path = saved(tmp_path, name=name, **content) if isinstance(content, dict) else written(tmp_path, name, content)
    count, peak = peak_of(read_rows(path, Columns(), labelled=False))
    assert count == 4000 and os.path.getsize(path) >= 20_000_000 and peak < MIB


@pytest.fixture
def short_records(monkeypatch):
    """A limit of 1 MiB a row, for the reader of each format."""
    for module in (row, row_text, row_arrays, rows):
        monkeypatch.setattr(module, "MAX_RECORD", MIB)


@pytest.mark.usefixtures("short_records")
def test_rows_that_are_too_long(tmp_path):
    long = b"x" * (5 * MIB)
    path = written(tmp_path, "a.tsv", b"text\tlabel\n" + long + b"\t1\ny\t2\n")
    error, good = read(path)
    assert error == f"{path}: line 2 is longer than 1 MiB; end each row with a line feed" and good == ("y", "2")
    path = written(tmp_path, "a.jsonl", b'{"text": "' + long + b'"}\n{"text": "y"}')
    error, good = read(path, labelled=False)
    assert error == f"{path}: line 1 is longer than 1 MiB; end each row with a line feed" and good == ("y", None)
    error, good = plain(read_lines_of_text(io.BytesIO(long + b"\ny"), "-"))
    assert error == "-: line 1 is longer than 1 MiB; end each row with a line feed" and good == ("y", None)
    assert "tokens' has 5 MiB a row, more than 1; " in refusal(
        saved(tmp_path, tokens=np.ones((1, 5 * MIB), "u1"), label=[1])
    )
    path = saved(tmp_path, tokens=np.ones(5 * MIB, "u1"), lengths=[5 * MIB], label=[1])
    assert "too large" in refusal(path)


@pytest.mark.usefixtures("short_records")
def test_a_lost_quote_does_not_take_the_file_into_memory(tmp_path):
    path = written(tmp_path, "a.tsv", b'text\n"lost\n' + (b"x" * 999 + b"\n") * 5000)
    found = read_rows(path, Columns(), labelled=False)
    tracemalloc.start()
    assert str(next(found)).startswith(f"{path}: line 2 opens a quote that nothing closes; ")
    rows_found, peak = peak_of(found)
    assert rows_found == 5000 and peak < 4 * MIB


def test_a_field_longer_than_csv_reads(tmp_path):
    """Python's csv module stops at 128 KiB; its limit is one for the whole process, and stays as it is."""
    limit = csv.field_size_limit()
    text = 'a"\n' * 500_000
    assert read(written(tmp_path, "a.csv", table(["text", "label"], [(text, "x")], "csv"))) == [(text, "x")]
    assert csv.field_size_limit() == limit
