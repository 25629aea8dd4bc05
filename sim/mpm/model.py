"""What an MPM scene is made of: grid, particle groups, emitters, tools; and its state and control.

Source: fields and their meaning follow Hu et al. 2018 (MLS-MPM) and Jiang et al. 2015 (APIC).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.colliders import Collider
from ..core.colliders_rigid import RigidBody
from ..core.errors import InputError
from ..core.laws import Law
from ..core.state import State
from .bodies import Bodies

__all__ = ["Emitter", "Grid", "Group", "MPMControl", "MPMModel", "MPMState", "WALLS"]

WALLS = ("separate", "slip", "sticky")
"""separate: only motion into the wall stops; slip: no normal motion; sticky: no motion at all."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Background grid over a box whose walls stand exactly at `lower` and `upper`."""

    lower: tuple[float, ...]
    """Lower corner [m], D numbers; D = 2 is the plane (x, z)."""
    upper: tuple[float, ...]
    """Upper corner [m]."""
    dx: float
    """Node spacing [m]; must divide the box."""
    padding: int = 3
    """Layers of nodes behind each wall; quadratic splines reach 1.5 dx, and 3 leave room for drift."""

    def __post_init__(self) -> None:
        if len(self.lower) not in (2, 3) or len(self.lower) != len(self.upper):
            raise InputError(
                f"Grid: lower and upper with 2 or 3 numbers each; got {self.lower} and {self.upper}. "
                "Give both corners in the same dimension."
            )
        for lo, hi in zip(self.lower, self.upper, strict=True):
            cells = (hi - lo) / self.dx
            if hi <= lo or abs(cells - round(cells)) > 1e-6 * max(1.0, cells):
                raise InputError(
                    f"Grid: a box of whole cells; got {lo} … {hi} m with dx = {self.dx} m "
                    f"({cells:.4f} cells). Choose dx = {(hi - lo) / max(1, round(cells)):.6g} m."
                )
        if self.padding < 2:
            raise InputError(
                f"Grid: padding ≥ 2 nodes; got {self.padding}. The spline stencil needs two."
            )

    @property
    def dim(self) -> int:
        return len(self.lower)

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes per axis."""
        return tuple(
            round((hi - lo) / self.dx) + 1 + 2 * self.padding
            for lo, hi in zip(self.lower, self.upper, strict=True)
        )

    @property
    def origin(self) -> tuple[float, ...]:
        """Position of node 0 [m]."""
        return tuple(lo - self.padding * self.dx for lo in self.lower)

    @property
    def node_count(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Emitter:
    """Source that releases the particles of its group one after another.

    Each particle starts at a random point of a disk (2-D: segment) of radius `radius` around `position`,
    moved along the velocity by the fraction of a substep, so that the jet has no gaps.
    """

    position: tuple[float, ...]
    """Centre [m]; in the frame of `tool` if one is named."""
    velocity: tuple[float, ...]
    """Default exit velocity [m/s]; `MPMControl.emitter_velocity` overrides it."""
    radius: float
    """Radius of the opening [m]."""
    rate: float
    """Particles per second."""
    start: float = 0.0
    """Time of the first particle [s]."""
    tool: str = ""
    """Name of the collider that carries the emitter; empty: fixed in space."""
    seed: int = 0
    """Seed of the random offsets."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Particles that share a material."""

    name: str
    """Key of this group in `params`."""
    law: Law
    """Constitutive law; its fields are the default material parameters."""
    x: Tensor
    """Rest positions [m], shape (n, D)."""
    volume: float | Tensor
    """Rest volume per particle [m³] (2-D: m² times 1 m of depth), a number or shape (n,)."""
    velocity: tuple[float, ...] | Tensor = ()
    """Initial velocity [m/s], D numbers or shape (n, D); default at rest."""
    emitter: Emitter | None = None
    """With an emitter, `x` only counts the particles: they enter one by one."""

    @property
    def count(self) -> int:
        return self.x.shape[0]


@dataclasses.dataclass
class MPMState(State):
    """Particles and tools of B scenes."""

    x: Tensor
    """Positions [m], (B, N, D)."""
    v: Tensor
    """Velocities [m/s], (B, N, D)."""
    C: Tensor
    """APIC affine velocity = velocity gradient [1/s], (B, N, D, D)."""
    F: Tensor
    """Elastic deformation gradient of solids, (B, N_F, 3, 3) in group order; 3×3 in 2-D too."""
    J: Tensor
    """Volume ratio of liquids, (B, N_J) in group order."""
    alpha: Tensor
    """Hardening variable of the laws that have one, (B, N_alpha) in group order."""
    tool_pose: Tensor
    """Poses of all colliders, (B, K, 7): position [m] and quaternion (w, x, y, z)."""
    body_twist: Tensor | None = None
    """Linear [m/s] and angular [rad/s] velocity of the rigid bodies, (B, R, 6), in world axes about the
    origin of the shape; None without bodies."""
    substep: int = 0
    """Substeps since the start; decides which emitted particles exist."""


