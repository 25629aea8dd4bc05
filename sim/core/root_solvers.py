"""Iterations for roots and minima on rows (B, n); each system of a batch stops by itself.

They run without graph. None raises when it fails: `implicit_root` and the others compare ‖F‖ with the
tolerance for whatever solver was used.

Source: Broyden 1965; Walker & Ni 2011 (Anderson); Knoll & Keyes 2004 (Newton–Krylov); Nocedal & Wright
2006, algorithms 7.4 and 7.5 (L-BFGS); Beck & Teboulle 2009 (accelerated proximal gradient); O'Donoghue &
Candès 2015 (its restart). Not differentiable themselves: the functions of `implicit_layers` are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .factors import Factor, IterativeFactor
from .roots import RootProblem, anderson, newton

__all__ = [
    "LBFGS",
    "Anderson",
    "Broyden",
    "Krylov",
    "Minimum",
    "Newton",
    "Picard",
    "ProximalGradient",
]
__all__ += ["MINIMIZERS", "ROOT_SOLVERS", "Minimizer", "RootSolver"]

Found = tuple[Tensor, "Factor | None", int]
"""x (B, n), a factor of ∂F/∂x near it, iterations."""


class RootSolver:
    """Finds x with ‖F(x)‖ <= bound for every system."""

    def root(self, problem: RootProblem, bound: Tensor) -> Found:
        """The root of `problem`, from `problem.x0`; bound (B,)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Newton(RootSolver):
    """Newton's method with backtracking: few iterations, a dense ∂F/∂x up to 512 unknowns, then GMRES."""

    max_iterations: int = 50
    """Most linear solves."""

    def root(self, problem, bound):
        return newton(problem, bound, self.max_iterations)


@dataclasses.dataclass(frozen=True)
class Krylov(RootSolver):
    """Newton's method with GMRES, never a matrix; for many unknowns."""

    max_iterations: int = 50
    """Most linear solves."""
    tol: float = 1e-4
    """Relative residual of each of them [-]."""

    def root(self, problem, bound):
        jacobian, theta = problem.jacobian(), problem.detached()

        def direction(x: Tensor, F: Tensor) -> Tensor:
            operator = jacobian.operator(x, [x, *theta])
            return -IterativeFactor("GMRES", operator, self.tol).solve(F, throw=False).x

        return _descend(problem, bound, direction, None, self.max_iterations, growth=1.0)


@dataclasses.dataclass(frozen=True)
class Broyden(RootSolver):
    """Broyden's good method, limited memory: one evaluation an iteration, no derivatives."""

    max_iterations: int = 500
    """Most iterations."""
    memory: int = 30
    """Rank-one updates kept; at the limit they are dropped."""
    start: float = 1.0
    """First guess of the inverse of ∂F/∂x, times the identity; 1 suits F = x − T(x)."""

    def root(self, problem, bound):
        us: list[Tensor] = []
        ws: list[Tensor] = []

        def inverse(v: Tensor, left: list[Tensor], right: list[Tensor]) -> Tensor:
            parts = [u * (w * v).sum(1, keepdim=True) for u, w in zip(left, right, strict=True)]
            return sum(parts, self.start * v)

        def update(s: Tensor, y: Tensor) -> None:
            if len(us) >= self.memory:
                us.clear()
                ws.clear()
            Hy, w = inverse(y, us, ws), inverse(s, ws, us)
            size = (s * Hy).sum(1, keepdim=True)
            regular = size.abs() > 1e-12 * s.norm(dim=1, keepdim=True) * Hy.norm(
                dim=1, keepdim=True
            )
            us.append(torch.where(regular, (s - Hy) / torch.where(regular, size, 1.0), 0.0))
            ws.append(w)

        def direction(x: Tensor, F: Tensor) -> Tensor:
            return -inverse(F, us, ws)

        # Its first steps may go up on the way; a bound on that keeps it from running off.
        return _descend(problem, bound, direction, update, self.max_iterations, growth=2.0)


