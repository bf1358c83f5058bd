"""Wrong versions of the code, each of which one of the shared checks must reject: what the tests are able to see.

A bug is an edit of one function's source. The check passes before it, and fails with it.
"""

import inspect
import sys
import textwrap
from functools import partial

import pytest
from helpers import attention_pairs, layers_pairs, memory_pairs
from helpers.checks import (
    CONFIGS,
    check_alone,
    check_gradients,
    check_masks,
    check_methods_equal,
    check_model,
    check_model_dtype,
    check_pair_dtype,
    check_pure,
    check_shards,
)
from helpers.dropout_checks import check_scale_and_mean
from helpers.optim_checks import check_adamw
from helpers.replay_checks import check_peaks

from rmaat_np import attention, dropout, layers, memory, model, optim, replay, segments, step

PAIRS = layers_pairs.PAIRS | attention_pairs.PAIRS | memory_pairs.PAIRS
ASTRO, ASTRO_HALF = "astromorphic mask astro feedback alpha 1.0", "astromorphic mask astro feedback alpha 0.5"


def gradients(name):
    return partial(check_gradients, PAIRS[name])


def whole(name, check=check_model, *arguments):
    return partial(check, CONFIGS[name], *arguments)


SCALE = partial(check_scale_and_mean, 0.3, "float64")
ALLOCATED = check_peaks
ADAMW = partial(check_adamw, 3.0, 0.1)
WEIGHTED = partial(check_shards, CONFIGS["default"], 2, class_weights=[0.5, 0.0, 3.0])
EQUAL = whole("dropout", check_methods_equal, "float64")

