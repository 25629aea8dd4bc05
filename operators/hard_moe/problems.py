"""Evolution equations as rows of a fit: frames 0 … F of a field on cells, here in one dimension.

A problem says which linear functionals its residual reads, what is known of the field beforehand, and
which linear rows go with it. Differentiable in fields. Sources at the classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import DiffusionSorption, FiniteVolume
from ...sim.grid.pdes.base import FieldState

__all__ = ["IntegralProblem", "PointProblem", "Problem", "StepProblem"]


class Problem:
    """A PDE as `HardOperator` sees it; subclasses give `terms`, `residual`, `base` and `loss`.

    Args:
        frames: F, frames after the first.
        cells: grid of a frame.
    """

    numbers = 3
    """Q, how many numbers the residual reads."""
    reach: int | None = None
    """How many cells and frames away a row looks, if it has no linear rows; None: everywhere."""
    memory = False
    """Whether a row reads all earlier frames of its cells, whatever `reach` says."""

    def __init__(self, frames: int, cells: tuple[int, ...]) -> None:
        self.frames, self.cells = frames, tuple(cells)

    def check(self, u0: Tensor) -> None:
        """Raise `InputError` unless u0 is (B, *cells) and finite."""
        where, cells = type(self).__name__, ", ".join(map(str, self.cells))
        expected = f"finite first frames (B >= 1, {cells})"
        if u0.ndim < 1 or not len(u0) or tuple(u0.shape[1:]) != self.cells:
            raise InputError(message(where, expected, u0, "Correct the shape"))
        try:
            finite = bool(torch.isfinite(u0).all())
        except RuntimeError as error:  # of vmap, whose values are not to be seen; meta tensors
            fix = "Give samples as a batch: they do not read one another"
            raise InputError(message(where, expected, "values that cannot be read", fix)) from error
        if not finite:
            raise InputError(message(where, expected, "values that are not", "Repair the input"))

    def base(self, u0: Tensor) -> Tensor:
        """The known part g of the field, (B, F + 1, *cells)."""
        raise NotImplementedError

    def shape(self, b: Tensor) -> Tensor:
        """Basis functions (B, N, F + 1, *cells) made to fit what is known."""
        return b

    def project(self, u: Tensor, g: Tensor) -> Tensor:
        """Fields put together from boxes, (B, F + 1, *cells), made to fit what is known."""
        return u

    def terms(self, f: Tensor, known: bool = False) -> Tensor:
        """Numbers that the residual reads, (B, *lead, F + 1, *cells) → (B, Q, *lead, F, *cells).

        With `known` what does not depend on u counts in, such as inhomogeneous walls and forces, as it
        does once in the sum g + b·w.
        """
        raise NotImplementedError

    def residual(self, z: Tensor, params: Any = ()) -> Tensor:
        """ρ: (S, Q, M) → (S, M)."""
        raise NotImplementedError

    def params(self) -> Any:
        """Tree of tensors for `residual`: unknown coefficients, which fits are differentiated in."""
        return ()

    def __call__(self, z: Tensor, params: Any = ()) -> Tensor:
        """`residual`."""
        return self.residual(z, params)

    def linear(self, f: Tensor) -> Tensor:
        """Linear rows of fields, (B, *lead, F + 1, *cells) → (B, *lead, L)."""
        return f.new_zeros(*f.shape[: -1 - len(self.cells)], 0)

    def targets(self, u0: Tensor) -> tuple[Tensor, Tensor]:
        """Right-hand sides (B, L) of the linear rows, and their weights."""
        return u0.new_zeros(len(u0), 0), u0.new_zeros(len(u0), 0)

    def walls(self) -> Tensor:
        """Points (m,) of frames 1 … F, flat, whose rows hold walls: every expert takes them."""
        return torch.zeros(0, dtype=torch.long)

    def defect(self, u: Tensor) -> Tensor:
        """Residual of fields (B, F + 1, *cells) at all points, (B, F, *cells)."""
        z = self.terms(u, known=True)
        r = self.residual(z.flatten(2), self.params())
        return r.reshape(len(u), self.frames, *self.cells)

    def loss(self, u: Tensor, u0: Tensor) -> Tensor:
        """What training lowers, (B,); no solution is needed."""
        raise NotImplementedError


class LineProblem(Problem):
    """What problems with one field in 1-D share.

    Args:
        pde: a 1-D PDE; its `dt` is the time between frames [s].
        frames: F, frames after the first.

    Raises:
        InputError: no frames, not one field in 1-D, or a right-hand side that is not affine in u.
    """

    def __init__(self, pde: FiniteVolume, frames: int) -> None:
        where = type(self).__name__
        if pde.grid.dim != 1 or len(pde.channels) != 1 or frames < 2:
            got = f"{type(pde).__name__} in {pde.grid.dim}-D, {frames} frames"
            fix = "Give a 1-D PDE and two frames or more"
            raise InputError(message(where, "one field in 1-D and frames >= 2", got, fix))
        super().__init__(frames, pde.grid.cells)
        self.pde = pde
        x = torch.linspace(0.1, 0.9, *self.cells, dtype=torch.float64)[None, None]
        values = self.values(x)
        a, b, zero = pde.rhs(x, values), pde.rhs(2 * x, values), pde.rhs(0 * x, values)
        if not torch.allclose(b - a, a - zero, rtol=1e-8, atol=1e-10):
            fix = "Put what is not linear into storage, or write a problem of your own"
            raise InputError(
                message(where, "a right-hand side affine in u", type(pde).__name__, fix)
            )

    def values(self, like: Tensor) -> dict[str, Tensor]:
        """Parameters of the PDE in the precision of `like`."""
        return self.pde.prepare(None, FieldState(like.new_zeros(1, 1, *self.cells))).values

    def rate(self, f: Tensor, known: bool) -> Tensor:
        """Right-hand side of the PDE for fields (..., X); its linear part where not `known`."""
        values = self.values(f)
        value = self.pde.rhs(f.reshape(-1, 1, *self.cells), values)
        if not known:
            value = value - self.pde.rhs(f.new_zeros(1, 1, *self.cells), values)
        return value.reshape(f.shape)


class StepProblem(LineProblem):
    """The implicit step of a finite-volume solver as residual, so that the solver's solution is exact:

        ρ = [m(u_j) − m(u_{j−1}) − Δt rhs(u_j)] / m'(scale)        [unit of u]

    u = u₀ + b·w with b = 0 in frame 0: the first frame holds exactly. Walls are in `rhs`, half a cell
    from the centres, so they need no rows. First order in time.

    Args:
        pde: with a right-hand side affine in u that reads next cells at most; nonlinear storage is fine.
        frames: F.
        scale: value of u at which rows are scaled.

    Raises:
        InputError: see `Problem`.

    Source: the scheme "implicit_euler" of `sim.grid.pdes`.
    """

    def __init__(self, pde: FiniteVolume, frames: int, scale: float = 0.5) -> None:
        super().__init__(pde, frames)
        self.scale = scale
        u = torch.full((1, 1, 1), scale, dtype=torch.float64)
        self.capacity = float(self._slope(u))
        if not pde.grid.periodic[0]:  # a periodic row at one end would meet windows of the other
            self.reach = 1

    def base(self, u0: Tensor) -> Tensor:
        return u0[:, None].expand(-1, self.frames + 1, -1)

    def shape(self, b: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(b[..., :1, :]), b[..., 1:, :]], -2)

    def terms(self, f: Tensor, known: bool = False) -> Tensor:
        new, old = f[..., 1:, :], f[..., :-1, :]
        return torch.stack([new, old, self.rate(new, known)], 1)

    def walls(self) -> Tensor:
        """Both ends in every frame."""
        ends = torch.tensor([] if self.pde.grid.periodic[0] else [0, self.cells[0] - 1])
        frames = self.cells[0] * torch.arange(self.frames)
        return (frames[:, None] + ends).flatten().long()

    def residual(self, z: Tensor, params: Any = ()) -> Tensor:
        values = self.values(z)
        new, old, rate = z.unbind(1)
        gained = self._storage(new, values) - self._storage(old, values)
        return (gained - self.pde.dt * rate) / self.capacity

    def frozen(self, z: Tensor, params: Any = ()) -> Tensor:
        """Coefficients c (S, Q, M) of ρ ≈ Σ c_q z_q, with storage as steep as between the frames."""
        slope = self._slope(0.5 * (z[:, 0] + z[:, 1]))
        return torch.stack([slope, -slope, torch.full_like(slope, -self.pde.dt)], 1) / self.capacity

    def loss(self, u: Tensor, u0: Tensor) -> Tensor:
        return self.defect(u).square().mean((1, 2)).sqrt()

    def _storage(self, u: Tensor, values: dict[str, Tensor]) -> Tensor:
        return self.pde.storage(u[None], values)[0]

    def _slope(self, u: Tensor) -> Tensor:
        """m'(u)."""
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            m = self._storage(at, self.values(u)).sum()
            return torch.autograd.grad(m, at)[0]


