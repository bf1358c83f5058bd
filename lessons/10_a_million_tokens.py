# %% [markdown]
# # 10 A million tokens
#
# **The question: when a sequence grows, what else has to grow?**
#
# We train on one sequence and double its length again and again, for as long as this lesson may take. At every length
# we read three meters: the bytes of all caches alive at once, the bytes of the replay buffer, and the processor time
# per token. We read them for memory replay (AMRB) and, at the shorter lengths, for back-propagation through time
# (BPTT). Then we draw the lines on to a million tokens, and compare with a run that did go there.
#
# Read beside this: `rmaat_np/replay.py`, `rmaat_np/benchmark/measure.py`, and the table "A million tokens" in
# `lessons/results/README.md`.

# %%
import time

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np.system.machine import keep_freed_memory

SECONDS = 10  # how long the doubling may go on
BPTT_UP_TO = 16_384  # tokens; at four times as many its caches take more than 300 MiB
MILLION = 2**20
keep_freed_memory()
rng = np.random.default_rng(0)
tokens = rng.integers(1, 32, (1, MILLION), dtype=np.uint8)


def config(length, segment_length=512):
    """The model of that table for a sequence of `length` tokens, whatever its number of segments."""
    return rn.Config(
        vocab_size=32, num_classes=10, d_model=64, num_heads=2, num_layers=2, d_ff=128, num_memory=8,
        segment_length=segment_length, num_segments=length // segment_length, segment_embedding=False,
    )  # fmt: skip


# %% [markdown]
# Look at what the configuration does *not* contain. A segment embedding is a learned vector for each segment, which is
# added to its tokens. With it the parameters would grow with the sequence, so it is switched off. The position
# embedding has one vector for each place in a segment, the same for all segments. So the parameters are the same at
# every length.
#
# ## The measurement
#
# > *Predict, then run: the sequence gets twice as long. What happens to BPTT's caches, to AMRB's caches, to the replay
# > buffer, and to the time per token? Each of them doubles or stays.*


# %%
def measure(length, method, segment_length=512):
    """One training step without the update, on the first `length` tokens. -> the meters."""
    cfg = config(length, segment_length)
    params = rn.init_params(cfg)
    begun = time.process_time(), time.perf_counter()
    loss, grads, stats = rn.loss_and_grads(params, cfg, tokens[:, :length], np.array([3]), method)
    processor_seconds, seconds = time.process_time() - begun[0], time.perf_counter() - begun[1]
    return {
        "length": length,
        "seconds": seconds,
        "microseconds": 1e6 * processor_seconds / length,  # other programs disturb it less than the clock on the wall
        "caches": stats["peak_cache_bytes"],
        "buffer": stats["replay_buffer_bytes"],
        "sizes": sum(p.size for p in params.values()),
        "loss": float(loss),
        "first memory": float(np.linalg.norm(grads["memory.init"])),
        "last layer": float(np.linalg.norm(grads["head.weight"])),
    }


heading("The measurement")
for method in ("amrb", "bptt"):
    measure(4096, method)  # the first run of each is slower; it does not count
begun, length = time.perf_counter(), 4096
runs = {"amrb": [], "bptt": []}
while True:
    for method, rows in runs.items():
        if method == "amrb" or length <= BPTT_UP_TO:
            rows.append(measure(length, method))
            row = rows[-1]
            print(
                f"{length:9,} tokens, {method}: caches {row['caches'] / 2**20:7.2f} MiB, "
                f"buffer {row['buffer'] / 2**20:5.2f} MiB, {row['microseconds']:5.1f} µs a token"
            )
    next_step = 2 * runs["amrb"][-1]["seconds"]
    if length == MILLION or (length >= BPTT_UP_TO and time.perf_counter() - begun + next_step > SECONDS):
        break
    length *= 2
amrb, bptt = runs["amrb"], runs["bptt"]

figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
for rows, label, style in ((bptt, "BPTT", "s--"), (amrb, "AMRB", "o-")):
    axis.plot([row["length"] for row in rows], [row["microseconds"] for row in rows], style, label=label)
