"""Samples of a posterior by Hamiltonian dynamics, all chains in one batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["Samples", "StepSize", "check_root", "hamiltonian", "normals", "split_rhat", "uniforms"]

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Samples:
    """What the chains found."""

    z: Tensor
    """(draws, chains, d)."""
    acceptance: float
    """Mean probability of acceptance after the warm-up."""
    step: float
    """Step that the warm-up found."""
    spread: Tensor
    """Split R̂ of every coordinate, (d,): near 1 where chains agree."""

    def flat(self) -> Tensor:
        """(draws · chains, d)."""
        return self.z.flatten(0, 1)


class StepSize:
    """Step that follows the acceptance by dual averaging. Source: Hoffman & Gelman 2014, § 3.2.

    Args:
        step: first step.
        target: acceptance to aim at.
    """

    def __init__(self, step: float, target: float) -> None:
        self.target, self.centre, self.level = target, math.log(10 * step), math.log(step)
        self.error, self.mean, self.count = 0.0, 0.0, 0

    @property
    def value(self) -> float:
        """The step to take now."""
        return math.exp(self.level)

    def follow(self, rate: float) -> None:
        """Learn from an acceptance."""
        self.count += 1
        m = self.count
        self.error += ((self.target - rate) - self.error) / (m + 10)
        self.level = self.centre - math.sqrt(m) / 0.05 * self.error
        self.mean += m**-0.75 * (self.level - self.mean)

    def settle(self) -> None:
        """Take the mean of what was tried."""
        if self.count:
            self.level = self.mean


def hamiltonian(
    slope: Slope,
    start: Tensor,
    draws: int = 200,
    warmup: int = 100,
    *,
    root: Tensor | None = None,
    length: float = 1.5,
    step: float = 0.2,
    target: float = 0.8,
    most: int = 32,
    generator: torch.Generator | None = None,
) -> Samples:
    """Hamiltonian Monte Carlo with paths of random length.

    Positions z = root · q; in q the momentum has unit mass, so a root of the posterior's covariance makes
    all directions alike. Paths last between 0 and 2 · `length`, in at most `most` steps; the step follows
    the acceptance during the warm-up by dual averaging and is fixed afterwards.

    Args:
        slope: energy −log p and its gradient, (C, d) → (C,), (C, d).
        start: one point per chain, (C, d).
        draws: kept per chain.
        warmup: not kept.
        root: (d, d); default the identity.
        length: mean path in units of q.
        step: first step.
        target: acceptance to aim at.
        most: steps per path.
        generator: source.

    Raises:
        InputError: numbers out of range, or an energy that is not finite at the start.

    Source: Neal 2011; Hoffman & Gelman 2014 (dual averaging); Gelman et al. 2013 (split R̂).
    """
    where = "hamiltonian"
    shaped = start.ndim == 2 and len(start) > 0
    if not shaped or draws < 4 or warmup < 0 or not 0 < target < 1 or step <= 0:
        expected = "start (C >= 1, d), draws >= 4, warmup >= 0, step > 0, target in (0, 1)"
        got = f"{tuple(start.shape)}, {draws}, {warmup}, {step}, {target}"
        raise InputError(message(where, expected, got, "Correct them"))
    check_root(where, root, start)
    z = start.detach().clone()
    R = torch.eye(z.shape[1], dtype=z.dtype, device=z.device) if root is None else root
    energy, g = slope(z)
    if not bool(torch.isfinite(energy).all()):
        raise InputError(message(where, "finite energies at the start", "not", "Start elsewhere"))
    size, kept, accepted = StepSize(step, target), [], []
    for k in range(draws + warmup):
        if k == warmup:
            size.settle()
        h = size.value
        path = float(uniforms((), z, generator)) * 2 * length
        count = max(1, min(most, math.ceil(path / h)))
        p = normals(z.shape, z, generator)
        q, force = z, g @ R
        now = energy + 0.5 * p.square().sum(1)
        momentum = p - 0.5 * h * force
        for i in range(count):
            q = q + h * momentum @ R.mT
            new, gq = slope(q)
            momentum = momentum - (h if i + 1 < count else 0.5 * h) * (gq @ R)
        change = now - new - 0.5 * momentum.square().sum(1)
        chance = torch.where(torch.isfinite(change), change.clamp(max=0).exp(), 0.0)
        take = uniforms((len(z),), z, generator) < chance
        z, g = torch.where(take[:, None], q, z), torch.where(take[:, None], gq, g)
        energy = torch.where(take, new, energy)
        rate = float(chance.mean())
        if k < warmup:
            size.follow(rate)
        else:
            kept.append(z)
            accepted.append(rate)
    found = torch.stack(kept)
    return Samples(found, sum(accepted) / len(accepted), size.value, split_rhat(found))


def check_root(where: str, root: Tensor | None, start: Tensor) -> None:
    """Raise `InputError` for a root that does not fit the chains."""
    if root is not None and root.shape != (start.shape[1],) * 2:
        expected, fix = f"a root {(start.shape[1],) * 2}", "Take Posterior.laplace(z)"
        raise InputError(message(where, expected, root, fix))


def normals(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) drawn on the generator's device, without one on the CPU, and brought to that of `like`."""
    place = "cpu" if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=place).to(like)


def uniforms(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws from U(0, 1), as `normals`."""
    place = "cpu" if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=place).to(like)


def split_rhat(z: Tensor) -> Tensor:
    """R̂ of halves of chains, (draws, chains, d) → (d,). Source: Gelman et al. 2013."""
    n = len(z) // 2
    halves = torch.cat([z[:n], z[n : 2 * n]], 1).double()
    within = halves.var(0).mean(0)
    between = halves.mean(0).var(0)
    return ((within * (n - 1) / n + between) / within.clamp_min(1e-300)).sqrt()
