# %% [markdown]
# # 08 Training on ListOps
#
# **The question: when the model learns a task, what do its memory tokens come to carry?**
#
# We train a model of one block for real, for a few seconds, and then open the memory. The task is ListOps with a
# single operator, such as `[MAX 3 1 4 1 5 9 2 ]`, of which the answer is 9; the others are `[MIN`, `[MED` (the median,
# cut to an integer) and `[SM` (the sum modulo 10). A segment is two tokens long:
#
#     [MAX 3 | 1 4 | 1 5 | 9 2 | ]
#
# The operator stands in the first segment only. To answer at the end, the memory must carry it past every boundary, and
# something about the digits as well. Nobody tells it what.
#
# Read beside this: `rmaat_np/train.py` (`train_step`, `evaluate`), `rmaat_np/optim.py`, `rmaat_np/data/listops.py`.

# %%
import numpy as np
from matplotlib import pyplot
from show import show

import rmaat_np as rn
from rmaat_np import optim
from rmaat_np.data import listops, listops_generator
from rmaat_np.system.machine import keep_freed_memory
from rmaat_np.training import loop

keep_freed_memory()
data = listops_generator.generate(
    18_000, 0, 8, 11, max_depth=2, max_args=8, progress=False
)  # 9 or 10 tokens: 5 segments
rows = {"train": np.arange(14_000), "test": np.arange(14_000, 18_000)}
test = data.take(rows["test"])
tokens, labels = test.batch(np.arange(len(test)))
majority = np.bincount(labels).max() / len(labels)
for row in range(3):
    print(listops.decode(tokens[row]), "->", labels[row])
print(f"always giving the commonest answer would score {majority:.3f}")

# %% [markdown]
# ## The training loop
#
# A step is three lines: a batch, its gradients, the optimiser. The learning rate climbs for 50 steps and falls along
# half a cosine. (`bptt`, because five segments fit into any memory; `amrb` gives the same gradients to the last bit and
# takes a little longer.) We train twice, from the same parameters and on the same batches, and only the memory update
# differs: `integrate` moves the memory a part of the way towards what the segment wrote, `none` replaces it.

# %%
STEPS, BATCH, WARMUP, LR = 400, 64, 50, 4e-3


def fit(cfg):
    """Train from seed 0. -> parameters; the training loss of every step; (step, held-out loss, accuracy) rows."""
    params = rn.init_params(cfg)
    state = optim.adamw_init(params)
    rng = np.random.default_rng(0)
    losses, held_out = [], []
    for step in range(STEPS):
        batch = data.batch(rng.choice(rows["train"], BATCH))
        loss, grads, _ = rn.loss_and_grads(params, cfg, *batch, method="bptt")
        optim.adamw_step(params, grads, state, step, optim.learning_rate(step, STEPS, LR, WARMUP))
        losses.append(float(loss))
        if step % 50 == 49:
            scores = loop.evaluate(params, cfg, test.take(np.arange(1000)))
            held_out.append((step + 1, scores["loss"], scores["accuracy"]))
    return params, losses, held_out


modes = ("integrate", "none")
configs, trained, curves = {}, {}, {}
for mode in modes:
    configs[mode] = rn.Config(
        vocab_size=listops.VOCAB_SIZE, num_classes=listops.CLASSES, d_model=32, num_heads=4, num_layers=1, d_ff=64,
        segment_length=2, num_segments=5, num_memory=4, retention=mode,
    )  # fmt: skip
    trained[mode], losses, held_out = fit(configs[mode])
    curves[mode] = losses, np.array(held_out)
    print(f"{mode:9}: held-out loss {held_out[-1][1]:.3f}, accuracy {held_out[-1][2]:.3f}")

# %% [markdown]
# ## What an accuracy is made of
#
# One number hides a lot. Ask each operator alone, and put beside it what the commonest answer of that operator scores:
# the largest of eight digits is a 9 more often than not, so 0.5 on `[MAX` is worth nothing.

