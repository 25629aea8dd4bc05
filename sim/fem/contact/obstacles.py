"""Contact of points with rigid obstacles given by signed distances, as one term of the solver.

    E = κ Σ_v A_v b(d_v²) + Σ_v μ λ f₀(|u|),   d = signed distance of the obstacle at its pose, > 0
    u = T (x − x_start − w),   w = motion of the obstacle's surface point during the step

Only points meet obstacles: an edge may cut a corner of a box by what its bending allows, so parts of an
obstacle that are smaller than the edges of the mesh belong into a `Surface` of driven points instead.
d and ∇d are those of the shape; for shapes sampled on a grid ∇d jumps between cells, where d is only
continuous.

Source: Li et al. 2020 (Incremental Potential Contact), with distances of `core.colliders`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import rotations
from ...core.colliders import Collider, poses_of
from ...core.errors import InputError, StateError, message
from ..terms import StepInput, Term
from .barrier import barrier
from .friction import Lag, friction_energy, friction_gradient, friction_hessian
from .settings import friction_table, positive
from .surface import Surface
from .sweep import Field, distance_field, field_hessian, safe_share

__all__ = ["ObstacleContact", "ObstacleTerm"]


class ObstacleContact:
    """Barrier and friction between the points of a surface and rigid obstacles.

    Args:
        surface: whose points collide, with their areas and groups; driven points do not.
        obstacles: K colliders; `friction` of theirs is used unless given here.
        d_hat: distance at which the barrier begins [m].
        stiffness: κ [Pa], see `SurfaceContact`.
        handles: handle of the model that each obstacle moves with (its pose is then the handle's),
            None: it rests where the collider is. Default: all rest.
        friction: coefficient μ [-] of all, or {(group, obstacle name): μ}; None: the colliders' own.
        ignore: pairs (group, obstacle name) that pass through each other.
        eps_v: sliding speed above which friction is full [m/s].
        name: key of the parameters `stiffness` and `friction…`.

    Raises:
        InputError: a value out of range, or a name that does not exist.
    """

    def __init__(
        self,
        surface: Surface,
        obstacles: Sequence[Collider],
        d_hat: float,
        stiffness: float,
        *,
        handles: Sequence[int | None] | None = None,
        friction: float | Mapping[tuple[str, str], float] | None = None,
        ignore: Sequence[tuple[str, str]] = (),
        eps_v: float = 1e-3,
        name: str = "obstacles",
    ) -> None:
        where = "ObstacleContact"
        self.surface, self.obstacles, self.name = surface, tuple(obstacles), name
        self.d_hat = positive(where, "d_hat", d_hat, "m")
        self.eps_v = positive(where, "eps_v", eps_v, "m/s")
        self.handles = (None,) * len(self.obstacles) if handles is None else tuple(handles)
        if not self.obstacles or len(self.handles) != len(self.obstacles):
            got = f"{len(self.obstacles)} obstacles, {len(self.handles)} handles"
            raise InputError(message(where, "obstacles, and a handle or None for each", got))
        self.obstacle_names = tuple(c.name or f"obstacle{k}" for k, c in enumerate(self.obstacles))
        """Names, "obstacle<k>" where the collider has none."""
        if friction is None:
            pairs = itertools.product(surface.groups, range(len(self.obstacles)))
            friction = {
                (g, self.obstacle_names[k]): self.obstacles[k].friction
                for g, k in pairs
                if self.obstacles[k].friction > 0
            }
        names = (surface.groups, self.obstacle_names)
        self.pair_friction, coefficients = friction_table(where, friction, *names)
        """Which friction parameter each group and obstacle has, −1 for none, (G, K)."""
        self.friction_names = list(coefficients)
        """Names of the friction parameters."""
        self._defaults = {
            "stiffness": positive(where, "stiffness", stiffness, "Pa"),
            **coefficients,
        }
        met = np.ones((len(surface.groups), len(self.obstacles)), bool)
        for group, obstacle in ignore:
            if group not in surface.groups or obstacle not in self.obstacle_names:
                expected = f"ignore: pairs of {names[0]} and {names[1]}"
                raise InputError(message(where, expected, f"{(group, obstacle)}"))
            met[surface.groups.index(group), self.obstacle_names.index(obstacle)] = False
        points = surface.vertices[~surface.driven[surface.vertices]]
        self.meets = [torch.from_numpy(points[met[surface.group[points], k]]) for k in
                      range(len(self.obstacles))]  # fmt: skip
        """Points of a scene that each obstacle may meet."""

    def default_params(self) -> Mapping[str, Any]:
        """Stiffness [Pa] and friction coefficients [-] by name."""
        return dict(self._defaults)

    def poses(self, handles: Tensor) -> Tensor:
        """Poses of the obstacles (B, K, 7) for those of the model's handles (B, H, 7)."""
        own = poses_of(self.obstacles, len(handles), handles.dtype, str(handles.device))
        columns = [own[:, k] if h is None else handles[:, h] for k, h in enumerate(self.handles)]
        return torch.stack(columns, dim=1)

    def distances(self, x: Tensor, handles: Tensor) -> Tensor:
        """Signed distances of all points and obstacles [m], (B, N, K); differentiable."""
        pose = self.poses(handles)
        parts = [
            distance_field(x.reshape(-1, 3), c, pose[:, k].repeat_interleave(x.shape[1], 0)).d
            for k, c in enumerate(self.obstacles)
        ]
        return torch.stack(parts, dim=-1).reshape(len(x), x.shape[1], -1)

    def check(self, x: Tensor, handles: Tensor) -> None:
        """Raise InputError, naming one, if points of x (B, N, 3) are inside an obstacle."""
        d = self.distances(x.detach(), handles.detach())
        for k, points in enumerate(self.meets):
            inside = ~(d[:, points, k] > 0)
            if bool(inside.any()):
                scene, row = inside.nonzero()[0].tolist()
                depth = -float(d[scene, points[row], k])
                got = f"point {int(points[row])} of scene {scene} {depth:.3g} m inside"
                expected = f"points outside of {self.obstacle_names[k]} at the start"
                raise InputError(message("contact.check", expected, got, "Move one of them"))

    def min_distance(self, x: Tensor, handles: Tensor) -> Tensor:
        """Smallest signed distance of points that an obstacle may meet [m], (B,); no derivative."""
        d = self.distances(x.detach(), handles.detach())
        parts = [d[:, p, k] for k, p in enumerate(self.meets)]
        return torch.cat(parts, dim=1).amin(1)

    def term(self, params: Mapping[str, Tensor], step: StepInput) -> ObstacleTerm:
        """The term of one solve; see `terms.Contact`."""
        return ObstacleTerm(self, params, step)


@dataclass(frozen=True)
class _Rows:
    """Points near obstacles, obstacle by obstacle."""

    point: Tensor
    """Flattened points, (S,)."""
    scene: Tensor
    """(S,)."""
    slices: list[slice]
    """Rows of each obstacle."""
    obstacle: Tensor
    """(S,)."""


class ObstacleTerm(Term):
    """`ObstacleContact` with parameters and the inputs of a step bound."""

    changing = True

    def __init__(
        self, contact: ObstacleContact, params: Mapping[str, Tensor], step: StepInput
    ) -> None:
        self.contact, self.surface = contact, contact.surface
        self.scenes, self.points = step.x_start.shape[:2]
        self.stiffness = params["stiffness"].expand(self.scenes)
        self.eps = contact.eps_v * step.dt
        self.pose_start = contact.poses(step.pose_start)
        self.pose = contact.poses(step.pose_end)
        """Where the obstacles are while the positions are solved for, (B, K, 7)."""
        self.lag = self._lag(params, step)

    def _near(self, x: Tensor, pose: Tensor) -> _Rows:
        """Points with d < d̂; points inside too."""
        with torch.no_grad():
            X, pose = x.detach().reshape(self.scenes, self.points, 3), pose.detach()
            rows, slices, owner = [], [], []
            start = 0
            for k, collider in enumerate(self.contact.obstacles):
                points = self.contact.meets[k].to(x.device)
                P = X[:, points].reshape(-1, 3)
                place = pose[:, k].repeat_interleave(len(points), 0)
                near = distance_field(P, collider, place, slope=False).d < self.contact.d_hat
                row = near.nonzero()[:, 0]
                scene = row // max(len(points), 1)
                rows.append(scene * self.points + points[row - scene * len(points)])
                slices.append(slice(start, start + len(row)))
                owner.append(torch.full_like(row, k))
                start += len(row)
            point = torch.cat(rows)
            return _Rows(point, point // self.points, slices, torch.cat(owner))

    def _field(self, rows: _Rows, x: Tensor, pose: Tensor, slope: bool = True) -> Field:
        """Distance and its derivative of all rows."""
        parts = []
        for k, collider in enumerate(self.contact.obstacles):
            part = rows.slices[k]
            place = pose[rows.scene[part], k]
            parts.append(distance_field(x[rows.point[part]], collider, place, slope))
        g = torch.cat([p.slope for p in parts]) if slope else x.new_zeros(0, 3)
        return Field(torch.cat([p.d for p in parts]), g)

    def _scale(self, rows: _Rows) -> Tensor:
        area = self.surface.tensor("vertex_area", self.stiffness.device)
        return self.stiffness[rows.scene] * area[rows.point % self.points]

    def _lag(self, params: Mapping[str, Tensor], step: StepInput) -> Lag:
        """Friction rows at the lagged positions."""
        x_lag, x_start = step.x_lag.reshape(-1, 3), step.x_start.reshape(-1, 3)
        # At the start of the step the obstacles stand where the step starts.
        first = step.x_lag is step.x_start or torch.equal(step.x_lag, step.x_start)
        pose = self.pose_start if first else self.pose
        rows = self._near(x_lag, pose)
        table = torch.as_tensor(self.contact.pair_friction, device=x_lag.device)
        group = self.surface.tensor("group", x_lag.device)[rows.point % self.points]
        which = table[group, rows.obstacle]
        field = self._field(rows, x_lag, pose)
        self._check(field.d, rows)
        force = -2 * field.d * barrier(field.d * field.d, self.contact.d_hat)[1]
        force = force * self._scale(rows)
        names = self.contact.friction_names
        values = [params[name].expand(self.scenes) for name in names]
        # The last row serves pairs without friction.
        mu = torch.stack([*values, torch.zeros_like(self.stiffness)])
        force = force * mu[torch.where(which < 0, len(names), which), rows.scene]
        normal = field.slope / (field.slope * field.slope).sum(-1, keepdim=True).sqrt()
        places = (pose, self.pose_start, self.pose)
        here, start, end = (p[rows.scene, rows.obstacle] for p in places)
        local = rotations.rotate_inverse(here[:, 3:], x_lag[rows.point] - here[:, :3])
        moved = rotations.rotate(end[:, 3:], local) + end[:, :3]
        moved = moved - rotations.rotate(start[:, 3:], local) - start[:, :3]
        one = torch.ones_like(force)[:, None]
        return Lag(rows.point[:, None], one, normal, force, x_start[rows.point] + moved)

    def _check(self, d: Tensor, rows: _Rows) -> None:
        bad = ~(d.detach() > 0)
        if bool(bad.any()):
            k = int(bad.nonzero()[0, 0])
            point, scene = int(rows.point[k]) % self.points, int(rows.scene[k])
            name = self.contact.obstacle_names[int(rows.obstacle[k])]
            got = f"point {point} of scene {scene} {-float(d[k]):.3g} m inside of {name}"
            fix = "Start outside, and move obstacles no faster than `safe_share` allows"
            raise StateError(message(self.contact.name, "points outside", got, fix), field="x")

    def energy(self, x: Tensor) -> Tensor:
        rows = self._near(x, self.pose)
        d = self._field(rows, x, self.pose, slope=False).d
        values = self._scale(rows) * barrier(d * d, self.contact.d_hat)[0]
        values = torch.where(d > 0, values, torch.full_like(values, torch.inf))
        out = x.new_zeros(self.scenes).index_add(0, rows.scene, values)
        slip = friction_energy(self.lag, x, self.eps)
        return out.index_add(0, self.lag.stencil[:, 0] // self.points, slip)

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._near(x, self.pose)
        field = self._field(rows, x, self.pose)
        self._check(field.d, rows)
        first = barrier(field.d * field.d, self.contact.d_hat)[1]
        local = (self._scale(rows) * 2 * field.d * first)[:, None] * field.slope
        stencil = torch.cat((rows.point[:, None], self.lag.stencil))
        return stencil, torch.cat((local[:, None], friction_gradient(self.lag, x, self.eps)))

    @torch.no_grad()
    def hessian(self, x: Tensor, project: bool = True) -> tuple[Tensor, Tensor]:
        rows = self._near(x, self.pose)
        parts = []
        for k, collider in enumerate(self.contact.obstacles):
            part = rows.slices[k]
            place = self.pose[rows.scene[part], k]
            parts.append(field_hessian(x[rows.point[part]], collider, place))
        d, g, bend = (torch.cat(p) for p in zip(*parts, strict=True))
        self._check(d, rows)
        _, first, second = barrier(d * d, self.contact.d_hat)
        along = 4 * d * d * second + 2 * first
        blocks = along[:, None, None] * g[:, :, None] * g[:, None, :]
        blocks = blocks + (2 * d * first)[:, None, None] * bend
        blocks = self._scale(rows)[:, None, None] * blocks
        if project and len(blocks):
            values, vectors = torch.linalg.eigh(blocks)
            blocks = (vectors * values.clamp(min=0)[:, None]) @ vectors.transpose(1, 2)
        stencil = torch.cat((rows.point[:, None], self.lag.stencil))
        return stencil, torch.cat((blocks, friction_hessian(self.lag, x, self.eps)))

    def max_step(self, x: Tensor, dx: Tensor) -> Tensor:
        return self.safe_share(x, dx, self.pose, self.pose)

    @torch.no_grad()
    def safe_share(self, x: Tensor, dx: Tensor, pose: Tensor, pose_end: Tensor) -> Tensor:
        """Largest share found of a motion of points and obstacles in which none gets inside.

        Args:
            x, dx: flattened positions and displacements [m], (M, 3).
            pose, pose_end: obstacles at both ends, (B, K, 7); in between they move along lines and turn
                at constant rate.

        Returns:
            Share in [0, 1], (B,).
        """
        out = x.new_ones(self.scenes)
        X, P = (v.reshape(self.scenes, self.points, 3) for v in (x, dx))
        for k, collider in enumerate(self.contact.obstacles):
            points = self.contact.meets[k].to(x.device)
            if len(points) == 0:
                continue
            a, b = (p[:, k].repeat_interleave(len(points), 0) for p in (pose, pose_end))
            time = safe_share(
                X[:, points].reshape(-1, 3), P[:, points].reshape(-1, 3), collider, a, b
            )
            out = torch.minimum(out, time.reshape(self.scenes, -1).amin(1))
        return out
