"""Training loss of the particle steppers, for one step or several, with noise on the window."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..data.particles import ParticleBatch
from .base import ParticleStepper
from .rollout import _moving, _shift, _target

__all__ = ["StepperLoss", "random_walk_noise"]


def random_walk_noise(
    positions: Tensor, sigma: float, generator: torch.Generator | None = None
) -> Tensor:
    """Noise of a window whose velocity noise is a random walk:

        ξ_k ~ N(0, σ²/(W − 1));  δv_k = Σ_{l ≤ k} ξ_l;  δx_k = Σ_{l ≤ k} δv_l;  δx_0 = 0.

    Args:
        positions: (M, W, D) window; only its shape, dtype and device count.
        sigma: standard deviation of the last velocity's noise [m/frame].
        generator: source; default torch's global one.

    Returns:
        (M, W, D) [m].

    Source: Sanchez-Gonzalez et al. 2020 (GNS), §B.2 and released code.
    """
    M, W, D = positions.shape
    device = positions.device if generator is None else generator.device
    draw = torch.randn(M, W - 1, D, generator=generator, dtype=positions.dtype, device=device)
    walk = (sigma * (W - 1) ** -0.5) * draw.to(positions.device)
    return torch.cat([torch.zeros_like(positions[:, :1]), walk.cumsum(1).cumsum(1)], 1)


@dataclasses.dataclass(frozen=True)
class StepperLoss:
    """Mean square of the normalized acceleration error over K steps from a noisy window:

        L = 1/K Σ_k mean ((a_k − a*_k)/σ_a)²,   a*_k = v_{k+1} − ṽ_k

    ṽ_k is the velocity that the model has at step k, noise and its own errors included, and v_{k+1}
    the true next one: the target brings the velocity back and keeps the offset of the position. The
    state of step k + 1 is the prediction of step k. With K = 1 this is the loss of GNS; a second term
    on positions that starts from the clean window, as in GIOROM's release, would contradict it.
    Particles of kind "boundary" get no noise and do not count.

    Source: Sanchez-Gonzalez et al. 2020 (GNS), §4.4; Brandstetter et al. 2022, §3.1 (push-forward).
    """

    noise: float = 0.0
    """Standard deviation of the last velocity's noise σ [m/frame]; see `random_walk_noise`."""
    steps: int = 1
    """K; the batch needs as many target frames."""
    through_time: bool = False
    """False: no gradient from step k + 1 into step k (push-forward). True: through all steps."""

    def __post_init__(self) -> None:
        if self.noise < 0 or self.steps < 1:
            raise InputError(
                f"StepperLoss: noise ≥ 0 and steps ≥ 1; got {self.noise:g} and {self.steps}. "
                "Use noise=0 for clean windows."
            )

    def __call__(
        self,
        model: ParticleStepper,
        batch: ParticleBatch,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Scalar L; differentiable in the weights of the model and in `batch.positions`.

        Raises:
            InputError: too few target frames, or a batch that does not fit the model.
        """
        target = _target(batch, self.steps)
        window, moving = batch.positions, _moving(batch)
        truth = torch.cat([window[:, -1:], target[:, : self.steps]], 1).diff(dim=1)
        if self.noise:
            noise = random_walk_noise(window, self.noise, generator)
            window = window + torch.where(moving[:, None], noise, 0)
        loss = window.new_zeros(())
        for k in range(self.steps):
            now = window[:, -1]
            velocity = now - window[:, -2]
            velocity = velocity + model.acceleration(batch.replace(positions=window, target=None))
            error = ((velocity - truth[:, k]) / model.acceleration_std)[moving[:, 0]]
            loss = loss + error.square().mean()
            x = torch.where(moving, now + velocity, now)
            window = _shift(window, x if self.through_time else x.detach())
        return loss / self.steps
