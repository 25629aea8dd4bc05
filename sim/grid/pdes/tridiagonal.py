"""Tridiagonal systems, many at once: read off products with a matrix, and solved by cyclic reduction.

Source: Hockney & Jesshope 1981, section 5.4 (parallel cyclic reduction); Curtis, Powell & Reid 1974
(columns of one colour share a derivative).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...core.factors import Factor
from ...core.linalg import LinearSolver
from ...core.linear_map import Operator, as_operator

__all__ = ["Tridiagonal", "TridiagonalFactor", "solve_tridiagonal"]


def solve_tridiagonal(lower: Tensor, main: Tensor, upper: Tensor, b: Tensor) -> Tensor:
    """x with lower_i x_{i−1} + main_i x_i + upper_i x_{i+1} = b_i; all (B, n).

    ⌈log₂ n⌉ sweeps, each of which doubles the distance between coupled unknowns. Stable for
    diagonally dominant matrices. Differentiable in all four.
    """
    stride = 1
    while stride < b.shape[-1]:
        down = -lower / _shift(main, stride, 1.0)
        up = -upper / _shift(main, -stride, 1.0)
        main = main + down * _shift(upper, stride, 0.0) + up * _shift(lower, -stride, 0.0)
        b = b + down * _shift(b, stride, 0.0) + up * _shift(b, -stride, 0.0)
        lower = down * _shift(lower, stride, 0.0)
        upper = up * _shift(upper, -stride, 0.0)
        stride *= 2
    return b / main


def _shift(v: Tensor, by: int, fill: float) -> Tensor:
    """v_{i − by}, filled at the end."""
    edge = torch.full_like(v[..., : abs(by)], fill)
    return torch.cat((edge, v[..., :-by]) if by > 0 else (v[..., -by:], edge), -1)


class Tridiagonal(LinearSolver):
    """Direct solver for functions whose matrix is tridiagonal, batched, CPU and CUDA.

    Columns of one colour (i mod 3) share a product with Aᵀ, since no row meets two of them: three
    products give all entries.
    """

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        operator = as_operator(A, like)
        rows = operator.like
        n = rows.shape[-1]
        index = torch.arange(n, device=rows.device)
        colours = [(index % 3 == c).to(rows).expand_as(rows) for c in range(3)]
        products = torch.stack([operator.rmatvec(w) for w in colours])
        # Entry j of a product is A_ij of the row i in {j − 1, j, j + 1} that has the colour.
        above, main, below = (
            products.gather(0, ((index + o) % 3).expand_as(rows)[None])[0] for o in (-1, 0, 1)
        )
        zero = torch.zeros_like(main[..., :1])
        lower = torch.cat((zero, below[..., :-1]), -1)
        return TridiagonalFactor(lower, main, torch.cat((above[..., 1:], zero), -1))


class TridiagonalFactor(Factor):
    """Solves with a tridiagonal matrix, its diagonals (B, n), and with its transpose; in float64.

    In single precision the residual of a stiff system says nothing: rounding x alone makes it large.
    """

    name = "Tridiagonal"
    tol = math.inf

    def __init__(self, lower: Tensor, main: Tensor, upper: Tensor) -> None:
        self.diagonals = (lower, main, upper)
        self.transposed = (_shift(upper, 1, 0.0), main, _shift(lower, -1, 0.0))

        def product(diagonals: tuple[Tensor, ...], v: Tensor) -> Tensor:
            low, mid, up = diagonals
            return low * _shift(v, 1, 0.0) + mid * v + up * _shift(v, -1, 0.0)

        self.operator = Operator(
            lambda v: product(self.diagonals, v), lambda v: product(self.transposed, v), main
        )

    def _solve(self, b, x0, transpose, tol):
        diagonals = self.transposed if transpose else self.diagonals
        x = solve_tridiagonal(*(d.double() for d in diagonals), b.double()).to(b)
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device)
