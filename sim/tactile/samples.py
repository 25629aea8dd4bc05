"""Contact of a gel by quadrature points of its face, so that it can be refined without the mesh.

    y_s = Σ_i w_si x_i                 place of a sample: shape functions of the face of its cell
    E   = Σ_s A_s e(y_s)               what `ObstacleContact` gives for points y_s with areas A_s
    f_i = Σ_s w_si f_s                 so forces and moments are those of the samples
    t_i = Σ_s φ_si f_s / Σ_s φ_si A_s  traction at points, φ linear over a quarter of the face

Contact at the points of the face alone sees nothing between them: where few touch, whether one more does
decides about the force. Samples integrate the pressure instead, κ per rest area as before.

Differentiable as `ObstacleContact`. Source: see `core.triangle_rules`; Zienkiewicz & Taylor 2000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.colliders import Collider
from ..core.errors import InputError, message
from ..core.triangle_rules import triangle_rule
from ..fem import StepInput, Term
from ..fem.contact import ObstacleContact, Surface
from ..fem.terms import assemble
from .meshes import GelMesh

__all__ = ["SampledContact", "SampledTerm", "face_samples"]


def face_samples(mesh: GelMesh, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quadrature points of the sensing face.

    Args:
        mesh: the gel; sides of cells of ten nodes are curved triangles of six points.
        n: points per side of a cell: 3, 6 or 12, and 1 where cells are linear.

    Returns:
        Stencil (n F, k), weights w (n F, k), areas A [m²] (n F,) at rest, and hats φ (n F, k), which are
        not negative and sum to 1.

    Raises:
        InputError: another n.
    """
    nodes = mesh.faces
    if n == 1 and nodes.shape[1] == 6:
        fix = "Use 3; one point lets the side of a cell of ten nodes bend past the obstacle"
        raise InputError(message("face_samples", "3, 6 or 12 samples", "1", fix))
    lam, share = triangle_rule(n)
    if nodes.shape[1] == 3:
        weights = hats = lam
        slopes = torch.eye(3).double().expand(n, 3, 3)
    else:
        weights, hats, slopes = _quadratic(lam)
    X = mesh.X[nodes].double()
    along = torch.einsum("nkl,fkx->nflx", slopes[..., 1:] - slopes[..., :1], X)
    density = 0.5 * torch.linalg.cross(along[:, :, 0], along[:, :, 1]).norm(dim=-1)
    area = (share[:, None] * density).T.flatten()
    rows = nodes.repeat_interleave(n, 0)
    return rows, weights.repeat(len(nodes), 1), area, hats.repeat(len(nodes), 1)


def _quadratic(lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape functions (n, 6) of corners and mids of ab, bc, ca; hats (n, 6); ∂/∂λ (n, 6, 3)."""
    n = len(lam)
    following = lam.roll(-1, 1)
    shape = torch.cat((lam * (2 * lam - 1), 4 * lam * following), dim=1)
    slopes = lam.new_zeros(n, 6, 3)
    for i in range(3):
        j = (i + 1) % 3
        slopes[:, i, i] = 4 * lam[:, i] - 1
        slopes[:, 3 + i, i], slopes[:, 3 + i, j] = 4 * lam[:, j], 4 * lam[:, i]
    hats = torch.zeros_like(shape)
    for row, (a, values) in enumerate(zip(lam.argmax(1).tolist(), lam, strict=True)):
        if values[a] >= 0.5:  # the quarter at a corner
            hats[row, a] = 2 * values[a] - 1
            hats[row, 3 + a] = 2 * values[(a + 1) % 3]
            hats[row, 3 + (a + 2) % 3] = 2 * values[(a + 2) % 3]
        else:
            hats[row, 3:] = 1 - 2 * values.roll(1)  # the mid of ij is opposite to the third corner
    return shape, hats, slopes


class SampledContact:
    """`ObstacleContact` of the samples of a gel; arguments are the same where not explained.

    Args:
        mesh: the gel.
        X: its points in the scene [m], (N, 3).
        per_face: samples per side of a cell, see `face_samples`.
        driven: points whose motion is prescribed, bool (N,); sides of nothing else do not collide.
        group: name of the gel, in parameters of friction.
        options: further ones of `ObstacleContact`.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self,
        mesh: GelMesh,
        X: Tensor,
        obstacles: Sequence[Collider],
        d_hat: float,
        stiffness: float,
        *,
        per_face: int,
        driven: Tensor,
        group: str,
        **options: Any,
    ) -> None:
        stencil, weights, area, hats = face_samples(mesh, per_face)
        free = ~driven[stencil].all(1)
        self.stencil, self.weights = stencil[free], weights[free]
        self.hats = hats[free]
        places = (self.weights[..., None] * X[self.stencil]).sum(1)
        own = np.arange(len(places))
        surface = Surface(places, points=own, groups=(group,), area=area[free])
        self.inner = ObstacleContact(surface, obstacles, d_hat, stiffness, **options)
        """Contact of the samples as points."""
        self.name = self.inner.name
        share = (self.hats * area[free][:, None]).flatten()
        self.area = torch.zeros(len(X), dtype=torch.float64)
        self.area.index_add_(0, self.stencil.flatten(), share)

    def __len__(self) -> int:
        return len(self.stencil)

    def default_params(self) -> Mapping[str, Any]:
        """Stiffness [Pa] and friction coefficients [-] by name."""
        return self.inner.default_params()

    def places(self, x: Tensor) -> Tensor:
        """Samples (B, n, 3) of points (B, N, 3) [m]. Differentiable in x."""
        weights = self.weights.to(x)
        return (weights[..., None] * x[:, self.stencil.to(x.device)]).sum(2)

    def check(self, x: Tensor, handles: Tensor) -> None:
        """Raise InputError if samples of x (B, N, 3) are inside an obstacle."""
        self.inner.check(self.places(x), handles)

    def term(self, params: Mapping[str, Tensor], step: StepInput) -> SampledTerm:
        """The term of one solve; errors as `ObstacleContact.term`."""
        return SampledTerm(self, params, step)


