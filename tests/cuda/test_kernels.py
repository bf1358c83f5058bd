"""The fused kernels without a GPU: compiled by the C++ compiler, run a warp at a time, held against the plain code.

cuda_emulator.py says what that shows and what not. Arrays are those of the strict stand-in for CuPy, so what surrounds
the kernels is checked too: only names that CuPy has, no array moved or waited for unasked.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers import attention_pairs, cuda_emulator, strict_device
from helpers.all_pairs import PAIRS
from helpers.checks import CONFIGS, KEY, check_close, leaves, ragged_batch, random_params, run_pair
from helpers.views import VIEW_SHAPES, VIEWS

import rmaat_np as rn
from rmaat_np import attention, backend, layers, optim
from rmaat_np.cuda import kernels, products

needs_compiler = pytest.mark.skipif(cuda_emulator.COMPILER is None, reason="no C++ compiler")
BOUNDS = {"float64": 1e-11, "float32": 2e-5}


@pytest.fixture
def emulated(monkeypatch):
    """Fused kernels on the C++ compiler; from then on arrays are the strict stand-in's."""
    monkeypatch.setattr(kernels, "launch", cuda_emulator.launch)
    monkeypatch.setattr(kernels, "address", cuda_emulator.address)
    monkeypatch.setattr(products, "gemm", cuda_emulator.gemm)
    monkeypatch.setattr(kernels, "THREADS", 64)  # two warps to a block are enough to mix them up, and faster

    def switch(module=strict_device.module):
        monkeypatch.setattr(backend, "xp", module)
        monkeypatch.setattr(backend, "name", "numpy" if module is np else "cupy")
        monkeypatch.setattr(backend, "kernels", kernels)

    return switch


@needs_compiler
@pytest.mark.parametrize("small", [kernels.SMALL, 0], ids=["32-bit indices", "64-bit indices"])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", PAIRS)
def test_fused_pairs_equal_the_plain_ones(name, dtype, small, emulated, monkeypatch):
    monkeypatch.setattr(kernels, "SMALL", small)
    monkeypatch.setattr(kernels, "NORM_WARPS", 3)  # so that a warp has several rows
    expected, douts = run_pair(PAIRS[name], dtype)
    emulated()
    got, _ = run_pair(PAIRS[name], dtype, douts)
    check_close(got, expected, BOUNDS[dtype])


