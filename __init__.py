"""Rheograd: differentiable physics and PDE learning as PyTorch operations."""

__version__ = "0.1.0"
