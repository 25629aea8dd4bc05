"""What a gas scene is made of: grid, obstacles, nozzles, properties; and its state and control.

Source: fields follow Fedkiw et al. 2001 (smoke) and Xian et al. 2023 (FluidLab, smoke field).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.colliders import Collider, poses_of
from ..core.errors import InputError, message
from ..core.state import State
from .forces import Nozzle
from .mac import AXES, Faces, MacGrid
from .solids import SHAPES, side_velocity

__all__ = ["GasControl", "GasModel", "GasState"]

PROPERTIES = ("rho", "eta", "diffusivity", "smoke_diffusivity", "ambient", "beta", "weight")


@dataclasses.dataclass
class GasState(State):
    """Gas of B scenes on a MAC grid."""

    u_x: Tensor
    """Velocity along x [m/s] on its faces, (B, *faces)."""
    u_z: Tensor
    """Velocity along z (up) [m/s] on its faces, (B, *faces)."""
    temperature: Tensor
    """Temperature [K], (B, *cells)."""
    smoke: Tensor
    """Smoke [kg/m³], (B, *cells)."""
    pressure: Tensor
    """Pressure against the hydrostatic one [Pa], (B, *cells): the result of the last step, and the
    first guess of the next one, to which it passes no gradient."""
    tool_pose: Tensor
    """Obstacle poses, (B, K, 7): position [m] and quaternion (w, x, y, z)."""
    nozzle_pose: Tensor
    """Nozzle poses, (B, M, 7)."""
    u_y: Tensor | None = None
    """Velocity along y [m/s] in 3-D."""
    t: float = 0.0
    """Time [s]."""

    @property
    def u(self) -> Faces:
        """Velocity components in the order of the axes."""
        return (self.u_x, self.u_z) if self.u_y is None else (self.u_x, self.u_y, self.u_z)

    def with_u(self, u: Faces) -> GasState:
        """Copy with another velocity."""
        return self.replace(u_x=u[0], u_y=u[1] if len(u) == 3 else None, u_z=u[-1])


@dataclasses.dataclass
class GasControl:
    """Inputs of one step; None means the model's default."""

    tool_twist: Tensor | None = None
    """Linear [m/s] and angular [rad/s] velocity of every obstacle in world axes, (B, K, 6); rest."""
    nozzle_twist: Tensor | None = None
    """The same for every nozzle, (B, M, 6); entry 5 is the yaw rate. Default: rest."""
    nozzle_strength: Tensor | None = None
    """Acceleration of every nozzle [m/s²], (B, M); default: that of `params`."""
    acceleration: tuple[Tensor, ...] | None = None
    """Any further acceleration on faces [m/s²], one (B, *faces) per axis."""


