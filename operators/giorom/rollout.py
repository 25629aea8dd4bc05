"""Trajectories from any model of the acceleration, and their errors.

A model is anything with `acceleration(batch) -> (M, D)` [m/frame²]: `GioromStepper`, `GNS`,
`ConstantVelocity`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from ...sim.core.errors import InputError, check_finite
from ..data.particles import KINDS, ParticleBatch

__all__ = [
    "AccelerationModel",
    "ConstantVelocity",
    "one_step_mse",
    "rollout",
    "rollout_mse",
    "step",
]


class AccelerationModel(Protocol):
    """What a rollout needs of a model."""

    def acceleration(self, batch: ParticleBatch) -> Tensor:
        """Acceleration (M, D) [m/frame²] at the end of the window."""
        ...


class ConstantVelocity:
    """Baseline without learning: every particle keeps its velocity, or falls freely.

    Args:
        gravity: (D,) acceleration [m/frame²], that is g times the square of the frame's duration;
            None: 0.
    """

    def __init__(self, gravity: Tensor | None = None) -> None:
        self.gravity = gravity

    def acceleration(self, batch: ParticleBatch) -> Tensor:
        """The same acceleration for all particles, (M, D) [m/frame²]."""
        now = batch.positions[:, -1]
        if self.gravity is None:
            return torch.zeros_like(now)
        if self.gravity.shape != now.shape[1:]:
            raise InputError(
                f"ConstantVelocity: gravity of shape ({now.shape[1]},); got "
                f"{tuple(self.gravity.shape)}. Give one value per axis."
            )
        return self.gravity.to(now).expand_as(now)


def step(model: AccelerationModel, batch: ParticleBatch) -> ParticleBatch:
    """One symplectic Euler step of a frame: v ← v + a, x ← x + v; the window moves on by one.

    Particles of kind "boundary" stand still.

    Returns:
        The batch with the new window, without target. Differentiable in `batch.positions` and in the
        model's weights.
    """
    window = batch.positions
    return batch.replace(positions=_shift(window, _next(model, batch)), target=None)


def rollout(
    model: AccelerationModel, batch: ParticleBatch, steps: int, *, checkpoint: bool = False
) -> Tensor:
    """Positions of the next `steps` frames; the graph is rebuilt in each, see `step`.

    Args:
        model: gives the acceleration.
        batch: its window is the start.
        steps: number of frames.
        checkpoint: keep only the windows and compute each step again in the backward pass.

    Returns:
        (M, steps, D) [m]. Differentiable in `batch.positions` and in the model's weights, piecewise:
        edges that appear or vanish have no derivative.

    Raises:
        InputError: a batch that does not fit the model, or no step.
        StateError: positions that are not finite, with the step.

    Source: Sanchez-Gonzalez et al. 2020, §3.1 (semi-implicit Euler with Δt = 1 frame).
    """
    if steps < 1:
        raise InputError(f"rollout: steps ≥ 1; got {steps}. Ask for at least one frame.")
    check_finite("rollout", positions=batch.positions)
    batch = batch.replace(target=None)
    window, frames = batch.positions, []

    def advance(window: Tensor) -> Tensor:
        return _next(model, batch.replace(positions=window))

    for k in range(steps):
        if checkpoint and torch.is_grad_enabled():
            x = torch_checkpoint(advance, window, use_reentrant=False)
        else:
            x = advance(window)
        check_finite("rollout", step=k, positions=x)
        frames.append(x)
        window = _shift(window, x)
    return torch.stack(frames, 1)


def _next(model: AccelerationModel, batch: ParticleBatch) -> Tensor:
    now, before = batch.positions[:, -1], batch.positions[:, -2]
    moved = now + ((now - before) + model.acceleration(batch))
    return torch.where(_moving(batch), moved, now)


def _moving(batch: ParticleBatch) -> Tensor:
    """Particles that a model moves, (M, 1); those of kind "boundary" stand still."""
    return (batch.kind != KINDS["boundary"])[:, None]


def _shift(window: Tensor, x: Tensor) -> Tensor:
    return torch.cat([window[:, 1:], x[:, None]], 1)


@torch.no_grad()
def one_step_mse(model: AccelerationModel, batch: ParticleBatch) -> Tensor:
    """Mean over particles of |a − a_target|² [m²/frame⁴] for the first target frame.

    Source: Viswanath et al. 2024 (GIOROM), released code.
    """
    now, before = batch.positions[:, -1], batch.positions[:, -2]
    target = (_target(batch, 1)[:, 0] - now) - (now - before)
    return (model.acceleration(batch) - target).square().sum(-1).mean()


@torch.no_grad()
def rollout_mse(model: AccelerationModel, batch: ParticleBatch) -> Tensor:
    """Mean over predicted frames and particles of |x − x_target|² [m²]; all target frames.

    The release counts the frames of the first window too, with error 0; here they do not count.
    """
    target = _target(batch, 1)
    error = rollout(model, batch, target.shape[1]) - target
    return error.square().sum(-1).mean()


def _target(batch: ParticleBatch, steps: int) -> Tensor:
    """Target positions, at least `steps` frames."""
    if batch.target is None or batch.target.shape[1] < steps:
        got = "none" if batch.target is None else f"{batch.target.shape[1]}"
        raise InputError(
            f"ParticleBatch: target of at least {steps} frames; got {got}. Draw batches with targets."
        )
    return batch.target
