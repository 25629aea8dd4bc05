"""Rigid bodies inside the implicit solver: affine bodies of four points.

    x(Y, t) = Σ_i λ_i(Y) x_i(t),   Σ λ_i = 1,   E = V ψ(F) with E_Young so large that F stays a rotation

Four points with a quarter of the mass each, at c + (S/m)^½ v_i with the corners v_i of a regular
tetrahedron in the cube [−1, 1]³, have exactly the mass, center and second moment S = ρ ∫ r rᵀ dV of the
body, hence its inertia. One stiff tetrahedron between them makes the body, so it is stepped, touched and
differentiated with everything else, and no second solver has to agree with the first.

Source: Lan et al. 2022 (Affine Body Dynamics), with a stiff element for their orthogonality energy.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import torch
from torch import Tensor

from ..core.colliders_rigid import RigidBody, mass_properties
from ..core.errors import InputError, message
from ..core.laws.decompositions import polar_rotation
from ..core.rotations import from_matrix, rotate
from ..fem.model import FEMState
from ..fem.parts import Solid

__all__ = ["AffineBody"]

_CORNERS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class AffineBody:
    """A rigid body as four points of a scene, `first` … `first + 3`.

    Append its `X` to the points of the scene and its `part` to the parts:

        body = AffineBody(RigidBody(Sphere(0.01), rho=2e3, name="ball"), first=len(X))
        model = FEMModel(torch.cat((X, body.X)), [gel, body.part])
    """

    body: RigidBody
    """Shape, density, start, velocity, friction and name."""
    first: int
    """Number of the first of its four points."""
    E: float = 1e10
    """Young's modulus of the stiff element [Pa]: under a force of 10 N a body of 1 cm strains by 1e-5."""

    def __post_init__(self) -> None:
        if not isinstance(self.body, RigidBody) or not self.body.name:
            got = f"{type(self.body).__name__} {getattr(self.body, 'name', '')!r}"
            fix = "Give RigidBody(shape, rho=..., name=...)"
            raise InputError(message("AffineBody", "a RigidBody with a name", got, fix))
        if not 0 < self.E < math.inf:
            raise InputError(message("AffineBody", "E > 0 Pa and finite", self.E, "Give it in Pa"))

    @property
    def name(self) -> str:
        return self.body.name

    @functools.cached_property
    def Y(self) -> Tensor:
        """The four points in the frame of the shape [m], (4, 3), float64."""
        found = mass_properties(self.body.shape)
        moment = found.moment / found.volume
        second = 0.5 * np.trace(moment) * np.eye(3) - moment
        values, vectors = np.linalg.eigh(second)
        if not values.min() > 1e-12 * values.max():
            fix = "Give it some thickness"
            raise InputError(message("AffineBody", "a body with a volume", self.name, fix))
        root = (vectors * np.sqrt(values)) @ vectors.T
        return torch.from_numpy(np.asarray(found.center) + np.asarray(_CORNERS) @ root)

    @functools.cached_property
    def X(self) -> Tensor:
        """The four points at the start [m], (4, 3), float64."""
        return self.points_at(self.body.pose(torch.float64))

    @functools.cached_property
    def mass(self) -> float:
        """[kg]."""
        return float(self.body.rho * mass_properties(self.body.shape).volume)

    @functools.cached_property
    def part(self) -> Solid:
        """The stiff element; its parameter `rho` counts per volume of the tetrahedron."""
        cells = torch.arange(self.first, self.first + 4)[None]
        edges = self.Y[1:] - self.Y[:1]
        volume = float(torch.linalg.det(edges)) / 6
        if volume < 0:
            cells, volume = cells[:, [1, 0, 2, 3]], -volume
        rho = self.mass / volume
        return Solid(name=self.name, cells=cells, E=self.E, nu=0.0, rho=rho, law="corotated")

    @functools.cached_property
    def shape_gradients(self) -> Tensor:
        """∂λ_i/∂Y [1/m], (4, 3), float64."""
        inner = torch.linalg.inv((self.Y[1:] - self.Y[:1]).mT)
        return torch.cat((-inner.sum(0, keepdim=True), inner))

    def weights(self, Y: Tensor) -> Tensor:
        """λ of points Y (..., 3) in the frame of the shape [m], (..., 4)."""
        away = (Y - self.Y[0].to(Y)) @ self.shape_gradients.to(Y).mT
        return torch.cat((1 + away[..., :1], away[..., 1:]), dim=-1)

    def points_at(self, pose: Tensor) -> Tensor:
        """The four points (..., 4, 3) of a pose (..., 7) of the shape; to set a state."""
        corners = self.Y.to(pose)
        return pose[..., None, :3] + rotate(pose[..., None, 3:], corners)

    def corners(self, x: Tensor) -> Tensor:
        """Its four points (..., 4, 3) of all points x (..., N, 3)."""
        return x[..., self.first : self.first + 4, :]

    def place(self, Y: Tensor, x: Tensor) -> Tensor:
        """Where points Y (..., n, 3) of the shape's frame are, (..., n, 3).

        Args:
            Y: [m], (n, 3) or with the batch axes of x.
            x: positions of the scene [m], (..., N, 3).

        Differentiable in both.
        """
        return self.weights(Y) @ self.corners(x)

    def deformation(self, x: Tensor) -> Tensor:
        """F (..., 3, 3) from the shape's frame to the world; a rotation up to E."""
        return self.corners(x).mT @ self.shape_gradients.to(x)

    def pose(self, x: Tensor) -> Tensor:
        """Position of the shape's origin [m] and quaternion (w, x, y, z), (..., 7).

        Args:
            x: positions of the scene [m], (..., N, 3).

        Differentiable in x. Source: polar decomposition of F.
        """
        origin = self.place(x.new_zeros(1, 3), x)[..., 0, :]
        return torch.cat((origin, from_matrix(polar_rotation(self.deformation(x)))), dim=-1)

    def twist(self, state: FEMState) -> Tensor:
        """Velocity of the shape's origin [m/s] and angular velocity [rad/s] in world axes, (B, 6).

        ω from the skew part of Ḟ F⁻¹. Differentiable in the state.
        """
        v = self.place(state.x.new_zeros(1, 3), state.v)[..., 0, :]
        L = self.deformation(state.v) @ torch.linalg.inv(self.deformation(state.x))
        spin = 0.5 * (L - L.mT)
        omega = torch.stack((spin[..., 2, 1], spin[..., 0, 2], spin[..., 1, 0]), dim=-1)
        return torch.cat((v, omega), dim=-1)

    def start(self, state: FEMState) -> FEMState:
        """The state with the body at the pose and velocity of its `RigidBody`."""
        pose = self.body.pose(torch.float64).to(state.x)
        corners = self.points_at(pose).expand(state.batch_size, 4, 3)
        turn = state.x.new_tensor(self.body.angular_velocity).expand_as(corners)
        along = state.x.new_tensor(self.body.velocity)
        speed = along + torch.linalg.cross(turn, corners - pose[:3])
        rows = torch.arange(self.first, self.first + 4, device=state.x.device)
        x, v = state.x.index_copy(1, rows, corners), state.v.index_copy(1, rows, speed)
        return state.replace(x=x, v=v, x_prev=x.clone(), v_prev=v.clone())
