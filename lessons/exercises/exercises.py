"""Functions to write, numbered like the lessons they belong to: 03a and 03b follow lesson 03.

Replace `raise NotImplementedError` by your own code, then ask the checks of that lesson:

    python -m pytest lessons/exercises -x -q --tb=line -k 03

What is not written yet is skipped. A check that fails says first what is wrong, and the likely cause if it knows one.
Every function uses NumPy alone. The symbols are those of the lessons. No function may change what it is given.
solutions.py, beside this file, holds one solution of each and the answers to the questions.
"""

import numpy as np  # noqa: F401 (yours to use)


def phi_backward(dphi, cache):
    """01a. The gradient of the feature map, du.

    phi(u) = elu(u) + 1 = exp(min(u, 0)) + max(u, 0), so phi'(u) is exp(u) below 0 and 1 above.
    The cache holds {"phi": phi(u)} and not u. Why is that enough?

    Shapes: dphi (...) -> du (...)
    Hint: sketch phi and phi' in one picture.
    In the package: rmaat_np.attention.phi_backward
    """
    raise NotImplementedError


def layer_norm_backward(dout, cache):
    """01b. The gradient of layer norm: dx, dgain, dbias.

    out = gain * xhat + bias,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + 1e-5), over the last axis
    The cache holds xhat (R, D), rstd (R, 1) and gain (D). mean and rstd depend on every x of their row:
    dx = rstd (dxhat - mean(dxhat) - xhat mean(dxhat xhat)),  dxhat = dout * gain

    Shapes: dout (R, D) -> dx (R, D), dgain (D), dbias (D)
    Hint: derive the equation once on paper. With dout all ones and gain all ones dx is 0. Why?
    In the package: rmaat_np.layers.layer_norm_backward
    """
    raise NotImplementedError


def ltp_step(p_l, s, dt, tau):
    """02. One Euler step of the long-term process of every synapse.

    tau dp_l/dt = -p_l + kappa(s),  kappa(s) = tanh(s) where s is above 0, and 0 elsewhere
    An Euler step adds dt times the slope. Where does p_l settle when s stays as it is?

    Shapes: p_l (9), s (9) -> p_l after the step (9)
    In the package: the last line of rmaat_np.plasticity.macro_model_step
    """
    raise NotImplementedError


def write_and_read(q, k, v, phi_r, mask, alpha=1.0):
    """03a. Astromorphic attention of one sequence with one head of width m.

    write: H_neuron = 1/m phi(K)^T V;  H_astro = 1/m phi(R)^T V;  H = H_neuron + H_astro;  g = (sum_t phi(k_t))^alpha
    read:  C = phi(Q) g, one number per query;  P = 1 / C;  y = phi(Q) H, each row multiplied by its P
    Padding writes nothing, neither into H nor into g. Why is it not enough to set the rows of K to 0?

    Shapes: q (Nq, m); k, v (N, m); phi_r (N, m), phi already applied; mask (N, 1), 1 live and 0 padding -> y (Nq, m)
    Hint: H is (m, m). If an array of yours is (Nq, N), it is the quadratic form: right, and too slow for long
        sequences. phi(u) is np.exp(np.minimum(u, 0)) + np.maximum(u, 0).
    In the package: rmaat_np.attention.astromorphic_attention_forward (for B sequences and h heads)
    """
    raise NotImplementedError


def multi_head(q, k, v, phi_r, num_heads):
    """03b. The same with h heads, side by side in the columns, without padding and with alpha = 1.

    Head i has the columns i m to (i + 1) m of every argument, and of the result. The heads know nothing of each other.
    Which numbers of the cache grow with h, if D = h m stays the same?

    Shapes: q (Nq, D); k, v, phi_r (N, D) -> y (Nq, D)
    Hint: each head has its own H, C and P. Your write_and_read may do a head's work.
    In the package: rmaat_np.attention.astromorphic_attention_forward
    """
    raise NotImplementedError


def relative_features(w, scale):
    """04. phi(R), the place of every row as the astrocyte feels it.

    R = r w,  r_ij = exp(-|i - j| scale)
    What becomes of R when the scale is very large, and when it is nearly 0?

    Shapes: w (N, D) -> phi_r (N, D)
    Hint: np.arange(N)[:, None] - np.arange(N) holds every i - j.
    In the package: rmaat_np.attention.relative_features_forward
    """
    raise NotImplementedError


def memory_update(memory, written, factor, mode):
    """05a. The memory tokens for the next segment, in the four modes without a gate.

    "integrate", "online": memory + factor (written - memory);  "scale": factor * written;  "none": written
    Why must the old memory stay as it was?

    Shapes: memory, written (B, M, D); factor (B, 1, 1): each sequence has its own -> memory_next (B, M, D)
    In the package: rmaat_np.memory.memory_update_forward
    """
    raise NotImplementedError


