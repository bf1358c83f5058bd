# %% [markdown]
# # 06 Segments and time
#
# **The question: how does a mistake made at the end teach the beginning, and what does that cost?**
#
# The model reads a long sequence in segments of `L` tokens. A segment hands over `M` memory tokens to the next one and
# nothing else. The answer is read from what the last segment wrote into them. So whatever the answer depends on has to
# travel through the memory tokens. If the answer is wrong, the gradient has to travel back the same way. This way back
# is back-propagation through time (BPTT). We follow both journeys. Then we look at the price: what BPTT keeps.
#
# Read beside this: `rmaat_np/replay.py` (`bptt`), `rmaat_np/model.py` (`segment_forward`), `rmaat_np/segments.py`.

# %%
from dataclasses import replace
from functools import partial

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np import gradcheck, ledger, model, replay, segments
from rmaat_np.memory import memory_update_backward
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
# `segment_forward` is the whole recurrent step. It gets the memory tokens and the tokens of one segment, and runs the
# blocks over both. It returns three things: the memory for the next segment, the readout (empty before the last
# segment), and the cache, which holds every array that the way back will need.
#
# Two preparations come first. `prepare_phi_r` computes phi(R), `phi_r` of lesson 00, for each layer, once,
# as all segments use the same. `cut_shards` cuts the batch into **shards**. A shard is a part of the batch whose
# sequences are computed together. Here it holds all 8. Set a breakpoint on the call of `segment_forward` and step in.
#
# > *Predict, then run: the memory tokens that segment 1 hands over take 8,192 bytes. How many times as large is the
# > cache that it keeps for its gradient?*

# %%
heading("One segment by hand")
phi_r, _ = prepare_phi_r(params, cfg)
(shard,) = segments.cut_shards(tokens, labels, cfg, "float64", size=len(tokens))
memory = replay.first_memory(params, shard)
memory_next, readout, cache = model.segment_forward(params, phi_r, cfg, shard.segment(0), memory)
held = partial(ledger.cache_nbytes, borrowed=[*params.values(), shard.tokens, shard.factors])  # bytes that it adds
print(f"memory in {memory.shape}, memory out {memory_next.shape}, readout {readout.shape}")
ratio = held(cache) / memory_next.nbytes
print(f"handed over {memory_next.nbytes:,} bytes, kept in the cache {held(cache):,}: {ratio:.0f} times as much")
for name in ("norm1", "attention", "norm2", "mlp"):
    print(f"  block 1, {name:9}: {held(cache['blocks'][0][name]):8,} bytes")

# %% [markdown]
# What a segment *keeps* for its gradient is more than a hundred times what it *hands over*. Lesson 07 is built on this.
#
# `segment_backward` gets `dmemory_next`, the gradient of the loss for the memory tokens that the segment handed over.
# It returns `dmemory`, the gradient for the memory tokens that the segment got. The gradient arrives there by two
# paths: through the blocks, and past them. The second path exists because the update `integrate` keeps a part of the
# old memory: `memory_next = memory + r * (written - memory)`. Write this path yourself, from `dmemory_next` and r.

# %%
dmemory_next = rng.standard_normal(memory_next.shape)
r = shard.segment(0).factor  # (8, 1, 1): the retention factor RF(1, 12), for each sequence
past_the_blocks = None  # your turn: the part of dmemory_next that reaches `memory` without passing through the blocks
right, _ = memory_update_backward(dmemory_next, cache["update"])
hint = "r goes with `written`. Gather what multiplies `memory` in the update: 1 - r."
past_the_blocks = your_turn(past_the_blocks, right, hint)
dmemory, _, _ = model.segment_backward(dmemory_next, np.zeros_like(readout), cache)
through = np.linalg.norm(dmemory - past_the_blocks)
print(f"norms of the two paths: past the blocks {np.linalg.norm(past_the_blocks):.1f}, through them {through:.1f}")

# %% [markdown]
# ## The way forward: the memory hands over
#
# `loss_and_grads` takes an **observer**: a function that it calls at every event of a training step. At "forward" a
# segment brings the memory tokens that it hands over. We change four tokens of segment 4 (counted from 1), run again,
# and compare the memory tokens. We do so for three memory updates of lesson 05: `integrate`; `none`, which takes over
# what a segment wrote; `scale`, which takes over r times what it wrote, and nothing of the old memory.
#
# > *Predict, then run: from which segment on do the memory tokens differ? With which update does the change fade?*


# %%
def step(cfg, params, tokens):
    """One training step without the update of the parameters. -> gradients, stats, events"""
    events = []
    _, grads, stats = rn.loss_and_grads(params, cfg, tokens, labels, "bptt", observer=events.append)
    return grads, stats, events


