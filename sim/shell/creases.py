"""Creases: bending that lasts, as a return map on the rest angles of hinges after every step.

    w = (A₁ + A₂)/|e|,   κ = (θ − θ_ref − c (θ_ref − θ_0))/w            curvature that acts on a hinge
    κ_y = 2 σ_y/(E h)                                                     its surfaces begin to yield
    f = |κ| − κ_y − H α > 0:     Δ = f/(1 + H + c),     θ_ref ← θ_ref + w Δ sign κ,     α ← α + Δ

w is the width of the strip whose bending the hinge stands for, so that a cylinder of curvature κ about
mesh lines has θ = κ w on any mesh, and the law knows curvature only, not angles. H is isotropic hardening
(a crease resists being opened as much as it did being made), c kinematic (it opens the more easily),
both in yield curvature per plastic curvature; α is the plastic curvature a hinge has seen. Afterwards
f = 0 holds exactly. κ_y is that of an elastic-plastic section: σ = E κ h/2 at the surface.

Explicit, after the converged step: the step itself stays the minimum of a potential with fixed rest
angles (symmetric Hessian, one adjoint solve), and the map is local and exact. What it costs: within a
step a hinge is elastic, so the moment of fast folding is met to first order in dt, and a static load
beyond yield needs several static steps. The implicit alternative, rest angles as unknowns, would couple
all hinges, because the energy of a plate couples the three angles of a triangle.

Differentiable: exactly, θ_ref' has the factor (H + c)/(1 + H + c) [0 without hardening] on θ_ref where a
hinge yields and 1 elsewhere. An optional straight-through `leak` adds leak · ∂θ/∂x where it does *not*
yield, so that a tool learns of creases it has not made yet: a biased gradient, off by default.

Source: Simo & Hughes 1998, section 1.4 (return map in one dimension); Wang et al. 2024 (ThinShellLab) for
plastic rest angles and the leak, there 0.1 and always on.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..fem.bending import hinge_angle
from ..fem.parts import Sheet

__all__ = ["PlasticSheet", "return_map"]


def return_map(
    theta: Tensor,
    theta_ref: Tensor,
    alpha: Tensor,
    *,
    width: Tensor,
    kappa_y: Tensor,
    hardening: Tensor,
    kinematic: Tensor,
    theta_0: Tensor,
    leak: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Rest angles and hardening variable after hinges have bent to theta.

    Args:
        theta: angles [rad], (B, H).
        theta_ref: rest angles [rad], (B, H).
        alpha: plastic curvature seen so far [1/m], (B, H).
        width: w [m]. This and all that follow broadcast to (B, H).
        kappa_y: yield curvature [1/m].
        hardening: H [-].
        kinematic: c [-].
        theta_0: rest angles of the unbent shape [rad].
        leak: factor of the surrogate gradient where nothing yields; values do not change.

    Returns:
        θ_ref and α, (B, H).

    Differentiable in all tensors; one-sided where f = 0.
    """
    drive = (theta - theta_ref - kinematic * (theta_ref - theta_0)) / width
    excess = drive.abs() - kappa_y - hardening * alpha
    growth = excess.relu() / (1 + hardening + kinematic)
    bent = theta_ref + width * drive.sign() * growth
    if leak:
        bent = bent + leak * torch.where(excess > 0, 0.0, theta - theta.detach())
    return bent, alpha + growth


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PlasticSheet(Sheet):
    """A sheet that creases where it is bent beyond its yield curvature."""

    yield_stress: float | Tensor
    """σ_y [Pa], at which the surfaces begin to yield in bending."""
    hardening: float | Tensor = 0.0
    """H, growth of the yield curvature per plastic curvature [-]; 0: ideally plastic. From 1/3 on, a
    sharp crease that is opened flat keeps half of its angle."""
    kinematic: float | Tensor = 0.0
    """c, shift of the elastic range per plastic curvature [-]."""
    leak: float = 0.0
    """Straight-through factor of the gradient where nothing yields [-]; 0: exact gradients."""

    names: ClassVar[tuple[str, ...]] = (*Sheet.names, "yield_stress", "hardening", "kinematic")
    positive: ClassVar[tuple[str, ...]] = (*Sheet.positive, "yield_stress")
    plastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bending:
            fix = "Use a Sheet, or leave bending=True"
            raise InputError(message(self.where, "a sheet with hinges", "bending=False", fix))
        if not 0 <= self.leak <= 1:
            raise InputError(message(self.where, "0 <= leak <= 1", self.leak, "Use 0 for none"))

    def prepare(self, p, X):
        c = super().prepare(p, X)
        points, faces = (t.to(X.device) for t in self.hinges)
        ends = X[:, points[:, :2]]
        length = (ends[:, :, 1] - ends[:, :, 0]).square().sum(-1).sqrt()

        def mean(value: Tensor) -> Tensor:
            """Of the two triangles of every hinge, (1 or B, H)."""
            return value.expand(len(value), len(self.cells))[:, faces].mean(-1)

        return c | {
            "width": 2 * mean(c["measure"]) / length,
            "kappa_y": mean(2 * p["yield_stress"] / (p["E"] * p["h"])),
            "hardening": mean(p["hardening"]),
            "kinematic": mean(p["kinematic"]),
            "theta_0": hinge_angle(X[:, points]),
        }

    def flow(self, c, x, bent, alpha):
        theta = hinge_angle(x[:, self.hinges[0].to(x.device)])
        names = ("width", "kappa_y", "hardening", "kinematic", "theta_0")
        return return_map(theta, bent, alpha, **{n: c[n] for n in names}, leak=self.leak)
