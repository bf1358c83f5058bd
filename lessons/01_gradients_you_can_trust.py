# %% [markdown]
# # 01 Gradients you can trust
#
# **The question: you wrote a gradient by hand. How do you know that it is right?**
#
# In this package every operation is a pair of functions. `op_forward` computes a result. `op_backward` computes its
# gradient, by formulas that a person derived. An error in a forward function mostly shows at once. An error in a
# backward function does not: the loss still falls, only more slowly and to a worse value, and no message says so.
# So each pair is checked before anything is trained. The judge is **finite differences**, which need no formula for a
# gradient: *change the input a little, and see how much the output changes*.
#
# Read beside this: `rmaat_np/gradcheck.py`, `rmaat_np/layers.py`, `tests/model/test_seeded_bugs.py`.

# %%
from math import erf, pi

import numpy as np
from show import heading, pyplot, show, your_turn

import rmaat_np as rn
from rmaat_np import attention, gradcheck, layers

rng = np.random.default_rng(0)

# %% [markdown]
# ## One number
#
# We take `gelu` at x = 0.7. (In lesson 00 it stands inside the feed-forward layer.) Its backward function claims a
# slope there. The **central difference** measures this slope: take the function at x + h and at x - h, and divide the
# difference of the results by the distance of the two points. It looks both ways, so the curvature of the function
# cancels.
#
# > *Predict, then run: h becomes ten times smaller. How many times smaller does the error become?*

# %%
heading("One number")
x, h = np.array([[0.7]]), 0.01
out, cache = layers.gelu_forward(x)
claimed = layers.gelu_backward(np.ones_like(x), cache).item()
up, down = (layers.gelu_forward(x + step)[0].item() for step in (h, -h))
answer = None  # your turn: the central difference, from up, down and h
right_answer = gradcheck.numerical_gradient(lambda z: layers.gelu_forward(z)[0].sum(), x, h).item()
measured = your_turn(answer, right_answer, "Twice too large? The points are 2 h apart, and not h.")
print(f"claimed {claimed:.10f}, measured {measured:.10f} with h = {h}")
for smaller in (0.1, 0.01, 0.001):
    measured = gradcheck.numerical_gradient(lambda z: layers.gelu_forward(z)[0].sum(), x, smaller).item()
    print(f"h = {smaller}: error {abs(measured - claimed):.1e}")

# %% [markdown]
# The error falls by a factor of 100: it grows as h^2.
#
# ## How small is "a little"?
#
# Then why not take h = 1e-12? Because two errors pull in opposite directions.
#
# - **Truncation**: a difference measures the slope over a whole step, not at a point. It is off by h^2 |f'''| / 6.
# - **Rounding**: a computer knows f only to about eps |f|, where eps is the spacing of the numbers near 1. That error
#   is divided by 2 h. So it grows when h shrinks.
#
# Their sum is least near h = eps^(1/3). For numbers of 64 bits (float64) eps is 2e-16, and the best h is about 1e-5.
# For numbers of 32 bits (float32) eps is 1e-7, and the best h is about 5e-3. The **relative error** below is the
# largest difference between two arrays, divided by the largest number in them.
#
# > *Predict, then run: how many digits does a gradient share with its finite difference, at best, in each of the two?*

# %%
heading('How small is "a little"?')
steps = 10.0 ** np.arange(-12, 0.1, 0.5)
points, weights = rng.standard_normal((2, 1, 64))
exact = layers.gelu_backward(weights, layers.gelu_forward(points)[1])


def error_of_step(h, dtype):
    """Relative error of central differences with step h when everything is computed in dtype."""
    ends = [layers.gelu_forward((points + s * h).astype(dtype))[0] * weights.astype(dtype) for s in (1, -1)]
    return gradcheck.relative_error(exact, (ends[0] - ends[1]).astype(np.float64) / (2 * h))


by_step = {dtype: np.array([error_of_step(h, dtype) for h in steps]) for dtype in ("float64", "float32")}
best = {dtype: (steps[errors.argmin()], errors.min()) for dtype, errors in by_step.items()}
for dtype, (h, error) in best.items():
    print(f"{dtype}: best step {h:.0e}, relative error {error:.0e}")
figure, axis = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
for (dtype, errors), style in zip(by_step.items(), ("o-", "s--"), strict=True):
    axis.loglog(steps, errors, style, ms=4, label=dtype)
axis.set(xlabel="step h", ylabel="relative error", title="Each error has its side of the valley", ylim=(1e-12, 1e2))
axis.text(3e-12, 2e-8, "rounding,\nas eps / h", color="C0")
axis.text(6e-4, 3e-10, "truncation,\nas h²", color="C0")
axis.legend(frameon=False, loc="lower left")
show(figure, "01_gradients_you_can_trust_step")

