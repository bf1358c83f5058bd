# %% [markdown]
# # 06 Segments and time
#
# **The question: how does a mistake made at the end teach the beginning, and what does that cost?**
#
# The model reads a long sequence `L` tokens at a time. Between one segment and the next nothing is handed over but
# `M` memory tokens. The answer is read from them after the last segment, so everything that the answer depends on has
# to travel through them; and when the answer is wrong, the news has to travel back the same way. That is
# back-propagation through time (BPTT). We follow both journeys, then look at the bill: the memory that BPTT keeps.
#
# Read beside this: `rmaat_np/replay.py` (`bptt`), `rmaat_np/model.py` (`segment_forward`), `rmaat_np/segments.py`.

# %%
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib import pyplot
from show import show

import rmaat_np as rn
from rmaat_np import gradcheck, ledger, model, replay, segments
from rmaat_np.step import prepare_phi_r

cfg = rn.Config(
    vocab_size=16, num_classes=10, d_model=32, num_heads=2, num_layers=2, d_ff=64,
    segment_length=16, num_segments=12, num_memory=4,
)  # fmt: skip
rng = np.random.default_rng(0)
tokens = rng.integers(1, cfg.vocab_size, (8, cfg.max_length))
labels = rng.integers(0, cfg.num_classes, 8)
params = rn.init_params(cfg, dtype="float64")

# %% [markdown]
# ## One segment by hand
#
# `segment_forward` is the whole recurrent step. It gets the memory tokens and one segment's tokens, runs the blocks
# over both together, and returns the memory for the next segment, what is read out here (nothing, before the last),
# and a cache: every array that the way back will ask for. Set a breakpoint on the call and step in.

# %%
phi_r, _ = prepare_phi_r(params, cfg)
(shard,) = segments.cut_shards(tokens, labels, cfg, "float64", size=len(tokens))
memory = replay.first_memory(params, shard)
held = partial(ledger.cache_nbytes, borrowed=[*params.values(), shard.tokens, shard.factors])  # what it adds
memory_next, readout, cache = model.segment_forward(params, phi_r, cfg, shard.segment(0), memory)
print(f"memory in {memory.shape}, memory out {memory_next.shape}, read out so far {readout.shape}")
print(f"handed over: {memory_next.nbytes:,} bytes; kept in the cache: {held(cache):,} bytes")
for name in ("norm1", "attention", "norm2", "mlp"):
    print(f"  block 0, {name:9}: {held(cache['blocks'][0][name]):8,} bytes")
cache_to_memory = held(cache) / memory_next.nbytes

# %% [markdown]
# Remember the ratio: what one segment *passes on* is a few kilobytes, what it *keeps* for its gradient is more
# than a hundred times as much. Lesson 07 is built on nothing else.
#
# ## The way forward: the memory hands over
#
# `loss_and_grads` takes an observer, a function that is told of every event: "forward" of a segment comes with the
# memory it hands over. We change four tokens of segment 4 (we count from 1) and compare what is handed over.


# %%
def step(cfg, params, tokens, method="bptt"):
    """One training step without the update: gradients and everything that the observer was told."""
    events = []
    _, grads, stats = rn.loss_and_grads(params, cfg, tokens, labels, method, observer=events.append)
    return grads, stats, events


def arrays(events, kind):
    """The arrays of all events of a kind, by segment."""
    return [e.array for e in sorted((e for e in events if e.kind == kind), key=lambda e: e.segment)]


changed_segment = 3
other = tokens.copy()
start = changed_segment * cfg.segment_length
other[:, start : start + 4] = 1 + other[:, start : start + 4] % 15
modes = ("integrate", "none", "scale")
heard, gradients = {}, {}
for mode in modes:
    mode_cfg = replace(cfg, retention=mode)
    grads, _, events = step(mode_cfg, params, tokens)
    _, _, other_events = step(mode_cfg, params, other)
    pairs = list(zip(arrays(events, "forward"), arrays(other_events, "forward"), strict=True))[:-1]
    heard[mode] = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in pairs]  # the last one hands nothing over
    gradients[mode] = [np.linalg.norm(dmemory) for dmemory in arrays(events, "backward")]

# %% [markdown]
# Left in the picture below: before the change, no difference at all, to the last bit. From then on the difference stays
# in the memory although no later segment ever sees those tokens: `integrate` hands nearly all of it on; `none`, which
# takes over what each segment writes, loses some; `scale`, which multiplies by the retention factor each time, lets it
# fade by a factor of ten every four segments or so. (The parameters are random: this is what the architecture passes
# on before it has learned anything to pass on.)
#
# ## The way back: one gradient, handed from segment to segment
#
# The loss is known after the last segment. `segment_backward` turns the gradient at the memory that a segment passed
# on into the gradient at the memory it got. In the middle of the picture: its norm, from segment 12 back to 1.
# With `scale` the first segments get less than a thousandth of what the last one gets: they hardly learn from it.
#
# `dmemory` is a claim: "nudge the memory that entered here, and the loss changes by this much". For segment 1 we can
# check it with a finite difference, because the memory that enters there is a parameter, the same for all sequences.

# %%
grads, _, events = step(cfg, params, tokens)
dmemory_1 = arrays(events, "backward")[0].sum(axis=0)  # one array for all sequences, so their gradients add up
direction = {"memory.init": rng.standard_normal(params["memory.init"].shape)}
measured = gradcheck.directional_derivative(
    lambda moved: rn.loss_and_grads(moved, cfg, tokens, labels)[0], params, direction
)
claimed = float((dmemory_1 * direction["memory.init"]).sum())
print(f"along a random direction: back through 12 segments {claimed:+.10f}, finite difference {measured:+.10f}")

