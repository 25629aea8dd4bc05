"""Elements as terms: simplices, plates and rod bends with their coefficients bound.

    E = Σ_s Σ_q w ψ(Σ_a x_a ⊗ G_a)   simplices with quadrature points q, weights w and gradients G (k, d)
                                     of the shape functions; linear ones have one, w their rest measure

Stencils are those of one scene, repeated for all; coefficients have shape (1 or B, S).
Source: Sifakis & Barbič 2012, section 4 (linear simplices); `quadratic.py` for those with ten nodes;
`densities.py` and `bending.py` for ψ.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .bending import (
    bend_derivatives,
    bend_energy,
    hinge_angle,
    hinge_angle_gradient,
    hinge_angle_turn,
)
from .densities import DENSITIES, project_psd, viscous
from .kernels import hinge_blocks, simplex_blocks
from .terms import Term, assemble

__all__ = ["Bends", "Element", "PlateLayout", "Plates", "Simplices", "Stencils"]


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
    """Base of all elements: gathering of points, and a memory of the last positions.

    Energy, gradient and Hessian are asked for at the same positions in turn. What they share is kept
    where no gradient is recorded, and positions are recognized by identity.
    """

    def __init__(self, stencils: Stencils, scenes: int, points: int):
        self.stencils, self.scenes, self.points = stencils, scenes, points
        self._seen: Tensor | None = None
        self._kept: dict[str, Tensor] = {}
        self._tape: tuple[Tensor, Tensor, Tensor] | None = None

    def patterns(self) -> list[Tensor]:
        """Stencils of one scene whose blocks `hessian` gives, in its order."""
        return [self.stencils.rows]

    def rows(self, x: Tensor) -> Tensor:
        """(B S, k)."""
        return self.stencils.flat(self.scenes, self.points, x.device)

    def local(self, x: Tensor) -> Tensor:
        """(B, S, k, 3)."""
        return x.reshape(-1, 3)[self.rows(x)].unflatten(0, (self.scenes, -1))

    def spread(self, c: Tensor) -> Tensor:
        """Coefficients (1 or B, S, ...) for every scene."""
        return c.expand(self.scenes, *c.shape[1:])

    def once(self, x: Tensor, name: str, function: Callable[[Tensor], Tensor]) -> Tensor:
        """function(x), from memory if it was asked for last time."""
        if torch.is_grad_enabled():
            return function(x)
        if self._seen is not x:
            self._seen, self._kept = x, {}
        if name not in self._kept:
            self._kept[name] = function(x)
        return self._kept[name]

    def product(self, x, v):
        """Reverse mode through the gradient, once per v: a fraction of the time of blocks."""
        if self._tape is None or self._tape[0] is not x:
            with torch.enable_grad():
                y = x.detach().requires_grad_()
                self._tape = x, y, assemble([self.gradient(y)], y)
        _, y, r = self._tape
        return torch.autograd.grad(r, y, v, retain_graph=True)[0].detach()


class Simplices(Element):
    """Bars, triangles or tetrahedra of one density, with k nodes and Q quadrature points each.

    Args:
        stencils: (S, k).
        density: name in `DENSITIES`.
        weight: shares w of the rest length, area or volume, (1 or B, S, Q).
        shape: gradients of the shape functions G [1/m], (1 or B, S, Q, k, d).
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
        self.coefficients = {name: value.unsqueeze(-1) for name, value in coefficients.items()}
        self.rate, self.x_start = rate, x_start

    def _deformation(self, x: Tensor) -> Tensor:
        local = self.local(x)
        # From one corner, so that rounding is that of the cell, not of its place.
        return (local - local[..., :1, :]).unsqueeze(2).mT @ self.shape

    def deformation(self, x: Tensor) -> Tensor:
        """F (B, S, Q, 3, d)."""
        return self.once(x, "F", self._deformation)

    def _laws(self, F: Tensor):
        yield self.density, self.coefficients
        if self.rate is not None:
            start = self._deformation(self.x_start)
            yield DENSITIES["st_venant"], viscous(start, self.rate.unsqueeze(-1))

    def energy(self, x):
        F = self.deformation(x)
        total = sum(law.energy(F, c) for law, c in self._laws(F))
        return (self.weight * total).sum((1, 2))

    def gradient(self, x):
        F = self.deformation(x)
        P = sum(law.stress(F, c) for law, c in self._laws(F))
        local = (self.weight[..., None, None] * (self.shape @ P.mT)).sum(2)
        return self.rows(x), local.flatten(0, 1)

    def hessian(self, x, project=True):
        with torch.no_grad():
            F = self.deformation(x)
            C = self._tangent(F)
            C = project_psd(C) if project else C
            blocks = simplex_blocks(C, self.shape, self.weight)
        return self.rows(x), blocks

    def _tangent(self, F: Tensor) -> Tensor:
        """∂P/∂F (B, S, Q, 3 d, 3 d)."""
        return sum(law.tangent(F, c) for law, c in self._laws(F))

    def product(self, x, v):
        with torch.no_grad():
            C = self.once(x, "C", lambda x: self._tangent(self.deformation(x)))
            dF = self._deformation(v)
            dP = (C @ dF.flatten(-2).unsqueeze(-1)).view_as(dF)
            local = (self.weight[..., None, None] * (self.shape @ dP.mT)).sum(2)
            return assemble([(self.rows(x), local.flatten(0, 1))], x)


