"""The checks of the exercises: python -m pytest lessons/exercises -x -q --tb=line -k 03

A check that fails shows its message alone. Its first sentence is the one that helps: the likely cause, if it is known.
"""

import numpy as np
import pytest

from .checking import ReplayProblem, call, check, check_parts, fail, phi, random  # first: it finds the package

# isort: split
import rmaat_np as rn
from rmaat_np import attention, gradcheck, layers, memory, optim, plasticity, replay


def test_01a_phi_backward():
    u, dphi = 2 * random(3, 4), random(3, 4, seed=1)
    cache = {"phi": phi(u)}
    du = call("phi_backward", dphi=dphi, cache=cache)
    if not np.array_equal(cache["phi"], phi(u)):
        fail("phi_backward changed cache['phi']: `*=` and `out=` write into the cache. Work on a new array.")
    numeric = gradcheck.numerical_gradient(lambda u: float((phi(u) * dphi).sum()), u)
    causes = {
        "The slope is 1 only where u is above 0: below 0 it is exp(u).": dphi,
        "The slope is phi only where u is below 0: above 0 it is 1.": dphi * phi(u),
        "dphi is missing: by the chain rule the slope is multiplied by it.": np.minimum(phi(u), 1),
        "max and min are swapped.": dphi * np.maximum(phi(u), 1),
        "The slope below 0 is exp(u), which phi already is: exp(phi) takes it twice.": dphi * np.exp(phi(u)),
    }
    check("du", du, numeric, "the finite difference along that u", causes)


def test_01b_layer_norm_backward():
    x, dout = random(3, 5), random(3, 5, seed=1)
    gain, bias = 1 + 0.3 * random(5, seed=2), random(5, seed=3)
    _, cache = layers.layer_norm_forward(x, gain, bias)
    found = call("layer_norm_backward", dout=dout, cache=cache)
    check_parts("layer_norm_backward", found, ("dx", "dgain", "dbias"))
    xhat, rstd, dxhat = cache["xhat"], cache["rstd"], dout * gain

    def dx(dxhat=dxhat, mean=1.0, along=1.0, reduce=np.mean, axis=1):
        first, second = (reduce(part, axis=axis, keepdims=True) for part in (dxhat, dxhat * xhat))
        return rstd * (dxhat - mean * first - along * xhat * second)

    rows, dgain, dbias = "A mean over the rows in place of a sum", (dout * xhat).sum(axis=0), dout.sum(axis=0)
    features = "The sum goes over the rows, axis 0, because all rows share the gain and the bias."
    causes = {
        "x": {
            "The gain is missing: dxhat = dout * gain.": dx(dxhat=dout),
            "The path through the mean is missing: mean(dxhat) is subtracted.": dx(mean=0),
            "The path through rstd is missing: xhat mean(dxhat xhat) is subtracted.": dx(along=0),
            "Both paths, through the mean and through rstd, are missing.": dx(mean=0, along=0),
            "A 1/D is missing: the two terms are means over a row, not sums.": dx(reduce=np.sum),
            "The means go over the wrong axis: each row has its own, axis 1.": dx(axis=0),
            "rstd is missing.": dx() / rstd,
        },
        "gain": {
            "dgain and dbias are swapped.": dbias,
            f"{rows}: a 1/R too much.": dgain / len(x),
            features: (dout * xhat).sum(axis=1),
        },
        "bias": {f"{rows}: a 1/R too much.": dbias / len(x), features: dout.sum(axis=1)},
    }

    def out(**moved):
        out, _ = layers.layer_norm_forward(*({"x": x, "gain": gain, "bias": bias} | moved).values())
        return float((out * dout).sum())

    for name, start, gradient in zip(("x", "gain", "bias"), (x, gain, bias), found, strict=True):
        numeric = gradcheck.numerical_gradient(lambda moved, name=name: out(**{name: moved}), start)
        check("d" + name, gradient, numeric, f"the finite difference along that {name}", causes[name])


