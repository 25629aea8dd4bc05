"""Learned elastic laws of earlier work, as opponents: splines and a small network of the stretches.

    P = U diag(p(s)) Vᵀ,  F = U diag(s) Vᵀ,  τ = P Fᵀ

Neither has plastic flow, and neither keeps the rest state free of stress.

Source: Xu et al. 2015 (splines); Ma et al. 2023 (NCLaw), §4.1 (baselines "spline" and "neural").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError
from ...sim.core.laws.decompositions import isotropic_function

__all__ = ["SplineElastic", "StretchElastic"]


class CubicSpline(nn.Module):
    """C¹ piecewise cubic through learned values at fixed knots, continued by straight lines.

    On the interval between the knots x₀ and x₁, with d = x₁ − x₀ and u = (x − x₀)/d:

        y = (1 + 2u)(1 − u)² y₀ + u (1 − u)² d m₀ + u² (3 − 2u) y₁ − u² (1 − u) d m₁

    Slopes m are those of the parabola through three neighboring knots, for uneven spacing too.

    Args:
        knots: increasing abscissas [-], (K,).
        values: start of the values, (K,).

    Differentiable in x and the values.
    Source: cubic Hermite interpolation; Bessel's slopes (de Boor 1978, ch. IV).
    """

    knots: Tensor

    def __init__(self, knots: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("knots", knots.clone())
        self.values = nn.Parameter(values.clone())

    def slopes(self) -> Tensor:
        """Slopes at the knots, (K,)."""
        d = self.knots.diff()
        secant = self.values.diff() / d
        inner = (d[1:] * secant[:-1] + d[:-1] * secant[1:]) / (d[1:] + d[:-1])
        first = ((2 * d[0] + d[1]) * secant[0] - d[0] * secant[1]) / (d[0] + d[1])
        last = ((2 * d[-1] + d[-2]) * secant[-1] - d[-1] * secant[-2]) / (d[-1] + d[-2])
        return torch.cat([first[None], inner, last[None]])

    def forward(self, x: Tensor) -> Tensor:
        """Values at x, any shape."""
        m = self.slopes()
        i = torch.searchsorted(self.knots, x.detach().contiguous(), right=True) - 1
        i = i.clamp(0, self.knots.shape[0] - 2)
        x0, d = self.knots[i], self.knots.diff()[i]
        u = (x - x0) / d
        inside = u.clamp(0, 1)  # what lies beyond the ends continues as a straight line
        v = 1 - inside
        y = (
            (1 + 2 * inside) * v * v * self.values[i]
            + inside * v * v * d * m[i]
            + inside * inside * (3 - 2 * inside) * self.values[i + 1]
            - inside * inside * v * d * m[i + 1]
        )
        beyond = (u - inside) * d
        return y + beyond * torch.where(u > 1, m[i + 1], m[i])


class SplineElastic(nn.Module):
    """Principal first Piola stress from three splines of the stretches, their products and J.

        p_i = f(s_i) + Σ_{j≠i} g(s_i s_j) s_j + h(s₁s₂s₃) s_j s_k

    f, g, h are C¹ cubics with 21 knots: 11 from 0 to 1 and 11 from 1 to 10, which share the knot at 1.
    Values start linear over the knots from −1 to 1 times `scale`, so that rest is free of stress.

    Args:
        scale: unit of the values [Pa].

    Differentiable in F and the values, once; no gap at equal stretches. NaN where det F ≤ 0.
    Source: Xu et al. 2015, §4; Ma et al. 2023 (NCLaw), baseline "spline". Its release never selects
    the knots above 1; here both halves are used.
    """

    def __init__(self, *, scale: float = 1e4) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"SplineElastic: scale > 0 Pa; got {scale}. Use the size of stress.")
        self.scale = float(scale)
        knots = torch.cat([torch.linspace(0, 1, 11), torch.linspace(1, 10, 11)[1:]])
        start = torch.linspace(-1, 1, 21)
        self.f, self.g, self.h = (CubicSpline(knots, start) for _ in range(3))

    def principal(self, s: Tensor) -> Tensor:
        """p [Pa] of the stretches s, (…, 3) → (…, 3)."""
        pairs = s[..., :, None] * s[..., None, :]
        off = 1 - torch.eye(3, dtype=s.dtype, device=s.device)
        cross = (off * self.g(pairs) * s[..., None, :]).sum(-1)
        a, b, c = s.unbind(-1)
        volume = self.h(a * b * c)[..., None] * torch.stack([b * c, a * c, a * b], -1)
        return self.scale * (self.f(s) + cross + volume)

    def forward(self, F: Tensor) -> Tensor:
        """τ [Pa] of F, both (…, 3, 3)."""
        return isotropic_function(F, self.principal) @ F.mT


class StretchElastic(nn.Module):
    """Principal first Piola stress from a small network of the ordered stretches, 3 → 6 → 6 → 3.

        p = s₀ network(s − 1),  s₁ ≤ s₂ ≤ s₃,  ELU, with biases

    The network of earlier work on learned elasticity: rotations are respected, rest is not free of
    stress, and where two stretches meet, P jumps, because the outputs do not agree there.

    Args:
        hidden: widths of the hidden layers.
        scale: output scale s₀ [Pa].
        generator: source of the Xavier-uniform weights; default torch's global one.

    Differentiable in F and the weights, once, where the stretches differ; the jump itself has no
    derivative, see `isotropic_function` for what stands in its place. NaN where det F ≤ 0.
    Source: Ma et al. 2023 (NCLaw), §4.1, baseline "neural".
    """

    def __init__(
        self,
        hidden: Sequence[int] = (6, 6),
        *,
        scale: float = 1e4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1 or not scale > 0:
            raise InputError(
                f"StretchElastic: hidden layers of width ≥ 1 and scale > 0 Pa; got {tuple(hidden)} "
                f"and {scale}. The paper uses (6, 6)."
            )
        sizes = [3, *hidden, 3]
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            linear = nn.Linear(a, b)
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ELU()]
        self.network = nn.Sequential(*layers[:-1])
        self.scale = float(scale)

    def forward(self, F: Tensor) -> Tensor:
        """τ [Pa] of F, both (…, 3, 3)."""
        return isotropic_function(F, lambda s: self.scale * self.network(s - 1)) @ F.mT
