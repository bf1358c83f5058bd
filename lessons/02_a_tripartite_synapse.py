# %% [markdown]
# # 02 A tripartite synapse
#
# **The question: a stimulus comes and goes. What remembers it, and for how long?**
#
# A **synapse** joins two neurons, one before it and one after it. In the brain an **astrocyte** often wraps around the
# synapse. It listens to the synapse and acts back on it, more slowly than the neurons do. So three parties meet: the
# synapse is *tripartite*. RMAAT takes two ideas from there. Short-term plasticity (STP) shapes the attention inside a
# segment (lessons 03 and 04). Long-term plasticity (LTP) decides what a memory keeps from segment to segment (lesson
# 05). Here is the model behind both: three neurons before and three after, so nine synapses on a 3 x 3 grid, under one
# astrocyte.
#
# | | variable | equation | tau |
# |---|---|---|---|
# | neurons | x | tau dx/dt = -x + sum g(s) tanh(x) + stimulus | 0.1 |
# | synapse | s | tau ds/dt = -s + tanh(x_pre) tanh(x_post) + psi(p_s) | 0.75 |
# | short-term process (STP) | p_s | tau dp_s/dt = -p_s + sum T tanh(p_s) + kappa(s) | 1 |
# | long-term process (LTP) | p_l | tau dp_l/dt = -p_l + kappa(s) | 30 |
#
# - **tau** is the time constant. Left alone, a variable falls to 1/e of its value, or 37 %, within tau: the term with
#   the minus is a leak. Time has no unit here, as only the ratios count.
# - x_pre and x_post are the neurons before and after a synapse. g(s) = 0.2 s, and the sum runs over a neuron's three
#   synapses, with the x of the neuron on their other side.
# - psi(p) = 0.3 tanh(p) is how the astrocyte acts back on the synapse.
# - kappa(s) is how the synapse drives the astrocyte: tanh(s) above 0, and 0 below.
# - T says how strongly STP at one synapse drives STP at another. The last section looks at it. (It is not the number T
#   of segments in RF(t, T).)
#
# Read beside this: `rmaat_np/plasticity.py`, where `macro_model_step` is this table, line by line. The papers leave the
# constants open. These are this package's.

# %%
from dataclasses import replace

import numpy as np
from show import heading, pyplot, show, your_turn

from rmaat_np.plasticity import MacroModel, macro_model_step, simulate, spatial_coupling

# %% [markdown]
# ## Six times on and off
#
# A cycle lasts 15. The stimulus is on for the first 5 of it. The simulation goes in steps of dt = 0.05 and adds
# dt times the slope each time (the Euler method). We compare two moments of each cycle: the highest value, and what is
# left when the next cycle is about to begin.
#
# > *Predict, then run: which of the four variables have forgotten the stimulus by then? Does any of them climb from
# > cycle to cycle, and by the same amount each time?*

# %%
heading("Six times on and off")
macro = MacroModel()
time, history = simulate(6)
print("shapes (steps + 1, neurons or synapses):", {name: values.shape for name, values in history.items()})
mean = {name: values.mean(axis=1) for name, values in history.items()}
per_cycle, on = round(macro.cycle / macro.dt), round(macro.on / macro.dt)
names = {"pre": "neurons x", "synapse": "synapses s", "stp": "STP p_s", "ltp": "LTP p_l"}
peaks = {name: mean[name][:-1].reshape(6, per_cycle).max(axis=1) for name in names}
ends = {name: mean[name][per_cycle::per_cycle] for name in names}
for name, title in names.items():
    print(f"{title:10}: peaks {np.round(peaks[name], 3)}, at the cycle ends {np.round(ends[name], 3)}")
figure, axes = pyplot.subplots(4, 1, figsize=(9, 6.4), layout="constrained", sharex=True)
for axis, (name, title) in zip(axes, names.items(), strict=True):
    for cycle in range(6):
        axis.axvspan(cycle * macro.cycle, cycle * macro.cycle + macro.on, color="0.88")
    axis.plot(time, mean[name], "k", lw=1.8)
    axis.plot(time[per_cycle::per_cycle], ends[name], "o", color="C3", clip_on=False, zorder=3)
    axis.set(ylabel=title, xlim=(0, time[-1]), ylim=(0, None), xticks=np.arange(7) * macro.cycle)
axes[0].set_title("Six stimuli (grey). Dots mark what is left at the end of a cycle")
axes[-1].set_xlabel("time")
show(figure, "02_a_tripartite_synapse_cycles")

# %% [markdown]
# The first three begin each cycle almost where they began the one before: they have forgotten. LTP alone climbs, by
# less each time. Its leak takes a share of what it holds, so a fuller LTP loses more. This climb has an end. Within one
# cycle the leak leaves the share k = exp(-cycle / tau) of what LTP held. The stimulus adds the same amount a each time,
# and a is what LTP holds after the first cycle.

# %%
k, a = np.exp(-macro.cycle / macro.tau_ltp), ends["ltp"][0]
answer = None  # your turn: from k and a, the value that LTP has at the cycle ends after very many cycles
limit = 0.0
for _ in range(200):
    limit = k * limit + a
