# %% [markdown]
# # 07 Replay
#
# **The question: how can a gradient be exact when what it needs was thrown away?**
#
# Lesson 06 ended with a bill: back-propagation through time (BPTT) keeps the cache of every segment until its gradient
# is due. Astrocytic Memory Replay Backpropagation (AMRB) keeps only the last cache. It also keeps the memory tokens
# that entered each segment, which take less than a hundredth of a cache. On the way back it runs a segment again from
# these memory tokens, and so has its cache again. Nothing is approximated. We watch AMRB, do it by hand, compare the
# results to the last bit, and then break it.
# ![Forward, a segment hands its memory tokens on; back, it hands back their gradient](pictures/rmaat.png)
#
# Read beside this: `rmaat_np/replay.py`, where `bptt` and `amrb` stand one above the other, and `rmaat_np/dropout.py`.

# %%
import time
from dataclasses import replace

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np import gradcheck, model, replay, segments
from rmaat_np.step import prepare_phi_r
from rmaat_np.trace import TIMELINE_SIZE, draw_timeline, event_lines, trace_step

cfg = rn.Config(
    vocab_size=16, num_classes=10, d_model=32, num_heads=2, num_layers=2, d_ff=64,
    segment_length=16, num_segments=6, num_memory=4, dropout=0.2,
)  # fmt: skip
rng = np.random.default_rng(0)
tokens = rng.integers(1, cfg.vocab_size, (8, cfg.max_length))
labels = rng.integers(0, cfg.num_classes, 8)
SEED, STEP = 0, 41  # they name the dropout masks of this training step

# %% [markdown]
# The model has **dropout** 0.2. In training, dropout sets each number that a layer hands on to 0 with probability 0.2,
# and divides the others by 0.8, so that the mean stays. The model then cannot rely on any single number. The pattern of
# zeros is called a **mask**. It is drawn anew in each training step. In this lesson dropout is the difficult part.
#
# ## What is stored, dropped, rebuilt
#
# The observer of lesson 06 is told of everything that comes and goes. These are the events of one step of AMRB. First
# the memory tokens that enter a segment are *stored* in a list, the **replay buffer**. Then the segment runs *forward*
# and has a cache. This cache is *dropped* when the next segment's turn comes. After the last segment the loss is known:
# this is the *turn*, where the way back begins. One cache is left, the last one. For each segment, from the last to the
# first, the memory tokens are *released* from the buffer, the segment is *replayed* from them, the gradient goes
# *backward* through it, and its cache is dropped for good. The columns `caches` and `buffer` are the bytes alive after
# the event.
#
# > *Predict, then run: there are 6 segments. How often does a segment run, forward and replayed together? Which segment
# > is not replayed, and why?*


# %%
def step(cfg, method, params, tokens=tokens):
    """One training step without the update, with all that an observer was told: loss, grads, stats, events."""
    return trace_step(params, cfg, tokens, labels, method, SEED, STEP)


heading("What is stored, dropped, rebuilt")
params = rn.init_params(cfg)
amrb, bptt = step(cfg, "amrb", params), step(cfg, "bptt", params)
print(*event_lines(amrb.events), sep="\n")
cache_bytes = next(event.nbytes for event in amrb.events if event.kind == "forward")
stored_bytes = next(event.nbytes for event in amrb.events if event.kind == "store")
print(f"one cache {cache_bytes:,} bytes, the memory tokens that rebuild it {stored_bytes:,}")

# %% [markdown]
# Count the rows: 6 `forward` and 5 `replay`, so a segment runs 11 times. Segment 6 is not replayed: its cache is
# still there when the gradient comes.
#
# Here are the same events as a picture: segments from left to right, time from top to bottom. A blue box is a cache,
# and its height is the time that the cache waits. With BPTT a box reaches from the segment's run to its gradient. With
# AMRB the boxes are short. Each segment has two of them, but the last one has one box. What waits with AMRB are the
# narrow hatched bars, the stored memory tokens. The dashed line is the turn. The lower row shows the bytes of all
# caches and of the buffer, in MiB (2**20 bytes). `run_lra.py --trace` draws this picture for any model and task. With
# `--html FILE` it writes a page that goes through the events one by one.

# %%
figure = pyplot.figure(figsize=TIMELINE_SIZE, layout="constrained")
draw_timeline(figure, {"bptt": bptt.events, "amrb": amrb.events})
show(figure, "07_replay_lives")

# %% [markdown]
# ## The same gradient, to the last bit
#
# What a segment computes depends on its tokens, the parameters, the memory tokens that enter, and the dropout masks.
# The replay gets all four again. So it does the same arithmetic on the same numbers in the same order, with the same
# result. This is why both methods call the same two functions, `segment_forward` and `segment_backward`. We compare
# them on full sequences and on sequences of different lengths ("ragged").
#
# > *Predict, then run: how large is the largest difference between the gradients of AMRB and BPTT in float32?*

