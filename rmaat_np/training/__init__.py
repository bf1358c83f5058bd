"""Runs: settings, checkpoints, the loop, and comparisons of several."""
