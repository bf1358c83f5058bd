"""The checks that the tests share. Each raises AssertionError; test_seeded_bugs.py shows that each can."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace

import numpy as np

import rmaat_np as rn
from rmaat_np import backend, dropout, segments, step
from rmaat_np.gradcheck import directional_derivative, numerical_gradient, relative_error
from rmaat_np.optim import adamw_init, adamw_step

CFG = rn.Config(
    vocab_size=7, num_classes=3, d_model=4, num_heads=2, d_ff=5, segment_length=3, num_segments=3, num_memory=2
)
SWITCHES = {
    "default": {},
    "softmax": {"attention": "softmax"},
    "no astro": {"use_astro": False},
    "no feedback": {"use_feedback": False},
    "alpha": {"alpha": 0.5},
    "decay of each head": {"position_decay": "heads"},
    "learned decay": {"position_decay": "learned"},
    "post": {"norm": "post"},
    "scale": {"retention": "scale"},
    "online": {"retention": "online"},
    "none": {"retention": "none"},
    "learned": {"retention": "learned"},
    "learned mean": {"retention": "learned", "pooling": "mean"},
    "mean": {"pooling": "mean"},
    "no memory": {"pooling": "mean", "num_memory": 0},
    "no segment embedding": {"segment_embedding": False},
    "no position embedding": {"position_embedding": False},
    "order by astrocytes alone": {
        "position_decay": "learned",
        "position_embedding": False,
        "segment_embedding": False,
        "pooling": "mean",
    },  # fmt: skip
    "one segment": {"num_segments": 1},
    "pair": {"pair": True},
    "pair mean": {"pair": True, "pooling": "mean", "attention": "softmax"},
    "horizon": {"retention": "learned", "retention_horizon": 64},
    "horizon pair": {"retention_horizon": 64, "pair": True},
    "dropout": {"dropout": 0.3},
    "dropout post pair": {"dropout": 0.3, "norm": "post", "pair": True},
}
CONFIGS = {name: replace(CFG, **switches) for name, switches in SWITCHES.items()}
FLOOR = 3e-10
KEY = dropout.DropoutKey(rate=0.3, seed=1, step=2, segment=1, rows=np.arange(2, dtype=np.uint32))


@dataclass(frozen=True)
class Pair:
    """A forward/backward pair with the inputs that it is differentiated by.

    forward(inputs) -> outs, a tuple of arrays, and the cache; backward(douts, cache) -> the inputs' gradients by name.
    """

    inputs: dict
    forward: Callable
    backward: Callable


def pair_of(module, name, inputs, split=None, **options) -> Pair:
    """The Pair of name_forward and name_backward, looked up anew at each call, so that a test can replace one.

    Options that are masks or float64 arrays take the inputs' dtype. split: names what backward returns, where that is
    not one gradient per input, in the inputs' order.
    """

    def forward(inputs):
        dtype = next(iter(inputs.values())).dtype
        cast = {k: o.astype(dtype) if getattr(o, "dtype", None) in (bool, float) else o for k, o in options.items()}
        cast = {k: on_device(o) for k, o in cast.items()}
        out, cache = getattr(module, f"{name}_forward")(**inputs, **cast)
        return (out,), cache

    def backward(douts, cache):
        found = getattr(module, f"{name}_backward")(*douts, cache)
        if split is not None:
            return split(*found)
        return dict(zip(inputs, found if isinstance(found, tuple) else (found,), strict=True))

    return Pair(inputs, forward, backward)


def on_device(option):
    """An option of a pair, its arrays on the active backend."""
    if isinstance(option, dropout.DropoutKey):
        return replace(option, rows=backend.to_device(option.rows))
    return backend.to_device(option) if isinstance(option, np.ndarray) else option


def run_pair(pair, dtype, douts=None):
    """A pair on the active backend. -> outs and gradients as host arrays, None left out; douts, random if not given."""
    outs, cache = pair.forward({name: backend.to_device(x.astype(dtype)) for name, x in pair.inputs.items()})
    douts = random_like(outs) if douts is None else douts
    grads = pair.backward(tuple(backend.to_device(dout) for dout in douts), cache)
    results = [*outs, *(grads[name] for name in sorted(grads) if grads[name] is not None)]
    return [backend.to_host(result) for result in results], douts


def check_close(results, expected, bound):
    """Same shapes and dtypes, and equal up to `bound` in the max norm, relative to the largest number of an array."""
    for got, wanted in zip(results, expected, strict=True):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        if got.size:
            assert np.abs(got - wanted).max() <= bound * max(np.abs(wanted).max(), 1e-3)


def normal(**shapes) -> dict:
    """A standard normal float64 array of each shape."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def random_params(cfg, dtype="float64") -> dict:
    """Initial parameters, moved so that no bias is 0 and no gain 1: those values hide wrong gradients. On the host."""
    rng = np.random.default_rng(1)
    params = {name: backend.to_host(p) for name, p in rn.init_params(cfg, seed=0, dtype=dtype).items()}
    return {name: p + 0.2 * rng.standard_normal(p.shape).astype(dtype) for name, p in params.items()}


