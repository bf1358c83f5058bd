# %% [markdown]
# # 00 RMAAT on one page
# **The question: a model reads a sequence in pieces. How does an error at the end teach it what to do at the start?**
#
# RMAAT (arXiv:2601.00426) cuts a sequence into **segments** of L tokens and reads one segment at a time. Each token is
# a row of D numbers. **Memory tokens** are M more rows, which stand before the tokens of a segment. The segment reads
# them, writes new ones, and hands these on to the next segment. The answer is read from what the last segment wrote.
# ![Forward, a segment hands its memory tokens on; back, it hands back their gradient](pictures/rmaat.png)
# Below is all of it in NumPy for one sequence, without what larger models add: batches, several blocks and heads.
# In the task, ListOps, a bracket holds an operation and its arguments. The answer is the value of the outer bracket.
# Read beside this: the picture, [pictures/rmaat.png](pictures/rmaat.png). Read after it: `rmaat_np/model.py`.
# %%
import numpy as np

# fmt: off
WORDS = ["padding", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]"]  # a token is a place in this list
SEQUENCE, ANSWER = "[MAX 2 [SM 4 7 ] [MIN 8 5 3 ] ]", 3  # the largest of 2, (4 + 7) modulo 10 and 3
S, L, M, D, F = 3, 4, 2, 8, 16  # segments, tokens per segment, memory tokens, width, feed-forward width
TOKENS = np.array([WORDS.index(word) for word in SEQUENCE.split()]).reshape(S, L)  # a segment a line, t = 0 to 2
SHAPES = {
    "embed.token": (16, D), "embed.position": (L, D), "embed.segment": (S, D), "memory.init": (M, D),
    "norm1.gain": (D,), "norm1.bias": (D,), "attn.qkv.weight": (D, 3 * D), "attn.qkv.bias": (3 * D,),
    "attn.rel.weight": (M + L, D), "attn.out.weight": (D, D), "attn.out.bias": (D,), "norm2.gain": (D,),
    "norm2.bias": (D,), "mlp.in.weight": (D, F), "mlp.in.bias": (F,), "mlp.out.weight": (F, D), "mlp.out.bias": (D,),
    "memory.norm.gain": (D,), "memory.norm.bias": (D,), "head.weight": (D, 10), "head.bias": (10,)}
rng = np.random.default_rng(0)
params = {name: 0.5 * rng.standard_normal(shape) + ("gain" in name) for name, shape in SHAPES.items()}

# %% [markdown]
# ## Operations and their gradients
# A forward function saves in a **cache**, under the operation's name, the numbers that its gradient needs. A backward
# function gets `dout`, the gradient of the loss for the forward function's result (`d` before a name means just that).
# By the chain rule it returns the gradient for the input. It *adds* the gradients of the parameters to `grads`, because
# all segments share the parameters.
# %%
def linear_forward(x, name, params, cache):
    cache[name] = {"x": x, "weight": params[name + ".weight"]}
    return x @ params[name + ".weight"] + params[name + ".bias"]
def linear_backward(dout, name, cache, grads):
    grads[name + ".weight"] += cache[name]["x"].T @ dout
    grads[name + ".bias"] += dout.sum(axis=0)
    return dout @ cache[name]["weight"].T

def norm_forward(x, name, params, cache):  # layer norm: each row gets mean 0 and spread 1, then a learned gain and bias
    spread = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    normed = (x - x.mean(axis=1, keepdims=True)) / spread
    cache[name] = {"normed": normed, "spread": spread, "gain": params[name + ".gain"]}
    return normed * params[name + ".gain"] + params[name + ".bias"]
def norm_backward(dout, name, cache, grads):  # to shift or stretch a row changes no result: these parts are taken out
    normed, dnormed = cache[name]["normed"], dout * cache[name]["gain"]
    grads[name + ".gain"] += (dout * normed).sum(axis=0)
    grads[name + ".bias"] += dout.sum(axis=0)
    shift, stretch = dnormed.mean(axis=1, keepdims=True), (dnormed * normed).mean(axis=1, keepdims=True)
    return (dnormed - shift - stretch * normed) / cache[name]["spread"]

