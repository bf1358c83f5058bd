"""float32 stays float32, and float64 float64: through every pair, the whole model and the optimiser."""

import numpy as np
import pytest
import test_attention
import test_layers
import test_memory
from checks import CONFIGS, check_model_dtype, check_pair_dtype

PAIRS = test_layers.PAIRS | test_attention.PAIRS | test_memory.PAIRS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_pairs(pair, dtype):
    check_pair_dtype(pair, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_model_and_optimiser(cfg, dtype):
    check_model_dtype(cfg, dtype)
