"""RMAAT in NumPy: long sequences read in segments, with memory tokens and memory replay; every gradient by hand.

From the paper (arXiv:2601.00426) to the code:
    STP attention: H_neuron, H_astro, g, C, P   attention.py   astromorphic_attention_forward, _backward
    phi(R), the positional part of H_astro      attention.py   relative_features_forward, _backward
    block, segment, head                        model.py       block_forward, segment_forward, head_forward, and back
    LTP, retention factor RF(t, T)              plasticity.py  simulate, ltp_curve, retention_factors
    memory update                               memory.py      memory_update_forward, _backward
    AMRB beside BPTT                            replay.py      bptt, amrb
    a whole step on a batch                     step.py        loss_and_grads, predict
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (who has an older one should read this, and not "No module named tomllib")
    raise ImportError("rmaat_np needs Python 3.11 or newer; this is " + sys.version.split()[0])

from . import backend
from .config import Config
from .errors import InputError
from .params import init_params
from .plasticity import retention_factors
from .step import loss_and_grads, predict

__version__ = "0.1.0"
__all__ = [
    "Config",  # sizes and switches of one model
    "InputError",  # what is raised for input that cannot be used
    "backend",  # backend.use("numpy" or "cupy"): which array module computes
    "init_params",  # random parameters, a flat dict of arrays
    "loss_and_grads",  # loss, gradients and statistics of one batch, by AMRB or BPTT
    "predict",  # logits of a batch
    "retention_factors",  # what the memory update multiplies by
]