def gelu_forward(x, cache):  # near 0 for x far below 0, near x far above
    cache["gelu"] = {"x": x, "tanh": np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))}
    return x * (1 + cache["gelu"]["tanh"]) / 2
def gelu_backward(dout, cache):
    x, tanh = cache["gelu"]["x"], cache["gelu"]["tanh"]
    return dout * (1 + tanh + x * (1 - tanh**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)) / 2

# %% [markdown]
# ## Attention: an astrocyte's short-term plasticity (STP)
# Astrocytes are brain cells that wrap around synapses and tune them. Learned weights make of each of the N = M + L rows
# a query q (what it looks for), a key k (what it is found by) and a value v (what it tells). In *write mode* all rows
# write into one matrix, H = H_neuron + H_astro. **H_neuron** stores values by content, under their keys. **H_astro**
# stores them by place: every place has learned numbers, `relative`, which the astrocyte blurs over the places near it.
# **g** is how much all keys together excite the astrocyte. In *read mode* **C** is how well a query matches them. The
# feedback **P** = 1 / C multiplies what the query reads from H, so that it does not grow with N. As all rows share
# one H, no row is compared with every other, and the cost grows as N.
# %%
DECAY = np.exp(-0.05 * np.abs(np.arange(M + L)[:, None] - np.arange(M + L)))  # r_ij: near places count more than far
def phi(u):  # elu(u) + 1 makes positive numbers, so that C is never 0; its slope is min(phi, 1)
    return np.exp(np.minimum(u, 0)) + np.maximum(u, 0)

def attention_forward(q, k, v, relative, cache):
    phi_q, phi_k, phi_r = phi(q), phi(k), phi(DECAY @ relative)  # R = r relative
    H_neuron, H_astro, g = phi_k.T @ v / D, phi_r.T @ v / D, phi_k.sum(axis=0)  # write: (D, D), (D, D), (D,)
    H = H_neuron + H_astro
    C = phi_q @ g  # read: (N,), one number per query
    P = 1 / C
    cache["attn"] = {"phi_q": phi_q, "phi_k": phi_k, "phi_r": phi_r, "v": v, "H": H, "g": g, "P": P}
    return (phi_q @ H) * P[:, None]
def attention_backward(dout, cache, grads):
    phi_q, phi_k, phi_r, v, H, g, P = cache["attn"].values()
    dread, dC = dout * P[:, None], -(dout * (phi_q @ H)).sum(axis=1) * P**2  # P = 1 / C, so dC = -dP / C^2
    dphi_q = dread @ H.T + np.outer(dC, g)  # the query reads H, and meets g
    dH, dg = phi_q.T @ dread, phi_q.T @ dC
    dphi_r = v @ dH.T / D  # through H_astro
    dphi_k = v @ dH.T / D + dg  # through H_neuron, and through g
    dv = (phi_k + phi_r) @ dH / D  # v was written into both
    grads["attn.rel.weight"] += DECAY.T @ (dphi_r * np.minimum(phi_r, 1))
    return np.concatenate([dphi_q * np.minimum(phi_q, 1), dphi_k * np.minimum(phi_k, 1), dv], axis=1)

# %% [markdown]
# ## The retention factor: long-term plasticity (LTP)
# LTP is an astrocyte's slow level. Each stimulus raises it, by less each time, until it saturates. A segment counts as
# a stimulus here. The **retention factor** RF(t, T) is the share of stimulus t in the whole rise by T stimuli. It is
# the part of what segment t wrote that the memory takes over. Of what it held before, 1 - RF stays.
# > *Predict, then run: which of three factors is the largest? How much of the first memory do two updates leave?*
# %%
LTP = np.array([0, 0.1682939204586, 0.2304138627467, 0.2532474712043])  # after 0 to 3 stimuli
RF = np.diff(LTP) / (LTP[-1] - LTP[0])  # RF[0] is RF(1, 3); lesson 02 simulates LTP
print(f"retention factors {RF.round(3)}; left of the first memory after two updates {np.prod(1 - RF[:2]):.3f}")