# %%
heading("The same gradient, to the last bit")
lengths = np.array([96, 96, 80, 65, 64, 33, 16, 5])
ragged = tokens * (np.arange(cfg.max_length) < lengths[:, None])
for name, batch in (("full", tokens), ("ragged", ragged)):
    for dtype in ("float32", "float64"):
        a, b = (step(cfg, method, rn.init_params(cfg, dtype=dtype), batch) for method in ("amrb", "bptt"))
        largest = max(np.abs(a.grads[key] - b.grads[key]).max() for key in a.grads)
        equal = a.loss == b.loss and all(np.array_equal(a.grads[key], b.grads[key]) for key in a.grads)
        print(f"{name:6} {dtype}: largest difference of {len(a.grads)} gradients {largest}, equal bit for bit: {equal}")
        assert equal

# %% [markdown]
# ## By hand
#
# Replay is short. The next cell does it without the package's bookkeeping. One line of it is yours. On the way forward
# the buffer is filled in the order of the segments. On the way back each segment takes its memory tokens out of the
# buffer. Say how.

# %%
heading("By hand")
take = None  # your turn: lambda buffer: ... takes what the next segment on the way back needs out of the list `buffer`
trial = [1, 2, 3]  # stands for the memory tokens of segments 1 to 3
taken = None if take is None else [*(take(trial) for _ in range(3)), len(trial)]
hint = "The last segment's turn comes first, and the buffer is empty at the end: `pop` takes the last entry out."
your_turn(taken, [3, 2, 1, 0], hint)
take = list.pop


def amrb_by_hand(params, key_of=lambda key: key):
    """AMRB for one shard of full sequences. -> loss, gradients

    key_of: decides which dropout masks a replayed segment gets; as it stands, those of its first run
    """
    phi_r, _ = prepare_phi_r(params, cfg)
    dtype = params["embed.token"].dtype
    (shard,) = segments.cut_shards(tokens, labels, cfg, dtype, size=len(tokens), step_key=(SEED, STEP))
    memory, buffer = replay.first_memory(params, shard), []
    for t in range(shard.num_segments):
        buffer.append(memory)  # this is all that is kept
        memory, readout, _ = model.segment_forward(params, phi_r, cfg, shard.segment(t), memory)

    grads = replay.zero_gradients(params, phi_r)
    loss, _, dreadout = replay.readout_loss(readout, params, shard, grads)
    dmemory = memory  # no sequence goes on after the last segment: (0, M, D)
    for t in reversed(range(shard.num_segments)):
        segment = shard.segment(t)
        segment = replace(segment, dropout_key=key_of(segment.dropout_key))
        _, _, cache = model.segment_forward(params, phi_r, cfg, segment, take(buffer))  # the replay
        dread = dreadout if t == shard.num_segments - 1 else dreadout[:0]  # only the last segment is read out
        dmemory, *segment_grads = model.segment_backward(dmemory, dread, cache)
        replay.add_segment_grads(grads, *segment_grads, t)
    replay.add_first_memory_grad(grads, dmemory)
    return loss, grads.params  # but for attn.rel.weight: its gradient comes from that of phi(R), once a step


params64 = rn.init_params(cfg, dtype="float64")
loss, grads = amrb_by_hand(params64)
package = step(cfg, "amrb", params64)
shared = [name for name in package.grads if "attn.rel" not in name]
print(f"by hand and in the package: loss {loss:.12f} and {package.loss:.12f}")
assert loss == package.loss and all(np.array_equal(grads[name], package.grads[name]) for name in shared)

# %% [markdown]
# ## Why dropout must be replayable
#
# Suppose that the replay draws *other* masks. Then it rebuilds the cache of a segment that never ran: the loss belongs
# to one network, the gradient to another. Nothing crashes. Here `key_of` gives the replayed segments the masks of the
# next step. A random generator that simply runs on would do the like.
#
# Lesson 01 judges. SEED and STEP name the masks, so the loss is a fixed function of the parameters. Its finite
# difference along a random direction must equal the gradient along that direction. We try five directions.
#
# > *Predict, then run: how wrong is a gradient with other masks? By a rounding error, by 1 %, or by more?*

# %%
heading("Why dropout must be replayable")
_, wrong = amrb_by_hand(params64, key_of=lambda key: replace(key, step=key.step + 1))
errors = {"the same masks": [], "other masks": []}
for _ in range(5):
    direction = {name: rng.standard_normal(params64[name].shape) for name in shared}
    measured = gradcheck.directional_derivative(lambda moved: step(cfg, "bptt", moved).loss, params64, direction)
    for name, found in (("the same masks", grads), ("other masks", wrong)):
        claimed = sum(float((found[key] * d).sum()) for key, d in direction.items())
        errors[name].append(abs(claimed - measured) / abs(measured))
