"""The whole model against PyTorch's autograd: an independent forward, and gradients that no hand wrote."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.checks import random_params

import rmaat_np as rn

torch = pytest.importorskip("torch")
from rmaat_np.benchmark import torch_model  # noqa: E402

CFG = rn.Config(
    vocab_size=16, num_classes=10, d_model=16, num_heads=4, d_ff=24, segment_length=6, num_segments=4, num_memory=3
)
SWITCHES = [
    {},
    {"attention": "softmax"},
    {"attention": "softmax", "pooling": "mean", "norm": "post"},
    {"attention": "softmax", "pooling": "mean", "num_memory": 0},
    {"use_astro": False},
    {"use_feedback": False},
    {"use_astro": False, "use_feedback": False, "norm": "post", "pooling": "mean"},
    {"alpha": 0.5},
    {"alpha": 2.0, "use_astro": False, "num_heads": 2},
    {"position_scale": 0.3},
    {"position_decay": "heads"},
    {"position_decay": "heads", "position_scale": 0.3, "num_heads": 2, "pair": True},
    {"position_decay": "learned"},
    {"position_decay": "learned", "position_embedding": False, "pooling": "mean", "norm": "post"},
    {"position_embedding": False},
    {"position_embedding": False, "segment_embedding": False},
    {"norm": "post"},
    {"norm": "post", "num_layers": 1, "retention": "none"},
    {"retention": "scale"},
    {"retention": "online"},
    {"retention": "online", "pooling": "mean", "pair": True},
    {"retention": "none"},
    {"retention": "learned"},
    {"retention": "learned", "pooling": "mean", "pair": True},
    {"pooling": "mean"},
    {"segment_embedding": False},
    {"num_memory": 0, "pooling": "mean"},
    {"num_memory": 0, "pooling": "mean", "num_segments": 1, "segment_length": 24},
    {"pair": True},
    {"pair": True, "attention": "softmax", "norm": "post"},
    {"num_layers": 3, "num_heads": 1},
]
SHAPES = ("full", "partial", "ragged")


@pytest.fixture(autouse=True)
def one_thread():
    """Arrays this small are slower on more threads, by far where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_batch(cfg, shape):
    """Tokens and labels: 24 tokens each, 15 tokens each (no multiple of L), or of many lengths with padding inside.

    The ragged ones: 21, 13, 3, 20 (one padding inside), 19 (a whole segment of padding inside) of 22 columns.
    Pairs are turned round, so that the two documents of a row differ in length.
    """
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 16, (5, {"full": 24, "partial": 15, "ragged": 22}[shape]))
    if shape == "ragged":
        tokens[np.arange(22) >= np.array([21, 13, 3, 20, 19])[:, None]] = 0
        tokens[3, 2] = tokens[4, 6:12] = 0
    return np.stack([tokens, tokens[::-1]], axis=1) if cfg.pair else tokens, rng.integers(0, 10, 5)


def torch_step(params, cfg, tokens, labels, **options):
    """Loss, and autograd's gradients as arrays; None there means that the loss does not depend on it."""
    theirs = torch_model.to_torch(params)
    loss = torch_model.loss(theirs, cfg, torch.as_tensor(tokens), torch.as_tensor(labels), **options)
    loss.backward()
    return loss.item(), {name: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for name, p in theirs.items()}


def torch_logits(params, cfg, tokens):
    theirs = torch_model.to_torch(params, requires_grad=False)
    return torch_model.logits(theirs, cfg, torch.as_tensor(tokens)).numpy()