def arrays(events, kind):
    """The arrays of all events of a kind, by segment."""
    return [e.array for e in sorted((e for e in events if e.kind == kind), key=lambda e: e.segment)]


heading("The way forward: the memory hands over")
changed_segment = 3
other = tokens.copy()
start = changed_segment * cfg.segment_length
other[:, start : start + 4] = 1 + other[:, start : start + 4] % 15
styles = {"integrate": "o-", "none": "s--", "scale": "^:"}
heard, gradients = {}, {}
for mode in styles:
    mode_cfg = replace(cfg, retention=mode)
    grads, _, events = step(mode_cfg, params, tokens)
    _, _, other_events = step(mode_cfg, params, other)
    pairs = list(zip(arrays(events, "forward"), arrays(other_events, "forward"), strict=True))[:-1]
    heard[mode] = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in pairs]  # the last one hands nothing over
    gradients[mode] = [np.linalg.norm(dmemory) for dmemory in arrays(events, "backward")]
    after = [heard[mode][t] for t in (changed_segment - 1, changed_segment, -1)]
    print(f"{mode:9}: change after segment 3 {after[0]:.0e}, after 4 {after[1]:.4f}, after 11 {after[2]:.4f}")

figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
for mode, style in styles.items():
    axis.plot(np.arange(changed_segment, 11) + 1, heard[mode][changed_segment:], style, label=mode)
axis.axvline(changed_segment + 1, color="0.6", lw=1)
axis.text(3.9, 3e-3, "4 tokens of\nsegment 4\nchanged;\nno change\nbefore it", ha="right")
axis.set(yscale="log", xlabel="after segment", title="forward: is the change still in the memory?", xlim=(0.5, 11.5))
axis.set(ylabel="relative change of the memory", xticks=range(1, 12))
axis.legend(frameon=False, title="memory update", loc="lower left", bbox_to_anchor=(0.31, 0))
show(figure, "06_segments_and_time_forward")

# %% [markdown]
# Before the change the memory tokens are equal to the last bit. From segment 4 on they differ. No later segment sees
# the changed tokens, yet `integrate` hands on nearly all of the change. `none` loses about half of it by the end. With
# `scale` it fades by a factor of ten in about four segments. All this is before learning: the parameters are random.
#
# ## The way back: one gradient, handed from segment to segment
#
# The loss is known after the last segment. From there `dmemory` goes back from segment to segment. We look at its norm.
# At segment 1 the three updates compare directly, because all three models begin with the same memory tokens.
#
# > *Predict, then run: with which update does segment 1 get the smallest gradient?*

# %%
heading("The way back: one gradient, handed from segment to segment")
for mode, norms in gradients.items():
    print(f"{mode:9}: gradient of the memory that enters segment 12 {norms[-1]:.4f}, segment 1 {norms[0]:.4f}")
figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
for mode, style in styles.items():
    axis.plot(np.arange(1, cfg.num_segments + 1), gradients[mode], style, label=mode)
axis.set(yscale="log", xlabel="segment (the gradient goes from right to left)", ylabel="norm of the memory's gradient")
axis.set(title="back: how much of the gradient arrives?", xticks=range(1, 13))
axis.legend(frameon=False, title="memory update")
show(figure, "06_segments_and_time_back")

# %% [markdown]
# With `scale` less than a thousandth of the last segment's gradient arrives at the first one, so the early segments
# hardly learn. (It is large at segment 12 because `scale` has made the memory tokens small there. A move of a given
# size is then large beside them.) With `integrate` the gradient grows on its way back, most at segment 1. The memory
# tokens are small there too.
#
# `dmemory` says how much the loss changes if the memory tokens that entered are moved a little. For segment 1 a finite
# difference (lesson 01) can check it, as the memory that enters there is a parameter.

# %%
grads, _, events = step(cfg, params, tokens)
dmemory_1 = arrays(events, "backward")[0].sum(axis=0)  # all sequences begin with this one array: their gradients add up
direction = {"memory.init": rng.standard_normal(params["memory.init"].shape)}
measured = gradcheck.directional_derivative(lambda p: rn.loss_and_grads(p, cfg, tokens, labels)[0], params, direction)
claimed = float((dmemory_1 * direction["memory.init"]).sum())
print(f"along a random direction: back through 12 segments {claimed:+.10f}, finite difference {measured:+.10f}")

# %% [markdown]
# ## The bill
#
# The way back needs the last cache first. So all caches wait until the last segment is done. Each event also says how
# many bytes all caches hold together.
#
# > *Predict, then run: a sequence has twice as many segments. By what factor does the highest point grow?*

