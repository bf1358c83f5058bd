# %% [markdown]
# # 03 Attention in linear time
#
# **The question: every token looks at every other token. How can that cost N and not N^2?**
#
# It cannot, if "looks at" means that N^2 weights are written down. Linear attention never asks for the weights. They
# are only wanted multiplied by the values V. A product of three matrices may be bracketed from the right as well as
# from the left. Below we see what the weights are, do without them, and check that nothing changed. Then we look at
# what is lost: not the precision of the result, but sharpness.
#
# In lesson 00 attention had one **head**. Usually it has several. Each of h heads gets its own m of the D columns of
# the queries, keys and values, with m = D / h. The heads work apart, and their results stand side by side.
#
# Read beside this: `rmaat_np/attention.py`. Every function there is a forward/backward pair. We use the forward ones.

# %%
import os
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded: with several threads the times below jump about

import numpy as np
from show import heading, pyplot, show, your_turn

from rmaat_np import attention, ledger

rng = np.random.default_rng(0)

# %% [markdown]
# ## Softmax attention: N^2 weights
#
# This is the attention of most transformers. Query i scores every key by q_i . k_j / sqrt(m). The scores go through exp
# and are divided by their sum (*softmax*), so they become weights. The result is the mean of the values with these
# weights. The cache holds the weights, because the way back needs them. Here are 32 rows and one head. Each query
# looks for its own key: q_i = 2 k_i.

# %%
heading("Softmax attention: N^2 weights")
N = 32
k = rng.standard_normal((1, N, N))  # (sequences, rows, D); one head, so m = D = 32
q = 2 * k
pick = np.eye(N)[None]  # value j is 1 in column j and 0 elsewhere: so the output *is* the matrix of weights
_, softmax_cache = attention.softmax_attention_forward(q, k, pick, None, 1)
softmax_weights = softmax_cache["weights"][0, 0]
print(f"{softmax_weights.size} weights for {N} rows; each row of weights sums to {softmax_weights[0].sum():.6f}")

# %% [markdown]
# ## Taking exp apart
#
# exp(q . k) ties q and k together: it has to be computed for each pair. Replace it by phi(q) . phi(k). phi is the
# **feature map** of lesson 00: u + 1 for u above 0, exp(u) below. It makes positive numbers, so that the product can
# serve as a weight. Then
#
# $$ \sum_j \big(\phi(q_i) \cdot \phi(k_j)\big)\, v_j \;=\; \phi(q_i) \Big( \sum_j \phi(k_j)\, v_j^T \Big) $$
#
# The bracket on the right is an m x m matrix, whatever the number of rows. RMAAT reads it as an array of synapses: keys
# and values **write** into it, then queries **read** from it.
#
# - write: H = 1/m sum_j (phi(k_j) + phi(r_j)) v_j^T. Its two parts are H_neuron (from k) and H_astro (from r, the
#   place: lesson 04). Besides, the astrocyte responds to all keys with g = (sum_j phi(k_j))^alpha. The exponent
#   **alpha** is a setting of the model. It is 1 in lesson 00, and everywhere else unless one sets it.
# - read: y_i = P_i phi(q_i) H, with C_i = phi(q_i) . g and the feedback P_i = 1 / C_i.
#
# Now write H yourself, for one head and without H_astro.

# %%
heading("Taking exp apart")
m = 8
one_q, one_k, one_v = rng.standard_normal((3, 1, 60, m))
_, one_cache = attention.astromorphic_attention_forward(one_q, one_k, one_v, None, None, 1)
phi_k, v = attention.phi_forward(one_k[0])[0], one_v[0]  # (60, m) each
answer = None  # your turn: H, an (m, m) array, from phi_k, v and m
hint = "m times too large? 1/m is missing. Another order? Row a of H belongs to feature a of phi_k, column b to v."
H = your_turn(answer, one_cache["H"][0, 0], hint)

# %% [markdown]
# > *Predict, then run: two sequences of 60 rows, D = 32, four heads. Which arrays of the cache have a side of 60? How
# > large is H, and how large would it be for 60,000 rows?*

# %%
heads, width, length = 4, 32, 60
phi_r, _ = attention.relative_features_forward(rng.standard_normal((length, width)), 0.3)  # phi(r_j), lesson 04
q4, k4, v4 = rng.standard_normal((3, 2, length, width))
y, cache = attention.astromorphic_attention_forward(q4, k4, v4, phi_r, None, heads)
for name, meaning in {
    "phi_q": "phi(q)", "phi_k_plus_r": "phi(k) + phi(r)", "v": "v", "H": "H",
    "total": "sum of phi(k), before the exponent alpha", "P": "P, one per row and head",
}.items():  # fmt: skip
    print(f"  {name:12} {str(cache[name].shape):13} {meaning}")
