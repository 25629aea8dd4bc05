"""Descent that never goes up, by L-BFGS in a radius that learns, with momentum to fall back on.

    first       f(u − α D g) at α = δ, 2δ, 4δ, and f at samples ξ around the best of these, ξᵀg ≤ 0
    newton      d = −H g,   H of the last pairs s, y as in `lbfgs`
    momentum    d = −D m,   where there are no pairs, and in turns after `turns` failures in a row
    step        u + d min(1, Δ / |d|∞);   Δ doubles where it bound and held, halves where f did not fall

D = 1 / (√v + ε max √v) is Adam's scaling, m and v its averages; both directions have a radius Δ of their
own. Steps that do not lower the objective are taken back, but their gradient has told curvature. What
probably fails is run without its adjoint, at 1 instead of 3.5 steps: the first trials, samples, trials
after a failure, and the last ones, whose gradient no step would use.

Source: Liu & Nocedal 1989 (L-BFGS); Kingma & Ba 2015 (Adam); radii and trials are our own.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, InputError, StabilityError, StateError
from ..core import Task
from .base import distances
from .lbfgs import LBFGSConfig, LBFGSOptimizer
from .population import hat_basis
from .records import Budget
from .through_time import ThroughTimeOptimizer

__all__ = ["DescentConfig", "DescentOptimizer"]

logger = logging.getLogger(__name__)

ARMS = ("newton", "momentum")


@dataclasses.dataclass(frozen=True)
class DescentConfig(LBFGSConfig):
    """Settings of `DescentOptimizer`."""

    first_step: float = 0.1
    """First radius of both directions δ, in units of `action_limit` [-]."""
    max_step: float = 0.5
    """Largest radius, in units of `action_limit` [-]."""
    tolerance: float = 1e-8
    """As in L-BFGS, but nothing is gained by an early end."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the averages of gradients and of their squares [-]."""
    eps: float = 0.1
    """Share of the largest scale below which entries of the gradient move less [-]; as in Adam."""
    doublings: int = 3
    """Most trials along the first direction; 0: none."""
    turns: int = 2
    """Failures in a row after which momentum is tried in turns with curvature."""
    samples: int = 4
    """Samples after them, on the side where the gradient points down; 0: none."""
    spread: float = 0.3
    """Standard deviation of the samples, in units of `action_limit` [-]; as in CMA-ES."""
    knots: int | None = 10
    """Knots in time of the samples; as in CMA-ES."""


