"""The memory probes: class tokens among noise, and a question about them that only a memory can answer.

kind       what a row holds, and what is asked                                         what the memory must do
`one`      a class token among the first `class_within` tokens                         keep it through all noise
`last`     one to three class tokens at random places; the last of them is asked for   give up what it holds for it
`first`    a class token among the first `class_within` tokens, one to three others    keep it, whatever comes later
           behind it at random places; the first one is asked for
`eight`    eight class tokens among the first `class_within` tokens; the row's last    hold several at a time, and
           token says which of them is asked for, from the first to the eighth         know their order
`pairs`    one to four keys, each with a class token behind it, among the first        find the value of a key:
           `class_within` tokens; the row's last token is one of these keys            associative recall
`count`    a mark at 0 to 19 random places; their number modulo 5 is asked for         go on from what it holds
`brackets` one to four pairs of brackets of two kinds among the first `class_within`   know the order of tokens, for
           tokens; are they nested as they should be (class 1), or do the same         to count them tells nothing
           brackets stand in another order (class 0)?

`pairs` is the task of Ba et al. (arXiv:1610.06258), with one question as there; Arora et al. (arXiv:2312.04927) ask for
several. To tell nested brackets of two kinds from others is to recognise the language Dyck-2 (as in Bhattamishra et
al., arXiv:2009.11264), here up to a depth of four. The rows differ in length, so that a model learns what does not
depend on the number of segments. It can then be read on far longer rows than it was trained on. Noise and class tokens
are those of `recall.py`, whose rows are all of one length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, check_integer
from . import recall
from .dataset import Dataset, Split, check_tokens
from .recall import CLASSES

MOST = 3  # class tokens in a row of kind `last`, and others than the first in a row of kind `first`
HELD = 8  # class tokens in a row of kind `eight`, and different keys of kind `pairs`
PAIRS = 4  # at most, in a row
MARKS = 19  # at most, in a row
MODULUS = 5  # of their number
NESTED = 4  # pairs of brackets at most, in a row
OPENING = 2  # kinds of brackets: as many ids open one, as many more close it
LONGEST = 10_000_000  # tokens of a longer test row: as an array of a batch it takes 40 MB


@dataclass(frozen=True)
class Kind:
    """How the rows of a kind are drawn.

    draw(rng, tokens, starts, lengths, class_within): puts into the noise what the rows hold. -> labels (n,)
    least: tokens of the shortest row that has room for it; least_within: the same of class_within
    more_ids: how many ids there are beside those of classes and noise
    """

    draw: Callable
    least: int = 1
    least_within: int = 1
    more_ids: int = 0
    classes: int = CLASSES


def load(
    kind: str = "last",
    class_within: int = 32,
    shortest: int = 1,
    length: int = 512,
    seed: int = 0,
    rows: Sequence[int] = (40_000, 500, 1_000),
    test_lengths: str = "",
) -> Dataset:
    """Draw the probe: rows of `shortest` to `length` tokens, every length as likely as the others.

    kind: one of KINDS; class_within: of the kinds that have it in the table above; rows: of train, val and test
    test_lengths: whole numbers of tokens, between blanks or commas. For each of them, `Dataset.longer` holds test rows
        of exactly that length: 2,000,000 tokens in all, but 10 to 1,000 rows. Of kind `last`, every second of these
        rows is one of kind `one`, for a memory that gives way must keep an early token to the end as well.
    Raises: InputError for an unknown kind, if shortest exceeds length, if the rows have no room for what the kind
        holds, for what is no list of lengths, or for a number below 1.
    """
    seed, class_within = check_integer("seed", seed, 0), check_integer("class_within", class_within, 1)
    shortest, length = check_integer("shortest", shortest, 1), check_integer("length", length, 1)
    rows = [check_integer("rows", count, 1) for count in rows]
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"kind is {kind!r}, but it must be one of {', '.join(KINDS)}")
    if shortest > length:
        raise InputError(f"shortest {shortest} exceeds length {length}; change one of them")
    chosen, number = KINDS[kind], list(KINDS).index(kind)
    if shortest < (least := chosen.least):
        raise InputError(f"shortest is {shortest}, but kind {kind} needs at least {least}; raise it")
    if class_within < (least := chosen.least_within):
        raise InputError(f"class_within is {class_within}, but kind {kind} needs at least {least}; raise it")
    rng = np.random.default_rng([seed, number, class_within, shortest, length])
    train, val, test = (_draw(rng, count, chosen, class_within, shortest, length) for count in rows)
    longer = {}
    for tokens in _read_lengths(test_lengths, chosen.least):
        rng = np.random.default_rng([seed, number, class_within, tokens, tokens, 1])  # of this length alone
        count = min(1000, max(10, 2_000_000 // tokens))
        longer[tokens] = _draw(rng, count, chosen, class_within, tokens, tokens)
        if kind == "last":
            longer[tokens] = _alternate(longer[tokens], _draw(rng, count, KINDS["one"], class_within, tokens, tokens))
    ids = recall.VOCAB_SIZE + chosen.more_ids
    show = partial(decode, vocab_size=ids)
    return Dataset("memory", ids, chosen.classes, length, train, val, test, show, longer=longer)


def decode(tokens: ArrayLike, vocab_size: int = recall.VOCAB_SIZE + HELD) -> str:
    """Class tokens as digits, noise as letters, all else as capitals; padding is dropped."""
    names = "_0123456789abcdefghijklmnopABCDEFGH"
    return "".join(names[token] for token in check_tokens(tokens, vocab_size) if token)


def _read_lengths(text: str, least: int) -> list[int]:
    """The numbers of the option test_lengths. Raises: InputError naming what is no length that a row can have."""
    if not isinstance(text, str):
        raise InputError(f'test_lengths is {text!r:.40}, but it must be text, such as "512 8192"')
    words = text.replace(",", " ").split()
    for word in words:
        readable = word.isdecimal() and len(word) <= len(str(LONGEST))
        if not readable or not least <= int(word) <= LONGEST:
            raise InputError(
                f"test_lengths has {word!r:.40}, but it must be whole numbers of tokens from {least} to {LONGEST:,}, "
                'such as "512 8192"'
            )
    return [int(word) for word in words]


def _draw(rng, count, kind: Kind, class_within, shortest, length) -> Split:
    lengths = rng.integers(shortest, length + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(1 + CLASSES, recall.VOCAB_SIZE, offsets[-1], dtype=np.uint8)
    return Split(tokens, offsets, kind.draw(rng, tokens, offsets[:-1], lengths, class_within))


def _alternate(one: Split, other: Split) -> Split:
    """Of two splits of as many rows, all of one length, every second row of each."""
    tokens, labels = one.tokens.copy(), one.labels.copy()
    tokens.reshape(len(one), -1)[::2] = other.tokens.reshape(len(one), -1)[::2]
    labels[::2] = other.labels[::2]
    return Split(tokens, one.offsets, labels)


def _draw_one(rng, tokens, starts, lengths, class_within):
    labels = rng.integers(0, CLASSES, len(lengths))
    tokens[starts + rng.integers(0, np.minimum(class_within, lengths))] = labels + 1
    return labels


def _draw_last(rng, tokens, starts, lengths, class_within):
    labels = rng.integers(0, CLASSES, len(lengths))
    places = rng.integers(0, lengths[:, None], (len(lengths), MOST))
    used = np.arange(MOST) < rng.integers(1, MOST + 1, (len(lengths), 1))
    tokens[(starts[:, None] + places)[used]] = rng.integers(1, 1 + CLASSES, used.sum())
    tokens[starts + np.where(used, places, -1).max(axis=1)] = labels + 1
    return labels


def _draw_first(rng, tokens, starts, lengths, class_within):
    labels = rng.integers(0, CLASSES, len(lengths))
    first = rng.integers(0, np.minimum(class_within, lengths - 1))
    places = rng.integers(first[:, None] + 1, lengths[:, None], (len(lengths), MOST))
    used = np.arange(MOST) < rng.integers(1, MOST + 1, (len(lengths), 1))
    tokens[(starts[:, None] + places)[used]] = rng.integers(1, 1 + CLASSES, used.sum())
    tokens[starts + first] = labels + 1
    return labels


def _draw_eight(rng, tokens, starts, lengths, class_within):
    rows = np.arange(len(lengths))
    places, _ = _places(rng, np.minimum(class_within, lengths - 1), np.full(len(rows), HELD), HELD)
    classes, asked = rng.integers(0, CLASSES, (len(rows), HELD)), rng.integers(0, HELD, len(rows))
    tokens[starts[:, None] + places] = classes + 1
    tokens[starts + lengths - 1] = recall.VOCAB_SIZE + asked
    return classes[rows, asked]


def _draw_pairs(rng, tokens, starts, lengths, class_within):
    rows, number = np.arange(len(lengths)), rng.integers(1, PAIRS + 1, len(lengths))
    places, used = _places(rng, np.minimum(class_within, lengths - 1), number, PAIRS, width=2)
    keys = rng.permuted(np.tile(np.arange(HELD), (len(rows), 1)), axis=1)[:, :PAIRS]
    classes, asked = rng.integers(0, CLASSES, (len(rows), PAIRS)), rng.integers(0, number)
    at = (starts[:, None] + places)[used]
    tokens[at], tokens[at + 1] = recall.VOCAB_SIZE + keys[used], 1 + classes[used]
    tokens[starts + lengths - 1] = recall.VOCAB_SIZE + keys[rows, asked]
    return classes[rows, asked]


def _draw_count(rng, tokens, starts, lengths, class_within):
    number = np.minimum(rng.integers(0, MARKS + 1, len(lengths)), lengths)
    places, used = _places(rng, lengths, number, MARKS)
    tokens[(starts[:, None] + places)[used]] = recall.VOCAB_SIZE
    return number % MODULUS


def _draw_brackets(rng, tokens, starts, lengths, class_within):
    labels = rng.integers(0, 2, len(lengths))
    number = 2 * rng.integers(1, NESTED + 1, len(lengths))
    places, used = _places(rng, np.minimum(class_within, lengths), number, 2 * NESTED)
    words = np.zeros(places.shape, dtype=tokens.dtype)
    for row in range(len(lengths)):
        word = _nested_word(rng, number[row])
        while not labels[row] and _is_nested(word):
            word = rng.permutation(word)
        words[row, : number[row]] = word
    tokens[(starts[:, None] + places)[used]] = recall.VOCAB_SIZE + words[used]
    return labels


def _nested_word(rng, number) -> list[int]:
    """Brackets nested as they should be: 0 and 1 open, 2 and 3 close. It opens one or closes one, as likely."""
    word: list[int] = []
    still_open: list[int] = []
    for left in range(number, 0, -1):
        if not still_open or (len(still_open) < left and rng.random() < 0.5):
            still_open.append(int(rng.integers(OPENING)))
            word.append(still_open[-1])
        else:
            word.append(still_open.pop() + OPENING)
    return word


def _is_nested(word) -> bool:
    """Does every bracket that closes belong to the last one that is still open, and is none left open?"""
    still_open: list[int] = []
    for bracket in word:
        if bracket < OPENING:
            still_open.append(bracket)
        elif not still_open or still_open.pop() != bracket - OPENING:
            return False
    return not still_open


def _places(rng, room, number, most: int, width: int = 1):
    """Where pieces of `width` tokens begin that do not overlap, in the first `room` tokens of each row.

    Shapes: room (n,); number (n,), of pieces, at most `most` -> places (n, most), from left to right; used (n, most),
        true for the first `number` of each row
    """
    order = np.arange(most)
    used = order < number[:, None]
    free = (room - width * number + 1)[:, None]  # a piece's places where all others stand side by side
    return np.sort(np.where(used, rng.integers(0, free, used.shape), free), axis=1) + width * order, used


KINDS = {  # their order is part of the seed
    "one": Kind(_draw_one),
    "last": Kind(_draw_last),
    "first": Kind(_draw_first, least=2),
    "eight": Kind(_draw_eight, least=HELD + 1, least_within=HELD, more_ids=HELD),
    "pairs": Kind(_draw_pairs, least=2 * PAIRS + 1, least_within=2 * PAIRS, more_ids=HELD),
    "count": Kind(_draw_count, more_ids=1, classes=MODULUS),
    "brackets": Kind(_draw_brackets, least=2 * NESTED, least_within=2 * NESTED, more_ids=2 * OPENING, classes=2),
}
