"""ListOps: vocabulary, values, LRA's file format, and the whole task as it is loaded."""

import csv
import io
import tracemalloc

import numpy as np
import pytest
from helpers.listops_reference import naive, rows_of

from rmaat_np.data import listops, listops_generator
from rmaat_np.data.dataset import make_split
from rmaat_np.errors import InputError

EXAMPLES = naive(300, 5, 3, 200, 6, 7) | {"7": 7}


# Vocabulary and values


def test_vocabulary_is_fixed():
    assert listops.VOCAB_SIZE == 16
    assert listops.encode("0 1 2 3 4 5 6 7 8 9 [MIN [MAX [MED [SM ]").tolist() == list(range(1, 16))
    assert listops.encode("( ( ( [MAX 1 ) 2 ) ] )").tolist() == [12, 2, 3, 15]
    assert listops.encode(b"[SM 0 9 ]").dtype == np.uint8
    assert listops.decode(np.array([12, 2, 3, 15, 0, 0])) == "[MAX 1 2 ]"


@pytest.mark.parametrize("source", ["[MAX 12 ]", "[max 1 ]", "[MAX1 2 ]", "10", "[MAX 1 2 ]]", "\u0663", "-1", "\x00"])
def test_unknown_tokens_are_refused(source):
    with pytest.raises(InputError, match="unknown token"):
        listops.encode(source)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("3", 3),
        ("[MIN 4 2 9 ]", 2),
        ("[MAX 4 2 9 ]", 9),
        ("[MED 9 1 4 ]", 4),
        ("[MED 9 1 4 6 ]", 5),
        ("[MED 1 2 ]", 1),  # the mean 1.5, cut off
        ("[MED 0 9 9 0 ]", 4),
        ("[SM 7 8 9 ]", 4),
        ("[SM 5 5 ]", 0),
        ("[SM 1 [MAX 2 [MIN 7 3 ] ] [MED 0 8 8 ] ]", 2),
    ],
)
def test_values(source, value):
    assert listops.evaluate(listops.encode(source)) == value


def test_values_and_printing_agree_with_the_naive_tree():
    for source, value in EXAMPLES.items():
        tokens = listops.encode(source)
        assert listops.evaluate(tokens) == value
        assert listops.to_source(tokens) == source
        assert listops.decode(tokens) == " ".join(source.replace("(", "").replace(")", "").split())


def test_evaluate_does_not_recurse():
    tokens = listops.encode("[MIN 5 " * 20_000 + "3" + " ]" * 20_000)
    assert listops.evaluate(tokens) == 3


@pytest.mark.parametrize(
    "source", ["", "]", "1 2", "[MAX ]", "[MAX 1", "[MAX 1 ] ]", "[MAX 1 ] 2", "1 ]", "[MIN [MAX 1 ]"]
)
def test_malformed_expressions_are_refused(source):
    with pytest.raises(InputError, match="malformed expression"):
        listops.evaluate(listops.encode(source))


@pytest.mark.parametrize("token", [0, 16])
def test_padding_and_foreign_ids_are_no_expression(token):
    with pytest.raises(InputError, match=rf"token 3 \(id {token}\)"):
        listops.evaluate([12, 2, token, 15])


def test_check_targets_names_the_first_wrong_row():
    rows = [listops.encode(source) for source in ("[MIN 4 2 ]", "[MAX 4 2 ]", "[SM 4 2 ]")]
    listops.check_targets(make_split(rows, [2, 4, 6]))
    with pytest.raises(InputError, match="a.tsv: row 2 has target 5, its value is 4"):
        listops.check_targets(make_split(rows, [2, 5, 7]), "a.tsv")
    with pytest.raises(InputError, match="row 3: malformed expression"):
        listops.check_targets(make_split([*rows[:2], rows[2][:-1]], [2, 4, 6]))


# Files


def lra_file(rows, header=("Source", "Target"), end="\r\n"):
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator=end).writerows([header, *rows])
    return text.getvalue().encode()


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_read_tsv(tmp_path, end):
    (tmp_path / "a.tsv").write_bytes(lra_file(EXAMPLES.items(), end=end))
    split = listops.read_tsv(tmp_path / "a.tsv")
    assert split.labels.tolist() == list(EXAMPLES.values())
    assert [listops.to_source(split.sequence(row)) for row in range(len(split))] == list(EXAMPLES)
    assert split.tokens.dtype == np.uint8
    listops.check_targets(split)


