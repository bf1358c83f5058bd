# %% [markdown]
# # 04 Where am I?
#
# **The question: attention sums over rows in any order. How does the model know which row stood where?**
#
# In lesson 03 the last asserts turned keys and values around, and the outputs stayed. A sum has no order. RMAAT gives
# it one by the second part of H = H_neuron + H_astro. H_astro stores the values by place. Each place has learned
# numbers, a row of the matrix Wrel (`relative` in lesson 00, the parameter `attn.rel.weight`). The astrocyte blurs them
# over the places near it: R = r Wrel with r_ij = exp(-|i - j| scale). The **features** of place j are the row phi(r_j)
# of phi(R). The value of row j is written under them. The scale, the setting `position_scale`, is a single number for
# all heads, unless `position_decay` gives each head its own. On long segments it can decide whether a model finds a
# single token.
#
# Read beside this: `distance_decay` and `relative_features_forward` in `rmaat_np/attention.py`.

# %%
from dataclasses import replace

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np import attention

rng = np.random.default_rng(0)
N, D = 64, 64  # rows; width, with one head unless said otherwise

# %% [markdown]
# ## The decay
#
# Row i of r says how much of each row of Wrel gets into the features of place i. (The memory tokens have the first
# places.) The sum of row i tells, roughly, how many places are mixed together. For a place in the middle of a long
# sequence it is a geometric series on each side, with q = exp(-scale).

