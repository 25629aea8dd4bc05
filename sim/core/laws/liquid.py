"""Weakly compressible liquids: an equation of state in J and a viscous stress in the velocity
gradient.

    τ = −J p(J) I + J η (L + Lᵀ − ⅔ tr L I)

Liquids store J alone, so they neither build up nor forget shear strain, and viscosity does not
depend on dt. J ≤ 0 gives NaN.
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
from ..errors import InputError, message
from .base import Law, parameter, register_law, setting, stack_coefficients

__all__ = ["HerschelBulkley", "Liquid", "WeaklyCompressible"]

EQUATIONS_OF_STATE = ("tait", "linear")


@dataclasses.dataclass(frozen=True, eq=False)
class WeaklyCompressible(Law):
    """Pressure that all liquids share, c = (bulk, gamma, …).

    `"tait"`: p = (bulk/γ) (J^−γ − 1). `"linear"`: τ = bulk J (J − 1) I, that is p = bulk (1 − J).
    Both have the speed of sound √(bulk/ρ) at rest; under compression Tait stiffens like J^−γ.
    """

    storage: ClassVar[str] = "J"

    bulk: float | Tensor = parameter(1e5, "Pa", above=0.0)
    """Bulk modulus [Pa]; 0.1 MPa gives water a speed of sound of 10 m/s, enough for flows up to 1
    m/s."""
    gamma: float | Tensor = parameter(7.0, "-", above=1.0)
    """Exponent of the Tait equation [-]; 7 is water. Without effect on `"linear"`."""
    eos: str = setting("tait")
    """Equation of state, `"tait"` or `"linear"`."""

    def __post_init__(self) -> None:
        if self.eos not in EQUATIONS_OF_STATE:
            raise InputError(
                message(type(self).__name__, f"eos among {', '.join(EQUATIONS_OF_STATE)}", self.eos,
                        "Choose one of them")
            )

    def pressure(self, J: Tensor, c: Tensor) -> Tensor:
        """p(J) [Pa], shape (…), positive in compression; differentiable in J, bulk, γ."""
        J = torch.where(J > 0, J, math.nan)
        if self.eos == "linear":
            return c[0] * (1 - J)
        return c[0] / c[1] * torch.expm1(-c[1] * torch.log(J))

    def energy(self, F: Tensor, c: Tensor) -> Tensor:
        J = torch.where(F > 0, F, math.nan)
        if self.eos == "linear":
            return 0.5 * c[0] * (1 - J).square()
        bulk, gamma = c[0], c[1]
        return bulk / gamma * ((J ** (1 - gamma) - 1) / (gamma - 1) + J - 1)

    def wave_modulus(self, c: Tensor) -> Tensor:
        return c[0]


@register_law("liquid")
@dataclasses.dataclass(frozen=True, eq=False)
class Liquid(WeaklyCompressible):
    """Newtonian liquid, τ = −J p(J) I + J η (L + Lᵀ − ⅔ tr L I).

    Differentiable in J, L, bulk, γ, η, to any order.
    Source: Monaghan 1994 (Tait equation); Newtonian viscosity with Stokes' hypothesis.
    """

    n_coefficients: ClassVar[int] = 3

    eta: float | Tensor = parameter(0.0, "Pa s", at_least=0.0)
    """Dynamic viscosity [Pa s]; inviscid, since water's 1e-3 is below what a grid resolves."""

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        v = self.values(p)
        return stack_coefficients(v["bulk"], v["gamma"], v["eta"])

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        D2 = _twice_rate(F, L)
        eye = torch.eye(3, dtype=D2.dtype, device=D2.device)
        isotropic = (-F * self.pressure(F, c))[..., None, None]
        return isotropic * eye + (F * c[2])[..., None, None] * D2

    def viscosity(self, c: Tensor) -> Tensor:
        return c[2]

    def engine_functions(self, real: Any) -> tuple[Any, Any]:
        return _liquid(real, self.eos)