def test_02_ltp_step():
    p_l, s, dt, tau = np.abs(random(9)), random(9, seed=1), 0.05, 30.0
    found = call("ltp_step", p_l=p_l, s=s, dt=dt, tau=tau)
    state = {"pre": np.zeros(3), "post": np.zeros(3), "synapse": s, "stp": np.zeros(9), "ltp": p_l}
    constants = plasticity.MacroModel(dt=dt, tau_ltp=tau)
    expected = plasticity.macro_model_step(state, 0.0, np.zeros((9, 9)), constants)["ltp"]
    kappa = np.tanh(np.maximum(s, 0))
    causes = {
        "The leak is missing: without -p_l in the slope LTP would grow without bound.": p_l + dt / tau * kappa,
        "kappa is 0 for s below 0: a synapse does not pull LTP down.": p_l + dt / tau * (np.tanh(s) - p_l),
        "tanh is missing in kappa.": p_l + dt / tau * (np.maximum(s, 0) - p_l),
        "tau is missing: the slope is divided by it.": p_l + dt * (kappa - p_l),
        "This is what is added. The step returns p_l with it.": dt / tau * (kappa - p_l),
        "The slope is divided by tau, not multiplied.": p_l + dt * tau * (kappa - p_l),
    }
    check("p_l", found, expected, "the package's macro_model_step", causes, rtol=1e-12)


@pytest.mark.parametrize("alpha, padded", [(1.0, 0), (0.5, 0), (1.0, 3), (0.5, 3)])
def test_03a_write_and_read(alpha, padded):
    q, k, v, r = (random(n, 4, seed=n + i) for i, n in enumerate((5, 9, 9, 9)))
    phi_r, mask = phi(r), (np.arange(9) < 9 - padded).astype(float)[:, None]
    y = call("write_and_read", q=q, k=k, v=v, phi_r=phi_r, mask=mask, alpha=alpha)

    live, total, bare_q = phi(k) * mask, (phi(k) * mask).sum(axis=0), phi(q)

    def read(keys=live, places=phi_r, values=v * mask, g=total**alpha):
        return bare_q @ ((keys + places).T @ values) / 4 / (bare_q @ g)[:, None]

    C = (bare_q @ total**alpha)[:, None]
    not_read, astro = read() * C, read(keys=0)
    late = "The mask comes after phi, because phi(0) is 1: padding still counts in g"
    g_late = phi(k * mask).sum(axis=0) ** alpha
    causes = {
        "H_astro is missing: add 1/m phi(R)^T V to H_neuron.": read(places=0),
        "H_neuron is missing: add 1/m phi(K)^T V to H_astro.": astro,
        "The read mode is missing: each row of phi(Q) H is multiplied by its P = 1 / C.": not_read,
        "C multiplies in place of P = 1 / C.": not_read * C,
        "A 1/m is missing: H_neuron and H_astro are divided by the width m.": 4 * read(),
        "A 1/m is missing in H_astro.": read() + 3 * astro,
        "A 1/m is missing in H_neuron.": 4 * read() - 3 * astro,
        "H is divided by N. It is 1/m, the width of the head.": 4 * read() / 9,
        "alpha is not used: g is the sum to the power alpha.": read(g=total),
        "alpha is the power of the sum, and not of each phi(k).": read(g=(live**alpha).sum(axis=0)),
        "alpha is the power of g, and not of C.": not_read / (bare_q @ total)[:, None] ** alpha,
        "g counts the keys only, not phi(R).": read(g=((phi(k) + phi_r) * mask).sum(axis=0) ** alpha),
        "The mask is forgotten: padding has written into H and g.": read(
            phi(k), values=v, g=phi(k).sum(axis=0) ** alpha
        ),
        "The mask is forgotten in g: padding must not count there.": read(g=phi(k).sum(axis=0) ** alpha),
        "The mask is forgotten on V: H_astro writes the values of padding.": read(values=v),
        f"{late}.": read(g=g_late),
        f"{late}, and V is not masked.": read(phi(k * mask), values=v, g=g_late),
        "A sum over the wrong axis: g sums over the rows, axis 0, and is a vector of m.": read(
            g=total.sum() ** alpha + 0 * total
        ),
    }
    batch = (q[None], k[None], v[None], phi_r, mask[None], 1)
    expected = attention.astromorphic_attention_quadratic(*batch, alpha=alpha)[0]
    check("y", y, expected, "the quadratic form, in which every query meets every key,", causes, rtol=1e-10)


