"""Contact of surfaces with each other and with themselves, as one term of the implicit solver.

    E = κ Σ_rows A_row m b(s) + Σ_rows μ λ f₀(|u|)

with the rows of `rows`, the barrier b of `barrier`, friction f₀ of `friction` at the lagged positions.

Source: Li et al. 2020 (Incremental Potential Contact).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, StateError, message
from ..terms import StepInput, Term
from .barrier import barrier
from .candidates import Candidates, find_candidates, relative
from .ccd import KEEP, SLACK
from .distances import Nearest, cross_mollifier, nearest
from .distances import squared_distance_gradient as gradient_of
from .distances import squared_distance_hessian as hessian_of
from .friction import Lag, friction_energy, friction_gradient, friction_hessian
from .intersections import check_start
from .kernels import safe_times
from .memo import Memo
from .psd import project_blocks, project_pairs
from .rows import Rows, active_rows, closest_squared
from .settings import friction_table, positive
from .surface import Surface

__all__ = ["SurfaceContact", "SurfaceTerm"]


class SurfaceContact:
    """Barrier and friction between all features of a surface, self-contact included.

    Args:
        surface: what collides.
        d_hat: distance at which the barrier begins [m]; well below the edge lengths, 1e-3 of the
            scene is usual.
        stiffness: κ [Pa]: surfaces pressed together with the pressure p rest where κ g(d/d̂) = p; two to
            ten times below the largest pressure keeps them at d̂/4…3 d̂/4.
        friction: Coulomb coefficient μ [-] of all pairs of groups, or one per pair {(a, b): μ}; pairs
            that are not named have none.
        eps_v: sliding speed above which friction is full [m/s]; resting bodies creep slower.
        name: key of the parameters `stiffness` and `friction` (or `friction_<a>_<b>`).

    Raises:
        InputError: a value out of range or a group that does not exist.
    """

    def __init__(
        self,
        surface: Surface,
        d_hat: float,
        stiffness: float,
        friction: float | Mapping[tuple[str, str], float] = 0.0,
        eps_v: float = 1e-3,
        name: str = "contact",
    ) -> None:
        self.surface, self.name = surface, name
        self.d_hat = positive("SurfaceContact", "d_hat", d_hat, "m")
        self.eps_v = positive("SurfaceContact", "eps_v", eps_v, "m/s")
        self.pair_friction, coefficients = friction_table(
            "SurfaceContact", friction, surface.groups
        )
        """Which friction parameter each pair of groups has, −1 for none, (G, G)."""
        self.friction_names = list(coefficients)
        """Names of the friction parameters."""
        self._defaults = {"stiffness": positive("SurfaceContact", "stiffness", stiffness, "Pa")}
        self._defaults |= coefficients

    def default_params(self) -> Mapping[str, Any]:
        """Stiffness [Pa] and friction coefficients [-] by name."""
        return dict(self._defaults)

    def check(self, x: Tensor) -> None:
        """Raise InputError, naming a pair, if features cut or touch each other in x (B, N, 3)."""
        check_start(self.surface, x)

    def term(self, params: Mapping[str, Tensor], step: StepInput) -> SurfaceTerm:
        """The term of one solve; see `terms.Contact`.

        Raises:
            InputError: wrong shape, float32, or surfaces that cut each other at the start.
        """
        return SurfaceTerm(self, params, step)

    def min_distance(self, x: Tensor) -> Tensor:
        """Smallest distance between features that may collide [m], (B,); inf where above d̂.

        Args:
            x: positions [m], (B, N, 3). No derivative.
        """
        flat = x.detach().reshape(-1, 3)
        found = find_candidates(self.surface, flat, flat, self.d_hat, 0.0)
        stencil, squared = closest_squared(found, flat)
        out = flat.new_full((len(x),), torch.inf)
        out = out.scatter_reduce(0, stencil[:, 0] // x.shape[1], squared, "amin").sqrt()
        return torch.where(out < self.d_hat, out, torch.inf)


@dataclass(frozen=True)
class _Known:
    """What a term made anew need not look for again."""

    lagged: tuple[Rows, Tensor] | None
    x: Tensor
    rows: Rows


@dataclass(frozen=True)
class _Shape:
    """Pairs at one configuration, as far as no derivative asks for more."""

    rows: Rows
    X: Tensor
    near: Nearest
    barrier: tuple[Tensor, Tensor, Tensor]
    fade: tuple[Tensor, Tensor] | None
    """Mollifier of the last rows and its gradient; None without such rows."""


class SurfaceTerm(Term):
    """`SurfaceContact` with parameters and the inputs of a step bound."""

    changing = True

    def __init__(
        self, contact: SurfaceContact, params: Mapping[str, Tensor], step: StepInput
    ) -> None:
        self.contact, self.surface = contact, contact.surface
        self.points = contact.surface.point_count
        x_start = step.x_start
        if x_start.dtype != torch.float64:
            fix = "Gaps are a tiny part of the coordinates: float32 cannot hold them"
            raise InputError(message(contact.name, "positions in float64", x_start, fix))
        if x_start.ndim != 3 or x_start.shape[1:] != (self.points, 3):
            fix = "The surface must know all points of a scene"
            raise InputError(message(contact.name, f"(B, {self.points}, 3)", x_start, fix))
        self.scenes = len(x_start)
        self.stiffness = params["stiffness"].expand(self.scenes)
        self.eps = contact.eps_v * step.dt
        self.found: Candidates | None = None
        self._memo = Memo()
        self.lagged: tuple[Rows, Tensor] | None = None
        """Pairs with friction at the lagged positions, and their coefficients."""
        known: _Known | None = step.known
        if known is None:
            check_start(contact.surface, x_start.detach(), touch=False)
        else:
            self.lagged = known.lagged
            self._memo.at(known.x, "rows", lambda: known.rows)
        self.lag = self._lag(params, x_start.reshape(-1, 3), step.x_lag.reshape(-1, 3))

    def known(self, x: Tensor) -> _Known:
        return _Known(self.lagged, x.detach(), self._rows(x))

    def _lag(self, params: Mapping[str, Tensor], x_start: Tensor, x_lag: Tensor) -> Lag:
        """Friction rows of the lagged positions; none where no coefficient can matter."""
        names = self.contact.friction_names
        if not any(params[n].requires_grad or bool((params[n] != 0).any()) for n in names):
            stencil = torch.zeros(0, 4, dtype=torch.int64, device=x_start.device)
            none = x_start.new_zeros(0, 4)
            return Lag(stencil, none, none[:, :3], none[:, 0], none[:, :3])
        if self.lagged is None:
            self.lagged = self._rubbing(x_lag)
        rows, which = self.lagged
        scene = rows.stencil[:, 0] // self.points
        X = x_lag[rows.stencil]
        near = nearest(X, rows.kind)
        self._check_distances(near.squared, rows.stencil)
        d = near.squared.sqrt()
        slope = barrier(near.squared, self.contact.d_hat)[1]
        force = -2 * d * slope * rows.weight * self.stiffness[scene]
        if rows.plain < len(X):
            fade = cross_mollifier(X[rows.plain :], rows.fade, order=1)[0]
            force = force * torch.cat((torch.ones_like(d[: rows.plain]), fade))
        coefficient = [params[name].expand(self.scenes) for name in names]
        force = force * torch.stack(coefficient)[which, scene]
        start = (near.weights[..., None] * x_start[rows.stencil]).sum(1)
        return Lag(rows.stencil, near.weights, near.r / d[:, None], force, start)

    def _rubbing(self, x_lag: Tensor) -> tuple[Rows, Tensor]:
        """Active pairs with friction, and which coefficient is theirs."""
        # The skin lets the first directions of the solve use these candidates, too.
        self.update(x_lag.detach(), x_lag.detach())
        rows = self._rows(x_lag)
        group = self.surface.tensor("group", x_lag.device)[rows.stencil[:, [0, 3]] % self.points]
        table = torch.as_tensor(self.contact.pair_friction, device=x_lag.device)
        which = table[group[:, 0], group[:, 1]]
        # Overlap corrections have negative weights: they would make friction give energy.
        used = (which >= 0) & (rows.weight > 0)
        rows = Rows(
            rows.stencil[used],
            rows.kind[used],
            rows.weight[used],
            rows.fade[used[rows.plain :]],
        )
        return rows, which[used]

    def _check_distances(self, squared: Tensor, stencil: Tensor) -> None:
        bad = ~(squared.detach() > 0)
        if bool(bad.any()):
            row = stencil[int(bad.nonzero()[0, 0])]
            scene, points = int(row[0]) // self.points, (row % self.points).tolist()
            fix = "Move them apart; `check` finds surfaces that cut each other"
            got = f"points {points} of scene {scene} touching"
            raise StateError(message(self.contact.name, "features apart", got, fix))

    @torch.no_grad()
    def update(self, x_start: Tensor, x_end: Tensor) -> None:
        """Candidates of the way from x_start to x_end; nothing where the last ones still serve."""
        share = self._share(x_start, x_end - x_start)
        x_end = x_start + share * (x_end - x_start)
        if self.found is not None and all(
            self.found.cover(relative(x, self.points)) for x in (x_start, x_end)
        ):
            return
        self.found = find_candidates(self.surface, x_start, x_end, self.contact.d_hat)

    def _share(self, x: Tensor, dx: Tensor) -> float:
        """How much of a step is looked at: longer motion would make everything a candidate."""
        length = self.surface.edge_length
        cap = max(8 * self.contact.d_hat, 2 * float(np.median(length)) if len(length) else 0.0)
        motion = float(relative(dx, self.points).abs().max())
        return min(1.0, cap / motion) if motion > 0 else 1.0

    def _rows(self, x: Tensor) -> Rows:
        """Active pairs."""
        return self._memo.at(x, "rows", lambda: self._find(x.detach()))

    def _find(self, x: Tensor) -> Rows:
        self.update(x, x)
        assert self.found is not None
        return active_rows(self.surface, self.found, x, self.contact.d_hat)

    def _shape(self, x: Tensor) -> _Shape:
        """Rows and their barrier; the same ones serve energy, gradient and Hessian at one x."""

        def measured() -> _Shape:
            rows = self._rows(x)
            X = x[rows.stencil]
            near = nearest(X, rows.kind)
            fade = (
                cross_mollifier(X[rows.plain :], rows.fade, order=1)[:2] if len(rows.fade) else None
            )
            return _Shape(rows, X, near, barrier(near.squared, self.contact.d_hat), fade)

        return measured() if x.requires_grad else self._memo.at(x, "shape", measured)

    def _scale(self, rows: Rows) -> Tensor:
        return self.stiffness[rows.stencil[:, 0] // self.points] * rows.weight

    def energy(self, x: Tensor) -> Tensor:
        shape = self._shape(x)
        rows = shape.rows
        values = self._scale(rows) * shape.barrier[0]
        if shape.fade is not None:
            z = rows.plain
            values = torch.cat((values[:z], values[z:] * shape.fade[0]))
        out = x.new_zeros(self.scenes)
        out = out.index_add(0, rows.stencil[:, 0] // self.points, values)
        if not len(self.lag.stencil):
            return out
        slip = friction_energy(self.lag, x, self.eps)
        return out.index_add(0, self.lag.stencil[:, 0] // self.points, slip)

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = self._shape(x)
        rows, (value, first, _) = shape.rows, shape.barrier
        scale = self._scale(rows)
        local = (scale * first)[:, None, None] * gradient_of(shape.near)
        if shape.fade is not None:
            z = slice(rows.plain, None)
            fade, slope = shape.fade
            faded = fade[:, None, None] * local[z] + (scale * value)[z, None, None] * slope
            local = torch.cat((local[: rows.plain], faded))
        if not len(self.lag.stencil):
            return rows.stencil, local
        stencil = torch.cat((rows.stencil, self.lag.stencil))
        return stencil, torch.cat((local, friction_gradient(self.lag, x, self.eps)))

    @torch.no_grad()
    def hessian(self, x: Tensor, project: bool = True) -> tuple[Tensor, Tensor]:
        shape = self._shape(x)
        rows, near, (value, first, second) = shape.rows, shape.near, shape.barrier
        scale, z = self._scale(rows), slice(rows.plain, None)
        first, second = scale * first, scale * second
        if project:
            blocks = project_pairs(near, first, second)
        else:
            g = gradient_of(near).flatten(1)
            blocks = second[:, None, None] * g[:, :, None] * g[:, None, :]
            blocks = blocks + first[:, None, None] * hessian_of(near)
        if shape.fade is not None:
            # The barrier's own part is wanted unprojected here.
            g, part = gradient_of(near).flatten(1)[z], hessian_of(near.rows(z))
            part = (
                second[z, None, None] * g[:, :, None] * g[:, None, :] + first[z, None, None] * part
            )
            m, slope, curve = cross_mollifier(shape.X[z], rows.fade)
            mixed = g[:, :, None] * slope.flatten(1)[:, None, :]
            faded = m[:, None, None] * part + (scale * value)[z, None, None] * curve
            faded = faded + first[z, None, None] * (mixed + mixed.mT)
            faded = project_blocks(faded) if project else faded
            blocks = torch.cat((blocks[: rows.plain], faded))
        if not len(self.lag.stencil):
            return rows.stencil, blocks
        stencil = torch.cat((rows.stencil, self.lag.stencil))
        return stencil, torch.cat((blocks, friction_hessian(self.lag, x, self.eps)))

    @torch.no_grad()
    def max_step(self, x: Tensor, dx: Tensor) -> Tensor:
        share = self._share(x, dx)
        self.update(x, x + dx)
        assert self.found is not None
        y, p = relative(x, self.points), share * relative(dx, self.points)
        lone = torch.cat((self.found.lone, self.found.lone[:, -1:]), dim=1)
        stencil = torch.cat((self.found.faces, lone, self.found.edges))
        edge = torch.zeros(len(stencil), dtype=torch.bool, device=x.device)
        edge[len(stencil) - len(self.found.edges) :] = True
        # Pairs whose boxes of the whole motion stay apart do.
        reach = KEEP * self.contact.d_hat
        time = safe_times(y, p, stencil, edge, KEEP, SLACK, reach)[0]
        out = x.new_ones(self.scenes)
        return share * out.scatter_reduce(0, stencil[:, 0] // self.points, time, "amin")
