# %% [markdown]
# # 13 Attractor, drift, latch
#
# **The question: a token is read in the first segment, and then a thousand segments of noise. Why does one memory still
# hold the token, and another not?**
#
# We train small models in seconds, and read them on far more segments than they were trained on. Then we ask what noise
# does to a memory, and to the *difference* between two memories: what a memory knows of its token is how it differs
# from a memory of another token. Seeds 0 to 2; the settings were found in some sixty short runs.
#
# Read beside this: `rmaat_np/memory.py`, `rmaat_np/plasticity.py` (`retention_factors`), `rmaat_np/model.py`.

# %%
from dataclasses import replace

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np import model, optim
from rmaat_np.segments import Segment
from rmaat_np.step import prepare_phi_r

C, L, M, D = 4, 8, 4, 16  # classes; tokens in a segment; memory tokens and their width, so a memory is M D = 64 numbers
cfg = rn.Config(
    vocab_size=1 + C + 8, num_classes=C, d_model=D, num_heads=2, num_layers=1, d_ff=2 * D, segment_length=L,
    num_segments=16, num_memory=M, segment_embedding=False,
)  # fmt: skip

# %% [markdown]
# ## Three updates, one task
#
# Tokens 1 to 4 name the four classes, 5 to 12 are noise. A row has one to three class tokens. Its label is the **last**
# of them. Half of the training rows have a single one, in segment 1. A good memory *keeps* it. It *yields* when a newer
# one comes. Training shows 1 to 16 segments, the upper end growing. Three updates (lesson 05) learn the task:
#
# - `none` takes over what a segment wrote; `integrate` takes over the part RF(t, T) of it.
# - `learned` has a gate for each memory token, g = sigma(logit(RF(t, T)) + w · [memory, written] + b). So RF is its
#   **prior**: with w = 0 and b = 0 the gate is RF. Here b starts at -2 and not, as in the
#   command, at 0: more shut than the prior. In training the gate also meets the small RF of long sequences
#   (`retention_horizon`). We train it with three seeds.
#
# > *Predict, then run: all are read on 1,024 segments, 64 times as many as they were trained on. Guessing scores 0.25.
# > Which of them still keep a token of segment 1? Which yield to a newer one?*


# %%
def draw(count, segments, rng, alone):
    """Rows of noise with class tokens. alone: the part of the rows that have a single one, in segment 1.

    Shapes: -> tokens (count, segments L), labels (count): the last class token of each row
    """
    n = segments * L
    tokens, labels = rng.integers(1 + C, cfg.vocab_size, (count, n)), rng.integers(0, C, count)
    single = rng.random(count) < alone
    places = rng.integers(0, np.where(single, L, n)[:, None], (count, 3))
    used = np.arange(3) < np.where(single, 1, rng.integers(1, 4, count))[:, None]
    row, which = np.nonzero(used)
    tokens[row, places[row, which]] = rng.integers(1, 1 + C, len(row))
    tokens[np.arange(count), np.where(used, places, -1).max(axis=1)] = 1 + labels
    return tokens, labels


def train(cfg, seed, steps=800):
    """-> params, after steps with 32 rows each"""
    rng, params = np.random.default_rng(seed), rn.init_params(cfg, seed=seed)
    if cfg.retention == "learned":
        params["memory.gate.bias"][:] = -2
    state = optim.adamw_init(params)
    for step in range(steps):
        most = 1 + round(15 * min(1, step / (0.6 * steps)))
        tokens, labels = draw(32, int(rng.integers(1, most + 1)), rng, alone=0.5)
        _, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, "bptt", seed=seed, step=step)
        optim.adamw_step(params, grads, state, step, optim.learning_rate(step, steps, 5e-3, 20))
    return params


