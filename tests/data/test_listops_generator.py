"""The ListOps generator: its distribution is the naive sampler's, its rows are distinct, its seed fixes everything."""

import math
from collections import Counter

import numpy as np
import pytest
from helpers.listops_reference import NAMES, naive, rows_of

from rmaat_np.data import listops, listops_generator
from rmaat_np.errors import InputError

GOLDEN = ["[MED 1 3 3 6 ]", "[SM 1 3 6 [MED 0 3 1 3 7 ] 1 2 7 1 ]", "[SM [MAX 8 1 4 4 ] 9 ]"]


def features(source, value):
    """What a tree is counted by; each feature is one small integer or name per tree."""
    tokens = source.replace("(", "").replace(")", "").split()
    open_operators, arity_of, deepest = [], [], 1
    for token in tokens:
        if open_operators and token != "]":
            open_operators[-1][1] += 1
        if token in NAMES:
            open_operators.append([len(arity_of), 0])
            arity_of.append(0)
            deepest = max(deepest, len(open_operators) + 1)
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
    if rare:
        bins.append((sum(a[key] for key in rare), sum(b[key] for key in rare)))
    chi2 = sum((x - y) ** 2 / (x + y) for x, y in bins)
    k = len(bins) - 1
    return ((chi2 / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k)) if k else 0.0


def worst_surprise(a, b):
    counts = [Counter((name, x) for row in rows for name, x in features(*row).items()) for rows in (a, b)]
    names = {name for name, _ in counts[0]}
    by_name = [[Counter({k: c for k, c in count.items() if k[0] == n}) for count in counts] for n in names]
    return max(surprise(*pair) for pair in by_name)


RANGES = {
    "flat": (4, 12, 2, 9),
    "short": (5, 40, 4, 5),
    "long": (40, 150, 6, 10),
}  # min_length, max_length, max_depth, max_args
COUNT = 3000


@pytest.mark.parametrize("ranges", RANGES.values(), ids=RANGES)
def test_distribution_is_the_naive_samplers(ranges):
    split = listops_generator.generate(COUNT, 1, *ranges)
    rows = rows_of(split)
    assert len(set(rows)) == COUNT
    assert (split.lengths().min(), split.lengths().max()) == (ranges[0] + 1, ranges[1] - 1)
    assert worst_surprise(rows, naive(COUNT, 2, *ranges).items()) < 4
    counts = np.bincount(split.tokens, minlength=16)
    for alike in (counts[1:11], counts[11:15]):  # digits, operators; chi-square of at most 9 degrees of freedom
        assert ((alike - alike.mean()) ** 2 / alike.mean()).sum() < 35


@pytest.mark.parametrize(
    "changes",
    [
        {"operator_share": 0.3},
        {"operator_share": 0.2},
        {"min_args": 3},
        {"max_args": 6},
        {"max_depth": 5},
        {"names": (*NAMES, "[SM")},
        {"digits": range(9)},
    ],
    ids=str,
)
def test_a_wrong_distribution_is_seen(changes):
    names = ("min_length", "max_length", "max_depth", "max_args")
    rows = rows_of(listops_generator.generate(COUNT, 1, *RANGES["short"]))
    options = dict(zip(names, RANGES["short"], strict=True)) | changes
    assert worst_surprise(rows, naive(COUNT, 2, **options).items()) > 6


def test_every_tree_is_found_once_and_then_no_more():
    split = listops_generator.generate(400, 0, 3, 5)
    assert {source for source, _ in rows_of(split)} == {
        f"( ( ( {name} {a} ) {b} ) ] )" for name in NAMES for a in range(10) for b in range(10)
    }
    with pytest.raises(InputError, match="only 400 of 401 distinct expressions with 3 < length < 5"):
        listops_generator.generate(401, 0, 3, 5)


def test_order_tells_nothing_of_the_length():
    lengths = listops_generator.generate(
        3000, 0, 3, 6
    ).lengths()  # of length 4 there are only 400, and those are found first
    places = np.flatnonzero(lengths == 4)
    assert 300 < len(places) <= 400 and abs(places.mean() - 1500) < 4 * 3000 / math.sqrt(12 * len(places))


def test_labels_are_the_values():
    split = listops_generator.generate(200, 3, 100, 1500)
    assert split.lengths().min() > 100 and split.lengths().max() < 1500
    listops.check_targets(split)


def test_a_seed_gives_the_same_rows_everywhere():
    first = listops_generator.generate(50, 0, 5, 20)
    again, other = listops_generator.generate(50, 0, 5, 20), listops_generator.generate(50, 1, 5, 20)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert rows_of(first) != rows_of(other)
    assert [listops.decode(first.sequence(row)) for row in range(3)] == GOLDEN


def test_the_bar_is_silent_outside_a_terminal(capsys):
    listops_generator.generate(10, 0, 5, 20, progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments", [(0, 0, 5, 20), (1, 0, 0, 20), (1, 0, 5, 6), (1, 0, 1, 4), (1, 0, 5, 20, 1), (1, 0, 5, 20, 10, 1)]
)
def test_ranges_without_expressions_are_refused(arguments):
    with pytest.raises(InputError, match="the shortest is"):
        listops_generator.generate(*arguments)


def test_lengths_that_no_tree_reaches_are_refused():
    with pytest.raises(InputError, match="only 0 of 1 distinct expressions"):
        listops_generator.generate(1, 0, 26, 30, max_depth=3, max_args=4)  # at most 2 + 4 * (2 + 4)
