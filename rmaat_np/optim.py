"""AdamW, clipping by the global norm, and the schedule of the learning rate. Nothing here waits for the device."""

from math import cos, inf, pi

from . import backend
from .errors import InputError, check_integer

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def adamw_init(params: dict) -> dict:
    """First and second moments, zero at the start. -> {"m": as params, "v": as params}.

    Raises: InputError if params is no dict: an open .npz file would be read anew at each access, and never trained.
    """
    _check_dicts(params=params)
    return {moment: {name: backend.xp.zeros_like(array) for name, array in params.items()} for moment in ("m", "v")}


def global_norm(grads: dict):
    """The square root of the sum of the squares of all gradients. -> () on the device, not yet waited for"""
    if backend.kernels:
        return backend.kernels.global_norm(grads)
    xp = backend.xp
    squares = xp.stack([xp.vdot(gradient, gradient) for gradient in grads.values()])
    return xp.sqrt(squares.sum())


def adamw_step(
    params: dict, grads: dict, state: dict, step: int, lr: float, *, weight_decay=0.01, clip_norm=1.0, norm=None
):
    """One AdamW step (Loshchilov & Hutter, arXiv:1711.05101) after clipping by the global norm; returns that norm.

        g = grad * min(1, clip_norm / norm)
        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        p = p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + 1e-8) + weight_decay p)

    Changes params and state in place. Decay acts on arrays named .weight: embeddings, gains, biases and the log_decay
    of attn.rel do not decay. It has eight parameters: a record around them would hide the symbols of the equation.

    step: 0 for the first; lr > 0; weight_decay >= 0; clip_norm > 0
    norm: the global norm of grads, if it is at hand; otherwise it is computed
    Raises: InputError for what is out of range or no dict; FloatingPointError if the norm is not finite, before
        anything is changed. On a device the norm is not looked at.
    Shapes: params, grads and both moments of state: the same names and shapes -> norm () before clipping
    """
    xp = backend.xp
    _check_dicts(params=params, grads=grads, state=state)
    step = check_integer("step", step, 0)
    if not (0 <= lr < inf and 0 <= weight_decay < inf and clip_norm > 0):
        raise InputError(f"lr is {lr}, weight_decay {weight_decay}, clip_norm {clip_norm}: out of range")
    norm = global_norm(grads) if norm is None else norm
    correct1, correct2 = 1 - BETA1 ** (step + 1), 1 - BETA2 ** (step + 1)
    if backend.kernels:
        scalars = clip_norm, BETA1, BETA2, EPS, correct1, correct2, lr, weight_decay
        backend.kernels.adamw_update(params, grads, state, norm, *scalars)
        return norm
    if backend.name == "numpy" and not xp.isfinite(norm):  # on a device the question would wait for the answer
        raise FloatingPointError(f"the norm of the gradients is {norm}: no step was made; lower the learning rate")
    scale = xp.minimum(clip_norm / (norm + 1e-6), 1.0)
    for name, p in params.items():
        m, v = state["m"][name], state["v"][name]
        g = grads[name] * scale
        m *= BETA1
        m += (1 - BETA1) * g
        v *= BETA2
        g *= g
        g *= 1 - BETA2
        v += g
        update = v / correct2
        xp.sqrt(update, out=update)
        update += EPS
        xp.divide(m, update, out=update)
        update *= lr / correct1
        if name.endswith(".weight"):
            p *= 1 - lr * weight_decay
        p -= update
    return norm


def _check_dicts(**given) -> None:
    for name, value in given.items():
        if not isinstance(value, dict):
            raise InputError(
                f"{name} is a {type(value).__name__}, but it must be a dict of arrays; convert it by dict()"
            )


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate of a step, 0 for the first: linear warm-up to the peak, then half a cosine to 0 after the last."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))