# %%
right = {mode: rn.predict(trained[mode], configs[mode], tokens).argmax(axis=1) == labels for mode in modes}
operators = {name: tokens[:, 0] == token for token, name in enumerate(listops.NAMES) if token >= listops.MIN}
operators.pop("]")
by_operator = {mode: [right[mode][asked].mean() for asked in operators.values()] for mode in modes}
guessing = [np.bincount(labels[asked]).max() / asked.sum() for asked in operators.values()]
for name, share, *scores in zip(operators, guessing, *by_operator.values(), strict=True):
    print(f"{name}: guessing {share:.2f}, " + ", ".join(f"{m} {s:.2f}" for m, s in zip(modes, scores, strict=True)))

# %% [markdown]
# In this time `none` has nearly learned the two extremes and half of the median, `integrate` is behind it in each, and
# neither has anything of the sum modulo 10: in `[SM` every
# digit counts in full, and one that is misread makes the answer wrong.
#
# ## Opening the memory: a linear probe
#
# Take the memory tokens that segment t hands over, as one vector of 4 x 32 numbers, and try to read a fact out of it
# with the weakest reader there is: ridge regression onto one column per class, the largest one wins. It is fitted on
# 2,500 held-out sequences and scored on the 1,500 others. The observer of `loss_and_grads` brings the memory.


# %%
FITTED = 2500


def memories(params, cfg):
    """The memory handed over by segments 1 .. 4, for every test sequence in order: a list of (4000, M * D)."""
    found = {t: [] for t in range(cfg.num_segments)}  # of each shard; all sequences have 5 segments: order is kept

    def observe(event):
        if event.kind == "forward":
            found[event.segment].append(event.array)

    rn.loss_and_grads(params, cfg, tokens, labels, observer=observe)
    return [np.concatenate(found[t]).reshape(len(tokens), -1) for t in range(cfg.num_segments - 1)]


def probe(x, fact, fitted=FITTED, ridge=1e-2):
    """Accuracy of a linear reader of `fact` from x, on rows it was not fitted on. Shapes: x (n, F), fact (n) ints."""
    x = (x - x[:fitted].mean(axis=0)) / (x[:fitted].std(axis=0) + 1e-6)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    a, targets = x[:fitted], np.eye(fact.max() + 1)[fact[:fitted]]
    w = np.linalg.solve(a.T @ a + ridge * fitted * np.eye(a.shape[1]), a.T @ targets)
    return float(((x[fitted:] @ w).argmax(axis=1) == fact[fitted:]).mean())


def value_so_far(t):
    """The value of the digits read up to segment t (1 .. 4), had the bracket closed there."""
    ends = [min(2 * t, int(np.count_nonzero(row)) - 1) for row in tokens]
    return np.array([listops.evaluate([*row[:end], listops.CLOSE]) for row, end in zip(tokens, ends, strict=True)])


facts = {  # what stands in the sequence, or follows from it, at segment t
    "the operator": lambda t: tokens[:, 0] - listops.MIN,
    "the first digit": lambda t: tokens[:, 1] - 1,
    "the value so far": value_so_far,
    "the answer": lambda t: labels,
}
states = {(mode, "trained"): memories(trained[mode], configs[mode]) for mode in modes}
states |= {(mode, "untrained"): memories(rn.init_params(configs[mode]), configs[mode]) for mode in modes}
known = {what: [fact(t) for t in (1, 2, 3, 4)] for what, fact in facts.items()}
chance = {what: [np.bincount(fact[FITTED:]).max() / (4000 - FITTED) for fact in known[what]] for what in facts}
read = {
    (*which, what): [probe(x, fact) for x, fact in zip(by_segment, known[what], strict=True)]
    for which, by_segment in states.items()
    for what in facts
}
for what in facts:
    print(f"{what} after segments 1 to 4: chance {np.round(chance[what], 2)}")
    for which in states:
        print(f"    {' '.join(which):19} {np.round(read[(*which, what)], 2)}")
unread = probe(states["none", "trained"][1], tokens[:, 4] - 1)  # segment 3's first digit, after segment 2
print(
    f"a digit that was not read yet: {unread:.3f}, chance {np.bincount(tokens[FITTED:, 4]).max() / (4000 - FITTED):.3f}"
)