def test_03b_multi_head():
    heads, q, k, v, r = 3, *(random(n, 12, seed=n + i) for i, n in enumerate((5, 7, 7, 7)))
    phi_r = phi(r)
    y = call("multi_head", q=q, k=k, v=v, phi_r=phi_r, num_heads=heads)

    def quadratic(heads, order=slice(None), **options):
        batch = (x[None][:, :, order] for x in (q, k, v))
        return attention.astromorphic_attention_quadratic(*batch, phi_r[:, order], None, heads, **options)[0]

    every = np.arange(12).reshape(4, heads).T.ravel()
    bare = quadratic(heads, use_feedback=False)
    one_p = bare / (phi(q) @ phi(k).sum(axis=0))[:, None]
    causes = {
        "One P for all heads: C sums over the m columns of one head, so that each head has its own P.": one_p,
        "One H for all columns: the heads are not taken apart.": quadratic(1),
        "1/D in place of 1/m: a head has the width m = D / h.": quadratic(heads) / heads,
        "A 1/m is missing.": quadratic(heads) * 4,
        "The read mode is missing: each head's rows are multiplied by P = 1 / C.": bare,
        "Head i has the columns i m to (i + 1) m, and not every h-th.": quadratic(heads, every)[:, np.argsort(every)],
    }
    check("y", y, quadratic(heads), "the quadratic form of every head", causes, rtol=1e-10)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_04_relative_features(scale):
    w = random(6, 3)
    found = call("relative_features", w=w, scale=scale)
    expected, cache = attention.relative_features_forward(w, scale)
    place = np.arange(6.0)
    signed = place[:, None] - place
    causes = {
        "phi is missing: H_astro holds phi(R).": cache["decay"] @ w,
        "phi comes after mixing: it is phi(r w), not r phi(w).": cache["decay"] @ phi(w),
        "The distance is |i - j|: without the absolute value r grows on one side.": phi(np.exp(-signed * scale) @ w),
        "The distance is |i - j|: r must fall on both sides.": phi(np.exp(signed * scale) @ w),
        "The minus sign is missing: r falls with distance.": phi(np.exp(np.abs(signed) * scale) @ w),
        "The distance is multiplied by the scale, not divided.": phi(np.exp(-np.abs(signed) / scale) @ w),
        "The distance is not squared.": phi(np.exp(-(signed**2) * scale) @ w),
        "The scale is not used.": phi(np.exp(-np.abs(signed)) @ w),
    }
    check("phi_r", found, expected, "the package's relative_features_forward", causes, rtol=1e-12)


@pytest.mark.parametrize("mode", [mode for mode in plasticity.RETENTION_MODES if mode != "learned"])  # no gate here
def test_05a_memory_update(mode):
    old, new = random(3, 2, 4), random(3, 2, 4, seed=1)
    factor = np.array([0.5, 0.2, 1.0])[:, None, None] if mode != "none" else np.ones((3, 1, 1))
    found = call("memory_update", memory=old, written=new, factor=factor, mode=mode)
    causes = {
        "The factor is on the wrong side: it is the part of what was *written* that is taken over.": new
        + factor * (old - new),
        "The old memory has no part 1 - factor here.": old + factor * new,
        f"`{mode}` is another equation than `integrate`.": old + factor * (new - old),
        f"`{mode}` is another equation than `scale`.": factor * new,
        f"`{mode}` is another equation than `none`.": new,
        "Each sequence has its own factor: here all got the first one's.": old + factor[0] * (new - old),
    }
    expected, _ = memory.memory_update_forward(old, new, factor, mode)
    check(f"memory_next under `{mode}`", found, expected, "the package's memory_update_forward", causes, rtol=1e-12)


@pytest.mark.parametrize("total", [1, 4, 6])
def test_05b_retention_shares(total):
    curve = 0.1 + plasticity.ltp_curve()[: total + 1]  # rest need not be 0
    found = call("retention_shares", curve=curve)
    added = np.array([curve[t] - curve[t - 1] for t in range(1, total + 1)])
    steps = f"T + 1 points have T steps between them: here {total + 1} and {total}."
    causes = {
        steps: added[1:] / added[1:].sum() if total > 1 else curve,
        "The increments are not divided by their sum: the factors must sum to 1.": added,
        "These are shares of the curve. RF is a share of what the cycles add to it.": curve[1:] / curve[1:].sum(),
        "The whole climb begins at rest: subtract curve[0].": added / curve[-1],
        "The largest increment is not the whole: divide by the sum.": added / added.max(),
    }
    check("RF", found, added / (curve[-1] - curve[0]), "the curve's increment over its whole climb", causes, rtol=1e-9)