@dataclasses.dataclass(frozen=True, eq=False)
class PlateLayout:
    """Which hinges bend which triangles, in one scene."""

    patches: Stencils
    """Corners of a triangle and the points across its sides, (S, 6); at a border the corner itself."""
    hinges: Stencils
    """Ends of the common side, the corner to its left and to its right, (H, 4)."""
    sides: Tensor
    """Hinge opposite each corner, (S, 3); H where there is none."""
    owners: Tensor
    """Both places of each hinge among the 3 S sides, (H, 2)."""
    views: Tensor
    """Where the points of a patch stand among the 4 H points of hinges, (S, 3, 6); 4 H: nowhere."""


class Plates(Element):
    """Bending of triangles by their three hinges: E = ½ Σ_T (θ − θ_ref)·K (θ − θ_ref) + viscous part.

    Projected blocks leave out the curvature of θ (Gauss–Newton), which needs no eigenvalues.

    Args:
        layout: triangles and hinges.
        stiffness: K [J], (1 or B, S, 3, 3), positive semidefinite, zero for sides without hinge.
        reference: θ_ref [rad], (1 or B, H).
        rate: viscous K over time step, like `stiffness`, and `x_start` (B, N, 3); None: none.
    """

    def __init__(
        self,
        layout: PlateLayout,
        scenes: int,
        points: int,
        stiffness: Tensor,
        reference: Tensor,
        rate: Tensor | None = None,
        x_start: Tensor | None = None,
    ):
        super().__init__(layout.hinges, scenes, points)
        self.layout, self.stiffness, self.reference = layout, stiffness, reference
        self.rate, self.x_start = rate, x_start

    def patterns(self):
        return [self.layout.patches.rows, self.layout.hinges.rows]

    def _sides(self, value: Tensor) -> Tensor:
        """Values of hinges (b, H) at the sides of triangles (b, S, 3), 0 at borders."""
        padded = torch.nn.functional.pad(value, (0, 1))
        return padded[:, self.layout.sides.to(value.device)]

    def _angles(self, x: Tensor) -> Tensor:
        return self.once(x, "theta", lambda x: hinge_angle(self.local(x)))

    def _slopes(self, x: Tensor) -> Tensor:
        return self.once(x, "slope", lambda x: hinge_angle_gradient(self.local(x)))

    def _moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (B,), and its derivative in the angles (B, H)."""
        change = self._sides(theta - self.reference)
        moment = (self.stiffness @ change.unsqueeze(-1)).squeeze(-1)
        energy = change * moment
        if self.rate is not None:
            change = self._sides(theta - hinge_angle(self.local(self.x_start)))
            drag = (self.rate @ change.unsqueeze(-1)).squeeze(-1)
            moment, energy = moment + drag, energy + change * drag
        return 0.5 * energy.sum((1, 2)), self._by_hinge(moment)

    def _by_hinge(self, moment: Tensor) -> Tensor:
        """Sum over the two sides of each hinge (B, H) of values at the sides (B, S, 3)."""
        both = moment.flatten(1)[:, self.layout.owners.to(moment.device)]
        return both[..., 0] + both[..., 1]

    def product(self, x, v):
        with torch.no_grad():
            slopes, local = self._slopes(x), self.local(v)
            moment = self.once(x, "moment", lambda x: self._moments(self._angles(x))[1])
            stiffness = self.stiffness if self.rate is None else self.stiffness + self.rate
            turned = self._sides((slopes * local).sum((2, 3))).unsqueeze(-1)
            change = self._by_hinge((stiffness @ turned).squeeze(-1))
            out = change[..., None, None] * slopes
            out = out + moment[..., None, None] * hinge_angle_turn(self.local(x), local)
            return assemble([(self.rows(x), out.flatten(0, 1))], x)

    def energy(self, x):
        return self._moments(self._angles(x))[0]

    def gradient(self, x):
        moment = self._moments(self._angles(x))[1]
        by_hinge = moment[..., None, None] * self._slopes(x)
        return self.rows(x), by_hinge.flatten(0, 1)

    def hessian(self, x, project=True):
        layout = self.layout
        with torch.no_grad():
            slopes = torch.nn.functional.pad(self._slopes(x).flatten(1, 2), (0, 0, 0, 1))
            jacobian = slopes[:, layout.views.to(x.device)].flatten(-2)  # (B, S, 3, 18)
            stiffness = self.stiffness if self.rate is None else self.stiffness + self.rate
            bent = (jacobian.mT @ (stiffness @ jacobian)).flatten(0, 1)
            patches = layout.patches.flat(self.scenes, self.points, x.device)
            rows = self.rows(x)
            if project:
                return [(patches, bent), (rows[:0], bent.new_zeros(0, 12, 12))]
            moment = self._moments(self._angles(x))[1]
            curve = hinge_blocks(self.local(x).flatten(0, 1), moment.flatten())
        return [(patches, bent), (rows, curve)]


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
