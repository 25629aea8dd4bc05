"""Neural constitutive laws: two small networks that respect frame indifference and equilibrium.

    elastic   h(F) → y,  P = R · ½(y + yᵀ),  τ = P Fᵀ
    plastic   h(F) → y,  F₊ = F + α R · ½(y + yᵀ)

The input h holds invariants of F that vanish at F = I, and no layer has a bias. So whatever the
weights are: τ(QF) = Q τ(F) Qᵀ, F₊(QF) = Q F₊(F), τ(I) = 0 and F₊(I) = I.

Source: Ma et al. 2023 (NCLaw), §3.2 and released configuration "invariant full".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError
from ...sim.core.laws import TorchLaw, lame
from .invariants import FEATURES, invariants, kirchhoff_stress, plastic_update

__all__ = ["NeuralElastic", "NeuralPlastic", "neural_law"]


class InvariantNetwork(nn.Module):
    """Perceptron without bias from the invariants to 3×3 numbers, 13 → 64 → 64 → 9 with exact GELU.

    Args:
        hidden: widths of the hidden layers.
        gain: factor on the initial weights of the last layer.
        generator: source of the Xavier-uniform weights; default torch's global one.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        *,
        gain: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise InputError(
                f"{type(self).__name__}: at least one hidden layer of width ≥ 1; got "
                f"{tuple(hidden)}. The paper uses (64, 64)."
            )
        sizes = [FEATURES, *hidden, 9]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        with torch.no_grad():
            self.layers[-1].weight.mul_(gain)

    def hidden(self, h: Tensor) -> Tensor:
        """Activations before the last layer, (…, 13) → (…, width)."""
        for layer in self.layers[:-1]:
            h = nn.functional.gelu(layer(h))
        return h

    def network(self, h: Tensor) -> Tensor:
        """Output of the perceptron, (…, 13) → (…, 3, 3), not symmetrized."""
        return self.layers[-1](self.hidden(h)).unflatten(-1, (3, 3))


class NeuralElastic(InvariantNetwork):
    """Kirchhoff stress from F: τ = s₀ R Y(h) Fᵀ + τ_lin.

    The defaults s₀ = 1 and τ_lin = 0 are the paper's network. Raw outputs are then of the order of
    0.01 Pa at the start, which is why the paper trains it with a learning rate of 1.

    Args:
        hidden: widths of the hidden layers.
        scale: start of the output scale s₀ [Pa], whose logarithm is then learned; None: s₀ = 1,
            fixed.
        skip: start of (E [Pa], ν [-]) of the linear law τ_lin = R (2μ (S − I) + λ tr(S − I) I) Fᵀ
            with F = R S, whose logarithms of μ and λ are learned; needs ν > 0. None: no such part.
        generator: source of the weights.

    Differentiable in F and the weights, once.
    Source: Ma et al. 2023 (NCLaw), §3.2; scale and skip are additions.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        *,
        scale: float | None = None,
        skip: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(hidden, generator=generator)
        self.log_scale = None
        if scale is not None:
            if scale <= 0:
                raise InputError(
                    f"NeuralElastic: scale > 0 Pa; got {scale}. Use the size of the stress."
                )
            self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.log_lame = None
        if skip is not None:
            E, nu = (torch.tensor(value) for value in skip)
            if not (E > 0 and 0 < nu < 0.5):
                raise InputError(
                    f"NeuralElastic: skip = (E > 0 Pa, 0 < ν < 0.5); got {skip}. Correct it."
                )
            self.log_lame = nn.Parameter(torch.stack(lame(E, nu)).log())

    def forward(self, F: Tensor) -> Tensor:
        """τ [Pa] of F, both (…, 3, 3)."""
        h, R = invariants(F)
        y = self.network(h)
        if self.log_scale is not None:
            y = y * self.log_scale.exp()
        if self.log_lame is not None:
            mu, lam = self.log_lame.exp()
            eye = torch.eye(3, dtype=F.dtype, device=F.device)
            strain = R.mT @ F - eye
            trace = strain.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
            y = y + 2 * mu * strain + lam * trace * eye
        return kirchhoff_stress(y, R, F)


class NeuralPlastic(InvariantNetwork):
    """Elastic part of a trial deformation gradient: F₊ = F + α R Y(h).

    Args:
        hidden: widths of the hidden layers.
        alpha: size of one correction [-]; the paper's value.
        gain: factor on the initial weights of the last layer; small: the material starts elastic.
        generator: source of the weights.

    Differentiable in F and the weights, once.
    Source: Ma et al. 2023 (NCLaw), §3.2.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        *,
        alpha: float = 1e-3,
        gain: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(hidden, gain=gain, generator=generator)
        self.alpha = alpha

    def forward(self, F: Tensor) -> Tensor:
        """F₊ of the trial F, both (…, 3, 3)."""
        h, R = invariants(F)
        return plastic_update(self.network(h), R, F, self.alpha)


def neural_law(
    elastic: nn.Module,
    plastic: nn.Module | None = None,
    *,
    rho: float | Tensor = 1e3,
    stiffness: float | Tensor = 1e5,
) -> TorchLaw:
    """The law of two networks, for `Group.law` of a simulator.

    Args:
        elastic: F → Kirchhoff stress τ [Pa].
        plastic: trial F → F₊; None for no plastic flow.
        rho: density at rest [kg/m³].
        stiffness: P-wave modulus [Pa] for the bound on the time step: the stiffest response that
            the networks are expected to learn.

    Returns:
        A law that runs in torch between the transfers and is differentiable in all weights.
    """
    return TorchLaw(elastic=elastic, plastic=plastic, rho=rho, stiffness=stiffness)
