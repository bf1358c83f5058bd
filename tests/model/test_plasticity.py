"""The macro model behaves as its paper describes; retention factors have the properties that the update relies on."""

from dataclasses import replace

import numpy as np
import pytest

from rmaat_np.errors import InputError
from rmaat_np.plasticity import RETENTION_MODES, MacroModel, ltp_curve, retention_factors, simulate, spatial_coupling

MODEL = MacroModel()
CYCLES = 6
TOTALS = (1, 2, 3, 7, 16, 100, 2000)


@pytest.fixture(scope="module")
def history():
    """-> each variable's mean over its neurons or synapses, (cycles, steps per cycle)."""
    time, arrays = simulate(CYCLES)
    np.testing.assert_allclose(time[[0, -1]], [0, CYCLES * MODEL.cycle])
    return {name: values.mean(axis=1)[:-1].reshape(CYCLES, -1) for name, values in arrays.items()}


def test_everything_starts_at_rest():
    _, arrays = simulate(1)
    assert all(not values[0].any() for values in arrays.values())
    assert {name: values.shape[1] for name, values in arrays.items()} == {
        "pre": 3, "post": 3, "synapse": 9, "stp": 9, "ltp": 9
    }  # fmt: skip


def test_stp_swings_with_each_cycle(history):
    stp = history["stp"]
    on = round(MODEL.on / MODEL.dt)
    assert (stp.argmax(axis=1) >= on // 2).all() and (stp.argmax(axis=1) < 2 * on).all()  # a little behind the stimulus
    assert (stp[:, -1] < 0.1 * stp.max(axis=1)).all()
    assert np.ptp(stp.max(axis=1)) < 0.05 * stp.max()  # it keeps nothing from one cycle to the next


def test_ltp_climbs_step_by_step_and_saturates(history):
    ends = history["ltp"][:, -1]
    increments = np.diff(ends, prepend=0)
    assert (increments > 0).all() and (np.diff(increments) < 0).all()
    assert increments[-1] < 0.15 * increments[0]
    assert (history["ltp"].max(axis=1) < 1.3 * ends[-1]).all()


def test_neurons_follow_the_stimulus(history):
    on = round(MODEL.on / MODEL.dt)
    for name in ("pre", "post"):
        assert (history[name][:, on - 1] > 0.9).all() and (np.abs(history[name][:, -1]) < 0.01).all()


def test_coupling_falls_with_distance():
    T = spatial_coupling(MODEL)
    corner = T[0].reshape(3, 3)
    expected = [[0, 1, 4], [1, 2, 5], [4, 5, 8]]  # squared distances from the corner
    np.testing.assert_allclose(corner, MODEL.coupling * np.exp(-np.sqrt(expected)) * (np.array(expected) > 0))
    assert corner[0, 1] > corner[1, 1] > corner[0, 2] > corner[1, 2] > corner[2, 2] > 0
    np.testing.assert_array_equal(T, T.T)
    assert (spatial_coupling(replace(MODEL, reach=2.0))[T > 0] > T[T > 0]).all()


def test_a_smaller_euler_step_gives_the_same_curve():
    coarse, fine = (simulate(4, replace(MODEL, dt=dt))[1]["ltp"][-1] for dt in (MODEL.dt, MODEL.dt / 4))
    np.testing.assert_allclose(coarse, fine, rtol=5e-3)


def test_without_recurrence_the_synapse_follows_its_equation():
    """tau ds/dt = -s + tanh(1)^2 while neurons rest at x = 1: s rises to tanh(1)^2 on a long stimulus."""
    model = replace(MODEL, recurrence=0.0, feedback=0.0, cycle=10.0, on=10.0)
    _, arrays = simulate(1, model)
    np.testing.assert_allclose(arrays["pre"][-1], 1, rtol=1e-6)
    np.testing.assert_allclose(arrays["synapse"][-1], np.tanh(1) ** 2, rtol=1e-4)


@pytest.mark.parametrize("mode", ["integrate", "scale"])
@pytest.mark.parametrize("total", TOTALS)
def test_shares_sum_to_1_and_fall(total, mode):
    factors = retention_factors(total, mode)
    assert factors.shape == (total,) and factors.dtype == np.float64
    assert factors.sum() == pytest.approx(1, rel=1e-12)
    assert (np.diff(factors) < 0).all() and (factors > 0).all()


def test_shares_fall_as_the_sequence_grows():
    """The largest, the mean and the smallest of them; the share of one segment t > 1 need not."""
    for statistic in (np.max, np.mean, np.min):
        values = [statistic(retention_factors(total)) for total in TOTALS]
        assert (np.diff(values) < 0).all()


def test_shares_are_the_increments_of_the_curve():
    """With as many cycles as the simulation has until saturation, the shares are its own increments."""
    increments = np.diff(ltp_curve())
    np.testing.assert_allclose(retention_factors(len(increments)), increments / increments.sum(), rtol=0.02)


def test_integrating_with_shares_weighs_each_segment():
    """Unrolled, memory_{t+1} = memory_t + r_t (written_t - memory_t) weighs what each segment wrote; online evenly."""
    for mode in ("integrate", "online"):
        for total in TOTALS[:-1]:
            r = retention_factors(total, mode)
            weights = r * np.append(np.cumprod((1 - r)[::-1])[::-1][1:], 1)
            assert weights.sum() + np.prod(1 - r) == pytest.approx(1)
            assert (weights >= 0).all()


def test_online_starts_at_1_and_never_falls_to_0():
    keep = np.exp(-MODEL.leak_ltp * MODEL.cycle / MODEL.tau_ltp)
    factors = retention_factors(2000, "online")
    assert factors[0] == 1 and (np.diff(factors[:30]) < 0).all() and (np.diff(factors) <= 0).all()
    assert factors[-1] == pytest.approx(1 - keep)
    np.testing.assert_array_equal(retention_factors(5, "online"), factors[:5])  # T is not needed


def test_priors_of_a_gate_are_the_shares_without_0_and_1():
    for total in (2, 16, 2000):
        np.testing.assert_array_equal(retention_factors(total, "learned"), retention_factors(total))
    assert retention_factors(1, "learned").tolist() == [1 - 1e-5]
    priors, shares = retention_factors(10**5, "learned"), retention_factors(10**5)
    assert priors.min() == 1e-5 and shares.min() < 1e-5
    np.testing.assert_array_equal(priors[shares > 1e-5], shares[shares > 1e-5])


def test_none_replaces_the_memory():
    np.testing.assert_array_equal(retention_factors(4, "none"), np.ones(4))


def test_factors_are_the_callers_own():
    retention_factors(5)[:] = 0
    assert retention_factors(5).sum() == pytest.approx(1)


@pytest.mark.parametrize(("arguments", "named"), [((0, "integrate"), "T is 0"), ((-3, "online"), "T is -3")])
def test_too_few_segments_are_refused(arguments, named):
    with pytest.raises(InputError, match=named):
        retention_factors(*arguments)


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match="mode is 'leaky'") as refusal:
        retention_factors(3, "leaky")
    assert all(mode in str(refusal.value) for mode in RETENTION_MODES)


def test_the_curve_that_all_share_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        curve = ltp_curve()
        curve[1:] *= 2
