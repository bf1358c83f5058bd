# %% [markdown]
# # 02 A tripartite synapse
#
# **The question: a stimulus comes and goes. What remembers it, and for how long?**
#
# A synapse joins two neurons, one before it and one after. In the brain an astrocyte often wraps around it and makes a
# third party: hence *tripartite*. It listens to what the synapse does and acts back on it, on its own, slower time.
# RMAAT takes two ideas from there: a short-term process, which shapes the attention inside a segment (lesson 03), and
# a long-term one, which decides what a memory keeps from segment to segment (lesson 05). Here is the model behind both:
# three neurons before, three after, so nine synapses on a 3 x 3 grid, under one astrocyte.
#
# | | variable | equation | time constant |
# |---|---|---|---|
# | neurons | x | tau dx/dt = -x + g(s) tanh(x) + stimulus | 0.1 |
# | synapse | s | tau ds/dt = -s + tanh(x_pre) tanh(x_post) + psi(p_s) | 0.75 |
# | short-term process (STP) | p_s | tau dp_s/dt = -p_s + sum T psi(p_s) + kappa(s) | 1 |
# | long-term process (LTP) | p_l | tau dp_l/dt = -p_l + kappa(s) | 30 |
#
# Read beside this: `rmaat_np/plasticity.py`; `macro_model_step` is this table, line by line. Time has no unit here:
# only the ratios count. The papers leave the constants open; these are this package's.

# %%
from dataclasses import replace

import numpy as np
from matplotlib import pyplot
from show import show

from rmaat_np.plasticity import MacroModel, macro_model_step, simulate, spatial_coupling

macro = MacroModel()
time, history = simulate(6)
mean = {name: values.mean(axis=1) for name, values in history.items()}
per_cycle, on = round(macro.cycle / macro.dt), round(macro.on / macro.dt)
print(f"{6} cycles of {macro.cycle}, stimulus on for the first {macro.on} of each; Euler step {macro.dt}")
print("shapes:", {name: values.shape for name, values in history.items()})

# %% [markdown]
# ## Six times on and off
#
# Left in the picture below, from fast to slow. The grey bands mark the stimulus. We compare two moments of each cycle:
# the highest value, and what is left when the next cycle is about to begin.

# %%
names = {"pre": "neurons x", "synapse": "synapses s", "stp": "STP p_s", "ltp": "LTP p_l"}
peaks = {name: mean[name][:-1].reshape(6, per_cycle).max(axis=1) for name in names}
ends = {name: mean[name][per_cycle::per_cycle] for name in names}
for name, title in names.items():
    print(f"{title:10}: peaks {np.round(peaks[name], 3)}, at the cycle ends {np.round(ends[name], 3)}")

# %% [markdown]
# The first three begin each cycle almost where they began the last: whatever they knew is gone. LTP alone climbs from
# cycle to cycle, by less each time, because it leaks in proportion to what it holds: it saturates. It is driven by the
# very same kappa(s) as STP. What makes the one forget and the other remember is nothing but the time constant.
#
# Two measurements of that. First one cycle and then a long silence: how long until a variable is back at 1/e of its
# peak? Then a control: LTP with the time constant of STP.

# %%
silence = replace(macro, cycle=90.0)
quiet_time, quiet = simulate(1, silence)
memory_time = {}
for name, title in names.items():
    value = quiet[name].mean(axis=1)
    peak = value.argmax()
    after = quiet_time >= max(quiet_time[peak], macro.on)
    memory_time[name] = quiet_time[after & (value < value[peak] / np.e)][0] - macro.on
    print(f"{title:10}: down to 1/e of its peak {memory_time[name]:5.2f} after the stimulus has ended")

_, fast = simulate(6, replace(macro, tau_ltp=macro.tau_stp))
fast_ltp = fast["ltp"].mean(axis=1)
print(f"with tau_ltp = 1 LTP ends its cycles at {np.round(fast_ltp[per_cycle::per_cycle], 3)}: no climb, no memory")

# %% [markdown]
# Note that LTP still rises for a while after the stimulus has ended: it listens to the synapse, not to the stimulus,
# and the synapse takes its time. That is why it lasts a little longer than its time constant of 30.
#
# ## The effect of distance
#
# One astrocyte spans all nine synapses, and T_ijkl says how strongly the process at one of them drives that at another:
# coupling * exp(-distance / reach), and nothing on itself. LTP has no such term. To see it at work, keep the neurons
# silent, start STP at one corner at 1, and watch the others.

# %%
T = spatial_coupling(macro)
rows, columns = np.divmod(np.arange(9), 3)
distance = np.hypot(rows, columns)  # from synapse 0, the corner
state = {name: np.zeros(size) for name, size in {"pre": 3, "post": 3, "synapse": 9, "stp": 9, "ltp": 9}.items()}
state["stp"][0] = 1.0
spread = [state["stp"]]
for _ in range(round(8 / macro.dt)):
    state = macro_model_step(state, 0.0, T, macro)
    spread.append(state["stp"])
