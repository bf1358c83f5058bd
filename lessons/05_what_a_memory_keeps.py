# %% [markdown]
# # 05 What a memory keeps
#
# **The question: sixteen segments have written into the same memory tokens. Whose words are left at the end?**
#
# After each segment the blocks hand back a new version of the memory tokens: what the segment *wrote*. The **memory
# update** decides how much of it the memory takes over. This is one number per segment, the retention factor. It comes
# from the simulated astrocyte of lesson 02: its long-term plasticity (LTP) climbs with every stimulus, by less each
# time. We follow this number from the astrocyte to the memory of a whole model.
#
# Read beside this: `rmaat_np/memory.py` (a page), `rmaat_np/plasticity.py` (`ltp_curve`, `retention_factors`).

# %%
from dataclasses import replace

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np.memory import memory_update_forward
from rmaat_np.plasticity import ltp_curve

S = 16  # segments

# %% [markdown]
# ## From a curve to factors
#
# Take LTP at the end of each stimulus cycle, until it hardly rises any more. What a cycle adds, divided by what all of
# them add, is its **retention factor** RF(t, T). T is the number of segments of the sequence, and t counts them from 1.
# T segments always span the whole climb. So a longer sequence cuts the same curve into thinner slices.
#
# > *Predict, then run: what do the factors of one sequence sum to? The sequence becomes twice as long: what happens to
# > its first factor, roughly?*

# %%
heading("From a curve to factors")
curve = ltp_curve()
totals = (4, 8, 16, 32)
factors = {T: rn.retention_factors(T) for T in totals}
print(f"LTP at the cycle ends: {np.round(curve, 3)}")
print(f"what each cycle adds:  {np.round(np.diff(curve) / curve[-1], 3)} of the whole")
for T in totals:
    print(f"T = {T:2}: first factor {factors[T][0]:.3f}, last {factors[T][-1]:.4f}, sum {factors[T].sum():.6f}")
figure, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
for T, style in zip(totals, ("o-", "s--", "^:", ".-."), strict=True):
    axis.semilogy((np.arange(T) + 0.5) / T, factors[T], style, label=f"T = {T}")
axis.set(
    xlabel="place in the sequence, from start (0) to end (1)",
    ylabel="retention factor RF(t, T)",
    title="One curve, thinner slices",
)
axis.legend(frameon=False)
show(figure, "05_what_a_memory_keeps_factors")

# %% [markdown]
# The factors of every T sum to 1. Twice as many segments leave a little more than half of the first factor.
#
# ## Sixteen updates, and a memory that names its writers
#
# The package has four ways to update the memory. r is the factor of the segment.
#
# | mode | memory_next | r | where from |
# |---|---|---|---|
# | `integrate` | memory + r (written - memory) | RF(t, T) | LTP as integration. The default |
# | `online` | the same | (1 - k) / (1 - k^t), with the k of lesson 02: it needs no T | beyond the paper |
# | `none` | written | 1 | the Recurrent Memory Transformer, arXiv:2207.06881 |
# | `scale` | r written | RF(t, T) | the equation that notes of arXiv:2601.00426 print |
#
# The update is linear, so we can make the memory name its writers. Let segment t write the unit vector e_t, and let the
# memory begin as e_0. After 16 updates entry t of the memory *is* the weight of segment t: how much of its writing is
# left. First work out one such weight yourself, for `integrate`. Segment 8 wrote, and eight more updates followed.


# %%
def weights_left(mode):
    """How much of the first memory and of each segment's writing is left. Shapes: -> (S + 1, S + 1), a row per step."""
    writers = np.eye(S + 1)
    memory, rows = writers[None, None, 0], [writers[0]]
    for t, factor in enumerate(rn.retention_factors(S, mode), start=1):
        memory, _ = memory_update_forward(memory, writers[None, None, t], np.full((1, 1, 1), factor), mode)
        rows.append(memory[0, 0])
    return np.array(rows)


heading("Sixteen updates, and a memory that names its writers")
modes = ("integrate", "online", "none", "scale")
left = {mode: weights_left(mode) for mode in modes}
r = factors[S]  # r[0] is the factor of segment 1
answer = None  # your turn: what is left of segment 8's writing after all 16 updates, from r
hint = "It enters with r[7]. Each LATER update t keeps the part 1 - r[t] of it: a product over r[8:], without r[7]."
weight_8 = your_turn(answer, left["integrate"][-1, 8], hint)

