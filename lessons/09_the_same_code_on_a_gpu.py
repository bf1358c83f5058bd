# %% [markdown]
# # 09 The same code on a GPU
#
# **The question: what changes when the arrays live on another device?**
#
# In the code almost nothing. Every function that can run on the device begins with `xp = backend.xp` and calls nothing
# but `xp` on its arrays; `rn.backend.use("cupy")` makes that CuPy, whose functions have NumPy's names. What changes is
# *time*: the device works on its own, and whoever asks it for a number has to wait for it. A program that asks all the
# time is correct, gives the same results, and may be slower on the GPU than on the CPU. No result shows it.
#
# So we look for something that does show it, and that needs no GPU: a stand-in device that counts.
#
# **What has not been run.** This package's CuPy path was written without a GPU at hand, and as far as this lesson knows
# it has never run on one; the README's section "Routes" has the present state. The counts below are facts about the
# code. The timeline is a model with round numbers, not a measurement. Only the last part uses a GPU, if there is one.
#
# Read beside this: `rmaat_np/backend.py`, `tests/helpers/strict_device.py`, `tests/cuda/test_gpu.py`.

# %%
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from show import show

import rmaat_np as rn
from rmaat_np import optim

sys.path.insert(0, str(Path(rn.__file__).resolve().parent.parent / "tests"))  # the stand-in lives with the tests
from helpers import strict_device  # noqa: E402

cfg = rn.Config(
    vocab_size=16, num_classes=10, d_model=32, num_heads=2, num_layers=2, d_ff=64,
    segment_length=16, num_segments=4, num_memory=4,
)  # fmt: skip
rng = np.random.default_rng(0)
tokens = rng.integers(1, cfg.vocab_size, (8, cfg.max_length))
labels = rng.integers(0, cfg.num_classes, 8)

# %% [markdown]
# ## Two clocks
#
# `y = xp.exp(x)` on a GPU returns at once: the host has put a *kernel* into the device's queue, and goes on to the next
# line while the device works through the queue. As long as the host is ahead, the device never idles. `float(y)` needs
# the number itself: the host stops until the queue is empty, then copies. This is a *synchronisation*. Meanwhile no
# kernel enters the queue, so afterwards it is the device that waits. The two stand still in turn.
#
# The lines below play this through: 5 µs to launch, 8 µs to compute, 15 µs for the number to come back.


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


free, asking = timeline(24), timeline(24, ask_every=2)
print(f"24 operations: {free[2]} µs if nobody asks, {asking[2]} µs if every second result is asked for")

# %% [markdown]
# ## The stand-in device
#
# `strict_device.module` takes CuPy's place. Its arrays compute with NumPy inside, but they behave as if they were far
# away: whatever CuPy refuses they refuse, and each time the host needs a value from them, a counter goes up. It offers
# only names that CuPy has, too. So code that passes here uses CuPy as it is meant, and we know how often it waits.

# %%
xp = strict_device.module
x = xp.asarray(np.arange(6.0))


def refused(what, attempt):
    """Print the stand-in's objection. Returns whether there was one."""
    try:
        attempt()
    except (TypeError, AttributeError) as error:
        print(f"  {what}: {error}")
        return True
    return False


objections = [refused("np.asarray(x)", lambda: np.asarray(x)), refused("np.sum(x)", lambda: np.sum(x))]
objections += [refused("x + a NumPy array", lambda: x + np.ones(6)), refused("xp.errstate", lambda: xp.errstate)]
counted = {}
for what, attempt in {
    "xp.sqrt(x).sum()": lambda: xp.sqrt(x).sum(),
    "float(x.sum())": lambda: float(x.sum()),
    "if x.sum() > 3": lambda: bool(x.sum() > 3),
    "x[x > 2]": lambda: x[x > 2],
    "print(x)": lambda: str(x),
}.items():
    strict_device.reset_synchronisations()
    attempt()
    counted[what] = strict_device.synchronisations()
    print(f"  {what:18} waits {counted[what]} times")

# %% [markdown]
# Two of them deserve a second look. `if x.sum() > 3` holds no `float`, but Python must know which way to go. And
# the *shape* of `x[x > 2]` depends on values, and shapes live on the host. So the model masks padding by multiplying.
#
# ## The whole model on the stand-in


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


on_host = training_step()
rn.backend.xp, rn.backend.name = strict_device.module, "cupy"
on_device = training_step()
waits = {"the step itself": strict_device.synchronisations()}
moved = strict_device.uploads()
difference = max(float(np.abs(on_device[1][name].get() - p).max()) for name, p in on_host[1].items())
print(f"one step: {waits['the step itself']} synchronisations, {moved} uploads of tokens, labels and their like")
print(f"largest difference of an updated parameter from NumPy's: {difference:.1e}")

# %% [markdown]
# A step of 4 segments, forward, replay, backward and AdamW, without one question: the host can queue the whole step,
# clipping included (`minimum(clip / norm, 1)` computes what an `if norm > clip` would ask). Now the habits that creep
# into training loops. Each looks harmless, and on NumPy each is.


# %%
def watch_memory(event):
    """A stray float in an observer: the norm of whatever the event carries."""
    if event.array is not None:
        float(rn.backend.xp.linalg.norm(event.array))


