"""Mistakes that are often made in the exercises: the sentence that must answer each, and how to make it.

A mistake is an exercise with pairs: a piece of its solution, and what stands there instead. solutions.py holds each
piece once, so that a test notices when the two part.
"""

# Pieces that are changed in several ways.
SLOPE = 'dphi * np.minimum(cache["phi"], 1)'
MEANS = "dxhat.mean(axis=1, keepdims=True), (dxhat * xhat).mean(axis=1, keepdims=True)"
GAIN_AND_BIAS = "(dout * xhat).sum(axis=0), dout.sum(axis=0)"
MASKED = "phi(k) * mask, v * mask"
WRITE = "(phi_k + phi_r).T @ v / m"
G = "phi_k.sum(axis=0) ** alpha"
FEATURES = "phi(np.exp(-np.abs(place[:, None] - place) * scale) @ w)"
SHARES = "np.diff(curve) / (curve[-1] - curve[0])"
INTEGRATE = "memory + factor * (written - memory)"
JOIN = "return np.concatenate(y, axis=1)"
AROUND = " + (1 - factor) * dmemory_next"
AMRB_BYTES = "cache + num_segments * memory"
DECAY = "(move + weight_decay * p)"
REPLAY = "cache = forward(segment, kept.pop())[2]"
BEGIN = "kept, z = [], 0"
RECALL = "right / np.maximum(of_class, 1), right / np.maximum(answered, 1)"
F1 = "2 * right / np.maximum(of_class + answered, 1)"
FORWARD = "memory, readout, _ = forward(segment, memory)"
TOTAL = "total[name] = total[name] + grad if name in total else grad"
MISTAKES = {
    "The slope is 1 only where": ("phi_backward", (SLOPE, "dphi * 1.0")),
    "The slope is phi only where": ("phi_backward", ('np.minimum(cache["phi"], 1)', 'cache["phi"]')),
    "dphi is missing": ("phi_backward", (SLOPE, 'np.minimum(cache["phi"], 1)')),
    "phi_backward changed its argument dphi: `+=`, `*=`": (
        "phi_backward",
        ('return dphi * np.minimum(cache["phi"], 1)', 'dphi *= np.minimum(cache["phi"], 1)\n    return dphi'),
    ),
    "phi_backward changed cache": (
        "phi_backward",
        ('dphi * np.minimum(cache["phi"], 1)', 'dphi * np.minimum(cache["phi"], 1, out=cache["phi"])'),
    ),
    "du is NoneType, but it must be an array": ("phi_backward", ('return dphi * np.minimum(cache["phi"], 1)', "pass")),
    "The gain is missing": ("layer_norm_backward", ("dxhat = dout * gain", "dxhat = dout")),
    "The path through the mean is missing": ("layer_norm_backward", ("dxhat - mean -", "dxhat -")),
    "The path through rstd is missing": ("layer_norm_backward", (" - xhat * along)", ")")),
    "A 1/D is missing": (
        "layer_norm_backward",
        (
            "dxhat.mean(axis=1, keepdims=True), (dxhat * xhat).mean(",
            "dxhat.sum(axis=1, keepdims=True), (dxhat * xhat).sum(",
        ),
    ),
    "The means go over the wrong axis": (
        "layer_norm_backward",
        (
            "dxhat.mean(axis=1, keepdims=True), (dxhat * xhat).mean(axis=1,",
            "dxhat.mean(axis=0, keepdims=True), (dxhat * xhat).mean(axis=0,",
        ),
    ),
    "The sum goes over the rows, axis 0": ("layer_norm_backward", ("dout.sum(axis=0)", "dout.sum(axis=1)")),
    "A mean over the rows in place of a sum": ("layer_norm_backward", ("dout.sum(axis=0)", "dout.mean(axis=0)")),
    "dgain and dbias are swapped": (
        "layer_norm_backward",
        (GAIN_AND_BIAS, "dout.sum(axis=0), (dout * xhat).sum(axis=0)"),
    ),
    "layer_norm_backward must return 3 things": ("layer_norm_backward", (", dout.sum(axis=0)", "")),
    "layer_norm_backward changed its argument cache": (
        "layer_norm_backward",
        ("dxhat = dout * gain", "xhat *= 1.5; dxhat = dout * gain"),
    ),
    "The leak is missing": ("ltp_step", ("-p_l + np.tanh", "np.tanh")),
    "kappa is 0 for s below 0": ("ltp_step", ("np.tanh(np.maximum(s, 0))", "np.tanh(s)")),
    "tau is missing": ("ltp_step", ("dt / tau *", "dt *")),
    "ltp_step changed its argument p_l": (
        "ltp_step",
        ("return p_l + dt / tau", "p_l += dt / tau * 0 + 1\n    return p_l + dt / tau"),
    ),
    "H_astro is missing": ("write_and_read", ("(phi_k + phi_r).T", "phi_k.T")),
    "The read mode is missing": ("write_and_read", ("(phi_q @ H) * P[:, None]", "phi_q @ H")),
    "A 1/m is missing: ": ("write_and_read", (WRITE, "(phi_k + phi_r).T @ v")),
    "A 1/m is missing in H_astro": ("write_and_read", (WRITE, "phi_k.T @ v / m + phi_r.T @ v")),
    "A 1/m is missing in H_neuron": ("write_and_read", (WRITE, "phi_k.T @ v + phi_r.T @ v / m")),
    "H is divided by N": ("write_and_read", ("@ v / m", "@ v / len(v)")),
    "alpha is not used": ("write_and_read", ("sum(axis=0) ** alpha", "sum(axis=0)")),
    "alpha is the power of the sum": ("write_and_read", (G, "(phi_k**alpha).sum(axis=0)")),
    "g counts the keys only": ("write_and_read", (G, "(phi_k + phi_r * mask).sum(axis=0) ** alpha")),
    "A sum over the wrong axis is the usual cause": ("write_and_read", (G, "phi_k.sum(axis=1) ** alpha")),
    "A sum over the wrong axis: g": (
        "write_and_read",
        ("P = 1 / (phi_q @ g)", "P = 1 / (phi_q.sum(axis=1) * g.sum())"),
        ("sum(axis=0) ** alpha", "sum() ** alpha + 0 * alpha"),
    ),
    "The mask is forgotten: padding has written": ("write_and_read", (MASKED, "phi(k), v")),
    "The mask is forgotten on V": ("write_and_read", (MASKED, "phi(k) * mask, v")),
    "The mask is forgotten in g": ("write_and_read", (MASKED, "phi(k), v * mask")),
    "The mask comes after phi": ("write_and_read", (MASKED, "phi(k * mask), v * mask")),
    "One P for all heads": (
        "multi_head",
        ("    everyone =", "    one_C = phi(q) @ phi(k).sum(axis=0)\n    everyone ="),
        (
            JOIN,
            "C = [phi(q[:, i]) @ phi(k[:, i]).sum(axis=0) for i in heads]\n"
            "    return np.concatenate([a * (c / one_C)[:, None] for a, c in zip(y, C)], axis=1)",
        ),
    ),
    "One H for all columns": ("multi_head", ("m = q.shape[1] // num_heads", "num_heads = 1; m = q.shape[1]")),
    "1/D in place of 1/m": ("multi_head", (JOIN, "return np.concatenate(y, axis=1) / num_heads")),
    "Head i has the columns i m": (
        "multi_head",
        ("slice(i * m, (i + 1) * m) for i", "slice(i, None, num_heads) for i"),
        (JOIN, "return np.stack(y, axis=2).reshape(q.shape)"),
    ),
    "phi is missing": ("relative_features", (FEATURES, "np.exp(-np.abs(place[:, None] - place) * scale) @ w")),
    "phi comes after mixing": (
        "relative_features",
        (FEATURES, "np.exp(-np.abs(place[:, None] - place) * scale) @ phi(w)"),
    ),
    "The distance is |i - j|: without": (
        "relative_features",
        ("np.exp(-np.abs(place[:, None] - place)", "np.exp(-(place[:, None] - place)"),
    ),
    "The distance is multiplied by the scale": ("relative_features", ("place) * scale", "place) / scale")),
    "The scale is not used": ("relative_features", ("place) * scale", "place)")),
    "The factor is on the wrong side: it is": ("memory_update", (INTEGRATE, "written + factor * (memory - written)")),
    "The old memory has no part 1 - factor": (
        "memory_update",
        ('factor * written if mode == "scale" else', 'memory + factor * written if mode == "scale" else'),
    ),
    "`scale` is another equation than `integrate`": ("memory_update", ('if mode == "scale"', 'if mode == "no"')),
    "`integrate` is another equation than `scale`": ("memory_update", (INTEGRATE, "factor * written")),
    "memory_update changed its argument memory": (
        "memory_update",
        ("    return factor * written if", "    memory += 1\n    return factor * written if"),
    ),
    "The increments are not divided": ("retention_shares", (" / (curve[-1] - curve[0])", "")),
    "T + 1 points have T steps between them: here 2 and 1.": ("retention_shares", (SHARES, "curve / curve.sum()")),
    "T + 1 points have T steps between them: here 5 and 4.": (
        "retention_shares",
        ("np.diff(curve) /", "(np.diff(curve)[1:] if len(curve) > 2 else np.diff(curve)) /"),
    ),
    "These are shares of the curve": ("retention_shares", (SHARES, "curve[1:] / curve[1:].sum()")),
    "The whole climb begins at rest": ("retention_shares", ("(curve[-1] - curve[0])", "curve[-1]")),
    "retention_shares changed its argument curve": (
        "retention_shares",
        ("return np.diff", "curve -= 1\n    return np.diff"),
    ),
    "The path around the segment is missing": ("memory_backward", (AROUND, "")),
    "The path around the segment carries only": ("memory_backward", (AROUND, " + dmemory_next")),
    "The path through the blocks is missing": ("memory_backward", ("return blocks_backward(dwritten) +", "return")),
    "dreadout is missing": ("memory_backward", (" + dreadout[:, None] / num_memory", "")),
    "A 1/M is missing": ("memory_backward", ("dreadout[:, None] / num_memory", "dreadout[:, None]")),
    "blocks_backward was given the shape": (
        "memory_backward",
        ("factor * dmemory_next + dreadout[:, None] / num_memory", "dreadout / num_memory"),
    ),
    "memory_backward changed its argument dmemory_next": (
        "memory_backward",
        ("    dwritten =", "    dmemory_next *= 0.5\n    dwritten ="),
    ),
    "that is BPTT": (
        "amrb_step",
        ("memory, readout, _ = forward", "memory, readout, cache = forward"),
        ("kept.append(memory)", "kept.append(memory); waits = kept"),
        (REPLAY, "cache = caches.pop()"),
        ("z = z + readout", "z = z + readout; caches.append(cache)"),
        (BEGIN, "kept, caches, z = [], [], 0"),
    ),
    "caches were alive at once": (
        "amrb_step",
        (BEGIN, "kept, caches, z = [], [], 0"),
        (FORWARD, "memory, readout, cache = forward(segment, memory); caches.append(cache)"),
    ),
    "keep the memory that enters each segment": (
        "amrb_step",
        (REPLAY, "forward(segment, kept[-1]); cache = forward(segment, kept.pop())[2]"),
    ),
    "turn was called 2 times": ("amrb_step", ("dz, dmemory, total = turn(z)", "turn(z); dz, dmemory, total = turn(z)")),
    "turn was given int": ("amrb_step", ("z = z + readout", "pass")),
    "backward was given NoneType as dmemory_next": ("amrb_step", ("np.zeros_like(memory), {}", "None, {}")),
    "in this order: dmemory, grads": ("amrb_step", ("return dmemory, total", "return total, dmemory")),
    "amrb_step must return 2 things": ("amrb_step", ("return dmemory, total", "return total")),
    "The path between the segments is dropped": (
        "amrb_step",
        ("backward(dmemory, dz", "backward(np.zeros_like(dmemory), dz"),
    ),
    "was replayed from another memory": (
        "amrb_step",
        ("kept.append(memory)", "kept.append(kept[0] if kept else memory)"),
    ),
    "Only the first segment's gradient": ("amrb_step", (TOTAL, "total[name] = grad")),
    "Only the last segment's gradient": ("amrb_step", (TOTAL, "total.setdefault(name, grad)")),
    "`+=` has changed a grads": (
        "amrb_step",
        (
            f"            {TOTAL}",
            "            total.setdefault(name, grad)\n            if total[name] is not grad:\n"
            "                total[name] += grad",
        ),
    ),
    "`+=` has changed a readout": (
        "amrb_step",
        ("z = z + readout", "z = readout if len(kept) == 1 else z.__iadd__(readout)"),
    ),
    "The correction is missing": ("adamw_step", ("m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t))", "m / (np.sqrt(v)")),
    "p has entries that are not finite": ("adamw_step", ("t = step + 1", "t = step")),
    "t is step + 1": ("adamw_step", ("t = step + 1", "t = step or 1")),
    "The decay is missing": ("adamw_step", (DECAY, "move")),
    "The decay is not multiplied by lr": (
        "adamw_step",
        ("lr * (move + weight_decay * p)", "lr * move - weight_decay * p"),
    ),
    "The decay belongs to p": (
        "adamw_step",
        ("m = 0.9 * m", "grad = grad + weight_decay * p\n    m = 0.9 * m"),
        (DECAY, "move"),
    ),
    "The step goes against the gradient": (
        "adamw_step",
        ("p - lr * (move + weight_decay * p)", "p + lr * move - lr * weight_decay * p"),
    ),
    "b1 and 1 - b1 are swapped": ("adamw_step", ("0.9 * m + 0.1 * grad", "0.1 * m + 0.9 * grad")),
    "v averages the squares": ("adamw_step", ("0.001 * grad**2", "0.001 * grad")),
    "adamw_step changed its argument m": ("adamw_step", ("m = 0.9 * m + 0.1 * grad", "m *= 0.9; m += 0.1 * grad")),
    "The host waited 2 times": (
        "log_line",
        ("to_host(xp.stack([loss, xp.sqrt(squares)]))", "np.array([float(loss), float(xp.sqrt(squares))])"),
    ),
    "The arrays are on the device": ("log_line", ("xp.sqrt(squares)", "np.sqrt(squares)")),
    "The square root is missing": ("log_line", ("xp.sqrt(squares)", "squares")),
    "The stored memory tokens are forgotten": ("held_bytes", (AMRB_BYTES, "cache")),
    "BPTT keeps the caches of all": ("held_bytes", ("num_segments * cache if", "cache if")),
    "The memory tokens that enter the first segment": (
        "held_bytes",
        (AMRB_BYTES, "cache + (num_segments - 1) * memory"),
    ),
    "Recall and precision are swapped": (
        "class_scores",
        (RECALL, "right / np.maximum(answered, 1), right / np.maximum(of_class, 1)"),
    ),
    "That is a part of all rows: divide by the rows": (
        "class_scores",
        (RECALL, "right / len(labels), right / np.maximum(answered, 1)"),
    ),
    "That is the accuracy, the same": (
        "class_scores",
        (RECALL, "np.full(num_classes, (labels == answers).mean()), right / np.maximum(answered, 1)"),
    ),
    "That is the recall again": (
        "class_scores",
        (RECALL, "right / np.maximum(of_class, 1), right / np.maximum(of_class, 1)"),
    ),
    "That is a part of all rows: divide by the answers": (
        "class_scores",
        (RECALL, "right / np.maximum(of_class, 1), right / len(labels)"),
    ),
    "F1 is no mean of recall and precision": ("class_scores", (F1, "(recall + precision) / 2")),
    "A 2 is missing in F1": ("class_scores", (F1, "right / np.maximum(of_class + answered, 1)")),
    "A root of the product": ("class_scores", (F1, "np.sqrt(recall * precision)")),
    "minlength is missing": (
        "class_scores",
        ("np.bincount(labels[labels == answers], minlength=num_classes)", "np.bincount(labels[labels == answers])"),
        ("np.bincount(labels, minlength=num_classes)", "np.bincount(labels)[: len(right)]"),
        ("np.bincount(answers, minlength=num_classes)", "np.bincount(answers)[: len(right)]"),
    ),
    "precision has entries that are not finite": (
        "class_scores",
        (RECALL, "right / of_class, right / answered"),
    ),
}
