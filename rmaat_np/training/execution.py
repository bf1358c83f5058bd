"""How a run is computed: where, by how many threads, with how much memory. A run may go on with other ways."""

from dataclasses import dataclass, replace

from .. import backend
from ..config import check_fields
from ..errors import InputError
from ..processor import cores
from ..system.machine import free_memory, keep_freed_memory
from .ranks import ALONE, Ranks

FREE_SHARE = 4  # an automatic replay budget is 1 / FREE_SHARE of the memory that is free


@dataclass(frozen=True)
class Execution:
    """The ways of computing that are no part of a run's settings. `activate` sets this process up for them.

    backend "numpy" | "cupy"; workers: threads, a shard of the batch each; replay_budget: bytes that AMRB may keep per
    worker; auto_budget: `with_budget` decides the replay budget; tf32: float32 matrix products in TF32, with CuPy;
    detect_anomaly: name the operation when a run diverges; accumulate: parts of a batch that are computed one after
    another and summed before the update;
    divide_optimiser: each rank updates its part of the parameters, so that AdamW's state exists once in the whole job.
    Raises: InputError that names the field and what it may be.
    """

    backend: str = "numpy"
    workers: int = 1
    replay_budget: int = 0
    auto_budget: bool = False
    tf32: bool = False
    detect_anomaly: bool = False
    accumulate: int = 1
    divide_optimiser: bool = False

    def __post_init__(self):
        check_fields(self, {"workers": 1, "replay_budget": 0, "accumulate": 1}, {"backend": ("numpy", "cupy")})
        if self.tf32 and self.backend != "cupy":
            raise InputError("tf32 is true, but backend numpy has no TF32; choose backend cupy, or leave tf32 out")

    def check_dtype(self, dtype: str) -> None:
        """Refuse TF32 for a run that is not in float32. Raises: InputError."""
        if self.tf32 and dtype != "float32":
            raise InputError(f"tf32 is true and dtype is {dtype}, but TF32 is for float32; leave one of them out")


DEFAULT = Execution()  # NumPy, one thread, no more memory than AMRB needs


def with_budget(execution: Execution, ranks: Ranks = ALONE) -> Execution:
    """The execution with a number as its replay budget: if that is automatic, what free memory pays for.

    It is a quarter of what is free now, divided among the workers of all ranks of the machine that compute at a time;
    the least of all ranks; 0 where the system does not tell what is free. Each card has a rank of its own, and a single
    worker.
    """
    if not execution.auto_budget:
        return execution
    sharing = min(execution.workers, cores()) * ranks.on_this_machine if execution.backend == "numpy" else 1
    mine = (free_memory() or 0) // (FREE_SHARE * sharing)
    return replace(execution, replay_budget=min(ranks.gather(mine)), auto_budget=False)


def activate(execution: Execution, ranks: Ranks = ALONE) -> None:
    """Set this process up to compute that way. For a program to call once, before its first array.

    ranks: each takes a card of its own, if cards compute
    Raises: BackendError with reason and remedy if the backend cannot be used here; InputError for too few cards.
    """
    backend.use(execution.backend)
    ranks.take_card()
    keep_freed_memory()
    if execution.tf32:
        backend.allow_tf32()