@register_law("herschel_bulkley")
@dataclasses.dataclass(frozen=True, eq=False)
class HerschelBulkley(WeaklyCompressible):
    """Generalized Newtonian liquid with a yield stress, in the regularization of Papanastasiou.

        η(γ̇) = K s^(n−1) + τ_y (1 − exp(−m γ̇))/γ̇,   s² = 1/m² + γ̇²/(1 + γ̇²/γ̇_max²)
        γ̇² = ½ ‖L + Lᵀ − ⅔ tr L I‖²,   τ = −J p I + J η (L + Lᵀ − ⅔ tr L I)

    s equals γ̇ between the plateaus 1/m and γ̇_max, which bound η for shear-thinning (n < 1) and
    for shear-thickening (n > 1) liquids. n = 1 is the Bingham liquid; m → ∞ restores the ideal
    yield stress.
    Differentiable in J, L and every parameter; value and gradient are finite at γ̇ = 0.
    Source: Papanastasiou 1987, Eq. 8; Herschel & Bulkley 1926.
    """

    n_coefficients: ClassVar[int] = 7

    K: float | Tensor = parameter(10.0, "Pa sⁿ", at_least=0.0)
    """Consistency [Pa sⁿ]; 10 is a thick cream."""
    n: float | Tensor = parameter(0.5, "-", above=0.0)
    """Flow index [-]; below 1 shear-thinning, as most foods and gels."""
    yield_stress: float | Tensor = parameter(50.0, "Pa", at_least=0.0)
    """Yield stress in shear τ_y [Pa]; 50 Pa holds a 5 mm layer upright."""
    m: float | Tensor = parameter(100.0, "s", above=0.0)
    """Regularization time [s]; the yield stress is reached at rates above a few 1/m."""
    rate_max: float | Tensor = parameter(1e4, "1/s", above=0.0)
    """Shear rate of the upper plateau γ̇_max [1/s]; above the rates a grid resolves."""

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        v = self.values(p)
        names = ("bulk", "gamma", "K", "n", "yield_stress", "m", "rate_max")
        return stack_coefficients(*(v[name] for name in names))

    def effective_viscosity(self, rate_squared: Tensor, c: Tensor) -> Tensor:
        """η [Pa s] from γ̇² [1/s²], shape (…); differentiable in both, finite at 0."""
        K, n, tau_y, m, top = c[2], c[3], c[4], c[5], c[6]
        s2 = 1 / m**2 + rate_squared / (1 + rate_squared / top**2)
        moving = rate_squared > 0
        rate = torch.where(moving, torch.where(moving, rate_squared, 1.0).sqrt(), 0.0)
        return K * s2 ** (0.5 * (n - 1)) + tau_y * m * _decay_ratio(m * rate)

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        D2 = _twice_rate(F, L)
        eye = torch.eye(3, dtype=D2.dtype, device=D2.device)
        eta = self.effective_viscosity(0.5 * D2.square().sum((-2, -1)), c)
        isotropic = (-F * self.pressure(F, c))[..., None, None]
        return isotropic * eye + (F * eta)[..., None, None] * D2

    def viscosity(self, c: Tensor) -> Tensor:
        K, n, tau_y, m, top = c[2], c[3], c[4], c[5], c[6]
        slow, fast = 1 / m**2, 1 / m**2 + top**2
        s2 = torch.where(n < 1, slow, fast)
        return K * s2 ** (0.5 * (n - 1)) + tau_y * m

    def engine_functions(self, real: Any) -> tuple[Any, Any]:
        return _herschel_bulkley(real, self.eos)


def _twice_rate(J: Tensor, L: Tensor | None) -> Tensor:
    """L + Lᵀ − ⅔ tr L I [1/s], shape (…, 3, 3); zero without a velocity gradient."""
    if L is None:
        return torch.zeros(*J.shape, 3, 3, dtype=J.dtype, device=J.device)
    eye = torch.eye(3, dtype=L.dtype, device=L.device)
    return L + L.mT - (2 / 3) * L.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * eye


