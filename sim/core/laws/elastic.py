"""Hyperelastic solids: neo-Hookean, fixed corotated, Hencky.

Each derives from an energy ψ per rest volume, τ = (∂ψ/∂F) Fᵀ, in torch and as Warp functions.
Particles that turn inside out (det F ≤ 0) get NaN stress, which the solver reports.
"""

# No postponed annotations here: Warp cannot see the types of a closure in text.
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backend import warp
from .base import Law, parameter, register_law, stack_coefficients
from .decompositions import log_frame, log_strain, polar_rotation
from .warp_linalg import linalg

__all__ = ["FixedCorotated", "Hencky", "IsotropicElastic", "NeoHookean", "lame", "young"]


def lame(E: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
    """Lamé parameters μ = E/(2(1+ν)), λ = Eν/((1+ν)(1−2ν)) [Pa]; differentiable in both."""
    return E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))


def young(mu: float | Tensor, lam: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    """Young's modulus [Pa] and Poisson ratio from Lamé parameters: E = μ(3λ+2μ)/(λ+μ), ν =
    λ/(2(λ+μ))."""
    return mu * (3 * lam + 2 * mu) / (lam + mu), lam / (2 * (lam + mu))


@dataclasses.dataclass(frozen=True, eq=False)
class IsotropicElastic(Law):
    """Parameters E, ν that all isotropic solids share; c = (μ, λ)."""

    n_coefficients: ClassVar[int] = 2

    E: float | Tensor = parameter(1e5, "Pa", above=0.0)
    """Young's modulus [Pa]; 0.1 MPa is a soft gel, stable at centimeter cells with dt of 0.1 ms."""
    nu: float | Tensor = parameter(0.2, "-", above=-1.0, below=0.5)
    """Poisson ratio [-]; 0.2 keeps the P-wave modulus close to E."""

    @classmethod
    def from_lame(cls, mu: float | Tensor, lam: float | Tensor, **fields: Any):
        """The law with Lamé parameters μ, λ [Pa] in place of E, ν."""
        E, nu = young(mu, lam)
        return cls(E=E, nu=nu, **fields)

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        v = self.values(p)
        return stack_coefficients(*lame(v["E"], v["nu"]))

    def wave_modulus(self, c: Tensor) -> Tensor:
        return c[1] + 2 * c[0]


@register_law("neo_hookean")
@dataclasses.dataclass(frozen=True, eq=False)
class NeoHookean(IsotropicElastic):
    """Compressible neo-Hookean solid, τ = μ (F Fᵀ − I) + λ ln J I.

    The cheapest solid: no decomposition. Differentiable in F, E, ν, to any order.
    Source: Bonet & Wood 2008, Eq. 6.28.
    """

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        mu, lam = _expand(c)
        J = torch.linalg.det(F)[..., None, None]
        eye = torch.eye(3, dtype=F.dtype, device=F.device)
        return mu * (F @ F.mT - eye) + lam * torch.log(J) * eye

    def energy(self, F: Tensor, c: Tensor) -> Tensor:
        log_J = torch.log(torch.linalg.det(F))
        shear = 0.5 * (F.square().sum((-2, -1)) - 3) - log_J
        return c[0] * shear + 0.5 * c[1] * log_J.square()

    def engine_functions(self, real: Any) -> tuple[Any, Any]:
        return _neo_hookean(real)


@register_law("fixed_corotated")
@dataclasses.dataclass(frozen=True, eq=False)
class FixedCorotated(IsotropicElastic):
    """Fixed corotated solid, τ = 2μ (F − R) Fᵀ + λ J (J − 1) I, with F = R S.

    Differentiable in F, E, ν, twice in torch; finite at F = I and for repeated stretches.
    Source: Stomakhin et al. 2012, Eq. 1–3.
    """

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        mu, lam = _expand(c)
        J = torch.linalg.det(F)[..., None, None]
        eye = torch.eye(3, dtype=F.dtype, device=F.device)
        return 2 * mu * (F - polar_rotation(F)) @ F.mT + lam * J * (J - 1) * eye

    def energy(self, F: Tensor, c: Tensor) -> Tensor:
        J = torch.linalg.det(F)
        shear = (F - polar_rotation(F)).square().sum((-2, -1))
        return c[0] * shear + 0.5 * c[1] * (J - 1).square()

    def engine_functions(self, real: Any) -> tuple[Any, Any]:
        return _fixed_corotated(real)


@register_law("hencky")
@dataclasses.dataclass(frozen=True, eq=False)
class Hencky(IsotropicElastic):
    """Hencky solid, τ = 2μ E + λ tr(E) I with the logarithmic strain E = ½ log(F Fᵀ).

    In principal axes τ = U diag(2μ ε + λ tr ε) Uᵀ. Differentiable in F, E, ν, once; finite at F =
    I and for repeated stretches.
    Source: Hencky 1928; Klár et al. 2016, Eq. 26.
    """

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        return hencky_stress(F, c)

    def energy(self, F: Tensor, c: Tensor) -> Tensor:
        return hencky_energy(F, c)

    def engine_functions(self, real: Any) -> tuple[Any, Any]:
        return _hencky(real)


def hencky_stress(F: Tensor, c: Tensor) -> Tensor:
    """τ = 2μ E + λ tr(E) I [Pa] with c = (μ, λ, …); see `Hencky`."""
    mu, lam = _expand(c)
    E = log_strain(F)
    eye = torch.eye(3, dtype=F.dtype, device=F.device)
    return 2 * mu * E + lam * E.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * eye


def hencky_energy(F: Tensor, c: Tensor) -> Tensor:
    """ψ = μ ‖E‖² + ½ λ (tr E)² [J/m³] with c = (μ, λ, …); see `Hencky`."""
    eps = log_frame(F).eps
    return c[0] * eps.square().sum(-1) + 0.5 * c[1] * eps.sum(-1).square()


def _expand(c: Tensor) -> tuple[Tensor, Tensor]:
    """μ and λ with two axes added, to multiply matrices."""
    return c[0][..., None, None], c[1][..., None, None]


@functools.cache
def _neo_hookean(real: Any) -> tuple[Any, Any]:
    wp = warp()
    mat33, vec2 = wp.types.matrix((3, 3), real), wp.types.vector(2, real)

    @wp.func(name=f"neo_hookean_stress_{real.__name__}")
    def stress(F: mat33, L: mat33, c: vec2) -> mat33:
        eye = wp.identity(n=3, dtype=real)
        log_J = wp.log(wp.determinant(F))
        return c[0] * (F * wp.transpose(F) - eye) + (c[1] * log_J) * eye

    return stress, None


@functools.cache
def _fixed_corotated(real: Any) -> tuple[Any, Any]:
    wp = warp()
    mat33, vec2 = wp.types.matrix((3, 3), real), wp.types.vector(2, real)
    polar = linalg(real).polar_rotation
    one, two = real(1.0), real(2.0)

    @wp.func(name=f"fixed_corotated_stress_{real.__name__}")
    def stress(F: mat33, L: mat33, c: vec2) -> mat33:
        J = wp.determinant(F)
        eye = wp.identity(n=3, dtype=real)
        return (two * c[0]) * ((F - polar(F)) * wp.transpose(F)) + (c[1] * J * (J - one)) * eye

    return stress, None


@functools.cache
def _hencky(real: Any) -> tuple[Any, Any]:
    return hencky_engine_stress(real, 2), None


@functools.cache
def hencky_engine_stress(real: Any, count: int) -> Any:
    """Warp function of the Hencky stress for laws with `count` coefficients, the first two μ and
    λ."""
    wp = warp()
    mat33, vec = wp.types.matrix((3, 3), real), wp.types.vector(count, real)
    log_strain_of = linalg(real).log_strain
    two = real(2.0)

    @wp.func(name=f"hencky_stress_{count}_{real.__name__}")
    def stress(F: mat33, L: mat33, c: vec) -> mat33:
        E = log_strain_of(F)
        return (two * c[0]) * E + (c[1] * wp.trace(E)) * wp.identity(n=3, dtype=real)

    return stress
