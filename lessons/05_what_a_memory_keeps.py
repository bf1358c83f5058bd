# %% [markdown]
# # 05 What a memory keeps
#
# **The question: sixteen segments have written into the same memory tokens. Whose words are left at the end?**
#
# After each segment the blocks hand back a new version of the memory tokens: what the segment *wrote*. The memory
# update decides how much of it is taken over. How much is one number per segment, the retention factor, and it comes
# from a simulated astrocyte: its long-term plasticity (LTP) climbs with every stimulus, by less each time, and
# saturates. We follow that number from the astrocyte to the answer of a whole model.
#
# Read beside this: `rmaat_np/memory.py` (a page), `rmaat_np/plasticity.py` (`ltp_curve`, `retention_factors`).

# %%
from dataclasses import replace

import numpy as np
from matplotlib import pyplot
from show import show

import rmaat_np as rn
from rmaat_np.memory import memory_update_forward
from rmaat_np.plasticity import ltp_curve

S = 16
modes = ("integrate", "online", "none", "scale")

# %% [markdown]
# ## From a curve to factors
#
# LTP at the end of each stimulus cycle, until it saturates. What a cycle adds, divided by what all of them add, is its
# retention factor. `T` cycles always span the whole climb, so a longer sequence cuts the same curve into finer slices:
# the factors of any T sum to 1, and each is smaller when T is larger (left in the picture below).

# %%
curve = ltp_curve()
totals = (4, 8, 16, 32)
factors = {T: rn.retention_factors(T) for T in totals}
print(f"LTP at the cycle ends: {np.round(curve, 3)}")
print(f"what each cycle adds:  {np.round(np.diff(curve) / curve[-1], 3)} of the whole")
for T in totals:
    print(f"T = {T:2}: first {factors[T][0]:.3f}, last {factors[T][-1]:.4f}, sum {factors[T].sum():.6f}")

# %% [markdown]
# ## Sixteen updates, and a memory that names its writers
#
# The update is linear, so we can make the memory confess. Let segment t write the unit vector e_t, and let the memory
# begin as e_0. After 16 updates the memory's entries *are* the weights: entry t says how much of segment t is left.
#
# | mode | memory_next | factor |
# |---|---|---|
# | `integrate` | memory + r (written - memory) | the LTP shares above |
# | `online` | the same | needs no T: begins at 1, never falls to 0 |
# | `none` | written | 1 |
# | `scale` | r written | the LTP shares |


# %%
def weights_left(mode):
    """How much of the first memory and of each segment's writing is left. Shapes: -> (S + 1, S + 1), a row per step."""
    writers = np.eye(S + 1)
    memory, rows = writers[None, None, 0], [writers[0]]
    for t, r in enumerate(rn.retention_factors(S, mode), start=1):
        memory, _ = memory_update_forward(memory, writers[None, None, t], np.full((1, 1, 1), r), mode)
        rows.append(memory[0, 0])
    return np.array(rows)


left = {mode: weights_left(mode) for mode in modes}
for mode in modes:
    first, last = left[mode][-1, 1], left[mode][-1, -1]
    print(
        f"{mode:9}: first memory {left[mode][-1, 0]:.4f}, segment 1 {first:.4f}, 8 {left[mode][-1, 8]:.3f}, "
        f"16 {last:.3f}; sum {left[mode][-1].sum():.3f}"
    )

# %% [markdown]
# Read the middle of the picture row by row.
#
# - `integrate` keeps something of everybody, the early ones most. The learned first memory keeps a good third: the
#   factors sum to 1, but the weights of the *writings* do not, because each later segment also takes its share of what
#   was there.
# - `online` forgets the first memory at once (its first factor is 1), and from then on it fades what is old by the
#   same ratio at each step: the latest weigh most. None of the sixteen is at 0, but the first has 0.0002 left.
# - `none` has room for one writer, the last.
# - `scale` too, and that one at a small fraction of its size.
#
# ## But a segment writes with the memory before its eyes
#
# The table is about the update alone. In the model a segment's writing starts from the memory it was given: the memory
# tokens run through the blocks with their residual connections, so what is written contains, changed, what was there.
# There is a second way for old words to survive, through the network, and the only one for `none` and `scale`.
#
# We ask the whole model: change all tokens of one segment, and see how far the memory that enters the last segment
# moves. The parameters are random, as at the start of training: this is the ground on which learning has to build.

# %%
cfg = rn.Config(
    vocab_size=16, num_classes=10, d_model=32, num_heads=2, num_layers=2, d_ff=64,
    segment_length=8, num_segments=S, num_memory=4,
)  # fmt: skip
rng = np.random.default_rng(0)
tokens = rng.integers(1, cfg.vocab_size, (8, cfg.max_length))
other = 1 + (tokens - 1 + rng.integers(1, cfg.vocab_size - 1, tokens.shape)) % (cfg.vocab_size - 1)
params = rn.init_params(cfg, dtype="float64")


def last_memory(cfg, tokens):
    """The memory tokens that the last segment gets. Shapes: -> (B, M, D)."""
    events = []
    rn.loss_and_grads(params, cfg, tokens, np.zeros(len(tokens), dtype=int), "bptt", observer=events.append)
    (memory,) = [e.array for e in events if e.kind == "forward" and e.segment == S - 2]
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
    first, eighth, last = (moved[name][t] for t in (0, 7, -1))
    print(f"{name:16}: segment 1 moves it by {first:.1e}, segment 8 by {eighth:.1e}, segment 15 by {last:.1e}")

