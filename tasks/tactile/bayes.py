"""Bayesian optimization as a baseline for few numbers: a Gaussian process and expected improvement.

    f ~ GP(m, s² k),    k(u, u') = (1 + √5 r + 5/3 r²) exp(−√5 r),    r² = Σ ((u_i − u'_i)/l_i)²
    next = argmax E max(f_best − f, 0)                                   over candidates

Fitted to the logarithm of the objective, which spans decades; hyperparameters by marginal likelihood. A
baseline, as compact as it can be fairly: no gradients of the objective, one candidate at a time.

Source: Jones et al. 1998 (EGO); Rasmussen & Williams 2006, Eq. 2.25, 4.17 and 5.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import qmc
from torch import Tensor

__all__ = ["bayesian_search"]


def bayesian_search(
    losses: Callable[[Tensor], list[float]],
    dimension: int,
    budget: int,
    *,
    seed: int = 0,
    initial: int = 10,
    refit: int = 5,
) -> None:
    """Minimize over [−1, 1]ⁿ.

    Args:
        losses: of points (S, n); positive, infinite where they cannot be evaluated.
        dimension: n.
        budget: evaluations in all, the middle of the range first.
        seed: of the design and of candidates.
        initial: evaluations of a Sobol design before the process is asked.
        refit: evaluations between fits of the hyperparameters.
    """
    random = np.random.default_rng(seed)
    design = (
        2 * qmc.Sobol(dimension, seed=random).random_base2(max(initial - 1, 1).bit_length()) - 1
    )
    points = torch.cat((torch.zeros(1, dimension).double(), torch.from_numpy(design)))
    points = points[: min(initial, budget)]
    found = losses(points)
    theta = torch.zeros(dimension + 2, dtype=torch.float64)
    while len(points) < budget:
        y = _targets(found)
        if (len(points) - initial) % refit == 0:
            theta = _fit(points, y, theta)
        new = _propose(points, y, theta, random)
        found += losses(new[None])
        points = torch.cat((points, new[None]))


def _targets(found: list[float]) -> Tensor:
    """Logarithms of losses, of mean 0 and variance 1; broken ones as the worst."""
    y = torch.tensor(found, dtype=torch.float64)
    worst = y[torch.isfinite(y)].max() if bool(torch.isfinite(y).any()) else y.new_ones(())
    y = torch.where(torch.isfinite(y), y, worst).clamp_min(1e-300).log()
    return (y - y.mean()) / y.std().clamp_min(1e-12)


def _kernel(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    gap = (a.unsqueeze(1) - b) / theta[2:].exp()
    r = (5 * gap.square().sum(-1) + 1e-18).sqrt()
    return theta[0].exp() * (1 + r + r * r / 3) * torch.exp(-r)


def _factor(points: Tensor, theta: Tensor) -> Tensor:
    noise = 1e-6 + (theta[1] - 8).exp()
    covariance = _kernel(points, points, theta) + noise * torch.eye(len(points)).double()
    return torch.linalg.cholesky(covariance)


def _fit(points: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Hyperparameters (log s², log noise + 8, log l) of the largest posterior, weakly pulled to 0."""

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(theta).requires_grad_()
        factor = _factor(points, leaf)
        white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
        value = 0.5 * white.square().sum() + factor.diagonal().log().sum()
        value = value + 0.05 * leaf.square().sum()
        value.backward()
        assert leaf.grad is not None
        return float(value.detach()), leaf.grad.numpy()

    starts = [start.numpy(), np.zeros(len(start))]
    box = [(-4.0, 4.0)] * len(start)
    runs = [minimize(objective, x, jac=True, method="L-BFGS-B", bounds=box) for x in starts]
    return torch.from_numpy(min(runs, key=lambda run: run.fun).x)


def _propose(points: Tensor, y: Tensor, theta: Tensor, random: np.random.Generator) -> Tensor:
    """The point of largest expected improvement among uniform and local candidates."""
    factor, least = _factor(points, theta), float(y.min())
    alpha = torch.cholesky_solve(y[:, None], factor)
    best = points[int(y.argmin())]

    def improvement(u: Tensor) -> Tensor:
        k = _kernel(u, points, theta)
        mean = (k @ alpha)[:, 0]
        rest = torch.linalg.solve_triangular(factor, k.mT, upper=False).square().sum(0)
        sigma = (theta[0].exp() - rest).clamp_min(1e-12).sqrt()
        z = (least - mean) / sigma
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return sigma * (z * torch.special.ndtr(z) + density)

    wide = torch.from_numpy(random.uniform(-1, 1, (2000, points.shape[1])))
    scores = improvement(wide)
    for width in (0.1, 0.03, 0.01, 0.003):
        seeds = torch.stack((best, wide[int(scores.argmax())])).repeat(200, 1)
        near = seeds + width * torch.from_numpy(random.standard_normal(seeds.shape))
        wide = torch.cat((wide, near.clamp(-1, 1)))
        scores = torch.cat((scores, improvement(wide[-400:])))
    return wide[int(scores.argmax())]
