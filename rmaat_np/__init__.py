"""RMAAT in NumPy: long sequences read in segments, with memory tokens and memory replay; every gradient by hand.

From the paper (arXiv:2601.00426) to the code:
    STP attention: H_neuron, H_astro, g, C, P   attention.py   astromorphic_attention_forward, _backward
    phi(R), the positional part of H_astro      attention.py   relative_features_forward, _backward
    the same with a decay for each head         attention.py   head_relative_features_forward, _backward
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
from .data.own.arrays import dataset
from .data.own.codec import Codec
from .errors import InputError
from .inference import lengthen, predict_proba
from .params import init_params
from .plasticity import retention_factors
from .step import loss_and_grads, predict
from .training.checkpoint import load_model as load
from .training.checkpoint import save_model as save
from .training.program import train
from .training.run import load_run, new_run

__version__ = "0.1.0"
__all__ = [
    "Codec",  # how rows of one's own become tokens, and class numbers names
    "Config",  # sizes and switches of one model
    "InputError",  # what is raised for input that cannot be used
    "backend",  # backend.use("numpy" or "cupy"): which array module computes
    "dataset",  # rows and labels of one's own, checked and divided into train, val and test
    "init_params",  # random parameters, a flat dict of arrays
    "lengthen",  # the same model for longer rows
    "load",  # parameters, Config and Codec of a run, of a checkpoint, or of what `save` wrote
    "load_run",  # a run, to go on with
    "loss_and_grads",  # loss, gradients and statistics of one batch, by AMRB or BPTT
    "new_run",  # a run in a new folder, for `train`
    "predict",  # logits of a batch
    "predict_proba",  # probabilities of rows of any lengths
    "retention_factors",  # what the memory update multiplies by
    "save",  # a model without the state of its training
    "torch_model",  # the same model as a torch.nn.Module
    "train",  # train a run to its last step
]


def torch_model(cfg: Config):
    """The same model as a `torch.nn.Module`, whose state_dict has the names of our parameters.

    `torch_model(cfg).load_arrays(params)` takes over parameters; calling it with tokens (B, n) gives logits (B, C).
    Raises: InputError with the remedy where PyTorch is missing.
    """
    from .benchmark.torch_model import Model

    return Model(cfg)