@dataclasses.dataclass
class MPMControl:
    """Inputs of one step; None means the model's default."""

    tool_twist: Tensor | None = None
    """Linear [m/s] and angular [rad/s] velocity of every collider in world axes, (B, K, 6); the rows of
    rigid bodies are not read."""
    emitter_velocity: Tensor | None = None
    """Exit velocity of every emitter [m/s], (B, E, D), in the frame of its tool."""


@dataclasses.dataclass(frozen=True)
class MPMModel:
    """A scene: everything that does not change in time."""

    grid: Grid
    groups: Sequence[Group]
    gravity: tuple[float, ...] = ()
    """Acceleration [m/s²], D numbers; default (0, …, −9.81)."""
    walls: str | Mapping[str, str] = "separate"
    """One of WALLS for all faces, or per face: {"x-": "sticky", "z+": "slip"}; others separate."""
    colliders: Sequence[Collider] = ()
    """Tools with prescribed motion, and `RigidBody`s, which move freely."""

    def __post_init__(self) -> None:
        D = self.grid.dim
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "colliders", tuple(self.colliders))
        if not self.gravity:
            object.__setattr__(self, "gravity", (0.0,) * (D - 1) + (-9.81,))
        if not self.groups:
            raise InputError("MPMModel: at least one particle group; got none. Add a Group.")
        names = [g.name for g in self.groups]
        if len(set(names)) != len(names) or "colliders" in names:
            raise InputError(
                f'MPMModel: different group names, none of them "colliders"; got {names}. Rename.'
            )
        for group in self.groups:
            _check_group(group, self.grid)
        if len(self.gravity) != D:
            raise InputError(
                f"MPMModel: gravity with {D} numbers; got {self.gravity}. Give m/s² per axis."
            )
        self.wall_codes()
        tools = [c.name for c in self.colliders]
        for group in self.groups:
            if group.emitter is not None and group.emitter.tool not in ("", *tools):
                raise InputError(
                    f"MPMModel: emitter of {group.name!r} on a known collider; got "
                    f"{group.emitter.tool!r}. Colliders are {tools}."
                )
        self._check_bodies()

    @property
    def dim(self) -> int:
        return self.grid.dim

    @property
    def particle_count(self) -> int:
        return sum(g.count for g in self.groups)

    def slices(self) -> dict[str, slice]:
        """Range of each group on the particle axis."""
        result, start = {}, 0
        for group in self.groups:
            result[group.name] = slice(start, start + group.count)
            start += group.count
        return result

    def storage_slices(self) -> dict[str, dict[str, slice]]:
        """Range of each group on the axes of F, J and alpha: `{field: {group: slice}}`."""
        result: dict[str, dict[str, slice]] = {"F": {}, "J": {}, "alpha": {}}
        ends = {"F": 0, "J": 0, "alpha": 0}
        for group in self.groups:
            fields = [group.law.storage] + (["alpha"] if group.law.hardening else [])
            for field in fields:
                result[field][group.name] = slice(ends[field], ends[field] + group.count)
                ends[field] += group.count
        return result

    def emitters(self) -> list[Group]:
        return [g for g in self.groups if g.emitter is not None]

    @functools.cached_property
    def bodies(self) -> Bodies:
        """Constants of the rigid bodies among the colliders."""
        grid = self.grid
        return Bodies.of(self.colliders, grid.lower, grid.upper, grid.dx, self.gravity)

    def _check_bodies(self) -> None:
        carriers = [g.emitter.tool for g in self.emitters() if g.emitter and g.emitter.tool]
        for body in self.colliders:
            if not isinstance(body, RigidBody):
                continue
            if body.name and body.name in carriers:
                raise InputError(
                    f"MPMModel: emitters on prescribed colliders; got one on the rigid body "
                    f"{body.name!r}. Mount it on a Collider."
                )
            moves = [body.position[1], body.velocity[1], *body.orientation[1::2]]
            moves += list(body.angular_velocity[::2])
            if self.dim == 2 and any(moves):
                raise InputError(
                    f"MPMModel: a rigid body in the plane (x, z) of a 2-D scene that turns about y; "
                    f"got {body}. Use position (x, 0, z), orientation (w, 0, y, 0) and the like."
                )

    def _parked(self, emitter: Emitter, options: dict[str, Any]) -> Tensor:
        """Where particles wait: any place on the grid does."""
        position = torch.tensor(emitter.position, **options)
        for collider in self.colliders:
            if collider.name == emitter.tool and emitter.tool:
                axes = (0, 1, 2) if self.dim == 3 else (0, 2)
                return torch.tensor([collider.position[a] for a in axes], **options)
        return position

    def wall_codes(self) -> list[int]:
        """Wall type per face (x−, x+, …, z−, z+) as index into WALLS."""
        axes = ("x", "y", "z") if self.dim == 3 else ("x", "z")
        faces = [f"{axis}{side}" for axis in axes for side in "-+"]
        walls = dict.fromkeys(faces, self.walls) if isinstance(self.walls, str) else self.walls
        unknown = [f for f in walls if f not in faces] + [w for w in walls.values() if w not in WALLS]
        if unknown:
            raise InputError(
                f"MPMModel: walls out of {WALLS} on faces {faces}; got {unknown}. Correct the names."
            )
        return [WALLS.index(walls.get(face, "separate")) for face in faces]

    def volumes(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Rest volume of every particle [m³], (N,)."""
        parts = [
            torch.as_tensor(g.volume, dtype=dtype, device=device).expand(g.count)
            for g in self.groups
        ]
        return torch.cat(parts)

    def births(self, dt: float) -> Tensor:
        """Substep at which each particle enters the scene, (N,) int32; 0 without emitter."""
        parts = []
        for group in self.groups:
            birth = torch.zeros(group.count, dtype=torch.int32)
            if group.emitter is not None:
                times = group.emitter.start + torch.arange(group.count) / group.emitter.rate
                birth = torch.floor(times / dt + 1e-9).to(torch.int32)
            parts.append(birth)
        return torch.cat(parts)

    def initial_state(
        self,
        batch_size: int = 1,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> MPMState:
        """Rest state: F = I, J = 1, C = 0, tools at their initial poses, B equal scenes."""
        D, B = self.dim, batch_size
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        x, v = [], []
        for group in self.groups:
            positions = group.x.detach().to(**options)
            velocity = group.velocity if len(group.velocity) else (0.0,) * D
            v.append(torch.as_tensor(velocity, **options).expand(group.count, D))
            if group.emitter is not None:
                positions = self._parked(group.emitter, options).expand(group.count, D)
            x.append(positions)
        N = self.particle_count
        sizes = {
            field: sum(s.stop - s.start for s in groups.values())
            for field, groups in self.storage_slices().items()
        }
        pose = torch.tensor(
            [[*c.position, *c.orientation] for c in self.colliders], **options
        ).reshape(len(self.colliders), 7)
        moving = [
            [*c.velocity, *c.angular_velocity] for c in self.colliders if isinstance(c, RigidBody)
        ]
        return MPMState(
            x=torch.cat(x).repeat(B, 1, 1),
            v=torch.cat(v).repeat(B, 1, 1),
            C=torch.zeros(B, N, D, D, **options),
            F=torch.eye(3, **options).repeat(B, sizes["F"], 1, 1),
            J=torch.ones(B, sizes["J"], **options),
            alpha=torch.zeros(B, sizes["alpha"], **options),
            tool_pose=pose.repeat(B, 1, 1),
            body_twist=torch.tensor(moving, **options).repeat(B, 1, 1) if moving else None,
        )


def _check_group(group: Group, grid: Grid) -> None:
    if not isinstance(group.law, Law):
        raise InputError(
            f"Group {group.name!r}: law is a Law; got {type(group.law).__name__}. "
            "Wrap a torch function or module in TorchLaw."
        )
    if group.x.ndim != 2 or group.x.shape[1] != grid.dim or group.x.shape[0] == 0:
        raise InputError(
            f"Group {group.name!r}: positions of shape (n ≥ 1, {grid.dim}); got "
            f"{tuple(group.x.shape)}. Sample the shape in the dimension of the grid."
        )
    if not bool(torch.isfinite(group.x).all()):
        bad = int((~torch.isfinite(group.x)).any(-1).sum())
        raise InputError(
            f"Group {group.name!r}: finite positions; got {bad} particles with NaN or infinity. "
            "Remove them from the input."
        )
    if bool((torch.as_tensor(group.volume) <= 0).any()):
        raise InputError(
            f"Group {group.name!r}: positive rest volumes [m³]; got a value ≤ 0. "
            "Use the volume that sample_shape returns."
        )
    lower, upper = (torch.tensor(c, dtype=group.x.dtype) for c in (grid.lower, grid.upper))
    outside = ((group.x < lower) | (group.x > upper)).any(-1)
    if group.emitter is None and bool(outside.any()):
        raise InputError(
            f"Group {group.name!r}: positions inside {grid.lower} … {grid.upper} m; got "
            f"{int(outside.sum())} particles outside. Move the body or enlarge the grid."
        )