spread = np.array(spread)
for synapse in (1, 4, 2, 5, 8):
    print(
        f"distance {distance[synapse]:.2f}: T = {T[0, synapse]:.4f}, "
        f"STP there rises to {spread[:, synapse].max():.4f}, at time {spread[:, synapse].argmax() * macro.dt:.2f}"
    )

# %% [markdown]
# The nearest synapse gets most and gets it first, and even it gets only 1.5 % of what the corner began with. But when
# the stimulus drives all nine, each has eight neighbours that lift it, and then it adds up: STP reaches higher
# everywhere than without coupling, and highest in the centre, which has the most near neighbours.
#
# In RMAAT this fall-off with distance returns as R, the relative positions in H_astro (lesson 04): there the distance
# is between tokens.

# %%
grid = history["stp"].max(axis=0).reshape(3, 3)
alone = simulate(6, replace(macro, coupling=0.0))[1]["stp"].max(axis=0)
print("highest STP at each synapse:\n", np.round(grid, 3))
print(f"without coupling: {np.round(alone, 3)}")

# %%
figure, axes = pyplot.subplot_mosaic(
    [["pre", "spread"], ["synapse", "spread"], ["stp", "grid"], ["ltp", "grid"]],
    figsize=(12, 7), layout="constrained", width_ratios=(1.7, 1),
)  # fmt: skip
for name, title in names.items():
    ax = axes[name]
    for cycle in range(6):
        ax.axvspan(cycle * macro.cycle, cycle * macro.cycle + macro.on, color="0.88")
    ax.plot(time, mean[name], "k", lw=1.8)
    ax.plot(time[per_cycle::per_cycle], ends[name], "o", color="C3", clip_on=False, zorder=3)
    ax.set(ylabel=title, xlim=(0, time[-1]), ylim=(0, None))
    ax.set_xticks(np.arange(7) * macro.cycle, None if name == "ltp" else [])
axes["pre"].set_title("six stimuli (grey): dots mark what is left at the end of a cycle")
axes["ltp"].set_xlabel("time")
for synapse, style in zip((1, 4, 2, 8), ("-", "--", "-.", ":"), strict=True):
    label = f"distance {distance[synapse]:.1f}"
    axes["spread"].plot(np.arange(len(spread)) * macro.dt, spread[:, synapse], style, lw=2, label=label)
axes["spread"].set(xlabel="time", ylabel="p_s", title="STP starts at one corner: the others", ylim=(0, None))
axes["spread"].legend(frameon=False)
axes["grid"].imshow(grid, cmap="Greys", vmin=0.8, vmax=0.95)
for (row, column), value in np.ndenumerate(grid):
    axes["grid"].text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=13,
                      color="white" if value > 0.89 else "black")  # fmt: skip
axes["grid"].set(title="all nine driven: highest p_s", xlabel="neuron after", ylabel="neuron before")
axes["grid"].set_xticks(range(3), (1, 2, 3))
axes["grid"].set_yticks(range(3), (1, 2, 3))
show(figure, "02_a_tripartite_synapse")

# %% [markdown]
# ## What can go wrong here
#
# - *"STP and LTP listen to different things."* Both are driven by kappa(s). The control shows it: with STP's time
#   constant, LTP forgets like STP.
# - *"LTP grows without bound, so later stimuli count as much as early ones."* It leaks, so each cycle adds less than
#   the one before. That fall is the retention factor of lesson 05.
# - *"The network simulates this while it trains."* It does not: the model runs once, on the host, and what the
#   network takes from it is a list of numbers, one per segment. Nothing here has a gradient.

# %%
for name in ("pre", "synapse", "stp"):
    assert (ends[name] < 0.05 * peaks[name]).all(), f"{name} remembers across cycles"
increments = np.diff(ends["ltp"], prepend=0)
assert (increments > 0).all() and (np.diff(increments) < 0).all(), "LTP must climb, by less each time"
assert memory_time["pre"] < memory_time["synapse"] < memory_time["stp"] < memory_time["ltp"] / 5
late = quiet["ltp"].mean(axis=1)[[round(t / macro.dt) for t in (60.0, 60.0 + macro.tau_ltp)]]
np.testing.assert_allclose(late[1] / late[0], 1 / np.e, rtol=1e-2)  # in silence, 1/e of it is left after each tau
assert np.ptp(fast_ltp[per_cycle::per_cycle]) < 1e-2 * fast_ltp.max(), "with a short time constant LTP remembers"
assert mean["ltp"][per_cycle] > mean["ltp"][on], "LTP does not go on rising after the first stimulus"
order = np.argsort(distance[1:], kind="stable") + 1
assert (np.diff(spread[:, order].max(axis=0)) <= 1e-12).all(), "a farther synapse got more"
assert (np.diff(spread[:, order].argmax(axis=0)) >= 0).all(), "a farther synapse got it earlier"
assert grid[1, 1] > grid[0, 1] > grid[0, 0] > alone.max() and np.ptp(alone) < 1e-12
np.testing.assert_array_equal(np.diag(T), 0)
