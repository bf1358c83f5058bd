# %% [markdown]
# # 10 A million tokens
#
# **The question: when a sequence grows, what else has to grow?**
#
# We train on one sequence and double its length again and again, for as long as this lesson may take. At every length
# we read three meters: the bytes of the largest set of caches alive at once, the bytes of the replay buffer, and the
# processor time per token; for memory replay (AMRB) and, as long as it is sensible, for back-propagation through time.
# Then we draw the lines on to a million tokens, and compare with a run that did go there.
#
# Read beside this: `rmaat_np/replay.py`, `rmaat_np/benchmark/measure.py`, and the README's table "A million tokens".

# %%
import time

import numpy as np
from matplotlib import pyplot
from show import show

import rmaat_np as rn
from rmaat_np.system.machine import keep_freed_memory

SECONDS = 10  # how long the doubling may go on
BPTT_UP_TO = 16_384  # beyond, its caches soon take hundreds of megabytes
MILLION = 2**20
keep_freed_memory()
rng = np.random.default_rng(0)
tokens = rng.integers(1, 32, (1, MILLION), dtype=np.uint8)


def config(length, segment_length=512):
    """The model of the README's table for a sequence of `length` tokens, whatever its number of segments."""
    return rn.Config(
        vocab_size=32, num_classes=10, d_model=64, num_heads=2, num_layers=2, d_ff=128, num_memory=8,
        segment_length=segment_length, num_segments=length // segment_length, segment_embedding=False,
    )  # fmt: skip


# %% [markdown]
# Look at what the configuration does *not* contain. The position embedding has one row per place in a segment, the same
# for all segments. A segment embedding would have one row per segment, so the parameters would grow with the sequence;
# it is switched off. The parameters are the same at every length, which the last cell checks.
#
# ## The measurement


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

# %% [markdown]
# With AMRB the caches do not grow by a byte: there is never more than one segment's. The buffer grows, by the memory
# tokens of one segment, `8 x 64` numbers, per 512 tokens: four bytes a token. It is the only thing that does. BPTT's
# caches grow by a whole cache per segment. The time per token is about the same at every length. AMRB's replay adds to
# it, but less than the third that one would count: BPTT's memory is larger than the processor's caches.
#
# ## Drawing the lines on
#
# All three meters are straight lines through the lengths, so two points give the line, and the others check it. These
# are bytes that we *count*. What a process needs is more: parameters, gradients, temporaries, and what the allocator
# wastes. The README's benchmark went to a million tokens and measured the process: 16.2 MiB above idle for AMRB, and
# 5,863 MiB for BPTT. Our lines must come out below both: a little for BPTT, whose caches are nearly all there is, by
# more than half for AMRB, where the rest weighs more than what we count.


# %%
def extrapolate(rows, meter):
    """The straight line through the first two lengths, at a million tokens."""
    (x0, y0), (x1, y1) = ((row["length"], row[meter]) for row in rows[:2])
    return y0 + (y1 - y0) / (x1 - x0) * (MILLION - x0)


expected = {
    "amrb": extrapolate(amrb, "caches") + extrapolate(amrb, "buffer"),
    "bptt": extrapolate(bptt, "caches"),
}
measured_there = {"amrb": 16.2 * 2**20, "bptt": 5863 * 2**20}  # README, "A million tokens"
for method in runs:
    print(f"{method} at a million tokens: {expected[method] / 2**20:8,.1f} MiB counted,", end=" ")
    print(f"{measured_there[method] / 2**20:8,.1f} MiB measured by the benchmark")
rate = np.median([row["microseconds"] for row in amrb])
print(f"and about {rate * MILLION / 1e6:.0f} s of processor time for such a step here")

# %% [markdown]
# ## The one choice that is left: how long is a segment?
#
# The cache is proportional to the segment length L; the buffer to the number of segments, n / L. Short segments make a
# long buffer, long ones a large cache, and with `a L + b n / L` the sum is smallest at `L = sqrt(b n / a)`: memory need
# grow with the square root of the length only. (The same thought makes sqrt(n) checkpoints the classical choice.)

# %%
choice_length = 16_384
by_segment = {L: measure(choice_length, "amrb", L) for L in (16, 32, 64, 128, 256, 512)}
totals = {L: row["caches"] + row["buffer"] for L, row in by_segment.items()}
a = by_segment[512]["caches"] / 512
b = by_segment[512]["buffer"] / (choice_length / 512)
best = np.sqrt(b * choice_length / a)
for L, row in by_segment.items():
    print(f"L {L:5}: {totals[L] / 2**20:5.2f} MiB, {row['microseconds']:5.1f} µs a token")
