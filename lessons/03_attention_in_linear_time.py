# %% [markdown]
# # 03 Attention in linear time
#
# **The question: every token looks at every other token. How can that cost N and not N^2?**
#
# It cannot, if "looks at" means that N^2 weights are written down. The trick of linear attention is that nobody ever
# asks for the weights. They are only wanted multiplied by V, and a product of three matrices may be bracketed
# from the right as well as from the left. Below we see what the weights are, do without them, check that nothing
# changed, and look at what was lost: not accuracy of arithmetic, but sharpness.
#
# Read beside this: `rmaat_np/attention.py`. Every function there is a forward/backward pair; we use the forward ones.

# %%
import os
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded: with several threads the times below jump about

import numpy as np
from matplotlib import pyplot
from show import show

from rmaat_np import attention, ledger

rng = np.random.default_rng(0)

# %% [markdown]
# ## Softmax attention: N^2 weights
#
# Query i scores every key by q_i . k_j / sqrt(m), the scores go through exp and are divided by their sum, and the
# result is the weighted mean of the values. The cache holds the weights, because the way back needs them. Here are 32
# rows whose queries look for their own key: q_i = 2 k_i.

# %%
N = 32
k = rng.standard_normal((1, N, N))
q = 2 * k
pick = np.eye(N)[None]  # row j of the values is 1 in column j: the output *is* the matrix of weights
_, softmax_cache = attention.softmax_attention_forward(q, k, pick, None, 1)
softmax_weights = softmax_cache["weights"][0, 0]
print(f"softmax: {softmax_weights.size} weights for {N} rows, each row sums to {softmax_weights[0].sum():.6f}")

# %% [markdown]
# ## Taking exp apart
#
# exp(q . k) ties q and k together: it has to be evaluated pair by pair. Replace it by a product phi(q) . phi(k) of a
# *feature map* of each, phi(u) = elu(u) + 1, positive so that it can pass for a weight. Then
#
# $$ \sum_j \big(\phi(q_i) \cdot \phi(k_j)\big)\, v_j \;=\; \phi(q_i) \Big( \sum_j \phi(k_j)\, v_j^T \Big) $$
#
# The bracket on the right is an m x m matrix that no longer knows how many rows went into it. In the astromorphic
# reading this is a synapse array: keys and values **write** into it, then queries **read** from it.
#
# - write: H = 1/m sum_j (phi(k_j) + phi(r_j)) v_j^T, and the astrocyte's response g = sum_j phi(k_j), to a power alpha
# - read: y_i = phi(q_i) H / C_i with C_i = phi(q_i) . g, the feedback from the astrocyte
#
# (phi(r_j), the part that depends on the position, is the subject of lesson 04.) The cache shows what was written:

# %%
heads, width, length = 4, 32, 60
phi_r, _ = attention.relative_features_forward(rng.standard_normal((length, width)), 0.3)
q4, k4, v4 = rng.standard_normal((3, 2, length, width))
y, cache = attention.astromorphic_attention_forward(q4, k4, v4, phi_r, None, heads)
for name in ("phi_q", "phi_k_plus_r", "v", "H", "total", "P"):
    print(f"  {name:12} {cache[name].shape}")

# %% [markdown]
# `H` is (sequences, heads, m, m): nothing in it has a side of 60. And as a sum over rows it may be written in any
# pieces, in any order. We write the first 25 rows, then the rest, and add:

# %%
pieces = []
for part in (slice(0, 25), slice(25, length)):
    _, piece = attention.astromorphic_attention_forward(q4[:, :1], k4[:, part], v4[:, part], phi_r[part], None, heads)
    pieces.append(piece["H"])
print(f"H in two pieces differs from H in one by at most {abs(sum(pieces) - cache['H']).max():.0e}")

# %% [markdown]
# ## Is it the same function?
#
# `astromorphic_attention_quadratic` is the left side of the equation: it forms all weights, for tests and for reading.
# With and without H_astro, with padding, and with the power alpha, both must agree to rounding.

# %%
mask = (np.arange(length) < 47).astype(float)[None, :, None].repeat(2, axis=0)
differences = {}
for name, f, m, alpha in (
    ("plain", None, None, 1.0),
    ("with H_astro", phi_r, None, 1.0),
    ("13 rows of padding", phi_r, mask, 1.0),
    ("alpha = 0.25", phi_r, None, 0.25),
):
    linear = attention.astromorphic_attention_forward(q4, k4, v4, f, m, heads, alpha=alpha)[0]
    quadratic = attention.astromorphic_attention_quadratic(q4, k4, v4, f, m, heads, alpha=alpha)
    differences[name] = abs(linear / quadratic - 1).max()
    print(f"{name:20} largest relative difference {differences[name]:.0e}")

# %% [markdown]
# ## What it costs: an m x m memory
#
# All that any query can learn about all keys has to fit into H. Softmax can single out one key of thousands; here
# the weights are a product of two thin matrices, of rank m at most, and phi is never 0: every key gets a share. We
# give the same queries and keys to both, with m = N = 32, so that rank is not even the limit: the blur is all phi's.
# (Values that pick out one row each again make the weights visible, and 1/m in the definition of H is why they come
# out m times too small.)

