"""The residual of a step as a differentiable root: its own Hessian, and one reverse pass.

    H λ = ȳ,      θ̄ = −(∂r/∂θ)ᵀ λ

H is the exact Hessian at the solution. Where factors are dear, that of the last Newton direction solves
with it by a few products (`kept.py`); else, or where that fails, H is assembled and factorized. The
second product is reverse mode through the gradients of the terms. Driven points take −H_df λ, so nothing
is differentiated twice.

Source: Blondel et al. 2022, section 2.1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ConvergenceError, message
from ..core.factors import Factor, LinearResult
from ..core.linalg import LinearSolver
from ..core.linear_map import Operator
from ..core.trees import flatten
from .assembly import Solve, factorize
from .elements import Element
from .kept import KeptFactors, solve_near
from .model import FEMModel
from .newton import Potential
from .pattern import Blocks, Pattern
from .prepare import element_terms
from .terms import StepInput, Term

__all__ = ["HessianSolver", "StepResidual"]

ADJOINT_TOL = 1e-10
"""‖H λ − ȳ‖ / ‖ȳ‖ of the iterative adjoint solve, and above which a direct one is refined once."""

ACCEPTED = 1e-6
"""‖H λ − ȳ‖ / ‖ȳ‖ above which a solve has failed: contact makes H so ill-conditioned that rounding alone
may reach a hundredth of it."""

KEPT_WORK = 5e8
"""Products of a factor, n width², below which making one takes no longer than five products with H."""


class StepResidual:
    """r on the free points as a function of them (B, F, 3) and of θ; an `EngineResidual`.

    What the solve has found at its root is kept for the adjoint, and one set of terms serves the
    Hessian and the derivatives in θ.

    Args:
        model: the scene.
        pattern: sparsity of its elements.
        theta: what the step depends on; only its tensors that require a gradient get one.
        span: time from the start of the step to the solution [s].
        linear: linear solver, see `FEMConfig`.
        kept: where factors of the last steps are.
    """

    def __init__(
        self,
        model: FEMModel,
        pattern: Pattern,
        theta: dict[str, Any],
        span: float,
        linear: str,
        kept: KeptFactors,
    ):
        self.model, self.pattern, self.span, self.linear = model, pattern, span, linear
        self.kept = kept
        self.wanted = {name for name, t in flatten(theta)[0].items() if t.requires_grad}
        self.wanted = self.wanted if torch.is_grad_enabled() else set()
        device = theta["load"].device
        self.free, self.points = pattern.free.to(device), model.driven[0].to(device)
        self.back = torch.cat((self.free, self.points)).argsort()
        self.root: tuple[Tensor, Tensor, list[Any]] | None = None
        """Root (B, F, 3), r there, and what the contacts know of it."""
        self.at: _Bound | None = None
        self.binding = False
        """Whether `vjp_x` is asked for nothing but to `bind`."""

    def join(self, x: Tensor, driven: Tensor) -> Tensor:
        """All points (B, N, 3) from the free and the driven ones."""
        return torch.cat((x, driven), dim=1)[:, self.back]

    def potential(self, theta: dict[str, Any], known: Sequence[Any] = ()) -> Potential:
        """Φ with everything bound; `known` of each contact, see `Term.known`."""
        model, scenes = self.model, len(theta["load"])
        start = theta["x_start"]
        terms: list[Term] = list(
            element_terms(model, theta["parts"], scenes, self.span, start, theta["bent"])
        )
        known = known or [None] * len(model.contacts)
        poses = theta["pose_start"], theta["pose_end"]
        for contact, values, found in zip(model.contacts, theta["contacts"], known, strict=True):
            step = StepInput(start, theta["x_lag"], *poses, self.span, found)
            terms.append(contact.term(values, step))
        return Potential(terms, theta["weight"], theta["load"])

    def solved(self, potential: Potential, y: Tensor, near: dict[int, Solve]) -> Tensor:
        """Remember the solution y (B, N, 3) and the factors near it; returns its free points."""
        x = y[:, self.free]
        flat, known = y.reshape(-1, 3), []
        if self.wanted:
            contacts = potential.terms[len(potential.terms) - len(self.model.contacts) :]
            known = [term.known(flat) for term in contacts]
            if self.pattern.work >= KEPT_WORK:
                self.kept.put(x, near)
        self.root = x, potential.gradient(y)[:, self.free], known
        return x

    def _is_root(self, x: Tensor) -> bool:
        return self.root is not None and torch.equal(x, self.root[0])

    def __call__(self, x: Tensor, theta: dict[str, Any]) -> Tensor:
        """r (B, F, 3) [N]."""
        if self.root is not None and self._is_root(x):
            return self.root[1]
        y = self.join(x, theta["driven"]).detach()
        potential = self.potential(theta)
        potential.update(y, y)
        return potential.gradient(y)[:, self.free]

    def bind(self, x: Tensor, theta: dict[str, Any]) -> _Bound:
        """Terms and blocks at x, kept until `vjp_params`."""
        if self.at is not None and torch.equal(x, self.at.x):
            return self.at
        tensors, rebuild = flatten(theta)
        for name in self.wanted:
            tensors[name] = tensors[name].detach().requires_grad_()
        known = self.root[2] if self.root is not None and self._is_root(x) else []
        with torch.enable_grad():
            potential = self.potential(rebuild(tensors), known)
        y = self.join(x, theta["driven"]).detach()
        with torch.no_grad():
            if None in known or not known:
                potential.update(y, y)
        self.at = _Bound(x, y, tensors, rebuild, potential)
        return self.at

    def vjp_x(self, x: Tensor, theta: dict[str, Any], u: Tensor) -> Tensor:
        """H u."""
        with torch.no_grad():
            at = self.bind(x, theta)
            return u if self.binding else at.blocks.product(self._spread(u))[:, self.free]

    def solve(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """H⁻¹ b where the residual is bound, iterations (0 for a factor) and ‖b − H x‖ / ‖b‖, (B,)."""
        at = self.at
        assert at is not None
        near = self.kept.near(at.x)
        if near is not None:
            action = at.potential.action(at.y)

            def product(v: Tensor) -> Tensor:
                at.moved = v, action(self._spread(v.unflatten(1, (-1, 3))))
                return at.moved[1][:, self.free].flatten(1)

            found = solve_near(product, near, b)
            if found is not None:
                return found
        at.moved = None
        factor = factorize(at.blocks, self.pattern, self.linear, ADJOINT_TOL, definite=False)
        x, norm = factor.solve(b), b.norm(dim=1)
        scale = torch.where(norm > 0, norm, 1.0)
        left = b - factor.product(x)
        rest = left.norm(dim=1) / scale
        if self.linear != "cg" and not bool((rest <= ADJOINT_TOL).all()):
            x = x + factor.solve(left)  # contact makes H ill-conditioned
            rest = (b - factor.product(x)).norm(dim=1) / scale
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device), rest

    def _spread(self, u: Tensor) -> Tensor:
        full = u.new_zeros(len(u), self.model.point_count, 3)
        return full.index_copy(1, self.free, u)

    def vjp_params(self, x: Tensor, theta: dict[str, Any], u: Tensor) -> dict[str, Any]:
        """(∂r/∂θ)ᵀ u, a tree like θ; zero where no gradient is wanted."""
        at = self.bind(x, theta)
        self.at = None
        result = {name: torch.zeros_like(t) for name, t in at.tensors.items()}
        if "driven" in self.wanted:
            result["driven"] = self._driven(at, u)
        names = sorted(self.wanted - {"driven"})
        if names:
            with torch.enable_grad():
                terms = [term for term in at.potential.terms if _carries_graph(term)]
                part = dataclasses.replace(at.potential, terms=terms)
                r = part.gradient(at.y)[:, self.free]
                inputs = [at.tensors[name] for name in names]
                none = [None] * len(names)
                reached = r.requires_grad
                grads = torch.autograd.grad(r, inputs, u, allow_unused=True) if reached else none
            for name, grad in zip(names, grads, strict=True):
                result[name] = result[name] if grad is None else grad
        return at.rebuild(result)

    def _driven(self, at: _Bound, u: Tensor) -> Tensor:
        """H_df u (B, n, 3), from the last product of the solve where that was one with u."""
        if at.moved is not None and torch.equal(at.moved[0], -u.flatten(1)):
            return -at.moved[1][:, self.points]
        return at.blocks.product(self._spread(u), only=self.points)[:, self.points]


@dataclasses.dataclass
class _Bound:
    """A residual at one point."""

    x: Tensor
    """Free points (B, F, 3)."""
    y: Tensor
    """All points (B, N, 3)."""
    tensors: dict[str, Tensor]
    """θ by name; the wanted ones are leaves of the graph of `potential`."""
    rebuild: Callable[[dict[str, Tensor]], dict[str, Any]]
    """θ as a tree again."""
    potential: Potential
    moved: tuple[Tensor, Tensor] | None = None
    """The last v (B, 3 F) that the matrix-free H was multiplied by, and H v on all points (B, N, 3)."""

    @functools.cached_property
    def blocks(self) -> Blocks:
        """The exact H as blocks."""
        with torch.no_grad():
            return self.potential.blocks(self.y, project=False)


def _carries_graph(term: Term) -> bool:
    """Whether the gradient of a term may have one; that of an element has none without tensors of θ."""
    if not isinstance(term, Element):
        return True
    bound = vars(term).values()
    tensors = [t for v in bound for t in (v.values() if isinstance(v, dict) else (v,))]
    return any(t.requires_grad for t in tensors if isinstance(t, Tensor))


class HessianSolver(LinearSolver):
    """Solves with the exact Hessian of a `StepResidual` by the solver that its step uses."""

    def __init__(self, residual: StepResidual):
        self.residual = residual

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return _HessianFactor(self.residual, A)


class _HessianFactor(Factor):
    name = "SolverFEM adjoint"

    def __init__(self, residual: StepResidual, operator: Operator):
        self.residual, self.operator, self.tol = residual, operator, 0.1 * ACCEPTED

    def solve(self, b, *, x0=None, transpose=False, throw=True):
        residual = self.residual
        residual.binding = True
        try:
            self.operator.rmatvec(b)  # which knows x and θ
        finally:
            residual.binding = False
        with torch.no_grad():
            x, iterations, rest = residual.solve(b.detach())
        converged = rest <= ACCEPTED
        if throw and not bool(converged.all()):
            got = f"{float(rest.max()):.3e} ‖b‖ by linear={residual.linear!r}"
            fix = 'Take linear="sparse", or lower dt: the Hessian is nearly singular'
            expected = f"‖b − H x‖ <= {ACCEPTED:.0e} ‖b‖"
            raise ConvergenceError(
                message(self.name, expected, got, fix), residual=float(rest.max()), tol=ACCEPTED
            )
        return LinearResult(x, iterations, rest, converged)

    def _solve(self, b, x0, transpose, tol):
        found = self.solve(b, throw=False)
        return found.x, found.iterations