heading("Three updates, one task")
models, scores = {}, {}  # name: (params in float64, configuration); (name, alone, T): accuracy
for name in ("none", "integrate", "learned 0", "learned 1", "learned 2"):
    mode, _, seed = name.partition(" ")
    case = replace(cfg, retention=mode, retention_horizon=4096 if mode == "learned" else 0)
    params = train(case, int(seed or 0))
    for alone, T in [(1, 8), (1, 64), (1, 256), (1, 1024), (0, 8), (0, 256)]:
        tokens, labels = draw(100, T, np.random.default_rng(T), alone)
        answers = rn.predict(params, replace(case, num_segments=T), tokens).argmax(axis=1)
        scores[name, alone, T] = (answers == labels).mean()
    models[name] = {key: array.astype("float64") for key, array in params.items()}, case
    print(f"{name:9}", *(f"{('yields', 'keeps')[a]}, {T}: {x:.2f};" for (n, a, T), x in scores.items() if n == name))

# %% [markdown]
# Without gate or factor, `none` does everything. `integrate` loses the token between 64 and 1,024 segments, and hardly
# yields. What the gate does depends on the seed of its training.
#
# ## Where the memories go
#
# We read eight rows of each class: the class token, then noise. A memory is a point with 64 coordinates. Three
# distances say where the points are: how far the rows lie from the mean of their class (*within*), how far the nearest
# two class means are apart (*apart*), and how far the mean of all rows has gone since segment 1 (*together*).
#
# > *Predict, then run: `integrate` is read on 16 and on 1,024 segments. The factors of each sum to 1. Which of the
# > three distances is smaller on 1,024, and which is not?*


# %%
def make_segment(tokens, factor):
    """A segment after which every row goes on. factor: RF(t, T)"""
    return Segment(0, tokens, None, np.full((1, 1, 1), factor), len(tokens), None)


def read(name, T, rows=8):
    """Shapes: -> memories after segments 1 to T (T, C, rows, M D); factors or gates, means over rows (T, 1 or M)"""
    (params, case), rng, classes = models[name], np.random.default_rng(1), np.repeat(np.arange(C), rows)
    phi_r, _ = prepare_phi_r(params, case)
    memory, memories, gates = np.repeat(params["memory.init"][None], C * rows, axis=0), [], []
    for t, factor in enumerate(rn.retention_factors(T, case.retention)):
        tokens = rng.integers(1 + C, cfg.vocab_size, (C * rows, L))
        if t == 0:
            tokens[np.arange(C * rows), rng.integers(0, L, C * rows)] = 1 + classes
        memory, _, cache = model.segment_forward(params, phi_r, case, make_segment(tokens, factor), memory)
        memories.append(memory)
        gates.append(cache["update"].get("g", np.full((1, 1, 1), factor)).mean(axis=(0, 2)))
    return np.reshape(memories, (T, C, rows, M * D)), np.array(gates)


heading("Where the memories go")
paths, gates, apart, together = {}, {}, {}, {}
for key in [(name, T) for name in models for T in (16, 1024)]:
    paths[key], gates[key] = read(*key)
    means = paths[key].mean(axis=2)  # (T, C, M D)
    within = np.linalg.norm(paths[key][-1] - means[-1][:, None], axis=-1).mean()
    pairs = np.linalg.norm(means[:, :, None] - means[:, None], axis=-1) + np.where(np.eye(C), np.inf, 0)
    apart[key], together[key] = pairs.min(axis=(1, 2)), np.linalg.norm((means[-1] - means[0]).mean(axis=0))
    first, later = gates[key][0].round(3), gates[key][1:].mean(axis=0).round(3)
    print(
        f"{key[0]:9} T {key[1]:4}: apart {apart[key][0]:5.2f} after segment 1, {apart[key][-1]:5.2f} at the end; "
        f"within {within:.2f}, together {together[key]:.1f}; r or g of each memory token {first}, on noise {later}"
    )
