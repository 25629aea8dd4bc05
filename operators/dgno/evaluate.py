"""Errors, spreads and coverage of a trained model."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import DGNO

__all__ = ["coverage", "pixel_accuracy", "relative_error", "residual_rms"]


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