# %%
linear_weights = N * attention.astromorphic_attention_forward(q, k, pick, None, None, 1)[0][0]
own = {"softmax": np.diag(softmax_weights).mean(), "linear": np.diag(linear_weights).mean()}
print(f"share of a query's own key: softmax {own['softmax']:.2f}, linear {own['linear']:.2f}, one of {N}: {1 / N:.2f}")
ones = np.ones_like(v4)
sums = [attention.astromorphic_attention_forward(q4, k4, ones, f, None, heads)[0] for f in (None, phi_r)]
print(f"sum of a row's weights: {sums[0].min():.4f} to {sums[0].max():.4f} (1/m = {heads / width})")
print(f"  with H_astro, which C does not divide out: {sums[1].min():.2f} to {sums[1].max():.2f}")

# %% [markdown]
# So the weights blur, and something else has to bring sharpness back: several heads and layers, a distinct position
# for every row (lesson 04), and segments short enough for m x m numbers to hold what matters (lesson 06).
#
# ## What it saves: measured
#
# Two heads of width 16, one sequence, the best of nine runs, N from 4 to 4,096 (softmax) and to 32,768 (linear).
# Times are this machine's, and their growth comes out somewhat above N^2 and N^1, because long arrays outgrow the
# processor's caches. The bytes kept for the way back, the bill of training, are the same everywhere.

# %%
counts = {"softmax": 2 ** np.arange(2, 13), "linear": 2 ** np.arange(2, 16)}
seconds, held = {"softmax": [], "linear": []}, {"softmax": [], "linear": []}
for name, lengths in counts.items():
    for n in lengths:
        q, k, v = rng.standard_normal((3, 1, n, 32), dtype=np.float32)
        runs = []
        for _ in range(9):
            started = time.perf_counter()
            if name == "softmax":
                _, run_cache = attention.softmax_attention_forward(q, k, v, None, 2)
            else:
                _, run_cache = attention.astromorphic_attention_forward(q, k, v, None, None, 2)
            runs.append(time.perf_counter() - started)
        seconds[name].append(min(runs))
        held[name].append(ledger.cache_nbytes(run_cache))
for name, lengths in counts.items():
    slope = np.polyfit(np.log(lengths[-4:]), np.log(seconds[name][-4:]), 1)[0]
    print(f"{name:8} longest N {lengths[-1]:6,}: {seconds[name][-1]:.4f} s, time grows like N^{slope:.1f}")
at_4096 = seconds["softmax"][-1] / seconds["linear"][10]
bytes_at_4096 = held["softmax"][-1] / held["linear"][10]
at_4 = seconds["softmax"][0] / seconds["linear"][0]
print(f"at 4 rows softmax takes {at_4:.1f} times as long as linear: there, counting calls is all that matters")
print(f"at 4,096 rows softmax takes {at_4096:.0f} times as long and keeps {bytes_at_4096:.0f} times the bytes")

# %%
figure = pyplot.figure(figsize=(13, 4.3), layout="constrained")
axes = figure.subplots(1, 4, width_ratios=(1, 1, 1.15, 1.15))
for axis, (name, weights) in zip(axes[:2], {"softmax": softmax_weights, "linear": linear_weights}.items(), strict=True):
    picture = axis.imshow(weights, cmap="Greys", vmin=0, vmax=weights.max())
    axis.set(title=f"{name}: own key gets {own[name]:.2f}\n(mind the scale)", xlabel="key", ylabel="query")
    figure.colorbar(picture, ax=axis, shrink=0.6, location="bottom")
styles = {"softmax": "s--", "linear": "o-"}
for name, lengths in counts.items():
    axes[2].loglog(lengths, seconds[name], styles[name], base=2, label=name)
    axes[3].loglog(lengths, np.array(held[name]) / 2**20, styles[name], base=2)
    axes[3].text(lengths[-1] * 0.8, held[name][-1] / 2**20, name, ha="right", va="bottom")
axes[2].set(title="time of a forward pass", xlabel="rows N", ylabel="seconds")
axes[3].set(title="kept for the way back", xlabel="rows N", ylabel="MiB", ylim=(5e-4, 500))
axes[2].legend(frameon=False)
for axis in axes[2:]:
    axis.set_yscale("log", base=10)
show(figure, "03_attention_in_linear_time")

# %% [markdown]
# ## What can go wrong here
#
# - *"Linear attention is an approximation of softmax attention."* It is another function, computed exactly: equal to
#   its own quadratic form to 1e-10, and far from softmax, as the two weight matrices show.
# - *"The weights of a row sum to 1."* Without H_astro they sum to 1/m; with it they sum to more, because C counts only
#   the keys. Do not read them as probabilities.
# - *"Linear is always faster."* Not for short rows: at the left ends of the curves softmax is, because it makes fewer
#   calls. It is the *growth* that differs. And all rows are written before any is read: this attention looks both
#   ways, and is not the running sum of a causal one.

# %%
assert max(differences.values()) < 1e-10
np.testing.assert_allclose(sum(pieces), cache["H"], rtol=1e-10)
assert cache["H"].shape == (2, heads, width // heads, width // heads)
np.testing.assert_allclose(sums[0], heads / width, rtol=1e-10)
assert sums[1].min() > heads / width
assert own["softmax"] > 0.5 > 5 * own["linear"] > 5 / N
later = attention.astromorphic_attention_forward(q4, k4[:, ::-1], v4[:, ::-1], None, None, heads)[0]
np.testing.assert_allclose(later, attention.astromorphic_attention_forward(q4, k4, v4, None, None, heads)[0], rtol=1e-9)
assert held["softmax"][-1] > 3.8 * held["softmax"][-2], "twice the rows, four times the weights"
assert held["linear"][-1] < 2.01 * held["linear"][-2], "twice the rows, twice the bytes"
assert at_4096 > 3, "softmax was expected to be tens of times slower"
assert at_4 < 1, "with four rows softmax was expected to be faster"
