"""On a CUDA device: CuPy against NumPy, AMRB against BPTT. `python -m pytest -m gpu`; skipped without a device."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.all_pairs import PAIRS
from helpers.checks import CONFIGS, check_close, leaves, ragged_batch, random_params, run_pair
from helpers.views import VIEW_SHAPES, VIEWS

import rmaat_np as rn
from rmaat_np import backend, dropout
from rmaat_np.cuda import kernels, products
from rmaat_np.optim import adamw_init, adamw_step
from rmaat_np.system.machine import PeakMemory

cupy = pytest.importorskip("cupy")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not cupy.is_available(), reason="no usable CUDA device")]
BOUNDS = [("float64", 1e-10), ("float32", 1e-4)]


@pytest.fixture(autouse=True)
def back_to_numpy():
    yield
    backend.use("numpy")


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_agrees_with_numpy(name, dtype, bound, fused, monkeypatch):
    expected, douts = run_pair(PAIRS[name], dtype)
    backend.use("cupy")
    monkeypatch.setattr(backend, "kernels", kernels if fused else None)
    got, _ = run_pair(PAIRS[name], dtype, douts)
    check_close(got, expected, bound)


def step_on(name, cfg, dtype, method, fused=True):
    """Loss, logits, norm and gradients, and the parameters after a step of AdamW, as host arrays."""
    backend.use("numpy")
    params, (tokens, labels) = random_params(cfg, dtype), ragged_batch(cfg)
    backend.use(name)
    backend.kernels = backend.kernels if fused else None
    params = {key: backend.to_device(array) for key, array in params.items()}
    loss, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, method, seed=1, step=2)
    logits = rn.predict(params, cfg, tokens)
    norm = adamw_step(params, grads, adamw_init(params), 0, 1e-3, clip_norm=0.1)
    found = [backend.to_host(array) for array in (loss, logits, norm, *(grads[name] for name in params))]
    return found, [backend.to_host(array) for array in params.values()]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_agrees_with_numpy(name, dtype, bound, fused):
    """AdamW's first step is nearly the sign of the gradient. So in float32 a gradient of rounding errors alone moves a
    parameter by up to the learning rate, and only in float64 are the parameters compared."""
    expected, their_params = step_on("numpy", CONFIGS[name], dtype, "amrb")
    found, params = step_on("cupy", CONFIGS[name], dtype, "amrb", fused)
    check_close(found, expected, bound)
    if dtype == "float64":
        check_close(params, their_params, bound)


@pytest.mark.parametrize("name", CONFIGS)
def test_amrb_equals_bptt_on_the_device_and_a_run_repeats(name):
    """No sum on the way uses atomics: kernels, products with one-hot matrices, and reductions of a fixed shape."""
    amrb, bptt, again = (step_on("cupy", CONFIGS[name], "float32", method) for method in ("amrb", "bptt", "amrb"))
    for a, b, c in zip(leaves(amrb), leaves(bptt), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_adamw_in_many_pieces(dtype, bound, monkeypatch):
    """More numbers than a block of threads updates at once, over several steps, from the same gradients."""
    monkeypatch.setattr(kernels, "PIECE", 1000)
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (300, 41), "a.bias": (7,), "embed": (300, 2)}
    start, *all_grads = (
        {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()} for _ in range(4)
    )
    results = []
    for name in ("numpy", "cupy"):
        backend.use(name)
        params = {key: backend.to_device(p.copy()) for key, p in start.items()}
        state = adamw_init(params)
        for number, grads in enumerate(all_grads):
            adamw_step(params, {key: backend.to_device(g) for key, g in grads.items()}, state, number, 0.01)
        results.append([backend.to_host(x) for x in [*params.values(), *leaves(state)]])
    check_close(results[1], results[0], bound)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("rows", [1, 5, 3000])
def test_sums_over_many_rows(rows, dtype, bound):
    x = np.random.default_rng(0).standard_normal((rows, 37)).astype(dtype)
    backend.use("cupy")
    check_close([backend.to_host(kernels.sum_rows(backend.to_device(x)))], [x.sum(axis=0)], bound)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("name", VIEWS)
def test_products_of_views(name, dtype, bound):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in VIEW_SHAPES)
    expected = np.matmul(*VIEWS[name](a, b))
    backend.use("cupy")
    got = products.product(*VIEWS[name](backend.to_device(a), backend.to_device(b)))
    check_close([backend.to_host(got)], [expected], bound)


def test_dropout_masks_are_those_of_numpy():
    masks = []
    for name in ("numpy", "cupy"):
        backend.use(name)
        rows = backend.to_device(np.arange(3, dtype=np.uint32))
        key = dropout.DropoutKey(rate=0.3, seed=2**40 + 1, step=2, segment=1, rows=rows, layer=1)
        masks.append(backend.to_host(dropout.dropout_mask(key, "attention", (3, 1001), np.float32)))
    np.testing.assert_array_equal(*masks)


def test_a_nan_reaches_the_norm():
    backend.use("cupy")
    params, grads = {"x": cupy.ones(2)}, {"x": cupy.asarray([np.nan, 1.0])}
    assert np.isnan(float(adamw_step(params, grads, adamw_init(params), 0, 0.1)))


def peak_of(num_segments):
    """The most bytes alive on the device during one AMRB step."""
    cfg = rn.Config(vocab_size=16, num_classes=10, segment_length=128, num_segments=num_segments)
    backend.use("cupy")
    params = rn.init_params(cfg)
    tokens = np.random.default_rng(0).integers(1, 16, (8, cfg.max_length))
    with PeakMemory(device=True) as memory:
        rn.loss_and_grads(params, cfg, tokens, np.zeros(8, dtype=np.int64))
    return memory.peak


def test_memory_of_amrb_hardly_grows_with_the_segments():
    assert peak_of(16) <= 1.2 * peak_of(4)


TF32 = """
import numpy as np
from rmaat_np import backend
from rmaat_np.cuda.products import product
xp = backend.use("cupy")
if {tf32}:
    backend.allow_tf32()
a, b = np.random.default_rng(0).standard_normal((2, 4, 256, 256))
for x, y in ((a, b), (a[0], b[0])):
    on_device = xp.asarray(x, dtype="float32"), xp.asarray(y, dtype="float32")
    for multiply in (product, xp.matmul):
        print(np.abs(backend.to_host(multiply(*on_device)) - x @ y).max())
"""


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_rounds_products_of_matrices_and_of_batches(tf32):
    """In a process of its own, as the switch is for good. Exact products are off by 1e-5 here, TF32's by 1e-2."""
    if int(cupy.cuda.Device().compute_capability) < 80:
        pytest.skip("this device has no TF32")
    out = subprocess.run([sys.executable, "-c", TF32.format(tf32=tf32)], check=True, capture_output=True, text=True)
    for error in map(float, out.stdout.split()):
        assert (error > 1e-3) == tf32