latch = min(["learned 0", "learned 1", "learned 2"], key=lambda name: gates[name, 1024][1:].mean())
words = {"none": "attractor", "integrate": "drift", latch: "latch"}
figure, axes = pyplot.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axis, (name, word) in zip(axes, words.items(), strict=True):
    memories, stars = paths[name, 1024], paths[name, 16][-1].mean(axis=1)
    points = np.concatenate([memories.reshape(-1, M * D), np.repeat(stars, 4000, axis=0)])  # both shall be in the plane
    plane = np.linalg.svd(np.cov(points.T))[0][:, :2]
    for c in range(C):
        for path in memories[:, c, :3].transpose(1, 0, 2) @ plane:
            axis.plot(*path.T, color=f"C{c}", lw=0.5, alpha=0.6)
            axis.plot(*path[-1], "o", color=f"C{c}", ms=4)
        axis.plot(*(stars[c] @ plane), "*", color=f"C{c}", ms=15, mec="black")
    axis.set(title=f"{word} ({name})", xlabel="first principal component", aspect="equal", adjustable="datalim")
show(figure, "13_attractor_drift_latch_paths")

# %% [markdown]
# The paths of 1,024 segments, in the plane of their two largest principal components. A dot is where a path ends. A
# star is where the rows of 16 segments end: there the head has learned to read. Of the three gates we show the one that
# is least open for noise.
#
# - **Attractor.** Noise throws the memories of `none` about, and they stay in four clouds. After 1,024 segments the
#   clouds are as far *apart* as after 16.
# - **Drift.** The factors of `integrate` sum to 1, so noise takes all classes *together* about as far for every T. But
#   the class token is in one segment, whose factor is about 3 / T. So the classes begin 2.12 *apart* for T = 16, and
#   0.04 for T = 1,024. There all four end in one spot, far from the stars.
# - **Latch.** Seeds 0 and 2: gates open for the class token and shut on noise. The memories jump, and then stay.
#
# With seed 1 three of the four gates are, for T = 16, about as open for noise as for the class token. Its memories move
# on, and over 1,024 segments all classes come together. So a gate can be a latch, and training decides whether it is.
#
# ## What one segment does to a difference
#
# One segment later a small difference between two memories is J times that difference. J is the **Jacobian**,
# d memory_next / d memory, 64 times 64 numbers. `segment_backward` turns a gradient for memory_next into one for
# memory. Given the unit vector e_i, it returns row i of J. So we give it 64 copies of one sequence, each with another
# unit vector. A difference along an eigenvector is multiplied by the eigenvalue: it shrinks if the absolute value is
# below 1, and grows above 1. First write the J of `integrate`, from its r and the Jacobian of what the blocks write.
#
# > *Predict, then run: noise throws the memories of `none` about. Are its eigenvalues above 1 or below? And those of
# > the latch? After 256 segments `none` has every token right. How large is d memory_256 / d memory_1, the product of
# > all J? And for `integrate`, which has a quarter of them wrong?*


# %%
def jacobian(name, case, tokens, factor, memory):
    """Shapes: tokens (L); memory (M, D) -> J (M D, M D), [i, j] = d memory_next[i] / d memory[j]; memory_next (M, D)"""
    params, copies = models[name][0], make_segment(np.repeat(tokens[None], M * D, axis=0), factor)
    phi_r, _ = prepare_phi_r(params, case)
    memory_next, readout, cache = model.segment_forward(params, phi_r, case, copies, np.repeat(memory[None], M * D, 0))
    dmemory, _, _ = model.segment_backward(np.eye(M * D).reshape(M * D, M, D), readout, cache)
    return dmemory.reshape(M * D, M * D), memory_next[0]


