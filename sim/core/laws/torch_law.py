"""A law made of any two torch functions, such as neural networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from .base import Law, parameter, register_law, setting, stack_coefficients

__all__ = ["TorchLaw"]


@register_law("torch")
@dataclasses.dataclass(frozen=True, eq=False)
class TorchLaw(Law):
    """τ = elastic(F), F₊ = plastic(F_trial), for any callables on (…, 3, 3) tensors.

    Runs between the transfers, in torch, and differentiates as far as the callables do; weights of
    modules are listed by `weights` so that a rollout can hand gradients to them.
    Source: the split into an elastic and a plastic function follows Ma et al. 2023 (NCLaw), §3.
    """

    n_coefficients: ClassVar[int] = 1
    flows: ClassVar[bool] = True

    elastic: Callable[[Tensor], Tensor] = setting()
    """Kirchhoff stress τ [Pa] from F, (…, 3, 3) → (…, 3, 3)."""
    plastic: Callable[[Tensor], Tensor] | None = setting(None)
    """F₊ from the trial F, (…, 3, 3) → (…, 3, 3); None for no plasticity."""
    stiffness: float | Tensor = parameter(1e5, "Pa", above=0.0)
    """P-wave modulus [Pa] that bounds the step size; the stiffest response the function may
    show."""

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        return stack_coefficients(self.values(p)["stiffness"])

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        return self.elastic(F)

    def flow(
        self, F: Tensor, alpha: Tensor | None, c: Tensor, dt: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return (F if self.plastic is None else self.plastic(F)), alpha

    def wave_modulus(self, c: Tensor) -> Tensor:
        return c[0]

    def weights(self) -> tuple[Tensor, ...]:
        modules = [m for m in (self.elastic, self.plastic) if isinstance(m, torch.nn.Module)]
        found = {id(w): w for m in modules for w in m.parameters()}
        return tuple(found.values())
