"""The backend switch, and the whole model on the strict stand-in for a device's arrays."""

import os
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import strict_device

import rmaat_np as rn
from rmaat_np import backend
from rmaat_np.data import recall
from rmaat_np.data.batches import BatchOrder
from rmaat_np.optim import adamw_init, adamw_step
from rmaat_np.training import loop, settings
from rmaat_np.training import run as runs
from rmaat_np.training.execution import Execution

CFG = rn.Config(
    vocab_size=12, num_classes=5, d_model=8, num_heads=2, d_ff=12, segment_length=4, num_segments=3, num_memory=2
)
SWITCHES = [
    {},
    {"attention": "softmax"},
    {"use_astro": False},
    {"use_feedback": False},
    {"alpha": 0.5},
    {"position_decay": "heads"},
    {"position_decay": "learned"},
    {"position_embedding": False},
    {"norm": "post"},
    {"retention": "scale"},
    {"retention": "online"},
    {"retention": "none"},
    {"retention": "learned"},
    {"pooling": "mean"},
    {"pooling": "mean", "num_memory": 0},
    {"pair": True},
    {"dropout": 0.2},
]


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(backend, "xp", strict_device.module)
    monkeypatch.setattr(backend, "name", "cupy")


def a_batch(cfg):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, cfg.vocab_size, (4, 2, 11) if cfg.pair else (4, 11))
    tokens[1, ..., 3:] = 0
    tokens[2, ..., 6:] = 0
    return tokens, rng.integers(0, cfg.num_classes, 4)


def train_step(cfg, method, steps=2):
    """Two training steps. -> loss and norm still on the device, params, logits."""
    params = rn.init_params(cfg, seed=1)
    state = adamw_init(params)
    tokens, labels = a_batch(cfg)
    for step in range(steps):
        loss, grads, stats = rn.loss_and_grads(params, cfg, tokens, labels, method, seed=0, step=step)
        norm = adamw_step(params, grads, state, step, 1e-2)
    return loss, norm, stats["accuracy"], params, rn.predict(params, cfg, tokens)


@pytest.mark.parametrize("method", ["amrb", "bptt"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_training_step_on_the_device_equals_numpy_and_never_waits_for_it(switches, method, request):
    cfg = replace(CFG, **switches)
    expected = train_step(cfg, method)
    request.getfixturevalue("device")
    strict_device.reset_synchronisations()
    loss, norm, accuracy, params, logits = train_step(cfg, method)
    assert strict_device.synchronisations() == 0
    assert float(loss) == pytest.approx(float(expected[0]), rel=1e-5)
    assert float(norm) == pytest.approx(float(expected[1]), rel=1e-4)
    assert float(accuracy) == expected[2]
    np.testing.assert_allclose(backend.to_host(logits), expected[4], rtol=1e-3, atol=1e-4)
    for name, array in params.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(backend.to_host(array), expected[3][name], atol=2e-4)


def test_numpy_is_the_default_and_use_returns_the_module():
    assert rn.backend.use("numpy") is np
    assert rn.backend.xp is np


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="numpy or cupy"):
        rn.backend.use("torch")


def test_cupy_that_is_not_installed_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(backend.BackendError, match="pip install cupy-cuda"):
        rn.backend.use("cupy")
    assert backend.name == "numpy"


def test_cupy_without_a_device_is_an_error_with_the_remedy(monkeypatch):
    class Cupy:
        is_available = staticmethod(lambda: False)

    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    with pytest.raises(backend.BackendError, match="nvidia-smi"):
        rn.backend.use("cupy")
    assert backend.xp is np


def test_tf32_is_switched_on_for_products_of_two_matrices_and_of_batches(monkeypatch):
    """CuPy's own switch is for the first, the mode of the cuBLAS handle (3 is TF32) for both."""
    modes = {}
    cublas = SimpleNamespace(setMathMode=modes.__setitem__)
    cuda = SimpleNamespace(cublas=cublas, get_cublas_handle=lambda: "handle")
    monkeypatch.setattr(backend, "xp", SimpleNamespace(cuda=cuda))
    monkeypatch.setenv("CUPY_TF32", "0")
    backend.allow_tf32()
    assert os.environ["CUPY_TF32"] == "1" and modes == {"handle": 3}


def test_a_step_of_the_training_command_waits_once_for_the_numbers_it_reports(device, tmp_path):
    dataset = recall.load(8, 16, rows=(64, 8, 8))
    overrides = {"segment_length": 8, "num_segments": 2, "d_model": 8, "d_ff": 8, "steps": 2}
    run = runs.new_run(tmp_path / "run", settings.resolve("recall", "quick", "rmaat", overrides), dataset)
    order = BatchOrder(dataset.train.lengths(), 4, 0)
    strict_device.reset_synchronisations()
    loop.train_step(run, *dataset.train.batch(order.rows(0)), Execution())
    assert strict_device.synchronisations() == 1


# threads of matrix products beside the workers'


@pytest.fixture
def free_threads(monkeypatch):
    """An environment that leaves the number of BLAS threads open."""
    for variable in backend.BLAS_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    look = backend._blas_controller
    look.cache_clear()
    yield monkeypatch
    look.cache_clear()


class Controller:
    """Stands in for threadpoolctl's: counts the blocks in which the threads are limited."""

    def __init__(self):
        self.inside, self.blocks = False, 0

    @contextmanager
    def limit(self, limits, user_api):
        assert (limits, user_api, self.inside) == (1, "blas", False)
        self.inside, self.blocks = True, self.blocks + 1
        yield
        self.inside = False


TOKENS = np.ones((6, 8), int)


def test_workers_limit_the_threads_of_products_during_a_call(free_threads, cut_for_workers):
    controller = Controller()
    free_threads.setattr(backend, "_blas_controller", lambda told: controller)
    params = rn.init_params(CFG)
    rn.predict(params, CFG, TOKENS, workers=1)
    assert controller.blocks == 0  # one worker may use all threads
    rn.predict(params, CFG, TOKENS, workers=2)
    rn.loss_and_grads(params, CFG, TOKENS, np.zeros(6, int), workers=3)
    assert (controller.blocks, controller.inside) == (2, False)
    for number, blocks in (("1", 3), ("2", 3), ("", 4)):  # more than one is a wish
        free_threads.setenv("OMP_NUM_THREADS", number)
        rn.predict(params, CFG, TOKENS, workers=2)
        assert controller.blocks == blocks


@pytest.mark.parametrize("variable", ["", *backend.BLAS_VARIABLES])
def test_threadpoolctl_really_limits(free_threads, variable):
    """Also where a variable came too late, or is another library's."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    if variable:
        free_threads.setenv(variable, "1")
    with backend.one_blas_thread():
        libraries = threadpoolctl.threadpool_info()
        assert {library["num_threads"] for library in libraries if library["user_api"] == "blas"} <= {1}


def test_without_threadpoolctl_it_is_told_once(free_threads, cut_for_workers):
    free_threads.setitem(sys.modules, "threadpoolctl", None)
    params = rn.init_params(CFG)
    with pytest.warns(UserWarning, match="pip install threadpoolctl, or set OPENBLAS_NUM_THREADS=1") as told:
        for _ in range(3):
            rn.predict(params, CFG, TOKENS, workers=2)
    assert len(told) == 1
    free_threads.setenv("OPENBLAS_NUM_THREADS", "1")  # who sets it knows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rn.predict(params, CFG, TOKENS, workers=2)