axis.set(xscale="log", xlabel="tokens in the sequence, in units of 1,024", ylabel="µs")
axis.set(title="processor time per token", ylim=(0, 1.4 * max(row["microseconds"] for row in amrb + bptt)))
axis.set_xticks([row["length"] for row in amrb], [row["length"] // 1024 for row in amrb])
axis.minorticks_off()
axis.legend(frameon=False)
show(figure, "10_a_million_tokens_time")

# %% [markdown]
# BPTT's caches double, as it keeps one for each segment. AMRB's caches do not grow by a byte: there is never more than
# one. AMRB's buffer doubles. It takes the memory tokens of one segment, `8 x 64` numbers of four bytes, for every 512
# tokens of the sequence. That is four bytes a token. The time per token is about the same at every length.
#
# ## Drawing the lines on
#
# The bytes are straight lines over the length. So two points give the line, and we can draw it on to a million tokens.
# These are bytes that we *count*. A process needs more: parameters, gradients, and arrays that live for a moment only.
# The project's benchmark did go to a million tokens. It measured how much the process grew above its idle size: by 16.2
# MiB with AMRB, by 5,862.7 MiB with BPTT.
#
# > *Predict, then run: for which of the two methods does our count come closer to the measured size of the process?*


# %%
def extrapolate(rows, meter):
    """The straight line through the first two lengths, at a million tokens."""
    (x0, y0), (x1, y1) = ((row["length"], row[meter]) for row in rows[:2])
    return y0 + (y1 - y0) / (x1 - x0) * (MILLION - x0)


heading("Drawing the lines on")
expected = {
    "amrb": extrapolate(amrb, "caches") + extrapolate(amrb, "buffer"),
    "bptt": extrapolate(bptt, "caches"),
}
measured_there = {"amrb": 16.2 * 2**20, "bptt": 5862.7 * 2**20}  # lessons/results/README.md, "A million tokens"
for method in runs:
    print(f"{method} at a million tokens: {expected[method] / 2**20:8,.1f} MiB counted,", end=" ")
    print(f"{measured_there[method] / 2**20:8,.1f} MiB measured by the benchmark")
rate = np.median([row["microseconds"] for row in amrb])
print(f"and about {rate * MILLION / 1e6:.0f} s of processor time for such a step with AMRB here")

figure, axis = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
meters = ((bptt, "BPTT: caches", "caches", "s"), (amrb, "AMRB: caches", "caches", "o"))
for color, (rows, label, meter, mark) in enumerate((*meters, (amrb, "AMRB: buffer", "buffer", "^"))):
    lengths, values = [row["length"] for row in rows], [row[meter] / 2**20 for row in rows]
    axis.plot(lengths, values, mark + "-", color=f"C{color}", label=label)
    drawn_on = [values[-1], extrapolate(rows, meter) / 2**20]
    axis.plot([lengths[-1], MILLION], drawn_on, mark + ":", color=f"C{color}", mfc="white", markevery=[1])
for method, size in measured_there.items():
    axis.plot(MILLION, size / 2**20, "kx", ms=9, label="process, measured" if method == "amrb" else None)
    axis.text(1.15 * MILLION, size / 2**20, method.upper(), va="center")
axis.set(xscale="log", yscale="log", ylim=(1e-2, 3e4), xlabel="tokens in the sequence", ylabel="MiB")
axis.set_title("alive at once: filled is counted here, open is drawn on")
axis.legend(frameon=False, fontsize=10, loc="upper left")
show(figure, "10_a_million_tokens_memory")

# %% [markdown]
# For BPTT the count is nearly all there is. For AMRB what we count is so small that the rest weighs more.
#
# ## The one choice that is left: how long is a segment?
#
# Let a sequence have n tokens. The cache of a segment takes `a L` bytes, in proportion to its length L. The buffer
# takes b bytes for each of the n / L segments. Short segments make a long buffer, long ones a large cache. In between,
# the sum `a L + b n / L` is smallest. Find the L.

# %%
heading("The one choice that is left: how long is a segment?")
n = 16_384
by_segment = {L: measure(n, "amrb", L) for L in (16, 32, 64, 128, 256, 512)}
totals = {L: row["caches"] + row["buffer"] for L, row in by_segment.items()}
a = by_segment[512]["caches"] / 512
b = by_segment[512]["buffer"] / (n / 512)
best = None  # your turn: the L at which a * L + b * n / L is smallest, in terms of a, b and n
hint = "At the smallest sum the derivative is 0: a - b * n / L**2 = 0. Solve it for L, and do not forget the root."
best = your_turn(best, np.sqrt(b * n / a), hint)
for L, row in by_segment.items():
    print(f"L {L:5}: {totals[L] / 2**20:5.2f} MiB, {row['microseconds']:5.1f} µs a token")
print(f"the formula says L = {best:.0f}")

figure, axis = pyplot.subplots(figsize=(7, 3.8), layout="constrained")
axis.plot(list(by_segment), [total / 2**20 for total in totals.values()], "o", label="counted")
smooth = np.geomspace(16, 512, 50)
axis.plot(smooth, (a * smooth + b * n / smooth) / 2**20, "-", color="0.5", label="a L + b n / L")
axis.axvline(best, color="0.5", ls=":", label="smallest sum")
axis.set(xscale="log", ylim=(0, None), xlabel="segment length L", title=f"AMRB, {n:,} tokens: cache and buffer")
axis.set_ylabel("MiB")
axis.set_xticks(list(by_segment), list(by_segment))
axis.minorticks_off()
axis.legend(frameon=False)
show(figure, "10_a_million_tokens_segments")

# %% [markdown]
# With the best L the sum is `2 sqrt(a b n)`. So the memory need grow only with the square root of the length.
# (Elsewhere replay is known as *checkpointing*. For the same reason it often stores a state every sqrt(n) steps.) Very
# short segments have a price: the time per token goes up, because more calls of Python do the same work.
#
# ## What does not grow: what can be remembered
#
# A million tokens pass through eight memory tokens of 64 numbers. That a training step *runs* says nothing about what
# the model *keeps*. The retention factors of `integrate` sum to 1. So each of 2,048 segments is taken over by one
# 2,048th on average. Of the first memory the product of all `1 - RF` is left.
#
# > *Predict, then run: after 2,048 segments, how much of the first memory is left? Nothing, a thousandth, a third?*

# %%
heading("What does not grow: what can be remembered")
factors = rn.retention_factors(MILLION // 512)
untouched = np.prod(1 - factors)
print(f"2,048 segments: RF from {factors[0]:.1e} to {factors[-1]:.1e}; {untouched:.3f} of the first memory is left")
print("the norm of the gradient that arrives at the first memory, over the norm of the head's gradient:")
shares = [row["first memory"] / row["last layer"] for row in amrb]
for row, share in zip(amrb, shares, strict=True):
    print(f"{row['length']:9,} tokens, {row['length'] // 512:5} segments: {share:.2f}")

# %% [markdown]
# The product of all `1 - RF` is close to exp(-1), because the RF are small and sum to 1. So the gradient can reach the
# very first memory at any length, at least at the start of training. But each segment has a say of about half a
# thousandth, or less. Whether a model learns to use it is another experiment. Those that were made are in
# `lessons/results/README.md`.
#
# ## What can go wrong here
#
# - *"Memory is constant."* The caches are. The buffer grows by four bytes a token. At a million tokens it is already
#   the larger part of what we counted.
# - *"A counted byte is a byte of RAM."* The counts leave out parameters, gradients and other arrays. Compare counts
#   with counts, and processes with processes.
# - *"It trained on a million tokens, so it understands a million tokens."* Only that the step fits has been shown.

# %%
assert len({row["caches"] for row in amrb}) == 1, "a cache grew with the sequence"
assert all(row["buffer"] == row["length"] // 512 * 8 * 64 * 4 for row in amrb), "the buffer holds S M D numbers"
assert all(row["caches"] == row["length"] // 512 * amrb[0]["caches"] for row in bptt), "not one cache a segment"
assert all(a["loss"] == b["loss"] for a, b in zip(amrb, bptt, strict=False)), "the methods differ"
assert len({row["sizes"] for row in amrb}) == 1, "a parameter grew with the sequence"
assert amrb[-1]["length"] >= BPTT_UP_TO
assert 0.9 * measured_there["bptt"] < expected["bptt"] < measured_there["bptt"], "counted more than the process needed"
assert expected["amrb"] < measured_there["amrb"] < expected["bptt"] / 100
assert amrb[-1]["microseconds"] < 3 * amrb[0]["microseconds"], "time per token grows"
assert min(totals, key=totals.get) == 64 and 32 < best < 128
assert abs(untouched - np.exp(-1)) < 0.01 and min(shares) > 1e-3, "nothing reaches the first memory"