# %% [markdown]
# In float64 ten digits agree, in float32 five. That is why gradients are checked in float64. Training then uses
# float32: the formulas are the same.
#
# ## How close is close enough?
#
# "Within one per cent" sounds strict. Here are three wrong gradients of a kind that people really write.
#
# 1. **The slope of another gelu.** The package computes gelu with tanh. The slope below belongs to the form with the
#    error function. In a plot one can hardly tell the two functions apart.
# 2. **The variance of another layer norm.** Layer norm divides by the width D. In some libraries, `var` divides by
#    D - 1. Take the gradient of one and the result of the other, and a small part of the gradient is wrong.
# 3. **Attention with a path missing.** Attention divides by C, which depends on the keys too (lesson 00). We let the
#    backward function forget that path.
#
# > *Predict, then run: which of the three pass a check that allows an error of 1e-2? Which pass at 1e-6?*


# %%
heading("How close is close enough?")
x, gain_and_bias = rng.standard_normal((4, 64)), rng.standard_normal((2, 64))
q, k, v = rng.standard_normal((3, 1, 24, 8))
_, gelu_cache = layers.gelu_forward(x)
_, norm_cache = layers.layer_norm_forward(x, *gain_and_bias)
_, attention_cache = attention.astromorphic_attention_forward(q, k, v, None, None, 2)


def other_gelu_slope(dout):
    return dout * (0.5 * (1 + np.vectorize(erf)(x / 2**0.5)) + x * np.exp(-(x**2) / 2) / (2 * pi) ** 0.5)


def other_variance(dout, surplus=1 / 63):
    """Layer norm takes the part along xhat, the normalised row, out of the gradient. Here D / (D - 1) times."""
    xhat, rstd = norm_cache["xhat"], norm_cache["rstd"]
    along_xhat = (dout * norm_cache["gain"] * xhat).mean(axis=1, keepdims=True)
    return layers.layer_norm_backward(dout, norm_cache)[0] - surplus * rstd * xhat * along_xhat


def dk(dout, **changed):
    return attention.astromorphic_attention_backward(dout, attention_cache | changed)[1][:, :, :8]  # dk beside dv


PAIRS = {  # forward, its argument, the right and the wrong gradient; alpha (lesson 03) multiplies the path through C
    "gelu": (lambda z: layers.gelu_forward(z)[0], x, lambda d: layers.gelu_backward(d, gelu_cache), other_gelu_slope),
    "layer norm": (
        lambda z: layers.layer_norm_forward(z, *gain_and_bias)[0], x,
        lambda d: layers.layer_norm_backward(d, norm_cache)[0], other_variance,
    ),
    "attention": (
        lambda z: attention.astromorphic_attention_forward(q, z, v, None, None, 2)[0], k,
        dk, lambda d: dk(d, alpha=0.0),
    ),
}  # fmt: skip
right, wrong = {}, {}
for name, (forward, at, *gradients) in PAIRS.items():
    dout = rng.standard_normal(at.shape)  # the gradient that comes from behind the operation
    numeric = gradcheck.numerical_gradient(lambda z, f=forward, d=dout: (f(z) * d).sum(), at)
    right[name], wrong[name] = (gradcheck.relative_error(gradient(dout), numeric) for gradient in gradients)
    verdicts = [f"{'passes' if wrong[name] < float(limit) else 'fails'} at {limit}" for limit in ("1e-2", "1e-6")]
    print(f"{name:10}  right gradient {right[name]:.0e}, wrong gradient {wrong[name]:.0e}: {', '.join(verdicts)}")
figure, axis = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
for label, errors, style, color in (("right", right, "o", "C0"), ("wrong", wrong, "X", "C1")):
    axis.semilogx(list(errors.values()), range(3), style, ms=10, color=color)
    axis.text(errors["attention"], 2.2, label, color=color, ha="center")
for limit in ("1e-2", "1e-6"):
    axis.axvline(float(limit), color="0.4", lw=1)
    axis.text(float(limit), 2.55, f" allowed: {limit}", color="0.3")
axis.set_yticks(range(3), list(right))
axis.set(xlim=(1e-12, 10), ylim=(-0.5, 2.9), xlabel="relative error", title="A threshold belongs into the gap")
show(figure, "01_gradients_you_can_trust_threshold")

# %% [markdown]
# Two of the three pass at 1e-2. No wrong gradient comes below 1e-4, and no right one above 1e-9. The threshold belongs
# into this gap: the project's tests use 1e-6.
#
# ## The question you ask: dout
#
# A backward function is a function of `dout`. One `dout` tests one combination of the outputs. The tempting one is all
# ones: then the gradient is that of the sum. But a fresh layer norm has gain 1 and bias 0, so its outputs sum to 0 in
# each row, whatever x is. Below, a backward function forgets to take out the part along xhat, the normalised row.
#
# > *Predict, then run: what is the true gradient of that sum? Does a check with all ones reject the wrong function?*

