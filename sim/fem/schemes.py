"""Time schemes, each one minimization over positions y.

    W (y − ŷ) + ∂E/∂y(y) = m g + f + …      with W = m/τ² (+ m c/τ for drag c), l = m ŷ/τ² + m g + f + …

    "euler"     τ = dt,     ŷ = x + dt v                                       x' = y, v' = (y − x)/dt
    "bdf2"      τ = 2dt/3,  b = (4x − x₋)/3,  ŷ = b + τ (4v − v₋)/3            x' = y, v' = (y − b)/τ
    "midpoint"  τ = dt/2,   ŷ = x + τ v                        x' = 2y − x,  v' = 2 (y − x)/τ − v
    "static"    W = 0                                                          x' = y, v' = (y − x)/dt

The first step of "bdf2" is one of "euler", which costs no order. Differentiable in all inputs.
Source: Hairer, Nørsett & Wanner 1993, section III.1 (BDF); Hairer, Lubich & Wanner 2006, section II.1.3.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .model import FEMControl, FEMState
from .prepare import PreparedFEM

__all__ = ["SCHEMES", "Start", "finish", "start_of"]

SCHEMES = ("euler", "bdf2", "midpoint", "static")


@dataclasses.dataclass
class Start:
    """The quadratic part of a step."""

    weight: Tensor
    """W [N/m], (1 or B, N)."""
    load: Tensor
    """l [N], (B, N, 3)."""
    base: Tensor
    """Positions from which the velocity counts, v = (y − base)/τ [m], (B, N, 3)."""
    tau: float
    """τ [s]."""
    span: float
    """Time from the start of the step to y [s]."""


def start_of(
    scheme: str, state: FEMState, c: PreparedFEM, dt: float, control: FEMControl
) -> Start:
    """W and l of a step from its state, outer forces and springs."""
    x, v, mass = state.x, state.v, c.mass
    load = mass.unsqueeze(-1) * c.gravity.unsqueeze(1)
    load = load.expand_as(x) if control.force is None else load + control.force
    pull = torch.zeros_like(mass)
    if control.spring is not None:
        assert control.anchor is not None  # `check_control` has seen to it
        pull = control.spring
        load = load + pull.unsqueeze(-1) * control.anchor
    if scheme == "static":
        return Start(pull, load, x, dt, dt)
    tau, base, hat = dt, x, x + dt * v
    if scheme == "bdf2" and state.steps > 0:
        tau = 2 * dt / 3
        base = (4 * x - state.x_prev) / 3
        hat = base + tau * (4 * v - state.v_prev) / 3
    elif scheme == "midpoint":
        tau = dt / 2
        hat = x + tau * v
    drag = mass * c.drag.unsqueeze(-1) / tau
    inertia = mass / tau**2
    load = load + inertia.unsqueeze(-1) * hat + drag.unsqueeze(-1) * base
    span = tau if scheme == "midpoint" else dt
    return Start(inertia + drag + pull, load, base, tau, span)


def finish(
    scheme: str,
    state: FEMState,
    y: Tensor,
    start: Start,
    pose: Tensor,
    points: Tensor,
    driven: Tensor,
    dt: float,
) -> FEMState:
    """The state after a step that found y; `driven` are `points` at its end [m], (B, n, 3)."""
    if scheme == "midpoint":
        x = 2 * y - state.x
        v = 2 * (y - state.x) / start.tau - state.v
        if len(points):
            x = x.index_copy(1, points, driven)
            v = v.index_copy(1, points, (driven - state.x[:, points]) / dt)
    else:
        x, v = y, (y - start.base) / start.tau
    before = {"x_prev": state.x, "v_prev": state.v}
    return state.replace(x=x, v=v, pose=pose, t=state.t + dt, steps=state.steps + 1, **before)