pieces = []
for part in (slice(0, 25), slice(25, length)):
    _, piece = attention.astromorphic_attention_forward(q4[:, :1], k4[:, part], v4[:, part], phi_r[part], None, heads)
    pieces.append(piece["H"])
print(f"H of the first 25 rows plus H of the rest differs from H by at most {abs(sum(pieces) - cache['H']).max():.0e}")

# %% [markdown]
# `H` is (sequences, heads, m, m), for any number of rows. It is a sum over rows. So it may be written in pieces, and
# in any order: the last line wrote the first 25 rows, then the rest, and added.
#
# ## Is it the same function?
#
# `astromorphic_attention_quadratic` is the left side of the equation. It forms all weights, for tests and for reading.
# Both sides must agree to rounding in every case: with H_astro, with another alpha, and with **padding**. Padding fills
# short sequences up with rows that mean nothing, so that all have the same length. A **mask** of zeros keeps these rows
# from writing.

# %%
heading("Is it the same function?")
mask = (np.arange(length) < 47).astype(float)[None, :, None].repeat(2, axis=0)
differences = {}
for name, features, live, alpha in (
    ("H_neuron alone", None, None, 1.0),
    ("with H_astro", phi_r, None, 1.0),
    ("13 rows of padding", phi_r, mask, 1.0),
    ("alpha = 0.25", phi_r, None, 0.25),
):
    linear = attention.astromorphic_attention_forward(q4, k4, v4, features, live, heads, alpha=alpha)[0]
    quadratic = attention.astromorphic_attention_quadratic(q4, k4, v4, features, live, heads, alpha=alpha)
    differences[name] = abs(linear / quadratic - 1).max()
    print(f"{name:20} largest relative difference {differences[name]:.0e}")

# %% [markdown]
# ## What it costs: sharpness
#
# All that any query can learn about all keys has to fit into H. Softmax can pick out one key of thousands. Here phi is
# never 0, so every key gets a share. Besides, the N x N weights are a product of an N x m and an m x N matrix. So their
# rows are mixtures of m rows only. We give the same 32 queries and keys to both attentions. Here m = N, so the second
# limit does not bite: all that we see comes from phi.
#
# > *Predict, then run: softmax gives a query's own key almost all of the weight. How much of it does linear attention
# > give? What does a row of its weights sum to?*

# %%
heading("What it costs: sharpness")
linear_weights = N * attention.astromorphic_attention_forward(q, k, pick, None, None, 1)[0][0]  # N = m undoes the 1/m
own = {"softmax": np.diag(softmax_weights).mean(), "linear": np.diag(linear_weights).mean()}
print(f"share of a query's own key: softmax {own['softmax']:.2f}, linear {own['linear']:.2f}, one of {N}: {1 / N:.2f}")
ones = np.ones_like(v4)  # with values of 1 the output is the sum of the weights
sums = [attention.astromorphic_attention_forward(q4, k4, ones, f, None, heads)[0] for f in (None, phi_r)]
print(f"sum of a row's weights: {sums[0].min():.4f} to {sums[0].max():.4f} (1/m = {heads / width})")
print(f"  with H_astro, which C does not count: {sums[1].min():.2f} to {sums[1].max():.2f}")
figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.8), layout="constrained")
for axis, (name, weights) in zip(axes, {"softmax": softmax_weights, "linear": linear_weights}.items(), strict=True):
    picture = axis.imshow(weights, cmap="Greys", vmin=0, vmax=weights.max())
    axis.set(title=f"{name}: own key gets {own[name]:.2f}", xlabel="key", ylabel="query")
    figure.colorbar(picture, ax=axis, shrink=0.8, location="bottom", label="weight (each picture has its scale)")
show(figure, "03_attention_in_linear_time_weights")

# %% [markdown]
# The weights blur. Something else has to bring sharpness back: several heads and blocks, a distinct place for every row
# (lesson 04), and segments so short that m x m numbers hold what matters (lesson 06).
#
# ## What it saves: measured
#
# Two heads of width 16 and one sequence. N goes from 4 to 4,096 for softmax, and on to 32,768 for linear attention. The
# bytes are those of the cache, the bill of training: they are the same on every machine. The times are this machine's,
# the best of several runs in turn. Only their ratios mean something.
#
# > *Predict, then run: twice as many rows. How many times as many bytes does each attention keep? Which is faster for
# > four rows?*

