"""A run's data: all three splits fit the model before the first step, and stay the same until the last one."""

import zlib
from collections.abc import Iterable

import numpy as np

from ..config import Config
from ..data.dataset import SPLITS, Dataset, Split, check_split
from ..data.own.codec import Codec
from ..errors import InputError

_PARTS = ("rows", "tokens", "checksum")  # of a split's fingerprint, three whole numbers


def check_dataset(dataset: Dataset, cfg: Config) -> None:
    """Refuse data that the model cannot read, the test split's too, before hours of training.

    Raises: InputError naming split and row.
    """
    if cfg.num_classes != dataset.num_classes:
        raise InputError(
            f"num_classes is {cfg.num_classes}, but {dataset.task} has {dataset.num_classes} classes; make the Config "
            "with **dataset.sizes"
        )
    for name, split in dataset.splits.items():
        where = f"{dataset.task}, {name} split"
        if split.documents != 1 + cfg.pair:
            raise InputError(f"{where}: a row has {split.documents} document(s), but the model reads {1 + cfg.pair}")
        check_split(split, name, where, cfg.num_classes)
    check_lengths(dataset, cfg.max_length, "raise num_segments, or cut the rows")
    for name, split in dataset.splits.items():
        if split.tokens.min() < 1 or split.tokens.max() >= cfg.vocab_size:
            wrong = (split.tokens < 1) | (split.tokens >= cfg.vocab_size)
            rows = np.logical_or.reduceat(wrong, split.offsets[: -1 : split.documents])
            place = dataset.place(name, int(np.argmax(rows)))
            raise InputError(f"{place} has a token that is not from 1 to {cfg.vocab_size - 1}; mend or remove it")


def check_lengths(dataset: Dataset, most: int, remedy: str) -> None:
    """Refuse rows of more than `most` tokens. Raises: InputError with their number, and naming the first."""
    for name, split in dataset.splits.items():
        lengths = split.lengths()
        if (wrong := lengths > most).any():
            place = dataset.place(name, int(np.argmax(wrong)))
            raise InputError(
                f"{place} is longer than the model: num_segments * segment_length is {most:,}, which "
                f"{wrong.sum():,} of the {len(split):,} rows of {name} exceed, with up to "
                f"{lengths.max():,} tokens; {remedy}"
            )


def check_codec(before: Codec | None, dataset: Dataset, folder: object) -> None:
    """Refuse data whose tokens or class numbers mean something else.

    Ids mean the same whatever the largest of them is; above those that the model knows they are refused.
    Raises: InputError naming what differs.
    """
    if before is None or dataset.codec is None:
        return
    theirs = dataset.codec.to_json()
    for name, value in before.to_json().items():
        now = theirs[name]
        same = value == now
        if name == "classes":
            same = [*map(str, value)] == [*map(str, now)]  # "1" and 1: one class
        elif name == "vocab_size" and before.kind == "ids":  # the kind comes first, and is the same by now
            same = now <= value
        if not same:
            raise InputError(
                f"{folder}: began with {name} {value!r:.80}, but the data have {now!r:.80}; bring those back"
            )


def fingerprint(dataset: Dataset) -> dict[str, dict[str, int]]:
    """What tells the splits from those of other data: rows, tokens and a CRC-32 of each. About 1 s for 1 GB."""
    return {name: _of_split(split) for name, split in dataset.splits.items()}


def _of_split(split: Split) -> dict[str, int]:
    checksum = checksum_of((split.tokens, split.offsets, split.labels))
    return {"rows": len(split), "tokens": len(split.tokens), "checksum": checksum}


def checksum_of(arrays: Iterable[np.ndarray]) -> int:
    """The CRC-32 of the arrays' numbers, one array after another; the same on every machine."""
    checksum = 0
    for array in arrays:
        portable = array.astype(array.dtype.newbyteorder("<"), copy=False)
        checksum = zlib.crc32(np.ascontiguousarray(portable).data, checksum)
    return checksum


def read_fingerprint(record: object) -> dict[str, dict[str, int]]:
    """A fingerprint as a checkpoint holds it; older ones hold none. Raises: InputError for anything else."""
    if not isinstance(record, dict) or set(record) not in (set(), set(SPLITS)):
        raise InputError(f"data is {record!r:.80}, but it must tell of {', '.join(SPLITS)}")
    for name, parts in record.items():
        if not isinstance(parts, dict) or set(parts) != set(_PARTS) or any(type(n) is not int for n in parts.values()):
            raise InputError(f"data.{name} is {parts!r:.80}, but it must hold {', '.join(_PARTS)}")
    return record


def check_same(before: dict, now: dict, folder: object) -> None:
    """Refuse to go on with other data than those that a run began with. Raises: InputError naming split and number."""
    for name in before:
        for part in _PARTS:
            if before[name][part] != now[name][part]:
                raise InputError(
                    f"{folder}: began with other data, in the {name} split {part} were {before[name][part]:,} "
                    f"and are {now[name][part]:,}; bring back those data, or start a new run"
                )
