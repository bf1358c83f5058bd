# %% [markdown]
# # 08 Training on ListOps
#
# **The question: when the model learns a task, what do its memory tokens come to carry?**
#
# We train a model of one block for a few seconds, and then open its memory. The task is ListOps with a single operator.
# In `[MAX 3 1 4 1 5 9 2 ]` the answer is 9, the largest digit. The other operators are `[MIN` (the smallest), `[MED`
# (the median, cut to an integer) and `[SM` (the sum modulo 10). A segment is two tokens long:
#
#     [MAX 3 | 1 4 | 1 5 | 9 2 | ]
#
# The operator stands in the first segment only. To answer at the end, the model must carry it across all boundaries,
# and something about the digits as well. It is told only whether its answers are right, not what to carry.
#
# Read beside this: `rmaat_np/training/loop.py` (`train_step`, `evaluate`), `rmaat_np/optim.py`,
# `rmaat_np/data/listops.py`.

# %%
import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np import optim
from rmaat_np.data import listops, listops_generator
from rmaat_np.system.machine import keep_freed_memory
from rmaat_np.training import loop

keep_freed_memory()
# 8 < length < 11, so 9 or 10 tokens: an operator, 7 or 8 digits, a closing bracket. That is 5 segments for all.
data = listops_generator.generate(18_000, 0, 8, 11, max_depth=2, max_args=8, progress=False)
TRAIN_ROWS = 14_000
test = data.take(np.arange(TRAIN_ROWS, 18_000))  # held out: these rows are never trained on
tokens, labels = test.batch(np.arange(len(test)))
majority = np.bincount(labels).max() / len(labels)
for row in range(3):
    print(listops.decode(tokens[row]), "->", labels[row])
print(f"always giving the commonest answer would score {majority:.3f}")

# %% [markdown]
# ## The training loop
#
# A training step has three lines: draw a batch, compute its gradients, let the **optimiser** move the parameters. The
# optimiser is AdamW. It moves each parameter against a running mean of its gradients, divided by their usual size. The
# **learning rate** scales all these moves. It climbs for 50 steps, and then falls to 0 along half a cosine. We use
# `bptt`, because five segments fit into any memory; `amrb` would give the same gradients and take a little longer.
#
# We train two models, from the same parameters and on the same batches. Only the memory update differs: `integrate`
# moves the memory a part of the way to what the segment wrote, `none` replaces it.
#
# > *Predict, then run: which of the two has the lower loss on held-out rows after 400 steps?*

# %%
STEPS, BATCH, WARMUP, LR = 400, 64, 50, 4e-3


def fit(cfg):
    """Train from seed 0. -> parameters; the training loss of every step; (step, held-out loss, accuracy) rows."""
    params = rn.init_params(cfg)
    state = optim.adamw_init(params)
    rng = np.random.default_rng(0)
    losses, held_out = [], []
    for step in range(STEPS):
        batch = data.batch(rng.choice(TRAIN_ROWS, BATCH))
        loss, grads, _ = rn.loss_and_grads(params, cfg, *batch, method="bptt")
        optim.adamw_step(params, grads, state, step, optim.learning_rate(step, STEPS, LR, WARMUP))
        losses.append(float(loss))
        if step % 50 == 49:
            scores = loop.evaluate(params, cfg, test.take(np.arange(1000)))
            held_out.append((step + 1, scores["loss"], scores["accuracy"]))
    return params, losses, np.array(held_out)


heading("The training loop")
marks = {"integrate": ("o", "C0"), "none": ("s", "C1")}
configs, trained, held_out = {}, {}, {}
figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for mode, (mark, color) in marks.items():
    configs[mode] = rn.Config(
        vocab_size=listops.VOCAB_SIZE, num_classes=listops.CLASSES, d_model=32, num_heads=4, num_layers=1, d_ff=64,
        segment_length=2, num_segments=5, num_memory=4, retention=mode,
    )  # fmt: skip
    trained[mode], losses, held_out[mode] = fit(configs[mode])
    print(f"{mode:9}: held-out loss {held_out[mode][-1, 1]:.3f}, accuracy {held_out[mode][-1, 2]:.3f}")
    means = np.reshape(losses, (-1, 10)).mean(axis=1)
    axes[0].plot(np.arange(10, STEPS + 1, 10), means, color=color, alpha=0.4, label=f"{mode}, training")
    axes[0].plot(held_out[mode][:, 0], held_out[mode][:, 1], mark + "-", color=color, label=f"{mode}, held out")
    axes[1].plot(held_out[mode][:, 0], held_out[mode][:, 2], mark + "-", color=color, label=mode)