@needs_compiler
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("rows", [0, 1, 33, 300])
def test_sums_over_many_rows(rows, dtype, emulated, monkeypatch):
    monkeypatch.setattr(kernels, "PARTS", 40)
    x = np.random.default_rng(0).standard_normal((rows, 5)).astype(dtype)
    emulated()
    check_close([backend.to_host(kernels.sum_rows(backend.to_device(x)))], [x.sum(axis=0)], BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", VIEWS)
def test_products_of_views(name, dtype, emulated):
    rng = np.random.default_rng(0)
    a, b = VIEWS[name](*(rng.standard_normal(shape).astype(dtype) for shape in VIEW_SHAPES))
    expected = a @ b
    emulated(np)
    np.testing.assert_allclose(products.product(a, b), expected, rtol=1e-5, atol=1e-5)


def test_only_what_cublas_cannot_read_is_copied():
    x = np.zeros((4, 6, 8))
    for view in (x, x[0], x[:, :, 2:5], x[0][:, 2:5], x.swapaxes(1, 2), x[0].T, x[0, :1], x[0, :, :1].T):
        assert np.shares_memory(products._factor(view).array, x)
    assert not np.shares_memory(products._factor(x[:, :, ::2]).array, x)


MIXED = ["layer norm", "gelu", "phi", "relative features", "wide attention"]
MIXED += [name for name in attention_pairs.PAIRS if name.startswith("astromorphic")]


@needs_compiler
@pytest.mark.parametrize("fused_first", [True, False])
@pytest.mark.parametrize("name", MIXED)
def test_a_cache_means_the_same_to_both(name, fused_first, emulated, monkeypatch):
    """Fused forward with plain backward, and the other way round."""
    expected, douts = run_pair(PAIRS[name], np.float64)
    emulated(np)
    monkeypatch.setattr(backend, "kernels", kernels if fused_first else None)
    outs, cache = PAIRS[name].forward(PAIRS[name].inputs)
    monkeypatch.setattr(backend, "kernels", None if fused_first else kernels)
    grads = PAIRS[name].backward(douts, cache)
    check_close([*outs, *(grads[key] for key in sorted(grads))], expected, BOUNDS["float64"])


def step(cfg, method, dtype):
    """Loss, gradients, logits, and the parameters after a step of AdamW, as host arrays."""
    params = {name: backend.to_device(p) for name, p in random_params(cfg, dtype).items()}
    tokens, labels = ragged_batch(cfg)
    strict_device.reset_synchronisations()
    loss, grads, _ = rn.loss_and_grads(params, cfg, tokens, labels, method, seed=3, step=5)
    logits = rn.predict(params, cfg, tokens)
    norm = optim.adamw_step(params, grads, optim.adamw_init(params), 0, 1e-3, clip_norm=0.1)
    waited = strict_device.synchronisations()
    results = [loss, logits, norm, *(grads[name] for name in params), *params.values()]
    return [backend.to_host(result) for result in results], waited


@needs_compiler
@pytest.mark.parametrize("name", CONFIGS)
def test_the_fused_model_equals_the_plain_one_and_never_waits(name, emulated):
    expected, _ = step(CONFIGS[name], "amrb", "float64")
    emulated()
    amrb, waited = step(CONFIGS[name], "amrb", "float64")
    assert waited == 0
    check_close(amrb, expected, 1e-10)
    bptt, _ = step(CONFIGS[name], "bptt", "float64")
    for a, b in zip(leaves(amrb), leaves(bptt), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_compiler
@pytest.mark.parametrize("clip_norm", [1e9, 0.5])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_adamw_in_pieces_is_adamw(dtype, clip_norm, emulated, monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 300)
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (30, 41), "a.bias": (7,), "embed": (300, 2), "b.weight": (1, 1)}
    start = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    all_grads = [{name: rng.standard_normal(s).astype(dtype) for name, s in shapes.items()} for _ in range(3)]

    def train():
        params = {name: backend.to_device(p.copy()) for name, p in start.items()}
        state = optim.adamw_init(params)
        for number, grads in enumerate(all_grads):
            grads = {name: backend.to_device(g) for name, g in grads.items()}
            options = {"weight_decay": 0.1, "clip_norm": clip_norm}
            norm = optim.adamw_step(params, grads, state, number, 0.01, **options)
        return [backend.to_host(x) for x in (norm, *params.values(), *state["m"].values(), *state["v"].values())]

    expected = train()
    emulated()
    check_close(train(), expected, BOUNDS[dtype])


@needs_compiler
def test_a_nan_stays_a_nan(emulated):
    """Training stops at a loss or norm that is not finite, so a kernel must not turn one into a number."""
    emulated(np)
    bad = np.array([[np.nan, 1.0]])
    one = np.ones(2)
    for out in (
        attention.phi_forward(bad)[0],
        layers.gelu_forward(bad)[0],
        layers.layer_norm_forward(bad, one, one)[0],
    ):
        assert np.isnan(out[0, 0])
    assert np.isnan(attention.phi_backward(np.ones((1, 2)), {"phi": bad})[0, 0])
    q = np.ones((1, 2, 2))
    for arguments in ((q * np.nan, q, q), (q, q * np.nan, q), (q, q, q * np.nan)):
        assert np.isnan(attention.astromorphic_attention_forward(*arguments, None, None, 1)[0]).all()
    emulated()
    params, grads = {"x": backend.to_device(np.ones(2))}, {"x": backend.to_device(bad[0])}
    assert np.isnan(backend.to_host(optim.adamw_step(params, grads, optim.adamw_init(params), 0, 0.1)))
    assert np.isnan(backend.to_host(params["x"])).all()


MISTAKES = {
    "writes past an array": ("du[i] =", "du[i + 1] ="),
    "reads past an array": ("dphi[i] *", "dphi[i + 1] *"),
    "order of its threads": ("du[i] =", "du[0] = du[i] = du[0] +"),
    "shuffle equally often": ("EACH(i, count)\n    du", "EACH(i, count)\n    if (i % 2) warp_sum(0);\n    du"),
    "wrong number of arguments": ("phi, real* du, Size count)", "phi, real* du, Size count, Size m)"),
}


@needs_compiler
@pytest.mark.parametrize("said", MISTAKES)
def test_the_emulator_sees_mistakes(said, emulated, tmp_path, monkeypatch):
    """What it is trusted to find, planted into phi_backward."""
    source = cuda_emulator.SOURCE.read_text(encoding="utf-8")
    head, tail = source.split('extern "C" __global__ void phi_backward')
    mistaken = tail.replace(*MISTAKES[said], 1)
    assert mistaken != tail
    (tmp_path / "kernels.cu").write_text(head + 'extern "C" __global__ void phi_backward' + mistaken, encoding="utf-8")
    monkeypatch.setattr(cuda_emulator, "SOURCE", tmp_path / "kernels.cu")
    monkeypatch.setattr(cuda_emulator, "library", cuda_emulator.library.__wrapped__)
    emulated(np)
    rng = np.random.default_rng(0)
    dphi, phi = rng.random((2, 3, 7))
    if said == "reads past an array":
        assert np.isnan(attention.phi_backward(dphi, {"phi": phi})).any()
        return
    with pytest.raises(AssertionError, match=said):
        attention.phi_backward(dphi, {"phi": phi})


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("arch", ["75", "80", "90"])
def test_nvrtc_compiles_the_kernels(arch, dtype):
    """With CuPy and NVIDIA's compiler installed; that takes no GPU."""
    pytest.importorskip("cupy")
    from cupy_backends.cuda.libs import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:  # the error's class depends on how CuPy looks for the library
        pytest.skip(f"no NVRTC: {type(error).__name__}")
    for width in (1, 64, 512):
        program = nvrtc.createProgram(Path(cuda_emulator.SOURCE).read_text(encoding="utf-8"), "kernels.cu", [], [])
        options = (*kernels.compile_options(dtype, width), "-std=c++17", "-ftz=true", f"-arch=sm_{arch}")
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program))
        assert len(nvrtc.getCUBIN(program)) > 0


def test_compile_options_name_the_type():
    assert kernels.compile_options("float32", 64) == ("-Dreal=float", "-DWIDTH=64", "-DINDEX=int")
    assert kernels.compile_options("float64", 1, "long long") == ("-Dreal=double", "-DWIDTH=1", "-DINDEX=long long")


def test_indices_have_32_bits_where_every_array_is_small():
    """Two arrays stand for those of a card: one number repeated takes no memory."""
    small, large = (np.broadcast_to(np.float32(0), size) for size in (kernels.SMALL, kernels.SMALL + 1))
    assert kernels.index_type(1, (small, 3, 0.5)) == "int"
    assert kernels.index_type(1, (small, large)) == kernels.index_type(kernels.SMALL + 1, (small,)) == "long long"
    assert KEY.rate > 0  # the pairs with dropout run above, too