for name, found in errors.items():
    print(f"replayed with {name:14}: relative error of the gradient " + ", ".join(f"{error:.1e}" for error in found))

# %% [markdown]
# So a mask must not be the next numbers of a generator. It must be a *function of its place*. `dropout.py` computes
# each mask from the seed, the step, the row of the batch, the segment, the layer and the operation, and keeps no mask.
# AMRB can compute it again. Shards can compute their masks in any order. A run that goes on from a saved state gets the
# same masks.
#
# ## The new bill
#
# We let the number of segments grow. The left panel shows the memory that caches and buffer take, in MiB. The middle
# panel shows how often a segment runs: 2 S - 1 times with AMRB, S times with BPTT. A gradient costs about two forward
# runs. So three units of work become at most four. The right panel shows the measured time. AMRB often takes less than
# a third more, because filling and reading BPTT's large memory takes time too.
#
# > *Predict, then run: from 2 segments to 32, by what factor does the memory of BPTT grow, and by what factor AMRB's?*

# %%
heading("The new bill")
counts = (2, 4, 8, 16, 32)
bills, counted = {"bptt": [], "amrb": []}, {}
for count in counts:
    long_cfg = replace(cfg, num_segments=count, d_model=64, d_ff=128, segment_length=64, segment_embedding=False)
    long_params, long_tokens = rn.init_params(long_cfg), rng.integers(1, 16, (8, long_cfg.max_length))
    seconds = {method: [] for method in bills}
    for _ in range(5):  # in turn, so that whatever else the machine does meets both
        for method in bills:
            begun = time.process_time()  # of this process alone: other programs do not count
            events = step(long_cfg, method, long_params, long_tokens).events
            seconds[method].append(time.process_time() - begun)
            runs = sum(event.kind in ("forward", "replay") for event in events)
            counted[method] = {"MiB": max(event.held for event in events) / 2**20, "runs": runs}
    for method, bill in bills.items():
        bill.append(counted[method] | {"µs": 1e6 * min(seconds[method]) / long_tokens.size})
growth = {method: bill[-1]["MiB"] / bill[0]["MiB"] for method, bill in bills.items()}
for method, bill in bills.items():
    print(f"{method}: {bill[0]['MiB']:.2f} MiB with 2 segments, {bill[-1]['MiB']:.2f} with 32: x {growth[method]:.2f}")
ratios = [a["µs"] / b["µs"] for a, b in zip(bills["amrb"], bills["bptt"], strict=True)]
print("AMRB's time over BPTT's: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))

figure, axes = pyplot.subplots(1, 3, figsize=(11.5, 3.8), layout="constrained")
titles = {"MiB": "memory: MiB of caches and buffer", "runs": "work: runs of a segment", "µs": "time: µs a token"}
for axis, (what, title) in zip(axes, titles.items(), strict=True):
    for method, style in (("bptt", "s--"), ("amrb", "o-")):
        axis.plot(counts, [bill[what] for bill in bills[method]], style, label=method.upper())
    axis.set(xlabel="segments", title=title, ylim=(0, 1.08 * axis.get_ylim()[1]), xticks=(2, 8, 16, 32))
axes[0].legend(frameon=False)
show(figure, "07_replay_bill")

# %% [markdown]
# ## What can go wrong here
#
# - *"AMRB approximates."* It repeats. The gradients are compared with `array_equal`, not with a tolerance.
# - *"Replay goes forward through the sequence again."* It goes segment by segment in *reverse*. That is why the memory
#   tokens that entered every segment are stored. Look at the second half of the event list.
# - *"Other dropout masks only add noise."* They give the gradient of another function. The finite difference says by
#   how much it is wrong.

# %%
kinds = [event.kind for event in amrb.events]
S = cfg.num_segments
assert [kinds.count(kind) for kind in ("store", "forward", "replay", "backward")] == [S, S, S - 1, S]
assert [event.segment for event in amrb.events if event.kind == "backward"] == list(range(S))[::-1]
assert amrb.stats["peak_cache_bytes"] == cache_bytes and bptt.stats["peak_cache_bytes"] > 4 * cache_bytes
assert cache_bytes > 100 * stored_bytes
assert max(errors["the same masks"]) < 1e-6 < 1e-2 < max(errors["other masks"])
assert [bill["runs"] for bill in bills["amrb"]] == [2 * count - 1 for count in counts]
assert [bill["runs"] for bill in bills["bptt"]] == list(counts)
assert growth["bptt"] > 10 and growth["amrb"] < 1.2
assert 0.5 < np.median(ratios) < 2  # 4/3 by the count of runs; the rest is room for a busy machine
