"""Retrieval reader: pairs from the release's five columns, and errors that name file and line."""

import numpy as np
import pytest

from rmaat_np.data import retrieval
from rmaat_np.errors import InputError

LINES = [
    b'1.0\tP98-1046\tW02-1108\tfirst "text"\tsecond\n',
    b"0.0\tA\tB\tb'x'\tcaf\xc3\xa9 \xe2\x80\xa8 same line\r\n",
    b"1\tC\tD\t\x00\r.\tlast, no line end",
]


def write(folder, **lines):
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "eval", "test"):
        (folder / f"new_aan_pairs.{split}.tsv").write_bytes(b"".join(lines.get(split, LINES)))
    return folder


def test_documents_labels_and_tokens(tmp_path):
    data = retrieval.load(write(tmp_path, eval=LINES[:1], test=LINES[:2]))
    assert [len(split) for split in (data.train, data.val, data.test)] == [3, 1, 2]
    assert (data.vocab_size, data.num_classes, data.max_length, data.pair) == (257, 2, 4000, True)
    assert data.train.labels.tolist() == [1, 0, 1]
    documents = [b'first "text"', b"second", b"b'x'", LINES[1].split(b"\t")[4][:-2], b"\x00\r.", b"last, no line end"]
    for i, document in enumerate(documents):
        np.testing.assert_array_equal(data.train.sequence(i // 2, i % 2), np.frombuffer(document, np.uint8) + 1)
    assert data.train.tokens.dtype == np.uint8


def test_batch_and_decode(tmp_path):
    data = retrieval.load(write(tmp_path))
    tokens, labels = data.train.batch([1, 0])
    assert tokens.shape == (2, 2, len(LINES[1].split(b"\t")[4]) - 2) and labels.tolist() == [0, 1]
    assert data.decode(tokens[0]) == "b'x'\n\ncaf\u00e9 \u2028 same line"
    assert data.decode(data.train.sequence(0, 1)) == "second"


def test_each_document_is_cut(tmp_path):
    data = retrieval.load(write(tmp_path), max_length=4)
    assert data.decode(data.train.batch([0])[0][0]) == "firs\n\nseco"
    assert data.train.sequence(2, 0).tolist() == [1, 14, 47]
    assert data.max_length == data.train.lengths().max() == 4
    assert retrieval.load(tmp_path).train.lengths().max() > 4  # not the arrays stored for the other


def test_second_load_comes_from_the_store(tmp_path, monkeypatch):
    first = retrieval.load(write(tmp_path))
    monkeypatch.setattr(retrieval, "read_pairs", lambda *_: pytest.fail("read again"))
    second = retrieval.load(tmp_path)
    np.testing.assert_array_equal(second.train.tokens, first.train.tokens)
    assert second.pair and second.train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("folder", retrieval.FOLDERS)
def test_folders_of_the_release(tmp_path, folder):
    write(tmp_path / folder)
    assert len(retrieval.load(tmp_path).train) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1.0\ta\tb\ttext\n", "has 4 columns, expected label, id, id, text, text"),
        (b"1.0\ta\tb\ttext\ttext\ttext\n", "has 6 columns"),
        (b"\n", "is blank, but rows follow; remove it"),
        (b"yes\ta\tb\ttext\ttext\n", "has label b'yes', expected 0.0 or 1.0"),
        (b"0.5\ta\tb\ttext\ttext\n", "has label b'0.5', expected 0.0 or 1.0"),
        (b"nan\ta\tb\ttext\ttext\n", "has label b'nan', expected 0.0 or 1.0"),
        (b"1.0\ta\tb\t\ttext\n", ": the text is empty"),
        (b"1.0\ta\tb\ttext\t\r\n", ": the text is empty"),
        (b"1.0\ta\tb\tte\xffxt\ttext\n", ": byte 3 of the text is not UTF-8"),
    ],
)
def test_bad_line_is_named(tmp_path, line, message):
    write(tmp_path, eval=[LINES[0], line, LINES[1]])
    with pytest.raises(InputError) as error:
        retrieval.load(tmp_path)
    assert f"new_aan_pairs.eval.tsv: line 2{'' if message[0] == ':' else ' '}{message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_fault_past_the_cut_is_found(tmp_path):
    write(tmp_path, train=[b"1.0\ta\tb\tgood\t" + b"x" * 5000 + b"\xff\n"])
    with pytest.raises(InputError, match="line 1: byte 5001 of the text is not UTF-8"):
        retrieval.load(tmp_path)


def test_file_without_line_ends_is_not_read_in_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "MAX_LINE", 1 << 20)
    write(tmp_path, train=[LINES[0], b"1.0\ta\tb\ttext\t" + b"x" * (3 << 20)])
    with pytest.raises(InputError, match="line 2 is longer than 1 MiB"):
        retrieval.load(tmp_path)


def test_empty_file_and_missing_files(tmp_path):
    with pytest.raises(InputError, match="no new_aan_pairs.train.tsv here or in tsv_data; unpack tsv_data"):
        retrieval.load(tmp_path)
    write(tmp_path, test=[])
    with pytest.raises(InputError, match=r"new_aan_pairs\.test\.tsv split has no rows"):
        retrieval.load(tmp_path)
    (tmp_path / "new_aan_pairs.eval.tsv").unlink()
    with pytest.raises(InputError, match=r"new_aan_pairs\.eval\.tsv: missing beside the others"):
        retrieval.load(tmp_path)