def test_06_memory_backward():
    memory_in, weight = random(3, 2, 4), random(4, 4, seed=1)
    dmemory_next, dreadout = random(3, 2, 4, seed=2), random(3, 4, seed=3)
    factor = np.array([0.6, 0.3, 0.1])[:, None, None]
    slope = 1 - np.tanh(memory_in @ weight) ** 2

    def blocks_backward(dwritten):  # stand-ins: written = tanh(memory weight)
        if np.shape(dwritten) != memory_in.shape:
            fail(
                f"blocks_backward was given the shape {np.shape(dwritten)}, but dwritten is {memory_in.shape} like the "
                "memory: dreadout has no axis for the M memory tokens, so give it one with dreadout[:, None]."
            )
        return (dwritten * slope) @ weight.T

    given = {"dmemory_next": dmemory_next, "dreadout": dreadout, "factor": factor, "blocks_backward": blocks_backward}
    found = call("memory_backward", **given)

    def loss(memory_in):
        written = np.tanh(memory_in @ weight)
        memory_next = memory_in + factor * (written - memory_in)
        return float((memory_next * dmemory_next).sum() + (written.mean(axis=1) * dreadout).sum())

    around, read = (1 - factor) * dmemory_next, dreadout[:, None] / 2 + 0 * memory_in
    through = blocks_backward(factor * dmemory_next + read)
    swapped = blocks_backward((1 - factor) * dmemory_next + read) + factor * dmemory_next
    causes = {
        "The path around the segment is missing: add the part 1 - factor of dmemory_next.": through,
        "The path through the blocks is missing: add blocks_backward(dwritten).": around,
        "The path around the segment carries only the part 1 - factor.": through + dmemory_next,
        "The path around the segment carries the part 1 - factor, not factor.": through + factor * dmemory_next,
        "factor is missing on the way into the blocks.": blocks_backward(dmemory_next + read) + around,
        "The factor is on the wrong side: written has the part factor, the old memory 1 - factor.": swapped,
        "dreadout is missing: what was written is also read out.": blocks_backward(factor * dmemory_next) + around,
        "A 1/M is missing: the readout is the mean over the memory tokens.": through + around + blocks_backward(read),
    }
    numeric = gradcheck.numerical_gradient(loss, memory_in)
    check("dmemory", found, numeric, "the finite difference along that memory", causes)


def test_07_amrb_step():
    problem = ReplayProblem()
    total = problem.cfg.num_segments
    inputs = [problem.shard.segment(t) for t in range(total)]
    given = {"memory": replay.first_memory(problem.params, problem.shard), "segment_inputs": inputs}
    found = call("amrb_step", **given, forward=problem.forward, backward=problem.backward, turn=problem.turn)
    for name, array, copy in problem.handed_out:
        if not np.array_equal(array, copy):
            fail(
                f"`+=` has changed {name} that forward or backward had returned, which is also held elsewhere. "
                "Add with total[name] = total[name] + grad, z = z + readout."
            )
    check_parts("amrb_step", found, ("dmemory", "grads"))
    dmemory, grads = found
    if not (isinstance(dmemory, np.ndarray) and isinstance(grads, dict)):
        fail("amrb_step must return an array and a dict, in this order: dmemory, grads.")
    if problem.turns != 1:
        fail(f"turn was called {problem.turns} times: the loss is known once, after the last segment.")
    if problem.forwards < 2 * total - 1:
        fail(
            f"forward was called {problem.forwards} times for {total} segments: that is BPTT, which keeps caches. "
            "Replay runs each segment again."
        )
    if problem.forwards > 2 * total:
        fail(
            f"forward was called {problem.forwards} times for {total} segments: keep the memory that enters each "
            "segment, and one more run of each is enough."
        )
    if problem.alive > 2:
        fail(
            f"{problem.alive} caches were alive at once: let each go before the next is built, also the one "
            "that a variable of the loop still names."
        )
    if problem.other_memory is not None:
        fail(f"Segment {problem.other_memory + 1} was replayed from another memory than the one that had entered it.")
    if len(problem.dmemories) == total and not any(problem.dmemories[1:]):
        fail("The path between the segments is dropped: each segment's dmemory is the dmemory_next of the one before.")
    _, expected, _ = rn.loss_and_grads(problem.params, problem.cfg, problem.tokens, problem.labels, method="bptt")
    for name in ("embed.token", "blocks.0.attn.qkv.weight", "blocks.0.mlp.out.bias", "memory.norm.gain"):
        if name not in grads:
            fail(f"grads has no entry {name!r}: add up what backward returns for every name.")
        parts = [copy for given, _, copy in problem.handed_out if given == f"a grads[{name!r}]"]
        causes = {
            "Only the first segment's gradient is left: each one overwrites the last. Add them up.": parts[-1],
            "Only the last segment's gradient is left: add up those of all segments.": parts[0],
            "This is a mean over the segments. The gradient is their sum.": expected[name] / total,
        }
        check(f"grads[{name!r}]", grads[name], expected[name], "BPTT", causes, rtol=1e-10)
    check("dmemory, summed over the batch,", dmemory.sum(axis=0), expected["memory.init"], "BPTT", rtol=1e-10)