your_turn(answer, limit, "At the end p = k p + a: solve that for p. Did you forget the share that stays, k p?")
long_run = simulate(30)[1]["ltp"].mean(axis=1)[per_cycle::per_cycle]
print(f"k {k:.3f}, a {a:.3f}: LTP saturates at {limit:.3f}; simulated, after 30 cycles, {long_run[-1]:.3f}")

# %% [markdown]
# ## One time constant makes the difference
#
# STP and LTP have the same drive, kappa(s). Two measurements show what makes one forget and the other remember. First
# comes one stimulus and then a long silence. Then comes a control: LTP gets the time constant of STP.
#
# > *Predict, then run: how long after the end of the stimulus is each variable down to 1/e of its peak? What does the
# > control LTP hold at the ends of its six cycles?*

# %%
heading("One time constant makes the difference")
quiet_time, quiet = simulate(1, replace(macro, cycle=90.0))
memory_time = {}
for name, title in names.items():
    value = quiet[name].mean(axis=1)
    peak = value.argmax()
    after = quiet_time >= max(quiet_time[peak], macro.on)
    memory_time[name] = quiet_time[after & (value < value[peak] / np.e)][0] - macro.on
    print(f"{title:10}: down to 1/e of its peak {memory_time[name]:5.2f} after the stimulus has ended")

fast_ltp = simulate(6, replace(macro, tau_ltp=macro.tau_stp))[1]["ltp"].mean(axis=1)
print(f"control: with tau = {macro.tau_stp:g} LTP ends its cycles at {np.round(fast_ltp[per_cycle::per_cycle], 3)}")

# %% [markdown]
# The control neither climbs nor remembers. LTP with its own time constant outlasts the stimulus by a little more than
# 30. The reason is that LTP listens to the synapse, and not to the stimulus. The synapse stays active for a while after
# the stimulus has ended, and LTP still rises then.
#
# ## The effect of distance
#
# One astrocyte spans all nine synapses. T = 0.1 exp(-distance) falls with the distance on the grid, and is 0 from a
# synapse to itself. LTP has no such term. To see T at work we keep the neurons silent. STP starts at 1 in one corner
# and at 0 elsewhere. We watch the others.

# %%
heading("The effect of distance")
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
    highest, when = spread[:, synapse].max(), spread[:, synapse].argmax() * macro.dt
    print(f"distance {distance[synapse]:.2f}: T = {T[0, synapse]:.4f}, STP rises to {highest:.4f} at time {when:.2f}")

# %% [markdown]
# The nearest synapse gets most, and gets it first. Even this one gets only 1.5 % of what the corner began with. But
# when the stimulus drives all nine synapses, each of them has eight neighbours that lift it.
#
# > *Predict, then run: at which synapse of the grid is STP highest then, in a corner, at an edge or in the centre? Is
# > any synapse as low as it would be without T?*

# %%
grid = history["stp"].max(axis=0).reshape(3, 3)
alone = simulate(6, replace(macro, coupling=0.0))[1]["stp"].max(axis=0)
print("all nine driven, highest STP at each synapse:\n", np.round(grid, 3))
print(f"without T (coupling 0): {np.round(alone, 3)}")
figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(1.4, 1))
for synapse, style in zip((1, 4, 2, 8), ("-", "--", "-.", ":"), strict=True):
    label = f"distance {distance[synapse]:.1f}"
    axes[0].plot(np.arange(len(spread)) * macro.dt, spread[:, synapse], style, lw=2, label=label)
axes[0].set(xlabel="time", ylabel="STP p_s", title="One corner starts at 1: what the others get", ylim=(0, None))
axes[0].legend(frameon=False)
axes[1].imshow(grid, cmap="Greys", vmin=0.8, vmax=0.95)
for (row, column), value in np.ndenumerate(grid):
    color = "white" if value > 0.89 else "black"
    axes[1].text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=13, color=color)
axes[1].set(title="All nine driven: highest p_s", xlabel="neuron after", ylabel="neuron before")
axes[1].set(xticks=range(3), yticks=range(3), xticklabels=(1, 2, 3), yticklabels=(1, 2, 3))
show(figure, "02_a_tripartite_synapse_distance")

# %% [markdown]
# The centre is highest, as it has the most near neighbours. All nine are higher than without T.
#
# In RMAAT this fall with distance returns in H_astro, the part of attention that depends on places: r_ij of lesson 00
# is the same exponential. There the distance is between tokens. Lesson 04 looks at it.
#
# ## What can go wrong here
#
# - *"STP and LTP listen to different things."* Both are driven by kappa(s). The control shows it: with STP's time
#   constant, LTP forgets as STP does.
# - *"LTP grows without bound, so later stimuli count as much as early ones."* It leaks, so each cycle adds less than
#   the one before. From this fall lesson 05 makes the retention factors.
# - *"The network simulates this while it trains."* It does not. The model is simulated once, by NumPy on the processor.
#   The network takes a list of numbers from it, one per segment. None of these equations needs a gradient.

# %%
for name in ("pre", "synapse", "stp"):
    assert (ends[name] < 0.05 * peaks[name]).all(), f"{name} remembers across cycles"
increments = np.diff(ends["ltp"], prepend=0)
assert (increments > 0).all() and (np.diff(increments) < 0).all(), "LTP must climb, by less each time"
np.testing.assert_allclose(long_run[-1], limit, rtol=1e-2)
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
