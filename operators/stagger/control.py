"""Optimal control through trained solvers: forcings from a state, shedding frequencies from a probe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ..train.annealing import annealed
from .solver import StaggerSolver

__all__ = ["FittedForcing", "fit_forcing", "fourier_waves", "shedding_frequency"]


@dataclasses.dataclass(frozen=True)
class FittedForcing:
    """What `fit_forcing` found."""

    amplitudes: Tensor
    """c (M,), of the lowest loss."""
    losses: list[float]
    """Relative square error of u(T) at each update."""


def fourier_waves(points: Tensor, wavenumbers: Sequence[Sequence[int]]) -> Tensor:
    """sin 2π k·x and cos 2π k·x on a unit box, (2 K, 1, *cells), alternating.

    Args:
        points: cell centres (*cells, D), as `Grid.points`.
        wavenumbers: K vectors k of D integers.
    """
    angles = [2 * math.pi * (points * torch.tensor(k).to(points)).sum(-1) for k in wavenumbers]
    return torch.stack([w for a in angles for w in (torch.sin(a), torch.cos(a))])[:, None]


def fit_forcing(
    solver: StaggerSolver,
    start: Tensor,
    target: Tensor,
    waves: Tensor,
    steps: int,
    *,
    updates: int = 50,
    lr: float = 0.02,
    guess: Tensor | None = None,
    level: int | None = None,
) -> FittedForcing:
    """Amplitudes c of a forcing Σ_m c_m wave_m that lead from a start to a target:

        min_c  mean_B ‖û(T; c) − target‖² / ‖target‖²,     Adam with gradients through the rollout

    Args:
        solver: trained, with the forcing as its context.
        start: (B, C, *cells).
        target: u(T), (B, C, *cells); with a level on its grid.
        waves: (M, K, *cells).
        steps: fine steps to T.
        updates: of Adam.
        lr: its first learning rate, falling to zero by a cosine [unit of c].
        guess: first amplitudes (M,); default zeros.
        level: stride of the sub-solvers that run; None: all.

    Raises:
        InputError: shapes that do not fit.

    Source: Huang et al. 2023 (NeuralStagger), optimal control.
    """
    if waves.ndim != start.ndim or waves.shape[1] != solver.context:
        expected = f"waves (M, {solver.context}, *cells)"
        fix = "Build the solver with the forcing as context"
        raise InputError(message("fit_forcing", expected, waves, fix))
    c = torch.zeros(len(waves)).to(start) if guess is None else guess.detach().clone()
    c.requires_grad_()
    optimizer = torch.optim.Adam([c], lr=lr)
    best, kept, losses = math.inf, c.detach().clone(), []
    frozen = [p for p in solver.parameters() if p.requires_grad]
    for p in frozen:  # gradients of weights would cost as much as those of amplitudes
        p.requires_grad_(False)
    try:
        for _ in annealed(optimizer, updates):
            forcing = torch.tensordot(c, waves, 1)[None]
            last = solver.rollout(start, steps, forcing, level)[:, -1]
            if last.shape != target.shape:
                expected = f"a target {tuple(last.shape)}"
                raise InputError(message("fit_forcing", expected, target, "Sample it on the level"))
            off = (last - target).flatten(1).square().sum(1)
            loss = (off / target.flatten(1).square().sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            losses.append(float(loss.detach()))
            if losses[-1] < best:
                best, kept = losses[-1], c.detach().clone()
            optimizer.step()
    finally:
        for p in frozen:
            p.requires_grad_(True)
    return FittedForcing(kept, losses)


def shedding_frequency(probe: Tensor, bins: int = 15) -> Tensor:
    """Mean frequency of a signal (..., T) in periods per T: Σ f P_f / Σ P_f over the first bins.

    P is the power; the mean is taken away and a Gaussian window applied. Differentiable in probe.
    Source: Wandel et al. 2021, released code, control of the shedding frequency.
    """
    T = probe.shape[-1]
    t = (torch.arange(T).to(probe) - 0.5 * (T - 1)) / T
    signal = (probe - probe.mean(-1, keepdim=True)) * torch.exp(-0.5 * (t / 0.2) ** 2)
    hat = torch.fft.rfft(signal)[..., 1 : bins + 1]
    power = hat.real.square() + hat.imag.square()
    f = torch.arange(1, power.shape[-1] + 1).to(probe)
    return (power * f).sum(-1) / power.sum(-1)