# %% [markdown]
# Right in the picture. `none`, a single writer in the table, hears segment 1 best of all: the network re-writes what
# it reads. What `none` keeps is what the blocks choose to copy, and they can learn to copy; the update gives no help.
#
# `scale` shrinks the memory before every segment by r, so one would expect the product of all factors to be left of
# segment 1. Far from it: a pre-norm block normalises the memory tokens before attention sees them, and so undoes the
# shrinking; only the residual path feels it. In a post-norm block attention sees the small memory as it is, and there
# the early words do fade away (the dotted grey line). Predict, then measure: the product alone would have misled us.

# %%
product = np.prod(factors[S])
print(f"product of RF(t, 16) over 16 segments: {product:.1e}; float64 resolves {np.finfo(float).eps:.1e}")
for name in ("scale", "scale, post-norm"):
    per_segment = (moved[name][-1] / moved[name][0]) ** (1 / (S - 2))
    print(f"{name}: on average a word loses a factor of {per_segment:.1f} with each segment it has to pass")

# %%
styles = {"integrate": "o-", "online": "d-.", "none": "s--", "scale": "^:", "scale, post-norm": "v:"}
figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained", width_ratios=(1, 1.35, 1))
for T, style in zip(totals, ("o-", "s--", "^:", ".-."), strict=True):
    axes[0].plot((np.arange(T) + 0.5) / T, factors[T], style, label=f"T = {T}")
axes[0].set(yscale="log", xlabel="place in the sequence, t / T", title="one curve, finer slices")
axes[0].set_ylabel("retention factor RF(t, T)")
axes[0].legend(frameon=False, ncols=2, fontsize=10)
final = np.array([left[mode][-1] for mode in modes])
image = axes[1].imshow(final, cmap="Greys", vmin=0, vmax=0.5, aspect="auto")
for (row, column), weight in np.ndenumerate(final):
    text = "0" if weight < 1e-12 else f"{weight * 100:.0f}" if weight >= 0.0095 else "<1"
    axes[1].text(column, row, text, ha="center", va="center", color="white" if weight > 0.25 else "black", fontsize=10)
axes[1].set_yticks(range(4), modes)
axes[1].set_xticks(range(S + 1), ["first"] + [str(t) if t % 2 == 0 else "" for t in range(1, S + 1)])
axes[1].set(xlabel="written by segment", title="the update alone: % left after 16 segments")
axes[1].spines[:].set_visible(False)
for name, changes in moved.items():
    axes[2].plot(np.arange(1, S), changes, styles[name], label=name, color="0.5" if "post" in name else None)
axes[2].set(
    yscale="log",
    xlabel="segment whose tokens are changed",
    title="the whole model: who is still heard?",
    ylim=(3e-8, 2),
)
axes[2].set_ylabel("relative change of the last memory")
axes[2].legend(frameon=False, fontsize=10, loc="lower right")
show(figure, "05_what_a_memory_keeps")

# %% [markdown]
# ## What can go wrong here
#
# - *"The factors sum to 1, so the segments' weights do."* Not under `integrate`: later segments take from what earlier
#   ones left, and the first memory keeps the product of all (1 - r). The table prints the three and the check adds up.
# - *"`none` keeps nothing but the last segment."* Nothing in the update; in the model, what the blocks copy. The two
#   pictures stand side by side for that reason.
# - *"A small factor at the end means that the late words are lost."* The answer is read from what the last segment
#   *wrote*, before any factor is applied: the last segment needs no retention. RF is about what the next one gets.

# %%
for T in totals:
    np.testing.assert_allclose(factors[T].sum(), 1, rtol=1e-12)
    assert (np.diff(factors[T]) < 0).all(), "the factors must fall"
assert all(factors[a][0] > factors[b][0] for a, b in zip(totals, totals[1:], strict=False))
for mode in ("integrate", "online"):
    np.testing.assert_allclose(left[mode].sum(axis=1), 1, rtol=1e-12)
    assert (left[mode][-1, 1:] > 1e-4).all(), f"{mode} lost a segment"
np.testing.assert_allclose(left["integrate"][-1, 0], np.prod(1 - factors[S]), rtol=1e-12)
assert 0.3 < left["integrate"][-1, 0] < 0.4 and left["online"][-1, 0] == 0
assert (np.diff(left["integrate"][-1, 1:]) < 0).all() and (np.diff(left["online"][-1, 1:]) > 0).all()
np.testing.assert_array_equal(left["none"][-1], np.eye(S + 1)[-1])
np.testing.assert_array_equal(left["scale"][-1], factors[S][-1] * np.eye(S + 1)[-1])
assert product < 1e-15
assert moved["none"][0] > 0.1, "`none` should still hear segment 1"
assert moved["none"][0] > 10 * moved["scale"][0] > 100 * moved["scale, post-norm"][0] > 1e6 * product
assert moved["integrate"][0] > 10 * moved["integrate"][-1] and moved["scale"][-1] > 10 * moved["scale"][0]