# %% [markdown]
# > *Predict, then run: whose weight is the largest after 16 updates, in each of the four modes without a gate? Do the
# > weights of the 16 segments sum to 1, as the factors do?*

# %%
for mode in modes:
    first, *segments = left[mode][-1]
    print(
        f"{mode:9}: first memory {first:.4f}; segment 1 {segments[0]:.4f}, 8 {segments[7]:.4f}, 16 {segments[15]:.4f}; "
        f"sum of the 16 {sum(segments):.3f}"
    )
k = np.exp(-0.5)  # what LTP keeps over a cycle, with a cycle of 15 and tau 30
online = left["online"][-1]
print(f"online: 1 - r is {np.round(1 - rn.retention_factors(4, 'online'), 3)} ... at the first updates; k is {k:.3f}")
figure, axis = pyplot.subplots(figsize=(10, 3.2), layout="constrained")
final = np.array([left[mode][-1] for mode in modes])
axis.imshow(final, cmap="Greys", vmin=0, vmax=0.5, aspect="auto")
for (row, column), weight in np.ndenumerate(final):
    text = "0" if weight < 1e-12 else f"{weight * 100:.0f}" if weight >= 0.0095 else "<1"
    axis.text(column, row, text, ha="center", va="center", color="white" if weight > 0.25 else "black")
axis.set_yticks(range(4), modes)
axis.set_xticks(range(S + 1), ["first\nmemory", *range(1, S + 1)])
axis.set(xlabel="written by segment", title="The update alone: % left after 16 segments")
axis.spines[:].set_visible(False)
show(figure, "05_what_a_memory_keeps_update")

# %% [markdown]
# Read the picture row by row.
#
# - `integrate` keeps something of every writer, and more of the early ones. The learned first memory keeps a good
#   third. So the weights of the 16 segments do not sum to 1, although their factors do: each later update also takes
#   its share from what was there.
# - `online` forgets the first memory at once, because its first factor is 1. Later writers weigh more: each weight is k
#   times the next one. (The update itself does not fade by k. It leaves the part 1 - r of what is old. This part begins
#   at 0 and rises towards k.) No segment is at 0, but the first has 0.0002 left.
# - `none` has room for one writer, the last.
# - `scale` too, and keeps only a small part of this one.
#
# ## But a segment writes with the memory before its eyes
#
# The table is about the update alone. In the model, what a segment writes starts from the memory that it was given. A
# block *adds* to each row what its layers make of it. This sum is called a **residual connection**. So what is written
# contains, changed, what was there. Old words can survive through the network. For `none` and `scale` this is the
# only way.
#
# It matters where a block has its layer norms. In a **pre-norm** block, as in lesson 00, a norm stands before each
# layer, and the residual connection passes it by. In a **post-norm** block the norm comes after each sum.
#
# We ask the whole model: change all tokens of one segment, and see how far the memory that enters the last segment
# moves. The parameters are random, as at the start of training. Learning has to build on this ground.
#
# > *Predict, then run: `none` keeps one writer. Does segment 1 still move the last memory then? `scale` multiplies by r
# > before every segment. Is the product of all factors left of segment 1?*

# %%
heading("But a segment writes with the memory before its eyes")
cfg = rn.Config(
    vocab_size=16, num_classes=10, d_model=32, num_heads=2, num_layers=2, d_ff=64,
    segment_length=8, num_segments=S, num_memory=4,
)  # fmt: skip
rng = np.random.default_rng(0)
tokens = rng.integers(1, cfg.vocab_size, (8, cfg.max_length))  # eight sequences
other = 1 + (tokens - 1 + rng.integers(1, cfg.vocab_size - 1, tokens.shape)) % (cfg.vocab_size - 1)  # no token stays
params = rn.init_params(cfg, dtype="float64")


def last_memory(cfg, tokens):
    """The memory tokens that the last segment gets. Shapes: -> (B, M, D)."""
    events = []  # what the model does, one event after the other (lesson 06)
    rn.loss_and_grads(params, cfg, tokens, np.zeros(len(tokens), dtype=int), "bptt", observer=events.append)
    (memory,) = [e.array for e in events if e.kind == "forward" and e.segment == S - 2]  # segments count from 0 here
    return memory


