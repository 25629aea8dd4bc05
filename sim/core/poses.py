"""Trajectories of rigid poses (position 3 [m], quaternion w, x, y, z) and their twists.

p' = v,   q' = ½ (0, ω) q        v, ω in the world frame, constant over a step
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import rotations
from .errors import InputError, message

__all__ = ["carry", "in_space", "integrate_pose", "twists_from_poses"]


def in_space(points: Tensor) -> Tensor:
    """Points or vectors (x, z) of the plane as (x, 0, z), (..., 3); those in 3-D pass. Differentiable."""
    if points.shape[-1] == 3:
        return points
    x, z = points.unbind(-1)
    return torch.stack((x, torch.zeros_like(x), z), dim=-1)


def integrate_pose(pose: Tensor, twist: Tensor, dt: float | Tensor, n_substeps: int) -> Tensor:
    """Poses along a constant twist, p_i = p + i dt v, q_i = exp(i dt ω) q; exact.

    Args:
        pose: Start [m, -], shape (..., 7).
        twist: Linear and angular velocity in the world frame [m/s, rad/s], shape (..., 6).
        dt: Substep [s].
        n_substeps: Number of substeps n.

    Returns:
        Poses [m, -], shape (n + 1, ..., 7); the first is the start.

    Differentiable in pose, twist and dt, also at ω = 0.
    Source: screw motion about a fixed world axis; Grassia 1998.
    """
    steps = torch.arange(n_substeps + 1, dtype=pose.dtype, device=pose.device)
    time = (steps * dt).reshape(-1, *([1] * pose.ndim))
    position = pose[..., :3] + time * twist[..., :3]
    turn = rotations.from_rotation_vector(time * twist[..., 3:])
    return torch.cat((position, rotations.multiply(turn, pose[..., 3:])), dim=-1)


def carry(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Points that a moving frame carries along, p' + q' q⁻¹ (x − p).

    Args:
        x: points [m], (..., 3).
        start, end: poses of the frame before and after [m, -], (..., 7).

    Returns:
        (..., 3). Differentiable in all.
    """
    turn = rotations.multiply(end[..., 3:], rotations.inverse(start[..., 3:]))
    return end[..., :3] + rotations.rotate(turn, x - start[..., :3])


def twists_from_poses(poses: Tensor, dt: float | Tensor) -> Tensor:
    """Twists that carry each pose into the next: v = Δp / dt, ω = log(q' q⁻¹) / dt.

    Args:
        poses: Trajectory [m, -], shape (T + 1, ..., 7).
        dt: Time between poses [s].

    Returns:
        Twists [m/s, rad/s], shape (T, ..., 6); each turn the shorter way, below π per step.

    Differentiable in poses and dt, also where the collider does not turn.
    Source: inverse of `integrate_pose`.
    """
    if poses.ndim < 1 or poses.shape[-1] != 7 or poses.shape[0] < 2:
        raise InputError(
            message(
                "twists_from_poses",
                "poses of shape (T + 1, ..., 7) with T >= 1 [m, -]",
                f"{tuple(poses.shape)}",
                "Give positions and quaternions (w, x, y, z)",
            )
        )
    before, after = poses[:-1], poses[1:]
    linear = (after[..., :3] - before[..., :3]) / dt
    turn = rotations.multiply(after[..., 3:], rotations.inverse(before[..., 3:]))
    return torch.cat((linear, rotations.to_rotation_vector(turn) / dt), dim=-1)
