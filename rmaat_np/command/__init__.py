"""The command `python run_lra.py`: what it reads, prints and answers to signals. Nothing imports it."""

from . import main

__all__ = ["main"]
