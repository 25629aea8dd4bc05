"""Operators whose output satisfies a PDE as well as their basis can: one constraint, experts, windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from .boxes import BoxRouter, sample_points, windows
from .constraint import HardConstraint
from .least_squares import FitConfig, Rows
from .problems import Problem
from .shards import entering, share_out

__all__ = ["MODES", "HardOperator"]

MODES = ("soft", "experts", "windows")
"""How the network's output becomes a field."""


class HardOperator(nn.Module):
    """First frame u₀ ↦ field u on frames 0 … F through a basis b that a network makes of u₀:

        "soft"      u = g + b_1                     the loss alone asks for the PDE
        "experts"   u = g + b·w_k in box k          K fits side by side; K = 1: one global constraint
        "windows"   u = g + Σ_k φ_k(t, x) b·w_k     one fit of all K·N weights, φ a partition of unity

    Experts share the basis and the rows of first frame and walls, and know nothing of one another, so u
    jumps between boxes. Windows are smooth, so u is.

    Args:
        network: (B, 1, F + 1, X) → (B, N, F + 1, X), such as an `FNO` with two axes; any precision.
        problem: the PDE.
        mode: see above.
        boxes: number of boxes in time and space.
        points: rows of the residual per fit, drawn anew in every call; default all.
        config: of the fits.
        grad: derivative of the fits, see `HardConstraint`.
        ridge: weight of the rows ridge · w = 0.
        overlap: of the windows, see `windows`.
        throw: raise when a fit does not converge.

    Raises:
        InputError: unknown mode, boxes that do not divide frames and cells.

    Differentiable in u₀ and the weights of the network. Fits are in float64. Source: Chalapathi et al.
    2024 (PI-HC-MoE); windows: Babuška & Melenk 1997 (partition of unity method).
    """

    def __init__(
        self,
        network: nn.Module,
        problem: Problem,
        mode: str = "experts",
        boxes: Sequence[int] = (1, 1),
        *,
        points: int | None = None,
        config: FitConfig | None = None,
        grad: str = "full",
        ridge: float = 1e-4,
        overlap: float = 0.5,
        throw: bool = False,
    ) -> None:
        super().__init__()
        where, cells = "HardOperator", (problem.frames, problem.cells)
        if mode not in MODES:
            raise InputError(message(where, f"mode out of {MODES}", mode, "Choose one"))
        self.router = BoxRouter(boxes)
        if len(self.router.counts) != 2 or any(
            n % k for n, k in zip(cells, self.router.counts, strict=True)
        ):
            expected = f"boxes (in time, in space) that divide {cells}"
            raise InputError(message(where, expected, str(tuple(boxes)), "Change them"))
        self.network, self.problem, self.mode = network, problem, mode
        self.points, self.ridge = points, ridge
        self.constraint = HardConstraint(problem, config, grad, throw)
        self.chosen: Tensor | None = None
        """Indices of the residual's rows in the last call, (S, m), of the points of each box."""
        # The first frame belongs to the first boxes in time, as windows in time begin with it.
        phi = windows(self.router.counts, cells, overlap)
        self.register_buffer("phi", torch.cat([phi[:, :1], phi], 1), persistent=False)

    def forward(self, u0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """First frames (B, X) → fields (B, F + 1, X) in float64.

        Args:
            u0: first frames.
            generator: of the sampled points; default torch's own.

        Raises:
            InputError: shapes that do not fit; see also `HardConstraint`.
            ConvergenceError: a fit that does not converge, if `throw`.
        """
        problem = self.problem
        problem.check(u0)
        b = self.basis(u0)
        g = problem.base(u0.double())
        if self.mode == "soft":
            return g + b[:, 0]
        if self.mode == "windows":
            b = (b[:, None] * self.phi.to(b)[:, None]).flatten(1, 2)
        boxed = self.mode == "experts"
        router = self.router if boxed else BoxRouter((1, 1))
        rows = self._rows(entering(b), g, u0.double(), router, generator)
        w = share_out(self.constraint, rows)
        # w (B·K, N): the first frame takes the weights of the first boxes in time
        kt = router.counts[0]
        early = w.unflatten(0, (len(u0), kt, -1))[:, 0].flatten(0, 1)
        first = BoxRouter((1, router.counts[1]))
        parts = ((first, b[:, :, :1], early), (router, b[:, :, 1:], w))
        u = [r.unpartition(torch.einsum("snij,sn->sij", r.partition(f), v)) for r, f, v in parts]
        return g + torch.cat(u, 1)

    def basis(self, u0: Tensor) -> Tensor:
        """Basis functions b, (B, N, F + 1, X) float64."""
        like = next(self.network.parameters(), u0)
        frames = self.problem.frames + 1
        b = self.network(u0.to(like.dtype)[:, None, None].expand(-1, 1, frames, -1))
        if b.ndim != 4 or b.shape[2:] != (frames, self.problem.cells):
            expected = f"a network with output (B, N, {frames}, {self.problem.cells})"
            raise InputError(message("HardOperator", expected, b, "Keep the grid of its input"))
        return self.problem.shape(b.double())

    def loss(self, u0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The problem's loss of what the operator gives, mean over samples."""
        return self.problem.loss(self(u0, generator), u0.double()).mean()

    def _rows(
        self,
        b: Tensor,
        g: Tensor,
        u0: Tensor,
        router: BoxRouter,
        generator: torch.Generator | None,
    ) -> Rows:
        """Rows of all boxes of all samples; every linear operator acts before the cut."""
        problem, K, N = self.problem, router.boxes, b.shape[1]
        T = router.partition(problem.terms(b)).flatten(3).mT
        a = router.partition(problem.terms(g, known=True)).flatten(2)
        self.chosen = sample_points(len(T), a.shape[2], self.points, generator).to(T.device)
        if self.chosen.shape[1] < a.shape[2]:
            at = self.chosen[:, None].expand(-1, T.shape[1], -1)
            a, T = a.gather(2, at), T.gather(2, at[..., None].expand(-1, -1, -1, N))
        target, weight = problem.targets(u0)
        C = (problem.linear(b) * weight[:, None]).mT
        d = (target - problem.linear(g)) * weight
        eye = self.ridge * torch.eye(N, dtype=b.dtype, device=b.device).expand(len(C), N, N)
        C, d = torch.cat([C, eye], 1), torch.cat([d, d.new_zeros(len(d), N)], 1)
        return Rows(T, a, C.repeat_interleave(K, 0), d.repeat_interleave(K, 0))
