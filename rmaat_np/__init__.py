"""RMAAT in NumPy: long sequences read in segments, with memory tokens and memory replay; every gradient by hand."""

from . import backend
from .config import Config
from .params import init_params
from .plasticity import retention_factors
from .step import loss_and_grads, predict

__all__ = ["Config", "backend", "init_params", "loss_and_grads", "predict", "retention_factors"]
