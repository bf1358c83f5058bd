"""One measurement of training steps in this process: time and peak memory, or agreement with PyTorch."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from .. import backend
from ..config import Config
from ..optim import adamw_init, adamw_step
from ..params import init_params
from ..processor import give_back_freed_memory
from ..step import loss_and_grads
from ..system.machine import PeakMemory, keep_freed_memory
from ..training.settings import resolve
from .tables import KEEPING

__all__ = ["Conditions", "agreement", "compiler_without_a_past", "configuration", "measure", "random_batch"]

SIZES: dict[str, Any] = {"vocab_size": 32, "num_classes": 10, "d_model": 64, "num_layers": 2, "d_ff": 128}
SIZES |= {"num_memory": 8}
CONFIGS: dict[str, tuple[int, dict[str, Any]]] = {  # batch size, and the fields that differ from SIZES
    "small": (32, {"segment_length": 128, "num_segments": 4, "num_heads": 4}),
    "lra": (32, {"segment_length": 256, "num_segments": 8, "num_heads": 2}),
    "wide": (
        8,
        {
            "segment_length": 512, "num_segments": 4, "num_memory": 16,
            "d_model": 128, "num_heads": 4, "num_layers": 4, "d_ff": 512,
        },
    ),
}  # fmt: skip
# MiB of replay budget for each of two workers, found by trying; not one more segment of `small` fits in its quarter
QUARTERS = {"small": 0.0, "lra": 100.0, "wide": 55.0}
_LONG_SEGMENT = 512


@dataclass(frozen=True)
class Conditions:
    """How training steps are measured, the same for all contenders.

    threads: workers, or PyTorch's threads; steps: the most that are timed; seconds: no step begins later than that
    after the first; dtype: of parameters and arithmetic; replay_budget: MiB, as in `loss_and_grads`
    """

    threads: int
    steps: int = 10
    seconds: float = 20
    backend: str = "numpy"
    dtype: str = "float32"
    tf32: bool = False
    replay_budget: float = 0


def configuration(name: str) -> tuple[int, Config]:
    """Batch size and Config of one of CONFIGS, "NAME:ROWS" for another batch size, or "long:TOKENS", one sequence.

    "preset:ROWS" is LRA's own size: the preset lra of ListOps, without its dropout, which PyTorch's model has not.
    """
    if name.startswith("preset:"):
        fields = resolve("listops", "lra", "rmaat", {"dropout": 0.0}).fields
        return int(name.removeprefix("preset:")), Config(vocab_size=32, num_classes=10, **fields)
    if name.startswith("long:"):
        segments = int(name.removeprefix("long:")) // _LONG_SEGMENT
        shape = {"segment_length": _LONG_SEGMENT, "num_segments": segments, "num_heads": 2, "segment_embedding": False}
        return 1, Config(**SIZES | shape)
    name, _, rows = name.partition(":")
    batch, shape = CONFIGS[name]
    return int(rows or batch), Config(**SIZES | shape)


def is_torch(contender: str) -> bool:
    """Is the contender PyTorch's model, and not this package's?"""
    return contender.startswith("torch")


def _make_step(contender: str, batch: int, cfg: Config, conditions: Conditions) -> Callable[[int], float]:
    """A function of the step number. It does one training step, and returns the loss once that is on the host."""
    tokens, labels = random_batch(batch, cfg)
    params = init_params(cfg, dtype=conditions.dtype)
    if is_torch(contender):
        return _torch_step(params, cfg, tokens, labels, contender, conditions)
    state, budget = adamw_init(params), int(conditions.replay_budget * 2**20)
    method = contender.split("-")[0]

    def step(number: int) -> float:
        loss, grads, _ = loss_and_grads(
            params, cfg, tokens, labels, method, workers=conditions.threads, replay_budget=budget
        )
        adamw_step(params, grads, state, number, 1e-3)
        return float(loss)

    return step


def _torch_step(params, cfg, tokens, labels, contender, conditions):
    import torch

    from . import torch_model

    torch.set_num_threads(conditions.threads)
    device = "cuda" if conditions.backend == "cupy" else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = conditions.tf32
    params = {name: backend.to_host(array) for name, array in params.items()}
    params = torch_model.to_torch(params, device=device)
    optimiser = torch.optim.AdamW(params.values(), lr=1e-3, weight_decay=0.01)
    tokens, labels = torch.as_tensor(tokens, device=device).long(), torch.as_tensor(labels, device=device)
    switches = {"checkpoint": "checkpoint" in contender, "skip_unread": "skip" in contender}
    encode = torch.compile(torch_model.encode) if contender == "torch-compile" else torch_model.encode

    def step(number):
        optimiser.zero_grad(set_to_none=True)
        loss = torch_model.loss(params, cfg, tokens, labels, **switches, encode=encode)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimiser.step()
        return loss.item()

    return step


class TorchPeakMemory:
    """As `PeakMemory`, for the tensors that PyTorch holds on a CUDA device."""

    peak: int | None = None

    def __enter__(self) -> "TorchPeakMemory":
        import torch

        self.cuda = torch.cuda
        self.cuda.reset_peak_memory_stats()
        self.idle = self.cuda.memory_allocated()
        return self

    def __exit__(self, *error) -> None:
        self.peak = self.cuda.max_memory_allocated() - self.idle


def measure(contender: str, batch: int, cfg: Config, conditions: Conditions) -> dict:
    """Time and peak memory of one contender in this process.

    -> seconds: per step; tokens_per_second; peak_bytes: above the idle state, or None where the system does not tell;
    compile_seconds: of torch-compile, the first step, which does not count otherwise
    """
    backend.use(conditions.backend)
    if contender in KEEPING:
        keep_freed_memory()
    on_device = conditions.backend == "cupy"
    if conditions.tf32 and not is_torch(contender):
        backend.allow_tf32()
    step = _make_step(contender, batch, cfg, conditions)
    seconds: list[float] = []
    compiling = {}
    if contender == "torch-compile":
        started = time.perf_counter()
        step(0)
        compiling["compile_seconds"] = time.perf_counter() - started
        give_back_freed_memory()  # what the compiler needed would hide what a step needs
    with TorchPeakMemory() if on_device and is_torch(contender) else PeakMemory(device=on_device) as memory:
        step(0)  # warms up: on a device the kernels are compiled, which may take longer than all steps
        begun = time.perf_counter()
        while not seconds or (len(seconds) < conditions.steps and time.perf_counter() - begun < conditions.seconds):
            started = time.perf_counter()
            step(1 + len(seconds))  # the loss comes last in the device's queue, so reading it waits for the whole step
            seconds.append(time.perf_counter() - started)
    return compiling | {
        "seconds": median(seconds),
        "tokens_per_second": batch * cfg.max_length / median(seconds),
        "peak_bytes": memory.peak,
    }


@contextmanager
def compiler_without_a_past() -> Iterator[None]:
    """torch.compile stores what it compiled on the disk; here it finds nothing from before."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def agreement(batch: int, cfg: Config, conditions: Conditions) -> dict:
    """Gradients of AMRB beside those of PyTorch's autograd with one checkpoint per segment, in float64.

    -> {"gradients": the largest difference of any parameter's, relative to its largest entry; "loss": likewise}
    """
    import torch

    from . import torch_model

    tokens, labels = random_batch(batch, cfg)
    params = init_params(cfg, dtype="float64")
    loss, grads, _ = loss_and_grads(params, cfg, tokens, labels, "amrb", workers=conditions.threads)
    theirs = torch_model.to_torch(params)
    their_loss = torch_model.loss(theirs, cfg, torch.as_tensor(tokens).long(), torch.as_tensor(labels), True)
    their_loss.backward()
    worst = max(abs(grads[name] - p.grad.numpy()).max() / abs(p.grad.numpy()).max() for name, p in theirs.items())
    return {"gradients": float(f"{worst:.1e}"), "loss": float(f"{abs(loss / their_loss.item() - 1):.1e}")}


def random_batch(batch: int, cfg: Config) -> tuple[np.ndarray, np.ndarray]:
    """Full sequences of random tokens, and labels. Shapes: -> tokens (B, S L), labels (B)."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, cfg.vocab_size, (batch, cfg.max_length), dtype=np.int32)
    return tokens, rng.integers(0, cfg.num_classes, batch)
