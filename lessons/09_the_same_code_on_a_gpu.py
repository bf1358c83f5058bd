# %% [markdown]
# # 09 The same code on a GPU
#
# **The question: what changes when the arrays live on another device?**
#
# In the code almost nothing. Every function that can run on a GPU gets its array module by `xp = backend.xp`, and calls
# only functions of `xp` on its arrays. `rn.backend.use("cupy")` makes `xp` the library CuPy, whose functions have
# NumPy's names. What changes is *time*. The GPU (the **device**) works on its own, beside the processor that runs
# Python (the **host**). If the host wants a number from the device, it has to wait. A program that asks for numbers all
# the time gives right results, but may be slower than on the CPU. So we count these waits.
#
# **What needs no GPU.** The counts below are facts about the code. The picture of two clocks is a model with round
# numbers. Only the last part uses a GPU, if there is one. What was measured on one stands in
# `lessons/results/README.md`.
#
# Read beside this: `rmaat_np/backend.py`, `tests/helpers/strict_device.py`, `tests/cuda/test_gpu.py`.

# %%
import sys
import time
from pathlib import Path

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np import optim

sys.path.insert(0, str(Path(rn.__file__).resolve().parent.parent / "tests"))  # the stand-in lives with the tests
from helpers import strict_device  # noqa: E402

cfg = rn.Config(16, 10, d_model=32, num_heads=2, num_layers=2, d_ff=64, segment_length=16, num_segments=4, num_memory=4)
rng = np.random.default_rng(0)
tokens = rng.integers(1, cfg.vocab_size, (8, cfg.max_length))
labels = rng.integers(0, cfg.num_classes, 8)

# %% [markdown]
# ## Two clocks
#
# A function that runs on the device is a **kernel**. `y = xp.exp(x)` *launches* one: the host puts it into the device's
# queue, and goes on to the next line at once. The device works through the queue. `float(y)` needs the number itself.
# So the host waits until the queue is empty, and then copies the number. This is a **synchronisation**. No kernel
# enters the queue during it, so after it the device has to wait for the host. The next cell plays this through: 5 µs to
# launch a kernel, 8 µs to compute it, 15 µs to copy.
#
# > *Predict, then run: how long do 24 operations take if nobody asks for a number? And if the host asks for every
# > second result?*


# %%
def timeline(operations, ask_every=None, launch=5, kernel=8, copy=15):
    """(start, length) of everything that host and device do, and of the host's waiting. A model, in microseconds."""
    host, device, done, now = {"launch": [], "wait": []}, [], 0, 0
    for number in range(1, operations + 1):
        host["launch"].append((now, launch))
        now += launch
        start = max(now, done)
        device.append((start, kernel))
        done = start + kernel
        if ask_every and number % ask_every == 0:
            host["wait"].append((now, done + copy - now))
            now = done + copy
    return host, device, max(now, done)


heading("Two clocks")
free, asking = timeline(24), timeline(24, ask_every=2)
print(f"24 operations: {free[2]} µs if nobody asks, {asking[2]} µs if every second result is asked for")
figure, axis = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
for base, (host, device, end), title in ((3, free, "nobody asks"), (0, asking, "every second result\nis asked for")):
    axis.broken_barh(host["launch"], (base + 1, 0.8), color="C0", edgecolor="white", label="host launches")
    axis.broken_barh(host["wait"], (base + 1, 0.8), facecolor="none", edgecolor="0.4", hatch="////", label="host waits")
    axis.broken_barh(device, (base, 0.8), color="C1", edgecolor="white", label="device computes")
    axis.text(end + 8, base + 0.9, f"{title}\n{end} µs", va="center")
axis.set_yticks([0.4, 1.4, 3.4, 4.4], ["device", "host", "device", "host"])
axis.set(
    xlabel="µs (a model, not measured)",
    title="the same 24 kernels: below, the device waits for the host",
    xlim=(0, 580),
)
axis.legend(*(found[-3:] for found in axis.get_legend_handles_labels()), frameon=False, loc="upper right")
show(figure, "09_the_same_code_on_a_gpu_clocks")

