"""Deep conjugate directions: networks that propose search directions for Poisson problems.

`DCDMNet` is the published network; `LinearMultigrid` and `SymmetricMultigrid` see the geometry and have
as many levels as the grid needs. `DCDM(net)` is a `method` of `sim.grid.poisson.solve_poisson` and of
the gas; `train_direction` trains a network on vectors made on the fly, `load_net` reads one.

Source: Kaneda et al. 2023, "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems".
"""

from __future__ import annotations

from .data import (
    DOMAINS,
    Geometry,
    Replay,
    SpectralSampler,
    make_geometry,
    random_domain,
    random_masks,
)
from .linear import LinearMultigrid
from .losses import alignment_loss, energy_loss, one_step_loss, unrolled_loss
from .networks import DCDMNet, DirectionNet
from .solve import DCDM, DCDMFactor
from .symmetric import SymmetricMultigrid
from .train import DCDMTraining, train_direction
from .weights import load_net, net_names, save_net

__all__ = [
    "DCDM",
    "DOMAINS",
    "DCDMFactor",
    "DCDMNet",
    "DCDMTraining",
    "DirectionNet",
    "Geometry",
    "LinearMultigrid",
    "Replay",
    "SpectralSampler",
    "SymmetricMultigrid",
    "alignment_loss",
    "energy_loss",
    "load_net",
    "make_geometry",
    "net_names",
    "one_step_loss",
    "random_domain",
    "random_masks",
    "save_net",
    "train_direction",
    "unrolled_loss",
]
