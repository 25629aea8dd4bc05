"""Training without labels: predicted frames have to satisfy the discretized PDE."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, StateError, message
from ..train.annealing import annealed
from .pool import EnvPool
from .residuals import PhysicsResidual, log_mean
from .solver import StaggerSolver

__all__ = ["PhysicsTraining", "train_physics"]


@dataclasses.dataclass(frozen=True)
class PhysicsTraining:
    """A recipe. One of `updates` and `seconds` ends it, whichever comes first.

    Raises:
        InputError: numbers out of range.
    """

    updates: int = 1000
    """Updates at most."""
    seconds: float | None = None
    """CPU seconds at most [s]; the learning rate follows whichever bound is nearer."""
    batch: int = 8
    """Environments per update."""
    lr: float = 2e-3
    """Of Adam, falling to zero by a cosine."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    calls: int = 1
    """Calls of the solver with gradient per update."""
    log: bool = False
    """Mean of log ℓ instead of ℓ over samples."""
    seed: int = 0
    """Of what the solver draws, `drop`."""

    def __post_init__(self) -> None:
        positive = self.updates, self.batch, self.lr, self.clip, self.calls
        if min(positive) <= 0 or (self.seconds is not None and self.seconds <= 0):
            fix = "Correct them"
            raise InputError(message("PhysicsTraining", "numbers > 0", f"{positive}", fix))


def train_physics(
    solver: StaggerSolver,
    residual: PhysicsResidual,
    pool: EnvPool,
    recipe: PhysicsTraining | None = None,
    on_update: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a solver in place on the residual between its frames.

        window → û_1 … û_{s_T};  loss of (last known frame, û_1, …);  Adam;  û back into the pool

    Args:
        solver: any coupling and mode.
        residual: of the fine grid, with the solver's dt.
        pool: of windows of `solver.tsplit.window` frames.
        recipe: how long and how.
        on_update: sees the number of the update and its loss.

    Returns:
        {"updates", "cpu_seconds", "loss": median of ℓ over the last tenth, "losses": all means of ℓ,
        "resets"}.

    Raises:
        InputError: solver, residual and pool do not fit one another.
        StateError: a loss that is not finite.

    Source: Huang et al. 2023 (NeuralStagger), section 3; Wandel et al. 2021 for the pool.
    """
    recipe = recipe or PhysicsTraining()
    _check(solver, residual, pool)
    optimizer = torch.optim.Adam(solver.parameters(), lr=recipe.lr)
    losses: list[float] = []
    start = time.process_time()
    solver.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for update in annealed(optimizer, recipe.updates, recipe.seconds):
            drawn = pool.draw(recipe.batch)
            loss, frames = _loss(solver, residual, drawn.window, drawn.context, recipe.calls)
            losses.append(float(loss.detach().mean()))
            if not math.isfinite(losses[-1]):
                fix = "Lower lr, or bound the pool with limit"
                text = message("train_physics", "a finite loss", losses[-1], fix)
                raise StateError(text, step=update, field="loss")
            optimizer.zero_grad()
            (log_mean(loss) if recipe.log else loss.mean()).backward()
            torch.nn.utils.clip_grad_norm_(solver.parameters(), recipe.clip)
            optimizer.step()
            pool.put(drawn.index, frames)
            if on_update is not None:
                on_update(update, losses[-1])
    solver.eval()
    tail = sorted(losses[-max(1, len(losses) // 10) :])
    return {
        "updates": len(losses),
        "cpu_seconds": time.process_time() - start,
        "loss": tail[len(tail) // 2],
        "losses": losses,
        "resets": pool.resets,
    }


def _loss(
    solver: StaggerSolver,
    residual: PhysicsResidual,
    window: Tensor,
    context: Tensor | None,
    calls: int,
) -> tuple[Tensor, Tensor]:
    """ℓ (B,) over some calls, and the frames of all."""
    made = [window]
    for _ in range(calls):
        last = torch.cat(made, 1)[:, -solver.tsplit.window :]
        made.append(solver(last if last.shape[1] > 1 else last[:, 0], context))
    frames = torch.cat(made, 1)
    return residual.loss(frames[:, window.shape[1] - 1 :], context), torch.cat(made[1:], 1)


def _check(solver: StaggerSolver, residual: PhysicsResidual, pool: EnvPool) -> None:
    W, C = solver.tsplit.window, solver.channels
    wanted = {
        f"a residual of {C} channels": (residual.channels, C),
        f"a pool of windows ({W}, {C})": (tuple(pool.frames.shape[1:3]), (W, C)),
        f"dt = {solver.dt:g} s, as the solver": (residual.dt, solver.dt),
    }
    for expected, (got, right) in wanted.items():
        close = isinstance(right, float) and math.isclose(got, right, rel_tol=1e-6)
        if got != right and not close:
            fix = "Build solver, residual and pool for the same state"
            raise InputError(message("train_physics", expected, f"{got}", fix))