class IntegralProblem(StepProblem):
    """The rows of `StepProblem`, summed over time: what has flowed in until a frame is what is there.

        ρ = [m(u_j) − m(u_0) − Δt Σ_{i ≤ j} rhs(u_i)] / m'(scale)        [unit of u]

    The solution is the same, but a row is about as large as the error of u there, whereas the defect of
    one step is Δt / T of a slow error: fits and losses see little of what is wrong in the end.

    Args, Raises: those of `StepProblem`.

    Source: the integral form of spectral deferred corrections (Dutt, Greengard & Rokhlin 2000).
    """

    memory = True

    def terms(self, f: Tensor, known: bool = False) -> Tensor:
        new, first = f[..., 1:, :], f[..., :1, :].expand_as(f[..., 1:, :])
        return torch.stack([new, first, self.rate(new, known).cumsum(-2)], 1)

    def frozen(self, z: Tensor, params: Any = ()) -> Tensor:
        new, first, _ = z.unbind(1)
        values, far = self.values(z), (new - first).abs() > 1e-6
        gained = self._storage(new, values) - self._storage(first, values)
        slope = torch.where(far, gained / torch.where(far, new - first, 1.0), self._slope(new))
        return torch.stack([slope, -slope, torch.full_like(slope, -self.pde.dt)], 1) / self.capacity


