"""Tridiagonal systems, many at once: read off a function's Jacobian, and solved by cyclic reduction.

Source: Hockney & Jesshope 1981, section 5.4 (parallel cyclic reduction); Curtis, Powell & Reid 1974
(columns of one colour share a derivative).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.factors import Factor
from ...core.linear_map import Operator

__all__ = ["TridiagonalFactor", "solve_tridiagonal", "tridiagonal_jacobian"]


def tridiagonal_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """Lower, main and upper diagonal (B, n) of ∂F/∂x for F(x)_i that depends on x_{i−1}, x_i, x_{i+1}.

    Entry i belongs to row i; the first of lower and the last of upper are zero. Derivative without graph.
    """
    n = x.shape[-1]
    column = torch.arange(n, device=x.device)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
    # Rows of one colour share a product with Jᵀ, since no column meets two of them. Reverse mode,
    # because torch's forward mode runs through Python at every operation.
    colours = [(column % 3 == c).to(x).expand_as(x) for c in range(3)]
    products = torch.stack(
        [torch.autograd.grad(value, x, w, retain_graph=True)[0] for w in colours]
    )
    above, main, below = (
        products.gather(0, ((column + o) % 3).expand_as(x)[None])[0] for o in (-1, 0, 1)
    )
    zero = torch.zeros_like(main[..., :1])
    return torch.cat((zero, below[..., :-1]), -1), main, torch.cat((above[..., 1:], zero), -1)


def solve_tridiagonal(lower: Tensor, main: Tensor, upper: Tensor, b: Tensor) -> Tensor:
    """x with lower_i x_{i−1} + main_i x_i + upper_i x_{i+1} = b_i; all (B, n).

    ⌈log₂ n⌉ sweeps, each of which doubles the distance between coupled unknowns. Stable for
    diagonally dominant matrices. Differentiable in all four.
    """
    n, stride = b.shape[-1], 1

    def shifted(v: Tensor, by: int, fill: float) -> Tensor:
        edge = torch.full_like(v[..., : abs(by)], fill)
        return torch.cat((edge, v[..., :-by]) if by > 0 else (v[..., -by:], edge), -1)

    while stride < n:
        down = -lower / shifted(main, stride, 1.0)
        up = -upper / shifted(main, -stride, 1.0)
        main = main + down * shifted(upper, stride, 0.0) + up * shifted(lower, -stride, 0.0)
        b = b + down * shifted(b, stride, 0.0) + up * shifted(b, -stride, 0.0)
        lower = down * shifted(lower, stride, 0.0)
        upper = up * shifted(upper, -stride, 0.0)
        stride *= 2
    return b / main


class TridiagonalFactor(Factor):
    """Solves with a tridiagonal matrix and its transpose."""

    name = "Tridiagonal"
    tol = None

    def __init__(self, lower: Tensor, main: Tensor, upper: Tensor) -> None:
        self.diagonals = (lower, main, upper)
        left = lambda v: torch.cat((torch.zeros_like(v[:, :1]), v[:, :-1]), 1)  # noqa: E731
        right = lambda v: torch.cat((v[:, 1:], torch.zeros_like(v[:, :1])), 1)  # noqa: E731
        self.transposed = (left(upper), main, right(lower))

        def product(diagonals: tuple[Tensor, ...], v: Tensor) -> Tensor:
            low, mid, up = diagonals
            return low * left(v) + mid * v + up * right(v)

        self.operator = Operator(
            lambda v: product(self.diagonals, v), lambda v: product(self.transposed, v), main
        )

    def _solve(self, b, x0, transpose, tol):
        x = solve_tridiagonal(*(self.transposed if transpose else self.diagonals), b)
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device)
