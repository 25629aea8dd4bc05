"""Elements as terms: simplices, plates and rod bends with their coefficients bound.

    E = Σ_s w ψ(Σ_a x_a ⊗ G_a)   simplices,   w rest measure, G (k, d) gradients of the shape functions

Stencils are those of one scene, repeated for all; coefficients have shape (1 or B, S).
Source: Sifakis & Barbič 2012, section 4 (linear simplices); `densities.py` and `bending.py` for ψ.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .bending import (
    bend_derivatives,
    bend_energy,
    hinge_angle,
    hinge_angle_gradient,
    hinge_angle_hessian,
)
from .densities import DENSITIES, project_psd, viscous
from .terms import Term

__all__ = ["Bends", "Element", "Plates", "Simplices", "Stencils"]


class Stencils:
    """Rows of k points of one scene (S, k), and the same for B scenes of N points."""

    def __init__(self, rows: Tensor):
        self.rows = rows
        self._all = functools.lru_cache(maxsize=4)(self._repeat)

    def _repeat(self, scenes: int, points: int, device: torch.device) -> Tensor:
        shift = points * torch.arange(scenes, device=device)
        return (self.rows.to(device) + shift[:, None, None]).flatten(0, 1)

    def flat(self, scenes: int, points: int, device: torch.device) -> Tensor:
        """(B S, k) rows of flattened points."""
        return self._all(scenes, points, device)


class Element(Term):
    """Base of all elements: gathering of points."""

    def __init__(self, stencils: Stencils, scenes: int, points: int):
        self.stencils, self.scenes, self.points = stencils, scenes, points

    def rows(self, x: Tensor) -> Tensor:
        """(B S, k)."""
        return self.stencils.flat(self.scenes, self.points, x.device)

    def local(self, x: Tensor) -> Tensor:
        """(B, S, k, 3)."""
        return x.reshape(-1, 3)[self.rows(x)].unflatten(0, (self.scenes, -1))

    def spread(self, c: Tensor) -> Tensor:
        """Coefficients (1 or B, S, ...) for every scene."""
        return c.expand(self.scenes, *c.shape[1:])


class Simplices(Element):
    """Bars, triangles or tetrahedra of one density.

    Args:
        stencils: (S, d + 1).
        density: name in `DENSITIES`.
        weight: rest length, area or volume w, (1 or B, S).
        shape: gradients of the shape functions G [1/m], (1 or B, S, d + 1, d).
        coefficients: of the density, each (1 or B, S), per rest measure.
        rate: viscosity over time step η/τ per rest measure, (1 or B, S), and `x_start` (B, N, 3), the
            positions from which the rate of strain counts; None: no viscosity.
    """

    def __init__(
        self,
        stencils: Stencils,
        scenes: int,
        points: int,
        density: str,
        weight: Tensor,
        shape: Tensor,
        coefficients: dict[str, Tensor],
        rate: Tensor | None = None,
        x_start: Tensor | None = None,
    ):
        super().__init__(stencils, scenes, points)
        self.density, self.weight, self.shape = DENSITIES[density], weight, shape
        self.coefficients, self.rate, self.x_start = coefficients, rate, x_start

    def deformation(self, x: Tensor) -> Tensor:
        """F (B, S, 3, d)."""
        return self.local(x).mT @ self.shape

    def _laws(self, F: Tensor):
        yield self.density, self.coefficients
        if self.rate is not None:
            start = self.deformation(self.x_start)
            yield DENSITIES["st_venant"], viscous(start, self.rate)

    def energy(self, x):
        F = self.deformation(x)
        total = sum(law.energy(F, c) for law, c in self._laws(F))
        return (self.weight * total).sum(1)

    def gradient(self, x):
        F = self.deformation(x)
        P = sum(law.stress(F, c) for law, c in self._laws(F))
        local = self.weight[..., None, None] * (self.shape @ P.mT)
        return self.rows(x), local.flatten(0, 1)

    def hessian(self, x, project=True):
        with torch.no_grad():
            F = self.deformation(x)
            C = sum(law.tangent(F, c) for law, c in self._laws(F))
            C = project_psd(C) if project else C
            k, d = self.shape.shape[-2:]
            eye = torch.eye(3, dtype=x.dtype, device=x.device)
            # dF_iK = Σ_a G_aK dx_ai as a matrix (3 d, 3 k)
            G = self.shape.mT
            dF = eye[:, None, None, :] * G[..., None, :, :, None]
            dF = dF.reshape(*G.shape[:-2], 3 * d, 3 * k)
            blocks = dF.mT @ (self.weight[..., None, None] * C @ dF)
        return self.rows(x), blocks.flatten(0, 1)


class Plates(Element):
    """Bending of triangles by their three hinges: E = ½ Σ_T (θ − θ_ref)·K (θ − θ_ref) + viscous part.

    Stencils are the corners of a triangle and the points across its sides, (S, 6); hinge i is opposite
    corner i. At a border the corner stands for the missing point, and K is zero for its hinge.
    Projected blocks leave out the curvature of θ (Gauss–Newton), which needs no eigenvalues.

    Args:
        stiffness: K [J], (1 or B, S, 3, 3), positive semidefinite.
        reference: θ_ref of the hinges of each triangle [rad], (1 or B, S, 3).
        rate: viscous K over time step, like `stiffness`, and `x_start` (B, N, 3); None: none.
    """

    hinges = torch.tensor([[1, 2, 0, 3], [2, 0, 1, 4], [0, 1, 2, 5]])
    """Points of hinge i in the stencil."""

    def __init__(
        self,
        stencils: Stencils,
        scenes: int,
        points: int,
        stiffness: Tensor,
        reference: Tensor,
        rate: Tensor | None = None,
        x_start: Tensor | None = None,
    ):
        super().__init__(stencils, scenes, points)
        self.stiffness, self.reference, self.rate, self.x_start = (
            stiffness,
            reference,
            rate,
            x_start,
        )

    def _corners(self, x: Tensor) -> Tensor:
        """(B, S, 3 hinges, 4, 3)."""
        return self.local(x)[..., self.hinges.to(x.device), :]

    def _moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (B, S), and its derivative in the angles (B, S, 3)."""
        change = theta - self.reference
        moment = (self.stiffness @ change.unsqueeze(-1)).squeeze(-1)
        energy = (change * moment).sum(-1)
        if self.rate is not None:
            change = theta - hinge_angle(self._corners(self.x_start))
            drag = (self.rate @ change.unsqueeze(-1)).squeeze(-1)
            moment, energy = moment + drag, energy + (change * drag).sum(-1)
        return 0.5 * energy, moment

    def energy(self, x):
        return self._moments(hinge_angle(self._corners(x)))[0].sum(1)

    def gradient(self, x):
        corners = self._corners(x)
        moment = self._moments(hinge_angle(corners))[1]
        by_hinge = moment[..., None, None] * hinge_angle_gradient(corners)
        rows = self.rows(x)[:, self.hinges.to(x.device)]
        return rows.flatten(1), by_hinge.flatten(2, 3).flatten(0, 1)

    def hessian(self, x, project=True):
        with torch.no_grad():
            corners = self._corners(x)
            slope = hinge_angle_gradient(corners)
            jacobian = slope.new_zeros(*slope.shape[:-2], 6, 3)
            for i, points in enumerate(self.hinges.tolist()):
                jacobian[..., i, points, :] = slope[..., i, :, :]
            jacobian = jacobian.flatten(-2)
            stiffness = self.stiffness if self.rate is None else self.stiffness + self.rate
            blocks = jacobian.mT @ (stiffness @ jacobian)
            if not project:
                moment = self._moments(hinge_angle(corners))[1]
                curve = moment[..., None, None] * hinge_angle_hessian(corners)
                for i, points in enumerate(self.hinges.tolist()):
                    at = (3 * torch.tensor(points)[:, None] + torch.arange(3)).reshape(-1)
                    blocks[..., at[:, None], at] += curve[..., i, :, :]
        return self.rows(x), blocks.flatten(0, 1)


class Bends(Element):
    """Bends of a rod, stencils (S, 3), `stiffness` B/ℓ [J] and rest curvature [-], (1 or B, S)."""

    def __init__(
        self, stencils: Stencils, scenes: int, points: int, stiffness: Tensor, curvature: Tensor
    ):
        super().__init__(stencils, scenes, points)
        self.stiffness, self.curvature = stiffness, curvature

    def energy(self, x):
        k, c = (self.spread(t) for t in (self.stiffness, self.curvature))
        return bend_energy(self.local(x), k, c).sum(1)

    def gradient(self, x):
        k, c = (self.spread(t) for t in (self.stiffness, self.curvature))
        return self.rows(x), bend_derivatives(self.local(x), k, c, False)[0].flatten(0, 1)

    def hessian(self, x, project=True):
        with torch.no_grad():
            k, c = (self.spread(t) for t in (self.stiffness, self.curvature))
            blocks = bend_derivatives(self.local(x), k, c)[1]
            blocks = project_psd(blocks) if project else blocks
        return self.rows(x), blocks.flatten(0, 1)