class PointProblem(LineProblem):
    """Diffusion–sorption as the paper states it, at points:

        ρ = u_t − D u_xx / R(u)  [1/s],   rows (u(0, x) − u₀) / mean u₀,  u(t, 0) − 1,  u + D u_x at 1

    Central differences in time, one-sided in the last frame, second ones in space inside and one-sided
    at the ends. Walls and the first frame are rows of the fit, shared by all boxes, and terms of the
    loss. Walls are where the solver has them, half a cell from the first centre.

    Args:
        pde: `DiffusionSorption` with `sorption_sides()`.
        frames: F.

    Raises:
        InputError: another PDE.

    Source: Chalapathi et al. 2024, §4.1.
    """

    def __init__(self, pde: DiffusionSorption, frames: int) -> None:
        if not isinstance(pde, DiffusionSorption):
            fix = "Use StepProblem"
            raise InputError(message("PointProblem", "DiffusionSorption", type(pde).__name__, fix))
        super().__init__(pde, frames)
        self.retardation = pde.retardation

    def base(self, u0: Tensor) -> Tensor:
        """Nothing is known."""
        return u0.new_zeros(len(u0), self.frames + 1, *self.cells)

    def terms(self, f: Tensor, known: bool = False) -> Tensor:
        dt, dx = self.pde.dt, self.pde.grid.dx[0]
        middle = (f[..., 2:, :] - f[..., :-2, :]) / (2 * dt)
        u_t = torch.cat([middle, (f[..., -1:, :] - f[..., -2:-1, :]) / dt], -2)
        u = f[..., 1:, :]
        inner = (u[..., 2:] - 2 * u[..., 1:-1] + u[..., :-2]) / dx**2
        return torch.stack([u, u_t, torch.cat([inner[..., :1], inner, inner[..., -1:]], -1)], 1)

    def residual(self, z: Tensor, params: Any = ()) -> Tensor:
        values = self.values(z)
        u, u_t, u_xx = z.unbind(1)
        return u_t - values["diffusivity"][0] / self.retardation(u[None], values)[0] * u_xx

    def linear(self, f: Tensor) -> Tensor:
        """First frame, then x = 0, then x = 1."""
        D, dx = float(self.pde.default_params()["diffusivity"]), self.pde.grid.dx[0]
        u = f[..., 1:, :]
        left = 1.5 * u[..., 0] - 0.5 * u[..., 1]
        right = 1.5 * u[..., -1] - 0.5 * u[..., -2] + D * (u[..., -1] - u[..., -2]) / dx
        return torch.cat([f[..., 0, :], left, right], -1)

    def targets(self, u0: Tensor) -> tuple[Tensor, Tensor]:
        """Right-hand sides (B, L) of the linear rows, and their weights."""
        one = u0.new_ones(len(u0), self.frames)
        weight = 1 / u0.mean(1, keepdim=True).clamp_min(1e-3)
        return torch.cat([u0, one, 0 * one], 1), torch.cat([weight.expand_as(u0), one, one], 1)

    def loss(self, u: Tensor, u0: Tensor) -> Tensor:
        target, weight = self.targets(u0)
        e = (self.linear(u) - target) * weight
        first, left, right = e.split([*self.cells, self.frames, self.frames], 1)
        start = first.norm(dim=1) / self.cells[0] ** 0.5
        return start + left.norm(dim=1) + right.norm(dim=1) + self.defect(u).flatten(1).norm(dim=1)
