"""LRA's ListOps: nested MIN, MAX, MED and SM over digits, the value is the class; reader, writer and generator.

Source: Nangia and Bowman 2018 (arXiv:1804.06028), with the sizes of LRA (arXiv:2011.04006).
"""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ..checkpoint import write_atomically
from ..errors import InputError
from .archive import find_splits
from .cache import cached_split
from .dataset import Dataset, Split, check_split, make_split

# Fixed, never gathered from data: a model that is loaded again must find the same ids.
NAMES = ("", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")  # id 0 is padding, digit d is d + 1
MIN, MAX, MED, SM, CLOSE = range(11, 16)
VOCAB_SIZE = len(NAMES)
CLASSES = 10
MAX_LENGTH = 2000  # LRA's, without parentheses
SPLITS = ("train", "val", "test")
FOLDERS = ("", "listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")
GENERATED = (
    "generated"  # the folder in DATA_DIR of what source=generated draws: never taken for LRA's files, nor the reverse
)
REMEDY = "unpack listops-1000 of LRA's release, or generate it with rmaat_np.data.listops.generate_lra(DATA_DIR)"
EXPECTED = """\
listops: LRA's release (lra_release.gz, 7.7 GB), https://github.com/google-research/long-range-arena
  DATA_DIR/                        or its listops-1000/, lra_release/listops-1000/, or one lra_release/ deeper
    basic_train.tsv                96,000 rows
    basic_val.tsv                  2,000 rows
    basic_test.tsv                 2,000 rows
  a line: expression, value; separated by a tab, with the header Source, Target
  or like them: python -c "from rmaat_np.data.listops import generate_lra; generate_lra('DATA_DIR')"
"""
HEADER = b"Source\tTarget"
MAX_LINE = 16 << 20  # bytes; keeps a file without line ends from being read in one piece

_OPERATIONS = {  # on sorted arguments; MED cuts the mean of the two middle ones to an integer
    MIN: lambda x: x[0],
    MAX: lambda x: x[-1],
    MED: lambda x: (x[(len(x) - 1) // 2] + x[len(x) // 2]) // 2,
    SM: lambda x: sum(x) % 10,
}
_IDS = {name.encode(): i for i, name in enumerate(NAMES) if name}
_BLANK_PARENTHESES = bytes.maketrans(b"()", b"  ")
# LRA's node: an operator with probability 1/4, each of the 4 alike, else a digit, each of the 10 alike. In 80ths.
_NODES = np.repeat(np.arange(1, CLOSE, dtype=np.uint8), [6] * 10 + [5] * 4)
_TREES = 1000  # drawn at a time; a change changes what a seed gives
_FUTILE = 200  # draws in a row without a single new tree, after which there are none left to find


def encode(source: str | bytes) -> np.ndarray:
    """Token ids of an expression, with or without parentheses, which are dropped: (n,) uint8.

    Raises: InputError for an unknown token.
    """
    if isinstance(source, str):
        source = source.encode("utf-8", "backslashreplace")
    return np.frombuffer(_encode(source), dtype=np.uint8)


def decode(tokens) -> str:
    """The expression without parentheses; padding is dropped."""
    return " ".join(NAMES[token] for token in np.asarray(tokens).tolist() if token)


def evaluate(tokens) -> int:
    """The value of an expression, 0..9: MED is the median cut to an integer, SM the sum modulo 10.

    Shapes: tokens (n,), without padding
    Raises: InputError for a malformed expression.
    """
    arguments, outer = [], []  # of the innermost open operator; the operators around it, with their arguments so far
    for place, token in enumerate(np.asarray(tokens).tolist(), start=1):
        if 1 <= token < MIN:
            arguments.append(token - 1)
        elif MIN <= token < CLOSE:
            outer.append((token, arguments))
            arguments = []
        elif token == CLOSE and outer and arguments:
            operator, before = outer.pop()
            before.append(_OPERATIONS[operator](sorted(arguments)))
            arguments = before
        else:
            raise InputError(f"malformed expression, token {place} (id {token}) fits nowhere; mend it")
    if outer or len(arguments) != 1:
        raise InputError(f"malformed expression, {len(outer)} brackets open, {len(arguments)} values; mend it")
    return arguments[0]


def check_targets(split: Split, source="listops") -> None:
    """Evaluate every row. Raises: InputError naming the first row whose label is not its value, or is malformed."""
    for row in range(len(split)):
        try:
            value = evaluate(split.sequence(row))
        except InputError as error:
            raise InputError(f"{source}: row {row + 1}: {error}") from None
        if value != split.labels[row]:
            raise InputError(f"{source}: row {row + 1} has target {split.labels[row]}, its value is {value}; mend it")


def load(data_dir, *, max_length=None, seed=0, cache_dir=None) -> Dataset:
    """LRA's own three files; rows are never cut, one longer than max_length tokens (2,000 by default) is an error.

    data_dir: the folder of the three files, or one above it as EXPECTED lists; seed: unused, nothing is drawn
    Raises: InputError for a missing file or a bad line, naming file and line.
    """
    max_length = MAX_LENGTH if max_length is None else max_length
    files = find_files(Path(data_dir))
    cache_dir = Path(cache_dir or Path(data_dir) / ".rmaat_cache")
    splits = [
        cached_split([path], cache_dir, f"listops-{max_length}-1", lambda path=path: read_tsv(path, max_length))
        for path in files
    ]
    return Dataset("listops", VOCAB_SIZE, CLASSES, max_length, *splits, decode)


def load_short(
    cache_dir, seed=0, *, min_length, max_length, max_depth=10, max_args=10, rows=(20_000, 1_000, 1_000), progress=True
) -> Dataset:
    """Generated ListOps, no row twice in all three splits together, kept in cache_dir for the next run.

    rows: of train, val and test; the others as in `generate`
    """
    options = (seed, min_length, max_length, max_depth, max_args)
    version = "-".join(map(str, ("listops-short", *options, *rows, 1)))
    every = cached_split([], cache_dir, version, lambda: generate(sum(rows), *options, progress))
    return Dataset("listops", VOCAB_SIZE, CLASSES, max_length - 1, *_divide(every, rows), decode)


def find_files(data_dir: Path) -> list[Path]:
    """The train, val and test file, all from the first folder that has any of them."""
    return find_splits(data_dir, FOLDERS, [f"basic_{split}.tsv" for split in SPLITS], REMEDY)


def read_tsv(path, max_length: int | None = None) -> Split:
    """Read LRA's two-column file line by line, with CRLF or LF ends; one byte a token stays in memory.

    max_length: tokens without parentheses; None admits any length
    Raises: InputError naming file and line for whatever is not a header, then expressions with a target 0..9.
    """
    path = Path(path)
    tokens, lengths, labels = bytearray(), [], []
    try:
        with path.open("rb") as file:
            if file.readline(MAX_LINE).rstrip(b"\r\n") != HEADER:
                raise InputError(f"{path}: line 1 is not the header Source<tab>Target; {REMEDY}")
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=2):
                row, label = _parse_line(line, max_length, f"{path}: line {number}")
                tokens += row
                lengths.append(len(row))
                labels.append(label)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {REMEDY}") from None
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    split = Split(np.frombuffer(tokens, dtype=np.uint8), offsets, np.array(labels, dtype=np.int64))
    return check_split(split, path.stem, path, CLASSES)


def write_tsv(path, sequences, labels) -> None:
    """Write LRA's two-column file, byte for byte as its csv.writer does, whole or not at all.

    sequences: well-formed expressions, (n,) token ids each; labels: their values
    """

    def write(file):
        file.write(HEADER + b"\r\n")
        for tokens, label in zip(sequences, labels, strict=True):
            file.write(b"%b\t%d\r\n" % (to_source(tokens).encode(), label))

    write_atomically(path, write)


def to_source(tokens) -> str:
    """An expression as LRA prints it: a chain of binary applications, "( ( ( [MAX 1 ) 2 ) ] )".

    Shapes: tokens (n,), n >= 1, well-formed
    """
    tokens = np.asarray(tokens)
    opens, closes = (tokens >= MIN) & (tokens < CLOSE), tokens == CLOSE
    level = np.cumsum(opens) - opens - np.cumsum(closes) + closes
    # Level by level, the arguments of each operator and its "]" stand side by side, in the order of the operators:
    # the distance from "]" to "]" is how many applications the operator begins.
    order = np.argsort(level, kind="stable")
    begins = np.zeros(len(tokens), dtype=np.int64)
    begins[order[opens[order]]] = np.diff(np.flatnonzero(closes[order]), prepend=0)
    ends = np.where(opens, 0, 1 + closes)  # an argument ends one; "]" ends its own, and as an argument its operator's
    pieces = zip(begins.tolist(), tokens.tolist(), ends.tolist(), strict=True)
    return " ".join(["( " * begin + NAMES[token] + " )" * end for begin, token, end in pieces]).removesuffix(" )")


def generate_lra(data_dir, seed=0, rows=(96_000, 2_000, 2_000), progress=True) -> Path:
    """Write data_dir/listops-1000/basic_{train,val,test}.tsv with LRA's sizes, no expression twice; -> that folder.

    rows: of train, val and test. Raises: InputError if one of the files exists already, or can't be written.
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
    finally:
        if work != folder:
            shutil.rmtree(work, ignore_errors=True)  # gone already, unless something stopped it
    return folder


def generate(count, seed, min_length, max_length, max_depth=10, max_args=10, progress=True) -> Split:
    """Draw distinct expressions from LRA's distribution with min_length < length < max_length, in random order.

    A node is an operator with probability 1/4 where its depth (the root's is 1) is below max_depth, else a digit;
    an operator has 2..max_args arguments; all choices are uniform. Lengths in tokens without parentheses.
    Raises: InputError for ranges that hold no expression, or fewer than count.
    """
    ranges = f"{min_length} < length < {max_length}, max_depth {max_depth}, max_args {max_args}"
    if min(count, min_length) < 1 or min(max_depth, max_args) < 2 or max_length < max(min_length, 3) + 2:
        raise InputError(f"no {count} expressions with {ranges}; the shortest is [MIN 1 2 ], of length 4 and depth 2")
    rng = np.random.default_rng(seed)
    trees, futile = {}, 0  # tokens -> value
    with _progress_bar(count, progress) as bar:
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


def _encode(source: bytes) -> bytes:
    try:
        return bytes(map(_IDS.__getitem__, source.translate(_BLANK_PARENTHESES).split()))
    except KeyError as error:
        raise InputError(f"unknown token {error.args[0][:40]!r}, expected one of {' '.join(NAMES[1:])}") from None


def _parse_line(line, max_length, place) -> tuple[bytes, int]:
    if len(line) == MAX_LINE:
        raise InputError(f"{place} is longer than {MAX_LINE >> 20} MiB; end each row with a line feed")
    columns = line.rstrip(b"\r\n").split(b"\t")
    if len(columns) != 2:
        raise InputError(f"{place} has {len(columns)} columns, expected Source and Target; mend or remove it")
    try:
        tokens = _encode(columns[0])
    except InputError as error:
        raise InputError(f"{place}: {error}; mend or remove it") from None
    if not tokens:
        raise InputError(f"{place} has an empty source; mend or remove it")
    if max_length is not None and len(tokens) > max_length:
        raise InputError(f"{place} has {len(tokens)} tokens, more than max_length {max_length}; raise it")
    if len(columns[1]) != 1 or not columns[1].isdigit():
        raise InputError(f"{place} has target {columns[1][:40]!r}, expected 0 to 9; mend or remove it")
    return tokens, int(columns[1])


def _divide(split, rows) -> list[Split]:
    ends = np.cumsum(rows)
    return [split.take(np.arange(end - count, end)) for end, count in zip(ends, rows, strict=True)]


def _progress_bar(total, shown):
    if not shown:
        return nullcontext()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise InputError("the progress bar needs tqdm: pip install tqdm, or pass progress=False") from None
    return tqdm(total=total, disable=None, unit="row")
