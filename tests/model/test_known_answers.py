"""Numbers that must never change: no BLAS touches them, so every machine and every version gives the same.

A gradient check cannot see a wrong constant of the hash, of the initialisation or of the macro model: the model would
still be differentiated correctly. These answers were written down once. A change of one changes every trained model.
"""

from dataclasses import replace

import numpy as np
import pytest

import rmaat_np as rn
from rmaat_np import dropout, plasticity

EXACT = {"rtol": 1e-12, "atol": 0}  # exp and tanh of different C libraries differ in the last bit
CFG = rn.Config(
    vocab_size=5, num_classes=3, d_model=6, num_heads=2, num_layers=1, d_ff=4, segment_length=3, num_segments=2,
    num_memory=2,
)  # fmt: skip
MASKS = {  # seed, step, segment, layer, site, rate -> which of 3 x 20 elements are kept, as bits
    (0, 0, 0, 0, "embedding", 0.3): "efb7d2bfd7aa5fd0",
    (0, 0, 0, 1, "attention", 0.3): "ecfebceffe5afff0",
    (0, 0, 0, 2, "feed_forward", 0.3): "7ec19cbfb9ef3ed0",
    (2**40 + 7, 1, 2, 0, "embedding", 0.3): "fa9e72fdd9e7bad0",
    (2**40 + 7, 1, 2, 1, "attention", 0.3): "0cf7d6ab3ea6eff0",
    (3, 9, 1, 2, "feed_forward", 0.5): "704f2f49c810cc60",
}
FIRST_AND_LAST = {  # of the parameters that seed 7 draws, in float64
    "embed.token": (0.0006150766787412871, 0.05665449300165378),
    "embed.position": (-0.3825339413763484, 0.02983850642414531),
    "embed.segment": (0.0, 0.0),
    "memory.init": (-0.16036759852680535, -0.1689155627514132),
    "blocks.0.attn.qkv.weight": (0.08293099041876262, 0.3000325726709709),
    "blocks.0.attn.rel.weight": (-0.004688783710968931, 0.18427669464929416),
    "blocks.0.attn.out.weight": (-0.13950384524067674, 0.10402858179521589),
    "blocks.0.mlp.in.weight": (0.8267685108079117, 0.0643507995340144),
    "blocks.0.mlp.out.weight": (0.02399962078102848, -0.5384374599135892),
    "head.weight": (-0.10996047116097141, 0.022169356648129097),
}


def test_the_hash_of_a_word():
    assert [dropout.mix(word) for word in (0, 1, 0xDEADBEEF)] == [0, 0x688990C0, 0xE628C683]


@pytest.mark.parametrize(("seed", "step", "segment", "layer", "site", "rate"), MASKS)
def test_dropout_masks(seed, step, segment, layer, site, rate):
    key = dropout.DropoutKey(rate, seed, step, segment, np.array([0, 1, 5], dtype=np.uint32), layer)
    mask = dropout.dropout_mask(key, site, (3, 4, 5), "float64")
    assert np.packbits(mask.ravel() > 0).tobytes().hex() == MASKS[seed, step, segment, layer, site, rate]
    np.testing.assert_allclose(mask.max(), 65536 / (65536 - round(rate * 65536)), **EXACT)


def test_first_parameters():
    params = rn.init_params(CFG, seed=7, dtype="float64")
    for name, ends in FIRST_AND_LAST.items():
        np.testing.assert_allclose(params[name].ravel()[[0, -1]], ends, **EXACT, err_msg=name)
    assert all((params[name] == 1).all() for name in params if name.endswith(".gain"))
    assert all((params[name] == 0).all() for name in params if name.endswith(".bias"))


@pytest.mark.parametrize(
    ("switches", "ends"),
    {
        "no feedback": ({"use_feedback": False}, (-0.00930025634937845, 0.0069352387863477255)),
        "softmax": ({"attention": "softmax"}, (-0.002392734917947342, 0.08916337740323341)),
    }.values(),
)
def test_attention_out_is_scaled_to_its_input(switches, ends):
    params = rn.init_params(replace(CFG, **switches), seed=7, dtype="float64")
    np.testing.assert_allclose(params["blocks.0.attn.out.weight"].ravel()[[0, -1]], ends, **EXACT)


@pytest.mark.parametrize(
    ("total", "factors"),
    {
        1: [1.0],
        2: [0.8172525080270081, 0.18274749197299178],
        3: [0.6645433403867306, 0.24529343567655193, 0.09016322393671751],
        8: [
            0.3279464413118103, 0.22633140412351488, 0.15587587079649873, 0.10709879179518429, 0.07358485415485022,
            0.050558261924271465, 0.034737282197578365, 0.023867093696291725,
        ],
        40: [0.07566061476215766, 0.07025192754807306, 0.06522988664226613, 0.060566852182828056],
    }.items(),
)  # fmt: skip
def test_retention_factors(total, factors):
    for mode in ("integrate", "scale"):
        np.testing.assert_allclose(rn.retention_factors(total, mode)[: len(factors)], factors, **EXACT)


def test_retention_factors_of_a_stream():
    expected = [1.0, 0.6224593312018546, 0.506480391055654, 0.45505423392341127]
    np.testing.assert_allclose(rn.retention_factors(4, "online"), expected, **EXACT)
    assert rn.retention_factors(3, "none").tolist() == [1, 1, 1]


def test_macro_model():
    time, history = plasticity.simulate(1)
    assert len(time) == 301 and time[-1] == pytest.approx(15)
    found = {name: history[name][[50, 100, 150], 1] for name in history}  # the stimulus is on until step 100
    expected = {
        "pre": (1.4457523470576505, 1.5646977275982832, 2.1302466717236753e-10),
        "synapse": (0.847271510220666, 1.0290021382250498, 0.19102105812936085),
        "stp": (0.5849007332967229, 0.8633652702968906, 0.4488611508845568),
        "ltp": (0.035669550230275654, 0.09239179489293384, 0.11865568753469645),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(history["pre"], history["post"], rtol=1e-12)  # the stimulus reaches both alike


def test_ltp_curve():
    expected = [
        0.0, 0.10455401860536656, 0.16832110737666012, 0.20698196503175986, 0.23042118151236846, 0.24463185600956658,
        0.2532474712042932,
    ]  # fmt: skip
    np.testing.assert_allclose(plasticity.ltp_curve(), expected, rtol=1e-11)
