"""The whole model against PyTorch's autograd: an independent forward, and gradients that no hand wrote."""

from dataclasses import replace

import numpy as np
import pytest

import rmaat_np as rn

torch = pytest.importorskip("torch")
from rmaat_np import torch_reference  # noqa: E402

CFG = rn.Config(
    vocab_size=16, num_classes=10, d_model=16, num_heads=4, d_ff=24, segment_length=6, num_segments=4, num_memory=3
)
SWITCHES = [
    {},
    {"attention": "softmax"},
    {"attention": "softmax", "pooling": "mean", "norm": "post"},
    {"use_astro": False},
    {"use_feedback": False},
    {"alpha": 0.5},
    {"position_scale": 0.3},
    {"norm": "post"},
    {"retention": "scale"},
    {"retention": "online"},
    {"retention": "none"},
    {"pooling": "mean"},
    {"segment_embedding": False},
    {"num_memory": 0, "pooling": "mean"},
    {"pair": True},
    {"num_layers": 3, "num_heads": 1},
]


def ragged_batch(cfg):
    """Sequences of 24, 13, 3, 24 (one token masked inside) and 19 tokens, in pairs turned round."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 16, (5, 24))
    tokens[1, 13:] = tokens[2, 3:] = tokens[4, 19:] = tokens[3, 2] = 0
    return np.stack([tokens, tokens[::-1]], axis=1) if cfg.pair else tokens, rng.integers(0, 10, 5)


@pytest.mark.parametrize("method", ["amrb", "bptt"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_loss_and_gradients_agree_with_autograd(switches, method):
    cfg = replace(CFG, **switches)
    params = rn.init_params(cfg, seed=0, dtype="float64")
    tokens, labels = ragged_batch(cfg)
    loss, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, method)
    theirs = torch_reference.to_torch(params)
    their_loss = torch_reference.loss(theirs, cfg, torch.as_tensor(tokens), torch.as_tensor(labels))
    their_loss.backward()
    assert abs(loss - their_loss.item()) < 1e-12
    assert grads.keys() == theirs.keys()
    for name, tensor in theirs.items():
        expected = tensor.grad.numpy() if tensor.grad is not None else np.zeros(tensor.shape)
        scale = max(np.abs(expected).max(), np.abs(grads[name]).max(), 1e-6)
        assert np.abs(grads[name] - expected).max() <= 1e-8 * scale, name
    their_logits = torch_reference.logits(theirs, cfg, torch.as_tensor(tokens)).detach().numpy()
    np.testing.assert_allclose(rn.predict(params, cfg, tokens), their_logits, rtol=1e-9, atol=1e-12)


def test_segment_checkpoints_change_no_gradient():
    params = rn.init_params(CFG, seed=0, dtype="float64")
    tokens, labels = map(torch.as_tensor, ragged_batch(CFG))
    gradients = []
    for checkpoint in (False, True):
        theirs = torch_reference.to_torch(params)
        torch_reference.loss(theirs, CFG, tokens, labels, checkpoint=checkpoint).backward()
        gradients.append(theirs)
    for name in params:
        assert torch.equal(gradients[0][name].grad, gradients[1][name].grad), name
