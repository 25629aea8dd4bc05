"""The residual of a step as a differentiable root: its own Hessian, and one reverse pass.

    H λ = ȳ,      θ̄ = −(∂r/∂θ)ᵀ λ

H is assembled from the exact element and contact blocks at the solution; the second product is reverse
mode through the gradients of the terms. Driven points take −H_df λ from the same blocks, so nothing is
differentiated twice.

Source: Blondel et al. 2022, section 2.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.factors import Factor
from ..core.linalg import LinearSolver
from ..core.linear_map import Operator
from ..core.trees import flatten
from .assembly import Blocks, Pattern, factorize
from .model import FEMModel
from .newton import Potential
from .prepare import element_terms
from .terms import StepInput, Term

__all__ = ["HessianSolver", "StepResidual"]

ADJOINT_TOL = 1e-10
"""‖H λ − ȳ‖ / ‖ȳ‖ of the iterative adjoint solve, and of refinement."""


class StepResidual:
    """r on the free points as a function of them (B, F, 3) and of θ; an `EngineResidual`.

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
        self.blocks: Blocks | None = None

    def join(self, x: Tensor, driven: Tensor) -> Tensor:
        """All points (B, N, 3) from the free and the driven ones."""
        return torch.cat((x, driven), dim=1)[:, self.back]

    def potential(self, theta: dict[str, Any]) -> Potential:
        """Φ with everything bound."""
        model, scenes = self.model, len(theta["load"])
        start = theta["x_start"]
        terms: list[Term] = list(
            element_terms(model, theta["parts"], scenes, self.span, start, theta["bent"])
        )
        for contact, values in zip(model.contacts, theta["contacts"], strict=True):
            poses = theta["pose_start"], theta["pose_end"]
            terms.append(contact.term(values, StepInput(start, theta["x_lag"], *poses, self.span)))
        return Potential(terms, theta["weight"], theta["load"])

    def __call__(self, x: Tensor, theta: dict[str, Any]) -> Tensor:
        """r (B, F, 3) [N]."""
        potential, y = self._at(x, theta)
        return potential.gradient(y)[:, self.free]

    def _at(self, x: Tensor, theta: dict[str, Any]) -> tuple[Potential, Tensor]:
        potential = self.potential(theta)
        y = self.join(x, theta["driven"]).detach()
        potential.update(y, y)
        return potential, y

    def vjp_x(self, x: Tensor, theta: dict[str, Any], u: Tensor) -> Tensor:
        """H u; the blocks are kept until `vjp_params`."""
        with torch.no_grad():
            if self.blocks is None:
                potential, y = self._at(x, theta)
                self.blocks = potential.blocks(y, project=False)
            return self.blocks.product(self._spread(u))[:, self.free]

    def _spread(self, u: Tensor) -> Tensor:
        full = u.new_zeros(len(u), self.model.point_count, 3)
        return full.index_copy(1, self.free, u)

    def vjp_params(self, x: Tensor, theta: dict[str, Any], u: Tensor) -> dict[str, Any]:
        """(∂r/∂θ)ᵀ u, a tree like θ; None of the unwanted parts are computed."""
        tensors, rebuild = flatten(theta)
        result = {name: torch.zeros_like(t) for name, t in tensors.items()}
        if "driven" in self.wanted:
            if self.blocks is None:
                self.vjp_x(x, theta, u)
            result["driven"] = self.blocks.product(self._spread(u))[:, self.points]
        self.blocks = None
        names = sorted(self.wanted - {"driven"})
        if names:
            with torch.enable_grad():
                for name in names:
                    tensors[name] = tensors[name].detach().requires_grad_()
                potential, y = self._at(x, rebuild(tensors))
                r = potential.gradient(y)[:, self.free]
                inputs = [tensors[name] for name in names]
                none = [None] * len(names)
                reached = r.requires_grad
                grads = torch.autograd.grad(r, inputs, u, allow_unused=True) if reached else none
            for name, grad in zip(names, grads, strict=True):
                result[name] = result[name] if grad is None else grad
        return rebuild(result)


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
        self.operator.rmatvec(b)  # assembles the blocks at the root
        factor = factorize(
            residual.blocks, residual.pattern, residual.linear, ADJOINT_TOL, definite=False
        )
        x = factor.solve(b)
        if residual.linear != "cg":  # one refinement: contact makes H ill-conditioned
            x = x + factor.solve(b - self.operator.rmatvec(x))
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device)
