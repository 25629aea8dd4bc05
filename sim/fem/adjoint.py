"""The residual of a step as a differentiable root: its own Hessian, and one reverse pass.

    H λ = ȳ,      θ̄ = −(∂r/∂θ)ᵀ λ

H is assembled from the exact element and contact blocks at the solution; the second product is reverse
mode through the gradients of the terms. Driven points take −H_df λ from the same blocks, so nothing is
differentiated twice.

Source: Blondel et al. 2022, section 2.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.factors import Factor
from ..core.linalg import LinearSolver
from ..core.linear_map import Operator
from ..core.trees import flatten
from .assembly import Factor as HessianFactor
from .assembly import factorize
from .elements import Element
from .model import FEMModel
from .newton import Potential
from .pattern import Blocks, Pattern
from .prepare import element_terms
from .terms import StepInput, Term

__all__ = ["HessianSolver", "StepResidual"]

ADJOINT_TOL = 1e-10
"""‖H λ − ȳ‖ / ‖ȳ‖ of the iterative adjoint solve."""


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
    """

    def __init__(
        self, model: FEMModel, pattern: Pattern, theta: dict[str, Any], span: float, linear: str
    ):
        self.model, self.pattern, self.span, self.linear = model, pattern, span, linear
        self.wanted = {name for name, t in flatten(theta)[0].items() if t.requires_grad}
        device = theta["load"].device
        self.free, self.points = pattern.free.to(device), model.driven[0].to(device)
        self.back = torch.cat((self.free, self.points)).argsort()
        self.root: tuple[Tensor, Tensor, list[Any]] | None = None
        """Root (B, F, 3), r there, and what the contacts know of it."""
        self.at: _Bound | None = None
        self._product: tuple[Tensor, Tensor] | None = None
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

    def solved(self, potential: Potential, y: Tensor) -> Tensor:
        """Remember the solution y (B, N, 3); returns its free points."""
        x = y[:, self.free]
        flat, known = y.reshape(-1, 3), []
        if self.wanted:
            contacts = potential.terms[len(potential.terms) - len(self.model.contacts) :]
            known = [term.known(flat) for term in contacts]
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
            blocks = potential.blocks(y, project=False)
        self.at = _Bound(x, y, tensors, potential, blocks)
        return self.at

    def vjp_x(self, x: Tensor, theta: dict[str, Any], u: Tensor) -> Tensor:
        """H u."""
        with torch.no_grad():
            if self._product is not None and torch.equal(u, self._product[0]):
                return self._product[1]
            at = self.bind(x, theta)
            if self.binding:
                return u
            if at.factor is not None:
                product = at.factor.product(u.flatten(1)).view_as(u)
            else:
                product = at.blocks.product(self._spread(u))[:, self.free]
            self._product = u, product
            return product

    def factor(self) -> HessianFactor:
        """Factor of H where the residual is bound."""
        assert self.at is not None
        found = factorize(self.at.blocks, self.pattern, self.linear, ADJOINT_TOL, definite=False)
        self.at.factor = found
        return found

    def _spread(self, u: Tensor) -> Tensor:
        full = u.new_zeros(len(u), self.model.point_count, 3)
        return full.index_copy(1, self.free, u)

    def vjp_params(self, x: Tensor, theta: dict[str, Any], u: Tensor) -> dict[str, Any]:
        """(∂r/∂θ)ᵀ u, a tree like θ; zero where no gradient is wanted."""
        at = self.bind(x, theta)
        self.at = self._product = None
        tensors, rebuild = flatten(theta)
        result = {name: torch.zeros_like(t) for name, t in tensors.items()}
        if "driven" in self.wanted:
            result["driven"] = at.blocks.product(self._spread(u), only=self.points)[:, self.points]
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
        return rebuild(result)


@dataclasses.dataclass
class _Bound:
    """A residual at one point."""

    x: Tensor
    """Free points (B, F, 3)."""
    y: Tensor
    """All points (B, N, 3)."""
    tensors: dict[str, Tensor]
    """θ by name; the wanted ones are leaves of the graph of `potential`."""
    potential: Potential
    blocks: Blocks
    factor: HessianFactor | None = None


def _carries_graph(term: Term) -> bool:
    """Whether the gradient of a term may have one; that of an element has none without tensors of θ."""
    if not isinstance(term, Element):
        return True
    return any(t.requires_grad for t in flatten(dict(vars(term)))[0].values())


class HessianSolver(LinearSolver):
    """Solves with the exact Hessian of a `StepResidual` by the solver that its step uses."""

    def __init__(self, residual: StepResidual):
        self.residual = residual

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return _HessianFactor(self.residual, A)


class _HessianFactor(Factor):
    name = "SolverFEM adjoint"

    def __init__(self, residual: StepResidual, operator: Operator):
        self.residual, self.operator, self.tol = residual, operator, 1e-7

    def _solve(self, b, x0, transpose, tol):
        residual = self.residual
        residual.binding = True
        try:
            self.operator.rmatvec(b)
        finally:
            residual.binding = False
        factor = residual.factor()
        x = factor.solve(b)
        if residual.linear != "cg":  # one refinement: contact makes H ill-conditioned
            x = x + factor.solve(b - self.operator.rmatvec(x))
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device)
