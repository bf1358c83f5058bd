# %% [markdown]
# # 07 Replay
#
# **The question: how can a gradient be exact when what it needs was thrown away?**
#
# Lesson 06 ended with a bill: back-propagation through time (BPTT) keeps the cache of every segment until its gradient
# is due. Astrocytic Memory Replay Backpropagation (AMRB) keeps none but the last. It keeps the memory tokens that
# entered each segment, a hundredth of a cache, and on the way back runs the segment once more to get its cache again.
# Nothing is approximated. We watch it happen, do it by hand, compare to the last bit, and then break it.
#
# Read beside this: `rmaat_np/replay.py`, where `bptt` and `amrb` stand one above the other, and `rmaat_np/dropout.py`.

# %%
import time
from dataclasses import replace

import numpy as np
from matplotlib import pyplot
from show import show

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
# ## What is stored, dropped, rebuilt
#
# `loss_and_grads` tells an observer of everything that comes and goes. Here is AMRB's step as it tells it, with the
# bytes that are alive after each event. Read it as a story: a segment's memory tokens are *stored*, the segment runs
# *forward* and has a cache, and as soon as the next segment's turn comes that cache is *dropped*. At the turning point
# one cache is left, the last one. On the way back each segment's memory tokens are *released*, the segment is
# *replayed* from them, gone *backward* through, and dropped for good.


# %%
def step(cfg, method, params, tokens=tokens):
    """One training step without the update, with all that an observer was told: loss, grads, stats, events."""
    return trace_step(params, cfg, tokens, labels, method, SEED, STEP)


params = rn.init_params(cfg)
amrb, bptt = step(cfg, "amrb", params), step(cfg, "bptt", params)
print(*event_lines(amrb.events), sep="\n")
cache_bytes = next(event.nbytes for event in amrb.events if event.kind == "forward")
stored_bytes = next(event.nbytes for event in amrb.events if event.kind == "store")
print(f"one cache {cache_bytes:,} bytes, the memory tokens that rebuild it {stored_bytes:,}")

# %% [markdown]
# The same events as a picture: segments across, time down. A tall blue box is a cache that waits. BPTT's reach from
# each segment's first pass to its gradient; AMRB's are short and appear twice, but for the last segment's, which is
# still there when the gradient comes. What waits are the hatched bars, the stored memory tokens. Below, what that comes
# to in bytes. `run_lra.py --trace` draws this for any model and task, and with `--html FILE` writes a page that goes
# through these events one by one.

# %%
figure = pyplot.figure(figsize=TIMELINE_SIZE, layout="constrained")
draw_timeline(figure, {"bptt": bptt.events, "amrb": amrb.events})
show(figure, "07_replay_lives")

# %% [markdown]
# ## The same gradient, to the last bit
#
# A segment is a function of its tokens, the parameters, the memory that enters, and the dropout masks. The replay gets
# all four again, so it does the same arithmetic on the same numbers in the same order: not "close", equal. That is why
# both methods call the very same `segment_forward` and `segment_backward`. Different lengths change nothing.

# %%
lengths = np.array([96, 96, 80, 65, 64, 33, 16, 5])
ragged = tokens * (np.arange(cfg.max_length) < lengths[:, None])
for name, batch in (("full", tokens), ("ragged", ragged)):
    for dtype in ("float32", "float64"):
        a, b = (step(cfg, method, rn.init_params(cfg, dtype=dtype), batch) for method in ("amrb", "bptt"))
        equal = a.loss == b.loss and all(np.array_equal(a.grads[key], b.grads[key]) for key in a.grads)
        print(f"{name:6} {dtype}: loss and all {len(a.grads)} gradients equal bit for bit: {equal}")
        assert equal

# %% [markdown]
# ## By hand
#
# Replay is short; here it is without the bookkeeping. Step through this cell in a debugger. `key_of` decides
# which dropout masks a replayed segment gets. Leave it alone for now.


# %%
def amrb_by_hand(params, key_of=lambda key: key):
    """AMRB for one shard of full sequences. -> loss, gradients of the memory and the blocks"""
    phi_r, _ = prepare_phi_r(params, cfg)
    dtype = params["embed.token"].dtype
    (shard,) = segments.cut_shards(tokens, labels, cfg, dtype, size=len(tokens), dropout=(SEED, STEP))
    memory, buffer = replay.first_memory(params, shard), []
    for t in range(shard.num_segments):
        buffer.append(memory)  # this is all that is kept
        memory, readout, _ = model.segment_forward(params, phi_r, cfg, shard.segment(t), memory)

    grads = replay.zero_gradients(params, phi_r)
    loss, _, dreadout = replay.readout_loss(readout, params, shard, grads)
    dmemory = memory  # nothing went on after the last segment: (0, M, D)
    for t in reversed(range(shard.num_segments)):
        segment = shard.segment(t)
        segment = replace(segment, dropout_key=key_of(segment.dropout_key))
        _, _, cache = model.segment_forward(params, phi_r, cfg, segment, buffer.pop())  # the replay
        dread = dreadout if t == shard.num_segments - 1 else dreadout[:0]  # only the last segment is read out
        dmemory, *segment_grads = model.segment_backward(dmemory, dread, cache)
        replay.add_segment_grads(grads, *segment_grads, t)
    replay.add_first_memory_grad(grads, dmemory)
    return loss, grads.params  # but for attn.rel.weight, whose gradient comes from that of phi(R), once a step


