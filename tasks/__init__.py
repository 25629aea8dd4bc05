"""Tasks, optimizers, experiments and the command line."""

from __future__ import annotations

from . import fluid, grid, shell, tactile  # registers the built-in tasks; imports none of them

__all__ = ["fluid", "grid", "shell", "tactile"]
