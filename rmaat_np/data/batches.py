"""The order in which a training run reads its rows: a pure function of seed and step, so a run resumes anywhere."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache

import numpy as np

from ..errors import InputError, check_integer
from .dataset import Split

BUCKET = 64  # batches whose rows are sorted by length together
_GROWTH = 0x67726F77  # apart from an epoch's generator, which is named by two numbers


class BatchOrder:
    """Which rows each step trains on, for a split's lengths, a batch size and a seed.

    The first `growing` steps are a curriculum of lengths (Bengio et al. 2009, ICML). Each of them draws its batch from
    all rows up to a limit of tokens. The limit grows evenly, from the shortest row to the longest, but there are always
    `batch_size` rows at least to draw from. Epochs begin after those steps.
    Every epoch draws a new permutation. Within each run of 64 batches, rows are sorted by length before they are cut
    into batches, and the epoch's batches are shuffled again: a batch holds rows of like length, so little padding is
    computed. Rows that do not fill a batch at an epoch's end are left out of that epoch.
    """

    def __init__(self, lengths, batch_size: int, seed: int, growing: int = 0):
        """Raises: InputError for no rows, a batch size below 1, a negative seed or number of growing steps."""
        if len(lengths) == 0:
            raise InputError("a split of no rows has no batches; give at least one row")
        self.lengths, self.seed = np.asarray(lengths), check_integer("seed", seed, 0)
        self.batch_size = min(check_integer("batch_size", batch_size, 1), len(lengths))
        self.batches_per_epoch = len(self.lengths) // self.batch_size
        self.growing = check_integer("growing", growing, 0)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    @cached_property
    def _by_length(self) -> np.ndarray:
        """All rows, shortest first; needed while they grow."""
        return np.argsort(self.lengths, kind="stable")

    def rows(self, step: int) -> np.ndarray:
        """The rows of step 0, 1, ...: (batch_size,) ints."""
        if step < self.growing:
            return self._growing_rows(step)
        epoch, batch = divmod(step - self.growing, self.batches_per_epoch)
        return self._epoch(epoch)[batch]

    def limit(self, step: int) -> float:
        """The longest row that a growing step may draw, in tokens."""
        shortest, longest = self.lengths[self._by_length[[0, -1]]]
        return shortest + (longest - shortest) * (step + 1) / self.growing

    def _growing_rows(self, step):
        """One batch of a bucket drawn for this step: its rows are of like length, as those of an epoch's batches."""
        allowed = np.searchsorted(self.lengths, self.limit(step), side="right", sorter=self._by_length)
        rng = np.random.default_rng([self.seed, step, _GROWTH])
        allowed = max(allowed, self.batch_size)
        batches = min(allowed // self.batch_size, BUCKET)
        bucket = np.sort(rng.choice(allowed, batches * self.batch_size, replace=False))
        return self._by_length[bucket.reshape(batches, -1)[rng.integers(batches)]]

    def _make_epoch(self, epoch):
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))[: self.batches_per_epoch * self.batch_size]
        for start in range(0, len(order), BUCKET * self.batch_size):
            bucket = order[start : start + BUCKET * self.batch_size]
            order[start : start + len(bucket)] = bucket[np.argsort(self.lengths[bucket], kind="stable")]
        return rng.permutation(order.reshape(self.batches_per_epoch, self.batch_size), axis=0)


def read_ahead(split: Split, order: BatchOrder, step: int) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """The batches of `step`, step + 1, ... without end; a thread prepares the next one while this one is used.

    Shapes: -> tokens, labels as from `Split.batch`
    """
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(split.batch, order.rows(step))
        while True:
            batch = upcoming.result()
            step += 1
            upcoming = pool.submit(split.batch, order.rows(step))
            yield batch
