"""Operators whose output satisfies a PDE as well as their basis can: one constraint, experts, windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.core.trees import flatten
from .boxes import BoxRouter, sample_points, windows
from .constraint import HardConstraint
from .least_squares import FitConfig
from .local import Layout, LocalRows
from .problems import Problem
from .rows import Rows
from .shards import entering, share_out

__all__ = ["MODES", "HardOperator"]

MODES = ("soft", "experts", "windows")
"""How the network's output becomes a field."""


class HardOperator(nn.Module):
    """First frame u₀ ↦ field u on frames 0 … F through a basis b that a network makes of u₀:

        "soft"      u = g + b_1                     the loss alone asks for the PDE
        "experts"   u = g + b·w_k in box k          K fits side by side; K = 1: one global constraint
        "windows"   u = g + Σ_k φ_k(t, x) b·w_k     one fit of all K·N weights, φ a partition of unity

    Experts share the basis and the rows of first frame and walls (those of all of space–time, as in the
    paper: twice where a box has them anyway), and know nothing of one another, so u jumps between boxes.
    Windows are smooth, so u is; where rows look no further than a few cells (`reach` of the problem),
    each row meets two windows an axis, whatever the number of boxes.

    Args:
        network: (B, 1, F + 1, *cells) → (B, N, F + 1, *cells), such as an `FNO` with a first axis for
            time; any precision.
        problem: the PDE.
        mode: see above.
        boxes: number of boxes in time and along each axis of space; default one.
        points: rows of the residual per fit, drawn anew in every call, those of walls first; default all.
        config: of the fits.
        grad: derivative of the fits, see `HardConstraint`.
        ridge: weight of the rows ridge · w = 0.
        overlap: of the windows, see `windows`.
        walls: whether every fit has all rows at the walls, wherever its box is and whatever is drawn;
            without them u = u₀ is a perfect fit of boxes that touch none.
        local: False takes the dense matrices of windows even where rows are local: the same fit.
        throw: raise when a fit does not converge.
        dtype: of basis, rows, fits and fields; float32 takes `FitConfig(orthonormal=True)`.

    Raises:
        InputError: unknown mode or dtype, boxes that do not divide frames and cells, fits in float32
            that are not orthonormal.

    Differentiable in u₀, the weights of the network and `params` of the problem.
    Source: Chalapathi et al. 2024 (PI-HC-MoE); windows: Babuška & Melenk 1997 (partition of unity).
    """

    def __init__(
        self,
        network: nn.Module,
        problem: Problem,
        mode: str = "experts",
        boxes: Sequence[int] | None = None,
        *,
        points: int | None = None,
        config: FitConfig | None = None,
        grad: str = "full",
        ridge: float = 1e-4,
        overlap: float = 0.5,
        walls: bool = True,
        local: bool = True,
        throw: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        where, cells = "HardOperator", (problem.frames, *problem.cells)
        if mode not in MODES:
            raise InputError(message(where, f"mode out of {MODES}", mode, "Choose one"))
        if dtype not in (torch.float32, torch.float64):
            raise InputError(message(where, "dtype float64 or float32", dtype, "Choose one"))
        config = config or FitConfig(orthonormal=dtype == torch.float32)
        if dtype == torch.float32 and mode != "soft" and not config.orthonormal:
            fix = "Pass FitConfig(orthonormal=True), or take float64"
            raise InputError(message(where, "float32 with orthonormal fits", str(config), fix))
        self.dtype = dtype
        self.router = BoxRouter(boxes or [1] * len(cells))
        counts = self.router.counts
        if len(counts) != len(cells) or any(n % k for n, k in zip(cells, counts, strict=True)):
            expected = f"boxes (in time, along each axis of space) that divide {cells}"
            raise InputError(message(where, expected, str(tuple(counts)), "Change them"))
        self.network, self.problem, self.mode = network, problem, mode
        self.points, self.ridge, self.overlap, self.local = points, ridge, overlap, local
        self.constraint = HardConstraint(problem, config, grad, throw)
        self.several = mode == "experts" and self.router.boxes > 1
        at = problem.walls() if walls else torch.zeros(0, dtype=torch.long)
        self.register_buffer("walls", at, persistent=False)
        self.chosen: Tensor | None = None
        """Indices of the residual's rows in the last call, (S, m), of the points of each box."""
        reach = None if problem.memory and counts[0] > 1 else problem.reach
        layout = Layout(counts, cells, reach or 0)
        self.layout = layout if mode == "windows" and reach is not None and layout.fits else None
        """Of windows whose fit is local, else None."""
        one = mode == "windows"
        self.cut = BoxRouter([1] * len(cells)) if one else self.router
        """Boxes of points that share their unknowns."""
        # The first frame belongs to the first boxes in time, as windows in time begin with it.
        phi = windows(counts, cells, overlap, reach if self.layout else 0)
        if self.layout and not local:
            self.layout = None
        if self.layout:
            self.cut = BoxRouter(self.layout.patches)
            colours = int(self.layout.colour.max()) + 1
            none = phi.new_zeros(colours, *phi.shape[1:])
            phi = none.index_add(0, self.layout.colour, phi)
        self.register_buffer("phi", torch.cat([phi[:, :1], phi], 1), persistent=False)

    def forward(self, u0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """First frames (B, *cells) → fields (B, F + 1, *cells) in `dtype`.

        Args:
            u0: first frames.
            generator: of the sampled points; default torch's own.

        Raises:
            InputError: shapes that do not fit; see also `HardConstraint`.
            ConvergenceError: a fit that does not converge, if `throw`.
        """
        problem = self.problem
        problem.check(u0)
        place = next((t.device for t in [*self.parameters(), *self.buffers()]), u0.device)
        if u0.device != place:
            expected = f"first frames on {place}, as the network"
            raise InputError(message("HardOperator", expected, u0, "Move one of them"))
        b, u0 = self.basis(u0), u0.to(self.dtype)
        g = problem.base(u0)
        if self.mode == "soft":
            return g + b[:, 0]
        found, rebuild = flatten(problem.params())
        b_in, g_in, u0_in, *unknown = entering(b, g, u0, *found.values())
        rows = self._rows(b_in, g_in, u0_in, generator)
        rows.params = rebuild(unknown)
        w = share_out(self.constraint, rows)
        if self.layout:
            w = self.layout.gather(w).flatten(0, 1)
        # w (B·boxes, N): the first frame takes the weights of the first boxes in time
        counts = self.cut.counts
        early = w.unflatten(0, (len(u0), counts[0], -1))[:, 0].flatten(0, 1)
        first = BoxRouter((1, *counts[1:]))
        parts = ((first, b[:, :, :1], early), (self.cut, b[:, :, 1:], w))
        u = [r.unpartition(torch.einsum("sn...,sn->s...", r.partition(f), v)) for r, f, v in parts]
        return problem.project(g + torch.cat(u, 1), g)

    def basis(self, u0: Tensor) -> Tensor:
        """Basis functions (B, N, F + 1, *cells) in `dtype`; N of each colour, or of each window."""
        like = next(self.network.parameters(), u0)
        shape = (self.problem.frames + 1, *self.problem.cells)
        b = self.network(u0.to(like.dtype)[:, None, None].expand(-1, 1, shape[0], *shape[1:]))
        if b.ndim != len(shape) + 2 or b.shape[2:] != shape:
            expected = f"a network with output (B, N, {', '.join(map(str, shape))})"
            raise InputError(message("HardOperator", expected, b, "Keep the grid of its input"))
        b = b.to(self.dtype)
        if self.mode == "windows":
            b = (b[:, None] * self.phi.to(b)[:, None]).flatten(1, 2)
        return self.problem.shape(b)

    def loss(self, u0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The problem's loss of what the operator gives, mean over samples."""
        return self.problem.loss(self(u0, generator), u0.to(self.dtype)).mean()

    def _rows(
        self, b: Tensor, g: Tensor, u0: Tensor, generator: torch.Generator | None = None
    ) -> Rows:
        """Rows of all boxes of all samples; every linear operator acts before the cut."""
        problem, K, N = self.problem, self.cut.boxes, b.shape[1]
        all_T, all_a = problem.terms(b), problem.terms(g, known=True)
        T, a = self.cut.partition(all_T).flatten(3).mT, self.cut.partition(all_a).flatten(2)
        count = self.points
        if count is not None and self.layout:
            count = max(1, count // K)
        keep = None
        if len(self.walls) and not self.several:
            keep = torch.zeros(problem.frames * math.prod(problem.cells), dtype=torch.bool)
            keep[self.walls.cpu()] = True
            keep = self.cut.partition(keep.reshape(1, problem.frames, *problem.cells)).flatten(1)
            keep = keep.repeat(len(u0), 1)
        self.chosen = sample_points(len(T), a.shape[2], count, generator, keep).to(T.device)
        if self.chosen.shape[1] < a.shape[2]:
            at = self.chosen[:, None].expand(-1, T.shape[1], -1)
            a, T = a.gather(2, at), T.gather(2, at[..., None].expand(-1, -1, -1, N))
        if self.layout:
            none = T.new_zeros(len(u0), 0)
            T, a = (v.unflatten(0, (len(u0), K)) for v in (T, a))
            return LocalRows(T, a, none, none, layout=self.layout, ridge=self.ridge)
        if len(self.walls) and self.several:
            ends = all_T.flatten(3)[..., self.walls].mT, all_a.flatten(2)[..., self.walls]
            T, a = (
                torch.cat([v, w.repeat_interleave(K, 0)], 2)
                for v, w in zip((T, a), ends, strict=True)
            )
        target, weight = problem.targets(u0)
        C = (problem.linear(b) * weight[:, None]).mT
        d = (target - problem.linear(g)) * weight
        eye = self.ridge * torch.eye(N, dtype=b.dtype, device=b.device).expand(len(C), N, N)
        C, d = torch.cat([C, eye], 1), torch.cat([d, d.new_zeros(len(d), N)], 1)
        return Rows(T, a, C.repeat_interleave(K, 0), d.repeat_interleave(K, 0))
