"""Memory of what was found at the last positions: energy, gradient and Hessian ask in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Memo"]


class Memo:
    """Values at one configuration by name; another configuration forgets them."""

    def __init__(self) -> None:
        self.x: Tensor | None = None
        self.values: dict[str, Any] = {}

    def at(self, x: Tensor, name: str, function: Callable[[], Any]) -> Any:
        """function() at x, from memory if it was asked for there before."""
        if self.x is None or not torch.equal(self.x, x):
            self.x, self.values = x.detach().clone(), {}
        if name not in self.values:
            self.values[name] = function()
        return self.values[name]
