"""Terms: the parts of the potential energy that the implicit solver minimizes.

    Φ(x) = Σ_terms E_term(x) + inertia + loads,      r = ∂Φ/∂x = 0

Elements and contact are both terms, so the solver knows no special case. A term sees the points of
all B scenes flattened to x (M, 3), M = B N, scene by scene (point i of scene b is row b N + i), and
speaks of them in stencils: rows of k points whose local gradient is (k, 3) and local Hessian
(3 k, 3 k), ordered (point, axis). A stencil never mixes scenes.

Rules every term keeps:

* `energy`, `gradient` and `hessian` are the exact derivatives of one another (`project=False`).
* `gradient` is made of torch operations that autograd can differentiate in every tensor the term was
  made of (parameters, rest shape, positions at the start of the step): that one product is the whole
  adjoint of a step, together with one solve with the exact Hessian.
* Results do not depend on the order of calls, are the same for the same input to the bit, and carry
  no graph unless their inputs do.
* What a term finds in `update` are integers (candidates): a superset is allowed, its size changes
  nothing but time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Contact", "StepInput", "Term", "assemble"]


class Term:
    """One part of the energy, with all its parameters bound. Base of elements and of contact."""

    changing = False
    """Whether stencils depend on the positions (contact); the others keep one sparsity pattern."""

    def update(self, x_start: Tensor, x_end: Tensor) -> None:
        """Find the stencils that may act at any point x_start + s (x_end − x_start), 0 <= s <= 1.

        Called before every Newton direction is followed, with both (M, 3) and without graph, and
        with x_start = x_end before the adjoint. Elements have nothing to do.
        """

    def energy(self, x: Tensor) -> Tensor:
        """E per scene [J], (B,)."""
        raise NotImplementedError

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Stencils, int64 (S, k), and ∂E/∂x on them [N], (S, k, 3); S may be 0."""
        raise NotImplementedError

    def hessian(
        self, x: Tensor, project: bool = True
    ) -> tuple[Tensor, Tensor] | list[tuple[Tensor, Tensor]]:
        """Stencils (S, k) and ∂²E/∂x² on them [N/m], (S, 3 k, 3 k), without graph; or several such.

        `project` asks for the nearest positive semidefinite blocks, or any others near them;
        without it the blocks are exact. Stencils may differ from those of `gradient`.
        """
        raise NotImplementedError

    def product(self, x: Tensor, v: Tensor) -> Tensor | None:
        """∂²E/∂x² v (M, 3) for v (M, 3), exact, without its blocks; None: there is no such way.

        Several v are asked for at one x, without graph.
        """
        return None

    def known(self, x: Tensor) -> Any:
        """What has been found at x and may serve the same term made anew, as `StepInput.known`.

        Called with the solution. Integers only; None: nothing.
        """
        return None

    def max_step(self, x: Tensor, dx: Tensor) -> Tensor | None:
        """Largest t <= 1 per scene, (B,), such that x + s dx is admissible for all 0 <= s <= t.

        None: no limit. Called after `update(x, x + dx)`.
        """
        return None


@dataclasses.dataclass
class StepInput:
    """What a contact may depend on besides the unknown positions; all tensors may carry a graph."""

    x_start: Tensor
    """Positions at the start of the step [m], (B, N, 3)."""
    x_lag: Tensor
    """Positions at which lagged friction takes its normal forces and tangents [m], (B, N, 3):
    `x_start` in the first solve of a step, the last solution in the following ones."""
    pose_start: Tensor
    """Poses of the handles at the start of the step, (B, K, 7)."""
    pose_end: Tensor
    """Poses of the handles at the end of the step, (B, K, 7)."""
    dt: float
    """Time from the start to the positions that are solved for [s]."""
    known: Any = None
    """`Term.known` of the same contact in the same solve, when the adjoint makes its term anew: what
    it has checked and found need not be looked for again. May be ignored."""


class Contact(Protocol):
    """What makes a `Term` for one solve: geometry and settings, no state.

    `FEMModel(contacts=(contact,))` takes any number of them. Parameters are given to the solver
    as `params[contact.name]` and reach `term` with one value per scene.
    """

    name: str
    """Key in `params`; different from the names of all parts."""

    def default_params(self) -> Mapping[str, Any]:
        """Parameters by name, numbers: stiffness, friction coefficients, …"""
        ...

    def term(self, params: Mapping[str, Tensor], step: StepInput) -> Term:
        """Bind parameters, each (B,), and the inputs of the step.

        The term (normal contact and lagged friction together) must be differentiable in both. It
        is made anew in the backward pass, with tensors that carry a graph, and must then give the
        same numbers; candidates of the lagged part are found here, from `x_lag`.
        """
        ...


def assemble(parts: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """Sum of local vectors over all stencils, (M, 3).

    Args:
        parts: stencils (S, k) and local vectors (S, k, 3).
        x: points (M, 3), for shape and kind.

    Differentiable in the local vectors.
    """
    out = torch.zeros_like(x)
    for stencil, local in parts:
        out = out.index_add(0, stencil.reshape(-1), local.reshape(-1, 3))
    return out