heading("What one segment does to a difference")
r, memory = rn.retention_factors(16)[4], paths["integrate", 16][3, 0, 0].reshape(M, D)  # segment 5 of 16
J_written, _ = jacobian("integrate", replace(cfg, retention="none"), 5 + np.arange(L), r, memory)
right, _ = jacobian("integrate", cfg, 5 + np.arange(L), r, memory)
J = None  # your turn: the Jacobian of memory + r * (written - memory), from r, J_written and np.eye(M * D)
J = your_turn(J, right, "The old memory has np.eye(M * D) and the factor 1 - r. What is written has J_written and r.")
figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.8), layout="constrained", sharex=True, sharey=True)
size, left = {}, {}
for axis, (name, word) in zip(axes, words.items(), strict=True):
    for T in (16, 256):
        rng, memory, product = np.random.default_rng(2), paths[name, 16][0, 0, 0].reshape(M, D), np.eye(M * D)
        for t, factor in enumerate(rn.retention_factors(T, models[name][1].retention)[1:], start=2):
            J, memory = jacobian(name, models[name][1], rng.integers(1 + C, cfg.vocab_size, L), factor, memory)
            product = J @ product
            if (t, T) == (5, 16):
                eigenvalues = np.linalg.eigvals(J)
        left[name, T] = np.linalg.norm(product, 2)
    size[name] = np.abs(eigenvalues)
    print(
        f"{name:9}: |eigenvalue| at most {size[name].max():.2f}, median {np.median(size[name]):.2f}; "
        f"norm of d memory_T / d memory_1: {left[name, 16]:.1e} for T = 16, {left[name, 256]:.1e} for T = 256"
    )
    axis.add_patch(pyplot.Circle((0, 0), 1, color="0.9"))
    axis.plot(eigenvalues.real, eigenvalues.imag, "o", ms=4)
    axis.set(title=f"{word} ({name})", xlabel="real part", aspect="equal", xlim=(-1.2, 1.4), ylim=(-1.1, 1.1))
axes[0].set(ylabel="imaginary part")
show(figure, "13_attractor_drift_latch_eigenvalues")

# %% [markdown]
# The attractor's eigenvalues lie well inside the circle: whatever a segment does to a memory, the next ones undo it.
# Those of the latch are 1, but for one: nothing gets in, so nothing changes. Those of the drift are near 1, some above:
# no segment wipes much out, and nothing holds a memory in its place.
#
# The product of all J is what is left of a small difference. The gradient goes back through the same product. For the
# memory that keeps best it is practically 0. That memory does not remember *where* in its cloud it was, but in *which*
# cloud, and no small difference changes that. So it keeps for any length, and it has to learn this on short rows. The
# latch keeps, and lets a gradient through. `integrate` hands on every difference, even enlarged, and loses all the
# same: the difference that its word made was too small from the start.
#
# ## What can go wrong here
#
# - *"A gradient that vanishes means a memory that forgets."* That of `none` vanishes, and `none` keeps every token.
# - *"`integrate` forgets early words."* It hands on every difference. But the word enters with a factor of 3 / T.
# - *"A gate that may keep will keep."* One of three trainings left it open for noise, and `none` needs no gate here.

# %%
assert min(scores["none", 1, 1024], scores["none", 0, 256]) > 0.95, "the attractor lost a token"
assert scores["integrate", 1, 8] > 0.95 and scores["integrate", 1, 1024] < 0.7, "the drift kept its token"
assert scores[latch, 1, 256] > 0.9, "the latch lost a token"
assert 0.8 < apart["none", 1024][-1] / apart["none", 16][-1] < 1.25, "the clouds moved"
assert apart["integrate", 16][0] > 30 * apart["integrate", 1024][0], "the word did not shrink with T"
assert together["integrate", 1024] > 5 * apart["integrate", 1024][-1], "the classes did not drift together"
assert gates[latch, 1024][0].mean() > 5 * gates[latch, 1024][1:].mean(), "the gate does not know noise from a word"
np.testing.assert_allclose((1 - r) * np.eye(M * D) + r * J_written, right, atol=1e-12)
assert size["none"].max() < 0.98 and size["integrate"].max() > 1.01 and abs(np.median(size[latch]) - 1) < 0.05
assert left["none", 256] < 1e-6 and left["integrate", 256] > 1 and 0.3 < left[latch, 256] < 30
