"""What dropout's masks must be."""

import numpy as np
from helpers.checks import mask_of

PART = {"seed": 0, "step": 0, "segment": 0, "layer": 0, "site": "attention", "row": 0}


def check_scale_and_mean(rate, dtype):
    size = 100_000
    mask = mask_of(PART, rate, size, dtype)
    assert mask.dtype == dtype
    kept = mask[mask > 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=2**-16 / (1 - rate))  # the rate goes in steps of 2^-16
    assert np.ptp(kept) == 0
    assert abs(mask.mean() - 1) <= 5 * np.sqrt(rate / (1 - rate) / size)
