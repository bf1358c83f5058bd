"""Finite differences: what a hand-written gradient is measured against. Use float64; float32 has too few digits."""

import numpy as np

from .errors import InputError

STEP = 1e-5


def relative_error(analytic, numeric) -> float:
    """max |analytic - numeric| / max(|analytic|, |numeric|) over all elements, in the max norm; 0 if both are 0."""
    scale = max(np.abs(analytic).max(initial=0.0), np.abs(numeric).max(initial=0.0))
    return float(np.abs(analytic - numeric).max(initial=0.0) / scale) if scale else 0.0


def numerical_gradient(function, x, h: float = STEP):
    """Central differences of a scalar function of one array, element by element: (f(x + h) - f(x - h)) / 2h.

    Shapes: x (...) float64 -> gradient (...); x itself is left as it was
    """
    if np.asarray(x).dtype.kind != "f":
        raise InputError(f"x is {np.asarray(x).dtype}, but a finite difference needs float64")
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        ends = []
        for offset in (h, -h):
            moved = x.copy()
            moved[index] += offset
            ends.append(function(moved))
        gradient[index] = (ends[0] - ends[1]) / (2 * h)
    return gradient


def directional_derivative(function, params: dict, direction: dict, h: float = STEP) -> float:
    """Central difference of a scalar function of a parameter dict along a direction (some or all of its keys).

    The sum of gradient * direction must equal it. So one pair of evaluations checks every parameter at once.
    """
    ends = [function(params | {name: params[name] + s * h * d for name, d in direction.items()}) for s in (1, -1)]
    return float((ends[0] - ends[1]) / (2 * h))