axes[0].set(title="loss", xlabel="step")
axes[1].axhline(majority, color="0.5", ls="-.", label="commonest answer")
axes[1].set(title="accuracy on held-out rows", xlabel="step", ylim=(0, 1))
for axis in axes:
    axis.legend(frameon=False, fontsize=10)
show(figure, "08_training_on_listops_curves")

# %% [markdown]
# ## What an accuracy is made of
#
# One number hides a lot. So we ask each operator alone, and compare with **guessing**: to give always the commonest
# answer of that operator. An accuracy of 0.5 sounds like half the way. Compute what guessing 9 for every `[MAX` scores.
#
# > *Predict, then run: on which operator are the trained models no better than guessing?*

# %%
heading("What an accuracy is made of")
guess_max = None  # your turn: the probability that the largest of 8 digits is a 9 (digits 0 to 9, equally likely)
hint = "0.8 counts rows with two nines twice. No digit is a 9 with probability 0.9 ** 8: take the rest."
guess_max = your_turn(guess_max, 1 - 0.9**8, hint)
print(f"the largest of 8 digits is a 9 with probability {guess_max:.2f}")
right = {mode: rn.predict(trained[mode], configs[mode], tokens).argmax(axis=1) == labels for mode in marks}
operators = {listops.NAMES[token][1:]: tokens[:, 0] == token for token in range(listops.MIN, listops.CLOSE)}
by_operator = {mode: [right[mode][asked].mean() for asked in operators.values()] for mode in marks}
guessing = [np.bincount(labels[asked]).max() / asked.sum() for asked in operators.values()]
for name, share, *scores in zip(operators, guessing, *by_operator.values(), strict=True):
    print(f"{name}: guessing {share:.2f}, " + ", ".join(f"{m} {s:.2f}" for m, s in zip(marks, scores, strict=True)))

figure, axis = pyplot.subplots(figsize=(6.5, 3.6), layout="constrained")
for mode, (mark, color) in marks.items():
    axis.plot(
        np.arange(4) + (0.15 if mode == "none" else -0.15), by_operator[mode], mark, color=color, ms=9, label=mode
    )
axis.plot(range(4), guessing, "_", color="0.4", ms=28, mew=2, label="guessing")
axis.set_xticks(range(4), operators)
axis.set(title="accuracy by operator, on held-out rows", ylim=(0, 1.03), xlim=(-0.5, 3.5))
axis.legend(frameon=False)
show(figure, "08_training_on_listops_operators")

# %% [markdown]
# In this time `none` has nearly learned the minimum and the maximum, and more than half of the medians. `integrate` is
# behind it in each. Neither is better than guessing at the sum modulo 10, where one misread digit makes the answer
# wrong.
#
# ## Opening the memory: a linear probe
#
# A **probe** is a small reader that tries to find a fact in what a network holds. Ours gets the memory tokens that a
# segment hands over, as one vector of 4 x 32 numbers. It is the weakest reader there is: a linear one, fitted by ridge
# regression (least squares with a penalty on large weights), with one output per class. The largest output wins. It is
# fitted on 2,500 held-out sequences and scored on the other 1,500. We probe for four facts:
#
# - *the operator*, and *the first digit*: both stand in segment 1;
# - *the value so far*: what the answer would be, had the bracket closed here;
# - *the answer*.
#
# We also probe a model that was *not* trained: random parameters, as both models had at the start.
#
# > *Predict, then run: what does the probe find in the untrained memory? For each fact: nothing, a part, or all of it?*


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