def ragged_batch(cfg):
    """Sequences of 3, 1, 2, 1, 2 segments, cut to fit: a short last one, padding behind and inside. -> and labels."""
    rng = np.random.default_rng(2)
    lengths = np.minimum([8, 1, 5, 3, 6], cfg.max_length)
    if cfg.pair:
        lengths = np.stack([lengths, lengths[::-1]], axis=1)
    tokens = rng.integers(1, cfg.vocab_size, lengths.shape + (8,))[..., : cfg.max_length]
    tokens[(np.arange(tokens.shape[-1]) >= lengths[..., None])] = 0
    tokens[..., 1][lengths > 2] = 0
    return tokens, rng.integers(0, cfg.num_classes, len(tokens))


def run_step(cfg, method="amrb", params=None, **options):
    """loss_and_grads on the ragged batch, with dropout's seed and step given."""
    params = random_params(cfg) if params is None else params
    return rn.loss_and_grads(params, cfg, *ragged_batch(cfg), method, seed=3, step=5, **options)


def leaves(tree):
    """All arrays and other values of nested dicts, lists, tuples and dataclasses."""
    if is_dataclass(tree):
        tree = vars(tree)
    if isinstance(tree, dict):
        tree = list(tree.values())
    if not isinstance(tree, list | tuple):
        return [tree]
    return [leaf for entry in tree for leaf in leaves(entry)]


def check_same(tree, expected):
    """Equal bit for bit, in the same structure."""
    for leaf, wanted in zip(leaves(tree), leaves(expected), strict=True):
        np.testing.assert_array_equal(leaf, wanted, strict=True)


def random_like(outs):
    rng = np.random.default_rng(3)
    return tuple(rng.standard_normal(np.shape(out)).astype(out.dtype) for out in outs)


def check_gradients(pair: Pair):
    """Every element of every input against central differences, for a random dout: 1e-6 in the max norm."""
    outs, cache = pair.forward(pair.inputs)
    douts = random_like(outs)
    grads = pair.backward(douts, cache)
    assert grads.keys() == pair.inputs.keys()
    for name, x in pair.inputs.items():

        def loss(moved, name=name):
            moved_outs, _ = pair.forward(pair.inputs | {name: moved})
            return sum(np.vdot(dout, out) for dout, out in zip(douts, moved_outs, strict=True))

        gradient = np.zeros_like(x) if grads[name] is None else grads[name]
        assert gradient.shape == x.shape
        error = relative_error(gradient, numerical_gradient(loss, x))
        assert error <= 1e-6, f"{name}: relative error {error:.1e}"


def check_pure(pair: Pair):
    """Inputs, dout, cache and earlier results stay as they were; running again gives the same."""
    inputs = copy.deepcopy(pair.inputs)
    outs, cache = pair.forward(inputs)
    douts = random_like(outs)
    before = copy.deepcopy((outs, douts, cache))
    first = pair.backward(douts, cache)
    kept = copy.deepcopy(first)
    check_same((outs, douts, cache), before)
    check_same(pair.backward(douts, cache), kept)
    check_same(pair.forward(inputs), (before[0], before[2]))
    check_same(first, kept)
    check_same(inputs, pair.inputs)


def check_pair_dtype(pair: Pair, dtype):
    """Results, gradients and cache have the dtype of the inputs."""
    inputs = {name: x.astype(dtype) for name, x in pair.inputs.items()}
    outs, cache = pair.forward(inputs)
    grads = pair.backward(random_like(outs), cache)
    for leaf in leaves((outs, cache, grads)):
        if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind == "f":
            assert leaf.dtype == dtype


CHECKS = {"gradients": check_gradients, "purity": check_pure}


def directions_of(params, rng):
    """3 unit directions through all parameters; for each parameter one through all of it and one through one entry."""
    everything = [{name: rng.standard_normal(p.shape) for name, p in params.items()} for _ in range(3)]
    directions = everything + [{name: d} for name, d in everything[0].items()]
    for name, p in params.items():
        entry = np.zeros(p.size)
        entry[rng.integers(p.size)] = 1.0
        directions.append({name: entry.reshape(p.shape)})
    for direction in directions:
        length = np.sqrt(sum((d**2).sum() for d in direction.values()))
        yield {name: d / length for name, d in direction.items()}


def check_model(cfg, **options):
    """Both methods' gradients of the whole model against directional derivatives: 1e-5. options: of loss_and_grads

    The floor is what central differences cannot resolve: the loss is rounded to about 1e-15, and 1e-15 / 2h is 5e-11.
    A derivative that is 0, as for the key's bias in softmax attention, comes out as that.
    """
    params = random_params(cfg)
    both = [run_step(cfg, method, params, **options)[1] for method in step.METHODS]
    for grads in both:
        assert grads.keys() == params.keys()
        assert all(grads[name].shape == p.shape for name, p in params.items())
    for direction in directions_of(params, np.random.default_rng(4)):
        numeric = directional_derivative(lambda moved: run_step(cfg, params=moved, **options)[0], params, direction)
        for grads in both:
            analytic = sum(np.vdot(grads[name], d) for name, d in direction.items())
            bound = 1e-5 * max(abs(analytic), abs(numeric)) + FLOOR
            assert abs(analytic - numeric) <= bound, f"{list(direction)}: {analytic} is not {numeric}"


