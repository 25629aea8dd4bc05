"""MPM scenes with rigid bodies."""

from __future__ import annotations

import dataclasses

import torch
from mpm_scenes import F64, lattice, mixed
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.laws import NeoHookean
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.mpm import Grid, Group, MPMModel, RigidBody


def crowded(dim: int = 3, push_out: bool = False) -> MPMModel:
    """The mixed scene with bodies that touch each other, material, tools and walls."""
    model = mixed(dim)
    y = 0.5 if dim == 3 else 0.0
    spin = (0.5, -1.0, 0.7) if dim == 3 else (0.0, -1.0, 0.0)
    box = RigidBody(
        Box((0.1, 0.08, 0.06)),
        (0.33, 0.93 * y, 0.367),  # no face on nodes, where influence has a kink
        softness=15.0,
        friction=0.3,
        rho=300.0,
        velocity=(0.3, 0.4 * y, -0.4),
        angular_velocity=spin,
        push_out=push_out,
        name="box",
    )
    ball = RigidBody(
        Sphere(0.09),
        (0.45, y, 0.42),
        friction=0.2,
        rho=600.0,
        velocity=(0.0, 0.0, -2.0),
        name="ball",
    )
    low = RigidBody(
        Sphere(0.06), (0.8, y, 0.0601), rho=900.0, friction=0.4, velocity=(1.0, 0.0, -0.5)
    )
    pusher = Collider(Sphere(0.1), (0.33, 0.93 * y, 0.515), friction=0.4, name="pusher")
    soft, hard = (dataclasses.replace(c, push_out=push_out) for c in model.colliders)
    return dataclasses.replace(model, colliders=[soft, box, hard, ball, pusher, low])


def alone(*bodies: RigidBody, dim: int = 3, **model: object) -> MPMModel:
    """Bodies in a box of 2 m whose only material is a crumb in a corner."""
    x = lattice(1.7, 1.8, 2, dim)
    group = Group("crumb", NeoHookean(E=1e3, nu=0.3), x, 0.05**dim)
    model.setdefault("gravity", (0.0,) * (dim - 1) + (-1e-30,))
    return MPMModel(Grid((0.0,) * dim, (2.0,) * dim, 0.1), [group], colliders=bodies, **model)


def body_momentum(model: MPMModel, state) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear and angular momentum about the origin of all bodies, (B, 3) each; shapes are centered."""
    rho = torch.tensor([model.colliders[k].rho for k in model.bodies.index], dtype=F64)
    pose = state.tool_pose[:, model.bodies.index]
    p = (model.bodies.mass(pose, rho) @ state.body_twist[..., None])[..., 0]
    orbit = torch.linalg.cross(pose[..., :3], p[..., :3])
    return p[..., :3].sum(1), (p[..., 3:] + orbit).sum(1)
