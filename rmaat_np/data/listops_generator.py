"""Drawing ListOps expressions from LRA's distribution, many at a time and exactly."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ..errors import InputError, check_integer
from ..system.terminal import progress_bar
from .dataset import Dataset, Split, make_split
from .listops import CLASSES, CLOSE, MAX_LENGTH, MIN, SPLITS, VOCAB_SIZE, decode, write_tsv
from .stored import AnyPath, stored_split

Rows = tuple[int, int, int]  # of train, val and test
# LRA's node: an operator with probability 1/4, each of the 4 alike, else a digit, each of the 10 alike. In 80ths.
_NODES = np.repeat(np.arange(1, CLOSE, dtype=np.uint8), [6] * 10 + [5] * 4)
_TREES = 1000  # drawn at a time; a change changes what a seed gives
_FUTILE = 200  # draws in a row without a new tree: then every tree has been found


def generate(
    count: int,
    seed: int,
    min_length: int,
    max_length: int,
    max_depth: int = 10,
    max_args: int = 10,
    progress: bool = True,
) -> Split:
    """Draw distinct expressions from LRA's distribution with min_length < length < max_length, in random order.

    A node is an operator with probability 1/4 where its depth (the root's is 1) is below max_depth, else a digit;
    an operator has 2..max_args arguments; all choices are uniform. Lengths in tokens without parentheses.
    Raises: InputError for ranges that hold no expression, or fewer than count.
    """
    limits = {"min_length": min_length, "max_length": max_length, "max_depth": max_depth, "max_args": max_args}
    for name, value in {"count": count, "seed": seed, **limits}.items():
        check_integer(name, value, 0)
    ranges = f"{min_length} < length < {max_length}, max_depth {max_depth}, max_args {max_args}"
    if min(count, min_length) < 1 or min(max_depth, max_args) < 2 or max_length < max(min_length, 3) + 2:
        raise InputError(f"no {count} expressions with {ranges}; the shortest is [MIN 1 2 ], of length 4 and depth 2")
    rng = np.random.default_rng(seed)
    trees: dict[bytes, int] = {}  # tokens -> value
    futile = 0
    with progress_bar(total=count, unit="row") if progress else nullcontext() as bar:
        while len(trees) < count:
            before = len(trees)
            for tokens, value in _draw_trees(rng, min_length, max_length, max_depth, max_args):
                trees.setdefault(tokens, value)
            futile = futile + 1 if len(trees) == before else 0
            if futile == _FUTILE:
                raise InputError(f"only {before} of {count} distinct expressions with {ranges}; ask for fewer")
            if bar is not None:
                bar.update(min(len(trees), count) - before)
    # The likelier expressions tend to come first, so splits cut from the original order would differ.
    rows = list(trees.items())[:count]
    rows = [rows[i] for i in rng.permutation(count)]
    return make_split([np.frombuffer(tokens, dtype=np.uint8) for tokens, _ in rows], [value for _, value in rows])


def _draw_trees(rng, min_length, max_length, max_depth, max_args):
    """Draw _TREES trees independently and yield (tokens as bytes, value) of those with a fitting length.

    Rejection, hence exact. Two shortcuts reject sooner what would be rejected anyway: every root is an operator, since
    a digit alone has length 1 <= min_length; and a tree grows no further once it is too long, since none gets shorter.
    """
    length = np.ones(_TREES, dtype=np.int64)  # of each tree, so far
    tree = np.arange(_TREES)  # that each node of the level belongs to
    token = rng.integers(MIN, CLOSE, _TREES, dtype=np.uint8)
    levels = []
    for depth in range(1, max_depth + 1):
        parents = np.flatnonzero(token >= MIN)
        arity = rng.integers(2, max_args + 1, len(parents))
        levels.append((tree, token, tree[parents], arity))
        if depth == max_depth or len(parents) == 0:
            break
        length += np.bincount(tree[parents], arity + 1, _TREES).astype(np.int64)
        alive = length[tree[parents]] < max_length
        tree = np.repeat(tree[parents][alive], arity[alive])
        if depth + 1 < max_depth:
            token = _NODES[rng.integers(len(_NODES), size=len(tree), dtype=np.uint8)]
        else:
            token = rng.integers(1, MIN, len(tree), dtype=np.uint8)
    fits = (length > min_length) & (length < max_length)
    yield from _finish([(token[fits[tree]], arity[fits[parent]]) for tree, token, parent, arity in levels])


def _finish(levels):
    """Yield (tokens, value) of each tree, from its nodes level by level: tokens, and the arity of the operators."""
    sizes, values = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]  # from the deepest level up
    for token, arity in reversed(levels):
        operators = token >= MIN
        size, value = np.ones(len(token), dtype=np.int64), token - np.uint8(1)
        if len(arity):
            size[operators] = 2 + np.add.reduceat(sizes[-1], np.cumsum(arity) - arity)
            value[operators] = _apply(token[operators], arity, values[-1])
        sizes.append(size)
        values.append(value)
    ends = np.cumsum(sizes[-1])
    text = np.empty(ends[-1] if len(ends) else 0, dtype=np.uint8)
    start = ends - sizes[-1]  # where each node begins in the text
    for (token, arity), size, below in zip(levels, sizes[::-1], sizes[-2::-1], strict=False):
        operators = token >= MIN
        text[start] = token
        text[(start + size)[operators] - 1] = CLOSE
        before = np.cumsum(below) - below  # of each child: the length of all children to its left, in any tree
        inside = start[operators] + 1 - before[np.cumsum(arity) - arity]
        start = np.repeat(inside, arity) + before
    for start, end, value in zip(ends - sizes[-1], ends, values[-1].tolist(), strict=True):
        yield text[start:end].tobytes(), value


def _apply(operator, arity, values) -> np.ndarray:
    """Values of many operators. Shapes: operator, arity (n,), values (sum of arity,) of all arguments -> (n,)."""
    given = np.arange(arity.max()) < arity[:, None]
    arguments = np.zeros(given.shape, dtype=np.uint8)
    arguments[given] = values
    total = arguments.sum(axis=1)
    arguments[~given] = 9  # sorts to the end, where it is never looked at
    arguments.sort(axis=1)
    row = np.arange(len(arity))
    median = (arguments[row, (arity - 1) // 2] + arguments[row, arity // 2]) // 2
    return np.choose(operator - MIN, [arguments[:, 0], arguments[row, arity - 1], median, total % 10])


def load_short(
    cache_dir: AnyPath,
    seed: int = 0,
    *,
    min_length: int,
    max_length: int,
    max_depth: int = 10,
    max_args: int = 10,
    rows: Rows = (20_000, 1_000, 1_000),
) -> Dataset:
    """Generated ListOps, no row twice in all three splits together, kept in cache_dir for the next run.

    Arguments as in `generate`.
    """
    options = (seed, min_length, max_length, max_depth, max_args)
    version = "-".join(map(str, ("listops-short", *options, *rows, 1)))
    every = stored_split([], cache_dir, version, lambda: generate(sum(rows), *options))
    train, val, test = _divide(every, rows)
    return Dataset("listops", VOCAB_SIZE, CLASSES, max_length - 1, train, val, test, decode)


def generate_lra(data_dir: AnyPath, seed: int = 0, rows: Rows = (96_000, 2_000, 2_000), progress: bool = True) -> Path:
    """Write data_dir/listops-1000/basic_{train,val,test}.tsv with LRA's sizes, no expression twice; -> that folder.

    Raises: InputError if one of the files exists already or cannot be written.
    """
    folder = Path(data_dir) / "listops-1000"
    work = folder if folder.is_dir() else folder.with_name(f".{folder.name}.{os.getpid()}")  # whole or absent
    files = [folder / f"basic_{name}.tsv" for name in SPLITS]
    if found := [file for file in files if file.exists()]:
        raise InputError(f"{found[0]}: exists already; remove it or name another folder")
    try:
        work.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from None
    try:
        every = generate(sum(rows), seed, 500, MAX_LENGTH, progress=progress)
        for file, split in zip(files, _divide(every, rows), strict=True):
            write_tsv(work / file.name, map(split.sequence, range(len(split))), split.labels)
        work.replace(folder)
    except OSError as error:  # another process was faster, or the disk is gone
        raise InputError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from None
    finally:
        if work != folder:
            shutil.rmtree(work, ignore_errors=True)  # gone already, unless something stopped it
    return folder


def _divide(split: Split, rows) -> list[Split]:
    ends = np.cumsum(rows)
    return [split.take(np.arange(end - count, end)) for end, count in zip(ends, rows, strict=True)]
