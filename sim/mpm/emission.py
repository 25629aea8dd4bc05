"""Particles that enter a scene during a step.

A particle born at substep s starts at the opening with the exit velocity,

    x = p + R (o + r_i) + φ_i dt (v + R u),    v_0 = v + R u

where (p, R) is the pose of the tool that carries the emitter at substep s, v its velocity, o and u the
emitter's position and exit velocity in the tool's frame, r_i a random point of the opening and φ_i the
fraction of the substep since the particle passed it. Everything is known when the step starts, so this
is plain torch and the engine only has to leave unborn particles alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.poses import in_space
from ..core.rotations import rotate
from .model import Emitter, MPMModel, MPMState

__all__ = ["emit"]


def emit(
    model: MPMModel,
    state: MPMState,
    births: Tensor,
    poses: Tensor,
    twist: Tensor,
    velocity: Tensor | None,
    dt: float,
    substeps: int,
) -> MPMState:
    """State with the particles of the coming step in place.

    Args:
        model: The scene.
        state: State at the start of the step.
        births: Birth substep per particle, (N,).
        poses: Tool poses at every substep, (S + 1, B, K, 7).
        twist: Tool twists of the step, (B, K, 6).
        velocity: Exit velocities (B, E, D) [m/s], or None for the emitters' own.
        dt: Substep [s].
        substeps: Number of substeps S.

    Differentiable in the exit velocity, the tool poses and twists.
    """
    groups = model.emitters()
    if not groups:
        return state
    x, v = state.x, state.v
    names = [c.name for c in model.colliders]
    slices = model.slices()
    for index, group in enumerate(groups):
        emitter = group.emitter
        assert emitter is not None
        part = slices[group.name]
        born = births[part]
        new = ((born >= state.substep) & (born < state.substep + substeps)).nonzero().flatten()
        if new.numel() == 0:
            continue
        at = (born[new] - state.substep).to(x.device)
        times = emitter.start + new.to(torch.float64) / emitter.rate
        phase = (born[new] + 1.0 - times / dt).clamp(0.0, 1.0).to(x)  # rounding only
        local = torch.tensor(emitter.position, dtype=x.dtype, device=x.device)
        local = (local + _opening(emitter, group.count, model.dim)[new].to(x)).unsqueeze(0)
        if velocity is None:
            exit_velocity = torch.tensor(emitter.velocity, dtype=x.dtype, device=x.device)
            exit_velocity = exit_velocity.expand(x.shape[0], 1, model.dim)
        else:
            exit_velocity = velocity[:, index : index + 1]
        if emitter.tool:
            tool = names.index(emitter.tool)
            pose = poses[at, :, tool].transpose(0, 1)
            lin, ang = twist[:, tool : tool + 1, :3], twist[:, tool : tool + 1, 3:]
            arm = rotate(pose[..., 3:], in_space(local))
            carried = lin + torch.linalg.cross(ang.expand_as(arm), arm)
            start = _section(pose[..., :3] + arm, model.dim)
            speed = carried + rotate(pose[..., 3:], in_space(exit_velocity))
            speed = _section(speed, model.dim)
        else:
            start = local.expand(x.shape[0], -1, -1)
            speed = exit_velocity.expand_as(start)
        rows = new.to(x.device) + part.start
        x = x.index_copy(1, rows, start + (phase[:, None] * dt) * speed)
        v = v.index_copy(1, rows, speed)
    return state.replace(x=x, v=v)


def _opening(emitter: Emitter, count: int, dim: int) -> Tensor:
    """Random points of the disk (2-D: segment) across the default exit velocity, (count, D)."""
    generator = torch.Generator().manual_seed(emitter.seed)
    direction = torch.tensor(emitter.velocity, dtype=torch.float64)
    direction = direction / direction.norm()
    if dim == 2:
        across = torch.stack([-direction[1], direction[0]])
        offset = 2 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 1
        return emitter.radius * offset * across
    helper = torch.eye(3, dtype=torch.float64)[int(direction.abs().argmin())]
    first = torch.linalg.cross(direction, helper)
    first = first / first.norm()
    second = torch.linalg.cross(direction, first)
    random = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    radius, angle = random[:, :1].sqrt(), 2 * torch.pi * random[:, 1:]
    return emitter.radius * radius * (angle.cos() * first + angle.sin() * second)


def _section(vector: Tensor, dim: int) -> Tensor:
    return vector if dim == 3 else vector[..., ::2]