@pytest.mark.parametrize("step", [0, 9])
def test_08_adamw_step(step):
    start = {"p": random(2, 3), "grad": random(2, 3, seed=1), "m": 0.1 * random(2, 3, seed=2) * (step > 0)}
    start["v"] = random(2, 3, seed=3) ** 2 * (step > 0)
    lr, decay = 0.01, 0.1
    found = call("adamw_step", **start, step=step, lr=lr, weight_decay=decay)
    check_parts("adamw_step", found, ("p", "m", "v"))
    p, grad, m, v = start.values()
    params, state = {"a.weight": p.copy()}, {"m": {"a.weight": m.copy()}, "v": {"a.weight": v.copy()}}
    optim.adamw_step(params, {"a.weight": grad}, state, step, lr, weight_decay=decay, clip_norm=np.inf)
    m, v = state["m"]["a.weight"], state["v"]["a.weight"]
    wrong_m = {
        "b1 and 1 - b1 are swapped.": 0.1 * start["m"] + 0.9 * grad,
        "The decay belongs to p and not to the gradient: that is what the W of AdamW stands for.": m + 0.1 * decay * p,
    }
    wrong_v = {"v averages the squares of the gradient, not the gradient.": 0.999 * start["v"] + 0.001 * grad}

    def moved(t=step + 1, decayed=decay, m=m, v=v, scale=lr):
        corrected = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if t else (m, v)
        return p - lr * corrected[0] / (np.sqrt(corrected[1]) + 1e-8) - scale * decayed * p

    causes = {
        "The correction is missing: m and v begin at 0, so m / (1 - b1^t) and v / (1 - b2^t) are used.": moved(t=0),
        "The decay is missing: p shrinks by lr weight_decay p.": moved(decayed=0),
        "The decay is not multiplied by lr.": moved(scale=1.0),
        "The decay has the wrong sign: p must shrink.": moved(decayed=-decay),
        "The step goes against the gradient: subtract it.": 2 * p - moved(decayed=0) - lr * decay * p,
    }
    if step:
        causes["t is step + 1, because the first step is step 0."] = moved(t=step)
    check("m", found[1], m, "the package's adamw_step", wrong_m, rtol=1e-9)
    check("v", found[2], v, "the package's adamw_step", wrong_v, rtol=1e-9)
    check("p", found[0], params["a.weight"], "the package's adamw_step", causes, rtol=1e-9)


def test_09_log_line():
    strict_device = pytest.importorskip("helpers.strict_device", reason="the stand-in device lies in tests/helpers")
    xp = strict_device.module
    host = {"a": random(3, 2), "b": random(4, seed=1), "c": random(1, seed=2)}
    loss, grads = xp.asarray(np.array(1.25)), {name: xp.asarray(grad) for name, grad in host.items()}
    strict_device.reset_synchronisations()
    try:
        found = call("log_line", loss=loss, grads=grads, xp=xp, to_host=lambda array: array.get())
    except (TypeError, AttributeError) as error:
        fail(f"The arrays are on the device: call xp on them, not NumPy, and to_host once. {error}")
    waits = strict_device.synchronisations()
    norms = [float(np.linalg.norm(grad)) for grad in host.values()]
    squares = sum(norm**2 for norm in norms)
    causes = {
        "The square root is missing: the norm is the root of the sum of squares.": np.array([1.25, squares]),
        "The order is loss, norm.": np.array([squares**0.5, 1.25]),
        "These are the norms added up: add the squares, and take one root.": np.array([1.25, sum(norms)]),
    }
    check("the log line", found, np.array([1.25, squares**0.5]), "NumPy", causes, rtol=1e-9)
    if waits != 1:
        fail(f"The host waited {waits} times for the device, and once is enough: join the numbers with xp.stack first.")


