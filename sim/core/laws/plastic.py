"""Elastoplastic solids: Hencky elasticity with the return maps of von Mises and Drucker–Prager.

A return map changes principal logarithmic strains, ε₊ = ε + k dev ε + q, so the new elastic
deformation gradient is F₊ = exp(k dev E + q I) F. Stretches are not clamped: the logarithm covers
all of (0, ∞).
"""

# No postponed annotations here: Warp cannot see the types of a closure in text.
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backend import warp
from .base import parameter, register_law, stack_coefficients
from .decompositions import log_frame, stretch_by
from .elastic import (
    IsotropicElastic,
    hencky_energy,
    hencky_engine_stress,
    hencky_stress,
    lame,
)
from .warp_linalg import linalg

__all__ = ["DruckerPrager", "VonMises"]

SQRT_2_3 = math.sqrt(2 / 3)


@dataclasses.dataclass(frozen=True, eq=False)
class HenckyPlastic(IsotropicElastic):
    """Elastic part that the plastic solids share: stress and stored energy of `Hencky`."""

    flows: ClassVar[bool] = True

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        return hencky_stress(F, c)

    def energy(self, F: Tensor, c: Tensor) -> Tensor:
        return hencky_energy(F, c)


@register_law("von_mises")
@dataclasses.dataclass(frozen=True, eq=False)
class VonMises(HenckyPlastic):
    """Metals, clay, paste: yields at a deviatoric stress, hardens linearly, flows with viscosity.

        yield:   ‖dev τ‖ ≤ √⅔ (σ_Y + H α),  that is √(3/2) ‖dev τ‖ ≤ σ_Y + H α
        return:  Δ = (2μ‖e‖ − √⅔ (σ_Y + H α)) / (2μ + ⅔H + 2η/dt),  e = dev ε
                 e₊ = (1 − Δ/‖e‖) e,  α₊ = α + √⅔ Δ

    η = 0 is independent of rate. With η > 0 the stress beyond yield relaxes over the time η/μ, by
    backward Euler, so it does not bound dt: a Bingham solid (Perzyna viscoplasticity).

    σ_Y is the yield stress of a bar in tension; α is the equivalent plastic strain. c = (μ, λ,
    σ_Y, H, η).
    Differentiable in F, α, E, ν, σ_Y, H, η, once, on either side of the yield surface.
    Source: Simo & Hughes 1998, Box 3.1, in logarithmic strains (Simo 1992).
    """

    hardening: ClassVar[bool] = True
    n_coefficients: ClassVar[int] = 5

    yield_stress: float | Tensor = parameter(5e3, "Pa", above=0.0)
    """Yield stress in uniaxial tension σ_Y [Pa]; 5 % of E, as modeling clay."""
    H: float | Tensor = parameter(0.0, "Pa", at_least=0.0)
    """Hardening modulus dσ_Y/dα [Pa]; 0 is ideal plasticity."""
    eta: float | Tensor = parameter(0.0, "Pa s", at_least=0.0)
    """Shear viscosity of the plastic flow [Pa s]; 0 is independent of rate."""

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        v = self.values(p)
        return stack_coefficients(*lame(v["E"], v["nu"]), v["yield_stress"], v["H"], v["eta"])

    def flow(
        self, F: Tensor, alpha: Tensor | None, c: Tensor, dt: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Radial return; α = None counts as 0 and stays None, which is right for H = 0 only."""
        mu, _, sigma, H, eta = c
        frame = log_frame(F)
        norm = _deviator_norm(frame.eps)
        limit = sigma if alpha is None else sigma + H * alpha
        excess = (2 * mu * norm - SQRT_2_3 * limit) / (2 * mu + 2 / 3 * H + 2 * eta / dt)
        yields = excess > 0
        k = torch.where(yields, -excess / torch.where(yields, norm, 1.0), 0.0)
        F_new = stretch_by(F, frame, k, torch.zeros_like(k))
        F_new = torch.where((excess <= 0)[..., None, None], F, F_new)
        if alpha is None:
            return F_new, None
        return F_new, alpha + torch.where(yields, SQRT_2_3 * excess, 0.0)

    def engine_functions(self, real: Any) -> tuple[Any, Any]:
        return hencky_engine_stress(real, 5), _von_mises_flow(real)


@register_law("drucker_prager")
@dataclasses.dataclass(frozen=True, eq=False)
class DruckerPrager(HenckyPlastic):
    """Sand: shear strength grows with pressure; under tension beyond cohesion it separates.

        a = √⅔ · 2 sin φ/(3 − sin φ),  s = C cot φ/(3λ + 2μ),  t = tr ε − 3s
        t ≥ 0:  ε₊ = s (1, 1, 1)                       (tip of the cone: free of shear)
        t < 0:  Δ = ‖e‖ + (3λ + 2μ)/(2μ) · a t,  e₊ = e − max(Δ, 0) e/‖e‖

    The flow does not dilate: shear keeps the volume. c = (μ, λ, a, s).
    Differentiable in F, E, ν, φ, C, once, inside each of the three regions.
    Source: Klár et al. 2016, §7; Drucker & Prager 1952 for a.
    """

    n_coefficients: ClassVar[int] = 4

    E: float | Tensor = parameter(1e6, "Pa", above=0.0)
    """Young's modulus [Pa]; far softer than quartz, stiff enough not to compact under its
    weight."""
    friction: float | Tensor = parameter(30.0, "deg", above=0.0, below=90.0)
    """Angle of internal friction φ [deg]; dry sand."""
    cohesion: float | Tensor = parameter(0.0, "Pa", at_least=0.0)
    """Cohesion C [Pa]; dry sand has none. Mean tension up to C cot φ is carried."""

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        v = self.values(p)
        mu, lam = lame(v["E"], v["nu"])
        phi = torch.deg2rad(v["friction"])
        sine = torch.sin(phi)
        slope = SQRT_2_3 * 2 * sine / (3 - sine)
        tip = v["cohesion"] / torch.tan(phi) / (3 * lam + 2 * mu)
        return stack_coefficients(mu, lam, slope, tip)

    def flow(
        self, F: Tensor, alpha: Tensor | None, c: Tensor, dt: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        mu, lam, slope, tip = c
        frame = log_frame(F)
        trace = frame.eps.sum(-1)
        t = trace - 3 * tip
        norm = _deviator_norm(frame.eps)
        excess = norm + (3 * lam + 2 * mu) / (2 * mu) * slope * t
        open_ = t >= 0
        yields = (excess > 0) & ~open_
        k = torch.where(yields, -excess / torch.where(yields, norm, 1.0), 0.0)
        k = torch.where(open_, -1.0, k)
        q = torch.where(open_, tip - trace / 3, 0.0)
        F_new = stretch_by(F, frame, k, q)
        elastic = (excess <= 0) & (t < 0)
        return torch.where(elastic[..., None, None], F, F_new), alpha

    def engine_functions(self, real: Any) -> tuple[Any, Any]:
        return hencky_engine_stress(real, 4), _drucker_prager_flow(real)


def _deviator_norm(eps: Tensor) -> Tensor:
    """‖dev ε‖, shape (…), with derivative 0 at 0."""
    square = (eps - eps.mean(-1, keepdim=True)).square().sum(-1)
    return torch.where(square == 0, 0.0, torch.where(square == 0, 1.0, square).sqrt())


@functools.cache
def _deviator(real: Any) -> Any:
    """Warp function ‖dev ε‖ with derivative 0 at 0."""
    wp = warp()
    vec3 = wp.types.vector(3, real)
    third, zero = real(1 / 3), real(0.0)

    @wp.func(name=f"deviator_norm_{real.__name__}")
    def deviator_norm(eps: vec3) -> real:
        mean = third * (eps[0] + eps[1] + eps[2])
        e = eps - vec3(mean, mean, mean)
        square = wp.dot(e, e)
        norm = square
        if square != zero:
            norm = wp.sqrt(square)
        return norm

    return deviator_norm


@functools.cache
def _von_mises_flow(real: Any) -> Any:
    wp = warp()
    mat33, vec5 = wp.types.matrix((3, 3), real), wp.types.vector(5, real)
    la, deviator_norm = linalg(real), _deviator(real)
    left_stretch, eigen, stretch = la.left_stretch, la.eigen, la.stretch_by
    principal_logs = la.principal_logs
    two, third2, root, zero = real(2.0), real(2 / 3), real(SQRT_2_3), real(0.0)

    @wp.func(name=f"von_mises_flow_{real.__name__}")
    def flow(F: mat33, alpha: real, c: vec5, dt: real):
        b = left_stretch(F)
        U, lam = eigen(b)
        eps = principal_logs(b, U, lam)
        norm = deviator_norm(eps)
        modulus = two * c[0] + third2 * c[3] + two * c[4] / dt
        excess = (two * c[0] * norm - root * (c[2] + c[3] * alpha)) / modulus
        F_new = F
        alpha_new = alpha
        # Negated, so that NaN takes the branch that shows it.
        if not (excess <= zero):
            F_new = stretch(F, b, U, lam, eps, -excess / norm, zero)
            alpha_new = alpha + root * excess
        return F_new, alpha_new

    return flow


@functools.cache
def _drucker_prager_flow(real: Any) -> Any:
    wp = warp()
    mat33, vec4 = wp.types.matrix((3, 3), real), wp.types.vector(4, real)
    la, deviator_norm = linalg(real), _deviator(real)
    left_stretch, eigen, stretch = la.left_stretch, la.eigen, la.stretch_by
    principal_logs = la.principal_logs
    one, two, three, zero, third = real(1.0), real(2.0), real(3.0), real(0.0), real(1 / 3)

    @wp.func(name=f"drucker_prager_flow_{real.__name__}")
    def flow(F: mat33, alpha: real, c: vec4, dt: real):
        b = left_stretch(F)
        U, lam = eigen(b)
        eps = principal_logs(b, U, lam)
        trace = eps[0] + eps[1] + eps[2]
        t = trace - three * c[3]
        norm = deviator_norm(eps)
        excess = norm + (three * c[1] + two * c[0]) / (two * c[0]) * c[2] * t
        F_new = F
        if t >= zero:
            F_new = stretch(F, b, U, lam, eps, -one, c[3] - third * trace)
        elif not (excess <= zero):
            F_new = stretch(F, b, U, lam, eps, -excess / norm, zero)
        return F_new, alpha

    return flow