def check_methods_equal(cfg, dtype, **options):
    """AMRB's loss and gradients equal BPTT's bit for bit. options: of loss_and_grads"""
    amrb, bptt = (run_step(cfg, method, random_params(cfg, dtype), **options) for method in ("amrb", "bptt"))
    check_same(amrb[0], bptt[0])
    assert amrb[1].keys() == bptt[1].keys()
    check_same(amrb[1], {name: bptt[1][name] for name in amrb[1]})


def check_alone(cfg):
    """A sequence in a ragged batch is what it is alone, without padding behind it: logits, and the mean loss."""
    params, (tokens, labels) = random_params(cfg), ragged_batch(cfg)
    logits = rn.predict(params, cfg, tokens)
    log_likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for row, expected in zip(tokens, log_likelihood, strict=True):
        row = row[None, ..., : segments.sequence_lengths(np.atleast_2d(row)).max()]
        for label in range(cfg.num_classes):
            loss, _, stats = rn.loss_and_grads(params, cfg, row, np.array([label]))
            np.testing.assert_allclose(loss, -expected[label], rtol=1e-12)
            assert stats["accuracy"] == (expected.argmax() == label)
    loss, _, stats = rn.loss_and_grads(params, cfg, tokens, labels)
    np.testing.assert_allclose(loss, -log_likelihood[np.arange(len(labels)), labels].mean(), rtol=1e-12)
    assert stats["accuracy"] == (logits.argmax(axis=1) == labels).mean()


def check_shards(cfg, size, **options):
    """Shards of `size` examples give what one shard gives, up to rounding; dropout masks included."""
    whole = run_step(cfg, **options)
    before, segments.ROWS_PER_SHARD = segments.ROWS_PER_SHARD, rows_per_shard(cfg, size)
    try:
        cut = run_step(cfg, **options)
    finally:
        segments.ROWS_PER_SHARD = before
    np.testing.assert_allclose(cut[0], whole[0], rtol=1e-12)
    for name, expected in whole[1].items():
        assert relative_error(cut[1][name], expected) <= 1e-12
    assert cut[2]["accuracy"] == whole[2]["accuracy"]


def rows_per_shard(cfg, size):
    """The ROWS_PER_SHARD that makes shards of `size` examples, for a d_model of at most 64."""
    return size * (cfg.num_memory + cfg.segment_length) * (1 + cfg.pair)


def check_model_dtype(cfg, dtype):
    """Loss, gradients, memory, logits, and parameters after a step of AdamW have the parameters' dtype."""
    params, held = random_params(cfg, dtype), []
    for method in step.METHODS:
        loss, grads, _ = run_step(cfg, method, params, observer=held.append)
        state = adamw_init(params)
        norm = adamw_step(params, grads, state, 0, 1e-3)
        logits = rn.predict(params, cfg, ragged_batch(cfg)[0])
        for leaf in leaves([loss, grads, state, norm, params, logits]):
            assert leaf.dtype == dtype
    arrays = [event.array for event in held if event.array is not None]
    assert arrays and all(array.dtype == dtype for array in arrays)


def check_masks(rate=0.3, size=20000):
    """Masks of keys that differ in one part share no more than chance has it: within 5 standard deviations."""
    base = {"seed": 7, "step": 11, "segment": 2, "layer": 1, "site": "attention", "row": 3}
    others = [{}, {"seed": 8}, {"seed": 7 + 2**32}, {"step": 12}, {"segment": 3}, {"layer": 0}, {"layer": 2}]
    others += [{"site": "feed_forward"}, {"site": "embedding"}, {"row": 4}, {"row": 3 + 2**16}, {"seed": 11, "step": 7}]
    kept = [mask_of(base | other, rate, size)[0] > 0 for other in others]
    kept += [np.roll(kept[0], shift) for shift in (1, 2)]  # two elements share one hash
    equal = rate**2 + (1 - rate) ** 2
    for i, mask in enumerate(kept):
        assert abs(mask.mean() - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / size)
        for other in kept[:i]:
            assert abs((mask == other).mean() - equal) <= 5 * np.sqrt(equal * (1 - equal) / size)


def mask_of(part, rate, size, dtype=np.float64):
    """The mask (1, size) of one sequence."""
    rows = np.array([part["row"]], dtype=np.uint32)
    key = dropout.DropoutKey(rate, part["seed"], part["step"], part["segment"], rows, part["layer"])
    return dropout.dropout_mask(key, part["site"], (1, size), dtype)
