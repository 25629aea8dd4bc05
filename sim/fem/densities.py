"""Energy densities of simplices of dimension d = 1, 2, 3 in space: ψ(F), P = ∂ψ/∂F, C = ∂P/∂F.

F (..., 3, d) maps rest coordinates of a bar (d = 1), triangle (2) or tetrahedron (3) to space; ψ is per
rest length, area or volume, and c holds its coefficients, tensors that broadcast to (...).

    "st_venant"            ψ = μ |ε|² + λ/2 (tr ε)²,   ε = (FᵀF − I)/2                    d = 2, 3
    "neo_hookean"          ψ = μ/2 (|F|² − d − 2 ln J) + λ/2 (ln J)²,   J² = det FᵀF       d = 2, 3
    "stable_neo_hookean"   ψ = μ'/2 (|F|² − 3) − μ'/2 ln((|F|² + 1)/4) + λ'/2 [(J − α)² − (1 − α)²]
    "corotated"            ψ = μ |F − R|² + λ/2 (J − 1)²,   R the rotation of F            d = 3
    "spring"               ψ = EA/2 (|F| − 1)²                                             d = 1

An inverted tetrahedron has infinite energy in "neo_hookean" and none (NaN) in "corotated", so that no
step gets there. All agree with linear elasticity at F = I: μ' = 4μ/3, λ' = λ + 5μ/6, α = 1 + 3μ'/4λ' for
the stable one, which is finite for inverted elements too. A triangle's λ is that of plane stress.

Differentiable in F and c (ψ and P); C is for values only.
Source: Bonet & Wood 2008, chapter 6; Smith, de Goes & Kim 2018, Eq. 13-14 and 23-25 (stable);
Stomakhin et al. 2012 (fixed corotated); Sifakis & Barbič 2012 for its derivative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..core.laws.decompositions import polar_rotation
from .kernels import solid_tangent, venant_tangent

__all__ = ["DENSITIES", "Density", "lame", "project_psd", "viscous"]

Coefficients = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Density:
    """One energy density with its derivatives."""

    dims: tuple[int, ...]
    """Dimensions d it is written for."""
    energy: Callable[[Tensor, Coefficients], Tensor]
    """ψ (F (..., 3, d), c) -> (...) [J/m^d]."""
    stress: Callable[[Tensor, Coefficients], Tensor]
    """P, shape of F [N/m^(d−1)]."""
    tangent: Callable[[Tensor, Coefficients], Tensor]
    """C (..., 3 d, 3 d) in the order (row of F, column of F)."""


def lame(E: Tensor, nu: Tensor, d: int) -> dict[str, Tensor]:
    """μ = E/2(1+ν), λ = Eν/(1+ν)(1−2ν) [Pa]; of plane stress, Eν/(1−ν²), for d = 2.

    Differentiable in E and nu. Source: Bonet & Wood 2008, section 6.6.
    """
    mu = 0.5 * E / (1 + nu)
    lam = E * nu / (1 - nu**2) if d == 2 else E * nu / ((1 + nu) * (1 - 2 * nu))
    return {"mu": mu, "lam": lam}


def project_psd(blocks: Tensor) -> Tensor:
    """Nearest positive semidefinite matrix of each symmetric block (..., n, n); for values only."""
    values, vectors = torch.linalg.eigh(blocks)
    return (vectors * values.clamp_min(0.0).unsqueeze(-2)) @ vectors.mT


def _wide(c: Tensor) -> Tensor:
    return c[..., None, None]


def _eye(F: Tensor) -> Tensor:
    return torch.eye(F.shape[-1], dtype=F.dtype, device=F.device)


def _strain(F: Tensor, c: Coefficients) -> Tensor:
    """ε = (FᵀF − I)/2, or its change since `start`."""
    metric = F.mT @ F
    return 0.5 * (metric - (c["start"] if "start" in c else _eye(F)))


def _trace(A: Tensor) -> Tensor:
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)


def _isotropic(F: Tensor) -> Tensor:
    """Identity on F as (3 d, 3 d)."""
    n = 3 * F.shape[-1]
    return torch.eye(n, dtype=F.dtype, device=F.device)


def _flat(A: Tensor) -> Tensor:
    return A.flatten(-2)


def _square_of(a: Tensor) -> Tensor:
    """a aᵀ of vectors (..., n)."""
    return a.unsqueeze(-1) * a.unsqueeze(-2)


def _venant_energy(F: Tensor, c: Coefficients) -> Tensor:
    strain = _strain(F, c)
    return c["mu"] * strain.square().sum((-2, -1)) + 0.5 * c["lam"] * _trace(strain) ** 2


def _second_piola(F: Tensor, c: Coefficients) -> Tensor:
    strain = _strain(F, c)
    return 2 * _wide(c["mu"]) * strain + _wide(c["lam"] * _trace(strain)) * _eye(F)


def _venant_stress(F: Tensor, c: Coefficients) -> Tensor:
    return F @ _second_piola(F, c)


def _venant_tangent(F: Tensor, c: Coefficients) -> Tensor:
    return venant_tangent(F, _second_piola(F, c), c["mu"], c["lam"])


def viscous(start: Tensor, rate: Tensor) -> Coefficients:
    """Coefficients whose St. Venant form is the viscous potential η/τ |ε(F) − ε(start)|².

    Its stress is 2 η ε̇ (second Piola–Kirchhoff) with ε̇ = Δε/τ: it dissipates in every deformation and
    in no rigid motion. `rate` is η/τ, (...).
    """
    return {"mu": rate, "lam": torch.zeros_like(rate), "start": start.mT @ start}


def _volume_ratio(F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """J = √det FᵀF, its gradient J F (FᵀF)⁻¹ over J, and (FᵀF)⁻¹."""
    metric = F.mT @ F
    inverse = torch.linalg.inv(metric)
    return torch.linalg.det(metric).sqrt(), F @ inverse, inverse


def _orientation(F: Tensor) -> Tensor:
    """Whether F has not been inverted; triangles in space have no side."""
    return torch.linalg.det(F) > 0 if F.shape[-1] == 3 else torch.ones_like(F[..., 0, 0]) > 0


def _neo_energy(F: Tensor, c: Coefficients) -> Tensor:
    log = torch.log(_volume_ratio(F)[0])
    d = F.shape[-1]
    stretch = 0.5 * (F.square().sum((-2, -1)) - d) - log
    energy = c["mu"] * stretch + 0.5 * c["lam"] * log**2
    return torch.where(_orientation(F), energy, torch.inf)


def _neo_stress(F: Tensor, c: Coefficients) -> Tensor:
    J, cofactor, _ = _volume_ratio(F)
    mu = _wide(c["mu"])
    return mu * (F - cofactor) + _wide(c["lam"] * torch.log(J)) * cofactor


def _neo_tangent(F: Tensor, c: Coefficients) -> Tensor:
    # With A = F (FᵀF)⁻¹: dA = (I − F Aᵀ) dF (FᵀF)⁻¹ − A dFᵀ A, d ln J = A : dF
    d = F.shape[-1]
    J, A, inverse = _volume_ratio(F)
    eye3 = torch.eye(3, dtype=F.dtype, device=F.device)
    normal = eye3 - F @ A.mT
    change = normal[..., :, None, :, None] * inverse[..., None, :, None, :]
    change = change - A[..., :, None, None, :] * A.mT[..., None, :, :, None]
    slope = (c["lam"] * torch.log(J) - c["mu"])[..., None, None]
    C = slope * change.reshape(*F.shape[:-2], 3 * d, 3 * d)
    return C + _wide(c["mu"]) * _isotropic(F) + _wide(c["lam"]) * _square_of(_flat(A))


def _cofactor(F: Tensor) -> Tensor:
    """∂J/∂F of a square F: rows are cross products of the rows."""
    a, b, c = F.unbind(-2)
    cross = torch.linalg.cross
    return torch.stack((cross(b, c), cross(c, a), cross(a, b)), dim=-2)


def _stable(c: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
    mu, lam = 4 / 3 * c["mu"], c["lam"] + 5 / 6 * c["mu"]
    return mu, lam, 1 + 0.75 * mu / lam


def _determinant(F: Tensor) -> Tensor:
    return (F[..., 0, :] * torch.linalg.cross(F[..., 1, :], F[..., 2, :])).sum(-1)


def _stable_energy(F: Tensor, c: Coefficients) -> Tensor:
    mu, lam, alpha = _stable(c)
    excess = F.square().sum((-2, -1)) - 3
    shape = 0.5 * mu * (excess - torch.log1p(0.25 * excess))
    J = _determinant(F)
    return shape + 0.5 * lam * (J - 1) * (J + 1 - 2 * alpha)


def _stable_stress(F: Tensor, c: Coefficients) -> Tensor:
    mu, lam, alpha = _stable(c)
    weight = mu * (1 - 1 / (F.square().sum((-2, -1)) + 1))
    return _wide(weight) * F + _wide(lam * (_determinant(F) - alpha)) * _cofactor(F)


def _solid(F: Tensor, *weights: Tensor) -> Tensor:
    """`solid_tangent` with weights that broadcast."""
    wide = [w.expand(F.shape[:-2]) for w in weights]
    return solid_tangent(F, torch.stack(wide, dim=-1))


def _stable_tangent(F: Tensor, c: Coefficients) -> Tensor:
    mu, lam, alpha = _stable(c)
    size = F.square().sum((-2, -1)) + 1
    pressure = lam * (_determinant(F) - alpha)
    return _solid(F, mu * (1 - 1 / size), 2 * mu / size**2, lam, pressure)


def _corotated_energy(F: Tensor, c: Coefficients) -> Tensor:
    distance = (F - polar_rotation(F)).square().sum((-2, -1))
    return c["mu"] * distance + 0.5 * c["lam"] * (_determinant(F) - 1) ** 2


def _corotated_stress(F: Tensor, c: Coefficients) -> Tensor:
    pressure = _wide(c["lam"] * (_determinant(F) - 1))
    return 2 * _wide(c["mu"]) * (F - polar_rotation(F)) + pressure * _cofactor(F)


def _corotated_tangent(F: Tensor, c: Coefficients) -> Tensor:
    # dR = R [w]×, (tr(S) I − S) w = the axial vector of RᵀdF − dFᵀR
    R = polar_rotation(F)
    S = R.mT @ F
    spin = torch.linalg.inv(_wide(_trace(S)) * _eye(F) - 0.5 * (S + S.mT))
    units = torch.linalg.cross(_eye(F)[:, None], _eye(F)[None]).mT  # units[p] = [e_p]×
    modes = torch.einsum("...ij,pjk->...pik", R, units).flatten(-2)  # R [e_p]× as rows
    turn = modes.mT @ spin @ modes
    mu, lam = c["mu"], c["lam"]
    C = _solid(F, 2 * mu, torch.zeros_like(mu), lam, lam * (_determinant(F) - 1))
    return C - 2 * _wide(mu) * turn


def _length(F: Tensor) -> Tensor:
    return F.square().sum((-2, -1)).sqrt()


def _spring_energy(F: Tensor, c: Coefficients) -> Tensor:
    return 0.5 * c["EA"] * (_length(F) - 1) ** 2


def _spring_stress(F: Tensor, c: Coefficients) -> Tensor:
    return _wide(c["EA"] * (1 - 1 / _length(F))) * F


def _spring_tangent(F: Tensor, c: Coefficients) -> Tensor:
    length = _length(F)
    along = _square_of(_flat(F) / length.unsqueeze(-1))
    return _wide(c["EA"]) * (along + _wide(1 - 1 / length) * (_isotropic(F) - along))


DENSITIES: dict[str, Density] = {
    "st_venant": Density((2, 3), _venant_energy, _venant_stress, _venant_tangent),
    "neo_hookean": Density((2, 3), _neo_energy, _neo_stress, _neo_tangent),
    "stable_neo_hookean": Density((3,), _stable_energy, _stable_stress, _stable_tangent),
    "corotated": Density((3,), _corotated_energy, _corotated_stress, _corotated_tangent),
    "spring": Density((1,), _spring_energy, _spring_stress, _spring_tangent),
}
"""Densities by name."""