# what is wrong: function, its right code, the wrong code, the check that must reject it
BUGS = {
    "linear: bias summed over one axis only": (
        layers.linear_backward, "sum_rows(dout_rows)", "dout_rows[0]", gradients("linear"),
    ),
    "layer norm: mean term missing": (
        layers.layer_norm_backward, "dx -= dx @ xp.full((width, 1), 1 / width, dtype=dx.dtype)", "pass",
        gradients("layer norm"),
    ),
    "layer norm: variance term missing": (
        layers.layer_norm_backward, "dx -= xhat * along_xhat", "pass", gradients("layer norm"),
    ),
    "layer norm: gain missing": (
        layers.layer_norm_backward, "dout_rows * gain", "dout_rows * 1.0", gradients("layer norm"),
    ),
    "layer norm: backward writes into the cache": (
        layers.layer_norm_backward, "dx -= xhat * along_xhat", "xhat *= along_xhat; dx -= xhat",
        partial(check_pure, PAIRS["layer norm"]),
    ),
    "gelu: 3 of the cube's slope missing": (
        layers.gelu_backward, "6 * GELU_SLOPE", "2 * GELU_SLOPE", gradients("gelu"),
    ),
    "gelu: backward writes into dout": (
        layers.gelu_backward, "xp.subtract(1.0, s)", "xp.subtract(1.0, s, out=dout_rows)",
        partial(check_pure, PAIRS["gelu"]),
    ),
    "relu: slope 1 below 0": (layers.relu_backward, "> 0", "> -1", gradients("relu")),
    "embedding: repeated tokens counted once": (
        layers.embedding_backward, "return one_hot.astype(dout.dtype) @ dout_rows",
        "out = xp.zeros((V, D)); out[tokens] += dout_rows; return out", gradients("embedding"),
    ),
    "embedding: a large table's rows of absent tokens": (
        layers.embedding_backward, "dtable *= (starts[1:] > starts[:-1])[:, None]", "pass",
        gradients("embedding, large table"),
    ),
    "cross-entropy: weight missing": (
        layers.softmax_cross_entropy_backward, '(cache["weight"] * dloss)', "dloss", gradients("softmax cross-entropy"),
    ),
    "cross-entropy: class weights missing on the way back": (
        layers.softmax_cross_entropy_backward, 'dlogits *= cache["row_weights"][:, None]', "pass",
        gradients("softmax cross-entropy, weighted"),
    ),
    "class weights: of the batch's rows in place of the shard's": (
        segments.cut_shards, "class_weights[labels[examples]]", "class_weights[labels[: len(examples)]]", WEIGHTED,
    ),
    "phi: slope 1 everywhere": (attention.phi_backward, "du *= dphi", "du[...] = dphi", gradients("phi")),
    "phi: slope phi, without min": (
        attention.phi_backward, "backend.xp.ones(", "float('inf') * backend.xp.ones(", gradients("phi"),
    ),
    "attention: slope of phi(K), without min": (
        attention.astromorphic_attention_backward, "one = xp.ones(", "one = float('inf') * xp.ones(", gradients(ASTRO),
    ),
    "relative features: r missing": (
        attention.relative_features_backward, 'cache["decay"] @ ', "", gradients("relative features"),
    ),
    "relative features of heads: r missing": (
        attention.head_relative_features_backward, "xp.matmul(decay, dR_heads, out=_heads_of_rows(dw, scale))",
        "dw = dR.copy()", gradients("relative features of heads"),
    ),
    "relative features of heads: r missing in its own slope": (
        attention.head_relative_features_backward, "ddecay *= decay", "pass", gradients("relative features of heads"),
    ),
    "relative features of heads: distance missing": (
        attention.head_relative_features_backward, "ddecay *= _distance(w.shape[0], w.dtype)", "pass",
        gradients("relative features of heads"),
    ),
    "relative features of heads: slope of the logarithm missing": (
        attention.head_relative_features_backward, "dscale * scale", "dscale", gradients("relative features of heads"),
    ),
    "relative features of heads: gradient of the decays not handed on": (
        step._phi_r_backward, 'grads[f"{rel}.log_decay"] = dlog_decay', "pass", whole("learned decay"),
    ),
    "attention: 1/m missing in dH": (
        attention.astromorphic_attention_backward, "dH *= num_heads / width", "pass", gradients(ASTRO),
    ),
    "attention: gradient of the normaliser forgotten": (
        attention.astromorphic_attention_backward, 'dC *= cache["P"]', "dC *= 0.0", gradients(ASTRO),
    ),
    "attention: normaliser's path to the keys forgotten": (
        attention.astromorphic_attention_backward, "dphi_k += dg if", "dphi_k += 0.0 if", gradients(ASTRO),
    ),
    "attention: alpha missing": (
        attention.astromorphic_attention_backward, "dg * alpha *", "dg *", gradients(ASTRO_HALF),
    ),
    "attention: heads mixed in g": (
        attention.astromorphic_attention_backward, "(dG * E)", "dG", gradients(ASTRO),
    ),
    "attention: keys' gradient not masked": (
        attention.astromorphic_attention_backward, "dphi_k *= mask", "pass", gradients(ASTRO),
    ),
    "attention: values' gradient not masked": (
        attention.astromorphic_attention_backward, "dv *= mask", "pass", gradients(ASTRO),
    ),
    "attention: phi(R)'s gradient of one sequence": (
        attention.astromorphic_attention_backward, "dphi_k.sum(axis=0)", "dphi_k[0]", gradients(ASTRO),
    ),
    "attention: phi(R)'s gradient averaged": (
        attention.astromorphic_attention_backward, "dphi_k.sum(axis=0)", "dphi_k.mean(axis=0)", whole("default"),
    ),
    "phi(R): gradient of the first segment only": (
        replay.add_segment_grads, "    pairs += [",
        "    for layer in grads.phi_r:\n        layer[...] = 0\n    pairs += [", whole("default"),
    ),
    "phi(R): gradients of the layers mixed up": (
        model.segment_backward, "dphi_r.insert(0, layer_dphi_r)", "dphi_r.append(layer_dphi_r)", whole("default"),
    ),
    "attention layer: queries' path to x dropped": (
        model.attention_layer_backward, "dx[:, : dx_q.shape[1]] += dx_q", "pass", gradients("attention layer"),
    ),
    "softmax attention: row sum missing": (
        attention.softmax_attention_backward, "dscores -= ", "dscores -= 0.0 * ", gradients("softmax mask, 5 queries"),
    ),
    "softmax attention: 1/sqrt(m) missing": (
        attention.softmax_attention_backward, "dscores *= 1 / sqrt(width // num_heads)", "pass",
        gradients("softmax mask, 5 queries"),
    ),
    "block: residual dropped, pre": (
        model.block_backward, "dx[:, :num_queries] += dsum", "pass", gradients("block pre"),
    ),
    "block: residual dropped, post": (
        model.block_backward, "dnormed += dsum", "pass", gradients("block post"),
    ),
    "memory update: wrong factor for the old memory": (
        memory.memory_update_backward, "(1.0 - factor) *", "factor *", gradients("update integrate"),
    ),
    "memory update: factor missing": (
        memory.memory_update_backward, "dmemory, factor *", "dmemory, 1.0 *", gradients("update scale"),
    ),
    "gated update: gate's gradient dropped": (
        memory.gated_update_backward, "(dmemory_next * cache", "(0 * dmemory_next * cache", gradients("update learned"),
    ),
    "gated update: slope of sigma missing": (
        memory.gated_update_backward, "dg * g * (1.0 - g)", "dg", gradients("update learned"),
    ),
    "gated update: gate's path to the old memory dropped": (
        memory.gated_update_backward, "dmemory_next + dread[:, :, :D]", "dmemory_next", gradients("update learned"),
    ),
    "gated update: gate's path to the written memory dropped": (
        memory.gated_update_backward, "dmemory_next + dread[:, :, D:]", "dmemory_next", gradients("update learned"),
    ),
    "gated update: paths of the two memories mixed up": (
        memory.gated_update_forward, "concatenate([memory, written]", "concatenate([written, memory]",
        gradients("update learned"),
    ),
    "segment: path around the segment dropped": (
        model.segment_backward, "dmemory[: segment.num_continuing] += dmemory_kept", "pass",
        gradients("segment integrate"),
    ),
    "segment: path around the segment dropped, whole model": (
        model.segment_backward, "dmemory[: segment.num_continuing] += dmemory_kept", "pass", whole("online"),
    ),
    "segment: mean over memory tokens forgotten": (
        model._readout_backward, "dreadout[:, None] / M", "dreadout[:, None]", gradients("segment integrate"),
    ),
    "segment: wrong rows read out": (
        model.segment_forward, "written[going:].mean", "written[: len(written) - going].mean",
        gradients("segment integrate"),
    ),
    "segment: mask not applied to the readout's gradient": (
        model._readout_backward, "dout * segment.mask[:, M:]", "dout * 1.0", gradients("segment, mean"),
    ),
    "segment: memory cut off between segments": (
        model.segment_backward, "dmemory, dembedded = dx[:, :M],", "dmemory, dembedded = dx[:, :M] * 0,",
        whole("none"),
    ),
    "pair: sign of the difference": (
        model.pair_features_backward, "- ddifference", "+ ddifference", gradients("pair features"),
    ),
    "shard: other sequences read out than end": (
        segments.Shard.read_out, "self.num_active[t + 1] if self.cfg.pooling == \"memory\" else 0, self.num_active[t]",
        "self.num_active[t] - self.num_active[t + 1]", whole("default", check_alone),
    ),
    "shard: positions not unsorted on the way back": (
        replay.readout_loss, "dz[shard.positions] = ", "dz[...] = ", whole("pair"),
    ),
    "shard: positions not unsorted at all": (
        replay.readout_logits, "z[shard.positions]", "z", whole("pair", check_alone),
    ),
    "shard: weight of the shard, not of the batch": (
        segments.cut_shards, "1 / len(order)", "1 / len(examples)", whole("default", check_shards, 2),
    ),
    "shard: factors of the longest sequence": (
        segments._cut_sequences, "sequence_factors(int(total), cfg, step_key, int(which[b]))",
        "sequence_factors(int(totals.max()), cfg, step_key, int(which[b]))[:total]",
        whole("default", check_alone),
    ),
    "shard: padding not masked": (
        segments.Shard.segment, "if self.padded[t]", "if False", whole("default", check_alone),
    ),
    "mean over the longest length": (
        segments._cut_sequences, "(tokens != 0).sum(axis=1", "(tokens >= 0).sum(axis=1", whole("mean", check_alone),
    ),
    "gradient of the mean not divided by its count": (
        replay.readout_loss, "dz /= shard.token_counts", "pass", whole("mean"),
    ),
    "segments' gradients not added": (
        replay.add_all, "        total += addend", "        total[...] = addend", whole("default"),
    ),
    "position and segment embedding: no gradient": (
        model.segment_backward, "dplaces = dembedded.sum(axis=0)", "dplaces = 0 * dembedded.sum(axis=0)",
        whole("default"),
    ),
    "segment embedding: gradient to the first": (
        replay.add_segment_grads, "total = total[segment]", "total = total[0]", whole("default"),
    ),
    "first memory: gradient averaged": (
        replay.add_first_memory_grad, "dmemory.sum(axis=0)", "dmemory.mean(axis=0)", whole("default"),
    ),
    "AMRB: replays without dropout": (
        replay.amrb, "shard.segment(t), memory)\n            ledger",
        "__import__('dataclasses').replace(shard, step_key=None).segment(t), memory)\n            ledger", EQUAL,
    ),
    "AMRB: replays from a rounded memory": (
        replay.amrb, "memory = buffer.pop()", "memory = buffer.pop().astype('float16').astype('float64')", EQUAL,
    ),
    "AMRB: gradient of the memory cut off": (
        replay.amrb, "segment_backward(dmemory, ", "segment_backward(dmemory * 0, ", whole("default"),
    ),
    "AMRB: keeps every cache": (replay.amrb, "> budget:", "> 10**9:", ALLOCATED),
    "AMRB: a name keeps the last cache alive, forward": (
        replay.amrb, "memory, readout, kept[t] = segment", "memory, readout, kept[t] = same = segment", ALLOCATED,
    ),
    "AMRB: a name keeps the last cache alive, backward": (
        replay.amrb, "del cache, segment_grads, dphi_r", "del segment_grads, dphi_r", ALLOCATED,
    ),
    "dropout: key without the segment": (
        dropout.dropout_mask, "key.segment, key.layer", "key.layer", check_masks,
    ),
    "dropout: key without the layer": (dropout.dropout_mask, "key.layer, SITES", "SITES", check_masks),
    "dropout: key without the step": (dropout.dropout_mask, "key.step, ", "", check_masks),
    "dropout: key without the sequence": (
        dropout.dropout_mask, "(key.rows + ", "(key.rows * numpy.uint32(0) + ", check_masks,
    ),
    "dropout: key of the place in the shard": (
        segments._cut_sequences, "which.astype", "np.arange(len(which)).astype", whole("dropout", check_shards, 2),
    ),
    "dropout: backward draws another mask": (
        dropout.dropout_backward, 'dropout_mask(cache["dropout_key"]',
        'dropout_mask(__import__("dataclasses").replace(cache["dropout_key"], layer=1)', gradients("dropout"),
    ),
    "dropout: backward not scaled": (
        dropout.dropout_backward, "dout.dtype)", "dout.dtype).astype(bool)", gradients("mlp with dropout"),
    ),
    "dropout: rate not made up for": (
        dropout.dropout_mask, "mask *= 65536 / (65536 - keep_from)", "pass", SCALE,
    ),
    "AdamW: bias of the first moment": (optim.adamw_step, "BETA1 ** (step + 1)", "BETA1 ** (step + 2)", ADAMW),
    "AdamW: bias of the second moment": (optim.adamw_step, "1 - BETA2 ** (step + 1)", "1.0", ADAMW),
    "AdamW: gains and embeddings decay": (optim.adamw_step, 'name.endswith(".weight")', "True", ADAMW),
    "AdamW: clipped by each array's norm": (optim.global_norm, "squares.sum()", "squares.max()", ADAMW),
    "float64 inside layer norm": (
        layers.layer_norm_forward, "1 / width, dtype=x.dtype", "1 / width",
        partial(check_pair_dtype, PAIRS["layer norm"], "float32"),
    ),
    "float64 factors": (
        segments._cut_sequences, "len(which)), dtype=dtype", "len(which))",
        whole("default", check_model_dtype, "float32"),
    ),
}  # fmt: skip


def edited(function, old, new):
    """The function with one piece of its source replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__name__} no longer has exactly one {old!r}: bring this table up to date"
    made = {}
    exec(source.replace(old, new), function.__globals__, made)
    return made[function.__name__]


def replace_everywhere(monkeypatch, function, other):
    """Where it is defined, and in every module that has imported it by name."""
    owner, _, name = function.__qualname__.rpartition(".")
    if owner:
        monkeypatch.setattr(getattr(sys.modules[function.__module__], owner), name, other)
    for module in list(sys.modules.values()):
        if vars(module).get(name) is function:
            monkeypatch.setattr(module, name, other)


@pytest.mark.parametrize(("function", "right", "wrong", "check"), BUGS.values(), ids=BUGS)
def test_bug_is_rejected(function, right, wrong, check, monkeypatch):
    check()
    replace_everywhere(monkeypatch, function, edited(function, right, wrong))
    with pytest.raises(AssertionError):
        check()