# %% [markdown]
# ## One segment
# A block adds to each row what attention reads for it, then what a feed-forward layer makes of it. The last line of
# `segment_backward` is the *only* place where the gradient crosses from a segment to the one before. It crosses in the
# memory tokens, by two paths: through the block, and past the block in the part 1 - RF that the memory kept.
# %%
def segment_forward(t, memory, params):
    cache = {}
    tokens = params["embed.token"][TOKENS[t]] + params["embed.position"] + params["embed.segment"][t]
    x = np.concatenate([memory, tokens])  # (M + L, D)
    qkv = linear_forward(norm_forward(x, "norm1", params, cache), "attn.qkv", params, cache)
    y = attention_forward(*np.split(qkv, 3, axis=1), params["attn.rel.weight"], cache)
    x = x + linear_forward(y, "attn.out", params, cache)
    hidden = linear_forward(norm_forward(x, "norm2", params, cache), "mlp.in", params, cache)
    x = x + linear_forward(gelu_forward(hidden, cache), "mlp.out", params, cache)
    written = norm_forward(x[:M], "memory.norm", params, cache)
    memory_next = memory + RF[t] * (written - memory)  # not used after the last segment
    return memory_next, written.mean(axis=0), cache  # the mean is the readout, of which only the last segment's is used
def segment_backward(t, dmemory_next, dreadout, cache, grads):
    dx, dwritten = np.zeros((M + L, D)), RF[t] * dmemory_next + dreadout / M
    dx[:M] = norm_backward(dwritten, "memory.norm", cache, grads)
    dhidden = gelu_backward(linear_backward(dx, "mlp.out", cache, grads), cache)
    dx += norm_backward(linear_backward(dhidden, "mlp.in", cache, grads), "norm2", cache, grads)
    dqkv = attention_backward(linear_backward(dx, "attn.out", cache, grads), cache, grads)
    dx += norm_backward(linear_backward(dqkv, "attn.qkv", cache, grads), "norm1", cache, grads)
    np.add.at(grads["embed.token"], TOKENS[t], dx[M:])  # a token that stands here twice gets both gradients
    grads["embed.position"] += dx[M:]
    grads["embed.segment"][t] += dx[M:].sum(axis=0)
    return dx[:M] + (1 - RF[t]) * dmemory_next  # dmemory, for segment t - 1

# %% [markdown]
# ## Learning: BPTT, and AMRB, which keeps less
# To learn, move every parameter a little against its gradient. The way back needs the caches, the last segment's first.
# Back-propagation through time (**BPTT**) keeps all S of them. Astrocytic Memory Replay Backpropagation (**AMRB**)
# *stores* the memory tokens that enter each segment (not needed of the last), *drops* every cache but the last, and
# *replays* a segment on the way back: run again from its memory tokens, it has its cache again. The gradient is exact,
# as the same function of the same numbers gives the same cache, bit for bit. One more segment costs BPTT one more cache
# and AMRB M D numbers. AMRB's price is S - 1 more runs. If going back costs two runs, BPTT costs 3 S, AMRB 4 S - 1.
# > *Predict, then run: how many caches wait when the way back begins? Which segment is replayed first, and from what?*
# %%
def loss_and_grads(params, method):
    memory, kept, events = params["memory.init"], {}, []  # the first memory tokens are learned
    for t in range(S):
        if method == "amrb":
            kept[f"memory {t + 1}"] = memory  # stored, M D numbers
            kept.pop(f"cache {t}", None)  # dropped, the cache of the segment before
        memory, readout, kept[f"cache {t + 1}"] = segment_forward(t, memory, params)
        events.append((f"forward {t + 1}", list(kept)))
    head, grads = {}, {name: np.zeros_like(array) for name, array in params.items()}
    logits = linear_forward(readout[None], "head", params, head)  # (1, 10), a score for every answer
    probabilities = np.exp(logits) / np.exp(logits).sum()
    loss = -np.log(probabilities[0, ANSWER])  # cross-entropy
    dreadout = linear_backward(probabilities - np.eye(10)[ANSWER], "head", head, grads)
    dmemory = np.zeros((M, D))  # no segment comes after the last
    for t in reversed(range(S)):
        if f"cache {t + 1}" not in kept:
            kept[f"cache {t + 1}"] = segment_forward(t, kept[f"memory {t + 1}"], params)[2]  # replayed
            events.append((f"replay {t + 1}", list(kept)))
        dmemory = segment_backward(t, dmemory, dreadout * (t == S - 1), kept.pop(f"cache {t + 1}"), grads)
        kept.pop(f"memory {t + 1}", None)
        events.append((f"backward {t + 1}", list(kept)))
    grads["memory.init"] += dmemory
    return loss, grads, events