@dataclasses.dataclass(frozen=True)
class GasModel:
    """A scene: everything that does not change in time. Gas of one density (Boussinesq)."""

    cells: tuple[int, ...]
    """Cells per axis, (x, z) or (x, y, z)."""
    dx: float
    """Length of a cell [m]."""
    walls: str | Mapping[str, str] = "wall"
    """"wall", "slip", "open" or "periodic" for all sides or per side {"x-": "open"}; others walls."""
    obstacles: Sequence[Collider] = ()
    """Bodies gas cannot enter; contact settings of the colliders play no part."""
    nozzles: Sequence[Nozzle] = ()
    """Fans and inlets inside the domain."""
    wall_velocity: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """Velocity of walls [m/s], D numbers per side: a lid, or an inflow {"x-": (1.0, 0.0)}."""
    origin: tuple[float, ...] = ()
    """Lower corner [m]; zero."""
    gravity: tuple[float, ...] = ()
    """Acceleration [m/s²], D numbers; default (0, …, −9.81). Acts through buoyancy only."""
    rho: float = 1.2
    """Density [kg/m³]: air at 20 °C."""
    eta: float = 0.0
    """Dynamic viscosity [Pa s]; none, because a grid adds more than air has."""
    diffusivity: float = 0.0
    """Of temperature [m²/s]; none, as eta."""
    smoke_diffusivity: float = 0.0
    """Of smoke [m²/s]; none, as eta."""
    ambient: float = 293.15
    """Temperature T₀ [K] without lift, which also enters through openings: 20 °C."""
    beta: float = 1.0 / 293.15
    """Thermal expansion [1/K], the buoyancy of warmth: that of an ideal gas at 20 °C."""
    weight: float = 0.0
    """Weight of smoke γ [m³/kg]: 1/rho for a real load, 0 for a passive marker."""
    shape: str = "voxels"
    """"voxels", or "fractions" of faces, which also give derivatives in obstacle poses."""

    def __post_init__(self) -> None:
        D = self.grid.dim
        for name, kind in (("obstacles", Collider), ("nozzles", Nozzle)):
            items = tuple(getattr(self, name))
            object.__setattr__(self, name, items)
            wrong = [type(i).__name__ for i in items if not isinstance(i, kind)]
            if wrong:
                fix = f"Give {kind.__name__}s"
                raise InputError(message("GasModel", f"{name} of {kind.__name__}", wrong[0], fix))
        if not self.gravity:
            object.__setattr__(self, "gravity", (0.0,) * (D - 1) + (-9.81,))
        if len(self.gravity) != D:
            fix = "Give m/s² per axis"
            raise InputError(message("GasModel", f"gravity of {D}", f"{self.gravity}", fix))
        if self.shape not in SHAPES:
            raise InputError(
                message("GasModel", f"shape out of {SHAPES}", self.shape, "Choose one")
            )
        names = [n.name for n in self.nozzles]
        if len(set(names)) != len(names) or "gas" in names:
            fix = "Rename nozzles"
            raise InputError(message("GasModel", 'different names, none "gas"', f"{names}", fix))
        if self.rho <= 0 or self.eta < 0 or self.diffusivity < 0 or self.smoke_diffusivity < 0:
            got = f"{self.rho}, {self.eta}, {self.diffusivity}, {self.smoke_diffusivity}"
            expected = "rho > 0, eta, diffusivity and smoke_diffusivity >= 0"
            raise InputError(message("GasModel", expected, got, "Correct the sign"))
        side_velocity(self.grid, self.wall_velocity, torch.zeros(()))

    @functools.cached_property
    def grid(self) -> MacGrid:
        """The MAC grid."""
        return MacGrid(self.cells, self.dx, self.origin, self.walls)

    @property
    def dim(self) -> int:
        return self.grid.dim

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes."""
        return AXES[self.dim]

    def default_params(self) -> dict[str, dict[str, Any]]:
        """Parameters in the form `step` takes: `{"gas": {...}, nozzle name: {...}}`."""
        params = {"gas": {name: getattr(self, name) for name in PROPERTIES}}
        for n in self.nozzles:
            values = {"strength": n.strength, "radius": n.radius, "rate": n.rate}
            values |= {k: v for k in ("temperature", "smoke") if (v := getattr(n, k)) is not None}
            params[n.name] = values
        return params

    def initial_state(
        self,
        batch_size: int = 1,
        *,
        temperature: float | Tensor | None = None,
        smoke: float | Tensor = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> GasState:
        """Gas at rest in B equal scenes, obstacles and nozzles at their initial poses.

        Args:
            batch_size: B.
            temperature: [K], number or (*cells) or (B, *cells); default `ambient`.
            smoke: [kg/m³], likewise.
            dtype, device: of all tensors.
        """
        like = torch.zeros((), dtype=dtype, device=device)
        shape = (batch_size, *self.cells)

        def field(value: float | Tensor, name: str) -> Tensor:
            try:
                given = torch.as_tensor(value, dtype=dtype, device=device)
                return given.expand(shape).clone()
            except RuntimeError:
                got = torch.as_tensor(value)
                fix = "Evaluate it at grid.points(None, like)"
                expected = f"{name} that fits (B, *cells) = {shape}"
                raise InputError(message("GasModel.initial_state", expected, got, fix)) from None

        rest = self.grid.zeros(batch_size, like)
        poses = [n.pose(like) for n in self.nozzles]
        nozzles = torch.stack(poses) if poses else like.new_zeros(0, 7)
        return GasState(
            u_x=rest[0],
            u_y=rest[1] if self.dim == 3 else None,
            u_z=rest[-1],
            temperature=field(self.ambient if temperature is None else temperature, "temperature"),
            smoke=field(smoke, "smoke"),
            pressure=like.new_zeros(shape),
            tool_pose=poses_of(self.obstacles, batch_size, dtype, str(like.device)),
            nozzle_pose=nozzles.repeat(batch_size, 1, 1),
        )

    def moving_sides(self, like: Tensor) -> tuple[Faces | None, dict[tuple[int, int], Tensor]]:
        """`side_velocity` of this model."""
        return side_velocity(self.grid, self.wall_velocity, like)

    def diffusion_bound(self, fastest: float) -> float:
        """Largest explicit step [s] for a diffusivity [m²/s]: dx² / (2 D κ)."""
        return self.dx**2 / (2 * self.dim * fastest) if fastest > 0 else math.inf
