"""Networks as Poisson solvers: conjugate directions proposed by a net, certified by the true residual.

    q = net(r / ‖r‖),  then A-orthogonal to the last `history` directions, then an exact line search

Any tolerance is reachable, since a bad network costs iterations only; a stalled one is noticed, and
conjugate gradients with the V-cycle take over, with a warning.

Source: Kaneda et al. 2023, algorithm 1 (history 2); Notay 2000 (flexible conjugate gradients).
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, InputError, message
from ...sim.core.factors import Factor, IterativeFactor, Preconditioner
from ...sim.core.krylov import cg, fcg
from ...sim.grid.poisson import FaceSystem, VCycle
from .networks import DirectionNet

__all__ = ["DCDM", "DCDMFactor"]

log = logging.getLogger(__name__)


class DCDM:
    """A `method` of `solve_poisson`, `PoissonSystem`, `project` and the gas solver.

    Args:
        net: the network.
        history: directions that a new one is made A-orthogonal to; None: all, 0: none. Two are
            exact for a linear symmetric net; nonlinear ones gain from 8 or more.
        fallback: whether a stalled solve goes on with CG and a V-cycle, with a warning; False:
            `ConvergenceError`.
        patience: iterations within which the residual must fall to `progress` of what it was.
        progress: see patience.
        plain: whether a symmetric net goes into plain CG, which needs one product less per step; one
            whose certificate fails (weights that training let go) takes the loop above, with a warning.

    Raises:
        InputError: not a network, or a negative history; where it is used, a network of other dimension.
    """

    name = "dcdm"

    def __init__(
        self,
        net: DirectionNet,
        history: int | None = 2,
        fallback: bool = True,
        patience: int = 30,
        progress: float = 0.7,
        plain: bool = True,
    ) -> None:
        if not isinstance(net, DirectionNet):
            fix = 'Load one first, DCDM(load_net("symmetric-2d"))'
            raise InputError(message("DCDM", "a DirectionNet", repr(net), fix))
        if history is not None and history < 0:
            fix = "Take 0 for none, None for all"
            raise InputError(message("DCDM", "history >= 0 or None", f"history={history}", fix))
        self.net, self.history, self.fallback = net.eval(), history, fallback
        self.patience, self.progress, self.plain = patience, progress, plain

        if self.plain and net.symmetric and hasattr(net, "certified") and not net.certified() < 1:
            log.warning(
                "DCDM: expected a residual polynomial below 1, which makes the net positive definite; "
                "got %.3g. Going on with the flexible loop; train it longer or with less lr.",
                net.certified(),
            )
            self.plain = False

    def __call__(self, system: FaceSystem) -> Factor:
        return DCDMFactor(system, self.direction(system), self)

    def direction(self, system: FaceSystem) -> Preconditioner:
        """r ↦ q on rows (B, n), for one geometry."""
        net, dim = self.net, system.stencil.dim
        made = getattr(net, "dim", dim)
        if made != dim:
            fix = f"Take a network of {dim} dimensions"
            raise InputError(message("DCDM", f"a network for {dim} axes", f"one for {made}", fix))
        with torch.no_grad():
            geometry = net.prepare(system.stencil, system.active)
        dtype = next(net.parameters()).dtype
        failed = []

        def apply(rows: Tensor) -> Tensor:
            size = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
            with torch.no_grad():
                q = net((rows / size).to(dtype).reshape(-1, *system.cells), geometry)
            q = system.centre(q.to(rows).flatten(1))
            if not bool(q.isfinite().all()):
                if not self.fallback:
                    fix = "Load or train its weights again"
                    text = message("DCDM", "finite directions", "NaN or infinite ones", fix)
                    raise ConvergenceError(text)
                if not failed:
                    log.warning(
                        "DCDM: expected finite directions; got NaN or infinite ones. Going on with CG; "
                        "load or train the weights again."
                    )
                failed.append(True)
                return rows
            return q * size if net.linear else q

        return apply


class DCDMFactor(IterativeFactor):
    """The iteration for one geometry, plain or flexible; falls back where it stalls."""

    def __init__(self, system: FaceSystem, direction: Preconditioner, options: DCDM) -> None:
        super().__init__(
            "DCDM", system.operator, system.tol, system.max_iterations, direction, check=False
        )
        self.system, self.options = system, options

    def _solve(self, b, x0, transpose, tol):
        options, apply = self.options, self.operator.matvec
        limit = 10 * b.shape[1] if self.max_iterations is None else self.max_iterations
        norms: list[Tensor] = []
        target = tol * b.norm(dim=1)

        def watch(norm: Tensor) -> bool:
            if self.monitor is not None:
                self.monitor(norm)
            norms.append(norm)
            if len(norms) <= options.patience:
                return False
            slow = norm > options.progress * norms[-1 - options.patience]
            return bool((slow & (norm > target)).any())

        start = torch.zeros_like(b) if x0 is None else x0
        if options.net.symmetric and options.plain:
            x, done = cg(apply, b, start, tol, limit, self.preconditioner, watch)
        else:
            args = (self.preconditioner, options.history, watch)
            x, done = fcg(apply, b, start, tol, limit, *args)
        if not options.fallback or bool((norms[-1] <= target).all()) or len(norms) > limit:
            return x, done
        log.warning(
            "DCDM: expected progress to %.1e of the right-hand side; got %.1e after %d iterations, "
            "more than %g times what it was %d before. Going on with CG and a V-cycle; train the "
            "network on such domains or keep more history.",
            tol,
            float((norms[-1] / b.norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny)).max()),
            int(done.max()),
            options.progress,
            options.patience,
        )
        cycle = VCycle(self.system.stencil.to(torch.float32))
        near = lambda v: self.system.centre(cycle(v))  # noqa: E731
        x, more = cg(apply, b, x, tol, limit, near, self.monitor)
        return x, done + more
