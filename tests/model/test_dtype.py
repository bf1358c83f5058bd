"""float32 stays float32, and float64 float64: through every pair, the whole model and the optimiser."""

import numpy as np
import pytest
from helpers import attention_pairs, layers_pairs, memory_pairs
from helpers.checks import CONFIGS, check_model_dtype, check_pair_dtype

PAIRS = layers_pairs.PAIRS | attention_pairs.PAIRS | memory_pairs.PAIRS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_pairs(pair, dtype):
    check_pair_dtype(pair, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_model_and_optimiser(cfg, dtype):
    check_model_dtype(cfg, dtype)
