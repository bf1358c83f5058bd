"""The whole model: gradients at every switch, ragged batches, padding, and the smallest sizes."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.checks import CFG, CONFIGS, check_alone, check_model, check_same, ragged_batch, random_params

import rmaat_np as rn
from rmaat_np import step
from rmaat_np.errors import InputError


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_gradients(cfg):
    check_model(cfg)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_a_sequence_in_a_batch_is_what_it_is_alone(cfg):
    check_alone(cfg)


@pytest.mark.parametrize("name", ["default", "softmax", "mean", "pair"])
def test_padding_is_not_read_and_has_no_gradient(name):
    cfg = CONFIGS[name]
    params, (tokens, labels) = random_params(cfg), ragged_batch(cfg)
    logits = rn.predict(params, cfg, tokens)
    _, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels)
    assert not grads["embed.token"][0].any()
    params["embed.token"][0] = 1e3
    np.testing.assert_array_equal(rn.predict(params, cfg, tokens), logits)


@pytest.mark.parametrize("name", ["default", "softmax", "mean", "pair"])
def test_columns_of_nothing_but_padding(name):
    """Behind the longest sequence they change nothing; inside, the result is finite."""
    cfg = CONFIGS[name]
    params, (tokens, labels) = random_params(cfg, "float32"), ragged_batch(cfg)
    wider = np.concatenate([tokens, np.zeros(tokens.shape[:-1] + (4,), dtype=tokens.dtype)], axis=-1)
    check_same(rn.loss_and_grads(params, cfg, wider, labels), rn.loss_and_grads(params, cfg, tokens, labels))
    check_finite(cfg, np.where(np.arange(8) == 2, 0, tokens), labels)


def check_finite(cfg, tokens, labels, dtype="float32"):
    for method in step.METHODS:
        loss, grads, _ = rn.loss_and_grads(random_params(cfg, dtype), cfg, tokens, labels, method)
        assert np.isfinite(loss)
        assert all(np.isfinite(gradient).all() for gradient in grads.values())
    logits = rn.predict(random_params(cfg, dtype), cfg, tokens)
    assert logits.shape == (len(labels), cfg.num_classes) and np.isfinite(logits).all()


SMALLEST = {
    "one token": {},
    "segments of one token": {"segment_length": 1},
    "one segment": {"num_segments": 1},
    "no memory": {"num_memory": 0, "pooling": "mean"},
    "no memory, one head of width 1": {"num_memory": 0, "pooling": "mean", "d_model": 1, "num_heads": 1},
    "softmax, no memory": {"num_memory": 0, "pooling": "mean", "attention": "softmax"},
    "one memory token": {"num_memory": 1},
    "one layer": {"num_layers": 1},
    "pair": {"pair": True},
}


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("switches", SMALLEST.values(), ids=SMALLEST)
def test_the_smallest_sizes_are_finite(switches, length):
    cfg = replace(CFG, **switches)
    check_finite(cfg, np.ones((1, 2, length) if cfg.pair else (1, length), dtype=np.int64), np.array([0]))


@pytest.mark.parametrize("memory", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["astromorphic", "softmax"])
def test_a_segment_of_nothing_but_padding_between_two_others(kind, alpha, memory):
    cfg = replace(CFG, attention=kind, alpha=alpha, num_memory=memory, pooling="mean")
    check_finite(cfg, np.array([[1, 2, 3, 0, 0, 0, 4], [1, 2, 3, 0, 5, 0, 4]]), np.array([0, 1]))


@pytest.mark.parametrize("kind", ["astromorphic", "softmax"])
def test_without_memory_a_segment_of_nothing_but_padding_is_as_if_it_were_not_there(kind):
    """Nothing tells it apart, when segments have no embedding and nothing passes between them."""
    cfg = replace(CFG, attention=kind, num_memory=0, pooling="mean", segment_embedding=False)
    params = random_params(cfg)
    both = (rn.loss_and_grads(params, cfg, tokens, [0]) for tokens in ([[1, 2, 3, 0, 0, 0, 4]], [[1, 2, 3, 4]]))
    (loss, grads, _), (expected_loss, expected, _) = both
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    for name, gradient in expected.items():
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-10, atol=1e-14)


def test_no_sequence_is_too_long_for_its_factors():
    """512 segments in float32, where the shares of the first and the last segment differ by a factor of 20."""
    cfg = replace(CFG, segment_length=1, num_segments=512)
    check_finite(cfg, np.full((2, 512), 1), np.array([0, 1]))


def test_the_decays_of_heads_are_where_learning_starts():
    """Parameters are drawn alike, so the same numbers come out; only the learned decays have a gradient."""
    heads, learned = (replace(CFG, position_decay=mode) for mode in ("heads", "learned"))
    params, batch = rn.init_params(heads, dtype="float64"), ragged_batch(CFG)
    decays = {f"blocks.{layer}.attn.rel.log_decay": np.log([0.05, 0.05 * 2**4]) for layer in (0, 1)}
    assert rn.init_params(learned).keys() - params.keys() == decays.keys()
    check_same(rn.init_params(CFG, dtype="float64"), params)
    for name, array in rn.init_params(learned, dtype="float64").items():
        np.testing.assert_allclose(array, (params | decays)[name], rtol=1e-14)
    (loss, grads, _), (expected_loss, expected, _) = (
        rn.loss_and_grads(p, cfg, *batch) for p, cfg in ((params | decays, learned), (params, heads))
    )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-13)
    assert grads.keys() - expected.keys() == decays.keys() and all(grads[name].all() for name in decays)
    for name, gradient in expected.items():
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-10, atol=1e-14)


def test_one_head_with_its_own_decay_is_the_shared_decay():
    own, shared = (replace(CFG, num_heads=1, position_decay=mode) for mode in ("heads", "shared"))
    params, batch = random_params(shared), ragged_batch(shared)
    (loss, grads, _), (expected_loss, expected, _) = (rn.loss_and_grads(params, cfg, *batch) for cfg in (own, shared))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-13)
    for name, gradient in expected.items():
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("decay", ["shared", "heads", "learned"])
@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("astro", [True, False])
def test_what_tells_the_order_inside_a_segment(astro, embedding, decay):
    """The position embedding and H_astro do; a model without both is blind to it."""
    cfg = replace(CFG, position_embedding=embedding, use_astro=astro, position_decay=decay)
    params = random_params(cfg)
    assert ("embed.position" in params) is embedding
    one, other = (rn.predict(params, cfg, [[1, 2, 3, *second, 1, 2]]) for second in ([4, 5, 6], [6, 4, 5]))
    change = np.abs(one - other).max()
    assert change > 1e-6 if astro or embedding else change < 1e-12


def test_memory_starts_the_same_for_all_and_then_differs():
    params, (tokens, labels), stored = random_params(CFG), ragged_batch(CFG), []
    rn.loss_and_grads(params, CFG, tokens, labels, observer=lambda event: stored.append(event))
    memories = [event.array for event in stored if event.kind == "store"]
    assert [len(memory) for memory in memories] == [5, 3, 1]  # sequences that are live
    assert all((memory == params["memory.init"]).all() for memory in memories[0])
    assert np.ptp(memories[1], axis=0).min() > 1e-3


@pytest.mark.parametrize("options", [{"method": "tbptt"}, {"workers": 0}, {"replay_budget": -1}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        rn.loss_and_grads(random_params(CFG), CFG, *ragged_batch(CFG), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: params.pop("head.bias"), "params lacks parameter head.bias"),
        (lambda params: params.update(extra=params["head.bias"]), "params has a surplus parameter extra"),
        (lambda params: params.update({"head.bias": params["memory.init"]}), "head.bias has shape"),
        (lambda params: params.update({"head.bias": [0.0] * CFG.num_classes}), "head.bias has shape"),
        (lambda params: params.update({"head.bias": params["head.bias"].astype("float32")}), "head.bias is float32"),
        (lambda params: params.update({name: p.astype("float16") for name, p in params.items()}), "is float16"),
    ],
)
def test_parameters_of_another_model_are_refused(change, message):
    """Before, they gave wrong numbers without a word, or an error from deep inside."""
    params = rn.init_params(CFG, dtype="float64")
    change(params)
    tokens, labels = ragged_batch(CFG)
    for call in (lambda: rn.predict(params, CFG, tokens), lambda: rn.loss_and_grads(params, CFG, tokens, labels)):
        with pytest.raises(InputError, match=message):
            call()


def test_parameters_of_an_open_file_are_refused(tmp_path):
    np.savez(tmp_path / "params.npz", **rn.init_params(CFG))
    with np.load(tmp_path / "params.npz") as params, pytest.raises(InputError, match="dict"):
        rn.loss_and_grads(params, CFG, *ragged_batch(CFG))


@pytest.mark.parametrize("pair", [False, True])
def test_padding_on_the_left_is_refused(pair):
    """A model that learned from rows padded on the right reads such a row as another one."""
    cfg = replace(CFG, pair=pair)
    tokens = np.tile([1, 2, 3, 4], (3, 2, 1)) if pair else np.tile([1, 2, 3, 4], (3, 1))
    tokens[(1, 1) if pair else 1] = [0, 0, 1, 2]
    with pytest.raises(InputError, match="row 1 begins with padding"):
        rn.predict(random_params(cfg), cfg, tokens)


class Foreign:
    """An array of another library, as pandas and PyTorch have them: a dtype, a shape, and a way to NumPy."""

    def __init__(self, array):
        self._array = array
        self.dtype, self.shape = array.dtype, array.shape

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        Foreign,
        lambda array: array.astype(">i8"),
        lambda array: array.astype("uint16"),
        lambda array: np.asfortranarray(array),
    ],
    ids=["lists", "another library's", "big-endian", "uint16", "Fortran order"],
)
def test_arrays_of_others_are_read(convert):
    params, (tokens, labels) = random_params(CFG), ragged_batch(CFG)
    expected = rn.loss_and_grads(params, CFG, tokens, labels)
    check_same(rn.loss_and_grads(params, CFG, convert(tokens), convert(labels))[:2], expected[:2])


def rows_with(change, pair):
    """Four rows, the third of them changed (of a pair its second document). -> tokens"""
    tokens = np.tile([1, 2, 3], (4, 2, 1)) if pair else np.tile([1, 2, 3], (4, 1))
    change(tokens[2, 1] if pair else tokens[2])
    return tokens


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([1, CFG.vocab_size, 1], "row 2 has an id outside 0 to"),  # the smallest id that is none
        ([1, 1, -1], "row 2 has an id outside 0 to"),
        ([0, 0, 0], "row 2 is empty"),
        ([0, 1, 1], "row 2 begins with padding"),
    ],
)
def test_the_row_at_fault_is_named(value, named, pair):
    cfg = replace(CFG, pair=pair)
    tokens = rows_with(lambda row: row.__setitem__(slice(None), value), pair)
    with pytest.raises(InputError, match=named):
        rn.predict(random_params(cfg), cfg, tokens)


@pytest.mark.parametrize("pair", [False, True])
def test_the_row_that_is_too_long_is_named(pair):
    cfg = replace(CFG, pair=pair)
    tokens = np.zeros((4, 2, cfg.max_length + 1) if pair else (4, cfg.max_length + 1), dtype=int)
    tokens[..., :3] = rows_with(lambda row: None, pair)
    (tokens[2, 1] if pair else tokens[2])[:] = 1
    with pytest.raises(InputError, match=f"row 2 has {cfg.max_length + 1} tokens"):
        rn.predict(random_params(cfg), cfg, tokens)


@pytest.mark.parametrize("label", [CFG.num_classes, -1])
def test_the_label_at_fault_is_named(label):
    tokens = rows_with(lambda row: None, pair=False)
    with pytest.raises(InputError, match=f"row 2 is {label}"):
        rn.loss_and_grads(random_params(CFG), CFG, tokens, [0, CFG.num_classes - 1, label, label])


def test_the_defaults_of_drawn_parameters():
    """Seed 0, float32: who leaves them out gets what who names them gets."""
    check_same(rn.init_params(CFG), rn.init_params(CFG, seed=0, dtype="float32"))
