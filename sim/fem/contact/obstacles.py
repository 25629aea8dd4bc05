"""Contact of points with rigid obstacles given by signed distances, as one term of the solver.

    E = κ Σ_v A_v b(d_v) + Σ_v μ λ f₀(|u|),   d = signed distance of the obstacle at its pose
    u = T (x − x_start − w),   w = motion of the obstacle's surface point during the step

Obstacles stand where they end the step while the positions are solved for. One that moves may then hold
points that it has yet to push: b goes on inside as a parabola (`barrier.wall`), points outside are kept
there by the step limit, and an obstacle that would come to stand beyond a point is an error, as is a
point inside at the start of a step.

Only points meet obstacles: an edge may cut a corner of a box by what its bending allows, so parts of an
obstacle that are smaller than the edges of the mesh belong into a `Surface` of driven points instead.
d and ∇d are those of the shape; for shapes sampled on a grid ∇d jumps between cells.

Source: Li et al. 2020 (Incremental Potential Contact), with distances of `core.colliders`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.colliders import Collider, poses_of
from ...core.errors import InputError, message
from ..terms import StepInput
from .obstacle_term import ObstacleTerm
from .settings import friction_table, positive
from .surface import Surface
from .sweep import distance_field

__all__ = ["ObstacleContact"]


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
        """The term of one solve; see `terms.Contact`.

        Raises:
            StateError: a point inside an obstacle, or an obstacle that moves through one.
        """
        return ObstacleTerm(self, params, step)