# %%
heading("The bill")
counts = (6, 12, 24)
peaks = {}
figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
for count, line in zip(counts, (":", "--", "-"), strict=True):
    long_cfg = replace(cfg, num_segments=count, segment_embedding=False)  # no learned vector for each segment
    long_tokens = rng.integers(1, cfg.vocab_size, (8, long_cfg.max_length))
    _, stats, long_events = step(long_cfg, rn.init_params(long_cfg), long_tokens)
    peaks[count] = stats["peak_cache_bytes"]
    print(f"{count:3} segments: peak {peaks[count]:10,} bytes of caches, {peaks[count] / count:,.0f} for each segment")
    bill = [event.caches / 2**20 for event in long_events]
    axis.plot(bill, line, color="C0")
    axis.text(np.argmax(bill) + 1.5, max(bill), f"{count} segments")
axis.set(xlabel="event (forward; then on the way back: backward, drop)", title="the bill: what BPTT's caches hold")
axis.set(ylabel="MiB", ylim=(0, None), xlim=(0, 75))
show(figure, "06_segments_and_time_bill")

# %% [markdown]
# The bytes climb by one cache for each segment, and fall again on the way back. Twice the segments, twice the peak.
#
# ## Sequences of different lengths
#
# In a batch shorter sequences are filled up with 0, the padding. So they end in different segments. A sequence is
# *active* in a segment if it has tokens there. After its last segment it is read out and takes no further part. A shard
# is sorted by the number of segments, longest first. So the active sequences are always its first rows, and no work is
# done on those that have ended. T is the number of segments of one sequence. Each sequence has its own T, so it has its
# own retention factors RF(t, T).

# %%
heading("Sequences of different lengths")
lengths = [48, 40, 33, 17, 16, 3]
ragged_cfg = replace(cfg, num_segments=3)
ragged_params = rn.init_params(ragged_cfg, dtype="float64")
ragged = rng.integers(1, cfg.vocab_size, (6, 48)) * (np.arange(48) < np.array(lengths)[:, None])
(shard,) = segments.cut_shards(ragged, labels[:6], ragged_cfg, "float64", size=6)
print(f"lengths {lengths}: active in segments 1, 2, 3 and after them: {shard.num_active}")
for T in (3, 2, 1):
    print(f"  T = {T}: the memory takes over {np.round(rn.retention_factors(T), 3)} of what each segment writes")
together = rn.predict(ragged_params, ragged_cfg, ragged)
alone = [rn.predict(ragged_params, ragged_cfg, row[None, :n])[0] for row, n in zip(ragged, lengths, strict=True)]
events = []
rn.loss_and_grads(ragged_params, ragged_cfg, ragged, labels[:6], "bptt", observer=events.append)
handed_over = [len(memory) for memory in arrays(events, "forward")]
sent_back = [len(dmemory) for dmemory in arrays(events, "backward")]
print(f"sequences whose memory segments 1, 2, 3 hand over: {handed_over}; whose gradient they return: {sent_back}")

# %% [markdown]
# ## What can go wrong here
#
# - *"The gradient reaches the early tokens through attention."* Attention stays inside its segment. The memory is the
#   only way, forward and back.
# - *"BPTT is expensive because of the memory tokens."* They are small. The caches are the bill.
# - *"Padding is harmless if the loss ignores it."* It must also not be attended to, not write into the memory, and not
#   count as a segment. The last check below compares each sequence with itself alone, without padding.

# %%
for changes in heard.values():
    assert changes[:changed_segment] == [0.0] * changed_segment, "a later token reached an earlier memory"
    assert min(changes[changed_segment:]) > 0, "the memory did not carry the change to the end"
assert heard["scale"][-1] < 0.1 * heard["scale"][changed_segment] and heard["integrate"][-1] > heard["scale"][-1]
assert heard["integrate"][-1] > 0.8 * heard["integrate"][3] and 0.4 < heard["none"][-1] / heard["none"][3] < 0.6
assert gradients["scale"][0] < min(1e-3 * gradients["scale"][-1], gradients["integrate"][0], gradients["none"][0])
assert gradients["integrate"][0] > gradients["integrate"][-1]
np.testing.assert_array_equal(dmemory_1, grads["memory.init"])
np.testing.assert_allclose(claimed, measured, rtol=1e-6)
assert all(peak * counts[0] == peaks[counts[0]] * count for count, peak in peaks.items()), "not one cache a segment"
assert ratio > 100 and through > 0
assert shard.num_active == [6, 4, 3, 0] and handed_over == [4, 3, 0] and sent_back == [6, 4, 3]
np.testing.assert_allclose(together, alone, rtol=1e-10)