def retention_shares(curve):
    """05b. Retention factors from an LTP curve that was sampled at the ends of T cycles.

    RF(t, T) = dp_t / sum_i dp_i,  dp_t = what cycle t adds to the curve
    What must the factors sum to, and why do they fall?

    Shapes: curve (T + 1), beginning at rest -> (T,)
    Hint: T + 1 points have T steps between them.
    In the package: rmaat_np.plasticity.retention_factors, which serves every T with one simulation
    """
    raise NotImplementedError


def memory_backward(dmemory_next, dreadout, factor, blocks_backward):
    """06. The way back through one segment: the gradient for the memory tokens that entered it, dmemory.

    forward: written = blocks(memory);  memory_next = memory + factor (written - memory);
        readout = the mean of written over its M memory tokens
    You are given blocks_backward(dwritten) -> the gradient for memory, as far as it went through the blocks.
    On how many paths does the memory reach memory_next?

    Shapes: dmemory_next (B, M, D); dreadout (B, D); factor (B, 1, 1) -> dmemory (B, M, D)
    In the package: rmaat_np.model.segment_backward
    """
    raise NotImplementedError


def amrb_step(memory, segment_inputs, forward, backward, turn):
    """07. Memory replay: forward and back over the segments, keeping memory tokens and no cache.

    forward: keep the memory that enters each segment and add up what is read out; let every cache go.
    turn:    dz = turn(z) is the loss's gradient at the summed readout z.
    back:    from the last segment, run forward once more from the kept memory, then go back through its cache.
    Why is the gradient the same to the last bit as with all caches kept?

    Shapes: memory (B, M, D); segment_inputs: a list, one entry per segment -> dmemory (B, M, D), the gradient at the
        first memory; grads: a dict, for each name the sum over the segments
    You are given forward(input, memory) -> memory_next, readout, cache;  turn(z) -> dz;
        backward(dmemory_next, dreadout, cache) -> dmemory, grads of this segment. They wrap the package's
        segment_forward and segment_backward. Every segment reads all sequences out (pooling "mean"), so dreadout = dz.
    Hint: nothing goes on after the last segment, so its dmemory_next is zeros of the shape of the memory. Add gradients
        with `total[name] = total[name] + grad`. The check counts forward's calls and how many caches are alive.
    In the package: rmaat_np.replay.amrb
    """
    raise NotImplementedError


def adamw_step(p, grad, m, v, step, lr, weight_decay):
    """08. One step of AdamW for one array: p, m and v after it.

    m = b1 m + (1 - b1) grad;  v = b2 v + (1 - b2) grad^2,  b1 = 0.9, b2 = 0.999
    p = p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + 1e-8) + weight_decay p),  t = step + 1
    How large is the first step of an entry, and what does it not depend on?

    Shapes: p, grad, m, v: all the same; step 0 for the first -> p, m, v
    In the package: rmaat_np.optim.adamw_step (for all arrays, after clipping)
    """
    raise NotImplementedError


def log_line(loss, grads, xp, to_host):
    """09. The two numbers of a log line, the loss and the norm of all gradients, with one wait for the device.

    norm = sqrt(the sum of the squares of all entries of all gradients)
    loss and the gradients are arrays on the device. xp has NumPy's functions for them. to_host(array) waits until the
    device has computed the array, and gives a NumPy array. float(array) and `if array` wait, too. Where does the time
    go that a wait costs?

    Shapes: loss (); grads: a dict of arrays of any shape -> a NumPy array of two numbers, loss and norm
    Hint: join what you want to know with xp.stack before you ask.
    In the package: rmaat_np.optim.global_norm, and rmaat_np/training/loop.py
    """
    raise NotImplementedError


def held_bytes(num_segments, cache, memory, method):
    """10. The most bytes that the caches and stored memory tokens of a sequence hold together at one moment.

    method "bptt" keeps the cache of every segment until the way back. "amrb" stores the memory tokens that enter a
    segment, before it runs, and drops a segment's cache before the next one is built.
    From how many segments on does AMRB hold less than half of BPTT's bytes, if a cache is 100 times a memory?

    Units: cache and memory are the bytes of one segment's cache and of its memory tokens -> a number of bytes
    In the package: rmaat_np.ledger.Ledger, which counts them
    """
    raise NotImplementedError


def class_scores(labels, answers, num_classes):
    """12. Recall, precision and F1 of every class, from the true classes of rows and the answers that a model gave.

    recall = right rows of the class / rows of the class;  precision = right rows of the class / answers of that class
    F1 = 2 recall precision / (recall + precision);  0 / 0 counts as 0
    5 of 100 rows are of class 1, and a model always answers 0. What are its accuracy and the mean F1 of both classes?

    Shapes: labels, answers (n,) ints, 0 .. num_classes - 1 -> recall, precision, F1: (num_classes,) each
    Hint: np.bincount(labels, minlength=num_classes) counts the rows of each class.
    Elsewhere: rmaat_np/training/scores.py, class_scores
    """
    raise NotImplementedError
