"""Joints between rigid bodies, or a body and the world.

    E = k/2 Σ_a |p_a − q_a|² + c/2 dt Σ_b |(p_b − q_b) − (p_b − q_b)_start|²

Anchors a are points of both bodies: one makes a ball joint, two on an axis a hinge, three a weld. Points
b beside the axis of a hinge drag it viscously. Everything is linear in the points of the bodies, so the
blocks are constant.

Source: Lan et al. 2022 (Affine Body Dynamics), linear joints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..fem.contact.settings import not_negative, positive
from ..fem.terms import StepInput, Term
from .bodies import AffineBody

__all__ = ["Joint"]


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """Anchors that two bodies share; give it to the model as one of its `contacts`."""

    name: str
    """Key in `params`."""
    body: AffineBody
    """What is held."""
    other: AffineBody | None
    """What holds it; None: the world."""
    anchors: Any
    """Points that stay together, at the start, in the world [m], (A, 3)."""
    stiffness: float = 1e6
    """k of every anchor [N/m]: a force of 10 N parts them by 10 µm."""
    damping: float = 0.0
    """c [N s/m] at the points of `drag`; none."""
    drag: Any = ()
    """Points that the damping acts on, as `anchors`, (B, 3)."""

    def __post_init__(self) -> None:
        where = f"Joint {self.name!r}"
        positive(where, "stiffness", self.stiffness, "N/m")
        not_negative(where, "damping", self.damping, "N s/m")
        for name in ("anchors", "drag"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64).reshape(-1, 3)
            object.__setattr__(self, name, value)
        if not len(self.anchors) or not bool(torch.isfinite(self.anchors).all()):
            fix = "One point makes a ball joint, two a hinge, three a weld"
            raise InputError(message(where, "anchors (A, 3), finite", self.anchors, fix))
        if self.damping and not len(self.drag):
            fix = "Use Joint.hinge, or give drag"
            raise InputError(message(where, "points that the damping acts on", "none", fix))

    @classmethod
    def hinge(
        cls,
        name: str,
        body: AffineBody,
        other: AffineBody | None,
        point: tuple[float, float, float],
        axis: tuple[float, float, float],
        length: float,
        *,
        stiffness: float = 1e6,
        damping: float = 0.0,
    ) -> Joint:
        """A hinge about an axis.

        Args:
            name, body, other: as of `Joint`.
            point: middle of the axis [m].
            axis: direction, any length.
            length: distance of the two anchors [m].
            stiffness: of each anchor [N/m].
            damping: torque per rate [N m s/rad].
        """
        middle, along = torch.tensor(point).double(), torch.tensor(axis).double()
        size = float(along.norm())
        if not 0 < size < math.inf or not 0 < length < math.inf:
            got = f"axis {axis}, length {length}"
            raise InputError(
                message(f"Joint.hinge {name!r}", "an axis and a length", got, "Give m")
            )
        along = along / size
        ends = middle + 0.5 * length * torch.stack((-along, along))
        # Two points on either side at the distance r: torque 2 c r² per rate.
        aside = torch.linalg.cross(along, torch.eye(3).double()[int(along.abs().argmin())])
        aside = 0.5 * length * aside / aside.norm()
        pair = torch.stack((middle - aside, middle + aside)) if damping else ()
        c = damping / (2 * (0.5 * length) ** 2)
        return cls(name, body, other, ends, stiffness, c, pair)

    def default_params(self) -> Mapping[str, Any]:
        """Stiffness [N/m] and damping [N s/m]."""
        return {"stiffness": self.stiffness, "damping": self.damping}

    def term(self, params: Mapping[str, Tensor], step: StepInput) -> _JointTerm:
        """The term of one solve; see `fem.terms.Contact`."""
        return _JointTerm(self, params, step)

    def angle(self, x: Tensor) -> Tensor:
        """Turn of the body against the other one since the start [rad], (...,), about its axis.

        Args:
            x: positions of the scene [m], (..., N, 3).

        The axis goes through the first two anchors. Differentiable in x, for angles inside (−π, π).
        """
        axis = self.anchors[1] - self.anchors[0] if len(self.anchors) > 1 else None
        if axis is None:
            fix = "Use the poses of the bodies"
            raise InputError(message(f"Joint {self.name!r}", "two anchors", "one", fix))
        axis = (axis / axis.norm()).to(x)
        turn = self.body.deformation(x) @ _start(self.body).to(x).mT
        if self.other is not None:
            base = self.other.deformation(x) @ _start(self.other).to(x).mT
            turn = torch.linalg.inv(base) @ turn
        aside = torch.linalg.cross(axis, torch.eye(3).to(x)[int(axis.abs().argmin())])
        aside = aside / aside.norm()
        third = torch.linalg.cross(axis, aside)
        moved = turn @ aside
        return torch.atan2((moved * third).sum(-1), (moved * aside).sum(-1))


def _start(body: AffineBody) -> Tensor:
    return body.X.mT @ body.shape_gradients


class _JointTerm(Term):
    """`Joint` with parameters and the inputs of a step bound."""

    changing = True

    def __init__(self, joint: Joint, params: Mapping[str, Tensor], step: StepInput) -> None:
        scenes, points = step.x_start.shape[:2]
        like = step.x_start
        self.scenes = scenes
        anchors = torch.cat((joint.anchors, joint.drag)).to(like)
        held = joint.body.weights(_local(joint.body, anchors))
        rows = [torch.arange(joint.body.first, joint.body.first + 4)]
        columns = [held]
        target = torch.zeros_like(anchors)
        if joint.other is None:
            target = anchors
        else:
            rows.append(torch.arange(joint.other.first, joint.other.first + 4))
            columns.append(-joint.other.weights(_local(joint.other, anchors)))
        weights = torch.cat(columns, dim=1)
        stencil = torch.cat(rows).to(like.device).expand(len(anchors), -1)
        shift = points * torch.arange(scenes, device=like.device)[:, None, None]
        self.stencil = (stencil + shift).flatten(0, 1)
        self.weights = weights.repeat(scenes, 1)
        k = params["stiffness"].expand(scenes)[:, None].expand(-1, len(joint.anchors))
        c = params["damping"].expand(scenes)[:, None].expand(-1, len(joint.drag)) / step.dt
        self.k = torch.cat((k, c), dim=1).reshape(-1)
        start = (self.weights[..., None] * step.x_start.reshape(-1, 3)[self.stencil]).sum(1)
        fixed = torch.arange(len(anchors), device=like.device) < len(joint.anchors)
        self.goal = torch.where(fixed.repeat(scenes)[:, None], target.repeat(scenes, 1), start)

    def _gap(self, x: Tensor) -> Tensor:
        return (self.weights[..., None] * x[self.stencil]).sum(1) - self.goal

    def energy(self, x: Tensor) -> Tensor:
        values = 0.5 * self.k * self._gap(x).square().sum(-1)
        return values.reshape(self.scenes, -1).sum(1)

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pull = self.k[:, None] * self._gap(x)
        return self.stencil, self.weights[..., None] * pull[:, None]

    @torch.no_grad()
    def hessian(self, x: Tensor, project: bool = True) -> tuple[Tensor, Tensor]:
        eye = torch.eye(3).to(x)
        full = torch.einsum("r,ri,rj,ab->riajb", self.k, self.weights, self.weights, eye)
        return self.stencil, full.flatten(3, 4).flatten(1, 2)


def _local(body: AffineBody, places: Tensor) -> Tensor:
    """World places at the start (n, 3) in the frame of the body's shape."""
    F = (body.X.mT @ body.shape_gradients).to(places)
    return (places - body.X[0].to(places)) @ torch.linalg.inv(F).mT + body.Y[0].to(places)