class SampledTerm(Term):
    """`SampledContact` with parameters and the inputs of a step bound."""

    changing = True

    def __init__(
        self, contact: SampledContact, params: Mapping[str, Tensor], step: StepInput
    ) -> None:
        self.contact = contact
        self.scenes, self.points = step.x_start.shape[:2]
        start = contact.places(step.x_start)
        lag = start if step.x_lag is step.x_start else contact.places(step.x_lag)
        moved = StepInput(start, lag, step.pose_start, step.pose_end, step.dt, step.known)
        self.inner = contact.inner.term(params, moved)

    def _places(self, x: Tensor) -> Tensor:
        return self.contact.places(x.view(self.scenes, self.points, 3)).reshape(-1, 3)

    def _lift(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Points (S, k) and weights (S, k) of samples over all scenes (S, 1)."""
        n = len(self.contact)
        scene, sample = rows[:, 0] // n, (rows[:, 0] % n).cpu()
        stencil = self.contact.stencil[sample].to(rows.device) + self.points * scene[:, None]
        return stencil, self.contact.weights[sample].to(rows.device)

    def known(self, x: Tensor) -> Any:
        return self.inner.known(self._places(x))

    def energy(self, x: Tensor) -> Tensor:
        return self.inner.energy(self._places(x))

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, local = self.inner.gradient(self._places(x))
        stencil, weights = self._lift(rows)
        return stencil, weights.to(local)[..., None] * local

    @torch.no_grad()
    def hessian(self, x: Tensor, project: bool = True) -> tuple[Tensor, Tensor]:
        rows, blocks = self.inner.hessian(self._places(x), project)
        stencil, weights = self._lift(rows)
        w = weights.to(blocks)
        full = torch.einsum("si,sj,sab->siajb", w, w, blocks)
        return stencil, full.flatten(3, 4).flatten(1, 2)

    @torch.no_grad()
    def max_step(self, x: Tensor, dx: Tensor) -> Tensor:
        return self.inner.max_step(self._places(x), self._places(dx))

    def traction(self, x: Tensor) -> Tensor:
        """Contact force per rest area at the points [Pa], (B, N, 3); 0 where no sample is near."""
        contact, y = self.contact, self._places(x)
        force = -assemble([self.inner.gradient(y)], y).view(self.scenes, -1, 1, 3)
        spread = (contact.hats.to(force)[..., None] * force).flatten(1, 2)
        total = force.new_zeros(self.scenes, self.points, 3)
        total = total.index_add(1, contact.stencil.to(force.device).flatten(), spread)
        area = contact.area.to(force)
        return total / torch.where(area > 0, area, torch.ones_like(area))[:, None]
