"""Long-term plasticity (LTP): the neuron-astrocyte macro model, its LTP curve, and the retention factors from it.

The macro model is Kozachkov et al., arXiv:2311.08135, as RMAAT (arXiv:2601.00426) uses it: 3 presynaptic and 3
postsynaptic neurons, so 9 tripartite synapses, and a stimulus that goes on and off. It runs on the host, once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import exp

import numpy as np

from .errors import InputError, check_integer

_SATURATED = 0.06  # a cycle counts while its increment is at least this share of the first one
_PRIOR_BOUND = 1e-5  # of a gate; RF is above it up to 15,000 segments


@dataclass(frozen=True)
class MacroModel:
    """Constants of the macro model, in arbitrary units of time; the sources leave all of them open (decided).

    tau_*: time constants of neurons, synapses, STP and LTP process (the slowest by far); leak_*: lambda, beta,
    gamma_s, gamma_l; recurrence: slope of g; feedback: slope of psi in the synapse's equation;
    coupling and reach: strength of T_ijkl, and the distance in grid steps over which it falls to 1/e;
    cycle and on: length of a stimulus cycle and of its active part; dt: Euler step.
    """

    tau_neuron: float = 0.1
    tau_synapse: float = 0.75
    tau_stp: float = 1.0
    tau_ltp: float = 30.0
    leak_neuron: float = 1.0
    leak_synapse: float = 1.0
    leak_stp: float = 1.0
    leak_ltp: float = 1.0
    recurrence: float = 0.2
    feedback: float = 0.3
    coupling: float = 0.1
    reach: float = 1.0
    cycle: float = 15.0
    on: float = 5.0
    dt: float = 0.05


def spatial_coupling(model: MacroModel):
    """T_ijkl: how strongly the STP process at synapse (k, l) drives the one at (i, j), falling off with distance.

    Shapes: -> (9, 9), synapses in row order of the 3 x 3 grid; 0 on the diagonal
    """
    rows, columns = np.divmod(np.arange(9), 3)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return model.coupling * np.exp(-distance / model.reach) * (distance > 0)


def macro_model_step(state, stimulus, coupling, model: MacroModel):
    """One Euler step of the macro model; f, theta and psi are tanh, kappa is tanh above 0 (decided).

    tau_n  dx/dt   = -lambda x + g(s) f(x) + b             (every neuron receives the stimulus b)
    tau_s  ds/dt   = -beta s + theta(x_pre) theta(x_post) + psi(p_stp)
    tau_ps dp_s/dt = -gamma_s p_s + sum T psi(p_s) + kappa(s)
    tau_pl dp_l/dt = -gamma_l p_l + kappa(s)

    Shapes: state {"pre" (3), "post" (3), "synapse" (9), "stp" (9), "ltp" (9)} -> the next state, a new dict
    """
    pre, post, synapse = np.tanh(state["pre"]), np.tanh(state["post"]), state["synapse"]
    weights = model.recurrence * synapse.reshape(3, 3)
    psi, kappa = np.tanh(state["stp"]), np.tanh(np.maximum(synapse, 0))
    slopes = {
        "pre": (-model.leak_neuron * state["pre"] + weights @ post + stimulus) / model.tau_neuron,
        "post": (-model.leak_neuron * state["post"] + pre @ weights + stimulus) / model.tau_neuron,
        "synapse": (-model.leak_synapse * synapse + np.outer(pre, post).ravel() + model.feedback * psi)
        / model.tau_synapse,
        "stp": (-model.leak_stp * state["stp"] + coupling @ psi + kappa) / model.tau_stp,
        "ltp": (-model.leak_ltp * state["ltp"] + kappa) / model.tau_ltp,
    }
    return {name: value + model.dt * slopes[name] for name, value in state.items()}


def simulate(cycles: int, model: MacroModel = MacroModel()):  # noqa: B008 (frozen)
    """Run the macro model from rest through a number of stimulus cycles.

    Shapes: -> time (steps + 1), history: a dict of arrays (steps + 1, 3) for neurons, (steps + 1, 9) for synapses
    """
    sizes = {"pre": 3, "post": 3, "synapse": 9, "stp": 9, "ltp": 9}
    state = {name: np.zeros(size) for name, size in sizes.items()}
    coupling = spatial_coupling(model)
    steps_per_cycle, steps_on = round(model.cycle / model.dt), round(model.on / model.dt)
    states = [state]
    for step in range(cycles * steps_per_cycle):
        stimulus = 1.0 if step % steps_per_cycle < steps_on else 0.0
        state = macro_model_step(state, stimulus, coupling, model)
        states.append(state)
    time = np.arange(len(states)) * model.dt
    return time, {name: np.stack([s[name] for s in states]) for name in sizes}


@lru_cache
def ltp_curve(model: MacroModel = MacroModel()):  # noqa: B008 (frozen)
    """LTP at the end of each stimulus cycle until it saturates, averaged over the 9 synapses.

    The curve ends before the first cycle whose increment is below 6 % of the first increment (decided).

    Shapes: -> (cycles + 1), beginning with 0; rising, by less each cycle; read-only, because it is simulated once
    """
    _, history = simulate(12, model)
    curve = history["ltp"].mean(axis=1)[:: round(model.cycle / model.dt)]
    increments = np.diff(curve)
    curve = curve[: 1 + int(np.sum(increments >= _SATURATED * increments[0]))]
    curve.flags.writeable = False
    return curve


@lru_cache(maxsize=4096)
def _ltp_shares(total: int) -> tuple[float, ...]:
    """RF(t, T) for t = 1 .. T: the simulated curve's increments, when T cycles span its saturation.

    LTP is a leaky integrator, so its increments fall geometrically. Between the simulated cycles they are interpolated
    on a log scale. One simulation therefore serves every T. RF falls with t.
    """
    log_rate = np.log(np.diff(ltp_curve()))
    cycles = len(log_rate)
    first, last = (log_rate[1] - log_rate[0]) / 2, (log_rate[-1] - log_rate[-2]) / 2
    knots = np.concatenate([[0.0], np.arange(cycles) + 0.5, [cycles]]) / cycles
    values = np.concatenate([[log_rate[0] - first], log_rate, [log_rate[-1] + last]])
    samples = -(-4096 // total)  # per share
    middle = (np.arange(total * samples) + 0.5) / (total * samples)
    shares = np.exp(np.interp(middle, knots, values)).reshape(total, samples).sum(axis=1)
    return tuple(shares / shares.sum())


def _online_factors(total: int):
    """r_t = (1 - k) / (1 - k^t): the share that a leaky integrator gives its newest input. It needs no T (decided)."""
    model = MacroModel()
    keep = exp(-model.leak_ltp * model.cycle / model.tau_ltp)
    return (1 - keep) / (1 - keep ** np.arange(1, total + 1))


def _gate_priors(total: int):
    """RF(t, T), kept away from 0 and 1, where the logit is infinite and no gate could differ from its prior."""
    return np.clip(_ltp_shares(total), _PRIOR_BOUND, 1 - _PRIOR_BOUND)


@dataclass(frozen=True)
class RetentionMode:
    """One way to update the memory between segments; `memory.py` holds the equations.

    factors: T -> the factors r_t of the segments t = 1 .. T, (T,) in (0, 1]; of `learned` the gate's priors
    keeps_old: does a part 1 - r_t of the old memory stay in the new one
    """

    factors: Callable[[int], object]
    keeps_old: bool


RETENTION_MODES = {
    "integrate": RetentionMode(_ltp_shares, keeps_old=True),
    "scale": RetentionMode(_ltp_shares, keeps_old=False),
    "online": RetentionMode(_online_factors, keeps_old=True),
    "none": RetentionMode(np.ones, keeps_old=False),
    "learned": RetentionMode(_gate_priors, keeps_old=True),
}


def retention_factors(T: int, mode: str = "integrate"):
    """What the memory update multiplies by at the segments t = 1 .. T of a sequence.

    integrate, scale: RF(t, T) = dp_t / sum_i dp_i (arXiv:2601.00426). dp_t is the increment of the LTP curve in
        cycle t. RF falls with t and sums to 1.
    online: r_t = (1 - k) / (1 - k^t), k = exp(-gamma_l cycle / tau_pl): what LTP keeps over one cycle (decided).
    none: 1.
    learned: the prior of the gate that decides, RF(t, T) within 1e-5 .. 1 - 1e-5 (decided).

    Shapes: T a whole number, 1 or more -> (T,) float64 in (0, 1]
    Raises: InputError for another T or mode.
    """
    T = check_integer("T", T, 1)
    if not isinstance(mode, str) or mode not in RETENTION_MODES:
        raise InputError(f"mode is {mode!r}, but it must be one of {', '.join(RETENTION_MODES)}")
    return np.array(RETENTION_MODES[mode].factors(T))