@pytest.mark.parametrize("method", ["bptt", "amrb"])
@pytest.mark.parametrize("count", [4, 1])
def test_10_held_bytes(method, count):
    size = {"d_model": 8, "num_heads": 2, "num_layers": 1, "d_ff": 8, "segment_length": 3, "num_memory": 2}
    cfg = rn.Config(vocab_size=7, num_classes=3, num_segments=count, **size)
    events, tokens = [], np.ones((2, 3 * count), dtype=int)
    rn.loss_and_grads(rn.init_params(cfg), cfg, tokens, np.array([0, 1]), method, observer=events.append)
    cache = next(event.nbytes for event in events if event.kind == "forward")
    stored = 2 * 2 * 8 * 4  # B M D float32
    peak = max(event.caches + event.buffer for event in events)
    found = call("held_bytes", num_segments=count, cache=cache, memory=stored, method=method)
    wrong = {
        "bptt": {
            cache: "BPTT keeps the caches of all segments.",
            count * (cache + stored): "BPTT stores no memory tokens: its caches hold them.",
            (count - 1) * cache: "All caches wait, the last segment's too.",
            cache + count * stored: "That is AMRB: BPTT keeps the caches of all segments.",
        },
        "amrb": {
            cache: "The stored memory tokens are forgotten: one set for every segment.",
            count * stored: "One cache is alive, that of the last segment.",
            count * cache: "That is BPTT: AMRB drops each cache before the next one is built.",
            cache + (count - 1) * stored: "The memory tokens that enter the first segment are stored, too.",
            2 * cache
            + count * stored: "A cache is dropped before the next one is built, so that one is alive at a time.",
            count * (cache + stored): "AMRB drops each cache before the next one is built.",
        },
    }[method]
    if found != peak:
        numbers = f"held_bytes says {found} under {method} with {count} segments, but the package counts {peak}."
        fail(f"{wrong.get(found, 'Which caches, and which memory tokens, are alive at the turning point?')} {numbers}")


@pytest.mark.parametrize("unanswered", [False, True], ids=["all answered", "one never answered"])
def test_12_class_scores(unanswered):
    labels = np.repeat([0, 1, 2, 3], [9, 6, 4, 2])
    answers = np.array([0, 0, 0, 0, 0, 1, 1, 2, 0, 1, 1, 0, 1, 2, 1, 2, 0, 2, 2, 3, 1])
    if unanswered:
        answers[answers == 3] = 0
    found = call("class_scores", labels=labels, answers=answers, num_classes=4)
    check_parts("class_scores", found, ("recall", "precision", "F1"))
    rows = list(zip(labels.tolist(), answers.tolist(), strict=True))  # counted one by one, as by hand
    right, true, given = np.array(
        [[rows.count((c, c)), sum(t == c for t, _ in rows), sum(a == c for _, a in rows)] for c in range(4)]
    ).T
    recall, precision = right / true, right / np.maximum(given, 1)
    f1 = 2 * right / (true + given)
    swapped = "Recall and precision are swapped: recall is divided by the rows of the class."
    causes = {
        "recall": {
            swapped: precision,
            "That is a part of all rows: divide by the rows of the class.": right / len(rows),
            "That is the accuracy, the same for every class.": np.full(4, right.sum() / len(rows)),
        },
        "precision": {
            "That is the recall again: precision is divided by the answers of the class.": recall,
            "That is a part of all rows: divide by the answers of the class.": right / len(rows),
        },
        "F1": {
            "F1 is no mean of recall and precision: a class with one of them near 0 has an F1 near 0.": (
                (recall + precision) / 2
            ),
            "A 2 is missing in F1: it is 1 if recall and precision are.": f1 / 2,
            "A root of the product is another mean: F1 divides the product by the sum.": np.sqrt(recall * precision),
        },
    }
    shorter = {"minlength is missing: np.bincount ends at the last class that it meets.": np.zeros(3)}
    for name, got, expected in zip(causes, found, (recall, precision, f1), strict=True):
        check(name, got, expected, "counting row by row", causes[name] | shorter, rtol=1e-9)
