"""One measurement of training steps in this process: time and peak memory."""

import time
from statistics import median

import numpy as np

from .. import backend
from ..optim import adamw_init, adamw_step
from ..params import init_params
from ..step import loss_and_grads
from ..system import machine
from ..system.machine import device_memory, host_memory


def make_step(contender: str, batch: int, cfg, options, timed=None):
    """A function of the step number: one training step (forward, backward, optimiser), until its loss is known."""
    tokens, labels = random_batch(batch, cfg)
    params = init_params(cfg, dtype=options.dtype)
    if contender.startswith("torch"):
        return _torch_step(params, cfg, tokens, labels, contender, options)
    if timed is not None:
        params = {name: array.view(timed) for name, array in params.items()}
    state, budget = adamw_init(params), int(options.replay_budget * 2**20)

    def step(number):
        loss, grads, _ = loss_and_grads(
            params, cfg, tokens, labels, contender, workers=options.threads, replay_budget=budget
        )
        adamw_step(params, grads, state, number, 1e-3)
        return float(loss)

    return step


def _torch_step(params, cfg, tokens, labels, contender, options):
    import torch

    from . import torch_model

    torch.set_num_threads(options.threads)
    device = "cuda" if options.backend == "cupy" else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    params = {name: backend.to_host(array) for name, array in params.items()}
    params = torch_model.to_torch(params, device=device)
    optimiser = torch.optim.AdamW(params.values(), lr=1e-3, weight_decay=0.01)
    tokens, labels = torch.as_tensor(tokens, device=device).long(), torch.as_tensor(labels, device=device)

    def step(number):
        optimiser.zero_grad(set_to_none=True)
        loss = torch_model.loss(
            params, cfg, tokens, labels, checkpoint="checkpoint" in contender, skip_unread="skip" in contender
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimiser.step()
        return float(loss)

    return step


def measure(contender: str, batch: int, cfg, options) -> dict:
    """Time and peak memory of one contender, in this process. -> seconds per step, tokens_per_second, peak_bytes."""
    backend.use(options.backend)
    machine.keep_freed_memory()
    if options.tf32 and not contender.startswith("torch"):
        backend.allow_tf32()
    step = make_step(contender, batch, cfg, options)
    memory = device_memory(contender) if options.backend == "cupy" else host_memory()
    next(memory)
    step(0)  # warms up: on a device the kernels are compiled, which may take longer than all steps
    seconds = []
    begun = time.perf_counter()
    while not seconds or (len(seconds) < options.steps and time.perf_counter() - begun < options.seconds):
        started = time.perf_counter()
        step(1 + len(seconds))  # its loss comes back behind all that it queued on the device, so this waits for it
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": median(seconds),
        "tokens_per_second": batch * cfg.max_length / median(seconds),
        "peak_bytes": next(memory),
    }


def agreement(batch: int, cfg, options) -> dict:
    """Gradients of AMRB beside those of PyTorch's autograd with one checkpoint per segment, in float64.

    -> {"gradients": the largest difference of any parameter's, relative to its largest entry; "loss": likewise}
    """
    import torch

    from . import torch_model

    tokens, labels = random_batch(batch, cfg)
    params = init_params(cfg, dtype="float64")
    loss, grads, _ = loss_and_grads(params, cfg, tokens, labels, "amrb", workers=options.threads)
    theirs = torch_model.to_torch(params)
    their_loss = torch_model.loss(theirs, cfg, torch.as_tensor(tokens).long(), torch.as_tensor(labels), True)
    their_loss.backward()
    worst = max(abs(grads[name] - p.grad.numpy()).max() / abs(p.grad.numpy()).max() for name, p in theirs.items())
    return {"gradients": float(f"{worst:.1e}"), "loss": float(f"{abs(loss / their_loss.item() - 1):.1e}")}


def random_batch(batch: int, cfg):
    """Full sequences of random tokens, and labels. Shapes: -> tokens (B, S L), labels (B)."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, cfg.vocab_size, (batch, cfg.max_length), dtype=np.int32)
    return tokens, rng.integers(0, cfg.num_classes, batch)


def timed_array_class():
    """An ndarray class that books the time of every NumPy call on it as matmul, elementwise, reductions or copies."""

    class Timed(np.ndarray):
        booked: dict = {}

        def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
            if out is not None:
                options["out"] = tuple(map(plain, out))
            kind = "matmul" if ufunc is np.matmul else "elementwise" if method == "__call__" else "reductions"
            result = book(kind, getattr(ufunc, method), *map(plain, inputs), **options)
            return out[0] if out is not None else result.view(Timed) if isinstance(result, np.ndarray) else result

        def __array_function__(self, function, types, arguments, options):
            kind = "reductions" if function.__name__ in ("einsum", "vdot") else "copies"
            return book(kind, super().__array_function__, function, types, arguments, options)

        def __setitem__(self, key, value):
            book("copies", plain(self).__setitem__, key, plain(value))

    def plain(x):
        return x.view(np.ndarray) if isinstance(x, Timed) else x

    def book(kind, function, *arguments, **options):
        started = time.perf_counter()
        result = function(*arguments, **options)
        Timed.booked[kind] = Timed.booked.get(kind, 0.0) + time.perf_counter() - started
        return result

    return Timed


def breakdown(batch: int, cfg, options) -> dict:
    """Shares of an AMRB step's time by kind of operation, with one worker; the rest is Python. -> {kind: share}."""
    timed = timed_array_class()
    step = make_step("amrb", batch, cfg, options, timed=timed)
    step(0)
    timed.booked.clear()
    started = time.perf_counter()
    for number in (1, 2):
        step(number)
    total = time.perf_counter() - started
    shares = {kind: seconds / total for kind, seconds in sorted(timed.booked.items(), key=lambda item: -item[1])}
    return shares | {"python": 1 - sum(shares.values())}
