"""AdamW, clipping and the schedule against the formulas written out in float64, and against PyTorch's AdamW."""

from math import cos, pi

import numpy as np
import pytest
from helpers.optim_checks import CLIPPING, DECAYED, SHAPES, arrays, check_adamw, gradients, norm_of, reference_step

from rmaat_np.errors import InputError
from rmaat_np.optim import adamw_init, adamw_step, global_norm, learning_rate


@pytest.mark.parametrize("clip_norm", CLIPPING.values(), ids=CLIPPING)
def test_steps_equal_pytorch(clip_norm):
    torch = pytest.importorskip("torch")
    params, state = arrays(1), adamw_init(arrays(1))
    theirs = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in arrays(1).items()}
    groups = [
        {"params": [theirs[DECAYED]], "weight_decay": 0.1},
        {"params": [p for name, p in theirs.items() if name != DECAYED], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    for step in range(6):
        grads, lr = gradients(step), 0.02 * (step + 1)
        norm = adamw_step(params, grads, state, step, lr, weight_decay=0.1, clip_norm=clip_norm)
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name])
        for group in optimizer.param_groups:
            group["lr"] = lr
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        optimizer.step()
        np.testing.assert_allclose(norm, float(their_norm), rtol=1e-13)
        for name, p in theirs.items():
            np.testing.assert_allclose(params[name], p.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_float32_stays_float32_and_close():
    params, state = arrays(2, dtype=np.float32), adamw_init(arrays(2, dtype=np.float32))
    expected, m, v = arrays(2), *({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for step in range(6):
        grads = gradients(step, np.float32)
        norm = adamw_step(params, grads, state, step, 0.01, clip_norm=3.0)
        reference_step(expected, gradients(step), m, v, step + 1, 0.01, 0.01, 3.0)
        assert norm.dtype == np.float32
    for name in SHAPES:
        assert params[name].dtype == state["m"][name].dtype == state["v"][name].dtype == np.float32
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5, atol=1e-6)


def test_only_weights_decay():
    params, before = arrays(3), arrays(3)
    zeros = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    norm = adamw_step(params, zeros, adamw_init(params), 0, 0.5, weight_decay=0.1)
    assert norm == 0
    for name in SHAPES:
        expected = before[name] * 0.95 if name == DECAYED else before[name]
        np.testing.assert_array_equal(params[name], expected)


def test_works_in_place_and_leaves_the_gradients():
    params, grads = arrays(4), gradients(0)
    state, same = adamw_init(params), dict(params)
    adamw_step(params, grads, state, 0, 0.1, clip_norm=0.01)
    for name, untouched in gradients(0).items():
        np.testing.assert_array_equal(grads[name], untouched)
        assert params[name] is same[name]


def test_state_starts_at_zero():
    state = adamw_init(arrays(5, dtype=np.float32))
    assert state.keys() == {"m", "v"}
    for moment in state.values():
        assert {name: (a.shape, a.dtype) for name, a in moment.items()} == {
            name: (shape, np.float32) for name, shape in SHAPES.items()
        }
        assert not any(array.any() for array in moment.values())
    assert state["m"][DECAYED] is not state["v"][DECAYED]


def test_global_norm():
    grads = gradients(1)
    grads["strided"] = np.arange(24.0).reshape(4, 6)[::2, ::3].T
    np.testing.assert_allclose(global_norm(grads), norm_of(grads), rtol=1e-14)
    assert global_norm({"a": np.full((3, 4), 2.0, dtype=np.float32)}).dtype == np.float32
    assert global_norm({"a": np.array([3.0]), "b": np.array([[4.0]])}) == 5.0
    assert global_norm({"a": np.zeros(3)}) == 0.0
    assert np.isnan(global_norm({"a": np.array([1.0, np.nan]), "b": np.zeros(2)}))


@pytest.mark.parametrize("warmup", [1, 7, 50])
def test_warm_up_is_linear(warmup):
    for step in range(warmup):
        assert learning_rate(step, 100, 0.3, warmup) == pytest.approx(0.3 * (step + 1) / warmup, rel=1e-15)
    assert learning_rate(warmup - 1, 100, 0.3, warmup) == learning_rate(warmup, 100, 0.3, warmup) == 0.3


@pytest.mark.parametrize("warmup", [0, 20])
def test_decay_is_half_a_cosine(warmup):
    rates = [learning_rate(step, 100, 2.0, warmup) for step in range(warmup, 101)]
    expected = [1 + cos(pi * i / (100 - warmup)) for i in range(101 - warmup)]
    np.testing.assert_allclose(rates, expected, rtol=1e-14, atol=1e-15)
    assert rates[0] == 2.0 and rates[-1] == 0.0 and rates[len(rates) // 2] == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in zip(rates, rates[1:], strict=False))


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 5), (3, 10)])
def test_schedules_too_short_for_their_warm_up(steps, warmup):
    rates = [learning_rate(step, steps, 1.0, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize("clip_norm", CLIPPING.values(), ids=CLIPPING)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_follow_the_formulas(clip_norm, weight_decay):
    check_adamw(clip_norm, weight_decay)


def test_gradients_that_overflow_are_no_step():
    """Before, a norm of infinity turned every gradient into 0 without a word."""
    params, state = arrays(0), adamw_init(arrays(0))
    grads = {name: np.full(shape, 1e200) for name, shape in SHAPES.items()}
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match="norm of the gradients is inf"):
        adamw_step(params, grads, state, 0, 0.1)
    assert all((params[name] == arrays(0)[name]).all() for name in SHAPES)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"step": -1}, "step is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": -1.0}, "lr is -1"),
        ({"clip_norm": 0}, "0"),
    ],
)
def test_values_out_of_range_are_no_step(options, named):
    chosen = {"step": 0, "lr": 0.1} | options
    with pytest.raises(InputError, match=named):
        adamw_step(arrays(0), gradients(0), adamw_init(arrays(0)), **chosen)


def test_an_open_file_is_not_trained(tmp_path):
    """Each access to it reads the file anew, so a step would change nothing."""
    np.savez(tmp_path / "params.npz", **arrays(0))
    with np.load(tmp_path / "params.npz") as params:
        with pytest.raises(InputError, match="params is a NpzFile"):
            adamw_init(params)
        with pytest.raises(InputError, match="params is a NpzFile"):
            adamw_step(params, gradients(0), adamw_init(arrays(0)), 0, 0.1)
