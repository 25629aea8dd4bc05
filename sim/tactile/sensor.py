"""A gel on a rigid mount that is moved, presses on obstacles, and says what it feels.

    mount:     x_i = p + R X_i           for the held points; the pose (p, R) follows the commands exactly
    gel:       an implicit step of `SolverFEM` for all other points
    contact:   f_i on every point of the sensing face (`ObstacleContact`: a pressure per area), or
               on quadrature points between them (`SampledContact`)
    read-out:  F = Σ_held f,   τ = Σ_held (x_i − p) × f,   f = f_internal + f_i     the mount carries it

Elements have no net force and no net moment, so F = Σ f_i + Σ_free m_i (g − a_i), and τ likewise: what
the mount carries is what contact does to the gel, less what accelerates and holds up the gel itself.

Differentiable in commands, poses, material, contact parameters, rest shape and states.
Source: Si et al. 2024 (DiffTactile) for the sensor; Li et al. 2020 for contact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..core import rotations
from ..core.colliders import Collider
from ..core.errors import InputError, message
from ..core.poses import twists_from_poses
from ..core.state import Params
from ..fem import Contact, FEMConfig, FEMControl, FEMModel, FEMState, Handle, SolverFEM, StepInput
from ..fem.contact import ObstacleContact, Surface
from ..fem.terms import assemble
from .gel import gel_of
from .meshes import GelMesh
from .samples import SampledContact, SampledTerm

__all__ = ["GelSensor", "Reading"]

MOUNT = "mount"


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a sensor feels after a step; world axes, or its own after `local`."""

    force: Tensor
    """What the gel does to the mount [N], (B, 3)."""
    torque: Tensor
    """The same about the origin of the mount [N m], (B, 3)."""
    node_force: Tensor
    """Contact forces on all points of the gel [N], (B, N, 3)."""
    contact_force: Tensor
    """Their sum [N], (B, 3)."""
    contact_torque: Tensor
    """Their moment about the origin of the mount [N m], (B, 3)."""
    traction: Tensor
    """Contact force per rest area on the points of the sensing face [Pa], (B, n, 3)."""
    normal: Tensor
    """Outward unit normals of the deformed sensing face [-], (B, n, 3)."""
    pose: Tensor
    """Of the mount, (B, 7)."""

    @property
    def pressure(self) -> Tensor:
        """−traction · normal [Pa], (B, n)."""
        return -(self.traction * self.normal).sum(-1)

    @property
    def shear(self) -> Tensor:
        """Tangential part of the traction [Pa], (B, n, 3)."""
        return self.traction + self.pressure.unsqueeze(-1) * self.normal

    def local(self) -> Reading:
        """The same in the axes of the sensor."""
        turn = self.pose[:, None, 3:]
        values: dict[str, Tensor] = {}
        for item in dataclasses.fields(self):
            if item.name != "pose":
                v = getattr(self, item.name)
                rows = v if v.ndim == 3 else v.unsqueeze(1)
                values[item.name] = rotations.rotate_inverse(turn, rows).view_as(v)
        return Reading(pose=self.pose, **values)