@pytest.mark.parametrize("method", ["amrb", "bptt"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_loss_and_gradients_agree_with_autograd(switches, shape, method):
    cfg = replace(CFG, **switches)
    params, (tokens, labels) = random_params(cfg), make_batch(cfg, shape)
    loss, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, method=method)
    their_loss, their_grads = torch_step(params, cfg, tokens, labels)
    assert abs(loss - their_loss) < 1e-12
    assert grads.keys() == their_grads.keys()
    for name, expected in their_grads.items():
        assert np.abs(grads[name] - expected).max() <= 1e-8 * np.abs(expected).max(), name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("switches", [{}, {"pooling": "mean", "norm": "post"}, {"pair": True}], ids=str)
def test_weighted_loss_and_gradients_agree_with_autograd(switches, shape):
    """PyTorch's `weight`, with the sum divided by the rows as ours is, and not by the rows' weights."""
    cfg = replace(CFG, **switches)
    params, (tokens, labels) = random_params(cfg), make_batch(cfg, shape)
    weights = np.linspace(0, 3, cfg.num_classes)
    loss, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, class_weights=weights)
    theirs = torch_model.to_torch(params)
    logits, options = torch_model.logits(theirs, cfg, torch.as_tensor(tokens)), {"weight": torch.as_tensor(weights)}
    summed = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels), reduction="sum", **options)
    (summed / len(labels)).backward()
    assert abs(loss - summed.item() / len(labels)) < 1e-12
    for name, p in theirs.items():
        expected = np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        assert np.abs(grads[name] - expected).max() <= 1e-8 * np.abs(expected).max(), name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_logits_agree(switches, shape):
    cfg = replace(CFG, **switches)
    params, (tokens, _) = random_params(cfg), make_batch(cfg, shape)
    np.testing.assert_allclose(
        rn.predict(params, cfg, tokens), torch_logits(params, cfg, tokens), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_segment_checkpoints_change_no_gradient(switches, shape):
    cfg = replace(CFG, **switches)
    params, batch = random_params(cfg), make_batch(cfg, shape)
    loss, grads = torch_step(params, cfg, *batch)
    checkpointed_loss, checkpointed = torch_step(params, cfg, *batch, checkpoint=True)
    assert checkpointed_loss == loss
    for name, grad in grads.items():
        np.testing.assert_array_equal(checkpointed[name], grad, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_rows_that_nothing_reads_change_no_gradient(switches, shape):
    cfg = replace(CFG, **switches)
    params, batch = random_params(cfg), make_batch(cfg, shape)
    _, grads = torch_step(params, cfg, *batch)
    for name, skipped in torch_step(params, cfg, *batch, skip_unread=True)[1].items():
        np.testing.assert_allclose(skipped, grads[name], rtol=0, atol=1e-10 * np.abs(grads[name]).max())


@pytest.mark.parametrize("switches", [s for s in SWITCHES if "pair" not in s], ids=str)
def test_reference_reads_a_ragged_batch_as_each_sequence_alone(switches):
    cfg = replace(CFG, **switches)
    params, (tokens, _) = random_params(cfg), make_batch(cfg, "ragged")
    alone = [torch_logits(params, cfg, row[None, : np.flatnonzero(row)[-1] + 1])[0] for row in tokens]
    np.testing.assert_allclose(torch_logits(params, cfg, tokens), alone, rtol=1e-9, atol=1e-12)


def test_reference_refuses_dropout_and_empty_sequences():
    params, (tokens, _) = random_params(CFG), make_batch(CFG, "ragged")
    with pytest.raises(rn.errors.InputError, match="dropout is 0.1"):
        torch_logits(params, replace(CFG, dropout=0.1), tokens)
    with pytest.raises(rn.errors.InputError, match="T is 0"):
        torch_logits(params, CFG, np.zeros_like(tokens))


def test_missing_pytorch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "rmaat_np.benchmark.torch_model")
    with pytest.raises(rn.errors.InputError, match="pip install torch"):
        importlib.import_module("rmaat_np.benchmark.torch_model")


@pytest.mark.parametrize(
    "switches", [{}, {"attention": "softmax", "pooling": "mean"}, {"pair": True}, {"position_decay": "learned"}]
)
def test_torch_model_takes_over_the_arrays(switches):
    """The module's state_dict has our names, and its logits are ours in float32."""
    cfg = replace(CFG, **switches)
    params = rn.init_params(cfg, seed=3)
    module = rn.torch_model(cfg).load_arrays(params)
    assert module.state_dict().keys() == params.keys()
    tokens = np.random.default_rng(0).integers(1, 16, (3, 2, 20) if cfg.pair else (3, 20))
    with torch.no_grad():
        found = module(torch.tensor(tokens)).numpy()
    np.testing.assert_allclose(found, rn.predict(params, cfg, tokens), atol=1e-5)
    with pytest.raises(rn.InputError, match="another configuration"):
        module.load_arrays({})
