"""ListOps: vocabulary, values, LRA's file format, and the generator's distribution against a naive sampler."""

import csv
import io
import math
import random
import statistics
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from rmaat_np.data import listops
from rmaat_np.data.dataset import make_split
from rmaat_np.errors import InputError

NAMES = ("[MIN", "[MAX", "[MED", "[SM")


# A naive sampler, straight from the task's definition: recursive, with the tree as nested tuples, printed LRA's way.


def naive_tree(rng, depth, max_depth, max_args, operator_share=0.25, min_args=2, names=NAMES, digits=range(10)):
    """(nested pairs, value, length)"""
    rest = (max_depth, max_args, operator_share, min_args, names, digits)
    if depth >= max_depth or rng.random() >= operator_share:
        digit = rng.choice(digits)
        return str(digit), digit, 1
    children = [naive_tree(rng, depth + 1, *rest) for _ in range(rng.randint(min_args, max_args))]
    name = rng.choice(names)
    pairs = name
    for child in children:
        pairs = (pairs, child[0])
    values = [child[1] for child in children]
    reduce = {"[MIN": min, "[MAX": max, "[MED": lambda v: int(statistics.median(v)), "[SM": lambda v: sum(v) % 10}
    return (pairs, "]"), reduce[name](values), 2 + sum(child[2] for child in children)


def printed(pairs):
    return pairs if isinstance(pairs, str) else f"( {printed(pairs[0])} {printed(pairs[1])} )"


def naive(count, seed, min_length, max_length, max_depth, max_args, **changes):
    """{source: value} of distinct trees."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        pairs, value, length = naive_tree(rng, 1, max_depth, max_args, **changes)
        if min_length < length < max_length:
            found[printed(pairs)] = value
    return found


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


@pytest.mark.parametrize("source", ["", "]", "1 2", "[MAX ]", "[MAX 1", "[MAX 1 ] ]", "[MAX 1 ] 2", "1 ]", "[MIN [MAX 1 ]"])
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
        (b"Source\tTarget\r\n" + GOOD + b"\r\n", "line 3 has 1 columns"),
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


# The generator


def features(source, value):
    """What a tree is counted by; each feature is one small integer or name per tree."""
    tokens = source.replace("(", "").replace(")", "").split()
    open_operators, arity_of, deepest, nested = [], [], 1, 0
    for token in tokens:
        if open_operators and token != "]":
            open_operators[-1][1] += 1
        if token in NAMES:
            open_operators.append([len(arity_of), 0])
            arity_of.append(0)
            deepest = max(deepest, len(open_operators) + 1)
            nested = nested or len(open_operators) - 1
        elif token == "]":
            operator, arity = open_operators.pop()
            arity_of[operator] = arity
    operators = [token for token in tokens if token in NAMES]
    return {
        "length": len(tokens),
        "value": value,
        "root": tokens[0],
        "root's arguments": arity_of[0],
        "last operator": operators[-1],
        "last operator's arguments": arity_of[-1],
        "operators": len(operators),
        "depth": deepest,
        "first argument": tokens[1],
        "last argument": tokens[-2],
    }


def surprise(a, b):
    """Two-sample chi-square of equally many draws as a normal deviate (Wilson and Hilferty 1931)."""
    joint = a + b
    rare = {key for key, count in joint.items() if count < 20}
    bins = [(a[key], b[key]) for key in joint if key not in rare]
    bins.append((sum(a[key] for key in rare), sum(b[key] for key in rare)))
    chi2 = sum((x - y) ** 2 / (x + y) for x, y in bins if x + y)
    k = len(bins) - 1
    return ((chi2 / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k)) if k else 0.0


def worst_surprise(a, b):
    counts = [Counter((name, x) for row in rows for name, x in features(*row).items()) for rows in (a, b)]
    names = {name for name, _ in counts[0]}
    by_name = [[Counter({k: c for k, c in count.items() if k[0] == n}) for count in counts] for n in names]
    return max(surprise(*pair) for pair in by_name)


def rows_of(split):
    return [(listops.to_source(split.sequence(row)), int(split.labels[row])) for row in range(len(split))]


RANGES = {"short": (5, 40, 4, 5), "long": (40, 150, 10, 10)}
COUNT = 3000


@pytest.fixture(scope="module", params=RANGES)
def generated(request):
    ranges = RANGES[request.param]
    return rows_of(listops.generate(COUNT, 1, *ranges)), ranges


def test_distribution_is_the_naive_samplers(generated):
    rows, ranges = generated
    assert worst_surprise(rows, naive(COUNT, 2, *ranges).items()) < 4


@pytest.mark.parametrize(
    "changes",
    [
        {"operator_share": 0.3},
        {"operator_share": 0.2},
        {"min_args": 3},
        {"names": (*NAMES, "[SM")},
        {"digits": range(9)},
        {"max_args": -1},
        {"max_depth": -1},
        {"min_length": 1},
        {"max_length": -1},
    ],
    ids=str,
)
def test_a_wrong_distribution_would_be_seen(generated, changes):
    rows, ranges = generated
    names = ("min_length", "max_length", "max_depth", "max_args")
    shifted = [value + changes.get(name, 0) for name, value in zip(names, ranges, strict=True)]
    others = {name: value for name, value in changes.items() if name not in names}
    print(worst_surprise(rows, naive(COUNT, 2, *shifted, **others).items()))