print(f"the formula says L = {best:.0f}")

# %%
figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
meters = ((bptt, "BPTT", "caches", "s"), (amrb, "AMRB", "caches", "o"), (amrb, "AMRB", "buffer", "^"))
for color, (rows, method, meter, mark) in enumerate(meters):
    lengths, values = [r["length"] for r in rows], [r[meter] / 2**20 for r in rows]
    axes[0].plot(lengths, values, mark + "-", color=f"C{color}", label=f"{method}: {meter}")
    drawn_on = [values[-1], extrapolate(rows, meter) / 2**20]
    axes[0].plot([lengths[-1], MILLION], drawn_on, mark + ":", color=f"C{color}", mfc="white", markevery=[1])
axes[0].plot([MILLION] * 2, [v / 2**20 for v in measured_there.values()], "kx", ms=9, label="process (README)")
axes[0].set(xscale="log", yscale="log", ylim=(1e-2, 1e6), xlabel="tokens in the sequence", title="MiB alive at once")
axes[0].legend(frameon=False, fontsize=10)
for rows, label, mark in ((bptt, "BPTT", "s--"), (amrb, "AMRB", "o-")):
    axes[1].plot([r["length"] for r in rows], [r["microseconds"] for r in rows], mark, label=label)
axes[1].set(xscale="log", xlabel="thousand tokens in the sequence", title="processor time per token, µs")
axes[1].set_xticks([row["length"] for row in amrb], [row["length"] // 1024 for row in amrb])
axes[1].minorticks_off()
axes[1].set_ylim(0, 1.3 * max(r["microseconds"] for r in amrb + bptt))
axes[1].legend(frameon=False)
segment_lengths = np.array(list(by_segment))
axes[2].plot(segment_lengths, [v / 2**20 for v in totals.values()], "o", label="counted")
smooth = np.geomspace(16, 512, 50)
axes[2].plot(smooth, (a * smooth + b * choice_length / smooth) / 2**20, "-", color="0.5", label="a L + b n / L")
axes[2].axvline(best, color="0.5", ls=":")
axes[2].set(xscale="log", ylim=(0, None), xlabel="segment length L", title=f"AMRB, {choice_length:,} tokens: MiB")
axes[2].set_xticks(segment_lengths, segment_lengths)
axes[2].minorticks_off()
axes[2].legend(frameon=False)
show(figure, "10_a_million_tokens")

# %% [markdown]
# ## What does not grow: what can be remembered
#
# A million tokens pass through eight memory tokens of 64 numbers. That a training step *runs* says nothing about what
# the model *keeps*. `integrate` shares out a capacity of 1 among the segments: of 2,048, each takes over one 2,048th on
# average. What was there before survives all of them with the product of `1 - RF`, which tends to 1/e: so the gradient
# can always reach the very first memory. We measure how much of it does, beside what the head gets.

# %%
factors = rn.retention_factors(MILLION // 512)
untouched = np.prod(1 - factors)
print(f"2,048 segments: RF from {factors[0]:.1e} to {factors[-1]:.1e}; {untouched:.3f} of the first memory is left")
shares = [row["first memory"] / row["last layer"] for row in amrb]
for row, share in zip(amrb, shares, strict=True):
    print(f"{row['length']:9,} tokens, {row['length'] // 512:5} segments: {share:.1e} of the head's gradient arrives")

# %% [markdown]
# So the way is open, at least at the start of training; but each segment is given a thousandth of a say. Whether a
# model learns to use it is another experiment, which this lesson does not make; the README lists those that were made.
#
# ## What can go wrong here
#
# - *"Memory is constant."* The caches are. The buffer grows by four bytes a token, and at a million tokens it is
#   already the larger part of what we counted.
# - *"A counted byte is a byte of RAM."* The counts leave out parameters, gradients and temporaries. Compare like with
#   like: counts with counts, processes with processes.
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
assert max(row["microseconds"] for row in amrb) < 3 * min(row["microseconds"] for row in amrb), "time per token grows"
assert min(totals, key=totals.get) == 64 and 32 < best < 128
assert abs(untouched - np.exp(-1)) < 0.01 and min(shares) > 1e-3, "nothing reaches the first memory"