@dataclasses.dataclass(frozen=True)
class Anderson(RootSolver):
    """x ← x − damping F(x), accelerated over the last steps; for fixed points F = x − T(x)."""

    max_iterations: int = 1000
    """Most evaluations."""
    memory: int = 5
    """Steps combined; 0 is the plain iteration."""
    damping: float = 1.0
    """Share of F that a step takes [-]."""

    def root(self, problem, bound):
        theta = problem.detached()

        def step(x: Tensor) -> Tensor:
            return x - self.damping * problem.residual(x, theta)

        goal = abs(self.damping) * bound
        x, count = anderson(step, problem.x0, goal, self.max_iterations, self.memory)
        return x, None, count


@dataclasses.dataclass(frozen=True)
class Picard(Anderson):
    """x ← T(x): the plain iteration, for contractions."""

    memory: int = 0
    """No acceleration."""


@dataclasses.dataclass
class Minimum:
    """What a minimizer sees: rows (B, n) without graph."""

    problem: RootProblem
    """Its residual is zero at the minimum."""
    energy: Callable[[Tensor], Tensor]
    """x ↦ f(x), (B,)."""
    gradient: Callable[[Tensor], Tensor]
    """x ↦ ∇f(x), (B, n)."""
    proximal: Callable[[Tensor, Tensor], Tensor] | None = None
    """(x, step (B, 1)) ↦ argmin_y ½‖y − x‖² + step g(y); a projection where g is a constraint."""


