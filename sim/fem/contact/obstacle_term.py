"""The term of contact with obstacles: rows of points near them, energy, derivatives, sweeps.

Source: see `obstacles`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...core import rotations
from ...core.colliders import Collider
from ...core.errors import StateError, message
from ..terms import StepInput, Term
from .barrier import wall
from .friction import Lag, friction_energy, friction_gradient, friction_hessian
from .memo import Memo
from .surface import Surface
from .sweep import Field, distance_field, field_hessian, passed_by, safe_share

__all__ = ["ObstacleTerm"]


class Obstacles(Protocol):
    """What the term reads of an `ObstacleContact`, where the fields are explained."""

    surface: Surface
    obstacles: tuple[Collider, ...]
    obstacle_names: tuple[str, ...]
    meets: Sequence[Tensor]
    d_hat: float
    eps_v: float
    name: str
    pair_friction: Any
    friction_names: list[str]

    def poses(self, handles: Tensor) -> Tensor: ...


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


@dataclass(frozen=True)
class _Known:
    """What a term made anew need not look for again."""

    lagged: _Rows | None
    x: Tensor
    rows: _Rows


class ObstacleTerm(Term):
    """`ObstacleContact` with parameters and the inputs of a step bound."""

    changing = True

    def __init__(self, contact: Obstacles, params: Mapping[str, Tensor], step: StepInput) -> None:
        self.contact, self.surface = contact, contact.surface
        self.scenes, self.points = step.x_start.shape[:2]
        self.stiffness = params["stiffness"].expand(self.scenes)
        self.eps = contact.eps_v * step.dt
        self.pose_start = contact.poses(step.pose_start)
        self.pose = contact.poses(step.pose_end)
        """Where the obstacles are while the positions are solved for, (B, K, 7)."""
        self._memo = Memo()
        self.lagged: _Rows | None = None
        """Points near obstacles at the lagged positions."""
        known: _Known | None = step.known
        if known is None:
            self._check_sweep(step.x_start.detach().reshape(-1, 3))
        else:
            self.lagged = known.lagged
            self._memo.at(known.x, "rows", lambda: known.rows)
        self.lag = self._lag(params, step)

    def known(self, x: Tensor) -> _Known:
        return _Known(self.lagged, x.detach(), self._rows(x))

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

    def _rows(self, x: Tensor) -> _Rows:
        """Points near obstacles where these end the step."""
        return self._memo.at(x, "rows", lambda: self._near(x, self.pose))

    def _here(self, x: Tensor, slope: bool) -> tuple[_Rows, Field]:
        """Rows and distances where obstacles end the step; kept where they have no derivative."""
        rows = self._rows(x)
        if x.requires_grad or self.pose.requires_grad:
            return rows, self._field(rows, x, self.pose, slope)
        name = "slopes" if slope else "distances"
        return rows, self._memo.at(x, name, lambda: self._field(rows, x, self.pose, slope))

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
        if self.lagged is None:
            self.lagged = self._near(x_lag, pose)
        rows = self.lagged
        table = torch.as_tensor(self.contact.pair_friction, device=x_lag.device)
        group = self.surface.tensor("group", x_lag.device)[rows.point % self.points]
        which = table[group, rows.obstacle]
        field = self._field(rows, x_lag, pose)
        self._check(field.d, rows)
        force = -wall(field.d, self.contact.d_hat)[1] * self._scale(rows)
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
        """Raise unless all distances are positive."""
        bad = ~(d.detach() > 0)
        if bool(bad.any()):
            k = int(bad.nonzero()[0, 0])
            got = f"{self._name(rows.point[k], rows.obstacle[k])}, {-float(d[k]):.3g} m deep"
            fix = "Start outside; raise stiffness where forces press points in, or lower dt"
            raise StateError(message(self.contact.name, "points outside", got, fix), field="x")

    def _name(self, point: Tensor, obstacle: Tensor) -> str:
        scene, point = int(point) // self.points, int(point) % self.points
        name = self.contact.obstacle_names[int(obstacle)]
        return f"point {point} of scene {scene} inside of {name}"

    @torch.no_grad()
    def _check_sweep(self, x: Tensor) -> None:
        """Raise if an obstacle that moves during the step leaves a point on its other side."""
        if torch.equal(self.pose_start, self.pose):
            return
        X = x.reshape(self.scenes, self.points, 3)
        for k, collider in enumerate(self.contact.obstacles):
            points = self.contact.meets[k].to(x.device)
            P = X[:, points].reshape(-1, 3)
            a, b = (p[:, k].repeat_interleave(len(points), 0) for p in (self.pose_start, self.pose))
            wrong = passed_by(P, collider, a, b)
            if len(wrong):
                row = int(wrong[0])
                got = f"point {int(points[row % len(points)])} of scene {row // len(points)} "
                got += f"passed by {self.contact.obstacle_names[k]}"
                fix = "Lower dt, or make the obstacle thicker than its way per step"
                expected = "obstacles that push points ahead"
                raise StateError(message(self.contact.name, expected, got, fix), field="x")

    def energy(self, x: Tensor) -> Tensor:
        rows, field = self._here(x, slope=False)
        d = field.d
        values = self._scale(rows) * wall(d, self.contact.d_hat)[0]
        out = x.new_zeros(self.scenes).index_add(0, rows.scene, values)
        slip = friction_energy(self.lag, x, self.eps)
        return out.index_add(0, self.lag.stencil[:, 0] // self.points, slip)

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, field = self._here(x, slope=True)
        first = wall(field.d, self.contact.d_hat)[1]
        local = (self._scale(rows) * first)[:, None] * field.slope
        stencil = torch.cat((rows.point[:, None], self.lag.stencil))
        return stencil, torch.cat((local[:, None], friction_gradient(self.lag, x, self.eps)))

    @torch.no_grad()
    def hessian(self, x: Tensor, project: bool = True) -> tuple[Tensor, Tensor]:
        rows = self._rows(x)
        parts = []
        for k, collider in enumerate(self.contact.obstacles):
            part = rows.slices[k]
            place = self.pose[rows.scene[part], k]
            parts.append(field_hessian(x[rows.point[part]], collider, place))
        d, g, bend = (torch.cat(p) for p in zip(*parts, strict=True))
        _, first, second = wall(d, self.contact.d_hat)
        blocks = second[:, None, None] * g[:, :, None] * g[:, None, :]
        blocks = blocks + first[:, None, None] * bend
        blocks = self._scale(rows)[:, None, None] * blocks
        if project and len(blocks):
            values, vectors = torch.linalg.eigh(blocks)
            blocks = (vectors * values.clamp(min=0)[:, None]) @ vectors.transpose(1, 2)
        stencil = torch.cat((rows.point[:, None], self.lag.stencil))
        return stencil, torch.cat((blocks, friction_hessian(self.lag, x, self.eps)))

    @torch.no_grad()
    def max_step(self, x: Tensor, dx: Tensor) -> Tensor:
        """Points outside stay there; points that an obstacle has moved into get out in small steps."""
        out = x.new_ones(self.scenes)
        X, P = (v.reshape(self.scenes, self.points, 3) for v in (x, dx))
        for k, collider in enumerate(self.contact.obstacles):
            points = self.contact.meets[k].to(x.device)
            if len(points) == 0:
                continue
            pose = self.pose[:, k].repeat_interleave(len(points), 0)
            p, v = X[:, points].reshape(-1, 3), P[:, points].reshape(-1, 3)
            time = safe_share(p, v, collider, pose, pose)
            inside = (time == 0).nonzero()[:, 0]
            if len(inside):
                d = distance_field(p[inside], collider, pose[inside], slope=False).d
                room = d.abs() + 2 * self.contact.d_hat
                way = v[inside].norm(dim=-1).clamp(min=1e-300)
                time[inside] = (room / way).clamp(max=1)
            out = torch.minimum(out, time.reshape(self.scenes, -1).amin(1))
        return out