class GelSensor:
    """A gel sensor among obstacles: model, solver, commands and read-outs.

    Args:
        mesh: gel in the frame of the sensor, `dome` or `pad`.
        material: a name in `rheograd.assets.gels.GELS`.
        obstacles: colliders at rest.
        tools: colliders that move by twists of their own.
        position, orientation: pose of the mount at the start [m], quaternion (w, x, y, z).
        d_hat: distance at which contact begins to push [m]; small against the indentation.
        stiffness: of contact [Pa], see docs/contact.md; None: E/10.
        samples: places of contact per side of a cell on the face, 3, 6 or 12, see `face_samples`;
            None: its points only.
        friction: coefficient of all obstacles [-]; None: their own.
        eps_v: sliding speed above which friction is full [m/s].
        gravity: acceleration [m/s²].
        config: of the solver; the default makes Euler steps of 5 ms.
        name: of the gel, key in `params`; contact has "contact".
        contacts: other terms of contact over the points of the gel.
        changes: fields of `Solid` that replace those of the material: E, nu, rho, eta, law.

    Raises:
        InputError: a value out of range, two tools of one name.
    """

    def __init__(
        self,
        mesh: GelMesh,
        material: str = "ecoflex_00_30",
        *,
        obstacles: Sequence[Collider] = (),
        tools: Sequence[Collider] = (),
        position: Sequence[float] = (0.0, 0.0, 0.0),
        orientation: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
        d_hat: float = 1e-4,
        stiffness: float | None = None,
        samples: int | None = None,
        friction: float | None = None,
        eps_v: float = 1e-3,
        gravity: tuple[float, float, float] = (0.0, 0.0, -9.81),
        config: FEMConfig | None = None,
        name: str = "gel",
        contacts: Sequence[Contact] = (),
        **changes: Any,
    ) -> None:
        if config is not None and config.scheme == "midpoint":
            raise InputError(message("GelSensor", "a scheme with contact", "midpoint", "Use euler"))
        self.mesh, self.name = mesh, name
        self.tools = tuple(c.name or f"tool{k}" for k, c in enumerate(tools))
        """Names of the tools, in the order of their twists."""
        mount = _pose(position, orientation)
        X = _carried(mesh.X[None], mount)[0]
        driven = torch.zeros(len(X), dtype=torch.bool)
        driven[mesh.sets[MOUNT]] = True
        solid = gel_of(mesh, material, name, **changes)
        self.surface = Surface(X, mesh.triangles, groups=(name,), driven=driven.numpy())
        """What collides, with the areas of its points."""
        handles = [Handle(MOUNT, mesh.sets[MOUNT], *_parts(mount))]
        for tool, body in zip(self.tools, tools, strict=True):
            handles.append(Handle(tool, (), body.position, body.orientation))
        bodies = (*obstacles, *tools)
        own: list[Contact] = []
        if bodies:
            k = float(torch.as_tensor(solid.E).max()) / 10 if stiffness is None else stiffness
            place = [None] * len(obstacles) + [1 + i for i in range(len(tools))]
            how: dict[str, Any] = dict(
                handles=place, friction=friction, eps_v=eps_v, name="contact"
            )
            if samples is None:
                own = [ObstacleContact(self.surface, bodies, d_hat, k, **how)]
            else:
                own = [SampledContact(mesh, X, bodies, d_hat, k, per_face=samples, driven=driven,
                                      group=name, **how)]  # fmt: skip
        self.model = FEMModel(X, [solid], handles, (*own, *contacts), gravity)
        """The scene."""
        self.solver = SolverFEM(self.model, config)
        """What steps it; give it to `rollout` together with `control`."""

    @property
    def dt(self) -> float:
        """Duration of a step [s]."""
        return self.solver.step_time

    def start(self, batch_size: int = 1, *, pose: Tensor | None = None) -> FEMState:
        """B sensors at rest and undeformed.

        Args:
            batch_size: B.
            pose: of the mounts, (7,) or (B, 7); None: that of the constructor.

        Raises:
            InputError: wrong shape, or a gel that begins inside of an obstacle.

        Differentiable in pose.
        """
        state = self.model.initial_state(batch_size)
        if pose is not None:
            pose = self._rows("start: pose", pose, 7, state.x).clone()
            x = _carried(self.mesh.X[None].to(state.x), pose)
            mounts = torch.cat((pose.unsqueeze(1), state.pose[:, 1:]), dim=1)
            state = state.replace(x=x, x_prev=x, pose=mounts)
        for contact in self.model.contacts:
            if isinstance(contact, ObstacleContact | SampledContact):
                contact.check(state.x, state.pose)
        return state

    def control(
        self,
        state: FEMState,
        *,
        twist: Tensor | None = None,
        pose: Tensor | None = None,
        frame: Literal["world", "sensor"] = "world",
        tools: Tensor | None = None,
        force: Tensor | None = None,
    ) -> FEMControl:
        """Inputs of one step.

        Args:
            state: before it; its pose decides what `pose` and `frame="sensor"` mean.
            twist: linear and angular velocity of the mount [m/s, rad/s], (6,) or (B, 6).
            pose: where the mount is to be after the step, (7,) or (B, 7); instead of `twist`.
            frame: axes of `twist`, those of the world or of the sensor before the step.
            tools: twists of the tools in world axes, (B, K, 6).
            force: forces on all points [N], (B, N, 3), of bodies that are coupled in other ways.

        Raises:
            InputError: both a twist and a pose, wrong shapes.

        Differentiable in all of them.
        """
        x, mount = state.x, state.pose[:, 0]
        if twist is not None and pose is not None:
            fix = "Give one of them"
            raise InputError(message("GelSensor.control", "a twist or a pose", "both", fix))
        if frame not in ("world", "sensor"):
            raise InputError(message("GelSensor.control", "frame world or sensor", f"{frame!r}"))
        if pose is not None:
            goal = self._rows("control: pose", pose, 7, x)
            motion = twists_from_poses(torch.stack((mount, goal)), self.dt)[0]
        elif twist is not None:
            motion = self._rows("control: twist", twist, 6, x)
            if frame == "sensor":
                turned = rotations.rotate(mount[:, None, 3:], motion.unflatten(-1, (2, 3)))
                motion = turned.flatten(-2)
        else:
            motion = torch.zeros_like(mount[:, :6])
        shape = (len(x), len(self.tools), 6)
        others = x.new_zeros(shape) if tools is None else torch.as_tensor(tools).to(x)
        if others.shape != shape:
            fix = "Give a twist for each tool in every scene"
            raise InputError(message("GelSensor.control: tools", f"shape {shape}", others, fix))
        return FEMControl(twist=torch.cat((motion.unsqueeze(1), others), dim=1), force=force)

    def step(self, state: FEMState, *, params: Params | None = None, **command: Any) -> FEMState:
        """Advance by dt under a command, see `control`.

        Raises:
            ConvergenceError, StateError, InputError: as `SolverFEM.step`.

        Differentiable in state, command and params.
        """
        return self.solver.step(state, self.control(state, **command), params)

    def rigid(self, state: FEMState) -> Tensor:
        """Where the points of an undeformed gel were [m], (B, N, 3). Differentiable in the pose."""
        return _carried(self.mesh.X[None].to(state.x), state.pose[:, 0])

    def in_frame(self, state: FEMState) -> Tensor:
        """Points in the frame of the sensor [m], (B, N, 3). Differentiable in the state."""
        mount = state.pose[:, :1]
        return rotations.rotate_inverse(mount[..., 3:], state.x - mount[..., :3])

    def read(self, before: FEMState, after: FEMState, params: Params | None = None) -> Reading:
        """What the sensor feels after a step.

        Args:
            before, after: states around the step; friction depends on both.
            params: those of the step.

        Returns:
            Forces and tractions. With `FEMConfig(lags=2)` or more friction takes its normal forces from
            `after`, where the step took them from the solve before the last.

        Differentiable in both states and in params.
        """
        model, dt = self.model, self.dt
        c = self.solver.prepare(params, after)
        B, flat = after.batch_size, after.x.reshape(-1, 3)
        elements = c.terms(model, B, dt, before.x, after.theta_ref)
        inner = -assemble([term.gradient(flat) for term in elements], flat).view_as(after.x)
        lag = before.x if self.solver.config.lags == 1 else after.x
        felt, sampled = torch.zeros_like(flat), torch.zeros_like(flat)
        pressed = torch.zeros_like(after.x)
        for contact, values in zip(model.contacts, c.contacts, strict=True):
            term = contact.term(values, StepInput(before.x, lag, before.pose, after.pose, dt))
            term.update(flat.detach(), flat.detach())
            force = assemble([term.gradient(flat)], flat)
            felt = felt - force
            if isinstance(term, SampledTerm):
                sampled, pressed = sampled - force, pressed + term.traction(flat)
        node_force = felt.view_as(after.x)
        inner = inner + node_force
        rest = (felt - sampled).view_as(after.x)
        mount = after.pose[:, 0]
        arm = after.x - mount[:, None, :3]
        held = self.mesh.sets[MOUNT].to(flat.device)
        points = self.mesh.sets["surface"].to(flat.device)
        area = self.surface.tensor("vertex_area", flat.device)[points]
        return Reading(
            force=inner[:, held].sum(1),
            torque=torch.linalg.cross(arm[:, held], inner[:, held]).sum(1),
            node_force=node_force,
            contact_force=node_force.sum(1),
            contact_torque=torch.linalg.cross(arm, node_force).sum(1),
            traction=rest[:, points] / area[:, None] + pressed[:, points],
            normal=self._normals(after.x)[:, points],
            pose=mount,
        )

    def _normals(self, x: Tensor) -> Tensor:
        """Unit normals of the sensing face at all points, (B, N, 3); zero elsewhere."""
        corners = self.mesh.triangles.to(x.device)
        a, b, c = (x[:, corners[:, i]] for i in range(3))
        normal = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(x)
        for i in range(3):
            total = total.index_add(1, corners[:, i], normal)
        size = total.square().sum(-1, keepdim=True)
        return total / torch.where(size > 0, size, 1.0).sqrt()

    def _rows(self, what: str, value: Tensor, width: int, like: Tensor) -> Tensor:
        given = torch.as_tensor(value).to(like)
        if given.shape[-1:] != (width,) or given.shape[:-1] not in ((), (1,), like.shape[:1]):
            expected = f"shape ({width},) or {(len(like), width)}"
            raise InputError(message(f"GelSensor.{what}", expected, given, "One row per scene"))
        return given.expand(len(like), width)


def _pose(position: Sequence[float], orientation: Sequence[float]) -> Tensor:
    """(1, 7), its quaternion of length one."""
    pose = torch.tensor([[*position, *orientation]], dtype=torch.float64)
    size = pose[:, 3:].norm() if pose.shape == (1, 7) else torch.zeros(())
    if not bool(torch.isfinite(pose).all()) or not float(size) > 1e-6:
        got = f"{tuple(position)}, {tuple(orientation)}"
        expected = "a position (3) [m] and an orientation (w, x, y, z) that is not zero"
        raise InputError(message("GelSensor", expected, got, "Use (1, 0, 0, 0)"))
    return torch.cat((pose[:, :3], pose[:, 3:] / size), dim=1)


def _parts(pose: Tensor) -> tuple[Any, Any]:
    row = pose[0].tolist()
    return tuple(row[:3]), tuple(row[3:])


def _carried(X: Tensor, pose: Tensor) -> Tensor:
    """Points (1, N, 3) of the sensor's frame at poses (B, 7): (B, N, 3)."""
    return pose[:, None, :3] + rotations.rotate(pose[:, None, 3:], X)