class Minimizer:
    """Finds x with ‖F(x)‖ <= bound, F the optimality condition, by descent of f."""

    def minimum(self, task: Minimum, bound: Tensor) -> Found:
        """The minimum, from `task.problem.x0`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LBFGS(Minimizer):
    """L-BFGS with a line search for the weak Wolfe conditions; for smooth f without constraints."""

    max_iterations: int = 500
    """Most iterations."""
    memory: int = 10
    """Pairs kept."""

    def minimum(self, task, bound):
        x = task.problem.x0
        f, g = task.energy(x), task.gradient(x)
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        for iteration in range(self.max_iterations):
            active = ~(g.norm(dim=1) <= bound)
            if not bool(active.any()):
                return x, None, iteration
            d = -_two_loops(g, pairs)
            downhill = (d * g).sum(1) < 0
            d = torch.where((downhill & active)[:, None], d, torch.where(active[:, None], -g, 0.0))
            first = 1.0 / g.norm(dim=1).clamp_min(1.0) if not pairs else torch.ones_like(f)
            x_new, f, g_new = _wolfe(task, x, f, g, d, first)
            s, y = x_new - x, g_new - g
            if not bool(s.any()):
                return x, None, iteration
            sy = (s * y).sum(1)
            good = sy > 1e-12 * s.norm(dim=1) * y.norm(dim=1)
            pairs = [*pairs, (s, y, torch.where(good, 1.0 / torch.where(good, sy, 1.0), 0.0))]
            pairs = pairs[-self.memory :]
            x, g = x_new, g_new
        return x, None, self.max_iterations


@dataclasses.dataclass(frozen=True)
class ProximalGradient(Minimizer):
    """Accelerated proximal (projected) gradient with its own step size; without constraints accelerated
    gradient descent."""

    max_iterations: int = 5000
    """Most iterations."""
    step: float = 100.0
    """First step; halved whenever the curvature along it exceeds 1/step."""

    def minimum(self, task, bound):
        prox = task.proximal or (lambda x, step: x)
        x = y = task.problem.x0
        theta = task.problem.detached()
        eta = torch.full((len(x), 1), self.step, dtype=x.dtype, device=x.device)
        t = torch.ones_like(eta)
        eps = 10 * torch.finfo(x.dtype).eps
        for iteration in range(self.max_iterations):
            if iteration % 4 == 0:  # a test costs as much as a step
                active = ~(task.problem.residual(x, theta).norm(dim=1) <= bound)
                if not bool(active.any()):
                    return x, None, iteration
            g = task.gradient(y)
            for _ in range(60):
                new = prox(y - eta * g, eta)
                d = new - y
                # Slopes tell the curvature where differences of f are round-off.
                rise, length = ((task.gradient(new) - g) * d).sum(1), d.norm(dim=1)
                high = ~(rise <= length.square() / eta[:, 0] + eps * g.norm(dim=1) * length)
                if not bool((high & active).any()):
                    break
                eta = torch.where((high & active)[:, None], 0.5 * eta, eta)
            new = torch.where(active[:, None], new, x)
            back = ((y - new) * (new - x)).sum(1, keepdim=True) > 0
            t_new = torch.where(back, 1.0, 0.5 + (0.25 + t.square()).sqrt())
            y = new + torch.where(back, 0.0, (t - 1) / t_new) * (new - x)
            x, t = new, t_new
        return x, None, self.max_iterations


ROOT_SOLVERS: dict[str, Any] = {
    "newton": Newton(),
    "krylov": Krylov(),
    "broyden": Broyden(),
    "anderson": Anderson(),
    "picard": Picard(),
}
"""By the names that `implicit_root` and `implicit_fixed_point` take."""

MINIMIZERS: dict[str, Any] = {
    "lbfgs": LBFGS(),
    "newton": Newton(),
    "gradient": ProximalGradient(),
}
"""By the names that `implicit_argmin` takes."""


def _descend(problem, bound, direction, update, max_iterations: int, growth: float) -> Found:
    """x ← x + t d with t halved until ‖F‖ falls below `growth` times the last; per system."""
    x, theta = problem.x0, problem.detached()
    F = problem.residual(x, theta)
    for iteration in range(max_iterations):
        norm = F.norm(dim=1)
        active = ~(norm <= bound)
        if not bool(active.any()) or not bool(torch.isfinite(norm).all()):
            return x, None, iteration
        d = torch.where(active[:, None], direction(x, F), 0.0)
        t = torch.ones_like(norm)
        for _ in range(30):
            trial = x + t[:, None] * d
            F_trial = problem.residual(trial, theta)
            bad = active & ~(F_trial.norm(dim=1) <= growth * (1 - 1e-4 * t) * norm)
            if not bool(bad.any()):
                break
            t = torch.where(bad, 0.5 * t, t)
        if bool((bad == active).all()):
            return x, None, iteration
        keep = (~bad)[:, None]
        if update is not None:
            update(torch.where(keep, trial - x, 0.0), torch.where(keep, F_trial - F, 0.0))
        x, F = torch.where(keep, trial, x), torch.where(keep, F_trial, F)
    return x, None, max_iterations


def _two_loops(g: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """H g with the inverse Hessian of the pairs (s, y, 1/⟨s, y⟩); rows without curvature have 0."""
    q, kept = g, []
    for s, y, rho in reversed(pairs):
        a = rho * (s * q).sum(1)
        q = q - a[:, None] * y
        kept.append(a)
    if pairs:
        s, y, rho = pairs[-1]
        curved = rho > 0
        size = torch.where(curved, 1.0 / torch.where(curved, rho * y.square().sum(1), 1.0), 1.0)
        q = size[:, None] * q
    for (s, y, rho), a in zip(pairs, reversed(kept), strict=True):
        q = q + (a - rho * (y * q).sum(1))[:, None] * s
    return q


def _wolfe(task: Minimum, x, f, g, d, t) -> tuple[Tensor, Tensor, Tensor]:
    """x + t d with enough decrease of f and of the slope, by bisection; per system."""
    slope = (g * d).sum(1)
    lower, upper = torch.zeros_like(t), torch.full_like(t, torch.inf)
    # Below round-off of f its slope alone decides (Hager & Zhang 2005, approximate Wolfe conditions).
    noise = 10 * torch.finfo(f.dtype).eps * f.abs()
    for _ in range(50):
        trial = x + t[:, None] * d
        f_trial, g_trial = task.energy(trial), task.gradient(trial)
        slope_trial = (g_trial * d).sum(1)
        flat = (f_trial <= f + noise) & (slope_trial <= -0.9998 * slope)
        high = ~((f_trial <= f + 1e-4 * t * slope) | flat)
        steep = ~high & (slope_trial < 0.9 * slope)
        if not bool((high | steep).any()):
            break
        upper, lower = torch.where(high, t, upper), torch.where(steep, t, lower)
        t = torch.where(high | steep, torch.where(upper.isinf(), 2 * t, 0.5 * (lower + upper)), t)
    keep = (~high)[:, None]
    return torch.where(keep, trial, x), torch.where(high, f, f_trial), torch.where(keep, g_trial, g)