# %%
heading("The question you ask: dout")
fresh = np.ones(64), np.zeros(64)
_, norm_cache = layers.layer_norm_forward(x, *fresh)
accepted = {}
for name, dout in {"all ones": np.ones_like(x), "random": rng.standard_normal(x.shape)}.items():
    numeric = gradcheck.numerical_gradient(lambda z, d=dout: (layers.layer_norm_forward(z, *fresh)[0] * d).sum(), x)
    accepted[name] = bool(np.allclose(other_variance(dout, surplus=-1.0), numeric))  # it allows an error of 1e-8
    print(f"dout {name:8}: largest true gradient {abs(numeric).max():.0e}, wrong one accepted: {accepted[name]}")

# %% [markdown]
# ## The whole model, two evaluations
#
# The model is that of lesson 00 with two blocks, block 0 and block 1. To check every number of its gradient takes two
# evaluations of the loss per parameter. A **directional derivative** takes two in all: move all parameters together
# along a random direction d. The loss must change by the sum of gradient times d. This tells that something is wrong,
# and not where. A direction within one parameter array tells where. We make one gradient 1 % too large, that of
# `attn.rel.weight` (`relative` in lesson 00) in block 1, and look for it.

# %%
heading("The whole model, two evaluations")
cfg = rn.Config(vocab_size=16, num_classes=4, d_model=16, d_ff=32, segment_length=8, num_segments=3, num_memory=4)
params = rn.init_params(cfg, dtype="float64")
tokens, labels = rng.integers(1, 16, (4, cfg.max_length)), np.arange(4)  # four sequences, and their answers
_, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels)
culprit = "blocks.1.attn.rel.weight"
damaged = grads | {culprit: 1.01 * grads[culprit]}
direction = {name: rng.standard_normal(value.shape) for name, value in params.items()}


def direction_errors(names):
    """Relative error of the right and of the damaged gradient along the direction, within some of the parameters."""
    along = {name: direction[name] for name in names}
    numeric = gradcheck.directional_derivative(lambda p: rn.loss_and_grads(p, cfg, tokens, labels)[0], params, along)
    claims = [sum((g[name] * direction[name]).sum() for name in names) for g in (grads, damaged)]
    return [gradcheck.relative_error(np.array([claim]), np.array([numeric])) for claim in claims]


whole = direction_errors(list(params))
by_name = {name: direction_errors([name]) for name in params}
worst = max(by_name, key=lambda name: by_name[name][1])
print(f"one direction through {sum(p.size for p in params.values()):,} parameters:", end=" ")
print(f"error of the right gradient {whole[0]:.0e}, of the damaged {whole[1]:.0e}")
print(f"one direction in each of {len(params)} arrays: the damage is in {worst}, error {by_name[worst][1]:.0e}")
figure, axis = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
for which, (name, style, size) in enumerate((("right", "o", 5), ("damaged", "X", 9))):
    errors = [pair[which] for pair in by_name.values()]
    axis.semilogy(errors, style, ms=size, zorder=3 - which, color=f"C{which}", label=name)
axis.text(list(by_name).index(culprit) - 0.7, by_name[culprit][1], culprit, ha="right", va="center")
axis.set(
    xlabel=f"the {len(by_name)} parameter arrays", ylabel="relative error", title="Where the damage is", ylim=(1e-12, 1)
)
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(0, 0.65))
show(figure, "01_gradients_you_can_trust_direction")

# %% [markdown]
# ## What can go wrong here
#
# - *"A smaller step is a better derivative."* Left of the valley rounding wins: at 1e-12 the error is over a million
#   times that of the best step. float32 never gets near 1e-6.
# - *"1e-2 is close enough, as training is noisy anyway."* Noise averages out, and a wrong formula does not. Two of our
#   three wrong gradients pass at 1e-2, none at 1e-6.
# - *"The check passed, so the gradient is right."* It is right for the `dout` and the inputs that were tried. All ones
#   let a broken layer norm through. Draw them at random, and see that every parameter is reached.

# %%
assert 1e-6 < best["float64"][0] < 1e-4 and best["float64"][1] < 1e-9
assert best["float32"][0] > 30 * best["float64"][0] and best["float32"][1] > 1e-6
assert by_step["float64"][0] > 1e6 * best["float64"][1] and by_step["float64"][-1] > 1e3 * best["float64"][1]
assert max(right.values()) < 1e-9 and min(wrong.values()) > 1e-4
assert [name for name, error in wrong.items() if error < 1e-2] == ["gelu", "layer norm"]
assert accepted == {"all ones": True, "random": False}
assert whole[0] < 1e-6 < whole[1] and worst == culprit and max(error for error, _ in by_name.values()) < 1e-6