def test_write_tsv_writes_what_lra_writes(tmp_path):
    sequences = [listops.encode(source) for source in EXAMPLES]
    listops.write_tsv(tmp_path / "a.tsv", sequences, list(EXAMPLES.values()))
    assert (tmp_path / "a.tsv").read_bytes() == lra_file(EXAMPLES.items())


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"old")
    with pytest.raises(ValueError, match="shorter"):
        listops.write_tsv(tmp_path / "a.tsv", [listops.encode("1")] * 3, [1, 1])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


GOOD = b"( ( ( [MAX 1 ) 2 ) ] )\t2\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 is not the header"),
        (GOOD, "line 1 is not the header"),
        (b"Source\tTarget\r\n", "has no rows"),
        (b"Source\tTarget\r\n" + GOOD + b"( ( ( [AVG 1 ) 2 ) ] )\t2\r\n", r"line 3: unknown token b'\[AVG'"),
        (b"Source\tTarget\r\n" + GOOD + b"1 \xff\t2\r\n", r"line 3: unknown token b'\\xff'"),
        (b"Source\tTarget\r\n" + GOOD + b"1\n", "line 3 has 1 columns"),
        (b"Source\tTarget\r\n" + GOOD + b"1\t1\t1\n", "line 3 has 3 columns"),
        (b"Source\tTarget\r\n" + GOOD + b"\r\n" + GOOD, "line 3 is blank, but rows follow"),
        (b"Source\tTarget\r\n" + GOOD + b"\n \n\n" + GOOD, "line 3 is blank, but rows follow"),
        (b"\n\n\n", "line 1 is not the header"),
        (b"Source\tTarget\r\n" + GOOD[:-2] + b"\r" + GOOD, "line 2 has 3 columns"),
        (b"Source\tTarget\r\n" + GOOD[:9], "line 2 has 1 columns"),
        (b"Source\tTarget\r\n" + GOOD + b"\t1\n", "line 3 has an empty source"),
        (b"Source\tTarget\r\n" + GOOD + b" ( ) \t1\n", "line 3 has an empty source"),
        (b"Source\tTarget\r\n" + GOOD + b"1\t10\n", "line 3 has target b'10'"),
        (b"Source\tTarget\r\n" + GOOD + b"1\t-1\n", "line 3 has target b'-1'"),
        (b"Source\tTarget\r\n" + GOOD + b"1\t1.0\n", r"line 3 has target b'1\.0'"),
        (b"Source\tTarget\r\n" + GOOD + b"1\t\n", "line 3 has target b''"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, content, message):
    (tmp_path / "bad.tsv").write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.tsv: .*{message}") as error:
        listops.read_tsv(tmp_path / "bad.tsv")
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "absent.tsv", tmp_path):
        with pytest.raises(InputError, match=f"{path}: cannot be read"):
            listops.read_tsv(path)


def test_max_length_is_checked_only_where_it_is_given(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"Source\tTarget\r\n" + GOOD)
    for max_length in (None, 4, 5):
        assert len(listops.read_tsv(tmp_path / "a.tsv", max_length)) == 1
    with pytest.raises(InputError, match=r"a\.tsv: line 2 has 4 tokens, more than max_length 3"):
        listops.read_tsv(tmp_path / "a.tsv", 3)


def test_a_file_without_line_ends_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(listops, "MAX_LINE", 100)
    (tmp_path / "a.tsv").write_bytes(b"Source\tTarget\n" + b"1 " * 1000)
    with pytest.raises(InputError, match=r"a\.tsv: line 2 is longer than"):
        listops.read_tsv(tmp_path / "a.tsv")