# %% [markdown]
# ## The stand-in device
#
# `strict_device.module` takes CuPy's place. Its arrays compute with NumPy inside, but they refuse what CuPy refuses.
# Each time the host needs a value from them, a counter goes up. It has only names that CuPy has too.
#
# > *Predict, then run: which of these five make the host wait?* `xp.sqrt(x).sum()`, `float(x.sum())`, `if x.sum() > 3`,
# > `x[x > 2]`, `print(x)`

# %%
heading("The stand-in device")
xp = strict_device.module
x, refused, counted = xp.asarray(np.arange(6.0)), [], {}
attempts = {  # CuPy refuses them
    "np.asarray(x)": lambda: np.asarray(x), "np.sum(x)": lambda: np.sum(x),
    "x + a NumPy array": lambda: x + np.ones(6), "xp.errstate": lambda: xp.errstate,
}  # fmt: skip
for what, attempt in attempts.items():
    try:
        attempt()
    except (TypeError, AttributeError) as error:
        refused.append(what)
        print(f"  {what}: {error}")
questions = {  # CuPy answers them
    "xp.sqrt(x).sum()": lambda: xp.sqrt(x).sum(), "float(x.sum())": lambda: float(x.sum()),
    "if x.sum() > 3": lambda: bool(x.sum() > 3), "x[x > 2]": lambda: x[x > 2], "print(x)": lambda: str(x),
}  # fmt: skip
for what, attempt in questions.items():
    strict_device.reset_synchronisations()
    attempt()
    counted[what] = strict_device.synchronisations()
    print(f"  {what:18} waits: {counted[what]}")

# %% [markdown]
# Two of them deserve a second look. `if x.sum() > 3` holds no `float`, but Python must know which way to go. The
# *shape* of `x[x > 2]` depends on values, and shapes live on the host. So the model hides padding by multiplying with
# 0. Now write a line that needs no answer. Training *clips* gradients: if their norm is above a limit, they are scaled
# down to it. Do the same with the sum of x and the limit 3, without an `if`.

# %%
limit = None  # your turn: lambda x: ... computes what `x * 3 / x.sum() if x.sum() > 3 else x` does, and never waits
right = np.array([*np.arange(6) / 5, *np.arange(6) / 10, 0])  # for x and for x / 10; the last number counts the waits
answer, hint = None, "`if`, `float` and `min` need the number. `xp.minimum(3 / x.sum(), 1)` stays on the device."
if limit is not None:
    strict_device.reset_synchronisations()
    try:
        results, count = [limit(x), limit(x / 10)], strict_device.synchronisations()
        answer, hint = np.array([*results[0].get(), *results[1].get(), count]), f"It waits {count} times. {hint}"
    except (TypeError, AttributeError) as error:
        answer, hint = right * np.nan, f"The device refuses it: {error}"
your_turn(answer, right, hint)

# %% [markdown]
# ## The whole model on the stand-in
#
# `backend.using` makes `xp` another module inside a `with` block. We run a training step on NumPy and on the stand-in.
#
# > *Predict, then run: how often does the host wait in a step of 4 segments, forward, replay, backward and update?*


# %%
def training_step(observer=None, after=lambda *numbers: None):
    """Gradients and update from seed 0 on the active backend. -> loss, parameters, both still on the device."""
    params = rn.init_params(cfg)
    state = optim.adamw_init(params)
    strict_device.reset_synchronisations()
    strict_device.reset_uploads()
    loss, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, observer=observer)
    norm = optim.adamw_step(params, grads, state, 0, 1e-3)
    after(loss, grads, norm)
    return loss, params


heading("The whole model on the stand-in")
on_host = training_step()
with rn.backend.using(strict_device.module):
    on_device = training_step()
    waits, moved = {"the step itself": strict_device.synchronisations()}, strict_device.uploads()
difference = max(float(np.abs(on_device[1][name].get() - p).max()) for name, p in on_host[1].items())
print(f"one step: {waits['the step itself']} synchronisations, {moved} copies to the device; ", end="")
print(f"largest difference of an updated parameter from NumPy's: {difference:.1e}")

# %% [markdown]
# So the host can queue the whole step without one question. Now four habits that creep into training loops, harmless on
# NumPy. A log line needs two numbers, the loss and the norm. One can join them on the device and ask once, as the
# package's `train_step` does, or ask twice. An observer (lesson 06) may ask for the norm of what each event carries.
# And one may check each gradient with `isfinite`.
#
# > *Predict, then run: the model has 34 parameter arrays. Which of the four habits waits most often?*


