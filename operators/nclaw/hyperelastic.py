"""Neural hyperelasticity: an isotropic energy in place of a stress, so no work comes from nothing.

    ψ(F) = s₀ [n(k) − ∂n/∂J(0) (J − 1)],   k = (Ī₁ − 3, Ī₂ − 3, J − 1)
    τ = ∂ψ/∂F Fᵀ = 2 dev[(ψ₁ + Ī₁ ψ₂) b̄ − ψ₂ b̄²] + J ψ_J I,   b̄ = J^(−2/3) F Fᵀ

Frame indifference, isotropy, τ(I) = 0 and a symmetric τ hold for any weights, and a closed cycle of
strains does no work.

Source: Bonet & Wood 2008, §6.4–6.5 (isochoric invariants); an addition to Ma et al. 2023 (NCLaw).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError

__all__ = ["NeuralHyperelastic"]


class NeuralHyperelastic(nn.Module):
    """Kirchhoff stress from a learned energy of three invariants, 3 → width → width → 1.

    Args:
        width: width of the two hidden layers (softplus).
        scale: start of the energy scale s₀ [Pa], whose logarithm is learned.
        generator: source of the Xavier-uniform weights; default torch's global one.

    Differentiable in F and the weights; NaN where det F ≤ 0.
    Source: Bonet & Wood 2008, §6.4–6.5.
    """

    def __init__(
        self,
        width: int = 32,
        *,
        scale: float = 1e4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or scale <= 0:
            raise InputError(
                f"NeuralHyperelastic: width ≥ 1 and scale > 0 Pa; got {width} and {scale}. "
                "Use the size of the stiffness as scale."
            )
        sizes = [(3, width), (width, width), (width, 1)]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=b > 1) for a, b in sizes)
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def slopes(self, k: Tensor) -> Tensor:
        """∂n/∂k of the perceptron, (…, 3) → (…, 3), by the chain rule, so that one backward pass
        suffices."""
        first, second, last = self.layers
        z1 = first(k)
        z2 = second(nn.functional.softplus(z1))
        g = last.weight[0] * torch.sigmoid(z2)
        return ((g @ second.weight) * torch.sigmoid(z1)) @ first.weight

    def energy(self, F: Tensor) -> Tensor:
        """ψ [J/m³] relative to rest, (…, 3, 3) → (…)."""
        k, _, _ = self._invariants(F)
        rest = k.new_zeros(3)
        n = self._perceptron(k) - self._perceptron(rest)
        return self.log_scale.exp() * (n - self.slopes(rest)[2] * k[..., 2])

    def forward(self, F: Tensor) -> Tensor:
        """τ [Pa] of F, both (…, 3, 3)."""
        k, b, J = self._invariants(F)
        d1, d2, dJ = (self.log_scale.exp() * self.slopes(k)).unbind(-1)
        dJ = dJ - self.log_scale.exp() * self.slopes(k.new_zeros(3))[2]
        b2 = b @ b
        M = (d1 + (k[..., 0] + 3) * d2)[..., None, None] * b - d2[..., None, None] * b2
        pressure = J * dJ - 2 / 3 * M.diagonal(dim1=-2, dim2=-1).sum(-1)
        eye = torch.eye(3, dtype=F.dtype, device=F.device)
        return 2 * M + pressure[..., None, None] * eye

    def _perceptron(self, k: Tensor) -> Tensor:
        first, second, last = self.layers
        softplus = nn.functional.softplus
        return last(softplus(second(softplus(first(k)))))[..., 0]

    @staticmethod
    def _invariants(F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """k (…, 3), b̄ (…, 3, 3) and J (…)."""
        # By expansion: the derivative of a factorization is undefined for some matrices.
        J = (F[..., 0] * torch.linalg.cross(F[..., 1], F[..., 2], dim=-1)).sum(-1)
        b = J.pow(-2 / 3)[..., None, None] * (F @ F.mT)
        trace = b.diagonal(dim1=-2, dim2=-1).sum(-1)
        second = 0.5 * (trace.square() - b.square().sum((-2, -1)))
        return torch.stack([trace - 3, second - 3, J - 1], -1), b, J
