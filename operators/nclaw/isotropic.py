"""Isotropic networks: stress from symmetric functions of the strain, plastic flow as a return map.

    elastic   τ = s₀ R [(c·k) I + a₁ E + a₂ E²] Rᵀ,  (c, a) = network(k),  E = RᵀF − I
    plastic   t₊ = min(t, T),  ‖e₊‖ = min(‖e‖, Y(t₊)),  e = dev ε, t = tr ε, ε = log s

All four materials of the paper are isotropic; a network that need not learn this sees three numbers
in place of thirteen. Its coefficients multiply powers of the strain, so equal stretches leave no gap
in the derivative (representation theorem of isotropic functions).

A return map shrinks strains and never turns or grows them. So plastic flow only lowers an energy
that grows with the size of the strain deviator and of the dilation, and applying it twice is
applying it once: elastic states stay where they are, however many steps they take.

Source: Rivlin & Ericksen 1955 (representation); Simo & Hughes 1998, ch. 3 (return maps); additions
to Ma et al. 2023 (NCLaw).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError
from ...sim.core.laws.decompositions import log_frame, stretch_by
from .invariants import invariants, kirchhoff_stress

__all__ = ["NeuralIsotropic", "NeuralReturn"]


def perceptron(sizes: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    """GELU perceptron with biases, Xavier-uniform weights and a last layer that starts at a tenth."""
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        linear = nn.Linear(a, b)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU()]
    with torch.no_grad():
        layers[-2].weight.mul_(0.1)
    return nn.Sequential(*layers[:-1])


class NeuralIsotropic(nn.Module):
    """Kirchhoff stress of an isotropic solid or liquid, 3 → width → width → 5.

        k = (tr E, ‖dev E‖², J − 1),  E = S − I,  F = R S
        principal values  t_i = s₀ [c·k + a₁ e_i + a₂ e_i²]

    τ(QFQ') = Q τ(F) Qᵀ for rotations Q and Q', τ(I) = 0 and τ = τᵀ hold for any weights. Every
    smooth isotropic stress that vanishes at rest has this form. It starts near the linear solid
    2μ = s₀, λ = s₀/2.

    Args:
        width: width of the two hidden layers.
        scale: start of the output scale s₀ [Pa], whose logarithm is learned.
        generator: source of the weights; default torch's global one.

    Differentiable in F and the weights, once; no gap at equal stretches.
    Source: Rivlin & Ericksen 1955, §39 (powers of the strain, coefficients of its invariants).
    """

    def __init__(
        self,
        width: int = 32,
        *,
        scale: float = 1e4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or not scale > 0:
            raise InputError(
                f"NeuralIsotropic: width ≥ 1 and scale > 0 Pa; got {width} and {scale}. Use the "
                "size of the stress as scale."
            )
        self.network = perceptron((3, width, width, 5), generator)
        with torch.no_grad():
            self.network[-1].bias.copy_(torch.tensor([0.5, 0.0, 0.0, 1.0, 0.0]))
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def forward(self, F: Tensor) -> Tensor:
        """τ [Pa] of F, both (…, 3, 3)."""
        h, R = invariants(F)
        eye = torch.eye(3, dtype=F.dtype, device=F.device)
        E = R.mT @ F - eye
        trace = E.diagonal(dim1=-2, dim2=-1).sum(-1)
        shear = E.square().sum((-2, -1)) - trace.square() / 3
        k = torch.stack([trace, shear, h[..., 12]], -1)
        out = self.network(k)
        isotropic = (out[..., :3] * k).sum(-1)[..., None, None] * eye
        a1, a2 = out[..., 3, None, None], out[..., 4, None, None]
        y = isotropic + a1 * E + a2 * (E @ E)
        return kirchhoff_stress(self.log_scale.exp() * y, R, R)


class NeuralReturn(nn.Module):
    """Plastic flow as the return map of a learned cone with a learned tip.

        ε = log s,  t = tr ε,  e = ε − t/3
        t₊ = min(t, T),  e₊ = e min(1, Y(t₊)/‖e‖),  F₊ = exp(ε₊ − ε) F
        Y(t) = (c + β max(0, −t)) exp(tanh(network(asinh(t/10⁻³))))

    Contains von Mises (β = 0), Drucker–Prager without cohesion (c = T = 0), liquids (c = β = 0:
    the deviator is forgotten) and elasticity (c and T larger than all strains); the network bends
    the cone by up to a factor e either way. c, β and T are learned by their logarithms.
    F₊(QFQ') = Q F₊(F) Q', F₊(I) = I and idempotence hold for any weights.

    A state inside the yield surface says nothing about the surface. So the radius starts small, and
    training widens it.

    Args:
        width: width of the hidden layer.
        radius: start of c and T [-]; β starts at 0.1.
        generator: source of the weights.

    Differentiable in F and the weights, once, on either side of the yield surface; NaN where
    det F ≤ 0.
    Source: Simo & Hughes 1998, Box 3.1; Klár et al. 2016, §7 (the form of the cone).
    """

    def __init__(
        self,
        width: int = 16,
        *,
        radius: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or not radius > 0:
            raise InputError(
                f"NeuralReturn: width ≥ 1 and radius > 0; got {width} and {radius}. Use the size "
                "of the smallest strains that matter, as 0.001."
            )
        self.network = perceptron((1, width, 1), generator)
        # A fifth of the logarithm is learned: of order 1 as weights are, and a step of an optimizer
        # that suits weights changes it by some per cent, over the decades from sand to jelly.
        start = torch.tensor([radius, 0.1, radius]).log() / 5
        self.cohesion, self.slope, self.tension = (nn.Parameter(p) for p in start)

    def surface(self) -> tuple[Tensor, Tensor, Tensor]:
        """c, β and T."""
        return tuple((5 * p).exp() for p in (self.cohesion, self.slope, self.tension))

    def radius(self, t: Tensor) -> Tensor:
        """Y of the dilation t, (…) → (…)."""
        c, beta, _ = self.surface()
        bend = self.network(torch.asinh(t / 1e-3)[..., None])[..., 0]
        return (c + beta * torch.relu(-t)) * torch.tanh(bend).exp()

    def forward(self, F: Tensor) -> Tensor:
        """F₊ of the trial F, both (…, 3, 3)."""
        frame = log_frame(F)
        t = frame.eps.sum(-1)
        square = (frame.eps - t[..., None] / 3).square().sum(-1)
        # Where square is 0, the root has no derivative; nothing yields there.
        norm = torch.where(square > 0, square, 1.0).sqrt()
        kept = torch.minimum(t, self.surface()[2])
        radius = self.radius(kept)
        yields = (square > 0) & (norm > radius)
        k = torch.where(yields, radius / norm - 1, 0.0)
        q = kept - t
        flows = yields | (q.detach() < 0)
        return torch.where(flows[..., None, None], stretch_by(F, frame, k, q / 3), F)