# %%
def watch_memory(event):
    if event.array is not None:
        float(rn.backend.xp.linalg.norm(event.array))


habits = {  # what is done with the loss, the gradients and their norm after a step, or with each event in it
    "a log line, joined first": {"after": lambda loss, _, norm: rn.backend.to_host(rn.backend.xp.stack([loss, norm]))},
    "a log line, 2 numbers": {"after": lambda loss, _, norm: (float(loss), float(norm))},
    "a float in an observer": {"observer": watch_memory},
    "isfinite of each gradient": {"after": lambda _, grads, __: [bool(xp.isfinite(g).all()) for g in grads.values()]},
}
with rn.backend.using(strict_device.module):
    for habit, options in habits.items():
        training_step(**options)
        waits[habit] = strict_device.synchronisations()
        print(f"{habit:26} {waits[habit]:3} synchronisations")
figure, axis = pyplot.subplots(figsize=(8, 3), layout="constrained")
axis.bar_label(axis.barh(list(waits), list(waits.values()), color="C0"), padding=4)
axis.invert_yaxis()
axis.set(title="synchronisations in one training step", xlim=(0, 40))
show(figure, "09_the_same_code_on_a_gpu_waits")

# %% [markdown]
# The counts do not say how many milliseconds a wait costs. They say where to look. A `float` inside a step breaks a
# test, `tests/model/test_backend.py`, on any machine.
#
# ## On a GPU, if there is one
#
# Is the result the same, and what does the float in the observer cost? If CuPy cannot run, `use` says why and what to
# do.


# %%
def seconds_a_step(observer=None, steps=20):
    """Mean time of a step without the update; asks for the last loss, so that the queue is empty at the end."""
    params = rn.init_params(cfg)
    float(rn.loss_and_grads(params, cfg, tokens, labels)[0])  # the first step compiles kernels
    begun = time.perf_counter()
    float([rn.loss_and_grads(params, cfg, tokens, labels, observer=observer)[0] for _ in range(steps)][-1])
    return (time.perf_counter() - begun) / steps


heading("On a GPU, if there is one")
try:
    rn.backend.use("cupy")
except rn.backend.BackendError as error:
    gpu_difference = None
    print(f"not run on a GPU: {error}")
else:
    _, gpu_params = training_step()
    gpu_difference = max(np.abs(rn.backend.to_host(gpu_params[name]) - p).max() for name, p in on_host[1].items())
    print(f"on the GPU: largest difference of an updated parameter {gpu_difference:.1e}")
    print(f"  {1e3 * seconds_a_step():.1f} ms a step, {1e3 * seconds_a_step(watch_memory):.1f} ms with the float")
finally:
    rn.backend.use("numpy")

# %% [markdown]
# ## What can go wrong here
#
# - *"It is on the GPU, so it is fast."* In a model as small as ours, launches take most of the time. On an NVIDIA H100
#   a step on 32 rows of 2,048 tokens took 48 ms, and the card was busy for 7. 8 times the rows took 50.
# - *"I timed the line, it took 10 µs."* That was the launch. Ask for a number at the end of what you time.
# - *"The tests with the stand-in pass, so it works on a GPU."* It shows that only CuPy's functions are used, and how
#   often the host waits. It knows nothing of kernels, their rounding or device memory. `python -m pytest -m gpu` tests
#   those. With a card of your own, run `python -m rmaat_np.benchmark --check-out OUT`, ten minutes; send us the folder.

# %%
assert refused == list(attempts), "the stand-in let something pass that CuPy refuses"
assert list(counted.values()) == [0, 1, 1, 1, 1] and asking[2] > 1.5 * free[2]
assert np.allclose((x * xp.minimum(3 / x.sum(), 1)).get(), right[:6]), "the hint is wrong"
# in the observer: store, forward, release and backward of 4 segments, and 3 replays; isfinite: of each parameter
assert list(waits.values()) == [0, 1, 2, 4 * 4 + 3, len(on_host[1])] and len(on_host[1]) == 34 and moved > 0
assert difference < 1e-4, "the stand-in computes something else than NumPy"
assert gpu_difference is None or gpu_difference < 1e-3, "the GPU computes something else than NumPy"
