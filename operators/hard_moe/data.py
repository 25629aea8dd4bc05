"""Diffusion–sorption and plane flows: first frames to learn from, solutions to compare with."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import (
    DiffusionSorption,
    GaussianField,
    Grid,
    NavierStokes2D,
    sorption_sides,
)
from ..layers.norms import relative_l2
from .model import HardOperator

__all__ = [
    "FlowData",
    "SorptionData",
    "evaluate",
    "first_frames",
    "flow_data",
    "flow_frames",
    "sorption_data",
]

KINDS = ("scalar", "rich")


@dataclasses.dataclass(frozen=True)
class SorptionData:
    """First frames and what the solver makes of them."""

    pde: DiffusionSorption
    """The equation with the time between frames as its step."""
    u0: Tensor
    """First frames (S, X) float64."""
    u: Tensor
    """Frames 0 … F, (S, F + 1, X), by steps much shorter than frames."""

    @functools.cached_property
    def long_steps(self) -> Tensor:
        """Frames by implicit steps as long as frames: the solution of `StepProblem`."""
        return _long_steps(self)

    def floor(self) -> float:
        """Relative L² error of `long_steps`: what `StepProblem` can reach."""
        return float(relative_l2(self.long_steps[:, None], self.u[:, None]).mean())


@dataclasses.dataclass(frozen=True)
class FlowData:
    """First frames of vorticity and what the solver makes of them."""

    pde: NavierStokes2D
    """The equation with the time between frames as its step, which is an implicit one."""
    u0: Tensor
    """First frames (S, X, Z) float64 [1/s]."""
    u: Tensor
    """Frames 0 … F, (S, F + 1, X, Z), by steps much shorter than frames."""

    @functools.cached_property
    def long_steps(self) -> Tensor:
        """Frames by implicit steps as long as frames: about the solution of `FlowProblem`."""
        return _long_steps(self)

    def floor(self) -> float:
        """Relative L² error of `long_steps`: about what `FlowProblem` can reach."""
        return float(relative_l2(self.long_steps[:, None], self.u[:, None]).mean())


@torch.no_grad()
def _long_steps(data: SorptionData | FlowData) -> Tensor:
    state, frames = data.pde.initial_state(data.u0[:, None]), [data.u0]
    for _ in range(data.u.shape[1] - 1):
        state = data.pde.step(state)
        frames.append(state.u[:, 0])
    return torch.stack(frames, 1)


def first_frames(
    count: int, cells: int = 64, kind: str = "scalar", generator: torch.Generator | None = None
) -> Tensor:
    """First frames (S, X) float64 alone: all that training reads.

    Args:
        count: S.
        cells: X.
        kind: "scalar": constant in x, uniform in (0, 0.2), as the paper has it; "rich": smooth random
            functions in (0, 0.2).
        generator: source.

    Raises:
        InputError: unknown kind.
    """
    if kind not in KINDS:
        raise InputError(message("first_frames", f"kind out of {KINDS}", kind, "Choose one"))
    if kind == "scalar":
        u0 = 0.2 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
        return u0.expand(-1, cells).contiguous()
    field = GaussianField(Grid(cells), alpha=3.0, tau=4.0, basis="neumann", modes=8)
    scale = field.variance().mean().sqrt()
    samples = field.sample(count, generator, dtype=torch.float64)[:, 0] / scale
    shift = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    return 0.2 * torch.sigmoid(samples + shift)


def sorption_data(
    count: int,
    cells: int = 64,
    frames: int = 25,
    *,
    duration: float = 500.0,
    kind: str = "scalar",
    substeps: int = 8,
    generator: torch.Generator | None = None,
) -> SorptionData:
    """Solutions of PDEBench's diffusion–sorption problem with its walls as in `sorption_sides`.

    Args:
        count: S.
        cells: X.
        frames: F.
        duration: time of the last frame [s].
        kind: of the first frames, "scalar" or "rich".
        substeps: steps of the reference per frame.
        generator: of the first frames.

    Raises:
        InputError: unknown kind.
    """
    u0 = first_frames(count, cells, kind, generator)
    grid = Grid(cells, sides=sorption_sides())
    dt = duration / frames
    fine = DiffusionSorption(grid, dt / substeps)
    state, kept = fine.initial_state(u0[:, None]), [u0]
    with torch.no_grad():
        for _ in range(frames):
            for _ in range(substeps):
                state = fine.step(state)
            kept.append(state.u[:, 0])
    return SorptionData(DiffusionSorption(grid, dt), u0, torch.stack(kept, 1))


def flow_frames(
    count: int, cells: int = 24, generator: torch.Generator | None = None, rms: float = 1.4
) -> Tensor:
    """First frames of vorticity (S, X, X) float64 in a periodic box of 1 m: smooth Gaussian fields.

    Args:
        count: S.
        cells: X.
        generator: source.
        rms: root mean square of all samples together [1/s].
    """
    field = GaussianField(Grid((cells, cells)), alpha=4.0, tau=5.0, modes=min(6, (cells - 1) // 2))
    u = field.sample(count, generator, dtype=torch.float64)[:, 0]
    return u * (rms / field.variance().mean().sqrt())


@torch.no_grad()
def flow_data(
    count: int,
    cells: int = 24,
    frames: int = 24,
    *,
    duration: float = 1.5,
    viscosity: float = 2e-3,
    substeps: int = 4,
    generator: torch.Generator | None = None,
) -> FlowData:
    """Plane flows without forcing by steps of fourth order.

    Args:
        count: S.
        cells: X.
        frames: F.
        duration: time of the last frame [s].
        viscosity: ν [m²/s].
        substeps: steps of the reference per frame.
        generator: of the first frames.

    Raises:
        StabilityError: too few substeps.
    """
    u0, grid, dt = flow_frames(count, cells, generator), Grid((cells, cells)), duration / frames
    fine = NavierStokes2D(grid, dt / substeps, viscosity)
    state, kept = fine.initial_state(u0[:, None]), [u0]
    for _ in range(frames):
        for _ in range(substeps):
            state = fine.step(state)
        kept.append(state.u[:, 0])
    pde = NavierStokes2D(grid, dt, viscosity, scheme="crank_nicolson")
    return FlowData(pde, u0, torch.stack(kept, 1))


@torch.no_grad()
def evaluate(
    model: HardOperator, data: SorptionData | FlowData, generator: torch.Generator | None = None
) -> dict:
    """Errors of an operator on unseen samples.

    Returns:
        "relative_l2", "worst", "std" over samples; "from long steps": relative L² distance from the
        solution of the rows; "residual" and, where points are sampled, "residual
        sampled" and "residual unsampled", root mean squares; "jump", largest |difference| of u less
        that of the reference across borders of boxes in space; "iterations", mean of the fits.
    """
    u = model(data.u0, generator)
    error = relative_l2(u[:, None], data.u[:, None])[:, 0]
    defect = model.problem.defect(u)
    out = {
        "relative_l2": float(error.mean()),
        "std": float(error.std(correction=0)),
        "worst": float(error.max()),
        "from long steps": float(relative_l2(u[:, None], data.long_steps[:, None]).mean()),
        "residual": float(defect.square().mean().sqrt()),
    }
    wrong, jumps = u - data.u, []
    for axis, count in enumerate(model.router.counts[1:], 2):
        cells = u.shape[axis] // count
        step = wrong.diff(dim=axis)
        jumps += [float(step.select(axis, k * cells - 1).abs().max()) for k in range(1, count)]
    if jumps:
        out["jump"] = max(jumps)
    if model.mode == "soft":
        return out
    assert model.constraint.last is not None and model.chosen is not None
    out["iterations"] = float(model.constraint.last.iterations.double().mean())
    out["converged"] = float(model.constraint.last.converged.double().mean())
    squares = model.cut.partition(defect).flatten(1).square()
    taken = torch.zeros_like(squares, dtype=torch.bool).scatter(1, model.chosen, True)
    if not bool(taken.all()):
        out["residual sampled"] = float(squares[taken].mean().sqrt())
        out["residual unsampled"] = float(squares[~taken].mean().sqrt())
    return out
