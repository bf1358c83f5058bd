# %% [markdown]
# # 01 Gradients you can trust
#
# **The question: you wrote a gradient by hand. How do you know that it is right?**
#
# In this package every operation is a pair: `op_forward` computes, `op_backward` is its derivative, written by hand.
# A wrong forward pass mostly shows at once. A wrong backward pass does not: the loss still falls, only slower, to a
# worse place, and nobody is told. So before anything is trained, each pair is measured against a definition that needs
# no calculus at all: *change the input a little and see how much the output changes*.
#
# Read beside this: `rmaat_np/gradcheck.py` (36 lines), `rmaat_np/layers.py`, `tests/model/test_seeded_bugs.py`.

# %%
from math import erf, pi

import numpy as np
from matplotlib import pyplot
from show import show

import rmaat_np as rn
from rmaat_np import attention, gradcheck, layers

rng = np.random.default_rng(0)

# %% [markdown]
# ## One number
#
# `gelu` at x = 0.7. The backward pass claims a slope; two evaluations of the forward pass measure it. The central
# difference (f(x + h) - f(x - h)) / 2h looks both ways, so the curvature of f cancels and the error falls like h^2.

# %%
x = np.array([[0.7]])
out, cache = layers.gelu_forward(x)
claimed = layers.gelu_backward(np.ones_like(x), cache)
measured = gradcheck.numerical_gradient(lambda z: layers.gelu_forward(z)[0].sum(), x)
print(f"claimed {claimed.item():.12f}\nmeasured {measured.item():.11f}")

# %% [markdown]
# ## How small is "a little"?
#
# Two errors pull in opposite directions.
#
# - **Truncation**: the difference quotient belongs to a step, not to a point. It is off by about h^2 |f'''| / 6.
# - **Rounding**: f is known to about eps |f| only, and that is divided by 2h. It grows as h shrinks.
#
# Their sum is least near h = eps^(1/3). With float64 (eps 2e-16) that is about 1e-5, and some ten digits are left to
# compare. With float32 (eps 1e-7) the best step is near 5e-3, and five digits are left at the very best. This is why
# the gradients are checked in float64 and trained in float32: the formulas are the same.

# %%
steps = 10.0 ** np.arange(-12, 0.1, 0.5)
points = rng.standard_normal((1, 64))
weights = rng.standard_normal((1, 64))
exact = layers.gelu_backward(weights, layers.gelu_forward(points)[1])


def error_of_step(h, dtype):
    """Error of central differences with step h when everything is computed in dtype."""
    ends = [layers.gelu_forward((points + s * h).astype(dtype))[0] * weights.astype(dtype) for s in (1, -1)]
    return gradcheck.relative_error(exact, (ends[0] - ends[1]).astype(np.float64) / (2 * h))


by_step = {dtype: np.array([error_of_step(h, dtype) for h in steps]) for dtype in ("float64", "float32")}
best = {dtype: (steps[errors.argmin()], errors.min()) for dtype, errors in by_step.items()}
for dtype, (h, error) in best.items():
    print(f"{dtype}: best step {h:.0e}, relative error {error:.0e}")

# %% [markdown]
# ## How close is close enough?
#
# "Within one per cent" sounds strict. Here are three wrong gradients of a kind that people really write.
#
# 1. **The slope of another gelu.** The package uses the tanh form; the slope below belongs to the exact form, with the
#    error function. The two functions are hard to tell apart in a plot.
# 2. **The variance of another layer norm.** Layer norm divides by the width D; many a library's `var` by D - 1.
#    Derive with one, compute with the other, and the gradient is off by a little in one direction of many.
# 3. **Attention with a path missing.** The attention divides by C, and C depends on the keys too. We let the backward
#    pass forget it (by telling it that C goes with the keys' sum to the power 0). This one is grossly wrong.


# %%
def check(forward, backward, x):
    """Relative error of a backward pass at x, for a random dout."""
    dout = rng.standard_normal(forward(x).shape)
    return gradcheck.relative_error(
        backward(dout), gradcheck.numerical_gradient(lambda z: (forward(z) * dout).sum(), x)
    )


def gelu(z):
    return layers.gelu_forward(z)[0]


def norm(z):
    return layers.layer_norm_forward(z, *gain_and_bias)[0]


def attend(k):
    return attention.astromorphic_attention_forward(q, k, v, None, None, 2)[0]