heading("Opening the memory: a linear probe")
facts = {  # what stands in the sequence, or follows from it, at segment t
    "the operator": lambda t: tokens[:, 0] - listops.MIN,
    "the first digit": lambda t: tokens[:, 1] - 1,
    "the value so far": value_so_far,
    "the answer": lambda t: labels,
}
states = {(mode, "trained"): memories(trained[mode], configs[mode]) for mode in marks}
states |= {(mode, "untrained"): memories(rn.init_params(configs[mode]), configs[mode]) for mode in marks}
read = {}
figure, axes = pyplot.subplots(1, 4, figsize=(13, 4), layout="constrained", sharey=True)
for axis, (what, fact) in zip(axes, facts.items(), strict=True):
    known = [fact(t) for t in (1, 2, 3, 4)]
    chance = [np.bincount(values[FITTED:]).max() / (4000 - FITTED) for values in known]
    print(f"{what} after segments 1 to 4: guessing {np.round(chance, 2)}")
    for (mode, state), by_segment in states.items():
        read[mode, state, what] = [probe(x, values) for x, values in zip(by_segment, known, strict=True)]
        print(f"    {mode:9} {state:9} {np.round(read[mode, state, what], 2)}")
        (mark, color), is_trained = marks[mode], state == "trained"
        style = {"color": color, "ls": "-" if is_trained else ":", "mfc": color if is_trained else "white"}
        axis.plot(range(1, 5), read[mode, state, what], mark, label=f"{mode}, {state}", **style)
    axis.plot(range(1, 5), chance, color="0.5", ls="-.", label="guessing the commonest")
    axis.set(title=f"probe: {what}", xlabel="after segment", ylim=(0, 1.03), xticks=range(1, 5))
axes[0].set_ylabel("accuracy of the probe")
figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5, fontsize=11)
show(figure, "08_training_on_listops_probes")
unread = probe(states["none", "trained"][1], tokens[:, 4] - 1)  # segment 3's first digit, after segment 2
unread_chance = np.bincount(tokens[FITTED:, 4]).max() / (4000 - FITTED)
print(f"a control, a digit that was not read yet: {unread:.3f}, guessing {unread_chance:.3f}")

# %% [markdown]
# - *The operator* is there after every segment. It has to be. But it is there without training too!
# - *The first digit* is all there in the untrained memory, to the end. Random weights mix what they pass on, and a
#   linear reader can undo the mixture. So **a probe tells what is there, not what is used**. Trained with `none`, the
#   memory lets the digit fade. `[MIN` and `[MAX` need it no longer once it has gone into the value so far. With
#   `integrate` the memory keeps nearly all of it, needed or not, because this update holds on to what was written
#   first.
# - *The value so far* is where training adds something. No segment shows this value; it must be computed. The trained
#   memory beats the untrained one from segment 2 on. This difference was learned: the memory has begun to compute.
# - *The answer* becomes known as the digits come in. After segment 1 nobody can know it. What the probe has there is a
#   good guess from the operator, such as 9 for `[MAX`.
#
# ## What can go wrong here
#
# - *"0.5 is good, as chance is 0.1."* What guessing scores depends on the question. Compare with the grey lines.
# - *"The probe finds it, so the model learned it."* Compare with the untrained memory, and with a fact that the memory
#   cannot know. A digit not read yet must come out as in guessing, or the probe itself cheats.
# - *"`none` wins here, so retention is useless."* These are five segments. Over sixteen segments and with one seed,
#   only models with `integrate` carried a token to the end (`lessons/results/README.md`, the recall probe).

# %%
for mode in marks:
    assert held_out[mode][-1, 2] > majority + 0.2, "nothing was learned"
    assert np.mean(by_operator[mode][:3]) > np.mean(guessing[:3]) + 0.15, "MIN, MAX and MED are no better than guessing"
    assert by_operator[mode][3] < 0.3, "the sum modulo 10 was learned in seconds: look for a leak"
    assert min(read[mode, "trained", "the operator"]) > 0.9
    gain = read[mode, "trained", "the value so far"][-1] - read[mode, "untrained", "the value so far"][-1]
    assert gain > 0.04, "training added nothing to the memory"
    assert read[mode, "untrained", "the first digit"][-1] > 0.95
kept = [read[mode, "trained", "the first digit"][-1] for mode in marks]
assert kept[0] > kept[1] + 0.05, "integrate should keep more of what came first"
assert held_out["none"][-1, 1] < held_out["integrate"][-1, 1] and abs(guess_max - guessing[1]) < 0.1
assert abs(unread - 0.1) < 0.05, "the probe knows the future"
