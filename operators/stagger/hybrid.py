"""Networks that leap, sweeps of the implicit scheme that correct them and tell how wrong they were.

    x ← x − (1 − ½ Δt L)⁻¹ Δt R(u, x)         one sweep towards the step from u, for semi-linear PDEs

Source: ours; the sweep is that of `Semilinear`'s Crank–Nicolson steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import FieldState, Semilinear
from .solver import StaggerSolver

__all__ = ["Corrected", "corrected_rollout"]


@dataclasses.dataclass(frozen=True)
class Corrected:
    """What `corrected_rollout` gives."""

    frames: Tensor
    """Frames 1 … steps (B, steps, C, *cells)."""
    change: Tensor
    """‖first sweep's correction‖ / ‖frame‖ of every frame [-], (B, steps): how far the network was from
    the scheme, to first order in Δt times the rates of the nonlinear part. No graph."""


def corrected_rollout(
    solver: StaggerSolver,
    pde: Semilinear,
    u: Tensor,
    steps: int,
    context: Tensor | None = None,
    sweeps: int = 1,
    params: dict[str, Any] | None = None,
) -> Corrected:
    """A rollout in which every predicted frame is corrected from the one before it.

    A sweep costs one evaluation of the right-hand side. It removes all of the linear part's error, seams
    between sub-fields with it, and all of the rest but a share Δt |u| k/2 of wavenumber k.

    Args:
        solver: of mode "multi", all sub-solvers.
        pde: the PDE of its training, `scheme="crank_nicolson"`.
        u: start (B, C, *cells).
        steps: fine steps.
        context: (B or 1, K, *cells), the PDE's forcing.
        sweeps: per frame; 0 measures only.
        params: other parameters of the PDE.

    Raises:
        InputError: a chain, another scheme, another step; sweeps below 0.

    Differentiable in u, context, params and the weights. Source: module docstring.
    """
    where = "corrected_rollout"
    if not isinstance(pde, Semilinear) or pde.scheme != "crank_nicolson":
        fix = 'Take NavierStokes2D(scheme="crank_nicolson") or another semi-linear PDE'
        raise InputError(message(where, "a PDE with Crank–Nicolson steps", type(pde).__name__, fix))
    if solver.tsplit.mode != "multi" or abs(solver.dt - pde.dt) > 1e-6 * pde.dt:
        got = f"mode {solver.tsplit.mode}, dt = {solver.dt:g} s"
        fix = "Frames of a chain do not follow one another"
        raise InputError(message(where, f"mode multi, dt = {pde.dt:g} s", got, fix))
    if sweeps < 0 or steps < 1:
        got = f"{sweeps} and {steps}"
        raise InputError(message(where, "sweeps >= 0 and steps >= 1", got, "Correct them"))
    given = dict(params or {}) | ({} if context is None else {"forcing": context})
    prepared = pde.prepare(given, FieldState(u))
    shrink = 1 - 0.5 * pde.dt * prepared.derived["L"]

    def correction(before: Tensor, after: Tensor) -> Tensor:
        defect = pde.defect(before, after, prepared)
        return pde.basis.inverse(pde.basis.forward(defect) / shrink)

    frames: list[Tensor] = []
    changes: list[Tensor] = []
    while len(frames) < steps:
        last = frames[-1] if frames else u
        for after in solver(last, context).unbind(1)[: steps - len(frames)]:
            first = correction(last, after)
            size = after.detach().flatten(1).norm(dim=1).clamp_min(1e-30)
            changes.append(first.detach().flatten(1).norm(dim=1) / size)
            for k in range(sweeps):
                after = after - (first if k == 0 else correction(last, after))
            frames.append(after)
            last = after
    return Corrected(torch.stack(frames, 1), torch.stack(changes, 1))
