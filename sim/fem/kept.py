"""Factors of the last steps, with which the adjoint solves for the exact Hessian by a few products.

    H(y*) λ = ȳ      conjugate gradients with M = H(y_last)⁻¹,   y* = y_last + (last Newton direction)

y* is the solution, y_last where Newton's method has factorized for the last time. The two are near, so
each iteration gains two to six digits, and only products with the exact Hessian are needed, of which no
element makes blocks. Iterations end at rounding, where a factor of H(y*) ends, too.

Source: Hestenes & Stiefel 1952; Knoll & Keyes 2004, section 3 (lagged Newton preconditioners).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .assembly import Solve

__all__ = ["KeptFactors", "solve_near"]

TOL = 1e-12
"""√(r·M r) over √(b·M b), about the relative error of λ in the norm of H, at which iterations stop."""

SURE = 1e-9
"""The same of the residual made anew, above which λ is thrown away: rounding stays far below."""

MOST = 7
"""Iterations that take as long as a factor."""

Near = Mapping[int, Solve]
"""Of each scene its last factor."""


@dataclasses.dataclass
class KeptFactors:
    """Factors by the solution that they are near, the latest ones within a limit of memory.

    Backward meets the steps in reverse, and checkpoints repeat the steps of a segment just before: the
    latest factors are those needed next.
    """

    limit: float
    """Bytes."""
    _held: list[tuple[Tensor, Near, int]] = dataclasses.field(default_factory=list, repr=False)

    def put(self, x: Tensor, near: Near) -> None:
        """Keep the factors near the solution x (B, F, 3), if there is one of every scene."""
        size = sum(solve.size for solve in near.values())
        if len(near) < len(x) or size > self.limit:
            return
        self._held.append((x, near, size))
        while sum(size for *_, size in self._held) > self.limit:
            del self._held[0]

    def near(self, x: Tensor) -> Near | None:
        """Factors near the solution x, if they are still held."""
        for held, near, _ in reversed(self._held):
            if held.shape == x.shape and torch.equal(held, x):
                return near
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Factors stay out of copies: those of SuperLU can not be copied."""
        return {"limit": self.limit, "_held": []}


def solve_near(
    product: Callable[[Tensor], Tensor], near: Near, b: Tensor, tol: float = TOL
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Solve H x = b for all scenes, or find out early that a factor of H would be faster.

    Args:
        product: v ↦ H v on (B, n).
        near: factors of matrices near H, positive definite, of all scenes whose b is not 0.
        b: right-hand sides (B, n).
        tol: √(r·M r) / √(b·M b) at which iterations stop.

    Returns:
        x, iterations (B,) and ‖b − H x‖ / ‖b‖ (B,). None where H is not positive definite, M is too
        far from it, or the residual made anew is not small.
    """

    def precondition(r: Tensor) -> Tensor:
        rows = r.cpu().numpy()
        found = [torch.from_numpy(near[k](row) if row.any() else row) for k, row in enumerate(rows)]
        return torch.stack(found).to(r.device)

    def size(r: Tensor, z: Tensor) -> Tensor:
        return (r * z).sum(1).clamp_min(0.0).sqrt()

    x, r = torch.zeros_like(b), b
    z = p = precondition(b)
    first = error = size(b, z)
    rz = (r * z).sum(1)
    iterations = torch.zeros(len(b), dtype=torch.long, device=b.device)
    active = error > tol * first
    for done in range(1, MOST + 1):
        if not bool(active.any()):
            break
        q = product(p)
        curvature = (p * q).sum(1)
        if not bool((curvature > 0)[active].all()):
            return None
        alpha = torch.where(active, rz / torch.where(active, curvature, 1.0), 0.0)
        x = x + alpha[:, None] * p
        r_new = r - alpha[:, None] * q
        z = precondition(r_new)
        change = (z * (r_new - r)).sum(1)
        beta = torch.where(active, change / torch.where(active, rz, 1.0), 0.0)
        p, r = z + beta[:, None] * p, r_new
        iterations += active
        rz, error = (r * z).sum(1), size(r, z)
        active = ~(error <= tol * first)
        share = (error / first)[active]
        if len(share):
            worst = float(share.max())
            rate = math.log(worst) / done if 0 < worst < 1 else 0.0
            if rate == 0.0 or math.log(tol) / rate > MOST + 0.5:
                return None
    if bool(active.any()):
        return None
    rest = r if tol > SURE else b - product(x)
    if tol <= SURE and not bool((size(rest, precondition(rest)) <= SURE * first).all()):
        return None
    norm = b.norm(dim=1)
    return x, iterations, rest.norm(dim=1) / torch.where(norm > 0, norm, 1.0)
