"""The posterior of a two-phase permeability itself, without any network: what an inversion can reach.

The prior is the one inputs are drawn from, a threshold of a Gaussian field; the likelihood is that of the
sensors with the finite-volume solution on the cells of a. Chains of preconditioned Crank–Nicolson
proposals (Cotter, Roberts, Stuart & White 2013), whose step is fitted in the warm-up.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from dgno_cases import PHASES, Data, generator, sensed
from rheograd.operators.dgno import darcy_solutions, pixel_accuracy, relative_error
from rheograd.sim.grid.pdes import GaussianField, Grid, two_phases
from scipy.linalg import solveh_banded

FORCING = 10.0


class ExactPosterior:
    """Chains for one field.

    Args:
        at: numbers of the cells with sensors (n,).
        value: what they say (n,).
        noise: their standard deviation.
        cells: per axis.
        length: correlation length of the Gaussian field, as of `darcy_inputs`.
    """

    def __init__(
        self,
        at: torch.Tensor,
        value: torch.Tensor,
        noise: float,
        cells: int = 32,
        length: float = 0.15,
    ) -> None:
        self.at, self.value, self.noise, self.n = at.numpy(), value.double().numpy(), noise, cells
        grid = Grid((cells, cells), sides="dirichlet")
        self.field = GaussianField(grid, 8.0, 4.0 / length, basis="neumann")

    def solution(self, a: np.ndarray) -> np.ndarray:
        """u at cell centres, (n, n) → (n²,): harmonic means between cells, u = 0 at the walls.

        As `darcy_solutions(fine=1)`, one field at a time by a banded factor: a quarter of its time.
        """
        n = self.n
        kx = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
        ky = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
        middle = np.zeros((n, n))
        middle[1:] += kx
        middle[:-1] += kx
        middle[:, 1:] += ky
        middle[:, :-1] += ky
        for edge, wall in ((middle[0], a[0]), (middle[-1], a[-1]),
                           (middle[:, 0], a[:, 0]), (middle[:, -1], a[:, -1])):  # fmt: skip
            edge += 2 * wall
        band = np.zeros((n + 1, n * n))
        band[0] = middle.ravel()
        band[1].reshape(n, n)[:, :-1] = -ky
        band[n].reshape(n, n)[:-1] = -kx
        source = np.full(n * n, FORCING / n**2)
        return solveh_banded(band, source, lower=True, check_finite=False)

    def energy(self, g: torch.Tensor) -> tuple[float, np.ndarray, np.ndarray]:
        """−log of the likelihood, a and u of a Gaussian field."""
        a = two_phases(g, *PHASES)[0, 0].numpy()
        u = self.solution(a)
        return 0.5 * float(((u[self.at] - self.value) ** 2).sum()) / self.noise**2, a, u

    def run(
        self, chains: int, steps: int, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Means of a and u of each chain, (chains, n²), over two thirds; what was accepted, R̂."""

        def draw() -> torch.Tensor:
            return self.field.sample(1, generator, dtype=torch.float64)

        means_a, means_u, spreads, accepted = [], [], [], 0
        warm = steps // 3
        for _ in range(chains):
            g, beta = draw(), 0.2
            now, a, u = self.energy(g)
            sums = [np.zeros(self.n**2) for _ in range(3)]
            for step in range(steps):
                other = (1 - beta**2) ** 0.5 * g + beta * draw()
                then, other_a, other_u = self.energy(other)
                chance = float(torch.rand((), generator=generator))
                taken = np.log(max(chance, 1e-300)) < now - then
                if taken:
                    g, now, a, u = other, then, other_a, other_u
                if step < warm:  # towards an acceptance of 0.25
                    beta = min(0.9, max(1e-3, beta * np.exp(0.05 * (float(taken) - 0.25))))
                    continue
                accepted += taken
                for total, part in zip(sums, (a.ravel(), u, u * u), strict=True):
                    total += part
            count = steps - warm
            means_a.append(sums[0] / count)
            means_u.append(sums[1] / count)
            spreads.append(sums[2] / count - means_u[-1] ** 2)
        within = np.mean(spreads, 0)
        between = np.var(means_u, 0, ddof=1)
        told = {
            "acceptance": accepted / (chains * (steps - warm)),
            "R hat, mean": float(np.sqrt(1 + between / within).mean()),
        }
        return np.stack(means_a), np.stack(means_u), told


def calibration_error(chance: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean |frequency − stated chance| over ten bins, weighted by their numbers."""
    which = (chance * 10).long().clamp(0, 9)
    total = 0.0
    for k in range(10):
        inside = which == k
        if bool(inside.any()):
            gap = (truth[inside].double().mean() - chance[inside].double().mean()).abs()
            total += float(gap) * float(inside.double().mean())
    return total


def exact(known: Data, count: int, decibels: float, fields: int, steps: int) -> dict:
    """A6 without networks: means of the posterior itself for the first unseen fields."""
    sums: dict[str, list[float]] = {}
    start = time.process_time()
    for k in range(fields):
        at, value, noise = sensed(known, k, count, decibels)
        chains = ExactPosterior(at, value, noise)
        field = known.unseen[k]
        found = torch.as_tensor(chains.solution(field[0].double().numpy())).float()
        assert relative_error(found[None], darcy_solutions(field[None], fine=1)) < 1e-5
        a, u, told = chains.run(4, steps, generator(k))
        mean_a, mean_u = (torch.as_tensor(v.mean(0)).float() for v in (a, u))
        truth = known.unseen[k].flatten()
        middle = math.sqrt(PHASES[0] * PHASES[1])
        told |= {
            "error u": relative_error(mean_u[None], known.u[k][None])[0],
            "error a": relative_error(mean_a[None], truth[None])[0],
            "misfit over noise": (mean_u[at] - value).square().mean().sqrt() / noise,
            "pixels": pixel_accuracy(mean_a[None], truth[None], middle)[0],
        }
        # one chain against the mean of the others: what is left of chance
        single = torch.as_tensor(a).float()
        others = (single.sum(0) - single) / (len(single) - 1)
        told["pixels of a chain as of the others"] = float(
            ((single > middle) == (others > middle)).float().mean()
        )
        chance = (mean_a - PHASES[0]) / (PHASES[1] - PHASES[0])
        told["calibration error"] = calibration_error(chance, truth > middle)
        for key, v in told.items():
            sums.setdefault(key, []).append(float(v))
    row = {"fields": fields, "steps": steps} | {k: sum(v) / len(v) for k, v in sums.items()}
    return row | {"process seconds per field": (time.process_time() - start) / fields}
