"""Errors, spreads and coverage of a trained model."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import DGNO

__all__ = ["coverage", "pixel_accuracy", "predict", "relative_error", "residual_rms"]


def relative_error(found: Tensor, truth: Tensor) -> Tensor:
    """‖found − truth‖₂/‖truth‖₂ of each sample, (S, ...) twice → (S,); axes after the first may differ.

    Source: DGenNO's metric, without its 1e-8.
    """
    size = torch.linalg.vector_norm(truth.flatten(1), dim=1)
    return torch.linalg.vector_norm(found.flatten(1) - truth.flatten(1), dim=1) / size


def pixel_accuracy(found: Tensor, truth: Tensor, middle: float) -> Tensor:
    """Share of cells on the right side of `middle`, (S, ...) → (S,). Source: GenPANIS."""
    return ((found > middle) == (truth > middle)).flatten(1).double().mean(1)


def coverage(samples: Tensor, truth: Tensor, level: float = 0.9) -> Tensor:
    """Share of truths inside the central interval of the samples, which should be `level`.

    Args:
        samples: (draws, ...).
        truth: (...).
        level: of the interval between the quantiles (1 ± level)/2.
    """
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=samples.dtype)
    low, high = torch.quantile(samples, ends.to(samples.device), dim=0)
    return ((truth >= low) & (truth <= high)).double().mean()


@torch.no_grad()
def predict(
    model: DGNO,
    a: Tensor,
    x: Tensor | None = None,
    draws: int = 100,
    delta: Tensor | float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples of the solutions of inputs, (draws, B, C, n): codes from q(β|a), and the decoder's error.

    Without `bayes` codes are points and all spread is `delta`'s. For inputs known at sensors alone
    sample a `Posterior` with an `Observation` of "input".

    Args:
        model: trained.
        a: inputs (B, 1, *cells).
        x: points (n, D); default those of the problem.
        draws: number of samples.
        delta: standard deviation of the decoder's error, a number or (C, n): root mean square of
            model(a) − u over a few references that training did not see.
        generator: source.
    """
    x = model.problem.points(a) if x is None else x
    frozen = model.at(x, 0)

    def one() -> Tensor:
        beta = model.draw(a, generator)

        def decode(points: Tensor, order: int, names: tuple[str, ...]) -> dict[str, Tensor]:
            same = points is x and order == 0
            return frozen(beta) if same else model.at(points, order, names)(beta)

        u = model.problem.solution(decode, x)
        return u + delta * torch.randn(u.shape, generator=generator).to(u)

    return torch.stack([one() for _ in range(draws)])


@torch.no_grad()
def residual_rms(
    model: DGNO, a: Tensor, decoded: bool = True, generator: torch.Generator | None = None
) -> float:
    """Root mean square of the residuals of inputs' codes: σ_r of a `Posterior`.

    Args:
        model: trained.
        a: inputs (S, 1, *cells).
        decoded: with the input decoded from the code, as an inversion sees it; else with `a`.
        generator: of the particles.
    """
    found = model.residuals(model.encode(a), None if decoded else a, generator)
    return float(torch.cat(list(found.values()), 1).square().mean().sqrt())
