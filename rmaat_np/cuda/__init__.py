"""Fused CUDA kernels; `backend.use("cupy")` loads them, and nothing else does."""
