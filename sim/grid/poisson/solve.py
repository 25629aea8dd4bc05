"""One call for every Poisson solver, with the record of what it did."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, message
from .problem import PoissonProblem
from .spectral import axis_transform
from .stencil import Stencil
from .system import SOLVERS, TOLERANCE, FaceSystem, Method, unknown_method

__all__ = ["METHODS", "PoissonSolution", "PoissonSystem", "solve_poisson"]

METHODS = ("auto", "fft", *SOLVERS)
"""auto: fft where the axes separate (k one number, no mask), else multigrid; fft: one transform per
axis, exact; the others as in `system.SOLVERS`; or a function that makes a preconditioner."""

ROUND_OFF = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Σ f / Σ |f| of a region without Dirichlet side that counts as round-off."""


@dataclasses.dataclass(frozen=True)
class PoissonSolution:
    """A solution and how it was found."""

    u: Tensor
    """Solution (B, *cells), precision of b; mean zero in regions that no Dirichlet side reaches."""
    iterations: Tensor
    """Iterations per system, (B,); 0 for direct methods."""
    residual: Tensor
    """‖b − A u‖ / ‖b‖ per system (B,), recomputed in float64."""
    history: Tensor
    """‖r‖ / ‖b‖ before and after each iteration, (iterations + 1, B); empty for direct methods."""
    seconds: dict[str, float]
    """Clock time of "setup" (0 for a system at hand) and "solve" [s]."""
    method: str
    """What solved it, where "auto" chose."""


class PoissonSystem(FaceSystem):
    """One problem prepared for many right-hand sides.

    Args:
        problem: the problem.
        method: one of METHODS, or a function of the system that makes a preconditioner of CG on rows
            (B, n) or a `Factor`; networks of `operators.dcdm` are such functions.
        tol: ‖b − A u‖ / ‖b‖ to reach [-]; default 1e-10, for float32 right-hand sides 1e-6.
        max_iterations: of CG; default 10 n.
        like: tensor with the device and the precision of right-hand sides; default float32, CPU.

    Raises:
        InputError: unknown method, or "fft" where the axes do not separate.
    """

    def __init__(
        self,
        problem: PoissonProblem,
        method: Method = "auto",
        tol: float | None = None,
        max_iterations: int | None = None,
        like: Tensor | None = None,
    ) -> None:
        start = time.perf_counter()
        if not callable(method) and method not in METHODS:
            raise unknown_method("solve_poisson", method, METHODS)
        if method == "fft" and not problem.separable:
            fix = 'Use method="multigrid"'
            got = "an obstacle mask" if problem.mask is not None else "a field k"
            raise InputError(
                message("solve_poisson", "one number k and no mask for 'fft'", got, fix)
            )
        if method == "auto":
            method = "fft" if problem.separable else "multigrid"
        like = torch.zeros(()) if like is None else like
        axes = None
        if method == "fft":
            pairs = zip(problem.cells, problem.pairs, strict=True)
            transforms = [axis_transform(n, *sides) for n, sides in pairs]
            axes = (transforms, [float(problem.k) / h**2 for h in problem.h])
        self.problem = problem
        self.label = method if isinstance(method, str) else getattr(method, "name", "own")
        with torch.no_grad():
            faces = problem.faces(like)
            active = problem.active(like.device)
            batch = max(len(faces[0]), len(active))
            faces = tuple(c.expand(batch, *c.shape[1:]) for c in faces)
            active = active.expand(batch, *problem.cells)
        super().__init__(
            Stencil(problem.cells, problem.periodic, faces),
            active,
            method,
            TOLERANCE.get(like.dtype, 1e-6) if tol is None else tol,
            max_iterations,
            axes,
        )
        self.setup_seconds = time.perf_counter() - start

    def solve(
        self, b: Tensor, *, x0: Tensor | None = None, inconsistent: str = "error"
    ) -> PoissonSolution:
        """Solve for f = b, (B, *cells) or (*cells); arguments as in `solve_poisson`.

        Differentiable in b, k and the values of the sides by one adjoint solve.
        Source: `sim.core.linalg.linear_solve`.
        """
        problem = self.problem
        if b.shape[-problem.dim :] != problem.cells or b.dim() > problem.dim + 1:
            expected = f"b of (B, *{problem.cells}) or {problem.cells}"
            raise InputError(message("solve_poisson", expected, b))
        if inconsistent not in ("error", "project"):
            expected = 'inconsistent "error" or "project"'
            raise InputError(message("solve_poisson", expected, inconsistent))
        start = time.perf_counter()
        f = b.reshape(-1, *problem.cells).double()
        faces = self.stencil.c
        if _wants_grad(problem.k):
            faces = problem.faces(b)
            faces = tuple(c.expand(len(self.active), *c.shape[1:]) for c in faces)
        f = f + problem.given(faces, b)
        self._check_finite(b, f)
        count = len(self.active)
        if count > 1 and len(f) not in (1, count):
            expected = f"b for the {count} scenes of k and mask"
            raise InputError(message("solve_poisson", expected, f"{len(f)} right-hand sides"))
        rows = f.expand(max(len(f), count), *problem.cells).flatten(1)
        if inconsistent == "error":
            self._check(rows, ROUND_OFF.get(b.dtype, 1e-5))
        guess = None if x0 is None else x0.reshape(-1, rows.shape[1]).expand_as(rows)
        norms: list[Tensor] = []
        found: list[Any] = []
        if self.iteration is not None:
            self.iteration.monitor = norms.append
        try:
            x = self.solve_rows(rows, faces, guess, found.append)
        finally:
            if self.iteration is not None:
                self.iteration.monitor = None
        size = self.centre(rows.detach()).norm(dim=1)
        size = torch.where(size > 0, size, 1.0)
        history = torch.stack(norms) / size if norms else size.new_zeros(0, len(size))
        u = x.reshape(-1, *problem.cells).to(b.dtype)
        return PoissonSolution(
            u.reshape(b.shape) if len(u) == 1 else u,
            found[0].iterations,
            found[0].residual,
            history,
            {"setup": self.setup_seconds, "solve": time.perf_counter() - start},
            self.label,
        )

    def _check_finite(self, b: Tensor, f: Tensor) -> None:
        """Raise `InputError` where b or what the sides add to it is not a number."""
        if bool(f.detach().isfinite().all()):
            return
        bad = ~b.detach().isfinite()
        what = "b" if bool(bad.any()) else "values of the sides"
        bad = bad if what == "b" else ~f.detach().isfinite()
        got = f"{int(bad.sum())} cells without, the first at {tuple(bad.nonzero()[0].tolist())}"
        fix = "Repair them; no solver can"
        raise InputError(message("solve_poisson", f"finite {what}", got, fix))

    def _check(self, rows: Tensor, round_off: float) -> None:
        """Raise `InputError` where a region without Dirichlet side has a net source."""
        if not self.closed_count:
            return
        with torch.no_grad():
            net, size = self.sums(rows), self.sums(rows.abs())
            bad = self.closed & (net.abs() > round_off * size)
        if not bool(bad.any()):
            return
        b, region = (int(i) for i in bad.nonzero()[0])
        g = b if len(self.labels) > 1 else 0
        cells = int(((self.labels[g] == region) & self.active[g].flatten()).sum())
        share = float(net[b, region] / size[b, region])
        text = message(
            "solve_poisson",
            "Σ f = 0 in a region that no Dirichlet side reaches (A is singular there)",
            f"Σ f / Σ |f| = {share:.3g} in a region of {cells} cells of scene {b}",
            'Correct f or the fluxes of the sides, or pass inconsistent="project"',
        )
        raise InputError(text)


