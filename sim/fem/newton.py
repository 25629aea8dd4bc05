"""Newton's method for the minimum of the incremental potential of a step.

    Φ(y) = Σ_terms E(y) + ½ y·W y − l·y,      r = ∂Φ/∂y,      H p = −r,      y ← y + t p

W (mass over time step squared) and l (inertia, weight, loads) come from the time scheme. Each scene of
a batch has its own step length t, found by backtracking until Φ falls (Armijo), at most what contact
admits; scenes that are done rest. The Hessian is exact as long as it is positive definite, which keeps
the convergence quadratic; where it is not, element blocks are projected. Where factors are dear, a
direction is first tried by conjugate gradients with the last factor and products with the exact H.

Driven points move together with the free ones in the first direction, H_ff p_f = −r_f − H_fd p_d, so
that elements beside a gripper follow it; where contact stops them on the way, the next one goes on.

Source: Nocedal & Wright 2006, section 3; Li et al. 2020 (IPC), section 4; Longva et al. 2023 (Pitfalls
of Projection) for projecting only where needed; Knoll & Keyes 2004, section 3, for lagged factors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.errors import ConvergenceError, StateError, message
from .assembly import Factor, Solve, factorize
from .kept import solve_near
from .pattern import Blocks, Pattern
from .terms import Term, assemble

__all__ = ["NewtonInfo", "NewtonSettings", "Potential", "newton"]


REUSE_WORK = 1e4
"""Products of a factor per entry of the matrix, n width² / E, from which directions are tried with the
last factor: a product with H takes its entries a few times."""

FORCING = 1e-2
"""Relative error of such directions in the norm of H (Eisenstat & Walker 1996)."""


@dataclasses.dataclass(frozen=True)
class NewtonSettings:
    """What a solve has to reach, and how."""

    tol: float
    """‖r‖₂ of every scene on its free points [N]."""
    max_iterations: int
    linear: str
    """"sparse", "dense" or "cg"."""


@dataclasses.dataclass
class NewtonInfo:
    """What a solve did."""

    iterations: int = 0
    """Newton directions followed."""
    residual: float = math.nan
    """Largest ‖r‖₂ over the scenes [N]."""
    factorizations: int = 0
    """Linear systems prepared, the projected ones included."""
    projections: int = 0
    """Directions of projected Hessians."""
    halvings: int = 0
    """Trial points that were given up."""


@dataclasses.dataclass
class Potential:
    """Φ of B scenes: terms, and a quadratic form."""

    terms: Sequence[Term]
    weight: Tensor
    """W [N/m] per point, (B, N)."""
    load: Tensor
    """l [N], (B, N, 3)."""
    _last: tuple[Tensor, Tensor] | None = None
    _force: tuple[Tensor, Tensor] | None = None

    def energy(self, y: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Φ(y) without the constant Φ of the quadratic part at `reference`, and its rounding, (B,)."""
        flat, change = self._flat(y), y - reference
        weight = self.weight.unsqueeze(-1)
        slope = weight * reference - self.load
        quadratic = ((0.5 * weight * change + slope) * change).sum((1, 2))
        energies = [quadratic, *(term.energy(flat) for term in self.terms)]
        total = torch.stack(energies)
        return total.sum(0), 8 * torch.finfo(y.dtype).eps * total.abs().sum(0)

    def gradient(self, y: Tensor) -> Tensor:
        """r on all points, (B, N, 3). Differentiable in what the terms, W and l carry."""
        recorded = torch.is_grad_enabled()
        if not recorded and self._force is not None and self._force[0] is y:
            return self._force[1]
        flat = self._flat(y)
        inner = assemble([term.gradient(flat) for term in self.terms], flat)
        r = inner.view_as(y) + self.weight.unsqueeze(-1) * y - self.load
        self._force = None if recorded else (y, r)
        return r

    def blocks(self, y: Tensor, project: bool) -> Blocks:
        """H as blocks."""
        flat, fixed, moving = self._flat(y), [], []
        for term in self.terms:
            found = term.hessian(flat, project=project)
            pairs = found if isinstance(found, list) else [found]
            (moving if term.changing else fixed).extend(pairs)
        return Blocks(self.weight, fixed, moving, y)

    def action(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """v ↦ H v for v (B, N, 3), exact; blocks are made only of terms without `Term.product`."""
        flat, kept = self._flat(y), {}

        def act(v: Tensor) -> Tensor:
            out = self.weight.unsqueeze(-1) * v
            for number, term in enumerate(self.terms):
                found = term.product(flat, v.reshape(-1, 3))
                if found is None:
                    if number not in kept:
                        pairs = term.hessian(flat, project=False)
                        kept[number] = pairs if isinstance(pairs, list) else [pairs]
                    found = Blocks(torch.zeros_like(self.weight), kept[number], []).product(v)
                out = out + found.view_as(v)
            return out

        return act

    def _flat(self, y: Tensor) -> Tensor:
        """Points of all scenes; the same tensor for the same y, by which elements know it again."""
        if self._last is None or self._last[0] is not y:
            self._last = y, y.reshape(-1, 3)
        return self._last[1]

    def update(self, start: Tensor, end: Tensor) -> None:
        """Let contact look for candidates between two configurations."""
        for term in self.terms:
            term.update(start.reshape(-1, 3), end.reshape(-1, 3))

    def max_step(self, y: Tensor, p: Tensor) -> Tensor:
        """Largest admissible part of the step p, (B,)."""
        limit = torch.ones(len(y), dtype=y.dtype, device=y.device)
        for term in self.terms:
            found = term.max_step(y.reshape(-1, 3), p.reshape(-1, 3))
            limit = limit if found is None else torch.minimum(limit, found)
        return limit


def newton(
    where: str,
    potential: Potential,
    pattern: Pattern,
    start: Tensor,
    driven: Tensor,
    goal: Tensor,
    settings: NewtonSettings,
    info: NewtonInfo,
    near: dict[int, Solve],
) -> Tensor:
    """Minimize Φ over the free points.

    Args:
        where: for messages.
        potential: Φ, without graph.
        pattern: sparsity, and which points are free.
        start: admissible first guess [m], (B, N, 3).
        driven: points that are not free, (n,), and their `goal` [m], (B, n, 3).
        settings: tolerance and linear solver.
        info: filled in.
        near: filled with the last direct factor of each scene.

    Returns:
        y (B, N, 3) with ‖r‖ <= tol + rounding for every scene; no graph.

    Raises:
        ConvergenceError: too many iterations, no descent, or a singular Hessian.
        StateError: Φ not finite at the start.
    """
    y, free = start.clone(), pattern.free.to(start.device)
    potential.update(y, y)
    energy, noise = potential.energy(y, start)
    if not bool(torch.isfinite(energy).all()):
        bad = int((~torch.isfinite(energy)).nonzero()[0])
        fix = "Start without inverted elements and without penetration"
        raise StateError(message(where, "a finite energy at the start", f"scene {bad}", fix))
    r = potential.gradient(y)
    first: Tensor | None = None
    exact, full = True, True
    rounding: Tensor | None = None
    begun = info.iterations
    while True:
        norm = r[:, free].flatten(1).norm(dim=1)
        missing = goal - y[:, driven]
        moving = (missing != 0).flatten(1).any(1)
        first = norm if first is None else first
        active = moving | ~(norm <= (settings.tol if rounding is None else settings.tol + rounding))
        info.residual = float(norm.max()) if len(norm) else 0.0
        if not bool(active.any()):
            return y
        if info.iterations - begun >= settings.max_iterations:
            raise _failure(where, "", norm, active, settings, info)
        info.iterations += 1
        scenes = active.nonzero()[:, 0].tolist()
        p = torch.zeros_like(y)
        p[:, driven] = missing
        near_enough = (
            rounding is not None and full and pattern.work >= REUSE_WORK * len(pattern.row)
        )
        found = _reuse(potential, free, y, r, p, active, near) if near_enough else None
        if found is None:
            blocks, factor, exact = _factor(
                where, potential, pattern, y, scenes, norm / first, exact or full, settings, info
            )
            near.update(factor.parts)
            if rounding is None:
                # What rounding of positions does to forces; no solve can do better.
                diagonal = _diagonal(blocks, y)[:, free]
                size = 4 * torch.finfo(y.dtype).eps
                rounding = size * (diagonal * y[:, free].abs()).flatten(1).norm(dim=1)
            rhs = r + blocks.product(p) if bool(moving.any()) else r
            found = factor.solve(rhs[:, free].flatten(1))
        p[:, free] = -found.unflatten(1, (-1, 3))
        p = torch.where(active[:, None, None], p, 0.0)
        slope = torch.where(moving, 0.0, (r * p).sum((1, 2)))
        potential.update(y, y + p)
        t = potential.max_step(y, p)
        if bool((active & ~(t > 0)).any()):
            raise _failure(where, "contact admits no step; ", norm, active, settings, info)
        search = _Search(where, potential, start, free, y, p, energy + noise, slope, norm, moving)
        y, energy, noise, t = search.run(t, active, info)
        full = bool((t == 1).all())
        arrived = moving & (t == 1)
        if bool(arrived.any()):  # exactly, so that no rounding keeps the goal away
            there = torch.where(arrived[:, None, None], goal, y[:, driven])
            y = y.index_copy(1, driven, there)
            energy, noise = potential.energy(y, start)
        r = potential.gradient(y)


@dataclasses.dataclass
class _Search:
    """Backtracking along p from y, where Φ and ‖r‖ are `level` and `norm`, with slope r·p."""

    where: str
    potential: Potential
    start: Tensor
    free: Tensor
    y: Tensor
    p: Tensor
    level: Tensor
    slope: Tensor
    norm: Tensor
    moving: Tensor

    def run(self, t: Tensor, active: Tensor, info: NewtonInfo) -> tuple[Tensor, ...]:
        """Halve t per scene until Φ falls enough; return the new y, Φ, its rounding, and t.

        Where driven points move, until Φ is finite. Near the minimum Φ rounds more than it falls:
        there a smaller residual decides.
        """
        for _ in range(60):
            trial = self.y + t[:, None, None] * self.p
            energy, noise = self.potential.energy(trial, self.start)
            low = energy <= self.level + noise + 1e-4 * t * self.slope
            accepted = ~active | torch.where(self.moving, torch.isfinite(energy), low)
            near = ~accepted & (energy <= self.level + 1e6 * noise)
            if bool(near.any()):
                norm = self.potential.gradient(trial)[:, self.free].flatten(1).norm(dim=1)
                accepted = accepted | (near & (norm < 0.9 * self.norm))
            if bool(accepted.all()):
                return trial, energy, noise, t
            info.halvings += 1
            t = torch.where(accepted, t, 0.5 * t)
        got = (
            f"none along the direction of iteration {info.iterations}, ‖r‖ = {info.residual:.3e} N"
        )
        fix = "Lower dt, raise tol, or check that the start is not degenerate"
        text = message(self.where, "a lower energy", got, fix)
        raise ConvergenceError(text, iterations=info.iterations, residual=info.residual)


def _reuse(
    potential: Potential,
    free: Tensor,
    y: Tensor,
    r: Tensor,
    p: Tensor,
    active: Tensor,
    near: dict[int, Solve],
) -> Tensor | None:
    """H⁻¹ (r + H p) on the free points (B, 3 F) by products and the last factors; None: make new ones."""
    if any(scene not in near for scene in active.nonzero()[:, 0].tolist()):
        return None
    action = potential.action(y)
    rhs = r + action(p) if bool((p != 0).any()) else r

    def product(v: Tensor) -> Tensor:
        full = torch.zeros_like(y).index_copy(1, free, v.unflatten(1, (-1, 3)))
        return action(full)[:, free].flatten(1)

    b = torch.where(active[:, None], rhs[:, free].flatten(1), 0.0)
    found = solve_near(product, near, b, FORCING)
    return None if found is None else found[0]


def _factor(
    where: str,
    potential: Potential,
    pattern: Pattern,
    y: Tensor,
    scenes: Sequence[int],
    progress: Tensor,
    try_exact: bool,
    settings: NewtonSettings,
    info: NewtonInfo,
) -> tuple[Blocks, Factor, bool]:
    """Exact Hessian and its factor where positive definite, else projected, else also shifted.

    The exact one is not tried again before a projected direction can be followed all the way: steps
    that have to be cut are far from the minimum, where it is indefinite still.
    """
    if settings.linear == "cg":
        # The solve need not be better than the step it serves (Eisenstat & Walker 1996).
        tol = min(1e-2, 0.1 * float(progress.max()))
        info.factorizations += 1
        blocks = potential.blocks(y, True)
        return blocks, factorize(blocks, pattern, "cg", max(tol, 1e-10)), True
    if try_exact:
        blocks = potential.blocks(y, False)
        factor = factorize(blocks, pattern, settings.linear, scenes=scenes)
        info.factorizations += 1
        if bool(factor.positive[scenes].all()):
            return blocks, factor, True
    info.projections += 1
    blocks = potential.blocks(y, True)
    shift = 0.0
    for _ in range(8):
        shifted = dataclasses.replace(blocks, diagonal=blocks.diagonal + shift)
        factor = factorize(shifted, pattern, settings.linear, scenes=scenes)
        info.factorizations += 1
        if bool(factor.positive[scenes].all()):
            return shifted, factor, False
        shift = max(100 * shift, 1e-9 * float(_diagonal(blocks, y).max()))
    fix = "Fix rigid motions by a handle, or give the scene inertia (a scheme other than static)"
    got = f"a singular one at iteration {info.iterations}"
    raise ConvergenceError(
        message(where, "a regular Hessian", got, fix), iterations=info.iterations
    )


def _diagonal(blocks: Blocks, y: Tensor) -> Tensor:
    """|H_ii| summed over blocks, (B, N, 3)."""
    out = blocks.diagonal.reshape(-1, 1).expand(-1, 3).clone()
    for stencil, local in (*blocks.fixed, *blocks.moving):
        own = local.diagonal(dim1=1, dim2=2).abs().reshape(-1, 3)
        out.index_add_(0, stencil.reshape(-1), own)
    return out.view_as(y)


def _failure(where, why, norm, active, settings, info) -> ConvergenceError:
    worst = float(torch.where(active, norm, 0.0).max())
    got = f"{why}{worst:.3e} N in {int(active.sum())} of {len(norm)} scenes "
    got += f"after {info.iterations} iterations"
    fix = "Lower dt or slow the handles; raise max_iterations or tol where that is what you need"
    text = message(where, f"‖residual‖ <= {settings.tol:.1e} N", got, fix)
    return ConvergenceError(text, iterations=info.iterations, residual=worst, tol=settings.tol)