class DescentOptimizer(LBFGSOptimizer):
    """Monotone descent; see the module docstring.

    Raises:
        InputError: settings out of their range.
    """

    config: DescentConfig

    def __init__(
        self, task: Task, config: DescentConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        c = config
        if min(c.doublings, c.samples) < 0 or c.turns < 1 or c.spread <= 0 or c.eps <= 0:
            raise InputError(
                "DescentConfig: doublings ≥ 0, samples ≥ 0, turns ≥ 1, spread > 0, eps > 0; got "
                f"{c.doublings}, {c.samples}, {c.turns}, {c.spread}, {c.eps}. Correct them."
            )
        super().__init__(task, config, budget, seed, **options)

    def _restart(self) -> None:
        super()._restart()
        zero = torch.zeros_like(self.actions, dtype=torch.float64)
        self.moments, self.moment_count = torch.stack([zero, zero]), 0
        self.radius = dict.fromkeys(ARMS, self.config.first_step)
        self.arm, self.mode, self.light = "momentum", "start", False
        # Trials of the beginning: directions still to be run, and the best of them (u, f, step).
        self.queue: list[Tensor] = []
        self.found: list[Any] | None = None
        self.stretch, self.stretched = 1.0, False

    def next_cost(self) -> int:
        return self._light_cost() if self._is_light() else super().next_cost()

    def _light_cost(self) -> int:
        return (self.end - self._prefix_rows()) * self.task.substeps

    def _is_light(self) -> bool:
        return self.light or self._is_last()

    def _is_last(self) -> bool:
        """Whether no step could use the gradient of the coming trial."""
        paid = ThroughTimeOptimizer.next_cost(self) + self._light_cost()
        return self.mode == "step" and self.spare_steps < paid

    def _iterate(self) -> tuple[float, float, int]:
        """One trial, with its adjoint where that is worth it."""
        end, gradient = self.end, None
        try:
            if self._is_light():
                value, distance = self._forward()
            else:
                value, distance, gradient = self._evaluate()
                gradient = gradient.double()
        except (ConvergenceError, StateError, StabilityError) as error:
            if math.isinf(self.best_loss):
                raise
            logger.warning("DescentOptimizer: a step went too far: %s", error)
            self._judge(math.inf, None)
            return math.inf, math.nan, end
        if value < self.best_loss:
            self.best_loss, self.stage_best = value, self.actions.clone()
        self._judge(value, gradient)
        return value, distance, end

    @torch.no_grad()
    def _forward(self) -> tuple[float, float]:
        """Value and distance of the present actions."""
        begin, end = self.begin, self.end
        table = self.actions[begin:end]
        loss, final = self.task.evaluate(table, state=self._start_state(), start=begin)
        return float(loss[0]), distances(self.task, final)[0]

    def _judge(self, value: float, gradient: Tensor | None) -> None:
        """Choose the next trial from the outcome of this one."""
        u = (self.actions / self.limit).double()
        if self.mode == "start":
            assert gradient is not None
            self.scale = float(self._projected(u, gradient).abs().max())
            self._accept(u, value, gradient)
        elif self.mode in ("line", "sample"):
            self._scan(u, value)
        elif self.mode == "jump":
            self._land(u, value, gradient)
        else:
            self._step_judged(u, value, gradient)

    # The beginning: along the gradient, then around the best of it.

    def _begin_scan(self) -> None:
        self.found, self.queue, self.mode, self.light = None, [], "line", True
        self.direction = self._momentum()
        self.alpha = self.config.first_step
        self._go(self.alpha * self.direction)

    def _scan(self, u: Tensor, value: float) -> None:
        c = self.config
        better = value < (self.value if self.found is None else self.found[1])
        if better:
            self.found = [u, value, self.alpha if self.mode == "line" else 0.0]
        if self.mode == "line":
            self.shortened += 1
            self.alpha *= 2
            if better and self.shortened < c.doublings:
                self._go(self.alpha * self.direction)
                return
            self.mode, self.shortened, self.queue = "sample", 0, self._samples()
        if self.queue:
            self.actions = self.clamp(self.queue.pop(0).float() * self.limit)
        elif self.found is None:
            self.radius = dict.fromkeys(ARMS, 0.25 * c.first_step)
            self.mode = "step"
            self._propose()
        else:
            self._jump(self.found[0])

    def _samples(self) -> list[Tensor]:
        """Points around the best so far, on the side where the first gradient points down."""
        c, (T, A) = self.config, self.actions.shape
        basis = hat_basis(T, c.knots if c.knots is not None and c.knots < T else None).double()
        generator = torch.Generator().manual_seed(self.seed)
        shape = (c.samples, basis.shape[1], A)
        drawn = c.spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        center = self.point if self.found is None else self.found[0]
        moves = (basis @ drawn) * self.mask
        uphill = (moves * self.slope).sum((1, 2)) > 0
        return list((center + torch.where(uphill[:, None, None], -moves, moves)).clamp(-1, 1))

    def _jump(self, u: Tensor) -> None:
        """Run a point whose value is known once more, for its gradient."""
        self.actions = self.clamp(u.float() * self.limit)
        self.mode, self.light = "jump", False

    def _land(self, u: Tensor, value: float, gradient: Tensor | None) -> None:
        found, self.found, self.mode = self.found, None, "step"
        if gradient is None:  # its adjoint is not finite
            self._failed(float((u - self.point).abs().max()))
            return
        if found is not None and found[2] == 0:  # a sample: what was learned was learned elsewhere
            self.pairs, self.moment_count = [], 0
            self.moments.zero_()
        else:
            self._remember(u, gradient)
            if found is not None:
                reach = min(found[2], self.config.max_step)
                self.radius = {
                    "newton": reach,
                    "momentum": max(0.5 * reach, self.config.first_step),
                }
        self._accept(u, value, gradient)

    # Steps.

    def _step_judged(self, u: Tensor, value: float, gradient: Tensor | None) -> None:
        move = u - self.point
        length = float(move.abs().max())
        predicted = float((self.slope * move).sum())
        last = gradient is None and not self.light
        better = value < (self.best_before if last else self.value + self.config.armijo * predicted)
        if gradient is not None:
            self._remember(u, gradient)
        if last:
            # No gradient any more: farther along the same step, or less far.
            self.stretched |= better
            self.best_before = min(self.best_before, value)
            self.stretch *= 1.6 if better else 0.8 if self.stretched else 0.5
            self._go(self.stretch * self.direction)
        elif not better:
            self._failed(length)
        else:
            bound = length >= 0.9 * self.radius[self.arm]
            if bound and value <= self.value + 0.25 * predicted:
                self.radius[self.arm] = min(2 * self.radius[self.arm], self.config.max_step)
            if gradient is None:
                self._jump(u)
            else:
                self._accept(u, value, gradient)

    def _failed(self, length: float) -> None:
        self.radius[self.arm] = 0.5 * min(length, self.radius[self.arm])
        self.shortened += 1
        self.light, c = True, self.config
        if self.shortened >= 2 * c.backtracks:
            self._advance()
            return
        if self.shortened == c.backtracks:
            self.pairs, self.moment_count = [], 0
            self.moments.zero_()
            self._average(self.slope)
        self._propose()

    def _remember(self, u: Tensor, gradient: Tensor) -> None:
        """A pair of curvature, also of a trial that failed."""
        s, y = u - self.point, gradient - self.slope
        if float((s * y).sum()) > 1e-10 * float(s.norm() * y.norm()):
            self.pairs = [*self.pairs, (s, y)][-self.config.memory :]

    def _accept(self, u: Tensor, value: float, gradient: Tensor) -> None:
        first = self.point is None
        self.point, self.value, self.slope, self.shortened = u, value, gradient, 0
        self._average(gradient)
        self.light, self.mode = False, "step"
        small = float(self._projected(u, gradient).abs().max()) <= (
            self.config.tolerance * self.scale
        )
        ends = self.end < self.task.horizon and self.plateau.update(value)
        if ends or small:
            self._advance()
        elif first and self.config.doublings:
            self._begin_scan()
        else:
            self._propose()

    def _average(self, gradient: Tensor) -> None:
        b1, b2 = self.config.betas
        self.moment_count += 1
        self.moments[0] += (1 - b1) * (gradient - self.moments[0])
        self.moments[1] += (1 - b2) * (gradient.square() - self.moments[1])

    def _diagonal(self) -> Tensor:
        """D, (T, A)."""
        scale = (self.moments[1] / (1 - self.config.betas[1] ** self.moment_count)).sqrt()
        return 1 / (scale + self.config.eps * scale.max() + 1e-300)

    def _momentum(self) -> Tensor:
        """−D m on the free entries; along the gradient where m points up."""
        assert self.point is not None
        mean = self.moments[0] / (1 - self.config.betas[0] ** self.moment_count)
        free = self._projected(self.point, self.slope)
        d = -self._diagonal() * mean * (free != 0)
        return d if float((d * free).sum()) < 0 else -self._diagonal() * free

    def _propose(self) -> None:
        """The next trial from the accepted point."""
        assert self.point is not None
        if not self.pairs:
            self.arm = "momentum"
        elif self.shortened < self.config.turns:
            self.arm = "newton"
        else:
            self.arm = ARMS[self.arm == "newton"]  # its curvature misleads: in turns
        radius = self.radius[self.arm]
        if self.arm == "newton":
            d = self._descent()
            d = d * min(1.0, radius / (float(d.abs().max()) + 1e-300))
        else:
            d = radius * self._momentum()
        self.direction, self.stretch, self.stretched = d, 1.0, False
        self.best_before = self.value
        if not self._go(d):
            self._advance()

    def _go(self, move: Tensor) -> bool:
        """Set the trial; whether it differs from the accepted point in float32."""
        assert self.point is not None
        before = self.clamp(self.point.float() * self.limit)
        self.actions = self.clamp((self.point + move).clamp(-1, 1).float() * self.limit)
        return not torch.equal(before, self.actions)

    def _own_state(self) -> dict[str, Any]:
        names = ("arm", "mode", "light", "moment_count", "stretch", "stretched", "best_before")
        found = self.found
        own = {
            **{name: getattr(self, name) for name in names},
            "radius": dict(self.radius),
            "moments": self.moments.clone(),
            "queue": [q.clone() for q in self.queue],
            "found": None if found is None else [found[0].clone(), *found[1:]],
        }
        return {**super()._own_state(), "descent": own}

    best_before = math.inf
    """Least value of the present step and its stretches."""

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        for name, value in state["descent"].items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