def _decay_ratio(x: Tensor) -> Tensor:
    """(1 − e^−x)/x for x ≥ 0, by its series where the quotient and its derivative would cancel."""
    small = x < 0.1
    series = torch.ones_like(x)
    for k in (11, 10, 9, 8, 7, 6, 5, 4, 3, 2):
        series = 1 - x / k * series
    safe = torch.where(small, 1.0, x)
    return torch.where(small, series, -torch.expm1(-safe) / safe)


@functools.cache
def _pressure(real: Any, eos: str) -> Any:
    """Warp function J p(J) of (J, bulk, gamma)."""
    wp = warp()
    one, zero, nan = real(1.0), real(0.0), real(float("nan"))

    @wp.func(name=f"tait_pressure_{real.__name__}")
    def tait(J: real, bulk: real, gamma: real) -> real:
        return J * bulk / gamma * (wp.exp(-gamma * wp.log(J)) - one)

    @wp.func(name=f"linear_pressure_{real.__name__}")
    def linear(J: real, bulk: real, gamma: real) -> real:
        value = bulk * J * (one - J)
        if not (J > zero):
            value = nan
        return value

    return tait if eos == "tait" else linear


@functools.cache
def _liquid(real: Any, eos: str) -> tuple[Any, Any]:
    wp = warp()
    mat33, vec3 = wp.types.matrix((3, 3), real), wp.types.vector(3, real)
    pressure, third2 = _pressure(real, eos), real(2 / 3)

    @wp.func(name=f"liquid_{eos}_stress_{real.__name__}")
    def stress(J: real, L: mat33, c: vec3) -> mat33:
        eye = wp.identity(n=3, dtype=real)
        D2 = L + wp.transpose(L) - (third2 * wp.trace(L)) * eye
        return (J * c[2]) * D2 - pressure(J, c[0], c[1]) * eye

    return stress, None


@functools.cache
def _herschel_bulkley(real: Any, eos: str) -> tuple[Any, Any]:
    wp = warp()
    mat33, vec7 = wp.types.matrix((3, 3), real), wp.types.vector(7, real)
    pressure, third2 = _pressure(real, eos), real(2 / 3)
    half, one, zero, small = real(0.5), real(1.0), real(0.0), real(0.1)
    r2, r3, r4, r5, r6 = real(1 / 2), real(1 / 3), real(1 / 4), real(1 / 5), real(1 / 6)
    r7, r8, r9, r10, r11 = real(1 / 7), real(1 / 8), real(1 / 9), real(1 / 10), real(1 / 11)

    @wp.func(name=f"decay_ratio_{real.__name__}")
    def decay_ratio(x: real) -> real:
        tail = one - x * r7 * (one - x * r8 * (one - x * r9 * (one - x * r10 * (one - x * r11))))
        value = one - x * r2 * (
            one - x * r3 * (one - x * r4 * (one - x * r5 * (one - x * r6 * tail)))
        )
        if x >= small:
            value = (one - wp.exp(-x)) / x
        return value

    @wp.func(name=f"herschel_bulkley_{eos}_stress_{real.__name__}")
    def stress(J: real, L: mat33, c: vec7) -> mat33:
        eye = wp.identity(n=3, dtype=real)
        D2 = L + wp.transpose(L) - (third2 * wp.trace(L)) * eye
        rate2 = half * wp.ddot(D2, D2)
        m = c[5]
        s2 = one / (m * m) + rate2 / (one + rate2 / (c[6] * c[6]))
        x = zero
        if rate2 > zero:
            x = m * wp.sqrt(rate2)
        eta = c[2] * wp.pow(s2, half * (c[3] - one)) + c[4] * m * decay_ratio(x)
        return (J * eta) * D2 - pressure(J, c[0], c[1]) * eye

    return stress, None