# %%
marks = {"integrate": ("o", "C0"), "none": ("s", "C1")}
figure, axes = pyplot.subplots(2, 4, figsize=(12, 6.2), layout="constrained", height_ratios=(1, 1.15))
for mode, (mark, color) in marks.items():
    losses, held_out = curves[mode]
    axes[0, 0].plot(np.reshape(losses, (-1, 10)).mean(axis=1).repeat(10), color=color, alpha=0.4)
    axes[0, 0].plot(held_out[:, 0], held_out[:, 1], mark + "-", color=color, label=mode)
    axes[0, 1].plot(held_out[:, 0], held_out[:, 2], mark + "-", color=color)
    axes[0, 2].plot(np.arange(4) + (0.15 if mode == "none" else -0.15), by_operator[mode], mark, color=color, ms=9)
    for axis, what in zip(axes[1], facts, strict=True):
        axis.plot(range(1, 5), read[mode, "trained", what], mark + "-", color=color, label=f"{mode}, trained")
        style = {"color": color, "mfc": "white", "label": f"{mode}, untrained"}
        axis.plot(range(1, 5), read[mode, "untrained", what], mark + ":", **style)
axes[0, 0].set(title="loss (markers: held out)", xlabel="step")
axes[0, 0].legend(frameon=False)
axes[0, 1].axhline(majority, color="0.5", ls="-.")
axes[0, 1].set(title="held-out accuracy", xlabel="step", ylim=(0, 1))
axes[0, 2].plot(range(4), guessing, "_", color="0.4", ms=28, mew=2)
axes[0, 2].set_xticks(range(4), [f"{name}]"[1:-1] for name in operators])
axes[0, 2].set(title="accuracy by operator", ylim=(0, 1.03), xlim=(-0.5, 3.5))
for axis, what in zip(axes[1], facts, strict=True):
    axis.plot(range(1, 5), chance[what], color="0.5", ls="-.", label="chance: the commonest")
    axis.set(title=f"probe: {what}", xlabel="after segment", ylim=(0, 1.03), xticks=range(1, 5))
axes[0, 3].axis("off")
axes[0, 3].legend(*axes[1, 0].get_legend_handles_labels(), frameon=False, loc="center", fontsize=12)
show(figure, "08_training_on_listops")

# %% [markdown]
# ## Reading the probes
#
# - *The operator* is there after every segment, as it has to be. But it is there without training too!
# - *The first digit* shows why that matters. An untrained memory holds it perfectly, to the end: random weights mix
#   what they pass on, but a linear reader can undo that. **A probe tells what is there, not what is used.** Trained
#   with `none`, the memory lets the digit fade: `[MIN` and `[MAX` do not need it once it has gone into the value so
#   far. With `integrate` it keeps nearly all of it, needed or not: the update holds on to what was written first.
# - *The value so far* is what training adds. It follows from the digits, but no segment ever shows it; here the trained
#   memory beats the untrained one, and that difference is what was learned: the memory has begun to compute.
# - *The answer* becomes known as the digits come in. Early on nobody can know it.
#
# ## What can go wrong here
#
# - *"0.5 is bad, chance is 0.1."* Chance depends on the question: it is the dash in the upper row. Compare with that.
# - *"The probe finds it, so the model learned it."* Compare with the untrained memory, and with a fact that the memory
#   cannot know: a digit not read yet must come out at chance, or the probe itself cheats.
# - *"`none` wins here, so retention is useless."* These are five segments. Over sixteen, `integrate` alone carried a
#   token to the end (the README's recall probe). What is best depends on the distance.

# %%
held_out_accuracy = {mode: curves[mode][1][-1, 2] for mode in modes}
for mode in modes:
    assert held_out_accuracy[mode] > majority + 0.2, "nothing was learned"
    assert np.mean(by_operator[mode][:3]) > np.mean(guessing[:3]) + 0.15, "MIN, MAX and MED are no better than guessing"
    assert by_operator[mode][3] < 0.3, "the sum modulo 10 was learned in seconds: look for a leak"
    assert min(read[mode, "trained", "the operator"]) > 0.9
    gain = read[mode, "trained", "the value so far"][-1] - read[mode, "untrained", "the value so far"][-1]
    assert gain > 0.04, "training added nothing to the memory"
    assert read[mode, "untrained", "the first digit"][-1] > 0.95
kept = [read[mode, "trained", "the first digit"][-1] for mode in modes]
assert kept[0] > kept[1] + 0.05, "integrate should keep more of what came first"
assert abs(unread - 0.1) < 0.05, "the probe knows the future"