def test_reading_streams(tmp_path):
    row = lra_file(EXAMPLES.items()).splitlines(keepends=True)[1:]
    (tmp_path / "a.tsv").write_bytes(b"Source\tTarget\r\n" + b"".join(row) * 20)
    size = (tmp_path / "a.tsv").stat().st_size
    tracemalloc.start()
    split = listops.read_tsv(tmp_path / "a.tsv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(split) == 20 * len(EXAMPLES) and peak < size < 8 * len(split.tokens)


# Whole tasks


@pytest.mark.parametrize("folder", ["", "listops-1000", "lra_release/listops-1000"])
def test_load_lra(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    rows = list(EXAMPLES.items())
    parts = {"train": rows[:200], "val": rows[200:250], "test": rows[250:]}
    for name, part in parts.items():
        (tmp_path / folder / f"basic_{name}.tsv").write_bytes(lra_file(part))
    for _ in range(2):  # the second time from the store
        data = listops.load(tmp_path)
        assert [rows_of(split) for split in (data.train, data.val, data.test)] == list(parts.values())
    assert (data.task, data.vocab_size, data.num_classes, data.max_length, data.pair) == (
        "listops",
        16,
        10,
        2000,
        False,
    )
    assert len(list((tmp_path / ".rmaat_cache").iterdir())) == 3
    with pytest.raises(InputError, match=r"basic_train\.tsv: line \d+ has \d+ tokens, more than max_length 50"):
        listops.load(tmp_path, max_length=50)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(
        InputError, match="no basic_train.tsv here or in listops-1000; unpack listops-1000 of LRA"
    ) as error:
        listops.load(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "listops-1000").mkdir()
    (tmp_path / "listops-1000" / "basic_train.tsv").write_bytes(lra_file([]))
    with pytest.raises(InputError, match=r"listops-1000/basic_val\.tsv: missing beside the others"):
        listops.load(tmp_path)


def test_generate_lra_writes_what_load_reads(tmp_path):
    folder = listops_generator.generate_lra(tmp_path, seed=1, rows=(30, 6, 5), progress=False)
    assert sorted(path.name for path in folder.iterdir()) == ["basic_test.tsv", "basic_train.tsv", "basic_val.tsv"]
    data = listops.load(tmp_path)
    splits = (data.train, data.val, data.test)
    assert [len(split) for split in splits] == [30, 6, 5]
    rows = [row for split in splits for row in rows_of(split)]
    assert len(set(rows)) == 41
    for split in splits:
        listops.check_targets(split)
        assert split.lengths().min() > 500 and split.lengths().max() < 2000
    with pytest.raises(InputError, match=r"basic_train\.tsv: exists already"):
        listops_generator.generate_lra(tmp_path, rows=(3, 1, 1))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, InputError])
def test_generate_lra_that_is_stopped_leaves_nothing(tmp_path, monkeypatch, stop):
    """Or the next run would take what is there for the whole data set."""
    original = listops.write_tsv

    def write_tsv(path, *arguments):
        if path.name == "basic_val.tsv":
            raise stop("disk full")
        original(path, *arguments)

    monkeypatch.setattr(listops_generator, "write_tsv", write_tsv)
    with pytest.raises(stop):
        listops_generator.generate_lra(tmp_path, rows=(3, 1, 1), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_generate_lra_into_a_file_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="file/listops-1000: cannot be made"):
        listops_generator.generate_lra(tmp_path / "file")


SHORT = {"min_length": 5, "max_length": 20, "max_depth": 3, "max_args": 4, "rows": (300, 40, 50)}


CHANGES = (
    {"seed": 1},
    {"min_length": 6},
    {"max_length": 21},
    {"max_depth": 4},
    {"max_args": 5},
    {"rows": (300, 40, 51)},
)


def short(folder, seed=0, **changes):
    data = listops_generator.load_short(folder, seed, **SHORT | changes)
    return [rows_of(split) for split in (data.train, data.val, data.test)], data


def test_short_splits_share_no_row(tmp_path):
    splits, data = short(tmp_path)
    assert [len(rows) for rows in splits] == [300, 40, 50] and len(set(sum(splits, []))) == 390
    assert (data.vocab_size, data.num_classes, data.max_length) == (16, 10, 19)
    assert max(split.lengths().max() for split in (data.train, data.val, data.test)) == 19


def test_short_is_generated_once_for_its_options(tmp_path, monkeypatch):
    splits, _ = short(tmp_path)
    others = [short(tmp_path, **change)[0] for change in CHANGES]
    assert all(other != splits for other in others) and len(list(tmp_path.iterdir())) == 1 + len(CHANGES)
    monkeypatch.setattr(listops_generator, "generate", None)
    assert short(tmp_path)[0] == splits


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_short_store_is_made_anew(tmp_path, keep):
    splits, _ = short(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    assert short(tmp_path)[0] == splits
    assert len(path.read_bytes()) == len(whole)