params64 = rn.init_params(cfg, dtype="float64")
loss, grads = amrb_by_hand(params64)
package = step(cfg, "amrb", params64)
package_loss, package_grads = package.loss, package.grads
shared = [name for name in package_grads if "attn.rel" not in name]
print(f"by hand and in the package: loss {loss:.12f} and {package_loss:.12f}")
assert loss == package_loss and all(np.array_equal(grads[name], package_grads[name]) for name in shared)

# %% [markdown]
# ## Why dropout must be replayable
#
# Dropout draws a mask. If the replay draws *another* one, it rebuilds the cache of a segment that never was: the loss
# was computed with one network, the gradient is taken of another. Nothing crashes, the loss curve even falls. Here
# `key_of` gives the replayed segments the masks of the next step, as a running generator would.
#
# The judge is lesson 01's: the loss is a fixed function of the parameters (its masks are named by SEED and STEP), so a
# finite difference along a direction must equal the gradient along it.

# %%
_, wrong = amrb_by_hand(params64, key_of=lambda key: replace(key, step=key.step + 1))
errors = {"the same masks": [], "fresh masks": []}
for _ in range(5):
    direction = {name: rng.standard_normal(params64[name].shape) for name in shared}
    measured = gradcheck.directional_derivative(lambda moved: step(cfg, "bptt", moved).loss, params64, direction)
    for name, found in (("the same masks", grads), ("fresh masks", wrong)):
        claimed = sum(float((found[key] * d).sum()) for key, d in direction.items())
        errors[name].append(abs(claimed - measured) / abs(measured))
for name, found in errors.items():
    print(f"replayed with {name:14}: relative error of the gradient " + ", ".join(f"{error:.1e}" for error in found))

# %% [markdown]
# So the masks must be a *function of their place*, not the next numbers of a generator: `dropout.py` hashes seed, step,
# row, segment, layer and site into each mask, and keeps none of them. AMRB replays them, shards compute them in any
# order, and a run resumed from a checkpoint goes on with the same ones.
#
# ## The new bill
#
# Memory on the left: BPTT's line climbs by a cache a segment. AMRB's stays where it is; what grows is the replay
# buffer, and only by the memory tokens. In the middle the price: `segment_forward` runs 2 S - 1 times instead of S. A
# gradient costs about two forward passes, so three units of work become at most four. On the right it is measured.
# Often it is less than that third, because to fill and read BPTT's large memory takes time too.

# %%
counts = (2, 4, 8, 16, 32)
bills, counted = {"amrb": [], "bptt": []}, {}
for count in counts:
    long_cfg = replace(cfg, num_segments=count, d_model=64, d_ff=128, segment_length=64, segment_embedding=False)
    long_params, long_tokens = rn.init_params(long_cfg), rng.integers(1, 16, (8, long_cfg.max_length))
    seconds = {"amrb": [], "bptt": []}
    for _ in range(5):  # in turn, so that whatever else the machine does meets both
        for method in bills:
            begun = time.process_time()  # of this process alone: other programs do not count
            events = step(long_cfg, method, long_params, long_tokens).events
            seconds[method].append(time.process_time() - begun)
            passes = sum(event.kind in ("forward", "replay") for event in events)
            held = max(event.held for event in events)
            counted[method] = {"bytes": held, "passes": passes}
    for method, bill in bills.items():
        bill.append(counted[method] | {"µs": 1e6 * min(seconds[method]) / long_tokens.size})
ratios = [a["µs"] / b["µs"] for a, b in zip(bills["amrb"], bills["bptt"], strict=True)]
print("AMRB's time over BPTT's: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))

figure, axes = pyplot.subplots(1, 3, figsize=(11.5, 3.8), layout="constrained")
for method, style in (("bptt", "s--"), ("amrb", "o-")):
    for axis, what, scale in zip(axes, ("bytes", "passes", "µs"), (2**20, 1, 1), strict=True):
        axis.plot(counts, [bill[what] / scale for bill in bills[method]], style, label=method.upper())
labels_of = ("MiB of caches and buffer", "forward passes of a segment", "processor time, µs a token")
for axis, label in zip(axes, labels_of, strict=True):
    axis.set(xlabel="segments", ylabel=label, ylim=(0, 1.08 * axis.get_ylim()[1]))
axes[0].legend(frameon=False)
show(figure, "07_replay_bill")

# %% [markdown]
# ## What can go wrong here
#
# - *"Checkpointing approximates."* It repeats. The gradients are compared with `array_equal`, not with a tolerance.
# - *"Replay goes forward through the sequence again."* It goes segment by segment in *reverse*: that is why the tokens
#   that entered every segment are stored. Look at the second half of the event list.
# - *"Fresh dropout masks only add noise."* They give the gradient of another function; the finite difference says by
#   how much. More steps need not average it away, because the loss and its gradient belong to different masks.

# %%
kinds = [event.kind for event in amrb.events]
S = cfg.num_segments
assert [kinds.count(kind) for kind in ("store", "forward", "replay", "backward")] == [S, S, S - 1, S]
assert [event.segment for event in amrb.events if event.kind == "backward"] == list(range(S))[::-1]
assert amrb.stats["peak_cache_bytes"] == cache_bytes and bptt.stats["peak_cache_bytes"] > 4 * cache_bytes
assert cache_bytes > 50 * stored_bytes
assert max(errors["the same masks"]) < 1e-6 < 1e-2 < max(errors["fresh masks"])
assert [bill["passes"] for bill in bills["amrb"]] == [2 * count - 1 for count in counts]
growth = {method: bill[-1]["bytes"] / bill[0]["bytes"] for method, bill in bills.items()}
assert growth["bptt"] > 10 and growth["amrb"] < 1.2
assert 1.0 < np.median(ratios) < 1.8