# %% [markdown]
# ## The bill
#
# The way back needs the caches in the reverse order, so all of them wait until the last segment is done. Each event
# also says how many bytes all caches hold together. Right in the picture: they climb by one cache a segment, and fall
# again on the way back. Twice the segments, twice the peak; the memory tokens are not what costs.

# %%
counts = (6, 12, 24)
bills, peaks = {}, {}
for count in counts:
    long_cfg = replace(cfg, num_segments=count, segment_embedding=False)
    long_params = rn.init_params(long_cfg)
    long_tokens = rng.integers(1, cfg.vocab_size, (8, long_cfg.max_length))
    _, stats, long_events = step(long_cfg, long_params, long_tokens)
    bills[count] = [event.caches / 2**20 for event in long_events]
    peaks[count] = stats["peak_cache_bytes"]
    print(f"{count:3} segments: peak {peaks[count]:10,} bytes of caches, {peaks[count] / count:,.0f} a segment")

# %%
styles = {"integrate": "o-", "none": "s--", "scale": "^:"}
figure, axes = pyplot.subplots(1, 3, figsize=(11.5, 4), layout="constrained")
for mode in modes:
    across = np.arange(1, cfg.num_segments + 1)
    after = np.array(heard[mode])
    axes[0].plot(across[:-1][after > 0], after[after > 0], styles[mode], label=mode)
    axes[1].plot(across, gradients[mode], styles[mode], label=mode)
axes[0].axvline(changed_segment + 1, color="0.6", lw=1)
axes[0].set(yscale="log", xlabel="segment", title="forward: is the change still heard?", xlim=(0.5, 12.5))
axes[0].set_ylabel("relative change of the memory")
axes[0].text(0.8, 3e-3, "4 tokens\nchanged\nhere", fontsize=10)
axes[1].set(yscale="log", xlabel="segment", title="back: what arrives where", xlim=(0.5, 12.5))
axes[1].set_ylabel("norm of the memory's gradient")
axes[1].legend(frameon=False, title="memory update")
for count, line in zip(counts, (":", "--", "-"), strict=True):
    axes[2].plot(bills[count], line, color="C0")
    axes[2].text(np.argmax(bills[count]), max(bills[count]), f"  {count}" + " segments" * (count == 24), fontsize=11)
axes[2].set(xlabel="event: forward, then backward and drop", title="the bill: what the caches hold", xlim=(0, 75))
axes[2].set_ylabel("MiB")
show(figure, "06_segments_and_time")

# %% [markdown]
# ## Sequences of different lengths
#
# In a batch the sequences end in different segments. A sequence is *live* until its last token; then it is read out and
# leaves. The shard is sorted by the number of segments, longest first, so the live ones are always the first rows: no
# work is done on those that have ended, and no padding ever writes into a memory. Each sequence has its own T.

# %%
lengths = [48, 40, 33, 17, 16, 3]
ragged_cfg = replace(cfg, num_segments=3)
ragged_params = rn.init_params(ragged_cfg, dtype="float64")
ragged = rng.integers(1, cfg.vocab_size, (6, 48)) * (np.arange(48) < np.array(lengths)[:, None])
(shard,) = segments.cut_shards(ragged, labels[:6], ragged_cfg, "float64", size=6)
print(f"lengths {lengths}: active in segments 1, 2, 3 and after them: {shard.num_active}")
for T in (3, 2, 1):
    print(f"  a sequence of {T} segments takes over {np.round(rn.retention_factors(T), 3)} of what each one writes")
together = rn.predict(ragged_params, ragged_cfg, ragged)
alone = np.concatenate(
    [rn.predict(ragged_params, ragged_cfg, row[None, :n]) for row, n in zip(ragged, lengths, strict=True)]
)
events = []
rn.loss_and_grads(ragged_params, ragged_cfg, ragged, labels[:6], "bptt", observer=events.append)
handed_over = [len(memory) for memory in arrays(events, "forward")]
sent_back = [len(dmemory) for dmemory in arrays(events, "backward")]
print(f"memories handed over by segments 1, 2, 3: {handed_over}; gradients sent back into them: {sent_back}")

# %% [markdown]
# ## What can go wrong here
#
# - *"The gradient reaches the early tokens through attention."* Attention never leaves its segment. The memory is the
#   only way, forward and back.
# - *"BPTT is expensive because of the memory tokens."* They are the cheap part; the caches are the bill.
# - *"Padding is harmless if the loss ignores it."* Only if it can neither be attended to, nor write into the memory,
#   nor count as a segment: the last check below fails if one of the three slips.

# %%
for mode in modes:
    assert heard[mode][:changed_segment] == [0.0] * changed_segment, "a later token reached an earlier memory"
    assert min(heard[mode][changed_segment:]) > 0, "the memory did not carry the change to the end"
assert heard["scale"][-1] < 0.1 * heard["scale"][changed_segment] < heard["integrate"][-1] * 10
assert max(gradients["scale"][:4]) < 1e-3 * gradients["scale"][-1]
assert gradients["integrate"][0] > gradients["integrate"][-1]
np.testing.assert_array_equal(dmemory_1, grads["memory.init"])
np.testing.assert_allclose(claimed, measured, rtol=1e-6)
assert all(peak * counts[0] == peaks[counts[0]] * count for count, peak in peaks.items()), "not one cache a segment"
assert cache_to_memory > 100
assert shard.num_active == [6, 4, 3, 0] and handed_over == [4, 3, 0] and sent_back == [6, 4, 3]
np.testing.assert_allclose(together, alone, rtol=1e-10)
