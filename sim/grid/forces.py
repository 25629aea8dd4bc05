"""What acts on gas besides pressure: nozzles, buoyancy, viscosity; and diffusion of scalars.

    nozzle     du/dt = s ŵ e^{−r/R},  dq/dt = k e^{−r/R} (q_n − q),  r distance to the nozzle
    buoyancy   du/dt = −g β (T − T₀) + g γ s                         Boussinesq: g points down
    viscosity  du/dt = η/ρ ∇²u,   diffusion  dq/dt = ∇·(D ∇q)        explicit in time

The relaxation of q is exact over a step, q ← (1 − a) q + a q_n with a = 1 − exp(−k dt e^{−r/R}), so
it does not depend on the number of steps.

Source: Xian et al. 2023 (FluidLab), smoke field and air conditioner; Fedkiw et al. 2001 (buoyancy).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core import rotations
from ..core.colliders import embed, project
from ..core.errors import InputError, message
from ..core.shape_base import direction
from .mac import Faces, MacGrid
from .solids import Solids

__all__ = ["Nozzle", "blow", "buoyancy", "diffuse", "relax", "viscosity"]


@dataclasses.dataclass(frozen=True)
class Nozzle:
    """A fan: it pushes the gas around it along its direction and gives it its temperature."""

    name: str
    """Key in `params`."""
    position: tuple[float, float, float]
    """Initial position [m]; (x, 0, z) in 2-D."""
    direction: tuple[float, float, float]
    """Direction it blows in before any turn, in its own frame [-]; normalized."""
    strength: float
    """Acceleration s of the gas at the nozzle [m/s²]."""
    radius: float
    """Length R over which the effect decays by e [m]."""
    rate: float = 0.0
    """Rate k at which gas at the nozzle takes its temperature and smoke [1/s]; 0: it only blows."""
    temperature: float | None = None
    """Temperature of its gas [K]; None: left alone."""
    smoke: float | None = None
    """Smoke in its gas [kg/m³]; None: left alone."""

    def __post_init__(self) -> None:
        where = f"Nozzle({self.name!r})"
        length = math.hypot(*self.direction)
        if len(self.position) != 3 or len(self.direction) != 3 or not 0 < length < math.inf:
            got = f"position {self.position}, direction {self.direction}"
            fix = "In a 2-D scene give (x, 0, z)"
            raise InputError(message(where, "position and direction of 3 numbers", got, fix))
        if not self.radius > 0 or self.rate < 0:
            got = f"radius {self.radius}, rate {self.rate}"
            raise InputError(message(where, "radius > 0 m and rate >= 0 1/s", got, "Correct them"))
        object.__setattr__(self, "direction", tuple(d / length for d in self.direction))

    def pose(self, like: Tensor) -> Tensor:
        """Initial pose, position [m] and quaternion, (7,)."""
        return like.new_tensor((*self.position, 1.0, 0.0, 0.0, 0.0))


def blow(grid: MacGrid, nozzle: Nozzle, pose: Tensor, strength: Tensor, radius: Tensor) -> Faces:
    """Acceleration of one nozzle on faces [m/s²].

    Args:
        grid: the grid.
        nozzle: its direction.
        pose: position and quaternion [m, -], (B, 7).
        strength: s [m/s²], (B,).
        radius: R [m], (B,).

    Returns:
        One (B, *faces) per axis.

    Differentiable in pose, strength and radius. Source: Xian et al. 2023, AirCon.
    """
    axis = rotations.rotate(pose[:, 3:], pose.new_tensor(nozzle.direction).expand(len(pose), 3))
    axis = project(axis, grid.dim)
    out = []
    for a in range(grid.dim):
        w = _reach(grid, a, pose, radius)
        out.append(w * (strength * axis[:, a]).reshape(-1, *(1,) * grid.dim))
    return tuple(out)


def relax(
    grid: MacGrid, q: Tensor, pose: Tensor, rate: Tensor, radius: Tensor, goal: Tensor, dt: float
) -> Tensor:
    """q after dt near a nozzle that holds `goal`; q (B, *cells), pose (B, 7), the others (B,).

    Differentiable in all but dt. Source: Xian et al. 2023, AirCon, in continuous time.
    """
    shape = (-1, *(1,) * grid.dim)
    w = _reach(grid, None, pose, radius)
    a = -torch.expm1(-rate.reshape(shape) * dt * w)
    return q + a * (goal.reshape(shape) - q)


def buoyancy(grid: MacGrid, lift: Tensor, gravity: tuple[float, ...]) -> Faces:
    """Acceleration −g · lift on faces [m/s²]; lift = β (T − T₀) − γ s at cells, (B, *cells).

    Differentiable in lift. Source: Boussinesq approximation.
    """
    out = []
    for a, g in enumerate(gravity):
        out.append(-g * grid.mean(lift, a) if g else lift.new_zeros(()))
    return tuple(out)


def viscosity(
    grid: MacGrid, u: Faces, nu_dt: Tensor, moving: Mapping[tuple[int, int], Tensor]
) -> Faces:
    """u after one explicit step of ∇²; second order in empty space and at flat walls.

    Args:
        grid: the grid; "wall" is no-slip, "slip" and "open" are free.
        u: velocities [m/s] on faces, those of solids on closed ones (which makes them no-slip).
        nu_dt: η dt / ρ [m²], (B,).
        moving: velocities (D,) of moving sides by (axis, side).

    Differentiable in u and nu_dt. Source: central differences, ghost values at sides.
    """
    factor = (nu_dt / grid.dx**2).reshape(-1, *(1,) * grid.dim)
    out = []
    for a, f in enumerate(u):
        total = torch.zeros_like(f)
        for b in range(grid.dim):
            dim = b - grid.dim
            if grid.periodic[b]:
                total = total + f.roll(1, dim) + f.roll(-1, dim) - 2 * f
                continue
            ends = []
            for side, kind in enumerate(grid.sides[b]):
                edge = f.narrow(dim, -side, 1)
                if kind == "wall" and a != b:
                    speed = moving[b, side][a] if (b, side) in moving else 0.0
                    edge = 2 * speed - edge
                ends.append(edge)
            wide = torch.cat((ends[0], f, ends[1]), dim)
            total = total + torch.diff(wide, n=2, dim=dim)
        out.append(f + factor * total)
    return tuple(out)


def diffuse(grid: MacGrid, q: Tensor, d_dt: Tensor, solids: Solids) -> Tensor:
    """Scalar after one explicit step of diffusion without flux through walls, solids and openings.

    Args:
        grid: the grid.
        q: (B, *cells), any unit.
        d_dt: diffusivity times dt [m²], (B,).
        solids: walls and obstacles.

    Σ q over gas cells is kept. Differentiable in q and d_dt. Source: central differences.
    """
    factor = (d_dt / grid.dx**2).reshape(-1, *(1,) * grid.dim)
    total = torch.zeros_like(q)
    for a, w in enumerate(solids.open):
        flux = grid.jump(q, a) * w
        if not grid.periodic[a]:
            dim = a - grid.dim
            inner = flux.narrow(dim, 1, flux.shape[dim] - 2)
            zero = torch.zeros_like(q.narrow(dim, 0, 1))
            flux = torch.cat((zero, inner, zero), dim)
        total = total + grid.outflow(flux, a)
    return q + factor * total


def _reach(grid: MacGrid, axis: int | None, pose: Tensor, radius: Tensor) -> Tensor:
    """e^{−r/R} at faces or cells, (B, *n)."""
    shape = (-1, *(1,) * grid.dim)
    x = embed(grid.points(axis, pose))
    arm = x[None] - pose[:, :3].reshape(-1, *(1,) * grid.dim, 3)
    return torch.exp(-direction(arm, (0.0, 0.0, 1.0))[0] / radius.reshape(shape))
