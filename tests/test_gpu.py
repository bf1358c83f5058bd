"""On a CUDA device: CuPy against NumPy, AMRB against BPTT. `python -m pytest -m gpu`; skipped without a device."""

import numpy as np
import pytest
from checks import CONFIGS, leaves, ragged_batch, random_params

import rmaat_np as rn
from rmaat_np import backend
from rmaat_np.device import PeakMemory

cupy = pytest.importorskip("cupy")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not cupy.is_available(), reason="no usable CUDA device")]


@pytest.fixture(autouse=True)
def back_to_numpy():
    yield
    backend.use("numpy")


def step_on(name, cfg, dtype, method):
    """Loss, gradients and logits of one step, as host arrays, from the same parameters."""
    backend.use("numpy")
    params, (tokens, labels) = random_params(cfg, dtype), ragged_batch(cfg)
    backend.use(name)
    params = {key: backend.to_device(array) for key, array in params.items()}
    loss, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, method, seed=1, step=2)
    logits = rn.predict(params, cfg, tokens)
    return [backend.to_host(array) for array in (loss, logits)], {k: backend.to_host(g) for k, g in grads.items()}


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("name", CONFIGS)
def test_cupy_agrees_with_numpy(name, dtype, bound):
    outs, grads = step_on("numpy", CONFIGS[name], dtype, "amrb")
    their_outs, their_grads = step_on("cupy", CONFIGS[name], dtype, "amrb")
    for expected, got in zip([*outs, *grads.values()], [*their_outs, *(their_grads[k] for k in grads)], strict=True):
        assert got.dtype == expected.dtype
        assert np.abs(got - expected).max() <= bound * max(np.abs(expected).max(), 1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_amrb_equals_bptt_on_the_device(name):
    """No sum on the way uses atomics: products with ones and one-hot matrices, and reductions of a fixed shape."""
    amrb, bptt = (step_on("cupy", CONFIGS[name], "float32", method) for method in ("amrb", "bptt"))
    for a, b in zip(leaves(amrb), leaves(bptt), strict=True):
        np.testing.assert_array_equal(a, b)


def peak_of(num_segments):
    """The most bytes alive on the device during one AMRB step."""
    cfg = rn.Config(vocab_size=16, num_classes=10, segment_length=128, num_segments=num_segments)
    backend.use("cupy")
    params = rn.init_params(cfg)
    tokens = np.random.default_rng(0).integers(1, 16, (8, cfg.max_length))
    with PeakMemory() as memory:
        rn.loss_and_grads(params, cfg, tokens, np.zeros(8, dtype=np.int64))
    return memory.peak


def test_memory_of_amrb_hardly_grows_with_the_segments():
    assert peak_of(16) <= 1.2 * peak_of(4)
