"""Fits a network to its equation: Adam for a start, then L-BFGS on all points."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, StateError, message

__all__ = ["FitReport", "fit"]


@dataclasses.dataclass(frozen=True)
class FitReport:
    """Course of a fit."""

    loss: list[float]
    """Mean square of the residuals after each evaluation."""
    seconds: float
    """CPU time of this process [s]."""
    evaluations: int
    """Losses with gradient."""


class _Over(Exception):
    """The time is used up."""


def fit(
    model: Any,
    *,
    points: tuple[int, int] = (24, 96),
    adam: int = 200,
    lr: float = 5e-3,
    iterations: int = 2000,
    seconds: float | None = None,
    clock: Callable[[], float] = time.process_time,
    tol: float = 1e-12,
) -> FitReport:
    """Minimize the mean squares of `model.residuals` on a grid of labels (or positions) and times.

    Float64 is advised: L-BFGS stops early in float32.

    Args:
        model: `LagrangianPINN`, `EulerianPINN` or alike, changed in place.
        points: number of labels and of times, both equally spaced.
        adam: updates of Adam first.
        lr: their learning rate.
        iterations: of L-BFGS (strong Wolfe line search).
        seconds: bound on the time by `clock`; the fit then ends with the lowest loss so far.
        clock: default CPU time of this process, which other load does not change.
        tol: end when the loss falls below it.

    Raises:
        StateError: a loss that is not finite, or what the model raises, unless some update was fine.
    """
    if min(points) < 2 or (seconds is not None and not seconds > 0):
        got = f"{points} and {seconds}"
        raise InputError(message("fit", "points >= 2 each and seconds > 0", got))
    like = next(model.parameters())
    X = (2 * math.pi * torch.arange(points[0]) / points[0]).to(like)
    t = torch.linspace(0, model.problem.duration, points[1]).to(like)
    X, t = (v.reshape(-1) for v in torch.meshgrid(X, t, indexing="ij"))
    began, losses = clock(), []
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    parameters = list(model.parameters())

    def closure() -> Tensor:
        nonlocal best
        if losses and (seconds is not None and clock() - began > seconds):
            raise _Over
        for p in parameters:
            p.grad = None
        try:
            parts = model.residuals(X, t)
            loss = sum((r.square().mean() for r in parts.values()), torch.zeros(()).to(like))
        except StateError:
            # A line search may step too far; only a first guess that fails is an error.
            if not losses:
                raise
            for p in parameters:
                p.grad = torch.zeros_like(p)
            return torch.full((), 1e30).to(like)
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise StateError(message("fit", "a finite loss", value, "Lower lr"), step=len(losses))
        losses.append(value)
        if value < best[0]:
            best = (value, {k: v.detach().clone() for k, v in model.state_dict().items()})
        if value < tol:
            raise _Over
        return loss

    try:
        first = torch.optim.Adam(parameters, lr=lr)
        for _ in range(adam):
            closure()
            first.step()
        second = torch.optim.LBFGS(
            parameters,
            max_iter=iterations,
            max_eval=2 * iterations,
            history_size=50,
            tolerance_grad=1e-12,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        second.step(closure)
    except _Over:
        pass
    model.load_state_dict(best[1])
    return FitReport(losses, clock() - began, len(losses))