def other_gelu_slope(dout):
    """Wrong: x's normal distribution function plus x times its density."""
    return dout * (0.5 * (1 + np.vectorize(erf)(x / 2**0.5)) + x * np.exp(-(x**2) / 2) / (2 * pi) ** 0.5)


def other_variance(dout, surplus=1 / 63):
    """Wrong: the part along xhat is removed D / (D - 1) times."""
    xhat, rstd = norm_cache["xhat"], norm_cache["rstd"]
    along_xhat = (dout * norm_cache["gain"] * xhat).mean(axis=1, keepdims=True)
    return layers.layer_norm_backward(dout, norm_cache)[0] - surplus * rstd * xhat * along_xhat


def forgotten_path(dout):
    """Wrong: dk without what comes through C."""
    return attention.astromorphic_attention_backward(dout, attention_cache | {"alpha": 0.0})[1][:, :, :8]


x = rng.standard_normal((4, 64))
gain_and_bias = rng.standard_normal((2, 64))
q, k, v = rng.standard_normal((3, 1, 24, 8))
_, gelu_cache = layers.gelu_forward(x)
_, norm_cache = layers.layer_norm_forward(x, *gain_and_bias)
_, attention_cache = attention.astromorphic_attention_forward(q, k, v, None, None, 2)
right = {
    "gelu": check(gelu, lambda d: layers.gelu_backward(d, gelu_cache), x),
    "layer norm": check(norm, lambda d: layers.layer_norm_backward(d, norm_cache)[0], x),
    "attention": check(attend, lambda d: attention.astromorphic_attention_backward(d, attention_cache)[1][:, :, :8], k),
}
wrong = {
    "gelu": check(gelu, other_gelu_slope, x),
    "layer norm": check(norm, other_variance, x),
    "attention": check(attend, forgotten_path, k),
}
for name, error in wrong.items():
    verdict = "passes" if error < 1e-2 else "fails"
    print(f"{name:10}  right gradient {right[name]:.0e}, wrong gradient {error:.0e}: {verdict} at 1e-2, fails at 1e-6")

# %% [markdown]
# Two of the three pass at 1e-2. Between right and wrong there is a wide gap, from about 1e-9 to 1e-4, and the threshold
# belongs *into the gap*: 1e-6. A threshold near the errors that one wants to find finds nothing.
#
# ## The question you ask: dout
#
# A backward pass is a function of `dout`, and one `dout` tests one combination of outputs. The tempting one is all
# ones, "the gradient of the sum". But the outputs of a fresh layer norm (gain 1, bias 0) *always* sum to 0 in each
# row. The true gradient of the sum is 0, and so is that of a layer norm with a term forgotten: here the whole part
# along xhat. Compared with an absolute tolerance (`np.allclose` has one, 1e-8) the wrong gradient passes.

# %%
fresh = np.ones(64), np.zeros(64)
_, norm_cache = layers.layer_norm_forward(x, *fresh)
hidden_by_ones = {}
for name, dout in {"all ones": np.ones_like(x), "random": rng.standard_normal(x.shape)}.items():
    numeric = gradcheck.numerical_gradient(lambda z, d=dout: (layers.layer_norm_forward(z, *fresh)[0] * d).sum(), x)
    forgotten = other_variance(dout, surplus=-1.0)  # the term along xhat removed 0 times
    hidden_by_ones[name] = bool(np.allclose(forgotten, numeric))
    print(f"dout {name:8}: largest true gradient {abs(numeric).max():.0e}, wrong one accepted: {hidden_by_ones[name]}")

# %% [markdown]
# ## The whole model, two evaluations
#
# An element-by-element check of a model would take two loss evaluations per parameter. But gradients are made to be
# multiplied by directions: along a random direction d the loss must change by grad . d. One pair of evaluations puts
# *every* parameter into one number. It says "something is wrong", not where; a direction within one array says where.
# We let one gradient come out 1 % too large, that of the positional weights in block 1, and look for it.

# %%
cfg = rn.Config(vocab_size=16, num_classes=4, d_model=16, d_ff=32, segment_length=8, num_segments=3, num_memory=4)
params = rn.init_params(cfg, dtype="float64")
tokens, labels = rng.integers(1, 16, (4, cfg.max_length)), np.arange(4)


def loss(moved):
    return rn.loss_and_grads(moved, cfg, tokens, labels)[0]


_, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels)
culprit = "blocks.1.attn.rel.weight"
damaged = grads | {culprit: 1.01 * grads[culprit]}
direction = {name: rng.standard_normal(value.shape) for name, value in params.items()}


