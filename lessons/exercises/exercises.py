"""Six functions to write. Replace `raise NotImplementedError` by your own code, then ask the checks:

    python -m pytest lessons/exercises -k phi

What is not written yet is skipped. Every function uses NumPy alone; the last may call the package where its text says
so. If you are stuck, the solution is the package's own function, named at the end of each text.
"""

import numpy as np  # noqa: F401 (yours to use)


def phi_backward(dphi, cache):
    """1. The gradient of the feature map, du (lesson 01).

    phi(u) = elu(u) + 1 = exp(min(u, 0)) + max(u, 0), so phi'(u) is exp(u) below 0 and 1 above.
    The cache holds {"phi": phi(u)} and not u. Why is that enough?

    Shapes: dphi (...) -> du (...)
    Hint: sketch phi and phi' in one picture. Change neither dphi nor the cache.
    Solution: rmaat_np.attention.phi_backward
    """
    raise NotImplementedError


def write_and_read(q, k, v, features, alpha=1.0):
    """2. Astromorphic attention of one sequence and one head of width m, without padding (lesson 03).

    write: H_neuron = 1/m phi(K)^T V;  H_astro = 1/m phi(R)^T V;  H = H_neuron + H_astro;  g = (sum_t phi(k_t))^alpha
    read:  C = phi(Q) g, one number per query;  P = 1 / C;  y = phi(Q) H, each row multiplied by its P

    Shapes: q (Nq, m); k, v (N, m); features phi(R) (N, m), phi already applied -> y (Nq, m)
    Hint: H is (m, m). If an array of yours is (Nq, N), it is the quadratic form: right, and too slow for long
        sequences. phi itself: rmaat_np.attention.phi_forward(u)[0].
    Solution: rmaat_np.attention.astromorphic_attention_forward (for B sequences and h heads)
    """
    raise NotImplementedError


def memory_update(memory, written, factor, mode):
    """3. The memory tokens for the next segment, in four modes (lesson 05).

    "integrate", "online": memory + factor (written - memory);  "scale": factor * written;  "none": written

    Shapes: memory, written (B, M, D); factor (B, 1, 1): each sequence has its own -> memory_next (B, M, D)
    Hint: return a new array; BPTT still needs the old one.
    Solution: rmaat_np.memory.memory_update_forward
    """
    raise NotImplementedError


def retention_shares(curve):
    """4. Retention factors from an LTP curve that was sampled at the ends of T cycles (lesson 05).

    RF(t, T) = dp_t / sum_i dp_i,  dp_t = what cycle t adds to the curve

    Shapes: curve (T + 1), beginning at rest -> (T,)
    Hint: T + 1 points have T steps between them. What must the factors sum to?
    Solution: rmaat_np.plasticity.retention_factors, which also serves every T with one simulation
    """
    raise NotImplementedError


def layer_norm_backward(dout, cache):
    """5. The gradient of layer norm: dx, dgain, dbias (lesson 01).

    out = gain * xhat + bias,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + 1e-5), over the last axis

    The cache holds xhat (R, D), rstd (R, 1) and gain (D). mean and rstd depend on every x of their row:
    dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)),  dxhat = dout * gain

    Shapes: dout (R, D) -> dx (R, D), dgain (D), dbias (D)
    Hint: derive the equation once on paper. With dout all ones and gain all ones dx is 0: why?
    Solution: rmaat_np.layers.layer_norm_backward
    """
    raise NotImplementedError


def amrb_step(memory, segment_inputs, forward, backward, turn):
    """6. Memory replay: forward and back over the segments, keeping memory tokens and no cache (lesson 07).

    forward: keep the memory that enters each segment and add up what is read out; let every cache go.
    turn:    dz = turn(z) is the loss's gradient at the summed readout z.
    back:    from the last segment, run forward once more from the kept memory, then go back through its cache.

    Shapes: memory (B, M, D); segment_inputs: a list, one entry per segment -> dmemory (B, M, D), the gradient at the
        first memory; grads: a dict, for each name the sum over the segments
    You are given forward(input, memory) -> memory_next, readout, cache;  turn(z) -> dz;
        backward(dmemory_next, dreadout, cache) -> dmemory, grads of this segment. They wrap the package's
        segment_forward and segment_backward; every segment reads all sequences out (pooling "mean"), so dreadout = dz.
    Hint: nothing goes on after the last segment, so its dmemory_next is zeros of the shape of the memory. Add gradients
        with `total[name] = total[name] + grad`. The check counts forward's calls and how many caches are alive.
    Solution: rmaat_np.replay.amrb
    """
    raise NotImplementedError
