"""Small MPM scenes that several tests share."""

from __future__ import annotations

import torch
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.laws import Law, Liquid, NeoHookean
from rheograd.sim.core.shapes import Sphere
from rheograd.sim.mpm import Emitter, Grid, Group, MPMModel, MPMState
from torch import Tensor

F64 = torch.float64


def lattice(lower: float, upper: float, n: int, dim: int, seed: int = 0, jitter: float = 0.1) -> Tensor:
    """Jittered points of a cube, (n^dim, dim)."""
    generator = torch.Generator().manual_seed(seed)
    h = (upper - lower) / n
    axis = lower + h * (torch.arange(n, dtype=F64) + 0.5)
    x = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    return x + jitter * h * (2 * torch.rand(x.shape, generator=generator, dtype=F64) - 1)


def block(law: Law, dim: int = 3, n: int = 4, **model: object) -> MPMModel:
    """A cube of one material that touches nothing."""
    x = lattice(0.4, 0.6, n, dim)
    group = Group("body", law, x, (0.2 / n) ** dim, velocity=(0.3,) * (dim - 1) + (-0.5,))
    return MPMModel(Grid((0.0,) * dim, (1.0,) * dim, 0.1), [group], **model)


def mixed(dim: int = 3, n: int = 3) -> MPMModel:
    """Solid, liquid and emitted liquid, one soft and one hard moving tool, mixed walls."""
    solid = Group("solid", NeoHookean(E=2e4, nu=0.3), lattice(0.45, 0.7, n, dim), (0.25 / n) ** dim)
    water = Liquid(bulk=2e4, eta=2.0)
    pool = Group("pool", water, lattice(0.15, 0.4, n, dim, seed=1), (0.25 / n) ** dim)
    nozzle = Emitter(
        position=(0.5,) * (dim - 1) + (0.8,),
        velocity=(0.2,) * (dim - 1) + (-1.0,),
        radius=0.05,
        rate=2000.0,
        start=0.0012,
    )
    drops = Group("drops", water, torch.zeros(6, dim, dtype=F64), (0.2 / n) ** dim, emitter=nozzle)
    # Off the nodes: the normal of a sphere jumps at its center.
    middle = 0.5 if dim == 3 else 0.0
    tools = [
        Collider(Sphere(0.1), (0.63, 0.9 * middle, 0.41), friction=0.3, softness=20.0, name="soft"),
        Collider(Sphere(0.1), (0.26, 0.9 * middle, 0.24), friction=0.1, name="hard"),
    ]
    walls = {"x-": "sticky", "x+": "slip", "z-": "separate"}
    grid = Grid((0.0,) * dim, (1.0,) * dim, 0.1)
    return MPMModel(grid, [solid, pool, drops], colliders=tools, walls=walls)


def shaken(model: MPMModel, batch_size: int = 1, dtype: torch.dtype = F64, seed: int = 0) -> MPMState:
    """Initial state away from rest, so that no derivative vanishes by symmetry."""
    generator = torch.Generator().manual_seed(seed)
    state = model.initial_state(batch_size, dtype=F64)

    def noise(tensor: Tensor, scale: float) -> Tensor:
        return tensor + scale * torch.randn(tensor.shape, generator=generator, dtype=F64)

    state = state.replace(
        x=noise(state.x, 0.004),
        v=noise(state.v, 0.3),
        C=noise(state.C, 1.0),
        F=noise(state.F, 0.03),
        J=noise(state.J, 0.01),
        alpha=noise(state.alpha, 0.01).abs(),
    )
    return state.to(dtype)