def direction_errors(parts):
    """Relative error of right and damaged gradient along the direction, within some of the parameters."""
    numeric = gradcheck.directional_derivative(loss, params, {name: direction[name] for name in parts})
    claims = [sum((g[name] * direction[name]).sum() for name in parts) for g in (grads, damaged)]
    return [gradcheck.relative_error(np.array([claim]), np.array([numeric])) for claim in claims]


whole_right, whole_damaged = direction_errors(list(params))
by_name = {name: direction_errors([name]) for name in params}
worst = max(by_name, key=lambda name: by_name[name][1])
print(f"{sum(p.size for p in params.values()):,} parameters, one direction through all of them:")
print(f"  right gradient {whole_right:.0e}, damaged gradient {whole_damaged:.0e}")
print(f"one direction per array: the damage is in {worst}, {by_name[worst][1]:.0e}")

# %%
figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1, 0.8, 1.2))
for (dtype, errors), style in zip(by_step.items(), ("o-", "s--"), strict=True):
    axes[0].loglog(steps, errors, style, ms=4, label=dtype)
axes[0].axhline(1e-6, color="0.4", lw=1)
axes[0].text(3e-8, 1.6e-6, "1e-6", color="0.3")
axes[0].set(xlabel="step h", ylabel="relative error", title="which step?", ylim=(1e-12, 1e4))
axes[0].text(1e-12, 2e-11, "rounding\n  eps / h", fontsize=10)
axes[0].text(4e-3, 2e-11, "truncation\n      h²", fontsize=10)
axes[0].legend(frameon=False)
for i, name in enumerate(right):
    axes[1].semilogy(i, right[name], "o", ms=10, color="C0", label="right" if i == 0 else None)
    axes[1].semilogy(i, wrong[name], "X", ms=11, color="C1", label="wrong" if i == 0 else None)
for threshold in (1e-2, 1e-6):
    axes[1].axhline(threshold, color="0.4", lw=1)
    axes[1].text(2.45, 1.4 * threshold, f"{threshold:.0e}", color="0.3", ha="right")
axes[1].set_xticks(range(3), ["gelu", "layer\nnorm", "attention"])
axes[1].set(xlim=(-0.5, 2.5), ylim=(1e-12, 1e1), title="which threshold?", ylabel="relative error")
axes[1].legend(frameon=False, loc=(0.02, 0.22))
order = np.arange(len(by_name))
axes[2].semilogx([e[1] for e in by_name.values()], order, "X", ms=9, color="C1", label="damaged")
axes[2].semilogx([e[0] for e in by_name.values()], order, "o", ms=5, color="C0", label="right")
axes[2].axvline(1e-6, color="0.4", lw=1)
axes[2].set_yticks([])
axes[2].set_ylabel(f"the {len(by_name)} parameter arrays")
axes[2].text(5e-2, list(by_name).index(culprit) + 2.2, culprit, ha="right")
axes[2].invert_yaxis()
axes[2].set(xlabel="relative error along one direction", xlim=(1e-11, 1e-1), title="which parameter?")
axes[2].legend(frameon=False, loc="upper right")
show(figure, "01_gradients_you_can_trust")

# %% [markdown]
# ## What can go wrong here
#
# - *"A smaller step is a better derivative."* Left of the valley rounding wins: at 1e-12 the error is ten million
#   times that of the best step, and float32 never gets near 1e-6. The first two checks below hold the valley's place.
# - *"1e-2 is close enough, training is noisy anyway."* Noise averages out, a wrong formula does not. Two of our three
#   wrong gradients pass at 1e-2, none at 1e-6.
# - *"The check passed, so the gradient is right."* It is right for the `dout` and the inputs that were tried. All ones
#   would have let a broken layer norm through; draw them at random, and let each parameter be reached.

# %%
assert 1e-6 < best["float64"][0] < 1e-4 and best["float64"][1] < 1e-9
assert best["float32"][0] > 30 * best["float64"][0] and best["float32"][1] > 1e-6
assert by_step["float64"][0] > 1e5 * best["float64"][1] and by_step["float64"][-1] > 1e3 * best["float64"][1]
assert max(right.values()) < 1e-6 < min(wrong.values())
assert [name for name, error in wrong.items() if error < 1e-2] == ["gelu", "layer norm"]
assert hidden_by_ones == {"all ones": True, "random": False}
assert whole_right < 1e-6 < whole_damaged
assert worst == culprit and max(error for error, _ in by_name.values()) < 1e-6