def solve_poisson(
    problem: PoissonProblem,
    b: Tensor,
    method: Method = "auto",
    tol: float | None = None,
    *,
    max_iterations: int | None = None,
    x0: Tensor | None = None,
    inconsistent: str = "error",
) -> PoissonSolution:
    """Solve −∇·(k ∇u) = b on cells.

    Args:
        problem: cells, sides, k and obstacles.
        b: right-hand side f [unit of k u per m²], (B, *cells) or (*cells); ignored in obstacles.
        method: one of METHODS, or a function that makes a preconditioner or a `Factor`.
        tol: ‖b − A u‖ / ‖b‖ to reach [-]; default 1e-10 in float64, 1e-6 in float32. The solve runs
            in float64 for both.
        max_iterations: of CG; default 10 n.
        x0: first guess of the shape of b, such as the last time step.
        inconsistent: what a region without Dirichlet side does with Σ f ≠ 0: "error", or "project",
            which subtracts its mean (the least-squares solution).

    Returns:
        `PoissonSolution`; where no Dirichlet side reaches a region, u has mean zero there.

    Raises:
        InputError: shapes, unknown names, values that are not finite, a net source in a closed region.
        ConvergenceError: forward, or in backward, when the tolerance was not reached.

    Differentiable in b, k and the values of the sides by one adjoint solve.
    Source: `sim.core.linalg.linear_solve`.
    """
    system = PoissonSystem(problem, method, tol, max_iterations, b)
    return system.solve(b, x0=x0, inconsistent=inconsistent)


def _wants_grad(k: Any) -> bool:
    return any(isinstance(c, Tensor) and c.requires_grad for c in (k if type(k) is tuple else (k,)))
