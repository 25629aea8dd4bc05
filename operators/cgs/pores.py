"""Pore networks: pressures of creeping flow through a random porous block, from their exact solution.

    Σ_j k_ij (p_j − p_i) = 0 inside,   k = π r⁴/(8 μ ℓ),   p = 1 at the inlet, 0 at the outlet

Source: Park, Choo & Park 2022, section 5.1 (Delaunay networks, log-normal diameters, 1 bar).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import Delaunay

from ...sim.core.errors import InputError, message
from .graphs import Graphs

__all__ = ["pore_network"]


def pore_network(
    generator: torch.Generator,
    pores: tuple[int, int] = (50, 200),
    *,
    size: float = 1e-3,
    viscosity: float = 1e-5,
    sigma: float = 0.1,
    band: float = 0.15,
) -> Graphs:
    """A random network with its pressures.

    Args:
        generator: source of the network.
        pores: smallest and largest number of pores.
        size: edge of the block [m].
        viscosity: μ [Pa s].
        sigma: standard deviation of the logarithm of diameters about 1e-5 m [-].
        band: share of the block at each end, along the first axis, whose pores have given pressures [-].

    Returns:
        Nodes (N, 5): position / size, flag of a given pressure, that pressure or 0; edges (E, 3) in both
        directions: diameter / 1e-5 m, length / size, conductance over its mean; y (N, 1): pressure over
        that of the inlet; float32.

    Raises:
        InputError: fewer than 10 pores.
    """
    if not 10 <= pores[0] <= pores[1]:
        raise InputError(message("pore_network", "10 <= pores[0] <= pores[1]", str(pores)))
    n = int(torch.randint(pores[0], pores[1] + 1, (), generator=generator))
    x = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    # Both ends hold a pore, or the problem would not be posed.
    x[0, 0], x[1, 0] = 0.0, 1.0
    diameter = 1e-5 * torch.exp(sigma * torch.randn(n, generator=generator, dtype=torch.float64))
    cells = Delaunay(x.numpy()).simplices
    pairs = np.concatenate([cells[:, [a, b]] for a in range(4) for b in range(a)])
    i, j = torch.as_tensor(np.unique(np.sort(pairs, axis=1), axis=0)).long().unbind(1)
    length = size * (x[i] - x[j]).norm(dim=1)
    throat = 0.5 * (diameter[i] + diameter[j])
    k = math.pi * (throat / 2) ** 4 / (8 * viscosity * length)
    fixed = (x[:, 0] <= band) | (x[:, 0] >= 1 - band)
    given = torch.where(x[:, 0] <= band, 1.0, 0.0).double()
    L = torch.zeros(n, n, dtype=torch.float64)
    L[i, j] = L[j, i] = -k
    L -= torch.diag(L.sum(1))
    free = ~fixed
    p = given.clone()
    p[free] = torch.linalg.solve(L[free][:, free], -L[free][:, fixed] @ given[fixed])
    edge = torch.stack([throat / 1e-5, length / size, k / k.mean()], dim=1)
    return Graphs(
        nodes=torch.cat([x, fixed[:, None].double(), (given * fixed)[:, None]], dim=1).float(),
        edges=torch.cat([edge, edge]).float(),
        source=torch.cat([i, j]),
        target=torch.cat([j, i]),
        y=p[:, None].float(),
        graph=torch.zeros(n, dtype=torch.long),
    )
