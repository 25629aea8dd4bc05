"""One small instance of every time-dependent PDE, for the tests of what they share."""

from __future__ import annotations

import torch
from rheograd.sim.grid.pdes import (
    Burgers,
    BurgersFV,
    DiffusionSorption,
    FitzHughNagumo,
    GaussianField,
    Grid,
    Heat,
    NavierStokes2D,
    NavierStokes3D,
    dirichlet,
    neumann,
    robin,
    sorption_sides,
)

F64 = torch.float64
WALLS = {"x-": dirichlet(0.3), "x+": neumann(-0.2)}
ROOM = WALLS | {"z-": robin(1.0, 0.5, 0.1), "z+": dirichlet()}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def field(grid: Grid, channels: int = 1, n: int = 2, size: float = 1.0, seed: int = 0):
    """Smooth fields (n, channels, *cells) of root mean square `size`, periodic or of zero slope."""
    basis = "periodic" if all(grid.periodic) else "neumann"
    u = GaussianField(grid, 4.0, 6.0, basis=basis).sample(n, generator(seed), channels, F64)
    return u * (size / u.square().mean().sqrt())


def cases() -> dict:
    """name: (PDE, u0 (2, C, *cells), parameters to differentiate in)."""
    line, wall = Grid(12), Grid(11, sides=WALLS)
    square, box = Grid((10, 8), (1.0, 0.8)), Grid((6, 8, 6))
    room = Grid((5, 6), (1.0, 1.5), ROOM)
    closed = Grid((7, 6), (2.0, 2.0), "neumann")
    column = Grid(14, sides=sorption_sides())
    nu = {"viscosity": torch.tensor([0.01, 0.02], dtype=F64)}
    push = lambda g, c=1: {"forcing": field(g, c, seed=5)}  # noqa: E731
    flow, still = field(square, size=2.0), field(box, 3)
    found = {}
    for scheme in ("etdrk4", "crank_nicolson"):
        for kind in ("spectral", "arakawa"):
            pde = NavierStokes2D(square, 0.02, discretization=kind, scheme=scheme)
            params = nu | push(square) | {"drag": torch.tensor(0.1, dtype=F64)}
            found[f"vorticity-{kind}-{scheme}"] = (pde, flow, params)
        velocity = NavierStokes3D(box, 0.02, scheme=scheme)
        found[f"velocity-{scheme}"] = (velocity, velocity.project(still), nu | push(box, 3))
        found[f"burgers-{scheme}"] = (
            Burgers(line, 0.02, scheme=scheme),
            field(line),
            nu | push(line),
        )
        rates = {
            f"diffusivity_{n}": torch.tensor(d, dtype=F64) for n, d in (("u", 0.02), ("v", 0.05))
        }
        rates |= {"threshold": torch.tensor([0.1, 0.0], dtype=F64)} | push(closed, 2)
        found[f"fitzhugh-{scheme}"] = (
            FitzHughNagumo(closed, 0.05, scheme=scheme), field(closed, 2), rates
        )  # fmt: skip
    for scheme in ("implicit_euler", "crank_nicolson", "rk4"):
        dt = 1e-3 if scheme == "rk4" else 0.02
        gamma = {"x-": torch.tensor([0.3, 0.5], dtype=F64), "x+": torch.tensor(-0.1, dtype=F64)}
        found[f"burgers-walls-{scheme}"] = (
            BurgersFV(wall, dt, scheme=scheme), field(wall), nu | push(wall) | gamma
        )  # fmt: skip
        k = {"diffusivity": 0.3 + field(room, seed=7).square(), "z-": torch.tensor(0.2, dtype=F64)}
        found[f"heat-{scheme}"] = (
            Heat(room, dt, scheme=scheme),
            field(room),
            k | push(room) | gamma,
        )
    found["burgers-godunov"] = (
        BurgersFV(wall, 0.02, flux="godunov"),
        1.5 + field(wall, size=0.3),
        nu,
    )
    for scheme in ("implicit_euler", "crank_nicolson"):
        names = {"diffusivity": 5e-4, "porosity": 0.29, "freundlich": 3.5e-4, "exponent": 0.874}
        soil = {k: torch.tensor(v, dtype=F64) for k, v in names.items()}
        found[f"sorption-{scheme}"] = (
            DiffusionSorption(column, 2.0, scheme=scheme), 0.2 + 0.02 * field(column), soil
        )  # fmt: skip
    return found


CASES = cases()