(bptt_loss, bptt_grads, bptt_events), (loss, grads, events) = (loss_and_grads(params, way) for way in ("bptt", "amrb"))
for title, story in (("BPTT", bptt_events), ("AMRB", events)):
    print(title, *(f"  {event:10} keeps {', '.join(kept) or 'nothing'}" for event, kept in story), sep="\n")
saved = segment_forward(0, params["memory.init"], params)[2].values()
cache_size = sum(array.size for part in saved for key, array in part.items() if key not in ("weight", "gain"))
print(f"One cache: {cache_size} numbers without the parameters. The memory tokens of one segment: {M * D}.")

# %% [markdown]
# ## What can go wrong here
# - *"AMRB approximates."* It repeats: below, `array_equal` compares its gradients with BPTT's, without a tolerance.
# - *"Attention carries the gradient to the start."* Attention ends at the segment's edge. Only `dmemory` crosses it.
# - *"The loss falls, so the gradient is right."* A wrong one can lower it too. So two judges are asked below.
# %%
errors = []  # first judge, finite differences: move one number a little, and see how the loss changes
for name, array in params.items():
    for place in rng.integers(array.size, size=5):
        bump = 1e-5 * (np.arange(array.size) == place).reshape(array.shape)
        up, down = (loss_and_grads(params | {name: array + sign * bump}, "bptt")[0] for sign in (1, -1))
        errors.append(abs((up - down) / 2e-5 - grads[name].flat[place]) / np.abs(grads[name]).max())
import show  # noqa: E402, F401, I001 (second judge: the package, which this line finds)
import rmaat_np as rn  # noqa: E402
cfg = rn.Config(16, 10, d_model=D, num_heads=1, num_layers=1, d_ff=F, segment_length=L, num_segments=S, num_memory=M)
names = {name: "blocks.0." * name.startswith(("norm", "attn", "mlp")) + name for name in params}
package = rn.loss_and_grads({names[name]: params[name] for name in names}, cfg, TOKENS.reshape(1, S * L), [ANSWER])
differences = [abs(loss - package[0])] + [np.abs(grads[name] - package[1][names[name]]).max() for name in names]
print(f"largest error: finite differences {max(errors):.0e}, against the package {max(differences):.0e}")
assert loss == bptt_loss and all(np.array_equal(grads[name], bptt_grads[name]) for name in params)
assert max(errors) < 1e-6 and max(differences) < 1e-10 and np.abs(RF - rn.retention_factors(S)).max() < 1e-10
assert dict(bptt_events)["forward 3"] == ["cache 1", "cache 2", "cache 3"] and len(events) == 3 * S - 1
assert dict(events)["forward 3"] == ["memory 1", "memory 2", "memory 3", "cache 3"] and grads["embed.segment"][0].any()
