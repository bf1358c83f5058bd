"""A naive ListOps sampler, straight from the task's definition: recursive, a tree is nested pairs, then printed."""

import random
import statistics

from rmaat_np.data import listops

NAMES = ("[MIN", "[MAX", "[MED", "[SM")


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
    """As LRA prints it."""
    return pairs if isinstance(pairs, str) else f"( {printed(pairs[0])} {printed(pairs[1])} )"


def naive(count, seed, min_length, max_length, max_depth, max_args, **changes):
    """{source: value} of distinct trees."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        pairs, value, length = naive_tree(rng, 1, max_depth, max_args, **changes)
        if min_length < length < max_length:
            found[printed(pairs)] = value
    return found


def rows_of(split):
    """[(source, value)]"""
    return [(listops.to_source(split.sequence(row)), int(split.labels[row])) for row in range(len(split))]