cases = {mode: replace(cfg, retention=mode) for mode in modes}
cases["scale, post-norm"] = replace(cfg, retention="scale", norm="post")
moved = {}
for name, case in cases.items():
    memory, moved[name] = last_memory(case, tokens), []
    for t in range(S - 1):
        part = slice(t * cfg.segment_length, (t + 1) * cfg.segment_length)
        changed = tokens.copy()
        changed[:, part] = other[:, part]
        moved[name].append(np.linalg.norm(last_memory(case, changed) - memory) / np.linalg.norm(memory))
    print(
        f"{name:16}: segment 1 moves it by {moved[name][0]:.1e}, 8 by {moved[name][7]:.1e}, 15 by {moved[name][-1]:.1e}"
    )
product = np.prod(factors[S])
print(f"product of RF(t, 16) over 16 segments: {product:.1e}")
for name in ("scale", "scale, post-norm"):
    per_segment = (moved[name][-1] / moved[name][0]) ** (1 / (S - 2))
    print(f"{name}: on average a word loses a factor of {per_segment:.1f} with each segment that it has to pass")
styles = {"integrate": "o-", "online": "d-.", "none": "s--", "scale": "^:", "scale, post-norm": "v:"}
figure, axis = pyplot.subplots(figsize=(9, 4.4), layout="constrained")
for name, changes in moved.items():
    axis.semilogy(np.arange(1, S), changes, styles[name], label=name, color="0.5" if "post" in name else None)
axis.set(xlabel="segment whose tokens are changed", ylabel="relative change of the last memory", ylim=(1e-5, 2))
axis.set(title="The whole model: who is still heard?", xticks=range(1, S))
axis.legend(frameon=False, loc="lower right")
show(figure, "05_what_a_memory_keeps_heard")

# %% [markdown]
# Of all modes `none` hears segment 1 best, although it has a single writer in the table: the network writes again what
# it reads. What `none` keeps is what the blocks copy. They can learn to copy, but the update gives no help. (A part of
# it is the initialisation: the first memory tokens are small, so what segment 1 writes into them stands out.)
#
# `scale` shrinks the memory before every segment. Yet far more than the product is left of segment 1. A pre-norm block
# normalises the memory tokens before attention sees them. So only the residual connection feels the shrinking, and the
# early words fade slowly. In a post-norm block attention sees the small memory as it is. There they fade faster (the
# grey line). The product alone would have misled us.
#
# ## What can go wrong here
#
# - *"The factors sum to 1, so the segments' weights do."* Not under `integrate`: later segments take from what earlier
#   ones left, and the first memory keeps the product of all (1 - r). Only together with this part the sum is 1.
# - *"`none` keeps nothing but the last segment."* That is true of the update. The model also keeps what the blocks
#   copy. The second picture shows the update, the third the model.
# - *"A small factor at the end means that the late words are lost."* The answer is read from what the last segment
#   *wrote*, before any factor is applied: the last segment needs no retention. RF is about what the next one gets.

# %%
for T in totals:
    np.testing.assert_allclose(factors[T].sum(), 1, rtol=1e-12)
    assert (np.diff(factors[T]) < 0).all(), "the factors must fall"
assert all(1.6 < factors[a][0] / factors[b][0] < 2 for a, b in zip(totals, totals[1:], strict=False))
for mode in ("integrate", "online"):
    np.testing.assert_allclose(left[mode].sum(axis=1), 1, rtol=1e-12)
    assert (left[mode][-1, 1:] > 1e-4).all(), f"{mode} lost a segment"
np.testing.assert_allclose(weight_8, r[7] * np.prod(1 - r[8:]), rtol=1e-12)
np.testing.assert_allclose(left["integrate"][-1, 0], np.prod(1 - r), rtol=1e-12)
assert 0.3 < left["integrate"][-1, 0] < 0.4 and online[0] == 0
np.testing.assert_allclose(online[1:-1] / online[2:], k, rtol=1e-12)  # the weights fall by one ratio ...
fading = 1 - rn.retention_factors(S, "online")
assert fading[0] == 0 and (np.diff(fading) > 0).all() and fading[-1] < k  # ... and what an update leaves does not
assert (np.diff(left["integrate"][-1, 1:]) < 0).all()
np.testing.assert_array_equal(left["none"][-1], np.eye(S + 1)[-1])
np.testing.assert_array_equal(left["scale"][-1], r[-1] * np.eye(S + 1)[-1])
assert product < 1e-15 and moved["none"][0] > 0.1 and moved["none"][0] == max(changes[0] for changes in moved.values())
assert moved["none"][0] > 10 * moved["scale"][0] > 100 * moved["scale, post-norm"][0] > 1e6 * product
assert moved["integrate"][0] > 10 * moved["integrate"][-1] and moved["scale"][-1] > 10 * moved["scale"][0]
