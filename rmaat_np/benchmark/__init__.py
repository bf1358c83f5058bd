"""Speed and memory beside PyTorch: the command `python -m rmaat_np.benchmark`. No other code imports this package."""

__all__: list[str] = []
