"""Speed and memory beside PyTorch: `python -m rmaat_np.benchmark`."""