# %%
heading("The decay")
q = np.exp(-0.3)
answer = None  # your turn: the sum of a middle row of r in a very long sequence, from q
right_answer = attention.distance_decay(2001, 0.3, "float64")[1000].sum()
your_turn(answer, right_answer, "Add 1 for the place itself and, on EACH side, q + q^2 + ... = q / (1 - q).")
scales = (0.05, 0.3, 1.0)
decays = {scale: attention.distance_decay(N, scale, "float64") for scale in scales}
mixed = {scale: decay[N // 2].sum() for scale, decay in decays.items()}
for scale, places in mixed.items():
    near, far = decays[scale][0, [1, 20]]
    print(f"scale {scale:4}: neighbour {near:.3f}, 20 places away {far:.1e}; a middle place mixes {places:.1f} places")
figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
for axis, (scale, decay) in zip(axes, decays.items(), strict=True):
    picture = axis.imshow(decay, cmap="Greys", vmin=0, vmax=1)
    axis.set(title=f"r, scale {scale}: mixes {mixed[scale]:.0f} places", xlabel="place j", ylabel="place i")
figure.colorbar(picture, ax=axes, shrink=0.8)
show(figure, "04_where_am_i_decay")

# %% [markdown]
# The sum is near 2 / scale when the scale is small and the sequence is long.
#
# ## Which outputs notice the order?
#
# 4 memory tokens and 20 tokens go through one attention with four heads. We reverse the 20 tokens, and leave the memory
# tokens where they are. Then we compare each row's output with the output that the same content had before.
#
# > *Predict, then run: which outputs change without H_astro? Which change with it, and are the outputs of the memory
# > tokens, which did not move, among them?*

# %%
heading("Which outputs notice the order?")
memory, heads = 4, 4
rel_weight = 0.2 * rng.standard_normal((24, D))
q, k, v = rng.standard_normal((3, 1, 24, D))
order = np.concatenate([np.arange(memory), np.arange(memory, 24)[::-1]])


def attend(q, k, v, phi_r):
    return attention.astromorphic_attention_forward(q, k, v, phi_r, None, heads)[0][0]


phi_r, _ = attention.relative_features_forward(rel_weight, 1.0)
changes = {}
for name, features in {"without H_astro": None, "with H_astro": phi_r}.items():
    before, after = attend(q, k, v, features), attend(q[:, order], k[:, order], v[:, order], features)
    changes[name] = np.linalg.norm(after - before[order], axis=1) / np.linalg.norm(before[order], axis=1)
    of_memory, of_tokens = changes[name][:memory].max(), changes[name][memory:].max()
    print(f"{name:15} largest relative change: memory tokens {of_memory:.0e}, tokens {of_tokens:.0e}")
same_query = attend(q[:, :1].repeat(24, axis=1), k, v, phi_r)
spread = abs(same_query - same_query[0]).max()
print(f"the same query in all 24 rows, with H_astro: outputs differ by at most {spread:.0e}")
figure, axis = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
for (name, change), style in zip(changes.items(), ("s", "o"), strict=True):
    axis.semilogy(np.arange(1, 25), np.maximum(change, 1e-17), style, label=name)
axis.axvspan(0.5, memory + 0.5, color="0.9")
axis.text(0.7, 1e-8, "memory\ntokens")
axis.set(title="The tokens are reversed: who notices?", xlabel="row", ylabel="relative change of the output")
axis.set_ylim(1e-17, 10)
axis.legend(frameon=False, loc="center right")
show(figure, "04_where_am_i_order")

# %% [markdown]
# Without H_astro nothing changes but rounding. The memory tokens read the same sum, and a token's output has moved
# along with the token. With H_astro every output changes, those of the memory tokens too: under the features of each
# place other content is written now.
#
# It would be wrong to think that near keys count more for a query. The features belong to the row that is written. The
# place of the row that reads is nowhere in them. The last printed line shows it: the same query reads the same in every
# row.
#
# ## Two sources of position
#
# The model has a second source: `embed.position`, a trained vector per place, is added to each token. We switch off
# each source in turn, and reverse the tokens inside the second of three segments.
#
# > *Predict, then run: in which of the four cases do the logits, the scores of the answers, stay the same?*

# %%
heading("Two sources of position")
cfg = rn.Config(vocab_size=16, num_classes=4, d_model=D, segment_length=8, num_segments=3, num_memory=4)
tokens = rng.integers(1, 16, (8, cfg.max_length))
reversed_inside = tokens.copy()
reversed_inside[:, 8:16] = tokens[:, 8:16][:, ::-1]
noticed = {}
for use_astro in (True, False):
    for embedding in (True, False):
        switched = replace(cfg, use_astro=use_astro, position_embedding=embedding)
        params = rn.init_params(switched, dtype="float64")
        logits = [rn.predict(params, switched, t) for t in (tokens, reversed_inside)]
        change = abs(logits[1] - logits[0]).max() / abs(logits[0]).max()
        noticed[use_astro, embedding] = change
        print(f"H_astro {use_astro!s:5}, embed.position {embedding!s:5}: logits change by {change:.0e}")

# %% [markdown]
# Only a model that has lost both sources is blind to the order inside a segment.
#
# ## What the scale does to one row
#
# What a query reads from H_astro is a sum: a . phi(r_j) times v_j, over all rows j, where a = phi(q) / m. To read row i
# and nothing else it needs a vector a with a . phi(r_j) = 1 for j = i, and 0 for all other j. A blur makes the features
# of neighbours nearly parallel. Then only a huge vector can tell them apart, and a huge vector enlarges every
# disturbance.
#
# We compute the best a by least squares, for features that noise disturbs. (The noise has the standard deviation 0.3,
# and phi is about 1 at the start of training.) This is kinder than the model: there a is positive, and must be found by
# training. Row j then enters with the weight a . phi(r_j). The square of this weight, divided by the sum of all
# squares, is the **share** of row j in what is read, if the values are independent.
#
# > *Predict, then run: at which scale is the share of the row itself largest? Where does the rest come from at the
# > smallest scale, from neighbours or from everywhere?*


# %%
def shares_read(scale, noise=0.3, draws=8):
    """Share of row j in the best reading of row i, for several random Wrel. Shapes: -> (draws, i, j)"""
    result = []
    for seed in range(draws):
        w = 0.2 * np.random.default_rng(seed).standard_normal((N, D))
        f, _ = attention.relative_features_forward(w, scale)
        weights = f @ np.linalg.solve(f.T @ f + noise**2 * np.eye(D), f.T)  # least squares, with the noise's penalty
        result.append(weights**2 / (weights**2).sum(axis=1, keepdims=True))
    return np.array(result)


def share_within(reads, reach):
    """Share of the rows at most `reach` away from the one that is read, mean over rows and draws."""
    near = abs(np.arange(N)[:, None] - np.arange(N)) <= reach
    return (reads * near).sum(axis=2).mean()


heading("What the scale does to one row")
reads = {scale: shares_read(scale) for scale in scales}
own = {scale: share_within(reads[scale], 0) for scale in scales}
near = {scale: share_within(reads[scale], 4) - own[scale] for scale in scales}
for scale in scales:
    rest = 1 - own[scale] - near[scale]
    print(
        f"scale {scale:4}: the row itself {own[scale]:.2f}, 4 rows each side {near[scale]:.2f}, all others {rest:.2f}"
    )
range_of_scales = np.geomspace(0.02, 3, 12)
shares = np.array([share_within(shares_read(scale), 0) for scale in range_of_scales])
other_noise = {noise: [share_within(shares_read(scale, noise), 0) for scale in scales] for noise in (0.1, 1.0)}
for noise, at_noise in other_noise.items():
    print(f"with noise {noise} instead of 0.3: the row itself {np.round(at_noise, 2)}")
offsets = np.arange(-8, 9)
figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
for (scale, read), style in zip(reads.items(), ("s:", "^--", "o-"), strict=True):
    profile = [np.diagonal(read, offset, 1, 2).mean() for offset in offsets]
    axes[0].plot(offsets, profile, style, label=f"scale {scale}")
axes[0].set(title="What a reading of one row contains", xlabel="rows away from it", ylabel="share", ylim=(0, 1))
axes[0].legend(frameon=False, loc="upper left")
axes[1].semilogx(range_of_scales, shares, "o-", color="0.3")
axes[1].set(title="Share of the row itself", xlabel="scale")
for scale in scales:
    axes[1].axvline(scale, color="0.7", lw=1)
axes[1].set_xticks(scales, scales)
axes[1].set_xticks([], minor=True)
show(figure, "04_where_am_i_share")

# %% [markdown]
# At 0.05 two thirds of what is read come from the neighbours. "The token in row 5" becomes "something around row 5".
#
# Training notices. ListOps with 2,000 tokens was read in segments of 256 tokens. With the scale 0.05 the model only
# learned to give the commonest answer, right in 17 % of the rows, for at least 1,000 steps. With the scale 1.0 it left
# this level within 1,000 steps, and then stayed at 35 %. That is what the first operation alone tells of the answer.
# ([results/README.md](results/README.md), "ListOps at 2,000 tokens", has the settings.) Our reading: an operation
# stands *before* its arguments, and the value of `[MAX 2 [MIN ...` depends most on its very first token, one row among
# two thousand. A model that cannot read one row by itself does not know what to compute. On short segments there is
# little to blur, and the default is 0.05. With segments of 4 and of 32 tokens the scale made no difference.
#
# One need not choose a single scale. With `position_decay="heads"` each head has its own: 0.05, 0.2, 0.8 and 3.2 for
# four heads. The first head blurs, and the last one reads single rows. With "learned" the scales start there and are
# trained (`head_relative_features_forward`).
#
# ## What can go wrong here
#
# - *"r makes near tokens attend to each other."* The place of the query does not enter: the same query reads the same
#   in every row. The distance in r is between rows that are written, and it mixes their features.
# - *"A wide decay sees further, so it must be better for long inputs."* Every row is read at any scale, as the sum runs
#   over all of them. What a wide decay widens is the blur.
# - *"Without H_astro the model is blind to order."* Not while `embed.position` is there, as the four cases show. To
#   measure what H_astro does one has to switch off the other source.

# %%
assert changes["without H_astro"].max() < 1e-12 and changes["with H_astro"].min() > 1e-3
assert spread < 1e-12
assert noticed[False, False] < 1e-12 < 1e-5 < min(noticed[case] for case in noticed if any(case))
assert own[0.05] < 0.4 < 0.6 < own[0.3] < 0.8 < own[1.0], "the blur at scale 0.05 has gone"
assert near[0.05] > 0.5 > 5 * near[1.0]
assert (np.diff(shares) > 0).all()
assert all((np.diff(at_noise) > 0).all() for at_noise in other_noise.values()), "the order hangs on the noise"
for scale, decay in decays.items():
    np.testing.assert_array_equal(decay, decay.T)
    assert 0.7 * 2 / scale < mixed[scale] < 1.1 * 2 / scale