def one_by_one(loss, grads, norm):
    """The two numbers of a log line, each asked for by itself."""
    float(loss), float(norm)


def together(loss, grads, norm):
    """The same two, joined on the device first: what `train.train_step` does."""
    rn.backend.to_host(rn.backend.xp.stack([loss, norm]))


def every_gradient(loss, grads, norm):
    """Is every gradient finite? Asked array by array."""
    all(bool(rn.backend.xp.isfinite(g).all()) for g in grads.values())


habits = {
    "a log line, joined first": {"after": together},
    "a log line, 2 numbers": {"after": one_by_one},
    "a float in an observer": {"observer": watch_memory},
    "isfinite of each gradient": {"after": every_gradient},
}
for habit, options in habits.items():
    training_step(**options)
    waits[habit] = strict_device.synchronisations()
rn.backend.use("numpy")
for habit, count in waits.items():
    print(f"{habit:26} {count:3} synchronisations")

# %% [markdown]
# The counts do not say how many milliseconds a stop costs; that depends on how far ahead the host was. They say where
# to look, and a test holds them: a `float` inside a step breaks `tests/model/test_backend.py` on any machine.

# %%
figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.2), layout="constrained", width_ratios=(1.5, 1))
for base, (host, device, end), label in ((3, free, "nobody asks"), (0, asking, "every 2nd result\nis asked for")):
    axes[0].broken_barh(host["launch"], (base + 1, 0.8), color="C0", edgecolor="white")
    axes[0].broken_barh(host["wait"], (base + 1, 0.8), facecolor="none", edgecolor="0.4", hatch="////")
    axes[0].broken_barh(device, (base, 0.8), color="C1", edgecolor="white")
    axes[0].text(end + 8, base + 0.9, f"{label}\n{end} µs", va="center")
axes[0].set_yticks([0.4, 1.4, 3.4, 4.4], ["device", "host", "device", "host"])
axes[0].set(xlabel="µs (a model, not measured)", title="two clocks: filled is work, hatched: host waits", xlim=(0, 690))
axes[1].barh(list(waits), list(waits.values()), color="C0")
for place, count in enumerate(waits.values()):
    axes[1].text(count + 0.5, place, count, va="center")
axes[1].invert_yaxis()
axes[1].set(title="synchronisations in one training step", xlim=(0, max(waits.values()) * 1.15))
show(figure, "09_the_same_code_on_a_gpu")

# %% [markdown]
# ## On a GPU, if there is one
#
# The same function again, on CuPy: is the result the same, and what does the stray float cost? A backend that cannot
# run says why and what to do; it never falls back silently, or one would time the CPU and believe it was the GPU.


# %%
def seconds_a_step(observer=None, steps=20):
    """Mean time of a step without the update; asks for the last loss, so that the queue is empty at the end."""
    params = rn.init_params(cfg)
    float(rn.loss_and_grads(params, cfg, tokens, labels)[0])  # the first step compiles kernels
    begun = time.perf_counter()
    for _ in range(steps):
        loss, _, _ = rn.loss_and_grads(params, cfg, tokens, labels, observer=observer)
    float(loss)
    return (time.perf_counter() - begun) / steps


try:
    rn.backend.use("cupy")
except rn.backend.BackendError as error:
    gpu_difference = None
    print(f"not run on a GPU: {error}")
else:
    _, gpu_params = training_step()
    gpu_difference = max(np.abs(rn.backend.to_host(gpu_params[name]) - p).max() for name, p in on_host[1].items())
    print(f"on the GPU: largest difference of an updated parameter {gpu_difference:.1e}")
    print(f"  {1e3 * seconds_a_step():.1f} ms a step, {1e3 * seconds_a_step(watch_memory):.1f} ms with the stray float")
finally:
    rn.backend.use("numpy")

# %% [markdown]
# ## What can go wrong here
#
# - *"It is on the GPU, so it is fast."* A model as small as ours is mostly launches. With `use("cupy")` the kernels of
#   `rmaat_np/cuda/kernels.cu` make one launch of many; what that gains on a GPU is unmeasured.
# - *"I timed the line, it took 10 µs."* You timed the launch. Ask for a number at the end of what you time, and only
#   there.
# - *"The stand-in is green, so it works on a GPU."* It shows that only CuPy's functions are used, and how often one
#   waits. It knows nothing of kernels, of their rounding or of device memory; `python -m pytest -m gpu` is for those.

# %%
assert all(objections), "the stand-in let something pass that CuPy refuses"
assert list(counted.values()) == [0, 1, 1, 1, 1]
assert waits["the step itself"] == 0 and moved > 0
assert waits["a log line, joined first"] == 1 and waits["a log line, 2 numbers"] == 2
assert waits["isfinite of each gradient"] == len(on_host[1])
assert waits["a float in an observer"] == 4 * 4 + 3, "store, forward, release and backward of 4 segments, 3 replays"
assert difference < 1e-4, "the stand-in computes something else than NumPy"
assert asking[2] > 1.5 * free[2]
assert gpu_difference is None or gpu_difference < 1e-3, "the GPU computes something else than NumPy"