# %%
heading("What it saves: measured")
FUNCTIONS = {
    "softmax": lambda rows: attention.softmax_attention_forward(*rows, None, 2)[1],
    "linear": lambda rows: attention.astromorphic_attention_forward(*rows, None, None, 2)[1],
}
counts = {"softmax": 2 ** np.arange(2, 13), "linear": 2 ** np.arange(2, 16)}
seconds, held = {"softmax": {}, "linear": {}}, {"softmax": {}, "linear": {}}
for n in counts["linear"]:
    rows = rng.standard_normal((3, 1, n, 32), dtype=np.float32)
    for name in (["softmax", "linear"] if n <= 4096 else ["linear"]) * 3:  # three rounds, in turn
        for _ in range(200 if n < 64 else 20 if n < 1024 else 4):
            started = time.perf_counter()
            run_cache = FUNCTIONS[name](rows)
            seconds[name][n] = min(time.perf_counter() - started, seconds[name].get(n, np.inf))
            held[name][n] = ledger.cache_nbytes(run_cache)
ratios = {n: tuple(kind["softmax"][n] / kind["linear"][n] for kind in (seconds, held)) for n in (4, 64, 512, 4096)}
for n, (in_time, in_bytes) in ratios.items():
    print(f"{n:5,} rows: softmax takes {in_time:.1f} times the time and {in_bytes:.1f} times the bytes of linear")
for name, longest in (("softmax", 4096), ("linear", 32_768)):
    growth = held[name][longest] / held[name][longest // 2]
    print(f"{name}: from {longest // 2:,} to {longest:,} rows, {growth:.2f} times the bytes")
figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, style in (("softmax", "s--"), ("linear", "o-")):
    axes[0].loglog(counts[name], list(seconds[name].values()), style, label=name)
    axes[1].loglog(counts[name], np.array(list(held[name].values())) / 2**20, style, label=name)
axes[0].set(title="Time of a forward pass", xlabel="rows N", ylabel="seconds")
axes[1].set(title="Cache, kept for the way back", xlabel="rows N", ylabel="MiB (2^20 bytes)")
for axis in axes:
    axis.set_xscale("log", base=2)
    axis.legend(frameon=False, loc="upper left")
show(figure, "03_attention_in_linear_time_cost")

# %% [markdown]
# ## What can go wrong here
#
# - *"Linear attention is an approximation of softmax attention."* It is another function, computed exactly. It equals
#   the form with all N^2 weights to 1e-10, and is far from softmax, as the two weight matrices show.
# - *"The weights of a row sum to 1."* Without H_astro they sum to 1/m. With H_astro they sum to more, because C counts
#   only the keys. Do not read them as probabilities.
# - *"Linear is always faster."* Not for few rows: at the left ends of the curves softmax is, because it makes fewer
#   calls. It is the *growth* that differs. Also, all rows are written before any is read. So this attention looks both
#   ways, unlike the attention of a language model, which sees earlier rows only.

# %%
assert max(differences.values()) < 1e-10
np.testing.assert_allclose(sum(pieces), cache["H"], rtol=1e-10)
np.testing.assert_allclose(H, phi_k.T @ v / m, rtol=1e-12)
assert cache["H"].shape == (2, heads, width // heads, width // heads)
np.testing.assert_allclose(sums[0], heads / width, rtol=1e-10)
assert sums[1].min() > heads / width and own["softmax"] > 0.5 > 5 * own["linear"] > 5 / N
later = attention.astromorphic_attention_forward(q4, k4[:, ::-1], v4[:, ::-1], None, None, heads)[0]
np.testing.assert_allclose(later, attention.astromorphic_attention_forward(q4, k4, v4, None, None, heads)[0], rtol=1e-9)
assert held["softmax"][4096] > 3.8 * held["softmax"][2048], "twice the rows, four times the weights"
assert held["linear"][32_768] < 2.01 * held["linear"][16_384], "twice the rows, twice the bytes"
assert held["softmax"][4] < held["linear"][4] and ratios[4][0] < 1, "with four rows softmax was expected to cost less"
assert ratios[4096][0] > 3, "softmax was expected to take tens of times as long"
